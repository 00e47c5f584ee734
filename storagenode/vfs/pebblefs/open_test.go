package pebblefs_test

import (
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode/vfs"
	"kintsugi/storagenode/vfs/pebblefs"
)

// needy makes a database on f that wants to compact as soon as it is open.
func needy(t *testing.T, f vfs.FS) {
	t.Helper()
	o := &pebble.Options{MemTableSize: 64 << 10, DisableAutomaticCompactions: true}
	fs := pebblefs.New(f, func(err error) { t.Error(err) })
	fs.Configure(o, nil)
	db, err := pebble.Open("/db", o)
	must(t, err)
	for i := range 4000 {
		must(t, db.Set(key(i), value(i), pebble.NoSync))
	}
	must(t, db.Flush())
	must(t, db.Close())
}

// TestFailedOpen has one call after the other fail while a database is opened
// that has to compact: no compaction is left behind, which would end the
// process a moment later.
func TestFailedOpen(t *testing.T) {
	failed := 0
	for n := 0; ; n++ {
		f := vfs.NewFault(vfs.NewMem())
		needy(t, f)
		rule := f.Inject(vfs.Rule{Ops: vfs.OpList | vfs.OpOpen | vfs.OpRead | vfs.OpStat, Skip: n, Times: 1, Err: syscall.EIO})
		x, err := tryOpen(f, "/db")
		hit := rule.Hits() > 0
		if err == nil {
			x.end(t)
		} else {
			failed++
		}
		if !hit {
			break
		}
	}
	if failed == 0 {
		t.Fatal("no call failed an opening")
	}
	time.Sleep(300 * time.Millisecond) // Pebble's ticker looks for work each 100 ms
	t.Logf("%d openings failed", failed)
}

// TestCompactsAfterOpen: what waited while the database was opened is done then.
func TestCompactsAfterOpen(t *testing.T) {
	f := vfs.NewMem()
	needy(t, f)
	x := open(t, f, "/db")
	defer x.end(t)
	for end := time.Now().Add(20 * time.Second); x.Metrics().Compact.Count == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nothing was compacted:\n%s", x.Metrics())
		}
	}
	x.verify(t, 4000)
}

// TestFailuresArePaced: what Pebble does in the background and begins again at
// once when it has failed takes hardly any of a processor's time until the owner
// closes the database, who may be held up by the same drive.
func TestFailuresArePaced(t *testing.T) {
	f := vfs.NewFault(vfs.NewMem())
	needy(t, f)
	told := make(chan error, 1)
	o := &pebble.Options{MemTableSize: 64 << 10}
	pebblefs.New(f, func(err error) { told <- err }).Configure(o, nil)
	failed := o.EventListener.BackgroundError
	var failures atomic.Int32
	o.EventListener.BackgroundError = func(err error) {
		failures.Add(1)
		failed(err)
	}
	f.Inject(vfs.Rule{Ops: vfs.OpRead, Path: ".sst", Err: syscall.EIO})
	db, err := pebblefs.Open("/db", o)
	must(t, err)
	select {
	case <-told:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing failed")
	}
	from := failures.Load()
	time.Sleep(100 * time.Millisecond)
	// Unpaced it was 500 for each of two goroutines.
	if n := failures.Load() - from; n > 250 {
		t.Errorf("%d failures in 100 ms", n)
	}
	must(t, db.Close())
}
