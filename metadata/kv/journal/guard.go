package journal

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/vfs"
)

var (
	errHung      = errors.New("the drive does not answer")
	errAbandoned = errors.New("given up")
)

// guard is a vfs.FS whose calls always return: one that takes longer than its
// limit, or is under way when abandon is called, is left behind in a goroutine
// of its own with buffers of its own, and the caller gets an error. While a
// call is left behind, further ones fail at once, so there are few.
type guard struct {
	fs          vfs.FS
	clock       clock.Clock
	read, write time.Duration // limits; reads include the calls on names
	onHang      func(error)   // told of each hang; nil: nobody
	stuck       atomic.Int64
	once        sync.Once
	abandoned   chan struct{}
}

func newGuard(fs vfs.FS, c clock.Clock, read, write time.Duration, onHang func(error)) *guard {
	return &guard{fs: fs, clock: c, read: read, write: write, onHang: onHang,
		abandoned: make(chan struct{})}
}

// abandon makes every call, under way or to come, fail.
func (g *guard) abandon() { g.once.Do(func() { close(g.abandoned) }) }

// isStuck says that a call left behind has still not returned.
func (g *guard) isStuck() bool { return g.stuck.Load() > 0 }

type outcome[T any] struct {
	v   T
	err error
}

// guarded runs f; drop (if any) takes a value that came too late.
func guarded[T any](g *guard, limit time.Duration, f func() (T, error), drop func(T)) (T, error) {
	var none T
	select {
	case <-g.abandoned:
		return none, errAbandoned
	default:
	}
	if g.isStuck() {
		return none, errHung
	}
	done := make(chan outcome[T], 1)
	go func() {
		v, err := f()
		done <- outcome[T]{v, err}
	}()
	err := errHung
	select {
	case o := <-done:
		return o.v, o.err
	case <-g.abandoned:
		err = errAbandoned
	case <-g.clock.After(limit):
	}
	g.stuck.Add(1)
	go func() {
		if o := <-done; o.err == nil && drop != nil {
			drop(o.v)
		}
		g.stuck.Add(-1)
	}()
	if g.onHang != nil && errors.Is(err, errHung) {
		g.onHang(fmt.Errorf("%w for %v", errHung, limit))
	}
	return none, err
}

// call is guarded for what returns but an error.
func (g *guard) call(limit time.Duration, f func() error) error {
	_, err := guarded(g, limit, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}

func closeLate[T io.Closer](c T) { _ = c.Close() }

// OpenFile implements vfs.FS.
func (g *guard) OpenFile(path string, flag int) (vfs.File, error) {
	f, err := guarded(g, g.read, func() (vfs.File, error) { return g.fs.OpenFile(path, flag) }, closeLate)
	if err != nil {
		return nil, err
	}
	return &guardFile{g, f}, nil
}

// Mkdir implements vfs.FS.
func (g *guard) Mkdir(path string) error {
	return g.call(g.read, func() error { return g.fs.Mkdir(path) })
}

// MkdirAll implements vfs.FS.
func (g *guard) MkdirAll(path string) error {
	return g.call(g.read, func() error { return g.fs.MkdirAll(path) })
}

// Rename implements vfs.FS.
func (g *guard) Rename(from, to string) error {
	return g.call(g.write, func() error { return g.fs.Rename(from, to) })
}

// Link implements vfs.FS.
func (g *guard) Link(from, to string) error {
	return g.call(g.write, func() error { return g.fs.Link(from, to) })
}

// Remove implements vfs.FS.
func (g *guard) Remove(path string) error {
	return g.call(g.write, func() error { return g.fs.Remove(path) })
}

// RemoveAll implements vfs.FS.
func (g *guard) RemoveAll(path string) error {
	return g.call(g.write, func() error { return g.fs.RemoveAll(path) })
}

// List implements vfs.FS.
func (g *guard) List(path string) ([]string, error) {
	return guarded(g, g.read, func() ([]string, error) { return g.fs.List(path) }, nil)
}

// Stat implements vfs.FS.
func (g *guard) Stat(path string) (vfs.Stat, error) {
	return guarded(g, g.read, func() (vfs.Stat, error) { return g.fs.Stat(path) }, nil)
}

// SyncDir implements vfs.FS.
func (g *guard) SyncDir(path string) error {
	return g.call(g.write, func() error { return g.fs.SyncDir(path) })
}

// Usage implements vfs.FS.
func (g *guard) Usage(path string) (vfs.Usage, error) {
	return guarded(g, g.read, func() (vfs.Usage, error) { return g.fs.Usage(path) }, nil)
}

// Lock implements vfs.FS.
func (g *guard) Lock(path string) (io.Closer, error) {
	return guarded(g, g.read, func() (io.Closer, error) { return g.fs.Lock(path) }, closeLate)
}

// Pin implements vfs.FS; the journal goes by paths.
func (g *guard) Pin(string) (vfs.Pinned, error) { return nil, errors.ErrUnsupported }

// guardFile is a file of a guard.
type guardFile struct {
	g *guard
	f vfs.File
}

// ReadAt implements vfs.File: into a buffer of its own, since p belongs to the
// caller again once the call was left behind.
func (f *guardFile) ReadAt(p []byte, off int64) (int, error) {
	type result struct {
		b   []byte
		err error
	}
	r, err := guarded(f.g, f.g.read, func() (result, error) {
		b := make([]byte, len(p))
		n, err := f.f.ReadAt(b, off)
		return result{b[:n], err}, nil
	}, nil)
	if err != nil {
		return 0, err
	}
	return copy(p, r.b), r.err
}

// WriteAt implements vfs.File; the bytes are copied for the same reason.
func (f *guardFile) WriteAt(p []byte, off int64) (int, error) {
	b := append(make([]byte, 0, len(p)), p...)
	return guarded(f.g, f.g.write, func() (int, error) { return f.f.WriteAt(b, off) }, nil)
}

// Sync implements vfs.File.
func (f *guardFile) Sync() error { return f.g.call(f.g.write, f.f.Sync) }

// SyncData implements vfs.File.
func (f *guardFile) SyncData() error { return f.g.call(f.g.write, f.f.SyncData) }

// Truncate implements vfs.File.
func (f *guardFile) Truncate(size int64) error {
	return f.g.call(f.g.write, func() error { return f.f.Truncate(size) })
}

// Allocate implements vfs.File.
func (f *guardFile) Allocate(off, n int64) error {
	return f.g.call(f.g.write, func() error { return f.f.Allocate(off, n) })
}

// Writeback implements vfs.File.
func (f *guardFile) Writeback(off, n int64) error {
	return f.g.call(f.g.write, func() error { return f.f.Writeback(off, n) })
}

// DontNeed implements vfs.File.
func (f *guardFile) DontNeed(off, n int64) error {
	return f.g.call(f.g.read, func() error { return f.f.DontNeed(off, n) })
}

// Stat implements vfs.File.
func (f *guardFile) Stat() (vfs.Stat, error) { return guarded(f.g, f.g.read, f.f.Stat, nil) }

// Name implements vfs.File.
func (f *guardFile) Name() string { return f.f.Name() }

// Close implements vfs.File: it does not wait for a drive that hangs.
func (f *guardFile) Close() error {
	if f.g.isStuck() {
		go func() { _ = f.f.Close() }()
		return nil
	}
	select {
	case <-f.g.abandoned:
		go func() { _ = f.f.Close() }()
		return nil
	default:
	}
	return f.g.call(f.g.write, f.f.Close)
}
