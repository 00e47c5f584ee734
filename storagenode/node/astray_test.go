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
	for what, make := range map[string]func(r *rig, path string) error{
		"a stranger's files": func(_ *rig, path string) error {
			return errors.Join(os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "foo"), nil, 0o600))
		},
		"another's copy":    func(r *rig, path string) error { return os.CopyFS(path, os.DirFS(r.dirs[1])) },
		"a link to another": func(r *rig, path string) error { return os.Symlink(r.dirs[1], path) },
		"a foreign cluster's": func(r *rig, path string) error {
			other := newRig(r.t, 1)
			n := other.start()
			return errors.Join(n.Close(), os.Rename(other.dirs[0], path))
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, 2)
			n := r.start()
			id := n.Reports()[0].ID
			away, wrong := filepath.Join(r.root, "away"), filepath.Join(r.root, "wrong")
			if err := errors.Join(make(r, wrong), os.Rename(r.dirs[0], away), os.Rename(wrong, r.dirs[0])); err != nil {
				t.Fatal(err)
			}
			r.await(n, 0, "BROKEN", func(d storagenode.DriveReport) bool { return d.State == storagenode.DriveBroken })
			if err := errors.Join(os.Rename(r.dirs[0], wrong), os.Rename(away, r.dirs[0])); err != nil {
				t.Fatal(err)
			}
			r.await(n, 0, "ACTIVE", func(d storagenode.DriveReport) bool { return d.ID == id && d.State == storagenode.DriveActive })
			if store, state := n.Drive(id); store == nil || state != storagenode.DriveActive {
				t.Fatalf("the drive is %s", state)
			}
		})
	}
}
