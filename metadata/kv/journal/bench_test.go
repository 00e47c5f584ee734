package journal_test

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"kintsugi/metadata/kv"
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

// BenchmarkRead reads from 100,000 keys, or KINTSUGI_KEYS: the same one, any,
// one that is not there, and pages of 1000 in order.
func BenchmarkRead(b *testing.B) {
	keys := 100000
	if n, err := strconv.Atoi(os.Getenv("KINTSUGI_KEYS")); err == nil {
		keys = n
	}
	s := open(b, config(b, vfs.OS(), b.TempDir(), 3, 2))
	fill(b, s, keys)
	ctx := b.Context()
	get := func(b *testing.B, key []byte, size int) {
		if v, err := s.Get(ctx, key); err != nil || len(v) != size {
			b.Fatal(err, len(v))
		}
	}
	b.Run("hot", func(b *testing.B) {
		b.ReportAllocs()
		key := fmt.Appendf(nil, "k%08d", keys/2)
		for b.Loop() {
			get(b, key, 250)
		}
	})
	var key []byte
	for _, c := range []struct {
		name, format string
		size         int
	}{{"any", "k%08d", 250}, {"absent between", "k%08d|", 0}, {"absent after", "x%08d", 0}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i += 7919
				key = fmt.Appendf(key[:0], c.format, i%keys)
				get(b, key, c.size)
			}
		})
	}
	b.Run("page of 1000", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i += 7919
			n := 0
			for _, err := range s.Scan(ctx, fmt.Appendf(nil, "k%08d", i%(keys-1000)), nil) {
				if err != nil {
					b.Fatal(err)
				}
				if n++; n == 1000 {
					break
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/pair")
	})
}

func fill(b *testing.B, s kv.Store, keys int) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w * 64; i < keys; i += 8 * 64 {
				x, err := s.Begin(b.Context())
				if err != nil {
					b.Error(err)
					return
				}
				for j := i; j < i+64; j++ {
					x.Put(fmt.Appendf(nil, "k%08d", j), make([]byte, 250))
				}
				if err := x.Commit(b.Context()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
