package segment

import (
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

func benchStore(b *testing.B, edit ...func(*Config)) *Store {
	cfg := Config{FS: vfs.OS(), Dir: b.TempDir(), Cluster: storagenode.UUID{1}, Drive: storagenode.DriveID{2}, TrustSums: true}
	for _, e := range edit {
		e(&cfg)
	}
	s, err := Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s
}

func benchShard(n uint64, size int) storagenode.Shard {
	p := make([]byte, size)
	_, _ = rand.Read(p)
	sh := storagenode.Shard{
		ID: storagenode.ShardID{PG: 1, Blob: testBlob(n)}, K: 1, M: 2, StripeLen: uint32(size), Payload: p,
		Sums: storagenode.AppendSums(nil, p), Last: true, Attrs: make([]byte, 200),
	}
	_, _ = rand.Read(sh.ID.Blob[8:])
	return sh
}

func BenchmarkPutSync4K(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			s := benchStore(b)
			var n atomic.Uint64
			b.SetParallelism((clients + 1) / 2) // two cores
			if clients == 1 {
				b.SetParallelism(1)
			}
			b.SetBytes(4096)
			b.ReportAllocs()
			one := func(next func() bool) {
				sh := benchShard(0, 4096)
				for next() {
					sh.ID.Blob = testBlob(n.Add(1))
					t, err := s.Put(b.Context(), sh)
					if err == nil {
						err = s.Sync(b.Context(), t)
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			}
			b.ResetTimer()
			if clients == 1 {
				one(b.Loop)
				return
			}
			b.RunParallel(func(pb *testing.PB) { one(pb.Next) })
		})
	}
}

// BenchmarkPut4K is Put alone, without its share of a Sync.
func BenchmarkPut4K(b *testing.B) {
	s := benchStore(b)
	sh := benchShard(0, 4096)
	b.ReportAllocs()
	var n uint64
	for b.Loop() {
		n++
		sh.ID.Blob = testBlob(n)
		if _, err := s.Put(b.Context(), sh); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutSync1M(b *testing.B) {
	s := benchStore(b)
	sh := benchShard(0, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	var n uint64
	for b.Loop() {
		n++
		sh.ID.Blob = testBlob(n)
		t, err := s.Put(b.Context(), sh)
		if err == nil && n%4 == 0 {
			err = s.Sync(b.Context(), t)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadAt(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := benchStore(b)
			const shards = 1000
			for i := range uint64(shards) {
				t, err := s.Put(b.Context(), benchShardAt(i, min(size, 256<<10)))
				if err == nil && i%100 == 99 {
					err = s.Sync(b.Context(), t)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			p := make([]byte, min(size, 256<<10))
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			b.ResetTimer()
			for i := uint64(0); b.Loop(); i++ {
				id := storagenode.ShardID{PG: 1, Blob: testBlob(i * 7919 % shards)}
				if _, err := s.ReadAt(b.Context(), id, 0, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchShardAt(n uint64, size int) storagenode.Shard {
	sh := benchShard(n, size)
	sh.ID.Blob = testBlob(n)
	return sh
}

// BenchmarkDelete deletes in no order from a drive of 400,000 shards, whose index has
// been compacted.
func BenchmarkDelete(b *testing.B) {
	s := benchStore(b, func(c *Config) { c.Cache = pebble.NewCache(32 << 20) }) // as in a node
	const shards = 400_000
	sh := benchShard(0, 100)
	for i := range uint64(shards) {
		sh.ID.Blob = testBlob(i)
		t, err := s.Put(b.Context(), sh)
		if err == nil && i%1000 == 999 {
			err = s.Sync(b.Context(), t)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := s.index().db.Compact(b.Context(), []byte{0}, []byte{255}, false); err != nil {
		b.Fatal(err)
	}
	order := mrand.New(mrand.NewPCG(1, 2)).Perm(shards)
	var n atomic.Uint64
	b.SetParallelism(16) // as many as a pass sends at once, on two processors
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			if err := s.Delete(b.Context(), sh.ID.PG, int(sh.ID.Slot), testBlob(uint64(order[i%shards]))); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
