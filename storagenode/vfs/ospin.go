package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// osPinned is a directory that was opened once: every call goes from its descriptor on
// (openat(2) and the like). Symbolic links in it are followed, as by osFS.
type osPinned struct {
	dir string
	f   *os.File
	raw syscall.RawConn
}

// Pin implements FS.
func (osFS) Pin(dir string) (Pinned, error) {
	dir = filepath.Clean(dir)
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return pinOS(dir, f)
}

func pinOS(dir string, f *os.File) (Pinned, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return &osPinned{dir, f, raw}, nil
}

// Close implements Pinned.
func (p *osPinned) Close() error { return p.f.Close() }

// at makes a call on a path, relative to the directory's descriptor.
func (p *osPinned) at(op, path string, call func(fd int, rel string) error) error {
	rel, err := inDir(p.dir, filepath.Clean(path))
	if err != nil {
		return err
	}
	return controlOS(p.raw, op, path, func(fd int) error { return call(fd, rel) })
}

// both makes a call on two paths.
func (p *osPinned) both(op, from, to string, call func(fd int, from, to string) error) error {
	err := p.at(op, from, func(fd int, from string) error {
		to, err := inDir(p.dir, filepath.Clean(to))
		if err != nil {
			return err
		}
		return call(fd, from, to)
	})
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		return &os.LinkError{Op: op, Old: from, New: to, Err: pathErr.Err}
	}
	return err
}

func (p *osPinned) open(path string, flag int) (f *os.File, err error) {
	err = p.at("open", path, func(fd int, rel string) error {
		n, err := unix.Openat(fd, rel, flag|unix.O_CLOEXEC|unix.O_LARGEFILE, 0o600)
		if err == nil {
			f = os.NewFile(uintptr(n), path)
		}
		return err
	})
	return f, err
}

// OpenFile implements FS.
func (p *osPinned) OpenFile(path string, flag int) (File, error) {
	return openOS(path, flag, func(flag int) (*os.File, error) { return p.open(path, flag) })
}

// Mkdir implements FS.
func (p *osPinned) Mkdir(path string) error {
	return p.at("mkdir", path, func(fd int, rel string) error { return unix.Mkdirat(fd, rel, 0o700) })
}

// MkdirAll implements FS.
func (p *osPinned) MkdirAll(path string) error {
	return p.at("mkdir", path, func(fd int, rel string) error {
		for end := 1; end <= len(rel); end++ {
			if end < len(rel) && rel[end] != '/' {
				continue
			}
			err := unix.Mkdirat(fd, rel[:end], 0o700)
			if err == unix.EEXIST {
				st, serr := statx(fd, rel[:end], 0)
				if err = serr; err == nil && !st.IsDir {
					err = unix.ENOTDIR
				}
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Rename implements FS.
func (p *osPinned) Rename(from, to string) error {
	return p.both("rename", from, to, func(fd int, from, to string) error { return unix.Renameat(fd, from, fd, to) })
}

// Link implements FS.
func (p *osPinned) Link(from, to string) error {
	return p.both("link", from, to, func(fd int, from, to string) error { return unix.Linkat(fd, from, fd, to, 0) })
}

// Remove implements FS: a file, or an empty directory, as os.Remove.
func (p *osPinned) Remove(path string) error {
	return p.at("remove", path, func(fd int, rel string) error {
		err := unix.Unlinkat(fd, rel, 0)
		if err == nil {
			return nil
		}
		derr := unix.Unlinkat(fd, rel, unix.AT_REMOVEDIR)
		if derr == unix.ENOTDIR {
			return err
		}
		return derr
	})
}

// RemoveAll implements FS.
func (p *osPinned) RemoveAll(path string) error {
	err := p.Remove(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	d, oerr := p.open(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if oerr != nil {
		return err
	}
	names, err := listOS(d)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := p.RemoveAll(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	if err := p.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// List implements FS.
func (p *osPinned) List(path string) ([]string, error) {
	d, err := p.open(path, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return listOS(d)
}

// Stat implements FS.
func (p *osPinned) Stat(path string) (st Stat, err error) {
	err = p.at("stat", path, func(fd int, rel string) (err error) {
		st, err = statx(fd, rel, 0)
		return err
	})
	return st, err
}

// SyncDir implements FS.
func (p *osPinned) SyncDir(path string) error {
	d, err := p.open(path, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return syncOS(d)
}

// Usage implements FS.
func (p *osPinned) Usage(path string) (Usage, error) {
	f, err := p.open(path, os.O_RDONLY)
	if err != nil {
		return Usage{}, err
	}
	defer f.Close()
	return usageOS(path, func(s *unix.Statfs_t) error { return unix.Fstatfs(int(f.Fd()), s) })
}

// Lock implements FS.
func (p *osPinned) Lock(path string) (io.Closer, error) {
	f, err := p.open(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	return lockOS(f, path)
}

// Pin implements FS.
func (p *osPinned) Pin(dir string) (Pinned, error) {
	dir = filepath.Clean(dir)
	f, err := p.open(dir, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return pinOS(dir, f)
}
