package pebblefs_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode/vfs"
	"kintsugi/storagenode/vfs/pebblefs"
)

// Databases are flushed every few seconds, however little there is to make
// durable: what that costs may not grow with what they hold.
func TestFlushesDoNotRewriteTheDatabase(t *testing.T) {
	if testing.Short() {
		t.Skip("counts bytes, which takes a minute under the race detector")
	}
	o := &pebble.Options{MemTableSize: 4 << 20}
	fs := pebblefs.New(vfs.NewMem(), func(err error) { t.Error(err) })
	fs.Configure(o, nil)
	db, err := pebblefs.Open("/db", o)
	must(t, err)
	defer func() { must(t, db.Close()) }()
	rng := rand.New(rand.NewPCG(1, 2))
	put := func(n int) {
		t.Helper()
		b := db.NewBatch()
		for range n {
			must(t, b.Set(binary.BigEndian.AppendUint64(nil, rng.Uint64()), value(rng.Int()), nil))
		}
		must(t, b.Commit(pebble.NoSync))
		must(t, db.Flush())
		// Compactions follow in the background.
		for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			m := db.Metrics()
			if m.Compact.NumInProgress == 0 {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("compactions do not end: %s", m)
			}
		}
	}
	compacted := func() (sum uint64) {
		for _, l := range db.Metrics().Levels {
			sum += l.TableBytesCompacted
		}
		return sum
	}
	for range 50 {
		put(1000)
	}
	must(t, db.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
	size, before := db.Metrics().DiskSpaceUsage(), compacted()
	const flushes, pairs = 80, 10
	for range flushes {
		put(pairs)
	}
	if more := compacted() - before; more > size {
		t.Errorf("%d flushes of %d pairs compacted %d bytes of a database of %d", flushes, pairs, more, size)
	}
}
