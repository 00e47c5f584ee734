package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// drive is a store of which only identity and health matter.
type drive struct {
	storagenode.ShardStore
	mu     sync.Mutex
	sick   error
	closed bool
}

func (d *drive) Space() storagenode.Space { return storagenode.Space{Total: 1} }
func (d *drive) Health() error            { d.mu.Lock(); defer d.mu.Unlock(); return d.sick }
func (d *drive) Close() error             { d.mu.Lock(); defer d.mu.Unlock(); d.closed = true; return nil }
func (d *drive) Scrub(context.Context, int64, func(storagenode.ShardID, error)) (storagenode.ScrubReport, error) {
	return storagenode.ScrubReport{}, nil
}

type rig struct {
	t    *testing.T
	root string
	dirs []string
	mu   sync.Mutex
	open map[string]*drive // by directory
	told []storagenode.DriveReport
}

func newRig(t *testing.T, n int) *rig {
	r := &rig{t: t, root: t.TempDir(), open: map[string]*drive{}}
	for i := range n {
		r.dirs = append(r.dirs, filepath.Join(r.root, fmt.Sprintf("d%d", i+1)))
	}
	return r
}

func (r *rig) config() Config {
	return Config{
		FS: vfs.OS(), Dirs: r.dirs, Name: "n1", Poll: 5 * time.Millisecond,
		Open: func(_ context.Context, _ vfs.FS, dir string, _ Identity) (storagenode.Drive, error) {
			if err := os.MkdirAll(filepath.Join(dir, "segments"), 0o700); err != nil {
				return nil, err
			}
			if err := os.WriteFile(filepath.Join(dir, "segments", "1"), []byte("x"), 0o600); err != nil {
				return nil, err
			}
			d := &drive{}
			r.mu.Lock()
			r.open[dir] = d
			r.mu.Unlock()
			return d, nil
		},
		Changed: func(d storagenode.DriveReport) {
			r.mu.Lock()
			r.told = append(r.told, d)
			r.mu.Unlock()
		},
	}
}

func (r *rig) start() *Node {
	r.t.Helper()
	n, err := Open(context.Background(), r.config())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = n.Close() })
	return n
}

// await waits until the report of directory i satisfies ok.
func (r *rig) await(n *Node, i int, what string, ok func(storagenode.DriveReport) bool) storagenode.DriveReport {
	r.t.Helper()
	var last storagenode.DriveReport
	for range 1000 {
		for _, d := range n.Reports() {
			if d.Dir == r.dirs[i] {
				if last = d; ok(d) {
					return d
				}
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.t.Fatalf("waiting for %s: last report %+v", what, last)
	return last
}

func TestFormatsEmptyAndKnowsThemAgain(t *testing.T) {
	r := newRig(t, 3)
	n := r.start()
	if !n.Founding() || n.Cluster().IsZero() {
		t.Fatal("a new cluster has no identity")
	}
	if err := n.Founded(); err != nil || n.Founding() {
		t.Fatalf("still founding: %v", err)
	}
	first := n.Reports()
	if len(first) != 3 {
		t.Fatalf("%d reports", len(first))
	}
	for _, d := range first {
		if _, state := n.Drive(d.ID); d.State != storagenode.DriveActive || state != storagenode.DriveActive {
			t.Fatalf("%+v", d)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	r.dirs[0], r.dirs[2] = r.dirs[2], r.dirs[0] // the order of directories means nothing
	again := r.start()
	if again.Founding() || again.Cluster() != n.Cluster() {
		t.Fatal("the cluster is not the same")
	}
	if got := again.Reports(); got[0].ID != first[2].ID || got[2].ID != first[0].ID {
		t.Fatal("drives are not the same")
	}
}

func TestFoundingSurvivesACrashBeforeTheNamespace(t *testing.T) {
	r := newRig(t, 2)
	_ = r.start().Close()
	n := r.start()
	if !n.Founding() {
		t.Fatal("the namespace was never made, yet the cluster is not founding")
	}
	_ = n.Close()
	empty(t, r.dirs[1]) // as if the crash had come before its format
	if n := r.start(); !n.Founding() {
		t.Fatal("the first start was cut short, yet the cluster is not founding")
	}
}

func TestRefuses(t *testing.T) {
	refused := func(t *testing.T, r *rig, want string) {
		t.Helper()
		n, err := Open(context.Background(), r.config())
		if err == nil {
			_ = n.Close()
		}
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Fatalf("got %v, want a refusal that speaks of %q", err, want)
		}
	}
	t.Run("other content", func(t *testing.T) {
		r := newRig(t, 2)
		_ = os.MkdirAll(r.dirs[1], 0o700)
		_ = os.WriteFile(filepath.Join(r.dirs[1], "holiday.jpg"), []byte("x"), 0o600)
		refused(t, r, "holiday.jpg")
		if _, err := os.Stat(filepath.Join(r.dirs[0], IdentityName)); err == nil {
			t.Fatal("the other directory was formatted all the same")
		}
	})
	t.Run("another cluster", func(t *testing.T) {
		r, s := newRig(t, 2), newRig(t, 1)
		_ = r.start().Close()
		_ = s.start().Close()
		r.dirs = append(r.dirs, s.dirs[0])
		refused(t, r, "cluster")
	})
	t.Run("a copied drive", func(t *testing.T) {
		r := newRig(t, 2)
		_ = r.start().Close()
		text, _ := os.ReadFile(filepath.Join(r.dirs[0], IdentityName))
		r.dirs = append(r.dirs, filepath.Join(r.root, "copy"))
		_ = os.MkdirAll(r.dirs[2], 0o700)
		_ = os.WriteFile(filepath.Join(r.dirs[2], IdentityName), text, 0o600)
		refused(t, r, "copy")
	})
	t.Run("the same directory twice", func(t *testing.T) {
		r := newRig(t, 1)
		r.dirs = append(r.dirs, r.dirs[0]+"/.")
		refused(t, r, "twice")
	})
	t.Run("a directory inside another", func(t *testing.T) {
		r := newRig(t, 1)
		r.dirs = append(r.dirs, filepath.Join(r.dirs[0], "segments"))
		refused(t, r, "inside")
		if _, err := os.Stat(r.dirs[0]); err == nil {
			t.Fatal("the outer one was made all the same")
		}
	})
	t.Run("too many", func(t *testing.T) {
		refused(t, newRig(t, 33), "32")
	})
}

// TestUnusable: a directory that is named for the first time and is not there has
// no drive, so no report; it is told all the same.
func TestUnusable(t *testing.T) {
	r := newRig(t, 2)
	n := r.start()
	if got := n.Unusable(); len(got) != 0 {
		t.Fatalf("%q", got)
	}
	_ = n.Founded()
	_ = n.Close()
	r.dirs = append(r.dirs, filepath.Join(r.root, "missing"))
	if got := r.start().Unusable(); len(got) != 1 || !strings.HasPrefix(got[0], r.dirs[2]+": ") || !strings.Contains(got[0], "does not exist") {
		t.Fatalf("%q", got)
	}
}

func TestEmptiedWhileRunningIsReplaced(t *testing.T) {
	r := newRig(t, 3)
	n := r.start()
	old := n.Reports()[1]
	empty(t, r.dirs[1])
	now := r.await(n, 1, "a replacement", func(d storagenode.DriveReport) bool {
		return d.ID != old.ID && d.State == storagenode.DriveActive
	})
	if now.Replaces != old.ID {
		t.Fatalf("replaces %s, want %s", now.Replaces, old.ID)
	}
	if store, state := n.Drive(old.ID); store != nil || state.Readable() {
		t.Fatal("the lost drive is still served")
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	// Emptied while it was down: the other drives remember the replacement.
	empty(t, r.dirs[1])
	again := r.start()
	if got := again.Reports()[1]; got.Replaces != now.ID || got.State != storagenode.DriveActive {
		t.Fatalf("%+v", got)
	}
}

// TestCloseWhileReplacing: a node that is closed when a replacement has just
// become ACTIVE has the other drives remember it all the same.
func TestCloseWhileReplacing(t *testing.T) {
	r := newRig(t, 3)
	cfg := r.config()
	active, proceed := make(chan storagenode.DriveReport), make(chan struct{})
	cfg.Changed = func(d storagenode.DriveReport) {
		if d.State == storagenode.DriveActive && !d.Replaces.IsZero() {
			active <- d
			<-proceed
		}
	}
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	empty(t, r.dirs[1])
	now := <-active
	closed := make(chan error)
	go func() { closed <- n.Close() }()
	time.Sleep(50 * time.Millisecond) // closed as far as it goes
	close(proceed)
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	for _, dir := range r.dirs {
		for _, k := range readKnown(vfs.OS(), dir) {
			if k.Dir == r.dirs[1] && k.Drive != now.ID {
				t.Errorf("%s remembers drive %s in %s, it is %s", dir, k.Drive, k.Dir, now.ID)
			}
		}
	}
}

func TestCheckNoticesAtOnce(t *testing.T) {
	r := newRig(t, 2)
	cfg := r.config()
	cfg.Poll = time.Hour
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	old := n.Reports()[1].ID
	empty(t, r.dirs[1])
	n.Check(context.Background())
	if d := n.Reports()[1]; d.Replaces != old || d.State != storagenode.DriveActive {
		t.Fatalf("%+v", d)
	}
}

func TestMovedAwayIsDownAndComesBack(t *testing.T) {
	r := newRig(t, 2)
	n := r.start()
	id := n.Reports()[0].ID
	away := r.dirs[0] + ".away"
	if err := os.Rename(r.dirs[0], away); err != nil {
		t.Fatal(err)
	}
	r.await(n, 0, "DOWN", func(d storagenode.DriveReport) bool { return d.State == storagenode.DriveDown })
	if store, _ := n.Drive(id); store != nil {
		t.Fatal("a drive that is away is served")
	}
	if err := os.Rename(away, r.dirs[0]); err != nil {
		t.Fatal(err)
	}
	r.await(n, 0, "ACTIVE", func(d storagenode.DriveReport) bool { return d.State == storagenode.DriveActive })
	if got := n.Reports()[0].ID; got != id {
		t.Fatalf("came back as %s, was %s", got, id)
	}
}

func TestIdentityLostButDataThere(t *testing.T) {
	r := newRig(t, 2)
	n := r.start()
	if err := os.Remove(filepath.Join(r.dirs[0], IdentityName)); err != nil {
		t.Fatal(err)
	}
	d := r.await(n, 0, "BROKEN", func(d storagenode.DriveReport) bool { return d.State == storagenode.DriveBroken })
	if !strings.Contains(d.Reason, "segments") {
		t.Fatalf("reason %q does not say what is still there", d.Reason)
	}
	if _, err := os.Stat(filepath.Join(r.dirs[0], "segments", "1")); err != nil {
		t.Fatal("data was removed")
	}
}

func TestAnotherFileSystemIsNotTaken(t *testing.T) {
	r := newRig(t, 2)
	n := r.start()
	old := n.Reports()[0].ID
	// As if the disk had been another one: an unmounted disk leaves the empty
	// directory of the file system below.
	for _, p := range n.places {
		p.mu.Lock()
		p.device++
		p.mu.Unlock()
	}
	empty(t, r.dirs[0])
	d := r.await(n, 0, "DOWN", func(d storagenode.DriveReport) bool { return d.State == storagenode.DriveDown })
	if d.ID != old || !strings.Contains(d.Reason, "mount") {
		t.Fatalf("%+v", d)
	}
	if err := n.Replace(context.Background(), r.dirs[0]); err != nil {
		t.Fatal(err)
	}
	if got := n.Reports()[0]; got.Replaces != old || got.State != storagenode.DriveActive {
		t.Fatalf("%+v", got)
	}
}

func TestHealthShows(t *testing.T) {
	r := newRig(t, 1)
	n := r.start()
	d := r.open[r.dirs[0]]
	for _, c := range []struct {
		err  error
		want storagenode.DriveState
	}{
		{fmt.Errorf("stuck: %w", storagenode.ErrSuspect), storagenode.DriveSuspect},
		{nil, storagenode.DriveActive},
		{fmt.Errorf("fsync: %w", storagenode.ErrBroken), storagenode.DriveBroken},
	} {
		d.mu.Lock()
		d.sick = c.err
		d.mu.Unlock()
		r.await(n, 0, c.want.String(), func(d storagenode.DriveReport) bool { return d.State == c.want })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := r.told[len(r.told)-1]; last.State != storagenode.DriveBroken {
		t.Fatalf("last told %+v", last)
	}
}

func TestIdentityBitsAreChecked(t *testing.T) {
	dir := t.TempDir()
	want := Identity{Cluster: storagenode.NewUUID(), Drive: storagenode.NewUUID(), Created: time.Now().UTC()}
	if err := writeIdentity(vfs.OS(), dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := readIdentity(vfs.OS(), dir)
	if err != nil || got.Drive != want.Drive || got.Cluster != want.Cluster {
		t.Fatalf("%+v, %v", got, err)
	}
	text, _ := os.ReadFile(filepath.Join(dir, IdentityName))
	for _, field := range []string{want.Drive.String(), want.Cluster.String()} {
		at := strings.Index(string(text), field)
		bad := append([]byte(nil), text...)
		bad[at] ^= 1
		if _, err := parseIdentity("x", bad); err == nil {
			t.Fatalf("a flipped bit in %s passes", field)
		}
	}
}

func empty(t *testing.T, dir string) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range names {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIdentityDamagedAtStartIsRememberedAndReplaced(t *testing.T) {
	r := newRig(t, 3)
	n := r.start()
	old := n.Reports()[1].ID
	if err := errors.Join(n.Founded(), n.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.dirs[1], IdentityName)
	if err := vfs.FlipBit(vfs.OS(), path, 40, 0); err != nil {
		t.Fatal(err)
	}
	n = r.start()
	r.await(n, 1, "the drive that was here to be known", func(d storagenode.DriveReport) bool {
		return d.ID == old && d.State == storagenode.DriveDown
	})
	empty(t, r.dirs[1])
	r.await(n, 1, "its replacement", func(d storagenode.DriveReport) bool {
		return d.State == storagenode.DriveActive && d.ID != old && d.Replaces == old
	})
}

// TestDisksAreExchanged: two disks that come back in each other's directories, at
// once or after both were away, are both served, and each reported once.
func TestDisksAreExchanged(t *testing.T) {
	for _, away := range []bool{false, true} {
		r := newRig(t, 3)
		cfg := r.config()
		cfg.Poll = time.Hour
		n, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
		first := n.Reports()
		move := func(from, to string) {
			t.Helper()
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		}
		look := func() {
			for _, p := range n.places {
				p.check(t.Context())
			}
		}
		move(r.dirs[0], r.dirs[0]+".away")
		if away {
			move(r.dirs[1], r.dirs[1]+".away")
			look()
			move(r.dirs[1]+".away", r.dirs[0])
		} else {
			move(r.dirs[1], r.dirs[0])
		}
		move(r.dirs[0]+".away", r.dirs[1])
		look()
		look()
		got := n.Reports()
		if len(got) != 3 || got[0].ID != first[1].ID || got[1].ID != first[0].ID {
			t.Fatalf("away %v: %+v", away, got)
		}
		for _, d := range got {
			if store, state := n.Drive(d.ID); d.State != storagenode.DriveActive || store == nil || state != storagenode.DriveActive {
				t.Errorf("away %v: drive in %s is reported %s, and %s to those who want to use it", away, d.Dir, d.State, state)
			}
		}
	}
}

// TestDiskMovesToAnotherDirectory: a disk that is served from another directory now
// is not called away for the sake of the one it was in.
func TestDiskMovesToAnotherDirectory(t *testing.T) {
	r := newRig(t, 3)
	cfg := r.config()
	cfg.Poll = time.Hour
	n, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	id := n.Reports()[2].ID
	look := func() {
		for _, p := range n.places {
			p.check(t.Context())
		}
	}
	for _, dir := range []string{r.dirs[0], r.dirs[2]} {
		if err := os.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
	}
	look()
	if err := os.Rename(r.dirs[2]+".away", r.dirs[0]); err != nil {
		t.Fatal(err)
	}
	look()
	if err := os.WriteFile(r.dirs[2], nil, 0o600); err != nil { // away for another reason
		t.Fatal(err)
	}
	look()
	if store, state := n.Drive(id); store == nil || state != storagenode.DriveActive {
		t.Errorf("the drive is %s", state)
	}
	for _, d := range n.Reports() {
		if d.ID == id && d.State != storagenode.DriveActive {
			t.Errorf("it is reported %s for %s", d.State, d.Dir)
		}
	}
}
