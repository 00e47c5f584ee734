package checksum

import (
	"crypto/md5"
	"fmt"
	"hash"
	"sync"
	"syscall"
	"testing"

	md5simd "github.com/minio/md5-simd"
)

// BenchmarkMD5Streams compares crypto/md5 with md5-simd for concurrent streams;
// cpu-ns/MiB is processor time, which is what a shared machine runs out of.
func BenchmarkMD5Streams(b *testing.B) {
	server := md5simd.NewServer()
	defer server.Close()
	for name, make := range map[string]func() hash.Hash{
		"crypto": md5.New,
		"simd":   func() hash.Hash { return server.NewHash() },
	} {
		for _, size := range []int{1 << 20, 16 << 20} {
			for _, streams := range []int{1, 2, 4, 8} {
				b.Run(fmt.Sprintf("%s/%dMiB/%d", name, size>>20, streams), func(b *testing.B) {
					benchStreams(b, make, size, streams)
				})
			}
		}
	}
}

func benchStreams(b *testing.B, newHash func() hash.Hash, size, streams int) {
	const piece = 256 << 10
	data := make([]byte, piece)
	b.SetBytes(int64(size * streams))
	before := processorTime()
	for b.Loop() {
		var wg sync.WaitGroup
		for range streams {
			wg.Go(func() {
				h := newHash()
				for range size / piece {
					h.Write(data)
				}
				h.Sum(nil)
				if c, ok := h.(md5simd.Hasher); ok {
					c.Close()
				}
			})
		}
		wg.Wait()
	}
	b.ReportMetric(float64(processorTime()-before)/float64(b.N)/float64(size*streams>>20), "cpu-ns/MiB")
}

func processorTime() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
