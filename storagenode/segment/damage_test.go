package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// rig is a store on a memory file system for one test.
type rig struct {
	*testing.T
	*Store
	fs    *vfs.Mem
	fault *vfs.Fault
	clock *manualClock
	cfg   Config

	mu      sync.Mutex
	damaged []storagenode.ShardID
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{T: t, fs: vfs.NewMem(), clock: newManualClock()}
	r.must(r.fs.MkdirAll("/d"))
	r.fault = vfs.NewFault(r.fs)
	r.cfg = Config{
		FS: r.fault, Dir: "/d", Cluster: storagenode.UUID{1}, Drive: storagenode.DriveID{2}, Clock: r.clock,
		SegmentSize: 64 << 10, CompactionRate: -1,
		Damaged: func(id storagenode.ShardID, _ error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.damaged = append(r.damaged, id)
		},
	}
	if change != nil {
		change(&r.cfg)
	}
	r.open()
	t.Cleanup(func() { _ = r.Store.Close() })
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) open() {
	r.Helper()
	s, err := Open(r.Context(), r.cfg)
	r.must(err)
	r.Store = s
}

// reopen closes and opens; between does what happens meanwhile.
func (r *rig) reopen(between func()) {
	r.Helper()
	r.must(r.Store.Close())
	if between != nil {
		between()
	}
	r.open()
}

func rigID(n int) storagenode.ShardID {
	return storagenode.ShardID{PG: 1, Slot: 2, Blob: testBlob(uint64(n))}
}

func rigPayload(n, size int) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), 7))
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

func (r *rig) put(n, size int) {
	r.Helper()
	r.must(r.tryPut(n, size))
}

func (r *rig) tryPut(n, size int) error {
	t, err := r.Put(r.Context(), storagenode.Shard{
		ID: rigID(n), K: 1, M: 1, Payload: rigPayload(n, size), Last: true, Attrs: []byte("a"), StripeLen: uint32(size),
	})
	if err != nil {
		return err
	}
	return r.Sync(r.Context(), t)
}

// read gives a whole shard.
func (r *rig) read(n int) ([]byte, error) {
	p := make([]byte, storagenode.MaxPayload)
	got, err := r.ReadAt(r.Context(), rigID(n), 0, p)
	if err == io.EOF {
		err = nil
	}
	return p[:got], err
}

func (r *rig) holds(n, size int) {
	r.Helper()
	p, err := r.read(n)
	if err != nil || !bytes.Equal(p, rigPayload(n, size)) {
		r.Fatalf("shard %d: %d bytes, %v", n, len(p), err)
	}
}

func (r *rig) fails(n int, want error) {
	r.Helper()
	if p, err := r.read(n); !errors.Is(err, want) {
		r.Fatalf("shard %d: %d bytes, %v; want %v", n, len(p), err, want)
	}
}

// at is where a shard's record lies.
func (r *rig) at(n int) (path string, e entry) {
	r.Helper()
	e, err := r.find(rigID(n))
	r.must(err)
	return filepath.Join(r.segDir, segName(e.segment)), e
}

func (r *rig) flip(path string, off int64) {
	r.Helper()
	r.must(vfs.FlipBit(r.fs, path, off, 3))
}

func (r *rig) write(path string, p []byte, off int64) {
	r.Helper()
	f, err := r.fs.OpenFile(path, os.O_RDWR)
	r.must(err)
	_, err = f.WriteAt(p, off)
	r.must(err)
	r.must(f.Sync())
	r.must(f.Close())
}

func (r *rig) contents(path string) []byte {
	r.Helper()
	f, err := r.fs.OpenFile(path, os.O_RDWR)
	r.must(err)
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	r.must(err)
	p := make([]byte, st.Size)
	r.must(readFull(f, p, 0))
	return p
}

// TestDamagedRecord: a bit flipped anywhere in a record on the medium is found
// by reads, by Stat where it concerns it, by scrub, and at open; the others
// stay good, and writing the shard again heals it.
func TestDamagedRecord(t *testing.T) {
	for _, size := range []int{100, 200_000} {
		l := layoutOf(1, size)
		for name, off := range map[string]int64{
			"magic": 0, "type": 5, "seq": 16, "blob": 30, "lengths": 52, "header sum": 90,
			"attributes": headerSize, "sums": l.sums, "payload": l.payload, "payload end": l.payload + int64(size) - 1,
		} {
			for _, lost := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d/%s/index lost %v", size, name, lost), func(t *testing.T) {
					r := newRig(t, nil)
					for n := range 5 {
						r.put(n, size)
					}
					path, e := r.at(2)
					r.flip(path, e.off+off)
					r.fails(2, storagenode.ErrCorrupt)
					rep, err := r.Scrub(r.Context(), 0, nil)
					r.must(err)
					if rep.Records != 5 || len(rep.Corrupt) != 1 || rep.Corrupt[0] != rigID(2) {
						t.Fatalf("scrub: %+v", rep)
					}
					r.reopen(func() {
						if lost {
							r.must(r.fs.RemoveAll("/d/index"))
						}
					})
					if p, err := r.read(2); err == nil {
						t.Fatalf("after open: read %d bytes", len(p))
					}
					if rep := r.OpenReport(); lost && len(rep.Damaged)+len(rep.Corrupt) == 0 && off < l.payload {
						t.Fatalf("not reported: %+v", rep)
					}
					for n := range 5 {
						if n != 2 {
							r.holds(n, size)
						}
					}
					r.put(2, size)
					r.holds(2, size)
				})
			}
		}
	}
}

// TestTornTail: cut or garbled at every byte of the last record, the log
// recovers to the last whole one.
func TestTornTail(t *testing.T) {
	r := newRig(t, nil)
	for n := range 3 {
		r.put(n, 40)
	}
	path, e := r.at(2)
	r.must(r.Store.Close())
	whole := r.contents(path)
	for cut := e.off; cut < e.off+layoutOf(1, 40).payload+40; cut++ {
		for _, garble := range []bool{false, true} {
			// Another drive directory with the torn log and no index.
			c := &rig{T: t, fs: vfs.NewMem(), cfg: r.cfg}
			c.cfg.FS = c.fs
			c.must(c.fs.MkdirAll("/d/segments"))
			torn := bytes.Clone(whole[:cut])
			if garble {
				torn = append(torn, bytes.Repeat([]byte{0xff}, len(whole)-int(cut))...)
			}
			f, err := c.fs.OpenFile(path, os.O_RDWR|os.O_CREATE)
			c.must(err)
			_, err = f.WriteAt(torn, 0)
			c.must(err)
			c.must(f.Close())
			c.open()
			c.holds(0, 40)
			c.holds(1, 40)
			c.fails(2, storagenode.ErrNotFound)
			if rep := c.OpenReport(); len(rep.Damaged)+len(rep.Corrupt) > 0 {
				t.Fatalf("cut at %d: a torn tail is no damage: %+v", cut, rep)
			}
			c.put(2, 40)
			c.holds(2, 40)
			c.must(c.Store.Close())
		}
	}
}

// dump is all the index says of shards, tombstones, fences and drops.
func (r *rig) dump() map[string]string {
	r.Helper()
	x := r.index()
	defer x.release()
	it, err := x.db.NewIter(nil)
	r.must(err)
	all := map[string]string{}
	for ok := it.First(); ok; ok = it.Next() {
		if k := it.Key()[0]; k != keyMeta && k != keyState && k != keyGrace {
			all[string(it.Key())] = string(it.Value())
		}
	}
	r.must(it.Close())
	return all
}

// TestRebuild: a deleted index comes back the same.
func TestRebuild(t *testing.T) {
	r := newRig(t, nil)
	ctx := r.Context()
	for n := range 200 {
		r.put(n, 100+n*7)
	}
	for n := 0; n < 200; n += 3 {
		r.must(r.Delete(ctx, 1, 2, testBlob(uint64(n))))
	}
	for n := 1; n < 200; n += 10 {
		if n%3 != 0 {
			r.put(n, 50)
		}
	}
	r.must(r.SetSlotEpoch(ctx, 9, 1, 4))
	r.must(r.SetSlotEpoch(ctx, 9, 1, 7))
	r.must(r.DropSlot(ctx, 3, 1, 2))
	r.clock.advance(2 * time.Hour)
	r.must(r.keep(ctx))
	before := r.dump()
	r.reopen(func() { r.must(r.fs.RemoveAll("/d/index")) })
	r.must(r.purge(ctx)) // shards came before their tombstones
	after := r.dump()
	for k, v := range after { // a rebuild may keep a purged drop's shards hidden anew
		if k[0] == keyDrop && len(v) == markSize {
			after[k] = v[:markSize-1] + "\x01"
		}
	}
	if !maps.Equal(before, after) {
		t.Fatalf("%d keys before, %d after", len(before), len(after))
	}
	if rep := r.OpenReport(); !rep.Rebuilt || len(rep.Damaged) > 0 {
		t.Fatalf("%+v", rep)
	}
	if err := r.SetSlotEpoch(ctx, 9, 1, 6); !errors.Is(err, storagenode.ErrStaleEpoch) {
		t.Fatalf("the fence is gone: %v", err)
	}
	if err := r.tryPut(3, 10); !errors.Is(err, storagenode.ErrDeleted) {
		t.Fatalf("the tombstone is gone: %v", err)
	}
}

// TestDamagedIndex: bits flipped in the index's files give no wrong answer, and
// the index is rebuilt.
func TestDamagedIndex(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		r := newRig(t, nil)
		for n := range 50 {
			r.put(n, 200)
		}
		r.reopen(func() {
			dir := "/d/index/1"
			names, err := r.fs.List(dir)
			r.must(err)
			name := filepath.Join(dir, names[rng.IntN(len(names))])
			if size := len(r.contents(name)); size > 0 {
				r.flip(name, int64(rng.IntN(size)))
			}
		})
		for round := 0; ; round++ {
			bad := 0
			for n := range 50 {
				p, err := r.read(n)
				switch {
				case err == nil && !bytes.Equal(p, rigPayload(n, 200)):
					t.Fatalf("seed %d: wrong bytes", seed)
				case err != nil && !errors.Is(err, storagenode.ErrUnavailable):
					t.Fatalf("seed %d: shard %d: %v", seed, n, err)
				case err != nil:
					bad++
				}
			}
			if bad == 0 {
				break
			}
			if round == 2 {
				t.Fatalf("seed %d: %d shards stay away", seed, bad)
			}
			r.must(r.restoreIndex(r.Context()))
		}
		r.must(r.Store.Close())
	}
}

// TestMisplaced: another record's bytes, another segment's, and an older copy of
// the segment are found out.
func TestMisplaced(t *testing.T) {
	t.Run("record", func(t *testing.T) {
		r := newRig(t, nil)
		r.put(1, 500)
		r.put(2, 500)
		path, a := r.at(1)
		_, b := r.at(2)
		rec := r.contents(path)[a.off : a.off+a.size()]
		r.write(path, rec, b.off)
		r.holds(1, 500)
		r.fails(2, storagenode.ErrCorrupt)
	})
	t.Run("segment", func(t *testing.T) {
		r := newRig(t, nil)
		r.put(1, 500)
		first, _ := r.at(1)
		r.reopen(nil)
		r.put(2, 500)
		second, _ := r.at(2)
		p := r.contents(first)
		for _, lost := range []bool{false, true} {
			r.reopen(func() {
				r.write(second, p, 0)
				if lost {
					r.must(r.fs.RemoveAll("/d/index"))
				}
			})
			r.holds(1, 500)
			if _, err := r.read(2); err == nil {
				t.Fatal("read from another segment's bytes")
			}
			if len(r.OpenReport().Damaged) == 0 {
				t.Fatal("not reported")
			}
		}
	})
	t.Run("older copy", func(t *testing.T) {
		r := newRig(t, nil)
		r.put(1, 500)
		path, _ := r.at(1)
		old := r.contents(path)
		r.put(2, 500)
		r.reopen(func() {
			r.must(r.fs.Remove(path))
			f, err := r.fs.OpenFile(path, os.O_RDWR|os.O_CREATE)
			r.must(err)
			_, err = f.WriteAt(old, 0)
			r.must(err)
			r.must(f.Close())
		})
		r.holds(1, 500)
		r.fails(2, storagenode.ErrCorrupt)
	})
}

// TestDamagedSuperblock: it is reported, and the records are still used.
func TestDamagedSuperblock(t *testing.T) {
	for _, lost := range []bool{false, true} {
		r := newRig(t, nil)
		r.put(1, 500)
		path, _ := r.at(1)
		r.reopen(func() {
			r.flip(path, 20)
			if lost {
				r.must(r.fs.RemoveAll("/d/index"))
			}
		})
		r.holds(1, 500)
		if rep := r.OpenReport(); len(rep.Damaged) != 1 {
			t.Fatalf("%+v", rep)
		}
	}
}

// TestCompaction: dead segments go, what lives stays, and what was deleted does
// not come back from an index that is rebuilt, also where its tombstone moved.
func TestCompaction(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Grace = -1 })
	ctx := r.Context()
	const shards = 300
	for n := range shards {
		r.put(n, 2000)
	}
	gone := map[int]bool{}
	for n := range shards {
		if n%10 != 0 {
			r.must(r.Delete(ctx, 1, 2, testBlob(uint64(n))))
			gone[n] = true
		}
	}
	r.must(r.SetSlotEpoch(ctx, 1, 2, 3))
	before := len(r.segments())
	for range 5 {
		r.must(r.keep(ctx))
	}
	if after := len(r.segments()); after > before/2 {
		t.Fatalf("%d segments of %d are left", after, before)
	}
	check := func() {
		t.Helper()
		for n := range shards {
			if _, err := r.Stat(ctx, rigID(n)); gone[n] && !errors.Is(err, storagenode.ErrNotFound) {
				t.Fatalf("shard %d was deleted: %v", n, err)
			}
			if !gone[n] {
				r.holds(n, 2000)
			}
		}
	}
	check()
	r.reopen(nil)
	check()
	r.reopen(func() { r.must(r.fs.RemoveAll("/d/index")) })
	check()
	if err := r.SetSlotEpoch(ctx, 1, 2, 2); !errors.Is(err, storagenode.ErrStaleEpoch) {
		t.Fatalf("compaction lost the fence: %v", err)
	}
}

// TestLateWriteMeetsTheTombstone: a write that a network held back for 90 minutes,
// which is as late as a node lets it be (rpc/auth.MaxSkew), is refused still,
// although its blob, of which the drive never had anything, was deleted and its
// tombstone's segment compacted. In the end the tombstone goes.
func TestLateWriteMeetsTheTombstone(t *testing.T) {
	r := newRig(t, nil)
	ctx := r.Context()
	const late = 1000
	churn := func(from int) {
		t.Helper()
		for n := range 100 {
			r.put(from+n, 2000)
		}
		for n := range 100 {
			r.must(r.Delete(ctx, 1, 2, testBlob(uint64(from+n))))
		}
	}
	later := func(d time.Duration) {
		t.Helper()
		r.put(late+1, 2000) // after what is dead
		r.clock.advance(d)
		for range 5 {
			r.must(r.keep(ctx))
		}
	}
	known := func() bool {
		_, ok := r.dump()[string(appendTombKey(nil, 1, 2, testBlob(late)))]
		return ok
	}
	r.must(r.Delete(ctx, 1, 2, testBlob(late)))
	churn(0)
	first := r.segments()[0].id
	later(90 * time.Minute)
	if r.segments()[0].id == first {
		t.Fatal("the tombstone's segment was not compacted")
	}
	if err := r.tryPut(late, 100); !errors.Is(err, storagenode.ErrDeleted) {
		t.Fatalf("a write that is 90 minutes late: %v", err)
	}
	for i := 1; known() && i < 5; i++ {
		churn(100 * i)
		later(time.Hour)
	}
	if known() {
		t.Fatal("the tombstone is kept for ever")
	}
}

// TestCompactionKeepsDamage: a segment with a live record that cannot be read is
// not removed.
func TestCompactionKeepsDamage(t *testing.T) {
	for _, off := range []int64{20, 300} { // header, payload
		r := newRig(t, func(c *Config) { c.Grace = -1 })
		for n := range 100 {
			r.put(n, 2000)
		}
		path, e := r.at(5)
		r.flip(path, e.off+off)
		for n := range 100 {
			if n != 5 {
				r.must(r.Delete(r.Context(), 1, 2, testBlob(uint64(n))))
			}
		}
		r.must(r.keep(r.Context()))
		r.must(r.keep(r.Context()))
		if _, err := r.fs.Stat(path); err != nil {
			t.Fatalf("flip at %d: the segment is gone with its damaged shard: %v", off, err)
		}
		r.fails(5, storagenode.ErrCorrupt)
		if off == 300 && !slices.Contains(r.damaged, rigID(5)) {
			t.Fatal("the damage was not told")
		}
	}
}

// TestReadWhileCompacting reads on while segments go.
func TestReadWhileCompacting(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Grace = -1 })
	ctx, cancel := context.WithCancel(r.Context())
	var wg sync.WaitGroup
	for n := range 20 {
		r.put(n, 1000)
	}
	for range 2 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				p := make([]byte, 1000)
				if _, err := r.ReadAt(ctx, rigID(i%20), 0, p); err != nil && ctx.Err() == nil {
					t.Errorf("read: %v", err)
					return
				}
			}
		})
	}
	for n := 100; n < 1100; n++ {
		r.put(n, 1000)
		r.must(r.Delete(r.Context(), 1, 2, testBlob(uint64(n))))
		if n%100 == 0 {
			r.must(r.keep(r.Context()))
		}
	}
	cancel()
	wg.Wait()
	for n := range 20 {
		r.holds(n, 1000)
	}
}

// TestRebuildWhileWriting rebuilds the index again and again under writers that
// fill segment after segment; nothing acknowledged is missing.
func TestRebuildWhileWriting(t *testing.T) {
	r := newRig(t, nil)
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := range 200 {
				// A rebuild may find the drive read-only for a moment.
				err := r.tryPut(w*1000+i, 3000)
				for err != nil && errors.Is(err, storagenode.ErrReadOnly) && t.Context().Err() == nil {
					time.Sleep(time.Millisecond)
					r.clock.advance(5 * time.Second) // space is looked at again
					_ = r.keep(r.Context())
					err = r.tryPut(w*1000+i, 3000)
				}
				if err != nil {
					t.Errorf("put: %v", err)
				}
				if p, err := r.read(w*1000 + i); err == nil && len(p) != 3000 {
					t.Errorf("read %d bytes", len(p))
				}
			}
		})
	}
	for range 10 {
		r.applyMu.Lock()
		err := r.rebuild(r.Context())
		r.applyMu.Unlock()
		r.must(err)
		r.must(r.trimSealed())
	}
	wg.Wait()
	for _, reopen := range []bool{false, true} {
		if reopen {
			r.reopen(nil)
		}
		for w := range 3 {
			for i := range 200 {
				r.holds(w*1000+i, 3000)
			}
		}
		if rep := r.OpenReport(); len(rep.Damaged)+len(rep.Corrupt) > 0 {
			t.Fatalf("%+v", rep)
		}
	}
}

// TestUnreadableTailIsKept: what a drive cannot read while it is opened is not taken
// for a write that was cut short: it stays, is reported, and can be read again when
// the drive recovers.
func TestUnreadableTailIsKept(t *testing.T) {
	for _, skip := range []int{1, 2} { // the superblock can be read; the headers, too
		r := newRig(t, nil)
		for n := range 4 {
			r.put(n, 5000)
		}
		mem := r.fs.Crash(rand.New(rand.NewPCG(1, 1)))
		_ = r.Store.Close()
		r.fs, r.fault = mem, vfs.NewFault(mem)
		r.cfg.FS = r.fault
		lost := r.fault.Inject(vfs.Rule{Ops: vfs.OpRead, Path: "/segments/", Skip: skip, Err: syscall.EIO})
		r.open()
		if lost.Hits() == 0 {
			t.Fatalf("skip %d: nothing failed", skip)
		}
		if rep := r.OpenReport(); len(rep.Damaged)+len(rep.Corrupt) == 0 {
			t.Errorf("skip %d: nothing is reported", skip)
		}
		lost.Release()
		r.reopen(func() { r.must(r.fs.RemoveAll("/d/index")) }) // which has nothing without a header
		for n := range 4 {
			if _, err := r.read(n); err != nil {
				t.Errorf("skip %d: shard %d: %v", skip, n, err)
			}
		}
	}
}

// TestSegmentOfAnotherDriveIsLeftAlone: a file that was put here by mistake is
// told as what it is, and neither cut nor removed.
func TestSegmentOfAnotherDriveIsLeftAlone(t *testing.T) {
	other := newRig(t, func(c *Config) { c.Drive = storagenode.DriveID{9} })
	other.put(1, 5000)
	path, _ := other.at(1)
	other.must(other.Store.Close())
	f, err := other.fs.OpenFile(path, os.O_RDONLY)
	other.must(err)
	st, err := f.Stat()
	other.must(err)
	want := make([]byte, st.Size)
	_, err = f.ReadAt(want, 0)
	other.must(err)
	other.must(f.Close())

	var log bytes.Buffer
	r := newRig(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	r.put(1, 5000)
	r.put(2, 5000)
	strange := filepath.Join(r.segDir, segName(7))
	r.reopen(func() {
		f, err := r.fs.OpenFile(strange, os.O_RDWR|os.O_CREATE)
		r.must(err)
		_, err = f.WriteAt(want, 0)
		r.must(err)
		r.must(f.Close())
	})
	if rep := r.OpenReport(); len(rep.Damaged) > 0 || strings.Contains(log.String(), "damage") {
		t.Errorf("it is called damage: %+v\n%s", rep, log.String())
	}
	if said := log.String(); !strings.Contains(said, "of another drive") || !strings.Contains(said, "file="+strange) || !strings.Contains(said, "of="+other.cfg.Drive.String()) {
		t.Errorf("said: %s", said)
	}
	r.put(3, 5000)
	for range 3 {
		r.clock.advance(time.Hour)
		r.must(r.keep(r.Context()))
	}
	f, err = r.fs.OpenFile(strange, os.O_RDONLY)
	r.must(err)
	have := make([]byte, len(want))
	if _, err := f.ReadAt(have, 0); err != nil || !bytes.Equal(have, want) {
		t.Errorf("the file was changed: %v", err)
	}
	r.must(f.Close())
	for n := 1; n < 4; n++ {
		r.holds(n, 5000)
	}
}
