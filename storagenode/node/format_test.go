package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// noWrites is a file system on which directories of a name take no writes.
type noWrites struct {
	vfs.FS
	name string
	err  error
}

func (f noWrites) OpenFile(path string, flag int) (vfs.File, error) {
	if flag&os.O_CREATE != 0 && strings.Contains(path, f.name) {
		return nil, &os.PathError{Op: "open", Path: path, Err: f.err}
	}
	return f.FS.OpenFile(path, flag)
}

func (f noWrites) Pin(dir string) (vfs.Pinned, error) {
	p, err := f.FS.Pin(dir)
	return noWritesPinned{noWrites{p, f.name, f.err}, p}, err
}

type noWritesPinned struct {
	noWrites
	io.Closer
}

// TestRefusedStartFormatsNothing: the last directory cannot be used, so that no
// other becomes a drive.
func TestRefusedStartFormatsNothing(t *testing.T) {
	for what, bad := range map[string]func(*rig, *Config){
		"read-only": func(_ *rig, c *Config) { c.FS = noWrites{c.FS, "/d3/", syscall.EROFS} },
		"full":      func(_ *rig, c *Config) { c.FS = noWrites{c.FS, "/d3/", syscall.ENOSPC} },
		"in a file": func(r *rig, _ *Config) { _ = os.WriteFile(r.dirs[2], nil, 0o600); r.dirs[2] += "/x" },
		"a second name": func(r *rig, _ *Config) {
			_ = os.Mkdir(r.dirs[0], 0o700)
			_ = os.Symlink(r.dirs[0], r.dirs[2])
		},
	} {
		for _, joins := range []bool{false, true} {
			r, asked := newRig(t, 3), 0
			cfg := r.config()
			bad(r, &cfg)
			if cfg.Dirs = r.dirs; joins {
				cfg.Join = r.joining(storagenode.UUID{42}, &asked).Join
			}
			n, err := Open(context.Background(), cfg)
			if err == nil {
				_ = n.Close()
			}
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), r.dirs[2]) {
				t.Errorf("%s, joins %v: %v", what, joins, err)
			}
			for _, dir := range r.dirs[:2] {
				if names, _ := os.ReadDir(dir); len(names) > 0 {
					t.Errorf("%s, joins %v: %s holds %v", what, joins, dir, names)
				}
			}
		}
	}
}

// TestNewDirectoryThatCannotBeFormatted: what a node serves already does not
// suffer from a disk that was replaced by one that cannot be written to.
func TestNewDirectoryThatCannotBeFormatted(t *testing.T) {
	r := newRig(t, 3)
	n := r.start()
	lost := n.Reports()[2].ID
	if err := errors.Join(n.Founded(), n.Close()); err != nil {
		t.Fatal(err)
	}
	empty(t, r.dirs[2])
	cfg := r.config()
	cfg.FS = noWrites{cfg.FS, "/d3/", syscall.EROFS}
	reports := r.startWith(cfg).Reports()
	if len(reports) != 3 || reports[0].State != storagenode.DriveActive || reports[2].State != storagenode.DriveDown || reports[2].ID != lost {
		t.Fatalf("%+v", reports)
	}
}

// TestSaysWhereNewDrivesLie: directories that were made, and disks that are not
// the drives' own, are told of.
func TestSaysWhereNewDrivesLie(t *testing.T) {
	r := newRig(t, 2)
	var log bytes.Buffer
	cfg := r.config()
	cfg.FS, cfg.Logger = vfs.NewMem(), slog.New(slog.NewTextHandler(&log, nil))
	_ = cfg.FS.MkdirAll(r.dirs[0])
	open := cfg.Open
	cfg.Open = func(ctx context.Context, fs vfs.FS, dir string, id Identity) (storagenode.Drive, error) {
		_ = os.MkdirAll(filepath.Join(dir), 0o700)
		return open(ctx, fs, dir, id)
	}
	r.startWith(cfg)
	made := strings.Split(log.String(), "directory made")
	if len(made) != 2 || !strings.Contains(made[1], "dir="+r.dirs[1]) {
		t.Errorf("directories that were made: %s", log.String())
	}
	if !strings.Contains(log.String(), "file system of /, not on disks of their own") || strings.Count(log.String(), "WARN") != 1 {
		t.Errorf("the disks: %s", log.String())
	}
}
