package node

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// second has one directory lie on a second file system.
type second struct {
	vfs.FS
	inode *uint64
}

func (s second) Stat(path string) (vfs.Stat, error) {
	st, err := s.FS.Stat(path)
	if err == nil && st.Inode == *s.inode {
		st.Dev++
	}
	return st, err
}

type secondPinned struct {
	second
	pin vfs.Pinned
}

func (s secondPinned) Close() error { return s.pin.Close() }

func (s second) Pin(dir string) (vfs.Pinned, error) {
	p, err := s.FS.Pin(dir)
	if err != nil {
		return nil, err
	}
	return secondPinned{second{p, s.inode}, p}, nil
}

// moment is a node of /a and /b that is stopped at a step while another disk, /other,
// comes to lie in /a.
type moment struct {
	*testing.T
	fault *vfs.Fault
	other uint64
}

func newMoment(t *testing.T) *moment {
	m := &moment{T: t}
	m.fault = vfs.NewFault(second{vfs.NewMem(), &m.other})
	t.Cleanup(m.fault.Clear)
	m.must(m.fault.Mkdir("/other"))
	st, err := m.fault.Stat("/other")
	m.must(err)
	m.other = st.Inode
	return m
}

func (m *moment) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *moment) open() *Node {
	n, err := Open(m.Context(), Config{
		FS: m.fault, Dirs: []string{"/a", "/b"}, Poll: time.Hour,
		Open: func(context.Context, vfs.FS, string, Identity) (storagenode.Drive, error) { return &drive{}, nil },
	})
	if err != nil {
		m.Error(err)
		return nil
	}
	m.Cleanup(func() { _ = n.Close() })
	return n
}

// during runs f, and has the other disk come when it is at the step.
func (m *moment) during(step vfs.Rule, f func()) {
	m.Helper()
	step.Hang, step.Times = true, 1
	hang := m.fault.Inject(step)
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	for hang.Waiting() == 0 {
		select {
		case <-done:
			m.Fatal("nothing hangs")
		case <-time.After(time.Millisecond):
		}
	}
	m.must(m.fault.Rename("/a", "/a.was"))
	m.must(m.fault.Rename("/other", "/a"))
	hang.Release()
	<-done
}

// TestDiskComesWhileAnEmptyDirectoryIsTaken: an empty disk of another file system that
// comes to lie in a drive's place, after that place was found to be on the drive's own, is
// not made a drive without a command.
func TestDiskComesWhileAnEmptyDirectoryIsTaken(t *testing.T) {
	for what, step := range map[string]vfs.Rule{
		"before it is opened":                {Ops: vfs.OpOpen, Path: "/a", Skip: 1},
		"while its file system is looked at": {Ops: vfs.OpUsage, Path: "/a"},
	} {
		t.Run(what, func(t *testing.T) {
			m := newMoment(t)
			n := m.open()
			m.must(m.fault.Rename("/a", "/aside"))
			m.must(m.fault.Mkdir("/a"))
			m.during(step, func() { n.places[0].check(t.Context()) })
			n.places[0].check(t.Context())
			if names, err := m.fault.List("/a"); err != nil || len(names) > 0 {
				t.Errorf("the other disk holds %v, %v", names, err)
			}
			if p := n.places[0]; p.state != storagenode.DriveDown || !strings.Contains(p.reason, "kintsugi admin drives replace") {
				t.Errorf("%s: %s", p.state, p.reason)
			}
		})
	}
}

// TestDiskComesWhileTheNodeStarts: what a start writes does not get onto a disk that comes
// to lie there meanwhile.
func TestDiskComesWhileTheNodeStarts(t *testing.T) {
	for name, prepare := range map[string]func(m *moment){
		IdentityName + tmpSuffix: func(m *moment) { // an empty directory is tried
			m.must(m.fault.Rename("/a", "/aside"))
			m.must(m.fault.Mkdir("/a"))
		},
		knownName + tmpSuffix: func(m *moment) { m.must(m.fault.Remove("/a/" + knownName)) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMoment(t)
			n := m.open()
			m.must(n.Founded())
			m.must(n.Close())
			prepare(m)
			f, err := m.fault.OpenFile("/other/"+name, os.O_CREATE|os.O_WRONLY)
			m.must(err)
			_, err = f.WriteAt([]byte("theirs"), 0)
			m.must(err)
			m.must(f.Close())
			m.during(vfs.Rule{Ops: vfs.OpCreate, Path: "/a/" + name}, func() { m.open() })
			if text, err := readFile(m.fault, "/a/"+name); err != nil || string(text) != "theirs" {
				t.Errorf("the other disk's file says %q, %v", text, err)
			}
			if names, err := m.fault.List("/a"); err != nil || len(names) != 1 {
				t.Errorf("the other disk holds %v, %v", names, err)
			}
		})
	}
}

// lingering is a drive whose store takes its time to close.
type lingering struct {
	*drive
	letGo chan struct{}
}

func (l *lingering) Close() error { <-l.letGo; return l.drive.Close() }

// TestOwnStoreIsNoOtherProcess: while the store of a disk that moved to another directory
// has not let go, that is what is said, and not that another process uses it.
func TestOwnStoreIsNoOtherProcess(t *testing.T) {
	r := newRig(t, 2)
	letGo := make(chan struct{})
	cfg := r.config()
	cfg.Poll = time.Hour
	open := cfg.Open
	cfg.Open = func(ctx context.Context, fs vfs.FS, dir string, id Identity) (storagenode.Drive, error) {
		d, err := open(ctx, fs, dir, id)
		if err == nil && dir == r.dirs[1] {
			d = &lingering{r.open[dir], letGo}
		}
		return d, err
	}
	n, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	id := n.Reports()[1].ID
	for _, move := range [][2]string{{r.dirs[0], r.dirs[0] + ".away"}, {r.dirs[1], r.dirs[0]}} {
		if err := os.Rename(move[0], move[1]); err != nil {
			t.Fatal(err)
		}
	}
	closed := make(chan struct{})
	go func() { defer close(closed); n.places[1].check(t.Context()) }()
	for n.places[1].closing.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	p := n.places[0]
	p.check(t.Context())
	if p.state != storagenode.DriveDown || strings.Contains(p.reason, "another process") || !strings.Contains(p.reason, "let go of it that was opened in "+r.dirs[1]) {
		t.Errorf("%s: %s", p.state, p.reason)
	}
	close(letGo)
	<-closed
	p.check(t.Context())
	if _, state := n.Drive(id); state != storagenode.DriveActive {
		t.Errorf("it is %s: %s", state, p.reason)
	}
}

// TestUnreadIdentityIsNoEmptyDirectory: a directory whose identity cannot be read just
// now, though it could be seen to be empty before, is not formatted: it may be a disk that
// came meanwhile.
func TestUnreadIdentityIsNoEmptyDirectory(t *testing.T) {
	for _, why := range []error{syscall.EMFILE, syscall.EIO} {
		m := newMoment(t)
		n := m.open()
		m.must(n.Close())
		m.must(m.fault.MkdirAll("/a/journal"))
		f, err := m.fault.OpenFile("/a/journal/log", os.O_CREATE|os.O_WRONLY)
		m.must(err)
		m.must(f.Close())
		pin, err := m.fault.Pin("/a")
		m.must(err)
		m.fault.Inject(vfs.Rule{Ops: vfs.OpOpen, Path: IdentityName, Err: why, Times: 1})
		if err := n.places[0].format(pin, storagenode.DriveID{}); !errors.Is(err, why) {
			t.Errorf("%v: formatted: %v", why, err)
		}
		if _, err := m.fault.Stat("/a/journal/log"); err != nil {
			t.Errorf("%v: %v", why, err)
		}
		m.must(pin.Close())
	}
}
