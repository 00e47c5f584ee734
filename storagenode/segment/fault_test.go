package segment

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/vfs"
)

// TestFullDrive fills a small drive: it turns read-only at its reserve, deletes
// and compaction go on, and it takes writes again.
func TestFullDrive(t *testing.T) {
	r := newRig(t, func(c *Config) { c.SegmentSize, c.Grace = 0, -1 })
	r.must(r.Store.Close())
	r.fs.SetCapacity(64 << 20)
	r.open()
	n := 0
	var err error
	for ; n < 2000; n++ {
		if err = r.tryPut(n, 100_000); err != nil {
			break
		}
		r.clock.advance(time.Second)
	}
	if !errors.Is(err, storagenode.ErrReadOnly) || !r.Space().ReadOnly {
		t.Fatalf("put %d: %v", n, err)
	}
	if n < 300 {
		t.Fatalf("read-only after %d shards of 100 kB on 64 MiB", n)
	}
	for i := range n - 3 {
		r.must(r.Delete(r.Context(), 1, 2, testBlob(uint64(i))))
	}
	for range 4 {
		r.clock.advance(2 * time.Hour)
		r.must(r.keep(r.Context()))
	}
	r.clock.advance(2 * time.Second)
	r.put(5000, 100_000)
	r.holds(5000, 100_000)
	r.holds(n-1, 100_000)
	r.must(r.Health())
}

// TestSlotLeavesFullDrive: a full drive, one slot of which was moved away, gives the
// space of that slot back, among which others lie.
func TestSlotLeavesFullDrive(t *testing.T) {
	r := newRig(t, func(c *Config) { c.SegmentSize, c.Grace = 0, -1 })
	r.must(r.Store.Close())
	r.fs.SetCapacity(64 << 20)
	r.open()
	other := func(n int) storagenode.ShardID {
		return storagenode.ShardID{PG: 1, Slot: 3, Blob: testBlob(uint64(n))}
	}
	n := 0
	for ; r.tryPut(n, 100_000) == nil; n++ {
		if t, err := r.Put(r.Context(), storagenode.Shard{ID: other(n), K: 1, M: 1, Payload: rigPayload(n, 20_000), StripeLen: 20_000}); err == nil {
			_ = r.Sync(r.Context(), t)
		}
		r.clock.advance(time.Second)
	}
	if !r.Space().ReadOnly {
		t.Fatal("not full")
	}
	r.must(r.SetSlotEpoch(r.Context(), 1, 2, 1))
	r.must(r.DropSlot(r.Context(), 1, 2, 1))
	for range 4 {
		r.clock.advance(2 * time.Hour)
		r.must(r.keep(r.Context()))
	}
	r.clock.advance(2 * time.Second)
	if s := r.Space(); s.ReadOnly || s.Free < 16<<20 {
		t.Fatalf("%+v of 64 MiB after %d of 120 kB left but 20 kB each", s, n)
	}
	for i := range n - 1 {
		p := make([]byte, 20_000)
		if _, err := r.ReadAt(r.Context(), other(i), 0, p); err != nil || !bytes.Equal(p, rigPayload(i, 20_000)) {
			t.Fatalf("shard %d: %v", i, err)
		}
	}
	r.must(r.Health())
}

// TestForeignFull: another program takes the last byte. The drive goes on
// reading, loses at most its index, and recovers when there is space.
func TestForeignFull(t *testing.T) {
	for _, reopen := range []bool{false, true} {
		r := newRig(t, nil)
		r.must(r.Store.Close())
		r.fs.SetCapacity(32 << 20)
		r.open()
		for n := range 50 {
			r.put(n, 3000)
		}
		hog, err := r.fs.OpenFile("/hog", os.O_RDWR|os.O_CREATE)
		r.must(err)
		chunk := make([]byte, 64<<10)
		for i := range chunk {
			chunk[i] = 1
		}
		for off, size := int64(0), len(chunk); size > 0; {
			if _, err := hog.WriteAt(chunk[:size], off); err != nil {
				size /= 2
				continue
			}
			off += int64(size)
		}
		for n := range 30 { // some still fit into what was allocated
			r.clock.advance(10 * time.Second)
			if err := r.tryPut(100+n, 3000); err != nil && !errors.Is(err, storagenode.ErrReadOnly) {
				t.Fatal(err)
			}
			_ = r.keep(r.Context()) // checkpoints fail
		}
		if err := r.tryPut(999, 3000); !errors.Is(err, storagenode.ErrReadOnly) {
			t.Fatalf("put on a full drive: %v", err)
		}
		if reopen {
			r.reopen(nil)
		}
		for n := range 50 {
			r.holds(n, 3000)
		}
		r.must(r.Health())
		r.must(hog.Truncate(0))
		r.must(hog.Close())
		r.clock.advance(10 * time.Second)
		r.must(r.keep(r.Context()))
		r.put(1000, 3000)
		r.reopen(nil)
		for n := range 50 {
			r.holds(n, 3000)
		}
		r.holds(1000, 3000)
	}
}

// TestNoSpaceOnWrite: a write that finds no space leaves the drive in order.
func TestNoSpaceOnWrite(t *testing.T) {
	r := newRig(t, nil)
	r.put(1, 1000)
	r.fault.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: "/segments/", Err: syscall.ENOSPC, Short: true})
	if err := r.tryPut(2, 1000); !errors.Is(err, storagenode.ErrReadOnly) {
		t.Fatalf("put: %v", err)
	}
	r.fault.Clear()
	r.clock.advance(5 * time.Second)
	err := r.tryPut(3, 1000)
	if errors.Is(err, storagenode.ErrReadOnly) { // zeros ahead that were being written found no space, and say so now
		r.clock.advance(5 * time.Second)
		err = r.tryPut(3, 1000)
	}
	r.must(err)
	r.must(r.Health())
	r.reopen(nil)
	if rep := r.OpenReport(); len(rep.Damaged) > 0 {
		t.Fatalf("a failed write was taken for damage: %+v", rep)
	}
	r.holds(1, 1000)
	r.fails(2, storagenode.ErrNotFound)
	r.holds(3, 1000)
}

// TestRebuildAfterNoSpace: a segment that ends in records which found no space
// does not keep the index from being rebuilt.
func TestRebuildAfterNoSpace(t *testing.T) {
	r := newRig(t, nil)
	r.put(1, 1000)
	r.fault.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: "/segments/", Err: syscall.ENOSPC})
	for n := 2; n < 40; n++ { // beyond what was filled ahead
		if err := r.tryPut(n, 60_000); !errors.Is(err, storagenode.ErrReadOnly) {
			t.Fatalf("put: %v", err)
		}
		r.clock.advance(5 * time.Second)
	}
	r.applyMu.Lock()
	err := r.rebuild(r.Context())
	r.applyMu.Unlock()
	r.must(err)
	r.fault.Clear()
	r.clock.advance(5 * time.Second)
	r.put(100, 1000)
	for _, reopen := range []bool{false, true} {
		if reopen {
			r.reopen(nil)
		}
		r.holds(1, 1000)
		r.fails(2, storagenode.ErrNotFound)
		r.holds(100, 1000)
	}
}

// TestBrokenOnError: an error of write or fsync is final; nothing is
// acknowledged after it, and reads go on.
func TestBrokenOnError(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync} {
		r := newRig(t, nil)
		r.put(1, 1000)
		r.fault.Inject(vfs.Rule{Ops: op, Path: "/segments/", Err: syscall.EIO})
		for n := 2; n < 5; n++ {
			if err := r.tryPut(n, 1000); !errors.Is(err, storagenode.ErrBroken) {
				t.Fatalf("op %d: %v", op, err)
			}
		}
		if err := r.Delete(r.Context(), 1, 2, testBlob(1)); !errors.Is(err, storagenode.ErrBroken) {
			t.Fatalf("delete: %v", err)
		}
		if err := r.Health(); !errors.Is(err, storagenode.ErrBroken) {
			t.Fatalf("health: %v", err)
		}
		r.holds(1, 1000)
		r.fails(2, storagenode.ErrNotFound)
	}
}

// TestReadErrors: the third EIO on reading breaks the drive.
func TestReadErrors(t *testing.T) {
	r := newRig(t, nil)
	r.put(1, 1000)
	r.fault.Inject(vfs.Rule{Ops: vfs.OpRead, Path: "/segments/", Err: syscall.EIO})
	r.fails(1, storagenode.ErrCorrupt)
	r.fails(1, storagenode.ErrCorrupt)
	r.must(r.Health())
	r.fails(1, storagenode.ErrCorrupt)
	r.fails(1, storagenode.ErrBroken)
	if err := r.Health(); !errors.Is(err, storagenode.ErrBroken) {
		t.Fatal(err)
	}
}

// TestEmptied: a drive whose directory was emptied or replaced is broken.
func TestEmptied(t *testing.T) {
	t.Run("segment unlinked", func(t *testing.T) {
		r := newRig(t, nil)
		r.put(1, 100)
		path, _ := r.at(1)
		r.must(r.fs.Remove(path))
		if err := r.tryPut(2, 100); !errors.Is(err, storagenode.ErrBroken) {
			t.Fatal(err)
		}
	})
	t.Run("directory replaced", func(t *testing.T) {
		r := newRig(t, nil)
		r.put(1, 100)
		r.must(r.fs.Rename("/d/segments", "/d/away"))
		r.must(r.fs.Mkdir("/d/segments"))
		r.checkDir()
		if err := r.Health(); !errors.Is(err, storagenode.ErrBroken) {
			t.Fatal(err)
		}
	})
}

// recovers waits until what was stuck has ended, all of it.
func (r *rig) recovers() {
	r.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if err := r.Health(); err == nil {
			return
		} else if time.Now().After(end) {
			r.Fatal(err)
		}
	}
}

// TestHang: a stuck sync or read holds up nobody past their deadline, and makes
// the drive suspect.
func TestHang(t *testing.T) {
	t.Run("sync", func(t *testing.T) {
		r := newRig(t, nil)
		r.put(1, 100)
		hang := r.fault.Inject(vfs.Rule{Ops: vfs.OpSync, Path: "/segments/", Hang: true})
		defer hang.Release()
		tok, err := r.Put(r.Context(), storagenode.Shard{ID: rigID(2), K: 1, Payload: []byte("x")})
		r.must(err)
		ctx, cancel := context.WithTimeout(r.Context(), 30*time.Millisecond)
		defer cancel()
		if err := r.Sync(ctx, tok); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		r.holds(1, 100)
		r.must(r.Health())
		r.clock.advance(11 * time.Second)
		if err := r.Health(); !errors.Is(err, storagenode.ErrSuspect) {
			t.Fatal(err)
		}
		hang.Release()
		r.must(r.Sync(r.Context(), tok))
		r.recovers()
		r.must(r.Store.Close())
	})
	t.Run("read", func(t *testing.T) {
		r := newRig(t, nil)
		r.put(1, 100)
		hang := r.fault.Inject(vfs.Rule{Ops: vfs.OpRead, Path: "/segments/", Hang: true})
		var wg sync.WaitGroup
		for range gatePlaces {
			wg.Go(func() { r.holds(1, 100) })
		}
		for hang.Waiting() < gatePlaces {
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(r.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := r.ReadAt(ctx, rigID(1), 0, make([]byte, 10)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		r.clock.advance(11 * time.Second)
		if _, err := r.ReadAt(r.Context(), rigID(1), 0, make([]byte, 10)); !errors.Is(err, storagenode.ErrSuspect) {
			t.Fatal(err)
		}
		hang.Release()
		wg.Wait()
		r.holds(1, 100)
		r.must(r.Health())
	})
}

// TestHangInUpkeep: a drive on which compaction is stuck is suspect, though nobody else
// asks it for anything.
func TestHangInUpkeep(t *testing.T) {
	for name, rule := range map[string]vfs.Rule{
		"read":   {Ops: vfs.OpRead},
		"write":  {Ops: vfs.OpWrite},
		"remove": {Ops: vfs.OpRemove},
		"sync":   {Ops: vfs.OpSyncDir},
		"trim":   {Ops: vfs.OpTruncate},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(c *Config) { c.Grace, c.SegmentSize = -1, 256<<10 })
			for n := range 20 {
				r.put(n, 100_000)
			}
			for n := range 19 {
				if n%4 > 0 {
					r.must(r.Delete(r.Context(), 1, 2, testBlob(uint64(n))))
				}
			}
			rule.Path, rule.Hang, rule.Times = "/segments", true, 1
			hang := r.fault.Inject(rule)
			kept := make(chan error, 1)
			go func() { kept <- r.keep(r.Context()) }()
			for hang.Waiting() == 0 {
				select {
				case err := <-kept:
					t.Fatalf("upkeep did not come there: %v", err)
				case <-time.After(time.Millisecond):
				}
			}
			r.must(r.Health())
			r.clock.advance(11 * time.Second)
			if err := r.Health(); !errors.Is(err, storagenode.ErrSuspect) {
				t.Errorf("stuck, and it is said: %v", err)
			}
			hang.Release()
			r.must(<-kept)
			r.recovers()
			for n := range 20 {
				if n%4 == 0 || n == 19 {
					r.holds(n, 100_000)
				}
			}
		})
	}
}

// TestOldToken: a token of a store that was closed acknowledges nothing.
func TestOldToken(t *testing.T) {
	r := newRig(t, nil)
	tok, err := r.Put(r.Context(), storagenode.Shard{ID: rigID(1), K: 1, Payload: []byte("x")})
	r.must(err)
	r.reopen(nil)
	r.put(2, 10)
	r.put(3, 10)
	if err := r.Sync(r.Context(), tok); !errors.Is(err, storagenode.ErrUnavailable) {
		t.Fatal(err)
	}
}

// TestDrop: a drop hides at once, is purged, survives and lets new ones in.
func TestDrop(t *testing.T) {
	r := newRig(t, nil)
	for n := range 600 {
		r.put(n, 20)
	}
	r.must(r.DropSlot(r.Context(), 1, 2, 0))
	r.fails(3, storagenode.ErrNotFound)
	r.put(3, 30)
	r.must(r.keep(r.Context()))
	for _, lost := range []bool{false, true} {
		r.reopen(func() {
			if lost {
				r.must(r.fs.RemoveAll("/d/index"))
			}
		})
		r.fails(4, storagenode.ErrNotFound)
		r.holds(3, 30)
	}
}

// TestRealFiles runs with the machine's clock and file system: the loops turn,
// zeros are filled ahead, and all is there after an open.
func TestRealFiles(t *testing.T) {
	r := &rig{T: t, cfg: Config{
		FS: vfs.OS(), Dir: t.TempDir(), Cluster: storagenode.UUID{1}, Drive: storagenode.DriveID{2},
		Clock: clock.System{}, SegmentSize: 1 << 20, Grace: -1,
	}}
	r.open()
	defer func() { _ = r.Store.Close() }()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				n := w*1000 + i
				if err := r.tryPut(n, 4000); err != nil {
					t.Errorf("put: %v", err)
				}
				if i%2 == 0 {
					if err := r.Delete(t.Context(), 1, 2, testBlob(uint64(n))); err != nil {
						t.Errorf("delete: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	r.must(r.keep(r.Context()))
	r.reopen(nil)
	for n := 1; n < 200; n += 2 {
		r.holds(n, 4000)
	}
	if _, err := r.Stat(t.Context(), rigID(2)); !errors.Is(err, storagenode.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(t.Context(), rigID(1), 3999, make([]byte, 2)); err != io.EOF {
		t.Fatal(err)
	}
}

// TestFillBehindAnOpenBlock: zeros are written ahead while the block before them is
// not closed yet; where the skip record that closes it needs some of the next block,
// they do not go over it.
func TestFillBehindAnOpenBlock(t *testing.T) {
	r := newRig(t, func(c *Config) { c.SegmentSize = 1 << 20 })
	r.put(1, 60_000) // too large to be filled ahead of
	size := 10*blockSize - recordAlign - headerSize - 8
	sh := storagenode.Shard{ID: rigID(2), K: 4, M: 2, Payload: rigPayload(2, size), StripeLen: uint32(size)}
	token, err := r.Put(r.Context(), sh)
	r.must(err)
	if left := -r.active.tail & (blockSize - 1); left != recordAlign {
		t.Fatalf("%d bytes are left of the block", left)
	}
	hang := r.fault.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: "/segments/", Times: 1, Hang: true})
	var fill sync.WaitGroup
	fill.Go(func() { r.fillAhead(vfs.AlignedBuffer(fillStep)) })
	for hang.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	r.must(r.Sync(r.Context(), token))
	hang.Release()
	fill.Wait()
	r.put(3, 60_000)
	r.reopen(func() { r.must(r.fs.RemoveAll("/d/index")) })
	if rep := r.OpenReport(); len(rep.Damaged) > 0 {
		t.Errorf("a skip record was written over: %+v", rep.Damaged)
	}
	r.holds(3, 60_000)
}

// TestSameFenceBesideAFailure: whoever raises a fence to where another call has just
// raised it is not told that it is durable where that one's record found no space.
func TestSameFenceBesideAFailure(t *testing.T) {
	r := newRig(t, nil)
	r.put(1, 1000)
	for epoch := range uint32(3000) {
		full := r.fault.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: "/segments/", Times: 1, Err: syscall.ENOSPC})
		var calls sync.WaitGroup
		var errs [4]error
		for i := range errs {
			calls.Go(func() { errs[i] = r.SetSlotEpoch(t.Context(), 1, 2, epoch+1) })
		}
		calls.Wait()
		full.Release()
		r.Store.mu.Lock()
		unsaved := r.unsaved[slotKeyOf(1, 2)]
		r.Store.mu.Unlock()
		if unsaved && slices.Contains(errs[:], nil) {
			t.Fatalf("epoch %d: its record could not be written, and the calls said %v", epoch+1, errs)
		}
	}
}

// TestTrimBesideWrites: a segment is sealed while records in it are replaced; for the
// race detector.
func TestTrimBesideWrites(t *testing.T) {
	r := newRig(t, nil)
	for n := range 8 {
		r.put(n, 3000)
	}
	r.fault.Inject(vfs.Rule{Ops: vfs.OpTruncate, Path: "/segments/", Delay: time.Millisecond})
	var puts sync.WaitGroup
	for n := range 4 {
		puts.Go(func() {
			for range 60 {
				r.put(n, 3000)
			}
		})
	}
	done := make(chan struct{})
	go func() { puts.Wait(); close(done) }()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		r.must(r.trimSealed())
	}
}

// slowFS is a file system on which every call for a segment takes its time.
type slowFS struct {
	vfs.FS
	step func()
}

type slowFile struct {
	vfs.File
	step func()
}

func (s slowFS) OpenFile(path string, flag int) (vfs.File, error) {
	f, err := s.FS.OpenFile(path, flag)
	if err != nil || !strings.Contains(path, "/segments/") {
		return f, err
	}
	return slowFile{f, s.step}, nil
}

func (s slowFS) Remove(path string) error {
	if strings.Contains(path, "/segments/") {
		s.step()
	}
	return s.FS.Remove(path)
}

func (s slowFS) SyncDir(path string) error {
	if strings.HasSuffix(path, "/segments") {
		s.step()
	}
	return s.FS.SyncDir(path)
}

func (f slowFile) ReadAt(p []byte, off int64) (int, error)  { f.step(); return f.File.ReadAt(p, off) }
func (f slowFile) WriteAt(p []byte, off int64) (int, error) { f.step(); return f.File.WriteAt(p, off) }
func (f slowFile) Truncate(n int64) error                   { f.step(); return f.File.Truncate(n) }
func (f slowFile) SyncData() error                          { f.step(); return f.File.SyncData() }
func (f slowFile) Sync() error                              { f.step(); return f.File.Sync() }

// TestSlowUpkeep: a compaction that takes minutes, no call of which is stuck, does not
// make the drive suspect.
func TestSlowUpkeep(t *testing.T) {
	var slow atomic.Bool
	var steps atomic.Int64
	var r *rig
	r = newRig(t, func(c *Config) {
		c.Grace, c.SegmentSize = -1, 256<<10
		c.FS = slowFS{c.FS, func() {
			if !slow.Load() {
				return
			}
			steps.Add(1)
			r.clock.advance(time.Second)
			if r.gate.suspect() {
				t.Error("suspect")
			}
		}}
	})
	for n := range 20 {
		r.put(n, 100_000)
	}
	for n := range 19 {
		if n%4 > 0 {
			r.must(r.Delete(r.Context(), 1, 2, testBlob(uint64(n))))
		}
	}
	slow.Store(true)
	r.must(r.keep(r.Context()))
	slow.Store(false)
	if steps.Load() < 60 {
		t.Fatalf("%d calls", steps.Load())
	}
	r.must(r.Health())
}
