package embedded

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/gateway/checksum"
	"kintsugi/metadata"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// BenchmarkPut stores objects on six directories without HTTP. See cpu-ns/op,
// of the whole process: the wall clock is the disk's.
func BenchmarkPut(b *testing.B) {
	for _, c := range []struct{ size, writers int }{{4 << 10, 16}, {128 << 10, 16}, {1 << 20, 8}} {
		b.Run(fmt.Sprintf("%dKiB/%d", c.size>>10, c.writers), func(b *testing.B) {
			cfg := Config{FS: vfs.OS(), Scheme: erasure.Scheme{K: 4, M: 2}, AccessKey: "a", SecretKey: "s"}
			dir := b.TempDir()
			for i := range 6 {
				cfg.Dirs = append(cfg.Dirs, filepath.Join(dir, fmt.Sprint(i)))
			}
			s, err := Open(b.Context(), cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			bucket, err := s.Catalog.CreateBucket(b.Context(), metadata.Bucket{Name: "bench", Owner: "root"})
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, c.size)
			ids := storagenode.NewBlobIDs(time.Now)
			var hashers checksum.Hashers
			put := func(ctx context.Context, n int64) error {
				g, err := s.Catalog.OpenGroup(ctx, int64(len(data)))
				if err != nil {
					return err
				}
				h := hashers.New(checksum.None)
				defer h.Close()
				res, err := s.Stripes.Put(ctx, g, ids.Next(), bytes.NewReader(data), int64(len(data)), stripe.PutOptions{
					Observer: h,
					Attrs:    func(int64) []byte { sum := h.MD5(); return sum[:] },
				})
				if err != nil {
					return err
				}
				o := metadata.Object{Key: fmt.Sprintf("k/%08d", n), Size: int64(len(data)), ETag: "d41d8cd98f00b204e9800998ecf8427e", Modified: time.Now()}
				return s.Catalog.PutObject(ctx, bucket, &o, []metadata.Written{{Group: g, Blob: res.Blob}}, metadata.Condition{})
			}
			var n atomic.Int64
			var wg sync.WaitGroup
			before := processorTime(b)
			b.ResetTimer()
			for range c.writers {
				wg.Go(func() {
					for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
						if err := put(b.Context(), i); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

func processorTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
