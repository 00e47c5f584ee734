package journal_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kintsugi/storagenode/vfs"
)

// oneSnapshot has one snapshot made of sixty groups of a block, however slow the machine
// is: what is damaged must not be removed because another takes its place.
const oneSnapshot = 20 << 10

// TestDamageWhileServing: what goes bad in a member's files while nobody reads them is
// found and replaced, so that the other members may be lost afterwards.
func TestDamageWhileServing(t *testing.T) {
	for _, c := range []struct {
		name, prefix string
		every        bool // else when asked
	}{
		{"log", "log-", true}, {"snapshot", "snap-", true}, {"membership", "membership", true},
		{"log", "log-", false}, {"snapshot", "snap-", false}, {"membership", "membership", false},
	} {
		t.Run(fmt.Sprint(c.name, " ", c.every), func(t *testing.T) {
			cfg, fs, _ := faulty(t, 3, 1)
			patient(&cfg)
			if cfg.CheckEvery = time.Hour; c.every {
				cfg.CheckEvery = 20 * time.Millisecond
			}
			if c.name == "snapshot" {
				cfg.SnapshotAfter = oneSnapshot
			}
			s := open(t, cfg)
			for i := range 60 {
				mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
			}
			whole(t, s, cfg)
			members := s.Status().Members
			dir := filepath.Join(dirOf(cfg, members[0]), "journal")
			file := func() (path string) {
				names, err := fs.List(dir)
				if err != nil {
					return ""
				}
				for _, n := range names {
					if strings.HasPrefix(n, c.prefix) && !strings.HasSuffix(n, ".new") {
						path = filepath.Join(dir, n)
					}
				}
				return path
			}
			eventually(t, "the file", func() bool { return file() != "" })
			damaged := file()
			at := int64(100)
			if c.name == "log" {
				at = 512*3 + 100 // groups follow
			}
			before, err := content(fs, damaged)
			if err := errors.Join(err, fs.FlipBit(damaged, at, 3)); err != nil {
				t.Fatal(err)
			}
			if !c.every {
				s.Check(t.Context())
				if st := s.Status(); c.name != "membership" && st.Generation == 2 {
					t.Fatalf("after a check: %+v", st)
				}
			}
			eventually(t, "the damage to be undone", func() bool {
				now, err := content(fs, damaged)
				return c.name == "membership" && err == nil && now == before ||
					c.name != "membership" && (err != nil || s.Status().Generation > 2 && s.Status().Degraded == "")
			})
			whole(t, s, cfg)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, id := range s.Status().Members {
				if id != members[0] {
					empty(t, fs, dirOf(cfg, id))
					break
				}
			}
			s = open(t, cfg)
			for i := range 60 {
				wantGet(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
			}
		})
	}
}

// cached is a file system whose page cache holds what files were, until it is dropped.
type cached struct {
	vfs.FS
	mu    sync.Mutex
	pages map[string]string // by path
}

type cachedFile struct {
	vfs.File
	fs   *cached
	path string
}

func (c *cached) OpenFile(path string, flag int) (vfs.File, error) {
	f, err := c.FS.OpenFile(path, flag)
	if err != nil {
		return nil, err
	}
	return &cachedFile{f, c, path}, nil
}

func (f *cachedFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	was, ok := f.fs.pages[f.path]
	f.fs.mu.Unlock()
	if ok {
		return strings.NewReader(was).ReadAt(p, off)
	}
	return f.File.ReadAt(p, off)
}

func (f *cachedFile) DontNeed(off, n int64) error {
	f.fs.mu.Lock()
	delete(f.fs.pages, f.path)
	f.fs.mu.Unlock()
	return f.File.DontNeed(off, n)
}

// TestDamageBeneathTheCache: what a member's files hold is asked of the medium, not of
// the page cache, which may be right where the medium is not.
func TestDamageBeneathTheCache(t *testing.T) {
	for _, prefix := range []string{"log-", "snap-"} {
		cfg, fs, _ := faulty(t, 3, 1)
		c := &cached{FS: fs, pages: map[string]string{}}
		patient(&cfg)
		cfg.FS, cfg.CheckEvery, cfg.SnapshotAfter = c, time.Hour, oneSnapshot
		s := open(t, cfg)
		for i := range 60 {
			mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
		}
		whole(t, s, cfg)
		dir := filepath.Join(dirOf(cfg, s.Status().Members[0]), "journal")
		damaged := ""
		eventually(t, "the file", func() bool {
			names, err := fs.List(dir)
			for _, n := range names {
				if err == nil && strings.HasPrefix(n, prefix) && !strings.HasSuffix(n, ".new") {
					damaged = filepath.Join(dir, n)
				}
			}
			return damaged != ""
		})
		before, err := content(fs, damaged)
		if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		c.pages[damaged] = before
		c.mu.Unlock()
		at := int64(100)
		if prefix == "log-" {
			at += 512 * 3 // groups follow
		}
		if err := fs.FlipBit(damaged, at, 3); err != nil {
			t.Fatal(err)
		}
		s.Check(t.Context())
		if st := s.Status(); st.Generation == 2 {
			t.Errorf("%s: the damage is not found: %+v", prefix, st)
		}
	}
}

// TestDamageWithoutASpare: a member that is found bad is taken in anew on its own
// drive where there is no other.
func TestDamageWithoutASpare(t *testing.T) {
	cfg, fs, _ := faulty(t, 2, 1)
	cfg.CheckEvery = 20 * time.Millisecond
	s := open(t, cfg)
	for i := range 60 {
		mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
	}
	whole(t, s, cfg)
	dir := filepath.Join(dirOf(cfg, s.Status().Members[0]), "journal")
	names, err := fs.List(dir)
	for _, n := range names {
		if strings.HasPrefix(n, "log-") {
			err = errors.Join(err, fs.FlipBit(filepath.Join(dir, n), 512*3+100, 3))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the damage to be found", func() bool { return s.Status().Generation > 2 })
	eventually(t, "both drives to be members", func() bool { return s.Status().Degraded == "" })
	whole(t, s, cfg)
}

// TestUnusableForAMoment: a drive that was declared unusable and usable again before
// the committer looked is a member again, where there is no other, too.
func TestUnusableForAMoment(t *testing.T) {
	cfg, _, _ := faulty(t, 2, 1)
	s := open(t, cfg)
	mustPut(t, s, "k", "x")
	whole(t, s, cfg)
	id := s.Status().Members[0]
	for range 20 {
		s.SetUsable(id, false)
		s.SetUsable(id, true)
	}
	eventually(t, "the drive to be left out", func() bool { return s.Status().Generation > 2 })
	eventually(t, "it to be a member again", func() bool { return s.Status().Degraded == "" })
	whole(t, s, cfg)
}

// TestNothingIsFoundBad: checks of files that are written, trimmed and rolled
// meanwhile find nothing.
func TestNothingIsFoundBad(t *testing.T) {
	cfg, _, _ := faulty(t, 3, 1)
	cfg.CheckEvery, cfg.LogSize, cfg.SnapshotAfter = time.Millisecond, 16<<10, 64<<10
	s := open(t, cfg)
	stop := load(t, s, 8)
	time.Sleep(3 * time.Second)
	stop()
	if st := s.Status(); st.Generation != 2 || st.Degraded != "" {
		t.Fatalf("%+v", st)
	}
}

func content(fs vfs.FS, path string) (string, error) {
	f, err := fs.OpenFile(path, 0)
	if err != nil {
		return "", err
	}
	st, err := f.Stat()
	b := make([]byte, st.Size)
	if err == nil && st.Size > 0 {
		_, err = f.ReadAt(b, 0)
	}
	return string(b), errors.Join(err, f.Close())
}
