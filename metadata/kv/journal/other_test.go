package journal_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kintsugi/metadata/kv/journal"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// whose reads what named has written.
func whose(fs vfs.FS, dir string) (id storagenode.DriveID, err error) {
	f, err := fs.OpenFile(filepath.Join(dir, "whose"), os.O_RDONLY)
	if err == nil {
		_, err = f.ReadAt(id[:], 0)
		_ = f.Close()
	}
	return id, err
}

// named gives all drives of a configuration their names.
func named(t *testing.T, fs vfs.FS, cfg *journal.Config) {
	t.Helper()
	cfg.Whose = whose
	for _, d := range cfg.Drives {
		write(t, fs, filepath.Join(d.Dir, "whose"), string(d.ID[:]))
	}
}

// foreign puts the disk of another cluster in a drive's place and gives a function
// that says what is changed on it.
func foreign(t *testing.T, fs vfs.FS, mem *vfs.Mem, m journal.Member) (changed func() string) {
	t.Helper()
	cfg := config(t, mem, "/", 1, 0)
	cfg.Cluster = storagenode.UUID{9}
	cfg.Drives = []journal.Member{{ID: storagenode.DriveID{9}, Dir: "/foreign"}}
	if err := mem.MkdirAll("/foreign"); err != nil {
		t.Fatal(err)
	}
	named(t, mem, &cfg)
	s := open(t, cfg)
	mustPut(t, s, "theirs", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]string{{m.Dir, m.Dir + ".aside"}, {"/foreign", m.Dir}} {
		if err := fs.Rename(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	list := func() []string {
		var all []string
		dirs := []string{"", "journal", "state"}
		states, err := mem.List(filepath.Join(m.Dir, "state"))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range states {
			dirs = append(dirs, filepath.Join("state", s))
		}
		for _, dir := range dirs {
			names, err := mem.List(filepath.Join(m.Dir, dir))
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				all = append(all, filepath.Join(dir, n))
			}
		}
		f, err := mem.OpenFile(filepath.Join(m.Dir, "journal/membership"), os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		text := make([]byte, 4096)
		n, _ := f.ReadAt(text, 0) // to its end
		return append(all, string(text[:n]))
	}
	was := list()
	return func() string {
		if is := list(); !slices.Equal(is, was) {
			return fmt.Sprintf("the other cluster's disk had %q and has %q", was, is)
		}
		return ""
	}
}

// TestAnothersDiskIsNotTaken: where a disk of another cluster is in the directory of a
// drive that would join, what is on it stays, and another drive joins.
func TestAnothersDiskIsNotTaken(t *testing.T) {
	cfg, fs, mem := faulty(t, 4, 1)
	named(t, fs, &cfg)
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	i := slices.IndexFunc(cfg.Drives, func(m journal.Member) bool { return !slices.Contains(s.Status().Members, m.ID) })
	changed := foreign(t, fs, mem, cfg.Drives[i])
	lost := s.Status().Members[0]
	s.SetUsable(lost, false)
	eventually(t, "another member", func() bool { return !slices.Contains(s.Status().Members, lost) && s.Status().Degraded == "" })
	if slices.Contains(s.Status().Members, cfg.Drives[i].ID) {
		t.Error("the drive that is not there has joined")
	}
	mustPut(t, s, "b", "2")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if what := changed(); what != "" {
		t.Error(what)
	}
}

// TestMembersDiskIsAnother: where a disk of another cluster has come in the place of a
// member's, the next log file is not made on it.
func TestMembersDiskIsAnother(t *testing.T) {
	cfg, fs, mem := faulty(t, 2, 1)
	named(t, fs, &cfg)
	cfg.LogSize, cfg.Tick = 4<<10, time.Hour // nobody looks after the drives
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	changed := foreign(t, fs, mem, cfg.Drives[1])
	for i := range 4 {
		mustPut(t, s, fmt.Sprint("b", i), strings.Repeat("x", 2000))
	}
	if got := s.Status().Members; len(got) != 1 || got[0] != cfg.Drives[0].ID {
		t.Errorf("members are %v", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if what := changed(); what != "" {
		t.Error(what)
	}
}

// TestStartWithAnothersDisk: a disk that is not the drive's is not read as the drive's.
func TestStartWithAnothersDisk(t *testing.T) {
	cfg, fs, mem := faulty(t, 3, 1)
	named(t, fs, &cfg)
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	changed := foreign(t, fs, mem, cfg.Drives[2])
	s = open(t, cfg)
	wantGet(t, s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if what := changed(); what != "" {
		t.Error(what)
	}
	write(t, fs, filepath.Join(cfg.Drives[1].Dir, "whose"), "another drive   ")
	if s, err := journal.Open(context.Background(), cfg); err == nil {
		_ = s.Close()
		t.Error("it opened with two of three drives away")
	} else if !strings.Contains(err.Error(), "another drive is in its directory") {
		t.Error(err)
	}
}

func write(t *testing.T, fs vfs.FS, path, text string) {
	t.Helper()
	f, err := fs.OpenFile(path, os.O_CREATE|os.O_WRONLY)
	if err == nil {
		_, err = f.WriteAt([]byte(text), 0)
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheOnlyMemberMoves: where one drive has the log and its disk is exchanged with
// another, it has the log as long as no other is whole, whatever fails meanwhile.
func TestTheOnlyMemberMoves(t *testing.T) {
	writes := vfs.Rule{Ops: vfs.OpWrite, Path: "snap.new", Err: syscall.EIO}
	reads := vfs.Rule{Ops: vfs.OpRead, Path: "/journal/log-", Err: syscall.EIO}
	snaps := vfs.Rule{Ops: vfs.OpRead, Path: "/journal/snap-", Err: syscall.EIO}
	for i, faults := range [][]vfs.Rule{nil, {writes}, {writes, reads}, {writes, snaps}} {
		cfg, fs, _ := faulty(t, 3, 0)
		named(t, fs, &cfg)
		cfg.LogSize, cfg.SnapshotAfter = 16<<10, 64<<10
		s := open(t, cfg)
		mustPut(t, s, "a", "1")
		x, y := &cfg.Drives[0], &cfg.Drives[2]
		if i > 1 { // a log that begins with a snapshot
			eventually(t, "a log that was trimmed", func() bool {
				mustPut(t, s, "fill", strings.Repeat("x", 8<<10))
				_, err := fs.Stat(filepath.Join(x.Dir, "journal/log-0000000000000001"))
				return err != nil
			})
		}
		if st := s.Status(); st.Members[0] != x.ID || st.StateDrive != cfg.Drives[1].ID {
			t.Fatalf("not as the test wants it: %+v", st)
		}
		exchange(t, fs, x, y)
		for _, r := range faults {
			fs.Inject(r)
		}
		isIn(s, x.ID, x.Dir)
		want := map[string]string{"a": "1"}
		if len(faults) > 0 {
			eventually(t, "nothing to be committed", func() bool { return strings.Contains(s.Status().Degraded, "unavailable") })
		} else {
			mustPut(t, s, "b", "2")
			want["b"] = "2"
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		fs.Clear()
		s = open(t, cfg)
		for k, v := range want {
			wantGet(t, s, k, v)
		}
		mustPut(t, s, "c", "3")
	}
}

// TestTheOnlyMembersDiskIsNotTakenOver: where the only member's disk has come into the
// directory of another drive, of which nobody has told yet, that one does not take the
// member's place with it: a third does.
func TestTheOnlyMembersDiskIsNotTakenOver(t *testing.T) {
	cfg, fs, _ := faulty(t, 3, 0)
	named(t, fs, &cfg)
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	x, y, z := &cfg.Drives[0], &cfg.Drives[1], &cfg.Drives[2]
	s.SetUsable(y.ID, false)
	eventually(t, "the state on the third", func() bool { return s.Status().StateDrive == z.ID })
	s.SetUsable(y.ID, true)
	exchange(t, fs, x, y)
	eventually(t, "another member", func() bool { return !slices.Contains(s.Status().Members, x.ID) })
	mustPut(t, s, "b", "2")
	if got := s.Status().Members; len(got) != 1 || got[0] != z.ID {
		t.Errorf("members are %v", got)
	}
	if _, err := fs.Stat(filepath.Join(x.Dir, "journal/log-0000000000000001")); err != nil {
		t.Errorf("the log on the disk that moved: %v", err)
	}
}

// exchange puts each disk in the directory of the other.
func exchange(t *testing.T, fs vfs.FS, x, y *journal.Member) {
	t.Helper()
	for _, r := range [][2]string{{x.Dir, "/between"}, {y.Dir, x.Dir}, {"/between", y.Dir}} {
		if err := fs.Rename(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	x.Dir, y.Dir = y.Dir, x.Dir
}
