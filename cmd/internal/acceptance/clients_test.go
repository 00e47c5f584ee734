package acceptance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
)

// goSource is a tree of more than 10,000 real files.
func goSource(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(strings.TrimSpace(string(out)), "src")
	if st, err := os.Stat(filepath.Join(src, "net", "http")); err != nil || !st.IsDir() {
		t.Skip("the Go distribution's source is not here")
	}
	return src
}

// tree gives the hash of every regular file below root, by its path.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err == nil {
			sums[rel], err = fileSum(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func sameTree(t *testing.T, want, got map[string]string) {
	t.Helper()
	bad := 0
	for path, sum := range want {
		if got[path] != sum {
			if bad++; bad < 5 {
				t.Errorf("%s: want hash %.12s, got %.12s", path, sum, got[path])
			}
		}
	}
	if len(want) != len(got) || bad > 0 {
		t.Fatalf("%d files went in, %d came back, %d differ", len(want), len(got), bad)
	}
}

// randomFile writes n bytes that do not compress.
func randomFile(t *testing.T, path string, n int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rng := rand.NewChaCha8([32]byte{42})
	if _, err := io.CopyN(f, rng, n); err != nil {
		t.Fatal(err)
	}
}

func TestAWSCLISyncsTenThousandFiles(t *testing.T) {
	everyStore(t, func(t *testing.T, s *site) {
		need(t, "aws")
		src := goSource(t)
		want := tree(t, src)
		if len(want) < 10000 {
			t.Skipf("only %d files in %s", len(want), src)
		}
		s.run("aws", "s3", "mb", "s3://tree")
		s.run("aws", "s3", "sync", "--quiet", "--no-follow-symlinks", src, "s3://tree/src")
		back := filepath.Join(s.root, "back")
		s.run("aws", "s3", "sync", "--quiet", "s3://tree/src", back)
		sameTree(t, want, tree(t, back))
		var listed int
		for o := range s.client().ListObjects(context.Background(), "tree", minio.ListObjectsOptions{Recursive: true}) {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
			listed++
		}
		if listed != len(want) {
			t.Fatalf("listed %d keys of %d", listed, len(want))
		}
		if out := s.run("aws", "s3", "sync", "--dryrun", "--size-only", src, "s3://tree/src"); strings.Contains(out, "upload:") {
			t.Fatalf("a second sync would upload again: %s", tail(out))
		}
	})
}

func TestAWSCLITwoGiBByMultipart(t *testing.T) {
	everyStore(t, func(t *testing.T, s *site) {
		need(t, "aws")
		file := filepath.Join(s.root, "big")
		randomFile(t, file, 2<<30)
		want, err := fileSum(file)
		if err != nil {
			t.Fatal(err)
		}
		s.run("aws", "s3", "mb", "s3://big")
		s.run("aws", "s3", "cp", "--quiet", file, "s3://big/file")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		s.run("aws", "s3", "cp", "--quiet", "s3://big/file", file)
		if got, err := fileSum(file); err != nil || got != want {
			t.Fatalf("hash %s, want %s, %v", got, want, err)
		}
		head := s.run("aws", "s3api", "head-object", "--bucket", "big", "--key", "file")
		if !strings.Contains(head, `-256\"`) { // 2 GiB in the CLI's parts of 8 MiB
			t.Fatalf("not a multipart ETag of 256 parts: %s", head)
		}
		url := strings.TrimSpace(s.run("aws", "s3", "presign", "s3://big/file"))
		s.run("curl", "-sSf", "-r", "0-1023", "-o", filepath.Join(s.root, "first"), url)
		if st, err := os.Stat(filepath.Join(s.root, "first")); err != nil || st.Size() != 1024 {
			t.Fatalf("%v, %v", st, err)
		}
	})
}

func TestRestic(t *testing.T) {
	everyStore(t, func(t *testing.T, s *site) {
		need(t, "restic")
		src := filepath.Join(goSource(t), "net")
		repo := []string{"-r", "s3:" + s.url() + "/restic", "--no-cache"}
		s.run("restic", append(repo, "init")...)
		s.run("restic", append(repo, "backup", "--quiet", src)...)
		s.run("restic", append(repo, "check", "--read-data")...)
		back := filepath.Join(s.root, "back")
		s.run("restic", append(repo, "restore", "latest", "--target", back)...)
		sameTree(t, tree(t, src), tree(t, filepath.Join(back, src)))
		s.run("restic", append(repo, "forget", "--keep-last", "1", "--prune")...)
	})
}

func TestRclone(t *testing.T) {
	everyStore(t, func(t *testing.T, s *site) {
		need(t, "rclone")
		src := filepath.Join(goSource(t), "crypto")
		conf := filepath.Join(s.root, "rclone.conf")
		text := fmt.Sprintf("[k]\ntype = s3\nprovider = Other\naccess_key_id = %s\nsecret_access_key = %s\nendpoint = %s\nregion = us-east-1\n", accessKey, secretKey, s.url())
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.run("rclone", "--config", conf, "sync", src, "k:rclone/tree")
		s.run("rclone", "--config", conf, "check", "--download", src, "k:rclone/tree")
		if out := s.run("rclone", "--config", conf, "check", src, "k:rclone/tree"); !strings.Contains(out, "0 differences found") {
			t.Fatal(tail(out))
		}
		big := filepath.Join(s.root, "big")
		randomFile(t, big, 300<<20) // above rclone's cutoff of 200 MiB for multipart
		s.run("rclone", "--config", conf, "copy", big, "k:rclone/big")
		s.run("rclone", "--config", conf, "copyto", "k:rclone/big/big", big+".back")
		want, _ := fileSum(big)
		if got, err := fileSum(big + ".back"); err != nil || got != want {
			t.Fatalf("hash %s, want %s, %v", got, want, err)
		}
	})
}

func TestS3cmd(t *testing.T) {
	everyStore(t, func(t *testing.T, s *site) {
		need(t, "s3cmd")
		conf := filepath.Join(s.root, "s3cfg")
		text := fmt.Sprintf("[default]\naccess_key = %s\nsecret_key = %s\nhost_base = %s\nhost_bucket = %s\nuse_https = False\nsignature_v2 = False\n", accessKey, secretKey, s.address(), s.address())
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(s.root, "file")
		randomFile(t, file, 40<<20) // by multipart: s3cmd's parts are 15 MiB
		s.run("s3cmd", "-c", conf, "mb", "s3://cmd")
		s.run("s3cmd", "-c", conf, "put", "--quiet", file, "s3://cmd/a folder/naïve file ✓")
		if out := s.run("s3cmd", "-c", conf, "ls", "--recursive", "s3://cmd"); !strings.Contains(out, "a folder/naïve file ✓") || !strings.Contains(out, fmt.Sprint(40<<20)) {
			t.Fatal(out)
		}
		s.run("s3cmd", "-c", conf, "get", "--quiet", "s3://cmd/a folder/naïve file ✓", file+".back")
		want, _ := fileSum(file)
		if got, err := fileSum(file + ".back"); err != nil || got != want {
			t.Fatalf("hash %s, want %s, %v", got, want, err)
		}
		s.run("s3cmd", "-c", conf, "del", "--recursive", "--force", "s3://cmd")
		s.run("s3cmd", "-c", conf, "rb", "s3://cmd")
	})
}

const boto = `
import boto3, hashlib, os, sys
from botocore.exceptions import ClientError
from boto3.s3.transfer import TransferConfig
s3 = boto3.client("s3")
s3.create_bucket(Bucket="boto")
for n in (0, 1, 4096, 65536, 65537, 1 << 20, 9 << 20):
    body = os.urandom(n)
    r = s3.put_object(Bucket="boto", Key=f"k{n}", Body=body, Metadata={"colour": "gold"}, ContentType="x/y")
    g = s3.get_object(Bucket="boto", Key=f"k{n}", ChecksumMode="ENABLED")
    assert g["Body"].read() == body, n
    assert g["Metadata"] == {"colour": "gold"} and g["ContentType"] == "x/y", g
    for a in ("ChecksumCRC32", "ChecksumCRC64NVME"):
        if a in r: assert g[a] == r[a], (a, r, g)
for alg in ("CRC32", "CRC32C", "SHA1", "SHA256"):
    try:
        r = s3.put_object(Bucket="boto", Key=alg, Body=b"x" * 100000, ChecksumAlgorithm=alg)
    except Exception as e:
        if "awscrt" in str(e).lower() or "crt" in str(e).lower(): continue
        raise
    h = s3.head_object(Bucket="boto", Key=alg, ChecksumMode="ENABLED")
    assert h["Checksum" + alg] == r["Checksum" + alg]
open("part.bin", "wb").write(os.urandom(20 << 20))
s3.upload_file("part.bin", "boto", "multi", Config=TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
s3.download_file("boto", "multi", "part.back")
assert hashlib.sha256(open("part.bin", "rb").read()).digest() == hashlib.sha256(open("part.back", "rb").read()).digest()
s3.copy({"Bucket": "boto", "Key": "multi"}, "boto", "copy")
assert s3.head_object(Bucket="boto", Key="copy")["ContentLength"] == 20 << 20
keys = [o["Key"] for p in s3.get_paginator("list_objects_v2").paginate(Bucket="boto", PaginationConfig={"PageSize": 3}) for o in p.get("Contents", [])]
assert keys == sorted(keys) and len(keys) >= 10, keys
try:
    s3.put_object(Bucket="boto", Key="multi", Body=b"x", IfNoneMatch="*"); sys.exit("overwrote")
except ClientError as e:
    assert e.response["Error"]["Code"] == "PreconditionFailed", e
r = s3.delete_objects(Bucket="boto", Delete={"Objects": [{"Key": k} for k in keys]})
assert len(r["Deleted"]) == len(keys) and "Errors" not in r, r
s3.delete_bucket(Bucket="boto")
print("boto3", boto3.__version__, "ok")
`

func TestBoto3(t *testing.T) {
	everyStore(t, func(t *testing.T, s *site) {
		need(t, "python3")
		if out, err := s.try(time.Minute, "python3", "-c", "import boto3"); err != nil {
			t.Skipf("boto3 is not installed: %s", tail(out))
		}
		if out := s.run("python3", "-c", boto); !strings.Contains(out, "ok") {
			t.Fatal(out)
		}
	})
}
