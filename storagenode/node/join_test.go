package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// joining is a rig's configuration for a node of a cluster; asked counts.
func (r *rig) joining(cluster storagenode.UUID, asked *int) Config {
	cfg := r.config()
	cfg.Join = func(context.Context) (storagenode.UUID, []storagenode.KnownDrive, error) {
		*asked++
		return cluster, nil, nil
	}
	return cfg
}

func (r *rig) startWith(cfg Config) *Node {
	r.t.Helper()
	n, err := Open(context.Background(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = n.Close() })
	return n
}

func TestJoinsAClusterAndStaysInIt(t *testing.T) {
	r, asked := newRig(t, 3), 0
	cluster := storagenode.UUID{42}
	n := r.startWith(r.joining(cluster, &asked))
	if n.Cluster() != cluster || asked != 1 || n.Founding() {
		t.Fatalf("cluster %s after %d questions, founding %v", n.Cluster(), asked, n.Founding())
	}
	first := map[storagenode.DriveID]bool{}
	for _, rep := range n.Reports() {
		first[rep.ID] = rep.State == storagenode.DriveActive
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	// A drive was emptied meanwhile; another directory is new.
	if err := os.RemoveAll(r.dirs[1]); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(r.root, "d9")
	for _, dir := range []string{r.dirs[1], fresh} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.dirs = append(r.dirs, fresh)
	n = r.startWith(r.joining(storagenode.UUID{66}, &asked))
	if n.Cluster() != cluster || asked != 1 || n.Founding() {
		t.Fatalf("cluster %s after %d questions, founding %v", n.Cluster(), asked, n.Founding())
	}
	known, replaced, added := 0, 0, 0
	for _, rep := range n.Reports() {
		switch {
		case rep.State != storagenode.DriveActive:
			t.Errorf("%+v", rep)
		case first[rep.ID]:
			known++
		case first[rep.Replaces]:
			replaced++
		default:
			added++
		}
	}
	if known != 2 || replaced != 1 || added != 1 {
		t.Fatalf("%d known, %d replaced, %d added drives", known, replaced, added)
	}
}

func TestJoinThatFailsFormatsNothing(t *testing.T) {
	r := newRig(t, 2)
	no := errors.New("nobody answers")
	for _, join := range []func(context.Context) (storagenode.UUID, []storagenode.KnownDrive, error){
		func(context.Context) (storagenode.UUID, []storagenode.KnownDrive, error) {
			return storagenode.UUID{1}, nil, no
		},
		func(context.Context) (storagenode.UUID, []storagenode.KnownDrive, error) {
			return storagenode.UUID{}, nil, nil
		},
	} {
		cfg := r.config()
		cfg.Join = join
		if _, err := Open(context.Background(), cfg); err == nil {
			t.Fatal("opened")
		}
	}
	for _, dir := range r.dirs {
		if _, err := os.Stat(filepath.Join(dir, IdentityName)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestJoinCutShort: the start ended after the first drive was formatted.
func TestJoinCutShort(t *testing.T) {
	r, asked := newRig(t, 3), 0
	n := r.startWith(r.joining(storagenode.UUID{42}, &asked))
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range r.dirs[1:] {
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
	if err := os.Remove(filepath.Join(r.dirs[0], knownName)); err != nil {
		t.Fatal(err)
	}
	n = r.startWith(r.joining(storagenode.UUID{42}, &asked))
	active := 0
	for _, rep := range n.Reports() {
		if rep.State == storagenode.DriveActive {
			active++
		}
	}
	if active != 3 || asked != 1 {
		t.Fatalf("%d drives, asked %d times", active, asked)
	}
}

// otherDisk is a file system on which what lies below some directories is of
// another disk: it is mounted there, or it is not and the directories are of the
// file system below.
type otherDisk struct {
	vfs.FS
	mu   sync.Mutex
	dirs map[string]bool
}

func (o *otherDisk) Stat(path string) (vfs.Stat, error) {
	st, err := o.FS.Stat(path)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dirs[path] {
		st.Dev += 1000
	}
	return st, err
}

func (o *otherDisk) Pin(dir string) (vfs.Pinned, error) {
	p, err := o.FS.Pin(dir)
	return &pinnedDisk{p, o}, err
}

type pinnedDisk struct {
	vfs.Pinned
	o *otherDisk
}

func (p *pinnedDisk) Stat(path string) (vfs.Stat, error) { return p.o.Stat(path) }

func (o *otherDisk) mount(dir string, is bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dirs[dir] = is
}

// TestUnmountedDiskIsNotFormatted: a disk is not mounted when the node starts,
// while its sibling, which remembers it, is there.
func TestUnmountedDiskIsNotFormatted(t *testing.T) {
	r, asked := newRig(t, 2), 0
	cfg := r.joining(storagenode.UUID{42}, &asked)
	disk := &otherDisk{FS: cfg.FS, dirs: map[string]bool{r.dirs[0]: true}}
	cfg.FS = disk
	n := r.startWith(cfg)
	old := n.Reports()[0].ID
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	away := r.dirs[0] + ".disk"
	if err := errors.Join(os.Rename(r.dirs[0], away), os.Mkdir(r.dirs[0], 0o755)); err != nil {
		t.Fatal(err)
	}
	disk.mount(r.dirs[0], false)
	n = r.startWith(cfg)
	r.refused(n, 0, old)
	// The disk is mounted.
	if err := errors.Join(os.Remove(r.dirs[0]), os.Rename(away, r.dirs[0])); err != nil {
		t.Fatal(err)
	}
	disk.mount(r.dirs[0], true)
	r.await(n, 0, "the drive", func(d storagenode.DriveReport) bool {
		return d.ID == old && d.State == storagenode.DriveActive
	})
}

// refused wants the directory of a drive to be known and left alone.
func (r *rig) refused(n *Node, i int, old storagenode.DriveID) {
	r.t.Helper()
	n.Check(context.Background()) // nor later on
	d := r.await(n, i, "a refusal", func(d storagenode.DriveReport) bool { return d.State == storagenode.DriveDown })
	if d.ID != old || !strings.Contains(d.Reason, "replace "+r.dirs[i]) {
		r.t.Errorf("%+v", d)
	}
	if left, err := os.ReadDir(r.dirs[i]); err != nil || len(left) > 0 {
		r.t.Errorf("%s: %v, %v", r.dirs[i], left, err)
	}
}

// TestAllDisksUnmounted: no directory is a drive when the node starts, but the
// cluster knows drives in them: it takes a command where they were on another
// file system, or nobody knows.
func TestAllDisksUnmounted(t *testing.T) {
	r, asked := newRig(t, 4), 0
	for _, dir := range r.dirs[:3] {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dev, total, err := fileSystem(vfs.OS(), r.root)
	if err != nil {
		t.Fatal(err)
	}
	known := []storagenode.KnownDrive{
		{Drive: storagenode.UUID{1}, Dir: r.dirs[0], Device: dev + 1, Total: total},
		{Drive: storagenode.UUID{2}, Dir: r.dirs[1]},
		{Drive: storagenode.UUID{3}, Dir: r.dirs[2], Device: dev, Total: total},
	}
	cfg := r.joining(storagenode.UUID{42}, &asked)
	cfg.Join = func(context.Context) (storagenode.UUID, []storagenode.KnownDrive, error) {
		return storagenode.UUID{42}, known, nil
	}
	n := r.startWith(cfg)
	r.refused(n, 0, known[0].Drive)
	r.refused(n, 1, known[1].Drive)
	reports := n.Reports()
	if d := reports[2]; d.Replaces != known[2].Drive || d.State != storagenode.DriveActive {
		t.Errorf("emptied, on the file system of its drive: %+v", d)
	}
	if d := reports[3]; !d.Replaces.IsZero() || d.State != storagenode.DriveActive {
		t.Errorf("new: %+v", d)
	}
	if reports[0].Device != dev+1 || reports[2].Device != dev || reports[2].Total != total {
		t.Errorf("file systems: %+v", reports)
	}
	if err := n.Replace(context.Background(), r.dirs[0]); err != nil {
		t.Fatal(err)
	}
	if d := n.Reports()[0]; d.Replaces != known[0].Drive || d.State != storagenode.DriveActive {
		t.Errorf("by command: %+v", d)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	// Started again, it remembers by itself.
	n = r.startWith(cfg)
	r.refused(n, 1, known[1].Drive)
}

// TestOneDirectoryUnderTwoNames: formatted twice, what is written before the
// next start would be of a drive that the directory no longer says it is.
func TestOneDirectoryUnderTwoNames(t *testing.T) {
	r, asked := newRig(t, 1), 0
	link := filepath.Join(r.root, "link")
	if err := os.MkdirAll(r.dirs[0], 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(r.dirs[0], link); err != nil {
		t.Fatal(err)
	}
	r.dirs = append(r.dirs, link)
	for _, when := range []string{"empty", "formatted"} {
		n, err := Open(context.Background(), r.joining(storagenode.UUID{42}, &asked))
		if err == nil {
			t.Errorf("%s: it was taken for two drives", when)
			_ = n.Close()
		} else if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "name") {
			t.Errorf("%s: %v", when, err)
		}
	}
	r.dirs = r.dirs[:1]
	for _, rep := range r.startWith(r.joining(storagenode.UUID{42}, &asked)).Reports() {
		if rep.State != storagenode.DriveActive {
			t.Errorf("named once: %+v", rep)
		}
	}
}
