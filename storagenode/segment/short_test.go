package segment

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// TestProcessShort: want of files or memory refuses what needs them, and the drive
// goes on as soon as there are some.
func TestProcessShort(t *testing.T) {
	for name, rule := range map[string]vfs.Rule{
		"no file for a segment":        {Ops: vfs.OpCreate, Path: "/segments/", Err: syscall.EMFILE},
		"no file in the system":        {Ops: vfs.OpCreate, Path: "/segments/", Err: syscall.ENFILE},
		"no file for the directory":    {Ops: vfs.OpSyncDir, Path: "/segments", Err: syscall.EMFILE},
		"no memory for a write":        {Ops: vfs.OpWrite, Path: "/segments/", Err: syscall.ENOMEM},
		"no memory for an allocation":  {Ops: vfs.OpAllocate, Path: "/segments/", Err: syscall.ENOMEM},
		"no memory to cut a segment":   {Ops: vfs.OpTruncate, Path: "/segments/", Err: syscall.ENOMEM},
		"no memory to remove one":      {Ops: vfs.OpRemove, Path: "/segments/", Err: syscall.ENOMEM},
		"no memory to look at the dir": {Ops: vfs.OpStat, Path: "/segments", Err: syscall.ENOMEM},
		"no file for anything":         {Ops: vfs.OpOpen | vfs.OpCreate | vfs.OpSyncDir | vfs.OpList | vfs.OpLock, Err: syscall.EMFILE},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(c *Config) { c.Grace = -1 })
			for n := range 10 {
				r.put(n, 20<<10)
			}
			for n := range 5 {
				r.must(r.Delete(r.Context(), 1, 2, testBlob(uint64(n))))
			}
			r.fault.Inject(rule)
			for n := 10; n < 20; n++ { // over the end of the segment, and it is cleaned up behind it
				if err := r.tryPut(n, 20<<10); err != nil && !errors.Is(err, storagenode.ErrUnavailable) &&
					!errors.Is(err, storagenode.ErrReadOnly) { // where the index has lost a file
					t.Errorf("put: %v", err)
				}
				r.clock.advance(2 * time.Hour)
				_ = r.keep(r.Context())
				r.checkDir()
			}
			r.must(r.Health())
			r.fault.Clear()
			r.clock.advance(10 * time.Second)
			r.must(r.keep(r.Context()))
			r.put(99, 20<<10)
			r.reopen(nil)
			for n := 5; n < 10; n++ {
				r.holds(n, 20<<10)
			}
			r.holds(99, 20<<10)
		})
	}
}

// TestFailedSyncIsFinal: also where its reason is one that a write would outlive.
func TestFailedSyncIsFinal(t *testing.T) {
	for _, why := range []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.ENOMEM} {
		for what, by := range map[string]func(r *rig){
			"a group":         func(r *rig) { _ = r.tryPut(2, 1000) },
			"zeros are ahead": func(r *rig) { r.fillAhead(vfs.AlignedBuffer(256 << 10)) },
		} {
			r := newRig(t, func(c *Config) { c.SegmentSize = 64 << 20 })
			r.put(1, 1000)
			rule := r.fault.Inject(vfs.Rule{Ops: vfs.OpSync, Path: "/segments/", Times: 1, Err: why})
			for i := 0; i < 1000 && r.Health() == nil; i++ { // the store fills, too, beside this
				if rule.Hits() == 0 {
					by(r)
				} else {
					time.Sleep(5 * time.Millisecond)
				}
			}
			if !errors.Is(r.Health(), storagenode.ErrBroken) {
				t.Errorf("%v of %s: %v after %d failed syncs", why, what, r.Health(), rule.Hits())
			}
		}
	}
}

// TestFullStaysFull: a drive whose free space goes back and forth around its reserve
// is full, until clearly more is free.
func TestFullStaysFull(t *testing.T) {
	r := newRig(t, nil)
	r.must(r.Store.Close())
	r.fs.SetCapacity(32 << 20)
	r.open()
	hog, err := r.fs.OpenFile("/hog", os.O_RDWR|os.O_CREATE)
	r.must(err)
	set := func(free int64) bool {
		u, err := r.fs.Usage("/d")
		r.must(err)
		st, err := hog.Stat()
		r.must(err)
		size := st.Size + u.Free - free
		r.must(hog.Truncate(0))
		for off := int64(0); off < size; off += 64 << 10 {
			_, err := hog.WriteAt(make([]byte, min(64<<10, size-off)), off)
			r.must(err)
		}
		r.clock.advance(10 * time.Second)
		r.checkSpace()
		return r.Space().ReadOnly
	}
	for i, c := range []struct {
		free int64
		want bool
	}{
		{r.spare + 64<<10, false}, {r.spare - 64<<10, true}, {r.spare + 16<<10, true},
		{r.spare - 64<<10, true}, {r.spare + 128<<10, false}, {r.spare + 16<<10, false},
	} {
		if got := set(c.free); got != c.want {
			t.Errorf("step %d: full %v", i, got)
		}
	}
}

// TestQuotaDoesNotFlap: a quota does not show in what is free.
func TestQuotaDoesNotFlap(t *testing.T) {
	r := newRig(t, nil)
	r.put(1, 1000)
	r.fault.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: "/segments/", Err: syscall.EDQUOT})
	if err := r.tryPut(2, 1000); !errors.Is(err, storagenode.ErrReadOnly) {
		t.Fatal(err)
	}
	r.clock.advance(2 * time.Second)
	if err := r.tryPut(3, 1000); !errors.Is(err, storagenode.ErrReadOnly) || errors.Is(err, syscall.EDQUOT) {
		t.Errorf("tried again: %v", err)
	}
	r.fault.Clear()
	err := storagenode.ErrReadOnly
	for i := 0; i < 5 && err != nil; i++ { // the filler may have been refused just now, too
		r.clock.advance(10 * time.Second)
		err = r.tryPut(4, 1000)
	}
	r.must(err)
}

// TestTokenOutlivesNoRefusal: a token of a record that found no space stands for
// nothing, however many groups were refused since.
func TestTokenOutlivesNoRefusal(t *testing.T) {
	r := newRig(t, func(c *Config) { c.SegmentSize = 4 << 20 })
	r.put(1, 1000)
	r.fault.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: "/segments/", Err: syscall.ENOSPC})
	token, err := r.Put(r.Context(), storagenode.Shard{ID: rigID(2), K: 1, M: 1, Payload: []byte("x")})
	r.must(err)
	for n := range 3 << refusalBits {
		if err := r.Delete(r.Context(), 1, 2, testBlob(uint64(1000+n))); !errors.Is(err, storagenode.ErrReadOnly) {
			t.Fatal(err)
		}
		if err := r.Sync(r.Context(), token); !errors.Is(err, storagenode.ErrUnavailable) {
			t.Fatalf("after %d refused groups: %v", n+1, err)
		}
	}
	r.fault.Clear()
	r.fails(2, storagenode.ErrNotFound)
	token, err = r.Put(r.Context(), storagenode.Shard{ID: rigID(3), K: 1, M: 1, Payload: rigPayload(3, 10)})
	if errors.Is(err, storagenode.ErrReadOnly) {
		r.clock.advance(10 * time.Second)
		token, err = r.Put(r.Context(), storagenode.Shard{ID: rigID(3), K: 1, M: 1, Payload: rigPayload(3, 10)})
	}
	r.must(err)
	r.must(r.Sync(r.Context(), token))
	r.holds(3, 10)
}

// TestSegmentCannotBeRemoved: a copying file system may want space to remove a file,
// and a full one refuses. The segment is removed once there is some.
func TestSegmentCannotBeRemoved(t *testing.T) {
	for _, why := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.ENOMEM} {
		r := newRig(t, func(c *Config) { c.Grace = -1 })
		for n := range 30 {
			r.put(n, 20<<10)
		}
		for n := range 20 {
			r.must(r.Delete(r.Context(), 1, 2, testBlob(uint64(n))))
		}
		before := len(r.segments())
		rule := r.fault.Inject(vfs.Rule{Ops: vfs.OpRemove, Path: segSuffix, Err: why})
		for range 3 {
			_ = r.keep(r.Context())
		}
		if rule.Hits() == 0 {
			t.Fatal("no segment was to be removed")
		}
		r.must(r.Health())
		r.fault.Clear()
		r.clock.advance(10 * time.Second)
		r.must(r.keep(r.Context()))
		if after := len(r.segments()); after > before/2 {
			t.Errorf("%d segments of %d are left", after, before)
		}
		for _, lost := range []bool{false, true} {
			r.reopen(func() {
				if lost {
					r.must(r.fs.RemoveAll("/d/index"))
				}
			})
			for n := range 30 {
				if _, err := r.Stat(r.Context(), rigID(n)); n < 20 != errors.Is(err, storagenode.ErrNotFound) {
					t.Errorf("shard %d: %v", n, err)
				}
			}
		}
	}
}

// TestShortReadsAtOpen: reads that fail or come back short while the segments are
// opened, or files that seem to be shorter than they are, remove and cut nothing: the
// open fails, or tells of damage, and the next one finds all there is.
func TestShortReadsAtOpen(t *testing.T) {
	for name, rule := range map[string]vfs.Rule{
		"short":            {Ops: vfs.OpRead, Short: true},
		"short, then none": {Ops: vfs.OpRead, Short: true, Err: syscall.EIO},
		"EIO":              {Ops: vfs.OpRead, Err: syscall.EIO},
		"no memory":        {Ops: vfs.OpRead, Err: syscall.ENOMEM},
		"no file":          {Ops: vfs.OpOpen, Err: syscall.EMFILE},
		"no stat":          {Ops: vfs.OpStat, Err: syscall.ENOMEM},
	} {
		for _, skip := range []int{0, 1, 2, 3, 5} {
			for _, times := range []int{1, 2, 3, 0} {
				for _, lost := range []bool{false, true} {
					r := newRig(t, nil)
					for n := range 6 {
						r.put(n, 20<<10)
					}
					mem := r.fs.Crash(rand.New(rand.NewPCG(1, 1)))
					_ = r.Store.Close()
					r.fs, r.fault = mem, vfs.NewFault(mem)
					r.cfg.FS = r.fault
					if lost {
						r.must(r.fs.RemoveAll("/d/index"))
					}
					before, err := r.fs.List(r.segDir)
					r.must(err)
					rule.Path, rule.Skip, rule.Times = "/segments/", skip, times
					r.fault.Inject(rule)
					s, err := Open(r.Context(), r.cfg)
					if short(rule.Err) && err == nil && len(s.OpenReport().Damaged)+len(s.OpenReport().Corrupt) > 0 {
						t.Errorf("%s, skip %d, times %d: called damage", name, skip, times)
					}
					if err == nil {
						_ = s.Close()
					}
					r.fault.Clear()
					for _, file := range before {
						if _, err := r.fs.Stat(filepath.Join(r.segDir, file)); err != nil {
							t.Fatalf("%s, skip %d, times %d, index lost %v: %v", name, skip, times, lost, err)
						}
					}
					r.must(r.fs.RemoveAll("/d/index")) // which may have nothing of what could not be read
					r.open()
					for n := range 6 {
						if _, err := r.read(n); err != nil {
							t.Fatalf("%s, skip %d, times %d, index lost %v: shard %d: %v", name, skip, times, lost, n, err)
						}
					}
					r.must(r.Store.Close())
				}
			}
		}
	}
}
