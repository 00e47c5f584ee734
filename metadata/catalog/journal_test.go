package catalog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"kintsugi/metadata"
	"kintsugi/metadata/kv/journal"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// onJournal is the embedded engine on a file system in memory.
func onJournal(t testing.TB) *journal.Store {
	t.Helper()
	fs := vfs.NewMem()
	cfg := journal.Config{FS: fs, Cluster: storagenode.UUID{1}, Tolerance: 2, Format: true}
	for i := range 3 {
		dir := fmt.Sprintf("/d%d", i)
		if err := fs.MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
		cfg.Drives = append(cfg.Drives, journal.Member{ID: storagenode.DriveID{byte(i + 1)}, Dir: dir})
	}
	if err := fs.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	s, err := journal.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestModelOnJournal runs the model test on the embedded engine.
func TestModelOnJournal(t *testing.T) {
	for _, seed := range seeds(t, 6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := newChaos(seed, 0)
			c.Store = onJournal(t)
			runModel(t, c, seed)
		})
	}
}

// The benchmarks on the journal run on memory: what they measure is computing.
func BenchmarkJournalPutObject(b *testing.B) {
	f := newFixture(b, onJournal(b))
	bucket := f.bucket("bucket")
	b.SetParallelism(8)
	b.ReportAllocs()
	var n atomic.Int64
	_ = f.written(1)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			w := f.written(4096)
			o := metadata.Object{Key: fmt.Sprintf("directory/%08d", n.Add(1)), Size: 4096, ETag: "d41d8cd98f00b204e9800998ecf8427e", Modified: w.Blob.ID.Time()}
			if err := f.PutObject(context.Background(), bucket, &o, []metadata.Written{w}, metadata.Condition{}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func journalObjects(b *testing.B, n int) (*fixture, metadata.Bucket) {
	f := newFixture(b, onJournal(b))
	bucket := f.bucket("bucket")
	for i := range n {
		f.put(bucket, fmt.Sprintf("directory/%08d", i), 4096)
	}
	return f, bucket
}

func BenchmarkJournalListObjects(b *testing.B) {
	f, bucket := journalObjects(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		page, err := f.ListObjects(context.Background(), bucket.ID, metadata.ListQuery{After: "directory/00004", Limit: 1000})
		if err != nil || len(page.Objects) != 1000 {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/key")
}

func BenchmarkJournalObject(b *testing.B) {
	f, bucket := journalObjects(b, 10_000)
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Object(context.Background(), bucket.ID, fmt.Sprintf("directory/%08d", rng.IntN(10_000))); err != nil {
			b.Fatal(err)
		}
	}
}
