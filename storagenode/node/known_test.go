package node

import (
	"testing"

	"kintsugi/storagenode"
)

// TestReplacementKnowsTheOthers: where the last of the former drives is lost, the
// replacements still know which drive was in its place, and on which file system.
func TestReplacementKnowsTheOthers(t *testing.T) {
	r := newRig(t, 2)
	n := r.start()
	first := n.Reports()
	if err := n.Founded(); err != nil {
		t.Fatal(err)
	}
	empty(t, r.dirs[1])
	r.await(n, 1, "a replacement", func(d storagenode.DriveReport) bool {
		return d.ID != first[1].ID && d.State == storagenode.DriveActive
	})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	empty(t, r.dirs[0])
	if got := r.start().Reports()[0]; got.Replaces != first[0].ID || got.State != storagenode.DriveActive {
		t.Fatalf("the drive in %s replaces %s, want %s", got.Dir, got.Replaces, first[0].ID)
	}
}
