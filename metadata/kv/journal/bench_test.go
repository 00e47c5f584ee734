package journal_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"kintsugi/storagenode/vfs"
)

// BenchmarkCommit: 16 writers with transactions like those of a PUT: two reads,
// two writes of 300 bytes in all.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("os/writers=%d", writers), func(b *testing.B) {
			benchCommit(b, vfs.OS(), b.TempDir(), writers)
		})
	}
	b.Run("mem/writers=16", func(b *testing.B) { benchCommit(b, vfs.NewMem(), "/", 16) })
}

func benchCommit(b *testing.B, fs vfs.FS, root string, writers int) {
	s := open(b, config(b, fs, root, 6, 2))
	value := make([]byte, 250)
	var n atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for {
				i := n.Add(1)
				if i > int64(b.N) {
					return
				}
				x, err := s.Begin(b.Context())
				if err != nil {
					b.Error(err)
					return
				}
				key := fmt.Appendf(nil, "c|bucket|object/%09d", i)
				if _, err = x.Get(b.Context(), []byte("B|bucket")); err == nil {
					_, err = x.Get(b.Context(), key)
				}
				x.Put(key, value)
				x.Put(fmt.Appendf(nil, "b|0001|%032d", i), value[:40])
				if err == nil {
					err = x.Commit(b.Context())
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

// BenchmarkGet reads one of 100,000 keys.
func BenchmarkGet(b *testing.B) {
	s := open(b, config(b, vfs.OS(), b.TempDir(), 3, 2))
	const keys = 100000
	for i := 0; i < keys; i += 64 {
		x, err := s.Begin(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for j := i; j < i+64; j++ {
			x.Put(fmt.Appendf(nil, "k%08d", j), make([]byte, 250))
		}
		if err := x.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		v, err := s.Get(b.Context(), fmt.Appendf(nil, "k%08d", i*7919%keys))
		if err != nil || len(v) != 250 {
			b.Fatal(err, len(v))
		}
	}
}

// BenchmarkScan gives the pairs a second of a long scan.
func BenchmarkScan(b *testing.B) {
	s := open(b, config(b, vfs.OS(), b.TempDir(), 3, 2))
	for i := 0; i < 20000; i += 50 {
		x, err := s.Begin(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for j := i; j < i+50; j++ {
			x.Put(fmt.Appendf(nil, "k%08d", j), make([]byte, 250))
		}
		if err := x.Commit(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for n := 0; n < b.N; {
		for _, err := range s.Scan(b.Context(), nil, nil) {
			if err != nil {
				b.Fatal(err)
			}
			if n++; n >= b.N {
				break
			}
		}
	}
}
