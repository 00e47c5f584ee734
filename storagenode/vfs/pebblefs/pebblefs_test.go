package pebblefs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode/vfs"
	"kintsugi/storagenode/vfs/pebblefs"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// index is a Pebble on an adapted file system, as Kintsugi opens it.
type index struct {
	*pebble.DB
	fs    *pebblefs.FS
	calls atomic.Int32
	told  chan error
}

func open(t testing.TB, under vfs.FS, dir string) *index {
	t.Helper()
	x, err := tryOpen(under, dir)
	must(t, err)
	return x
}

func tryOpen(under vfs.FS, dir string) (*index, error) {
	x := &index{told: make(chan error, 10)}
	x.fs = pebblefs.New(under, func(err error) {
		x.calls.Add(1)
		x.told <- err
	})
	o := &pebble.Options{MemTableSize: 64 << 10, L0CompactionThreshold: 2, LBaseMaxBytes: 256 << 10}
	x.fs.Configure(o, nil)
	var err error
	x.DB, err = pebblefs.Open(dir, o)
	return x, err
}

// within fails the test when f does not return in time.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not return", what)
	}
}

func value(i int) []byte {
	v := make([]byte, 400)
	rng := rand.New(rand.NewPCG(uint64(i), 1))
	for j := 0; j < len(v); j += 8 {
		binary.LittleEndian.PutUint64(v[j:], rng.Uint64())
	}
	return v
}

func key(i int) []byte { return fmt.Appendf(nil, "key-%06d", i*7919%100_003) }

func (x *index) load(t testing.TB, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		must(t, x.Set(key(i), value(i), pebble.NoSync))
	}
}

func (x *index) verify(t testing.TB, n int) {
	t.Helper()
	for i := range n {
		got, closer, err := x.Get(key(i))
		if err != nil {
			t.Fatalf("key %d: %v", i, err)
		}
		if !bytes.Equal(got, value(i)) {
			t.Fatalf("key %d has another value", i)
		}
		must(t, closer.Close())
	}
}

func (x *index) end(t testing.TB) {
	t.Helper()
	within(t, "Close", func() { _ = x.Close() })
}

func TestHealthy(t *testing.T) {
	for name, under := range map[string]vfs.FS{"OS": vfs.OS(), "Mem": vfs.NewMem()} {
		t.Run(name, func(t *testing.T) {
			dir := "/index"
			if name == "OS" {
				dir = filepath.Join(t.TempDir(), "index")
			}
			x := open(t, under, dir)
			x.load(t, 0, 3000)
			must(t, x.Flush())
			x.verify(t, 3000)
			if _, err := tryOpen(under, dir); err == nil {
				t.Fatal("opened twice")
			}
			x.end(t)
			if err := x.fs.Poisoned(); err != nil || x.calls.Load() != 0 {
				t.Fatalf("poisoned without a reason: %v", err)
			}
			x = open(t, under, dir)
			x.verify(t, 3000)
			x.end(t)
		})
	}
}

// TestFull fills the disk under load: Pebble notices nothing, the owner is told
// once, and a rebuild works where there is space again.
func TestFull(t *testing.T) {
	m := vfs.NewMem()
	m.SetCapacity(3 << 20)
	x := open(t, m, "/index")
	x.load(t, 0, 20_000) // 8 MB
	must(t, x.Flush())
	select {
	case err := <-x.told:
		if !errors.Is(err, syscall.ENOSPC) || !errors.Is(x.fs.Poisoned(), syscall.ENOSPC) {
			t.Fatalf("told %v, poisoned by %v", err, x.fs.Poisoned())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was told")
	}
	x.verify(t, 20_000)
	within(t, "Compact", func() { must(t, x.Compact(t.Context(), []byte("a"), []byte("z"), false)) })
	x.verify(t, 20_000)
	x.end(t)
	if n := x.calls.Load(); n != 1 {
		t.Fatalf("told %d times", n)
	}
	must(t, m.RemoveAll("/index"))
	m.SetCapacity(0)
	x = open(t, m, "/index")
	x.load(t, 0, 100)
	x.verify(t, 100)
	x.end(t)
	if err := x.fs.Poisoned(); err != nil {
		t.Fatal(err)
	}
}

// TestFailures makes the nth call of each kind fail, once or from then on, in
// opening, loading, flushing, compacting or closing.
func TestFailures(t *testing.T) {
	for name, op := range map[string]vfs.Op{
		"create": vfs.OpCreate, "write": vfs.OpWrite, "sync": vfs.OpSync, "rename": vfs.OpRename,
		"remove": vfs.OpRemove, "syncdir": vfs.OpSyncDir, "mkdir": vfs.OpMkdir, "hint": vfs.OpHint,
		"close": vfs.OpClose, "any change": vfs.OpChange,
	} {
		t.Run(name, func(t *testing.T) {
			for i, skip := range []int{0, 1, 2, 3, 4, 5, 7, 10, 15, 25, 40, 70} {
				testFailure(t, vfs.Rule{Ops: op, Skip: skip, Times: i % 2, Err: syscall.EIO})
				if op == vfs.OpChange {
					testFailure(t, vfs.Rule{Ops: op, Skip: skip, Times: 1 - i%2, Err: syscall.EIO})
				}
			}
		})
	}
}

func testFailure(t *testing.T, r vfs.Rule) {
	t.Helper()
	f := vfs.NewFault(vfs.NewMem())
	in := f.Inject(r)
	x := open(t, f, "/index")
	x.load(t, 0, 700)
	must(t, x.Flush())
	x.verify(t, 700)
	x.end(t)
	poisoned := x.fs.Poisoned() != nil
	if r.Ops == vfs.OpClose && !poisoned { // a file that was only read
		return
	}
	if poisoned != (in.Hits() > 0) {
		t.Fatalf("skip %d: %d failures, poisoned: %v", r.Skip, in.Hits(), poisoned)
	}
}

// TestReadErrors: who reads gets the error, and reading works again when the
// medium does.
func TestReadErrors(t *testing.T) {
	f := vfs.NewFault(vfs.NewMem())
	x := open(t, f, "/index")
	x.load(t, 0, 1000)
	must(t, x.Flush())
	x.end(t)
	x = open(t, f, "/index")
	in := f.Inject(vfs.Rule{Ops: vfs.OpRead | vfs.OpOpen, Path: ".sst", Err: syscall.EIO})
	within(t, "Get", func() {
		for i := range 20 {
			if _, _, err := x.Get(key(i)); !errors.Is(err, syscall.EIO) {
				t.Errorf("key %d: %v", i, err)
			}
		}
	})
	in.Release()
	within(t, "Get", func() { // who waited for an opening that failed shares its error
		for i := 0; i < 1000 && !t.Failed(); {
			_, closer, err := x.Get(key(i))
			switch {
			case err == nil:
				_ = closer.Close()
				i++
			case !errors.Is(err, syscall.EIO):
				t.Errorf("key %d: %v", i, err)
			}
		}
	})
	x.verify(t, 1000)
	x.end(t)
}

func TestShortWrite(t *testing.T) {
	f := vfs.NewFault(vfs.NewMem())
	in := f.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: ".sst", Skip: 5, Short: true})
	x := open(t, f, "/index")
	x.load(t, 0, 3000)
	must(t, x.Flush())
	x.verify(t, 3000)
	x.end(t)
	if in.Hits() == 0 || x.fs.Poisoned() == nil {
		t.Fatal("the short write went unnoticed")
	}
}

// TestDirectoryVanishes empties the directory under a running Pebble.
func TestDirectoryVanishes(t *testing.T) {
	m := vfs.NewMem()
	x := open(t, m, "/index")
	x.load(t, 0, 500)
	must(t, x.Flush())
	must(t, m.RemoveAll("/index"))
	within(t, "load", func() {
		x.load(t, 500, 3000)
		_ = x.Flush()
		for i := range 3000 { // the old tables are gone: some fail, none lies
			got, closer, err := x.Get(key(i))
			if err != nil {
				break
			}
			if !bytes.Equal(got, value(i)) {
				t.Errorf("key %d: wrong value", i)
			}
			_ = closer.Close()
		}
	})
	x.end(t)
	if x.fs.Poisoned() == nil {
		t.Fatal("nobody noticed")
	}
}

// TestDamage flips bits in a table: whoever reads it gets an error, not an end
// of the process, and the index is known to be unfit.
func TestDamage(t *testing.T) {
	m := vfs.NewMem()
	x := open(t, m, "/index")
	x.load(t, 0, 3000)
	must(t, x.Flush())
	x.end(t)
	names, err := m.List("/index")
	must(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") {
			st, err := m.Stat(filepath.Join("/index", name))
			must(t, err)
			for off := int64(100); off < st.Size/2; off += 500 {
				must(t, vfs.FlipBit(m, filepath.Join("/index", name), off, 3))
			}
		}
	}
	x = open(t, m, "/index")
	failed := 0
	within(t, "Get", func() {
		for i := 0; i < 3000 && failed < 50; i++ { // a failing read is slow
			got, closer, err := x.Get(key(i))
			if err != nil {
				failed++
				continue
			}
			if !bytes.Equal(got, value(i)) {
				t.Errorf("key %d: wrong value", i)
			}
			_ = closer.Close()
		}
	})
	if failed == 0 || x.fs.Poisoned() == nil {
		t.Fatalf("%d reads failed, poisoned: %v", failed, x.fs.Poisoned())
	}
	x.end(t)
}

func TestFatalf(t *testing.T) {
	x := open(t, vfs.NewMem(), "/index")
	o := &pebble.Options{}
	x.fs.Configure(o, nil)
	go o.Logger.Fatalf("the %s", "end")
	select {
	case err := <-x.told:
		if !strings.Contains(err.Error(), "the end") {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was told")
	}
	x.end(t)
}

// TestCrash is what a log that trusts Pebble for nothing still needs of it:
// after a power cut it holds all batches up to a position, whole, and nothing
// later, and the position is not before the last Flush.
func TestCrash(t *testing.T) {
	seeds := 60
	if s, err := strconv.Atoi(os.Getenv("KINTSUGI_SEEDS")); err == nil {
		seeds = s
	}
	for seed := range uint64(seeds) {
		rng := rand.New(rand.NewPCG(seed, 0))
		m := vfs.NewMem()
		must(t, m.Mkdir("/index"))
		must(t, m.SyncDir("/"))
		pos, flushed := 0, 0
		for generation := range 3 {
			x := open(t, m, "/index")
			if generation > 0 {
				pos = x.position(t)
				if pos < flushed {
					t.Fatalf("seed %d, generation %d: position %d, flushed %d", seed, generation, pos, flushed)
				}
				x.verify(t, pos)
				if _, _, err := x.Get(key(pos)); !errors.Is(err, pebble.ErrNotFound) {
					t.Fatalf("seed %d: batch %d beyond the position: %v", seed, pos, err)
				}
			}
			for range rng.IntN(800) {
				b := x.NewBatch()
				must(t, b.Set(key(pos), value(pos), nil))
				pos++
				must(t, b.Set([]byte("pos"), strconv.AppendInt(nil, int64(pos), 10), nil))
				must(t, b.Commit(pebble.NoSync))
				if rng.IntN(300) == 0 {
					must(t, x.Flush())
					flushed = pos
				}
			}
			if rng.IntN(2) == 0 {
				_, _ = x.AsyncFlush()
			}
			m = m.Crash(rng)
			x.end(t)
		}
	}
}

func (x *index) position(t testing.TB) int {
	t.Helper()
	v, closer, err := x.Get([]byte("pos"))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0
	}
	must(t, err)
	pos, err := strconv.Atoi(string(v))
	must(t, err)
	must(t, closer.Close())
	return pos
}
