package node

import (
	"errors"
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// TestWhose: a directory is asked whose it is.
func TestWhose(t *testing.T) {
	r := newRig(t, 1)
	n := r.still()
	if id, err := Whose(vfs.OS(), r.dirs[0]); err != nil || id != n.Reports()[0].ID {
		t.Errorf("a drive's is %s's, %v", id, err)
	}
	if id, err := Whose(vfs.OS(), t.TempDir()); !errors.Is(err, vfs.ErrNotExist) || id != (storagenode.DriveID{}) {
		t.Errorf("an empty one is %s's, %v", id, err)
	}
}
