package journal_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kintsugi/metadata/kv/journal"
	"kintsugi/storagenode/vfs"
)

// logSizes gives the sizes of the members' log files.
func logSizes(t *testing.T, fs vfs.FS, cfg journal.Config) (sizes []int64) {
	t.Helper()
	for _, d := range cfg.Drives {
		names, err := fs.List(filepath.Join(d.Dir, "journal"))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if !strings.HasPrefix(n, "log-") {
				continue
			}
			st, err := fs.Stat(filepath.Join(d.Dir, "journal", n))
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, st.Size)
		}
	}
	return sizes
}

// TestLogIsFilledAhead: most groups do not change a file's size, what lies
// ahead is zeros, and a log with zeros behind its end goes on.
func TestLogIsFilledAhead(t *testing.T) {
	cfg, fs, _ := faulty(t, 3, 1)
	s := open(t, cfg)
	mustPut(t, s, "k0", "v0")
	before := logSizes(t, fs, cfg)
	for i := range 4 {
		mustPut(t, s, fmt.Sprint("k", i), fmt.Sprint("v", i))
	}
	if after := logSizes(t, fs, cfg); fmt.Sprint(after) != fmt.Sprint(before) || len(after) != 2 {
		t.Fatalf("sizes %v became %v", before, after)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	for i := range 40 { // beyond what is filled at a time
		mustPut(t, s, fmt.Sprint("l", i), strings.Repeat("x", 1000))
	}
	wantGet(t, s, "k3", "v3")
	wantGet(t, s, "l39", strings.Repeat("x", 1000))
}

// TestFillWithoutSpace: where only the zeros find no space, groups go on.
func TestFillWithoutSpace(t *testing.T) {
	for _, short := range []bool{false, true} {
		cfg, fs, _ := faulty(t, 3, 1)
		s := open(t, cfg)
		// The first write of a file is a group, the second one is zeros.
		var rules []*vfs.Injected
		for _, d := range cfg.Drives {
			rules = append(rules, fs.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: d.Dir + "/journal/log", Skip: 1, Times: 1, Err: syscall.ENOSPC, Short: short}))
		}
		for i := range 20 {
			mustPut(t, s, fmt.Sprint("k", i), fmt.Sprint("v", i))
		}
		hits := 0
		for _, r := range rules {
			hits += r.Hits()
		}
		if hits != 2 {
			t.Fatalf("%d writes of zeros failed", hits)
		}
		if st := s.Status(); st.Degraded != "" || st.Generation != 2 {
			t.Fatalf("status %+v", st)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, cfg)
		wantGet(t, s, "k19", "v19")
	}
}
