package journal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/journal"
	"kintsugi/storagenode/vfs"
)

const (
	reachPairs = 60
	reachGroup = 512 // of each pair
)

// TestDamageOfTheOnlyLog: what goes bad in the only log, or in all of them, while nothing
// runs loses nothing that was acknowledged: the state has it, where that is proved by
// the chain, and the log is made good by a snapshot. Else the start is refused, and says
// which directory has what.
func TestDamageOfTheOnlyLog(t *testing.T) {
	for _, c := range []struct {
		name       string
		at         []int64
		cut        int64
		noState    bool // it is lost as well
		refused    string
		afterwards string // the end of what is there once the state was moved away
	}{
		{name: "last payload", at: []int64{reachPairs*reachGroup + 100}},
		{name: "last header", at: []int64{reachPairs*reachGroup + 20}, refused: "(commit 60)", afterwards: "k58"},
		{name: "last ones", at: []int64{58*reachGroup + 9, 59*reachGroup + 9, 60*reachGroup + 100}},
		{name: "the file ends in the last payload", cut: reachPairs*reachGroup + 100},
		{name: "the file ends before", cut: reachPairs * reachGroup, refused: "(commit 60)", afterwards: "k58"},
		{name: "middle payload", at: []int64{30*reachGroup + 100}},
		{name: "middle header", at: []int64{30*reachGroup + 20}},
		{name: "file header", at: []int64{20}},
		{name: "many", at: []int64{20, 7*reachGroup + 8, 30*reachGroup + 20, 31*reachGroup + 200}},
		{name: "middle, no state", at: []int64{30*reachGroup + 100}, noState: true, refused: "damaged log: after commit 29"},
	} {
		for _, tolerance := range []int{0, 1} {
			t.Run(fmt.Sprint(c.name, " ", tolerance), func(t *testing.T) {
				t.Parallel()
				cfg, fs, _ := faulty(t, 1+tolerance, tolerance)
				patient(&cfg)
				s := open(t, cfg)
				for i := range reachPairs {
					mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
				}
				state := filepath.Join(dirOf(cfg, s.Status().StateDrive), "state")
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if c.noState {
					if err := fs.RemoveAll(state); err != nil {
						t.Fatal(err)
					}
				}
				for _, d := range cfg.Drives {
					log := fmt.Sprintf("%s/journal/log-%016x", d.Dir, 1)
					for _, at := range c.at {
						if err := fs.FlipBit(log, at, 3); err != nil {
							t.Fatal(err)
						}
					}
					if c.cut > 0 {
						f, err := fs.OpenFile(log, 2)
						if err == nil {
							err = errors.Join(f.Truncate(c.cut), f.Close())
						}
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				if c.refused != "" {
					for range 2 {
						_, err := journal.Open(t.Context(), cfg)
						if !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), c.refused) {
							t.Fatalf("not refused: %v", err)
						}
					}
					if c.afterwards == "" {
						return
					}
					if err := fs.Rename(state, "/away"); err != nil {
						t.Fatal(err)
					}
					s = open(t, cfg)
					wantGet(t, s, c.afterwards, strings.Repeat("x", 300))
					return
				}
				for round := range 3 {
					s = open(t, cfg)
					for i := range reachPairs {
						wantGet(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
					}
					for i := range round {
						wantGet(t, s, fmt.Sprint("new", i), "v")
					}
					if round == 0 { // the power may go before the snapshot is there
						if err := s.Close(); err != nil {
							t.Fatal(err)
						}
						s = open(t, cfg)
					}
					mustPut(t, s, fmt.Sprint("new", round), "v")
					whole(t, s, cfg)
					eventually(t, "a snapshot", func() bool {
						for _, d := range cfg.Drives {
							names, err := fs.List(d.Dir + "/journal")
							if err != nil || !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "snap-0") }) {
								return false
							}
						}
						return true
					})
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
				for _, d := range cfg.Drives { // the log is good by itself
					if err := fs.RemoveAll(d.Dir + "/state"); err != nil {
						t.Fatal(err)
					}
				}
				s = open(t, cfg)
				for i := range reachPairs {
					wantGet(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
				}
				wantGet(t, s, "new2", "v")
			})
		}
	}
}

// TestDamageAndAnOlderState: a state that is behind the log makes up for what went bad
// before its commit, and for nothing after it.
func TestDamageAndAnOlderState(t *testing.T) {
	for _, c := range []struct {
		name, file string
		at         int64
		refused    string
	}{
		{"before", "1", 15*reachGroup + 100, ""},
		{"its own payload", "1", 20*reachGroup + 100, ""},
		{"its own header", "1", 20*reachGroup + 20, ""}, // the next file's header proves it
		{"the next header", "15", 20, "damaged log"},
		{"the next payload", "15", 1*reachGroup + 100, "damaged log: after commit 20"},
		{"after", "15", 10*reachGroup + 100, "damaged log: after commit 29"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, fs, _ := faulty(t, 1, 0)
			patient(&cfg)
			for _, part := range [][2]int{{0, 20}, {20, reachPairs}} {
				s := open(t, cfg)
				for i := part[0]; i < part[1]; i++ {
					mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if part[0] == 0 {
					copyTree(t, fs, "/d0/state", "/kept")
				}
			}
			err := errors.Join(fs.RemoveAll("/d0/state"), fs.Rename("/kept", "/d0/state"),
				fs.FlipBit("/d0/journal/log-"+strings.Repeat("0", 16-len(c.file))+c.file, c.at, 3))
			if err != nil {
				t.Fatal(err)
			}
			if c.refused != "" {
				if _, err := journal.Open(t.Context(), cfg); !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("not refused: %v", err)
				}
				return
			}
			s := open(t, cfg)
			for i := range reachPairs {
				wantGet(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
			}
		})
	}
}

// TestUnfinishedState: a state whose building was cut short hides none that was there
// before, neither where that makes up for damage nor where it has more than the log.
func TestUnfinishedState(t *testing.T) {
	for name, cut := range map[string]bool{"damage": false, "end lost": true} {
		t.Run(name, func(t *testing.T) {
			cfg, fs := filled(t, 1, 0, reachPairs, nil)
			if err := fs.Mkdir("/d0/state/db-7fffffffffffffff"); err != nil {
				t.Fatal(err)
			}
			if cut {
				cutLast(t, fs, "/d0")
				wantRefused(t, cfg, "(commit 60)")
				return
			}
			if err := fs.FlipBit("/d0/journal/log-"+fmt.Sprintf("%016x", 1), 30*reachGroup+100, 3); err != nil {
				t.Fatal(err)
			}
			wantPairs(t, open(t, cfg), reachPairs)
		})
	}
}

// TestStateLeftBehind: a state that was left behind on another drive belongs to the log,
// too. It does not make up for the end that only the newest one has. Was it made later,
// the log was gone on with after the other one's drive went away.
func TestStateLeftBehind(t *testing.T) {
	for _, c := range []struct {
		name, left string
		refused    bool
	}{
		{"earlier", "db-0000000000000001", true},
		{"later", "db-7fffffffffffffff", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, fs := filled(t, 2, 0, 20, nil)
			var left string
			for _, d := range cfg.Drives {
				if names, err := fs.List(d.Dir + "/state"); err == nil && len(names) > 0 {
					copyTree(t, fs, d.Dir+"/state/"+names[0], "/kept")
				} else {
					left = d.Dir + "/state"
				}
			}
			filled(t, 2, 0, reachPairs, &cfg)
			if err := errors.Join(fs.MkdirAll(left), fs.Rename("/kept", left+"/"+c.left)); err != nil {
				t.Fatal(err)
			}
			for _, d := range cfg.Drives {
				if _, err := fs.Stat(d.Dir + fmt.Sprintf("/journal/log-%016x", 1)); err == nil {
					cutLast(t, fs, d.Dir)
				}
			}
			if c.refused {
				wantRefused(t, cfg, "(commit 60)")
				return
			}
			wantPairs(t, open(t, cfg), reachPairs-1)
		})
	}
}

// TestLongestOfDamagedLogs: of the logs that a state makes up for the longest is taken,
// as of good ones, and all stay members.
func TestLongestOfDamagedLogs(t *testing.T) {
	for _, short := range []string{"/d0", "/d1"} {
		t.Run(short, func(t *testing.T) {
			cfg, fs := filled(t, 2, 1, 20, nil)
			var state string
			for _, d := range cfg.Drives {
				if names, err := fs.List(d.Dir + "/state"); err == nil && len(names) > 0 {
					state = d.Dir + "/state"
				}
			}
			copyTree(t, fs, state, "/kept")
			filled(t, 2, 1, reachPairs, &cfg)
			if err := errors.Join(fs.RemoveAll(state), fs.Rename("/kept", state)); err != nil {
				t.Fatal(err)
			}
			for _, d := range cfg.Drives {
				if err := fs.FlipBit(d.Dir+fmt.Sprintf("/journal/log-%016x", 1), 10*reachGroup+100, 3); err != nil {
					t.Fatal(err)
				}
			}
			cutLast(t, fs, short)
			s := open(t, cfg)
			wantPairs(t, s, reachPairs)
			if st := s.Status(); len(st.Members) != 2 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// filled commits pairs up to n, in a namespace that is new where cfg is nil, and closes it.
func filled(t *testing.T, drives, tolerance, n int, old *journal.Config) (journal.Config, *vfs.Fault) {
	t.Helper()
	cfg, fs, _ := faulty(t, drives, tolerance)
	if old != nil {
		cfg = *old
	}
	patient(&cfg)
	s := open(t, cfg)
	for i := int(s.Status().Commit); i < n; i++ {
		mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return cfg, fs
}

func wantPairs(t *testing.T, s kv.Reader, n int) {
	t.Helper()
	for i := range n {
		wantGet(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
	}
}

func wantRefused(t *testing.T, cfg journal.Config, why string) {
	t.Helper()
	s, err := journal.Open(t.Context(), cfg)
	if err == nil {
		err = s.Close()
	}
	if !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), why) {
		t.Fatalf("not refused: %v", err)
	}
}

// cutLast cuts the last pair off a log.
func cutLast(t *testing.T, fs vfs.FS, dir string) {
	t.Helper()
	names, err := fs.List(dir + "/journal")
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for _, n := range names { // those after it have no group
		if f, err := content(fs, dir+"/journal/"+n); err == nil && strings.HasPrefix(n, "log-") && strings.Contains(f, "KJG1") {
			last = n
		}
	}
	b, err := content(fs, dir+"/journal/"+last)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenFile(dir+"/journal/"+last, os.O_RDWR)
	if err == nil {
		err = errors.Join(f.Truncate(int64(strings.LastIndex(b, "KJG1"))), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func copyTree(t testing.TB, fs vfs.FS, from, to string) {
	t.Helper()
	if err := fs.MkdirAll(to); err != nil {
		t.Fatal(err)
	}
	names, err := fs.List(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		src, dst := filepath.Join(from, n), filepath.Join(to, n)
		if _, err := fs.List(src); err == nil {
			copyTree(t, fs, src, dst)
			continue
		}
		b, err := content(fs, src)
		if err != nil {
			t.Fatal(err)
		}
		f, err := fs.OpenFile(dst, os.O_RDWR|os.O_CREATE)
		if err == nil {
			_, err = f.WriteAt([]byte(b), 0)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// sectors is a file system on whose disk some sectors cannot be read.
type sectors struct {
	vfs.FS
	bad map[uint64]int64 // their offsets, by the inode of their file
}

const sector = 4096

type sectorFile struct {
	vfs.File
	bad int64
}

func (s *sectors) OpenFile(path string, flag int) (vfs.File, error) {
	f, err := s.FS.OpenFile(path, flag)
	if err != nil {
		return nil, err
	}
	st, err := s.FS.Stat(path)
	if bad, ok := s.bad[st.Inode]; err == nil && ok {
		f = &sectorFile{f, bad}
	}
	return f, nil
}

func (f *sectorFile) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.bad+sector || off+int64(len(p)) <= f.bad {
		return f.File.ReadAt(p, off)
	}
	n, err := f.File.ReadAt(p[:max(0, f.bad-off)], off)
	if err == nil {
		err = syscall.EIO
	}
	return n, err
}

// TestUnreadableSector: a sector of the only log, or of all of them, that cannot be read
// any more is no loss where a state has what was in it. Else nobody knows what was there,
// and the start is refused, as often as it is tried.
func TestUnreadableSector(t *testing.T) {
	for _, c := range []struct {
		name, file string
		at         int64
		refused    bool
	}{
		{name: "header", at: 0},
		{name: "middle", at: 4 * sector},
		{name: "last", at: reachPairs * reachGroup / sector * sector, refused: true},
		{name: "snapshot's header", file: "snap-", at: 0},
	} {
		for _, tolerance := range []int{0, 1} {
			t.Run(fmt.Sprint(c.name, " ", tolerance), func(t *testing.T) {
				t.Parallel()
				cfg, fs := filled(t, 1+tolerance, tolerance, reachPairs, nil)
				disk := &sectors{FS: fs, bad: map[uint64]int64{}}
				if c.file != "" { // a log that begins with it
					old := cfg.SnapshotAfter
					cfg.SnapshotAfter = 8 << 10
					s := open(t, cfg)
					eventually(t, "trimmed", func() bool {
						for _, d := range cfg.Drives {
							if _, err := fs.Stat(d.Dir + "/journal/" + fmt.Sprintf("log-%016x", 1)); err == nil {
								return false
							}
						}
						return true
					})
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					cfg.SnapshotAfter = old
				}
				for _, d := range cfg.Drives {
					names, err := fs.List(d.Dir + "/journal")
					if err != nil {
						t.Fatal(err)
					}
					for _, n := range names {
						st, err := fs.Stat(d.Dir + "/journal/" + n)
						if err != nil {
							t.Fatal(err)
						}
						if c.file == "" && n == fmt.Sprintf("log-%016x", 1) || c.file != "" && strings.HasPrefix(n, c.file) {
							disk.bad[st.Inode] = c.at
						}
					}
				}
				if len(disk.bad) != len(cfg.Drives) {
					t.Fatal(disk.bad)
				}
				cfg.FS = disk
				if c.refused {
					for range 2 {
						wantRefused(t, cfg, "input/output error")
					}
					disk.bad = nil
					wantPairs(t, open(t, cfg), reachPairs)
					return
				}
				for round := range 2 {
					s := open(t, cfg)
					wantPairs(t, s, reachPairs)
					mustPut(t, s, fmt.Sprint("new", round), "v")
					whole(t, s, cfg)
					eventually(t, "a snapshot to take its place", func() bool {
						for _, d := range cfg.Drives {
							names, err := fs.List(d.Dir + "/journal")
							if err != nil {
								return false
							}
							for _, n := range names {
								st, err := fs.Stat(d.Dir + "/journal/" + n)
								if _, bad := disk.bad[st.Inode]; err == nil && bad {
									return false
								}
							}
						}
						return true
					})
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
				for _, d := range cfg.Drives { // the log is good by itself
					if err := fs.RemoveAll(d.Dir + "/state"); err != nil {
						t.Fatal(err)
					}
				}
				s := open(t, cfg)
				wantPairs(t, s, reachPairs)
				wantGet(t, s, "new1", "v")
			})
		}
	}
}

// TestStateOutlivesPower: what a state has flushed is there after a power cut, under its
// name: the log's damage may need it.
func TestStateOutlivesPower(t *testing.T) {
	for seed := range uint64(4) {
		cfg, _, mem := faulty(t, 1, 0)
		patient(&cfg)
		s := open(t, cfg)
		for i := range reachPairs {
			mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		disk := mem.Crash(rand.New(rand.NewPCG(seed, 1)))
		if err := vfs.NewFault(disk).FlipBit(fmt.Sprintf("/d0/journal/log-%016x", 1), 10*reachGroup+100, 3); err != nil {
			t.Fatal(err)
		}
		cfg.FS = disk
		wantPairs(t, open(t, cfg), reachPairs)
	}
}

// TestSnapshotMakesUpForDamage: what went bad in a log before its own snapshot is in that,
// also where the state was lost as well.
func TestSnapshotMakesUpForDamage(t *testing.T) {
	for _, tolerance := range []int{0, 1} {
		cfg, fs, _ := faulty(t, 1+tolerance, tolerance)
		patient(&cfg)
		cfg.SnapshotAfter, cfg.CheckEvery = 8<<10, time.Hour
		s := open(t, cfg)
		n := 0
		// Snapshots larger than the log has to grow for one: what is damaged is not to wait
		// until it has grown by as much again.
		eventually(t, "snapshots", func() bool {
			mustPut(t, s, fmt.Sprint("k", n), strings.Repeat("x", 300))
			n++
			for _, d := range cfg.Drives {
				names, err := fs.List(d.Dir + "/journal")
				if err != nil || !slices.ContainsFunc(names, func(n string) bool {
					st, err := fs.Stat(d.Dir + "/journal/" + n)
					return err == nil && strings.HasPrefix(n, "snap-0") && st.Size > cfg.SnapshotAfter
				}) {
					return false
				}
			}
			return true
		})
		mustPut(t, s, "last", "v")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, d := range cfg.Drives {
			if err := errors.Join(fs.RemoveAll(d.Dir+"/state"),
				fs.FlipBit(d.Dir+fmt.Sprintf("/journal/log-%016x", 1), 3*reachGroup+100, 3)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			s = open(t, cfg)
			wantPairs(t, s, n)
			wantGet(t, s, "last", "v")
			whole(t, s, cfg)
			eventually(t, "the damage gone", func() bool {
				for _, d := range cfg.Drives {
					if _, err := fs.Stat(d.Dir + fmt.Sprintf("/journal/log-%016x", 1)); err == nil {
						return false
					}
				}
				return true
			})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
