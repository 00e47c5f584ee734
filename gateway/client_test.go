package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// client is minio-go, as a user of Go would have it.
func (s *site) client(trailers bool) *minio.Client {
	s.t.Helper()
	transport := &http.Transport{DisableCompression: true}
	s.t.Cleanup(transport.CloseIdleConnections)
	c, err := minio.New(s.address, &minio.Options{
		Creds: credentials.NewStaticV4(testKey, testSecret, ""), Region: testRegion, Transport: transport, TrailingHeaders: trailers,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func TestMinioClient(t *testing.T) {
	for _, trailers := range []bool{false, true} {
		t.Run(fmt.Sprint("trailers ", trailers), func(t *testing.T) {
			s := newSite(t)
			ctx := context.Background()
			c := s.client(trailers)
			if err := c.MakeBucket(ctx, "bkt", minio.MakeBucketOptions{Region: testRegion}); err != nil {
				t.Fatal(err)
			}
			if ok, err := c.BucketExists(ctx, "bkt"); err != nil || !ok {
				t.Fatal(ok, err)
			}
			options := map[string]minio.PutObjectOptions{
				"plain": {}, "md5": {SendContentMd5: true}, "stream": {PartSize: 5 << 20},
				"unsigned": {DisableContentSha256: true},
			}
			for _, k := range []minio.ChecksumType{minio.ChecksumSHA256, minio.ChecksumSHA1, minio.ChecksumCRC32, minio.ChecksumCRC32C, minio.ChecksumCRC64NVME} {
				options[k.String()] = minio.PutObjectOptions{Checksum: k}
			}
			for name, o := range options {
				if !trailers && o.Checksum.IsSet() {
					continue // the client sends them as trailers only
				}
				for _, size := range []int{0, 5000, 11 << 20} {
					o.PartSize = 5 << 20
					key := fmt.Sprintf("%s/%d", name, size)
					body := []byte(random(size, 21))
					length := int64(size)
					if name == "stream" {
						length = -1
					}
					if _, err := c.PutObject(ctx, "bkt", key, bytes.NewReader(body), length, o); err != nil {
						t.Errorf("put %s: %v", key, err)
						continue
					}
					r, err := c.GetObject(ctx, "bkt", key, minio.GetObjectOptions{Checksum: true})
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(r)
					if err != nil || !bytes.Equal(got, body) {
						t.Errorf("get %s: %d bytes, %v", key, len(got), err)
					}
					_ = r.Close()
				}
			}
			_, err := c.CopyObject(ctx, minio.CopyDestOptions{Bucket: "bkt", Object: "copy"}, minio.CopySrcOptions{Bucket: "bkt", Object: "plain/5000"})
			if err != nil {
				t.Error(err)
			}
			_, err = c.ComposeObject(ctx, minio.CopyDestOptions{Bucket: "bkt", Object: "composed"},
				minio.CopySrcOptions{Bucket: "bkt", Object: "plain/11534336"}, minio.CopySrcOptions{Bucket: "bkt", Object: "plain/5000"})
			if err != nil {
				t.Error(err)
			}
			if info, err := c.StatObject(ctx, "bkt", "composed", minio.StatObjectOptions{}); err != nil || info.Size != 11<<20+5000 {
				t.Errorf("composed: %+v %v", info, err)
			}
			var keys []minio.ObjectInfo
			for o := range c.ListObjects(ctx, "bkt", minio.ListObjectsOptions{Recursive: true}) {
				if o.Err != nil {
					t.Fatal(o.Err)
				}
				keys = append(keys, o)
			}
			if len(keys) < 13 {
				t.Errorf("%d keys", len(keys))
			}
			list := make(chan minio.ObjectInfo)
			go func() {
				defer close(list)
				for _, k := range keys {
					list <- k
				}
			}()
			for e := range c.RemoveObjects(ctx, "bkt", list, minio.RemoveObjectsOptions{}) {
				t.Error(e.Err)
			}
			if err := c.RemoveBucket(ctx, "bkt"); err != nil {
				t.Error(err)
			}
			s.clean()
		})
	}
}

func TestMinioNastyKeys(t *testing.T) {
	s := newSite(t)
	ctx := context.Background()
	c := s.client(false)
	s.bucket("bkt")
	var want []string
	for _, k := range nasty {
		if strings.ContainsAny(k, "\x01\x1f\x7f\n\t\\\u2028") || strings.HasPrefix(k, "/") || k == "." || k == ".." || strings.Contains(k, "..") || strings.Contains(k, "//") {
			continue // the client refuses or changes those itself
		}
		if _, err := c.PutObject(ctx, "bkt", k, strings.NewReader(k), int64(len(k)), minio.PutObjectOptions{}); err != nil {
			t.Errorf("%q: %v", k, err)
			continue
		}
		want = append(want, k)
		o, err := c.GetObject(ctx, "bkt", k, minio.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(o); err != nil || string(got) != k {
			t.Errorf("%q: got %q, %v", k, got, err)
		}
	}
	var got []string
	for o := range c.ListObjects(ctx, "bkt", minio.ListObjectsOptions{Recursive: true}) {
		got = append(got, o.Key)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
}
