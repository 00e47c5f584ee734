package journal_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/journal"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// faulty gives a configuration with short times on a faulty file system in
// memory.
func faulty(t testing.TB, n, tolerance int) (journal.Config, *vfs.Fault, *vfs.Mem) {
	mem := vfs.NewMem()
	fs := vfs.NewFault(mem)
	cfg := config(t, fs, "/", n, tolerance)
	cfg.EvictAfter, cfg.StallAfter = 200*time.Millisecond, 2*time.Second
	cfg.StateTimeout, cfg.RetryAfter = 500*time.Millisecond, time.Second
	cfg.LogSize, cfg.SnapshotAfter = 256<<10, 2<<20
	return cfg, fs, mem
}

// patient is for tests in which no drive hangs: a busy machine is no fault.
func patient(cfg *journal.Config) {
	cfg.EvictAfter, cfg.StallAfter, cfg.StateTimeout = 10*time.Second, 20*time.Second, 10*time.Second
}

func dirOf(cfg journal.Config, id storagenode.DriveID) string {
	for _, d := range cfg.Drives {
		if d.ID == id {
			return d.Dir
		}
	}
	return "?"
}

// empty removes all there is in a directory, but not the directory.
func empty(t testing.TB, fs vfs.FS, dir string) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := fs.RemoveAll(filepath.Join(dir, n)); err != nil {
			t.Fatal(err)
		}
	}
}

// whole waits until there are tolerance+1 members, none of them in without.
func whole(t testing.TB, s *journal.Store, cfg journal.Config, without ...storagenode.DriveID) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("status %+v", s.Status())
		}
	}()
	eventually(t, "all members", func() bool {
		st := s.Status()
		for _, id := range without {
			if slices.Contains(st.Members, id) {
				return false
			}
		}
		return len(st.Members) == cfg.Tolerance+1 && st.Degraded == ""
	})
}

// TestMembersFail lets members fail in all ways, some at once, under load:
// nobody sees an error, and others take their places.
func TestMembersFail(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(t *testing.T, fs *vfs.Fault, dir string)
	}{
		{"sync EIO", func(_ *testing.T, fs *vfs.Fault, dir string) {
			fs.Inject(vfs.Rule{Ops: vfs.OpSync, Path: dir + "/journal/log", Err: syscall.EIO})
		}},
		{"write ENOSPC", func(_ *testing.T, fs *vfs.Fault, dir string) {
			fs.Inject(vfs.Rule{Ops: vfs.OpWrite | vfs.OpCreate, Path: dir + "/journal/log", Err: syscall.ENOSPC})
		}},
		{"short write", func(_ *testing.T, fs *vfs.Fault, dir string) {
			fs.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: dir + "/journal/log", Err: syscall.ENOSPC, Short: true})
		}},
		{"hang in sync", func(t *testing.T, fs *vfs.Fault, dir string) {
			t.Cleanup(fs.Inject(vfs.Rule{Ops: vfs.OpSync, Path: dir + "/journal/log", Hang: true}).Release)
		}},
		{"everything hangs", func(t *testing.T, fs *vfs.Fault, dir string) {
			t.Cleanup(fs.Inject(vfs.Rule{Path: dir + "/", Hang: true}).Release)
		}},
		{"everything EIO", func(_ *testing.T, fs *vfs.Fault, dir string) {
			fs.Inject(vfs.Rule{Path: dir + "/", Err: syscall.EIO})
		}},
		{"emptied", func(t *testing.T, fs *vfs.Fault, dir string) { empty(t, fs, dir) }},
		{"moved away", func(t *testing.T, fs *vfs.Fault, dir string) {
			if err := fs.Rename(dir, dir+".away"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		for _, many := range []int{1, 2, 3} {
			t.Run(fmt.Sprintf("%s/%d of 3", c.name, many), func(t *testing.T) {
				t.Parallel()
				cfg, fs, _ := faulty(t, 6, 2)
				s := open(t, cfg)
				stop := load(t, s, 4)
				time.Sleep(50 * time.Millisecond)
				lost := slices.Clone(s.Status().Members[:many])
				for _, id := range lost {
					c.fault(t, fs, dirOf(cfg, id))
				}
				eventually(t, "left", func() bool {
					return !slices.ContainsFunc(s.Status().Members, func(id storagenode.DriveID) bool {
						return slices.Contains(lost, id)
					})
				})
				for _, id := range lost {
					s.SetUsable(id, false)
				}
				if many < 3 || c.name != "everything hangs" {
					whole(t, s, cfg, lost...)
				}
				acked := stop()
				check(t, s, acked)
				if t.Failed() {
					return
				}
				// What is lost stays lost: with the others it opens again.
				cfg.Unusable = append(cfg.Unusable, lost...)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if many > cfg.Tolerance {
					return
				}
				check(t, open(t, cfg), acked)
			})
		}
	}
}

// TestStateLost: the drive with the state fails in all ways, under load.
func TestStateLost(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(t *testing.T, fs *vfs.Fault, dir string)
	}{
		{"emptied", func(t *testing.T, fs *vfs.Fault, dir string) { empty(t, fs, dir) }},
		{"full", func(_ *testing.T, fs *vfs.Fault, dir string) {
			fs.Inject(vfs.Rule{Ops: vfs.OpWrite | vfs.OpCreate, Path: dir + "/state", Err: syscall.ENOSPC})
		}},
		{"EIO", func(_ *testing.T, fs *vfs.Fault, dir string) {
			fs.Inject(vfs.Rule{Path: dir + "/state", Err: syscall.EIO})
		}},
		{"hang", func(t *testing.T, fs *vfs.Fault, dir string) {
			t.Cleanup(fs.Inject(vfs.Rule{Path: dir + "/state", Hang: true}).Release)
		}},
		{"hang in reads", func(t *testing.T, fs *vfs.Fault, dir string) {
			t.Cleanup(fs.Inject(vfs.Rule{Ops: vfs.OpRead, Path: dir + "/state", Hang: true}).Release)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg, fs, _ := faulty(t, 6, 2)
			cfg.Checkpoint = 50 * time.Millisecond
			s := open(t, cfg)
			stop := load(t, s, 4)
			time.Sleep(200 * time.Millisecond)
			was := s.Status().StateDrive
			c.fault(t, fs, dirOf(cfg, was))
			if c.name == "emptied" {
				// Pebble keeps its files open; somebody has to say it.
				s.SetUsable(was, false)
			}
			if strings.Contains(c.name, "reads") {
				time.Sleep(300 * time.Millisecond) // reads that hit no cache may never come
			} else {
				eventually(t, "another state", func() bool {
					st := s.Status()
					return st.StateDrive != was && !st.StateDrive.IsZero()
				})
			}
			check(t, s, stop())
		})
	}
}

// TestStateBehindOnTheOnlyDrive: a process that was killed before its first checkpoint
// leaves a state without anything in it. Where there is but one drive, the new state
// has no other place than beside that one, which Pebble is still busy with.
func TestStateBehindOnTheOnlyDrive(t *testing.T) {
	cfg := config(t, vfs.OS(), t.TempDir(), 1, 0)
	cfg.Checkpoint = time.Hour
	mustPut(t, open(t, cfg), "a", "1")
	killed := filepath.Join(t.TempDir(), "d0")
	if err := os.CopyFS(killed, os.DirFS(cfg.Drives[0].Dir)); err != nil {
		t.Fatal(err)
	}
	fs := vfs.NewFault(vfs.OS())
	fs.Inject(vfs.Rule{Ops: vfs.OpRemove, Path: killed + "/state/db-", Delay: 100 * time.Millisecond})
	cfg.FS, cfg.Drives = fs, []journal.Member{{ID: cfg.Drives[0].ID, Dir: killed}}
	cfg.Logger = slog.New(slog.NewTextHandler(slowWriter{}, nil)) // so that what is under way is noticed
	wantGet(t, open(t, cfg), "a", "1")
}

// slowWriter is a log that takes its time.
type slowWriter struct{}

func (slowWriter) Write(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return len(p), nil
}

// TestTooFewDrives: beyond the tolerance nothing is served, and nothing lost.
func TestTooFewDrives(t *testing.T) {
	cfg, fs, _ := faulty(t, 6, 2)
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	away := fs.Inject(vfs.Rule{Path: "/d0/", Err: syscall.EIO})
	fs.Inject(vfs.Rule{Path: "/d4", Err: syscall.EIO})
	fs.Inject(vfs.Rule{Path: "/d5", Err: syscall.EIO})
	_, err := journal.Open(t.Context(), cfg)
	if !errors.Is(err, kv.ErrUnavailable) || !strings.Contains(err.Error(), "/d5") {
		t.Fatalf("open with three drives away: %v", err)
	}
	away.Release()
	s = open(t, cfg)
	wantGet(t, s, "a", "1")
	if st := s.Status(); len(st.Members) != 3 {
		t.Fatalf("status %+v", st)
	}
}

// TestTriedGeneration: a membership that was tried on too few drives, which are
// away at the next start, is nothing any more when they come back at a later one.
func TestTriedGeneration(t *testing.T) {
	cfg, fs, _ := faulty(t, 4, 1)
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	inject := func(dirs ...string) (release func()) {
		var rules []*vfs.Injected
		for _, d := range dirs {
			rules = append(rules, fs.Inject(vfs.Rule{Path: d, Err: syscall.EIO}))
		}
		return func() {
			for _, r := range rules {
				r.Release()
			}
		}
	}
	// All but one drive fail at once: new members are tried on that one.
	release := inject("/d0", "/d1", "/d2")
	if err := put(t, s, "lost", "x"); err == nil {
		t.Fatal("acknowledged on one drive")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	release()
	for i := range 3 { // it is the one that is away now
		release = inject("/d3")
		s = open(t, cfg)
		mustPut(t, s, "a", fmt.Sprint(2+i))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		release()
	}
	s = open(t, cfg)
	wantGet(t, s, "a", "4")
	whole(t, s, cfg)
	wantGet(t, s, "a", "4")
}

// TestLateWipe: a drive that is slow to be made ready for a join becomes a member
// meanwhile, since all others are lost: what it then holds stays.
func TestLateWipe(t *testing.T) {
	cfg, fs, _ := faulty(t, 4, 1)
	cfg.StateTimeout, cfg.RetryAfter = 10*time.Second, time.Minute
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	slow := fs.Inject(vfs.Rule{Path: "/d2/journal", Ops: vfs.OpList, Hang: true, Times: 1})
	fs.Inject(vfs.Rule{Path: "/d1/journal/log", Ops: vfs.OpSync, Err: syscall.EIO})
	mustPut(t, s, "a", "2")
	eventually(t, "a join", func() bool { return slow.Waiting() == 1 })
	fs.Inject(vfs.Rule{Path: "/d0/journal/log", Ops: vfs.OpSync, Err: syscall.EIO})
	done := make(chan error, 1)
	go func() { done <- put(t, s, "a", "3") }()
	time.Sleep(300 * time.Millisecond)
	slow.Release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	mustPut(t, s, "a", "4")
	if m := s.Status().Members; len(m) != 2 || !slices.Contains(m, cfg.Drives[2].ID) {
		t.Errorf("members %v", m)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fs.Clear()
	fs.Inject(vfs.Rule{Path: "/d3", Err: syscall.EIO}) // the other new member
	wantGet(t, open(t, cfg), "a", "4")
}

// TestAllMembersAway: with all of four drives gone, commits stop, and go on by
// themselves when the drives are back.
func TestAllMembersAway(t *testing.T) {
	cfg, fs, _ := faulty(t, 4, 2)
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	for _, d := range cfg.Drives {
		if err := fs.Rename(d.Dir, d.Dir+".away"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "unavailable", func() bool {
		err := put(t, s, "a", "2")
		if err != nil && !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrUnknown) {
			t.Fatal(err)
		}
		return errors.Is(err, kv.ErrUnavailable)
	})
	for _, d := range cfg.Drives {
		if err := fs.Rename(d.Dir+".away", d.Dir); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "available", func() bool { return put(t, s, "b", "3") == nil })
	wantGet(t, s, "b", "3")
	if v, err := s.Get(t.Context(), []byte("a")); err != nil || len(v) == 0 {
		t.Fatalf("a is %q, %v", v, err)
	}
}

// TestAllSyncsFail: where no drive is left after failed syncs, the status says what
// helps, and it does.
func TestAllSyncsFail(t *testing.T) {
	cfg, fs, _ := faulty(t, 4, 2)
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	fs.Inject(vfs.Rule{Ops: vfs.OpSync, Err: syscall.EIO})
	eventually(t, "it to say what to do", func() bool {
		_ = put(t, s, "a", "2")
		return strings.Contains(s.Status().Degraded, "4 drives failed a write or a sync")
	})
	fs.Clear()
	if err := s.Close(); err != nil {
		t.Log(err)
	}
	s = open(t, cfg)
	mustPut(t, s, "b", "3")
	wantGet(t, s, "b", "3")
}

// TestReplace: emptied drives that were formatted anew are taken in again.
func TestReplace(t *testing.T) {
	cfg, fs, _ := faulty(t, 3, 1)
	s := open(t, cfg)
	stop := load(t, s, 2)
	for round := range 3 {
		for i, d := range cfg.Drives {
			empty(t, fs, d.Dir)
			m := journal.Member{ID: storagenode.DriveID{0xe, byte(round), byte(i)}, Dir: d.Dir}
			cfg.Drives[i] = m
			s.Replace(m)
			eventually(t, "old one gone", func() bool {
				return !slices.Contains(s.Status().Members, d.ID)
			})
			whole(t, s, cfg, d.ID)
		}
	}
	acked := stop()
	check(t, s, acked)
	// Two of the three members' drives and the state may be emptied by now;
	// what was acknowledged is on the new ones.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, open(t, cfg), acked)
}

// TestNewDriveHasTheMembershipAtOnce: a start that finds too few drives with it is
// refused, so one that came in the place of another has it before the next probe.
func TestNewDriveHasTheMembershipAtOnce(t *testing.T) {
	cfg, fs, _ := faulty(t, 3, 1)
	cfg.Tick = time.Hour
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	i := slices.IndexFunc(cfg.Drives, func(m journal.Member) bool { return !slices.Contains(s.Status().Members, m.ID) })
	empty(t, fs, cfg.Drives[i].Dir)
	m := journal.Member{ID: storagenode.DriveID{0xe}, Dir: cfg.Drives[i].Dir}
	s.Replace(m)
	s.SetUsable(m.ID, true)
	eventually(t, "the membership on it", func() bool {
		_, err := fs.Stat(m.Dir + "/journal/membership")
		return err == nil
	})
}

// TestDisksMove: drives whose disks were exchanged between directories are used where
// they are now: what is acknowledged is found by a start that finds them there.
func TestDisksMove(t *testing.T) {
	for _, both := range []bool{false, true} { // members
		cfg, fs, _ := faulty(t, 4, 1)
		s := open(t, cfg)
		mustPut(t, s, "a", "1")
		member := func(m journal.Member) bool { return slices.Contains(s.Status().Members, m.ID) }
		i := slices.IndexFunc(cfg.Drives, member)
		j := slices.IndexFunc(cfg.Drives, func(m journal.Member) bool { return m != cfg.Drives[i] && member(m) == both })
		x, y := &cfg.Drives[i], &cfg.Drives[j]
		for _, r := range [][2]string{{x.Dir, "/aside"}, {y.Dir, x.Dir}, {"/aside", y.Dir}} {
			if err := fs.Rename(r[0], r[1]); err != nil {
				t.Fatal(err)
			}
		}
		x.Dir, y.Dir = y.Dir, x.Dir
		for _, m := range []journal.Member{*x, *y} { // as they are noticed
			s.Replace(m)
			s.SetUsable(m.ID, true)
			eventually(t, "nothing to be on a drive of which nobody knows where it is", func() bool {
				return s.Status().Degraded == "" && (m == *y || !slices.Contains(s.Status().Members, y.ID))
			})
		}
		mustPut(t, s, "b", "2")
		eventually(t, "all members", func() bool { return s.Status().Degraded == "" })
		mustPut(t, s, "c", "3")
		for _, id := range s.Status().Members {
			if _, err := fs.Stat(dirOf(cfg, id) + "/journal/membership"); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		members := s.Status().Members
		cfg.Unusable = members[1:] // one has everything
		s = open(t, cfg)
		for key, want := range map[string]string{"a": "1", "b": "2", "c": "3"} {
			wantGet(t, s, key, want)
		}
	}
}

// TestDiskMovesAndIsTakenOut: a disk is put in the place of another, which comes back
// there. Nothing is written by the path of the first any more: it leads to the other.
func TestDiskMovesAndIsTakenOut(t *testing.T) {
	cfg, fs, _ := faulty(t, 3, 1)
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	i := slices.IndexFunc(cfg.Drives, func(m journal.Member) bool { return slices.Contains(s.Status().Members, m.ID) })
	x, y := cfg.Drives[i], cfg.Drives[(i+1)%3]
	move := func(from, to string) {
		t.Helper()
		if err := fs.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	is := func(m journal.Member) {
		t.Helper()
		s.Replace(m)
		s.SetUsable(m.ID, true)
		other := x.ID
		if m.ID == x.ID {
			other = y.ID
		}
		eventually(t, "the drive that is there to be a member, and not the other", func() bool {
			st := s.Status()
			return st.Degraded == "" && slices.Contains(st.Members, m.ID) && !slices.Contains(st.Members, other)
		})
	}
	move(y.Dir, "/aside")
	move(x.Dir, y.Dir)
	is(journal.Member{ID: x.ID, Dir: y.Dir})
	mustPut(t, s, "b", "2")
	move(y.Dir, "/taken")
	move("/aside", y.Dir)
	is(y)
	mustPut(t, s, "c", "3")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Unusable = []storagenode.DriveID{x.ID}
	s = open(t, cfg)
	for key, want := range map[string]string{"a": "1", "b": "2", "c": "3"} {
		wantGet(t, s, key, want)
	}
}

// TestDiskThatCameAndWent: a drive was noticed in the place of another, which is back
// there. Nothing is put on the first, whose path leads to the other's disk.
func TestDiskThatCameAndWent(t *testing.T) {
	cfg, fs, _ := faulty(t, 4, 1)
	patient(&cfg)
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	members := s.Status().Members
	var rest []journal.Member
	for _, m := range cfg.Drives {
		if !slices.Contains(members, m.ID) {
			rest = append(rest, m)
		}
	}
	x, y := rest[0], rest[1]
	for _, r := range [][2]string{{y.Dir, "/aside"}, {x.Dir, y.Dir}} {
		if err := fs.Rename(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	isIn(s, x.ID, y.Dir)
	for _, r := range [][2]string{{y.Dir, "/taken"}, {"/aside", y.Dir}} {
		if err := fs.Rename(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	isIn(s, y.ID, y.Dir)
	s.SetUsable(members[0], false)
	whole(t, s, cfg, members[0], x.ID)
	mustPut(t, s, "b", "2")
	if got := s.Status().Members; !slices.Contains(got, y.ID) {
		t.Errorf("members are %v", got)
	}
}

func isIn(s *journal.Store, id storagenode.DriveID, dir string) {
	s.Replace(journal.Member{ID: id, Dir: dir})
	s.SetUsable(id, true)
}

// TestNewDriveTakesTheDisplacedOnesPlace: where a drive has moved into the directory of
// another, whose disk is gone, a new drive in its old directory is counted for that
// one: there are two drives, and one may be lost.
func TestNewDriveTakesTheDisplacedOnesPlace(t *testing.T) {
	cfg, fs, _ := faulty(t, 2, 1)
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	x, y, n := cfg.Drives[0], cfg.Drives[1], storagenode.DriveID{0xe}
	for _, r := range [][2]string{{y.Dir, "/taken"}, {x.Dir, y.Dir}} {
		if err := fs.Rename(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.MkdirAll(x.Dir); err != nil {
		t.Fatal(err)
	}
	isIn(s, x.ID, y.Dir)
	isIn(s, n, x.Dir)
	whole(t, s, cfg, y.ID)
	s.SetUsable(n, false)
	mustPut(t, s, "b", "2")
	wantGet(t, s, "a", "1")
}

// TestNewDriveLeavesOneThatIsBack: a drive that is back where another had been is not
// displaced any more: a new drive takes the place of that other one.
func TestNewDriveLeavesOneThatIsBack(t *testing.T) {
	cfg, fs, _ := faulty(t, 3, 1)
	s := open(t, cfg)
	mustPut(t, s, "a", "1")
	y, x, n := cfg.Drives[0], cfg.Drives[1], storagenode.DriveID{0xe}
	for _, r := range [][2]string{{y.Dir, "/aside"}, {x.Dir, y.Dir}} {
		if err := fs.Rename(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	isIn(s, x.ID, y.Dir)
	whole(t, s, cfg, y.ID)
	for _, r := range [][2]string{{y.Dir, "/taken"}, {"/aside", y.Dir}} {
		if err := fs.Rename(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	isIn(s, y.ID, y.Dir)
	if err := fs.MkdirAll(x.Dir); err != nil {
		t.Fatal(err)
	}
	isIn(s, n, x.Dir)
	whole(t, s, cfg, x.ID)
	s.SetUsable(cfg.Drives[2].ID, false)
	whole(t, s, cfg, x.ID, cfg.Drives[2].ID)
	wantGet(t, s, "a", "1")
}

// TestSnapshotAndTrim: the log stays bounded, and a state can be built from a
// snapshot and what follows it.
func TestSnapshotAndTrim(t *testing.T) {
	cfg, fs, _ := faulty(t, 4, 1)
	cfg.LogSize, cfg.SnapshotAfter = 64<<10, 512<<10
	s := open(t, cfg)
	stop := load(t, s, 4)
	dir := dirOf(cfg, s.Status().Members[0])
	snapshots := func() (n int) {
		names, err := fs.List(dir + "/journal")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if strings.HasPrefix(n, "snap-") && !strings.HasSuffix(n, "0001") {
				return 1
			}
		}
		return 0
	}
	eventually(t, "a snapshot", func() bool { return snapshots() == 1 })
	eventually(t, "trimmed", func() bool {
		_, err := fs.Stat(fmt.Sprintf("%s/journal/log-%016x", dir, 1))
		return errors.Is(err, vfs.ErrNotExist)
	})
	acked := stop()
	check(t, s, acked)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, d := range cfg.Drives {
		if err := fs.RemoveAll(d.Dir + "/state"); err != nil {
			t.Fatal(err)
		}
	}
	check(t, open(t, cfg), acked)
}

// TestSnapshotOverRestarts: what earlier lives appended counts, or the log of a
// store that is often opened anew would grow for ever.
func TestSnapshotOverRestarts(t *testing.T) {
	cfg, fs, _ := faulty(t, 4, 1)
	cfg.LogSize, cfg.SnapshotAfter = 16<<10, 64<<10
	first := fmt.Sprintf("log-%016x", 1)
	for round := range 8 {
		s := open(t, cfg)
		dir := dirOf(cfg, s.Status().Members[0])
		for i := range 40 { // less than a quarter of what makes a snapshot due
			mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 100))
		}
		if round == 7 {
			eventually(t, "trimmed", func() bool {
				_, err := fs.Stat(dir + "/journal/" + first)
				return errors.Is(err, vfs.ErrNotExist)
			})
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedMember: damage in the midst of one member's log, or a log that
// goes another way, is replaced by a copy of the other's.
func TestDamagedMember(t *testing.T) {
	for _, kind := range []string{"flipped bit", "older copy", "log gone", "header gone"} {
		t.Run(kind, func(t *testing.T) {
			cfg, fs, mem := faulty(t, 4, 1)
			s := open(t, cfg)
			for i := range 50 {
				mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
			}
			victim := dirOf(cfg, s.Status().Members[0]) + "/journal"
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			log := fmt.Sprintf("%s/log-%016x", victim, 1)
			var err error
			switch kind {
			case "flipped bit":
				err = fs.FlipBit(log, 512*11+100, 3)
			case "header gone":
				err = fs.FlipBit(log, 17, 3)
			case "log gone":
				err = fs.Remove(log)
			case "older copy":
				// The namespace goes on without the victim, which is then
				// found as it was; its record is set back, too.
				err = mem.Rename(victim, "/kept")
			}
			if err != nil {
				t.Fatal(err)
			}
			s = open(t, cfg)
			if len(s.Status().Members) != 1 || s.Status().Generation == 2 {
				t.Fatalf("status %+v", s.Status())
			}
			mustPut(t, s, "k0", "new")
			if kind == "older copy" {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(mem.RemoveAll(victim), mem.Rename("/kept", victim)); err != nil {
					t.Fatal(err)
				}
				s = open(t, cfg)
			}
			whole(t, s, cfg)
			wantGet(t, s, "k0", "new")
			wantGet(t, s, "k49", strings.Repeat("x", 300))
		})
	}
}

// TestDamagedSnapshot: where the state is lost as well, it is built from another
// member's snapshot, and the damaged one is replaced by a copy.
func TestDamagedSnapshot(t *testing.T) {
	for _, victim := range []int{0, 1} {
		t.Run(fmt.Sprint("member ", victim), func(t *testing.T) {
			cfg, fs, _ := faulty(t, 4, 1)
			cfg.SnapshotAfter = 8 << 10
			s := open(t, cfg)
			for i := range 60 {
				mustPut(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
			}
			id := s.Status().Members[victim]
			dir := dirOf(cfg, id) + "/journal"
			snapshot := func() string {
				names, err := fs.List(dir)
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range names {
					if strings.HasPrefix(n, "snap-") && n != "snap.new" {
						return n
					}
				}
				return ""
			}
			eventually(t, "a snapshot", func() bool { return snapshot() != "" })
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			damaged := snapshot()
			err := fs.FlipBit(dir+"/"+damaged, 300, 3)
			for _, d := range cfg.Drives {
				err = errors.Join(err, fs.RemoveAll(d.Dir+"/state"))
			}
			if err != nil {
				t.Fatal(err)
			}
			cfg.SnapshotAfter = 1 << 30
			s = open(t, cfg)
			eventually(t, "a state", func() bool { // on a busy machine the others are heard of later
				_, err := s.Get(t.Context(), []byte("k0"))
				return err == nil
			})
			for i := range 60 {
				wantGet(t, s, fmt.Sprint("k", i), strings.Repeat("x", 300))
			}
			if victim == 0 { // the one that was read first
				eventually(t, "no member has the damaged snapshot", func() bool {
					return !slices.Contains(s.Status().Members, id) || snapshot() != damaged
				})
			}
			whole(t, s, cfg)
		})
	}
}
