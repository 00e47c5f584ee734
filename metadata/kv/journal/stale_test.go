package journal_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kintsugi/metadata/kv/journal"
	"kintsugi/storagenode/vfs"
)

// staleList does not list some files, for a time.
type staleList struct {
	vfs.FS
	hidden []string
}

func (s *staleList) List(path string) ([]string, error) {
	names, err := s.FS.List(path)
	return slices.DeleteFunc(names, func(n string) bool {
		return slices.Contains(s.hidden, filepath.Join(path, n))
	}), err
}

// TestStaleListing: log files that are not listed, though they are there, are read, and
// not begun anew.
func TestStaleListing(t *testing.T) {
	for _, drives := range []int{1, 2} {
		for hide := 1; hide <= 3; hide++ {
			cfg, _, mem := faulty(t, drives, drives-1)
			cfg.LogSize, cfg.Checkpoint = 16*reachGroup, time.Hour
			s := open(t, cfg)
			for i := range reachPairs {
				mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
			}
			stale := &staleList{FS: mem.Crash(rand.New(rand.NewPCG(1, 1)))}
			_ = s.Close()
			for _, d := range cfg.Drives {
				names, err := stale.List(d.Dir + "/journal")
				if err != nil {
					t.Fatal(err)
				}
				names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "log-") })
				for _, n := range names[len(names)-hide:] {
					stale.hidden = append(stale.hidden, d.Dir+"/journal/"+n)
				}
			}
			cfg.FS = stale
			s, err := journal.Open(t.Context(), cfg)
			if err == nil {
				wantPairs(t, s, reachPairs)
				mustPut(t, s, fmt.Sprint("k", reachPairs), strings.Repeat("x", 300))
				err = s.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			stale.hidden = nil
			wantPairs(t, open(t, cfg), reachPairs+1)
		}
	}
}

// staleSize says of log files that they are shorter than they are.
type staleSize struct {
	vfs.FS
	cut int64
}

type staleSizeFile struct {
	vfs.File
	cut int64
}

func (s *staleSize) OpenFile(path string, flag int) (vfs.File, error) {
	f, err := s.FS.OpenFile(path, flag)
	if err == nil && strings.Contains(path, "/journal/log-") {
		f = &staleSizeFile{f, s.cut}
	}
	return f, err
}

func (f *staleSizeFile) Stat() (vfs.Stat, error) {
	st, err := f.File.Stat()
	st.Size = max(0, st.Size-f.cut)
	return st, err
}

// TestStaleSize: a log ends where nothing more can be read, not where its size says.
func TestStaleSize(t *testing.T) {
	for _, cut := range []int64{10 << 10, 15<<10 + 100, 1 << 20} {
		cfg, _, mem := faulty(t, 1, 0)
		cfg.Checkpoint = time.Hour
		s := open(t, cfg)
		for i := range reachPairs {
			mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
		}
		disk := mem.Crash(rand.New(rand.NewPCG(1, 1)))
		_ = s.Close()
		cfg.FS = &staleSize{disk, cut}
		s = open(t, cfg)
		wantPairs(t, s, reachPairs)
		mustPut(t, s, fmt.Sprint("k", reachPairs), strings.Repeat("x", 300))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		cfg.FS = disk
		wantPairs(t, open(t, cfg), reachPairs+1)
	}
}
