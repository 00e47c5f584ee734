package journal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kintsugi/storagenode/vfs"
)

// TestDamagedLogIsKeptUntilItsReplacementIsThere: the only log, damaged in what the state
// has flushed, on a disk that is exchanged with another, is what is left of the commits
// since that flush: it is there until a snapshot is.
func TestDamagedLogIsKeptUntilItsReplacementIsThere(t *testing.T) {
	for name, power := range map[string]bool{"power cut": true, "end": false} {
		t.Run(name, func(t *testing.T) {
			cfg, fs, mem := faulty(t, 3, 0)
			named(t, fs, &cfg)
			for _, d := range cfg.Drives {
				f, err := fs.OpenFile(filepath.Join(d.Dir, "whose"), os.O_RDWR)
				if err == nil {
					err = errors.Join(f.Sync(), f.Close(), fs.SyncDir(d.Dir))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			cfg.Checkpoint, cfg.CheckEvery = time.Hour, time.Hour
			s := open(t, cfg)
			for i := range 20 {
				mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, cfg)
			for i := 20; i < reachPairs; i++ {
				mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
			}
			x, y := &cfg.Drives[0], &cfg.Drives[2]
			if st := s.Status(); st.Members[0] != x.ID || st.StateDrive != cfg.Drives[1].ID {
				t.Fatalf("not as the test wants it: %+v", st)
			}
			if err := fs.FlipBit(x.Dir+fmt.Sprintf("/journal/log-%016x", 1), 10*reachGroup+100, 3); err != nil {
				t.Fatal(err)
			}
			exchange(t, fs, x, y)
			if err := mem.SyncDir("/"); err != nil {
				t.Fatal(err)
			}
			fs.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: "snap.new", Err: syscall.EIO})
			isIn(s, x.ID, x.Dir)
			eventually(t, "nothing to be committed", func() bool { return strings.Contains(s.Status().Degraded, "unavailable") })
			if power {
				cfg.FS = mem.Crash(rand.New(rand.NewPCG(1, 1)))
			} else if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			fs.Clear()
			wantPairs(t, open(t, cfg), reachPairs)
		})
	}
}

// TestShorterLogIsKeptUntilItsReplacementIsThere: a good log that is shorter than one
// that was damaged and is made good by the state is the only one that is good by
// itself, until the drive has a snapshot.
func TestShorterLogIsKeptUntilItsReplacementIsThere(t *testing.T) {
	cfg, fs := filled(t, 2, 1, reachPairs, nil)
	good, bad := cfg.Drives[1], cfg.Drives[0]
	cutLast(t, fs, good.Dir)
	log := fmt.Sprintf("/journal/log-%016x", 1)
	if err := fs.FlipBit(bad.Dir+log, 10*reachGroup+100, 3); err != nil {
		t.Fatal(err)
	}
	before, err := content(fs, good.Dir+log)
	if err != nil {
		t.Fatal(err)
	}
	full := fs.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: "snap.new", Err: syscall.ENOSPC})
	cfg.RetryAfter, cfg.Tick = 50*time.Millisecond, 5*time.Millisecond
	s := open(t, cfg)
	more := 0
	eventually(t, "snapshots to be tried", func() bool {
		mustPut(t, s, fmt.Sprint("k", reachPairs+more), strings.Repeat("x", 300))
		more++
		return full.Hits() > 16
	})
	if names, err := fs.List(good.Dir + "/journal"); err != nil || len(names) > 6 {
		t.Errorf("what was begun in vain stays: %v, %v", names, err)
	}
	if now, err := content(fs, good.Dir+log); err != nil || now != before {
		t.Fatalf("the good log is gone: %v", err)
	}
	full.Release()
	whole(t, s, cfg)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Stat(good.Dir + log); err == nil {
		t.Error("what the snapshot has replaced is still there")
	}
	empty(t, fs, bad.Dir)
	if err := fs.RemoveAll(good.Dir + "/state"); err != nil {
		t.Fatal(err)
	}
	wantPairs(t, open(t, cfg), reachPairs+more)
}

// TestSnapshotIsReadBackBeforeItTakesAnothersPlace: a snapshot of the same commit as the
// one that is there, written by a disk that lies, leaves that one in place.
func TestSnapshotIsReadBackBeforeItTakesAnothersPlace(t *testing.T) {
	cfg, fs := filled(t, 1, 0, reachPairs, nil)
	cfg.CheckEvery = time.Hour
	log := fmt.Sprintf("/d0/journal/log-%016x", 1)
	snap := fmt.Sprintf("/d0/journal/snap-%016x", reachPairs)
	s := open(t, cfg)
	if err := fs.FlipBit(log, 10*reachGroup+100, 3); err != nil {
		t.Fatal(err)
	}
	s.Check(t.Context()) // what is bad has a snapshot made
	eventually(t, "a snapshot", func() bool { _, err := fs.Stat(snap); return err == nil })
	good, err := content(fs, snap)
	if err != nil {
		t.Fatal(err)
	}
	lie := fs.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: "snap.new", Skip: 1, Times: 1, Lie: true})
	if err := fs.FlipBit(fmt.Sprintf("/d0/journal/log-%016x", reachPairs+1), 17, 3); err != nil {
		t.Fatal(err)
	}
	s.Check(t.Context())
	eventually(t, "another snapshot", func() bool { return lie.Hits() > 0 })
	time.Sleep(100 * time.Millisecond)
	if now, err := content(fs, snap); err != nil || now != good {
		t.Errorf("the good snapshot was replaced by a bad one: %v", err)
	}
}

// TestSnapshotsOfSomeAreTrimmed: where the process is short of files for the snapshot of
// one member, again and again, those of the other do not pile up.
func TestSnapshotsOfSomeAreTrimmed(t *testing.T) {
	cfg, fs, _ := faulty(t, 2, 1)
	patient(&cfg)
	cfg.SnapshotAfter, cfg.RetryAfter, cfg.Tick = 4<<10, 20*time.Millisecond, 5*time.Millisecond
	short := fs.Inject(vfs.Rule{Ops: vfs.OpCreate, Path: "/d1/journal/snap.new", Err: syscall.EMFILE})
	s := open(t, cfg)
	n := 0
	eventually(t, "snapshots to be tried", func() bool {
		mustPut(t, s, fmt.Sprint("k", n), strings.Repeat("x", 300))
		n++
		return short.Hits() > 8
	})
	eventually(t, "all but the last to be trimmed", func() bool {
		names, err := fs.List("/d0/journal")
		if err != nil {
			t.Fatal(err)
		}
		snaps := 0
		for _, n := range names {
			if strings.HasPrefix(n, "snap-") {
				snaps++
			}
		}
		if snaps > 4 {
			t.Fatalf("%v", names)
		}
		return snaps > 0
	})
	whole(t, s, cfg)
}
