package segment_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/segment"
	"kintsugi/storagenode/vfs"
)

// onceFS fails the test where a segment is written twice in one place, unless
// what was there before are zeros.
type onceFS struct {
	vfs.FS
	t *testing.T
}

func (f onceFS) OpenFile(path string, flag int) (vfs.File, error) {
	file, err := f.FS.OpenFile(path, flag)
	if err != nil || !strings.HasSuffix(path, ".seg") {
		return file, err
	}
	return &onceFile{File: file, t: f.t, written: map[int64]bool{}}, nil
}

type onceFile struct {
	vfs.File
	t       *testing.T
	mu      sync.Mutex
	written map[int64]bool
}

func (f *onceFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	for i := 0; i < len(p); i += vfs.BlockSize {
		at := off + int64(i)
		if f.written[at] {
			f.t.Errorf("%s: written twice at %d", filepath.Base(f.Name()), at)
		}
		f.written[at] = !bytes.Equal(p[i:i+vfs.BlockSize], make([]byte, vfs.BlockSize))
	}
	f.mu.Unlock()
	return f.File.WriteAt(p, off)
}

// TestNoBlockTwice has small and large records of all lengths modulo a block
// written side by side: no block is written over, all can be read, and a
// recovery finds no damage.
func TestNoBlockTwice(t *testing.T) {
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	cfg := segment.Config{FS: onceFS{mem, t}, Dir: "/d", SegmentSize: 1 << 20}
	s := open(t, cfg)
	const writers, each = 4, 80
	size := func(n int) int {
		if n%7 == 0 {
			return 70_000 + n*64
		}
		return 2 + n*64
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				token, err := s.Put(t.Context(), stagedShard(i*writers+w, size(i*writers+w)))
				if err == nil && i%5 == w {
					err = s.Sync(t.Context(), token)
				}
				if err != nil {
					t.Errorf("shard %d: %v", i*writers+w, err)
				}
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mem.RemoveAll("/d/index"); err != nil {
		t.Fatal(err)
	}
	cfg.FS = mem
	s = open(t, cfg)
	if r := s.OpenReport(); !r.Rebuilt || len(r.Damaged) > 0 || len(r.Corrupt) > 0 {
		t.Fatalf("after a rebuild of the index: %+v", r)
	}
	for n := range writers * each {
		want := stagedShard(n, size(n)).Payload
		got := make([]byte, len(want))
		if _, err := s.ReadAt(t.Context(), stagedShard(n, 2).ID, 0, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("shard %d: %v", n, err)
		}
	}
}

// TestWorstErrorOfGroup: where the writes of one group fail for several
// reasons, a full disk does not hide a broken one.
func TestWorstErrorOfGroup(t *testing.T) {
	fs := vfs.NewFault(vfs.OS())
	s := open(t, segment.Config{FS: fs, Dir: t.TempDir()})
	put := func(n, size int) storagenode.Token {
		token, err := s.Put(t.Context(), stagedShard(n, size))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	if err := s.Sync(t.Context(), put(1, 100_000)); err != nil { // makes the segment
		t.Fatal(err)
	}
	put(2, 100)
	put(3, 100_000) // parts the small ones into two runs
	last := put(4, 100)
	fs.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: ".seg", Times: 1, Err: syscall.EIO})
	fs.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: ".seg", Err: syscall.ENOSPC})
	if err := s.Sync(t.Context(), last); !errors.Is(err, storagenode.ErrBroken) {
		t.Fatalf("got %v, want a broken drive", err)
	}
}

// TestCloseTellsStaged: whoever staged is told, also while the drive closes.
func TestCloseTellsStaged(t *testing.T) {
	for range 10 {
		s := open(t, segment.Config{FS: vfs.NewMem(), Dir: "/"})
		token, err := s.Put(t.Context(), stagedShard(0, 10))
		if err == nil {
			err = s.Sync(t.Context(), token)
		}
		if err != nil {
			t.Fatal(err)
		}
		var wg, staged sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for n := 1; ; n++ {
					staged.Add(1)
					if !s.Stage(stagedShard(n*4+w, 10), func(error) { staged.Done() }) {
						staged.Done()
						return
					}
				}
			})
		}
		if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
		wg.Wait()
		staged.Wait()
	}
}
