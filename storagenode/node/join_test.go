package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"kintsugi/storagenode"
)

// joining is a rig's configuration for a node of a cluster; asked counts.
func (r *rig) joining(cluster storagenode.UUID, asked *int) Config {
	cfg := r.config()
	cfg.Join = func(context.Context) (storagenode.UUID, error) {
		*asked++
		return cluster, nil
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
	for _, join := range []func(context.Context) (storagenode.UUID, error){
		func(context.Context) (storagenode.UUID, error) { return storagenode.UUID{1}, no },
		func(context.Context) (storagenode.UUID, error) { return storagenode.UUID{}, nil },
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
