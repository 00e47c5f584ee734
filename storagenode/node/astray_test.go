package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"kintsugi/storagenode"
)

// TestDriveThatWentAstrayComesBack: where a directory held something else than its
// drive for a while, the drive is served again as soon as it is back.
func TestDriveThatWentAstrayComesBack(t *testing.T) {
	write := func(path, text string) error {
		return errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600))
	}
	for what, put := range map[string]func(r *rig) error{
		"a stranger's files": func(r *rig) error { return write(filepath.Join(r.dirs[0], "foo"), "x") },
		"another's copy":     func(r *rig) error { return os.CopyFS(r.dirs[0], os.DirFS(r.dirs[1])) },
		"a link to another":  func(r *rig) error { return os.Symlink(r.dirs[1], r.dirs[0]) },
		"a foreign cluster's": func(r *rig) error {
			other := newRig(r.t, 1)
			n := other.start()
			return errors.Join(n.Close(), os.Rename(other.dirs[0], r.dirs[0]))
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, 2)
			n := r.start()
			id := n.Reports()[0].ID
			away := r.dirs[0] + ".away"
			if err := errors.Join(os.Rename(r.dirs[0], away), put(r)); err != nil {
				t.Fatal(err)
			}
			r.await(n, 0, "BROKEN", func(d storagenode.DriveReport) bool { return d.State == storagenode.DriveBroken })
			if err := errors.Join(os.RemoveAll(r.dirs[0]), os.Rename(away, r.dirs[0])); err != nil {
				t.Fatal(err)
			}
			r.await(n, 0, "ACTIVE", func(d storagenode.DriveReport) bool { return d.ID == id && d.State == storagenode.DriveActive })
			if store, state := n.Drive(id); store == nil || state != storagenode.DriveActive {
				t.Fatalf("the drive is %s", state)
			}
		})
	}
}
