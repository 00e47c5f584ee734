package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
)

// memPinned is a pinned directory of a Mem: of its own name there, which no path of the
// Mem has, the paths in it are made.
type memPinned struct {
	m        *Mem
	dir, own string
}

// Pin implements FS.
func (m *Mem) Pin(dir string) (Pinned, error) { return m.pin(filepath.Clean(dir), dir) }

// pin pins the directory at a path, which is to be known as dir.
func (m *Mem) pin(dir, path string) (Pinned, error) {
	d, err := m.OpenFile(path, 0)
	if err != nil {
		return nil, err
	}
	n := d.(*memFile).n
	_ = d.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !n.isDir() {
		return nil, &fs.PathError{Op: "pin", Path: dir, Err: fs.ErrInvalid}
	}
	m.lastPin++
	own := fmt.Sprintf("\x00pin %d", m.lastPin)
	m.pins[own] = n
	return &memPinned{m, dir, own}, nil
}

// Close implements Pinned.
func (p *memPinned) Close() error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.pins[p.own] == nil {
		return fs.ErrClosed
	}
	delete(p.m.pins, p.own)
	return nil
}

// at is the path's name in the Mem.
func (p *memPinned) at(path string) (string, error) {
	rel, err := inDir(p.dir, filepath.Clean(path))
	if err != nil {
		return "", err
	}
	p.m.mu.RLock()
	defer p.m.mu.RUnlock()
	if p.m.pins[p.own] == nil && !p.m.crashed {
		return "", &fs.PathError{Op: "pinned", Path: path, Err: fs.ErrClosed}
	}
	return "/" + p.own + "/" + rel, nil
}

// do makes a call on a path.
func (p *memPinned) do(path string, call func(string) error) error {
	at, err := p.at(path)
	if err != nil {
		return err
	}
	err = call(at)
	if e := (*fs.PathError)(nil); errors.As(err, &e) && e.Path == at {
		e.Path = path
	}
	return err
}

// both makes a call on two paths.
func (p *memPinned) both(from, to string, call func(from, to string) error) error {
	return p.do(from, func(from string) error {
		return p.do(to, func(to string) error { return call(from, to) })
	})
}

// OpenFile implements FS.
func (p *memPinned) OpenFile(path string, flag int) (f File, err error) {
	err = p.do(path, func(at string) (err error) { f, err = p.m.OpenFile(at, flag); return err })
	if err != nil {
		return nil, err
	}
	f.(*memFile).name = path
	return f, nil
}

// Mkdir implements FS.
func (p *memPinned) Mkdir(path string) error { return p.do(path, p.m.Mkdir) }

// MkdirAll implements FS.
func (p *memPinned) MkdirAll(path string) error { return p.do(path, p.m.MkdirAll) }

// Rename implements FS.
func (p *memPinned) Rename(from, to string) error { return p.both(from, to, p.m.Rename) }

// Link implements FS.
func (p *memPinned) Link(from, to string) error { return p.both(from, to, p.m.Link) }

// Remove implements FS.
func (p *memPinned) Remove(path string) error { return p.do(path, p.m.Remove) }

// RemoveAll implements FS.
func (p *memPinned) RemoveAll(path string) error { return p.do(path, p.m.RemoveAll) }

// List implements FS.
func (p *memPinned) List(path string) (names []string, err error) {
	err = p.do(path, func(at string) (err error) { names, err = p.m.List(at); return err })
	return names, err
}

// Stat implements FS.
func (p *memPinned) Stat(path string) (st Stat, err error) {
	err = p.do(path, func(at string) (err error) { st, err = p.m.Stat(at); return err })
	return st, err
}

// SyncDir implements FS.
func (p *memPinned) SyncDir(path string) error { return p.do(path, p.m.SyncDir) }

// Usage implements FS.
func (p *memPinned) Usage(path string) (u Usage, err error) {
	err = p.do(path, func(at string) (err error) { u, err = p.m.Usage(at); return err })
	return u, err
}

// Lock implements FS.
func (p *memPinned) Lock(path string) (l io.Closer, err error) {
	err = p.do(path, func(at string) (err error) { l, err = p.m.Lock(at); return err })
	return l, err
}

// Pin implements FS.
func (p *memPinned) Pin(dir string) (pin Pinned, err error) {
	err = p.do(dir, func(at string) (err error) { pin, err = p.m.pin(filepath.Clean(dir), at); return err })
	return pin, err
}
