package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kintsugi/cmd/internal/embedded"
	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
	"kintsugi/storagenode/node"
	"kintsugi/storagenode/vfs"
)

func openEmbedded(t *testing.T, dirs []string) *embedded.Store {
	t.Helper()
	s, err := embedded.Open(t.Context(), embedded.Config{
		FS: vfs.OS(), Dirs: dirs, Name: "here", Scheme: erasure.Scheme{K: 2, M: 1},
		AccessKey: "access", SecretKey: "a secret key", Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type summary struct {
	Pairs    int
	SHA256   string
	Families map[string]struct{ Pairs int }
}

func runSummary(t *testing.T, args ...string) (s summary) {
	t.Helper()
	text, err := run(t, append([]string{"admin", "metadata", "--json"}, args...)...)
	if err != nil || json.Unmarshal([]byte(text), &s) != nil {
		t.Fatalf("%v: %s, %v", args, text, err)
	}
	return s
}

func mustRefuse(t *testing.T, why string, args ...string) {
	t.Helper()
	text, err := run(t, append([]string{"admin", "metadata"}, args...)...)
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Fatalf("%v: %s, %v; want %q", args, text, err, why)
	}
}

// Metadata goes from the embedded engine to etcd and back, and is the same.
func TestDumpAndLoadBetweenEngines(t *testing.T) {
	const secret = "a cluster secret for tests, long enough"
	base := t.TempDir()
	var dirs []string
	for i := range 3 {
		dirs = append(dirs, filepath.Join(base, fmt.Sprint("d", i)))
		if err := os.Mkdir(dirs[i], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	drives, file := strings.Join(dirs, ","), filepath.Join(base, "one.dump")
	s := openEmbedded(t, dirs)
	for i := range 300 {
		if _, err := s.Catalog.CreateBucket(t.Context(), metadata.Bucket{Name: fmt.Sprintf("bucket-%03d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	mustRefuse(t, "stop the server first", "dump", "--from", drives, "--to", file)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, node.ErrRefused.Error(), "dump", "--from", base, "--to", file)
	first := runSummary(t, "dump", "--from", drives, "--to", file)
	if first.Pairs < 300 || first.Families["B"].Pairs != 300 {
		t.Fatalf("%+v", first)
	}
	mustRefuse(t, "exists already", "dump", "--from", drives, "--to", file)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}

	address, _, _ := startMember(t, secret)
	t.Setenv("KINTSUGI_CLUSTER_SECRET", secret)
	url := "etcd://" + address + "/moved"
	if loaded := runSummary(t, "load", "--from", file, "--to", url); loaded.SHA256 != first.SHA256 || loaded.Pairs != first.Pairs {
		t.Fatalf("loaded %+v, dumped %+v", loaded, first)
	}
	mustRefuse(t, "not empty", "load", "--from", file, "--to", url)
	back := filepath.Join(base, "two.dump")
	second := runSummary(t, "dump", "--from", url, "--to", back)
	if second.Pairs != first.Pairs+1 || second.Families["F"].Pairs != first.Families["F"].Pairs+1 { // that it was restored
		t.Fatalf("dumped again %+v, first %+v", second, first)
	}

	mustRefuse(t, "not empty", "load", "--from", back, "--to", drives)
	for _, d := range dirs {
		for _, folder := range []string{"journal", "state"} {
			if err := os.RemoveAll(filepath.Join(d, folder)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if third := runSummary(t, "load", "--from", back, "--to", drives); third.SHA256 != second.SHA256 {
		t.Fatalf("loaded %+v, dumped %+v", third, second)
	}
	damaged := filepath.Join(base, "damaged.dump")
	text, err := os.ReadFile(back)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(damaged, text, 0o600); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, "damaged dump", "load", "--from", damaged, "--to", "etcd://"+address+"/elsewhere")

	s = openEmbedded(t, dirs)
	defer s.Close()
	list, err := s.Catalog.Bucket(t.Context(), "bucket-123")
	if err != nil || list.Name != "bucket-123" {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := s.Catalog.RaiseHorizon(t.Context(), storagenode.BlobID{1}); !errors.Is(err, metadata.ErrRestored) {
		t.Fatalf("orphans would be collected: %v", err)
	}
	if out, err := os.ReadFile(file); err != nil || bytes.Contains(out, []byte(secret)) {
		t.Fatal("the dump holds the secret")
	}
}
