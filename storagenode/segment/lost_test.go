package segment

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// listed says which of the test's shards a listing of their slot shows.
func (r *rig) listed(n int) []bool {
	r.Helper()
	out := make([]bool, n+1)
	for i := 1; i <= n; i++ {
		id := rigID(i)
		for info, err := range r.List(r.Context(), id.PG, int(id.Slot), storagenode.BlobID{}) {
			r.must(err)
			out[i] = out[i] || info.ID == id
		}
	}
	return out
}

// TestSegmentLost: what was in a segment whose file was removed or cut, while the
// store was open or closed, is not listed any more, is told, and can be put again.
func TestSegmentLost(t *testing.T) {
	const n = 4
	for what, lose := range map[string]func(r *rig, path string){
		"removed while open": func(r *rig, path string) {
			r.must(r.fs.Remove(path))
			r.checkSegments()
		},
		"removed before a list": func(r *rig, path string) {
			r.must(r.fs.Remove(path))
			r.clock.advance(2 * lookAfter)
			if got := r.listed(n); got[2] {
				t.Fatal("it is listed")
			}
			if _, err := r.Stat(r.Context(), rigID(2)); !errors.Is(err, storagenode.ErrCorrupt) {
				t.Fatalf("stat: %v", err)
			}
			r.put(2, 40<<10)
			if got := r.listed(n); !got[2] {
				t.Fatal("what was put again before is not listed")
			}
			r.reopen(nil)
			path, _ = r.at(2)
			r.must(r.fs.Remove(path))
			r.checkSegments()
		},
		"removed while closed": func(r *rig, path string) {
			r.reopen(func() { r.must(r.fs.Remove(path)) })
		},
		"cut while closed": func(r *rig, path string) {
			r.reopen(func() {
				f, err := r.fs.OpenFile(path, 2)
				r.must(err)
				r.must(errors.Join(f.Truncate(superSize+8), f.Close()))
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, nil)
			for i := 1; i <= n; i++ {
				r.put(i, 40<<10)
			}
			r.reopen(nil) // all are sealed and indexed
			path, _ := r.at(2)
			lose(r, path)
			if got := r.listed(n); got[2] || !got[1] || !got[3] || !got[4] {
				t.Fatalf("listed: %v", got)
			}
			r.fails(2, storagenode.ErrCorrupt)
			r.mu.Lock()
			told := slices.Clone(r.damaged)
			r.mu.Unlock()
			if !slices.Equal(told, []storagenode.ShardID{rigID(2)}) {
				t.Fatalf("told of %v", told)
			}
			r.must(r.Health())
			r.put(2, 40<<10)
			r.holds(2, 40<<10)
			if got := r.listed(n); !got[2] {
				t.Fatal("what was put again is not listed")
			}
			r.reopen(nil)
			for i := 1; i <= n; i++ {
				r.holds(i, 40<<10)
			}
		})
	}
}

// TestActiveSegmentLost: with the segment that is written to the directory was
// emptied, also where nobody writes.
func TestActiveSegmentLost(t *testing.T) {
	r := newRig(t, nil)
	r.put(1, 100)
	path, _ := r.at(1)
	r.must(r.fs.Remove(path))
	r.checkSegments()
	if err := r.Health(); !errors.Is(err, storagenode.ErrBroken) {
		t.Fatal(err)
	}
	if _, err := r.ReadAt(context.Background(), rigID(1), 0, make([]byte, 1)); !errors.Is(err, storagenode.ErrBroken) {
		t.Fatal(err)
	}
}

// TestLostSegmentIsCompacted: a segment whose file was removed, and whose shards were
// all put again, is won back as any other.
func TestLostSegmentIsCompacted(t *testing.T) {
	r := newRig(t, nil)
	r.put(1, 40<<10)
	r.reopen(nil)
	path, e := r.at(1)
	r.must(r.fs.Remove(path))
	r.put(1, 40<<10)
	r.must(r.keep(r.Context()))
	if g := (*r.segs.Load())[e.segment]; g != nil {
		t.Fatal("the segment is still there")
	}
	r.must(r.Health())
	r.holds(1, 40<<10)
}

// cut shortens a file so that no record is left in it.
func (r *rig) cut(path string) {
	r.Helper()
	f, err := r.fs.OpenFile(path, os.O_RDWR)
	r.must(err)
	r.must(errors.Join(f.Truncate(superSize+8), f.Close()))
}

// TestCutSegmentIsCompacted: a segment that was cut while the store was closed, and
// whose shards were all put again, is won back; before that it is kept.
func TestCutSegmentIsCompacted(t *testing.T) {
	r := newRig(t, nil)
	r.put(1, 4<<10)
	r.put(2, 20<<10)
	path, e := r.at(1)
	r.reopen(func() { r.cut(path) })
	for n, size := range []int{1: 4 << 10, 2: 20 << 10} {
		if n == 0 {
			continue
		}
		r.must(r.keep(r.Context()))
		if (*r.segs.Load())[e.segment] == nil {
			t.Fatalf("it is gone before shard %d was put again", n)
		}
		r.put(n, size)
	}
	r.must(r.keep(r.Context()))
	if (*r.segs.Load())[e.segment] != nil {
		t.Fatal("the segment is still there")
	}
	r.must(r.Health())
	r.holds(1, 4<<10)
	r.holds(2, 20<<10)
}

// TestCutTail: what a segment that had not ended lost is not listed after any later
// open either: its file is not made as long again as it was.
func TestCutTail(t *testing.T) {
	r := newRig(t, nil)
	r.put(1, 4<<10)
	r.put(2, 4<<10)
	r.must(r.checkpoint(true))
	path, _ := r.at(1)
	r.reopen(func() { r.cut(path) })
	for range 2 {
		if got := r.listed(2); got[1] || got[2] {
			t.Fatalf("listed: %v", got)
		}
		r.fails(1, storagenode.ErrCorrupt)
		r.reopen(nil)
	}
}

// staleFS is a file system that says what was so a moment ago, as one over a network
// may: a file is not listed yet, or is shorter than it has become.
type staleFS struct {
	vfs.FS
	hidden string // a path that List does not have
	cut    int64  // bytes that Stat of that file does not count
}

func (s *staleFS) List(dir string) ([]string, error) {
	names, err := s.FS.List(dir)
	return slices.DeleteFunc(names, func(n string) bool { return s.cut == 0 && filepath.Join(dir, n) == s.hidden }), err
}

func (s *staleFS) OpenFile(path string, flag int) (vfs.File, error) {
	f, err := s.FS.OpenFile(path, flag)
	if err == nil && path == s.hidden {
		f = &staleFile{f, s.cut}
	}
	return f, err
}

type staleFile struct {
	vfs.File
	cut int64
}

func (f *staleFile) Stat() (vfs.Stat, error) {
	st, err := f.File.Stat()
	st.Size = max(0, st.Size-f.cut)
	return st, err
}

// TestStaleListing: a segment that is not listed is lost only where it is not there.
func TestStaleListing(t *testing.T) {
	for _, n := range []int{1, 3} { // sealed, and written to
		r := newRig(t, nil)
		stale := &staleFS{FS: r.fault}
		r.reopen(func() { r.cfg.FS = stale })
		for i := 1; i <= 3; i++ {
			r.put(i, 40<<10)
		}
		path, _ := r.at(n)
		stale.hidden = path
		r.checkSegments()
		r.clock.advance(2 * lookAfter)
		if got := r.listed(3); !got[1] || !got[2] || !got[3] {
			t.Errorf("listed: %v", got)
		}
		r.must(r.Health())
		if rep := r.OpenReport(); len(rep.Damaged)+len(rep.Corrupt) > 0 {
			t.Errorf("%+v", rep)
		}
		r.holds(n, 40<<10)
		r.must(r.fs.Remove(path))
		r.checkSegments()
		if got := r.Health() != nil || !r.listed(3)[n]; !got {
			t.Error("its loss is not noticed")
		}
	}
}

// TestStaleListingAtOpen: a segment that is not listed at an open, but is there, is
// neither lost nor in the way of a new one, whether the index knows it or not.
func TestStaleListingAtOpen(t *testing.T) {
	for _, known := range []bool{true, false} {
		for _, n := range []int{1, 3} {
			if n == 1 && !known {
				continue // it was sealed: the index has it
			}
			r := newRig(t, nil)
			for i := 1; i <= 3; i++ {
				r.put(i, 40<<10)
				if i < 3 || known {
					r.must(r.checkpoint(true))
				}
			}
			path, _ := r.at(n)
			mem := r.fs.Crash(rand.New(rand.NewPCG(1, 1)))
			_ = r.Store.Close()
			r.fs, r.fault = mem, vfs.NewFault(mem)
			r.cfg.FS = &staleFS{FS: r.fault, hidden: path}
			r.open()
			if rep := r.OpenReport(); len(rep.Damaged)+len(rep.Corrupt) > 0 {
				t.Errorf("segment %d, known %v: %+v", n, known, rep)
			}
			r.put(4, 40<<10)
			r.must(r.Health())
			for _, again := range []bool{false, true} {
				if again {
					r.reopen(func() { r.cfg.FS = r.fault })
				}
				for i := 1; i <= 4; i++ {
					r.holds(i, 40<<10)
				}
			}
		}
	}
}

// TestStaleSizeAfterACrash: what the index had not seen yet of a segment that seems to be
// shorter than it was is found once it has its size again.
func TestStaleSizeAfterACrash(t *testing.T) {
	r := newRig(t, nil)
	r.put(1, 4<<10)
	r.must(r.checkpoint(true))
	r.put(2, 4<<10)
	path, _ := r.at(2)
	mem := r.fs.Crash(rand.New(rand.NewPCG(1, 1)))
	_ = r.Store.Close()
	r.fs, r.fault = mem, vfs.NewFault(mem)
	r.cfg.FS = &staleFS{FS: r.fault, hidden: path, cut: int64(len(r.contents(path))) - superSize - 8}
	r.open()
	r.reopen(func() { r.cfg.FS = r.fault })
	for n := range 2 {
		r.holds(n+1, 4<<10)
	}
}

// TestStaleSize: a segment that seems to be shorter than it was is not cut to that.
func TestStaleSize(t *testing.T) {
	r := newRig(t, nil)
	r.put(1, 4<<10)
	r.put(2, 4<<10)
	r.must(r.checkpoint(true))
	path, _ := r.at(1)
	before := r.contents(path)
	r.reopen(func() { r.cfg.FS = &staleFS{FS: r.fault, hidden: path, cut: int64(len(before)) - superSize - 8} })
	r.reopen(func() { r.cfg.FS = r.fault })
	for n := range 2 {
		r.holds(n+1, 4<<10)
	}
}
