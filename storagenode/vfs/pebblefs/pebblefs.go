// Package pebblefs lets Pebble run on a vfs.FS and survive what happens to it.
//
// Pebble ends the process when it cannot write its manifest. Where Pebble is
// only a cache of a log, that must never happen: the cache is thrown away and
// built again. So FS does not tell Pebble of failed writes. The first failing
// write, sync, create, rename or removal poisons it: the owner is told once,
// and from then on nothing changes on the medium any more; what Pebble writes is
// kept in memory, so that it reads back what it wrote and comes to a quiet end
// in Close. Reads of files go on as before, and their errors are returned; where
// Pebble's work in the background fails time and again, reads take a moment.
//
// The owner of a poisoned FS closes the database soon, removes its directory,
// and rebuilds with a new FS. Whatever was acknowledged by Pebble since the
// poisoning, a Flush too, is not on the medium: ask Poisoned after each step
// whose durability matters.
//
// Configure sets up pebble.Options so that no event of Pebble's ends the
// process or panics it.
package pebblefs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"kintsugi/storagenode/vfs"
)

// maxHeld bounds what a poisoned FS keeps in memory. Beyond it writes are
// dropped, and reading them back fails.
const maxHeld = 256 << 20

// After fewFailures in the background, each read takes pacedRead at least: enough
// for failures to cost hardly any of a processor's time, little for who reads.
const (
	fewFailures = 16
	pacedRead   = 2 * time.Millisecond
)

// ErrDropped is what reading back gives where a poisoned FS held too much.
var ErrDropped = errors.New("write dropped by a poisoned file system")

// FS adapts a vfs.FS to Pebble. Safe for concurrent use.
type FS struct {
	fs       vfs.FS
	onError  func(error)
	cause    atomic.Pointer[error] // set once: why it is poisoned
	held     atomic.Int64          // bytes kept in memory
	failures atomic.Int64          // of Pebble's work in the background

	mu sync.Mutex
	// nodes are the files that are open for writing, and since the poisoning
	// all that differ from what is on the medium, by their name for Pebble.
	nodes map[string]*node
	// gone and dirs are what was removed and made since the poisoning.
	gone, dirs map[string]bool
}

var _ pebblevfs.FS = (*FS)(nil)

// New adapts fs. onError (nil: nobody) is called once, on a goroutine of its
// own, with the error that poisoned the FS.
func New(fs vfs.FS, onError func(error)) *FS {
	return &FS{
		fs: fs, onError: onError,
		nodes: map[string]*node{}, gone: map[string]bool{}, dirs: map[string]bool{},
	}
}

// Poisoned gives the error that poisoned the FS, nil while all is well.
func (f *FS) Poisoned() error {
	if cause := f.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}

func (f *FS) poisoned() bool { return f.cause.Load() != nil }

// pace is called without locks before a file is opened or read. What Pebble does
// in the background and has failed with it begins again at once, for as long as
// the database is open, and the drive that fails it may hold up its owner, too.
func (f *FS) pace() {
	if f.failures.Load() > fewFailures {
		time.Sleep(pacedRead)
	}
}

func (f *FS) poison(err error) {
	if f.cause.CompareAndSwap(nil, &err) && f.onError != nil {
		go f.onError(err)
	}
}

// real runs a change on the medium, unless the FS is poisoned, and says
// whether it was made.
func (f *FS) real(change func() error) bool {
	if f.poisoned() {
		return false
	}
	if err := change(); err != nil {
		f.poison(err)
		return false
	}
	return true
}

func notExist(op, path string) error {
	return &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
}

// Create implements pebble's vfs.FS.
func (f *FS) Create(path string, _ pebblevfs.DiskWriteCategory) (pebblevfs.File, error) {
	path = filepath.Clean(path)
	f.mu.Lock()
	defer f.mu.Unlock()
	n := &node{f: f}
	if f.real(func() (err error) {
		n.real, err = f.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
		if errors.Is(err, fs.ErrExist) {
			if err = f.fs.Remove(path); err == nil {
				n.real, err = f.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
			}
		}
		return err
	}) {
		n.realPath = path
	}
	return f.openNode(path, n, true), nil
}

// openNode makes a handle; f.mu is held.
func (f *FS) openNode(path string, n *node, writable bool) *nodeFile {
	f.nodes[path] = n
	delete(f.gone, path)
	n.refs++
	return &nodeFile{node: n, path: path, writable: writable}
}

// Open implements pebble's vfs.FS.
func (f *FS) Open(path string, opts ...pebblevfs.OpenOption) (pebblevfs.File, error) {
	file, err := f.open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		o.Apply(file)
	}
	return file, nil
}

func (f *FS) open(path string) (pebblevfs.File, error) {
	f.pace()
	f.mu.Lock()
	n, gone := f.nodes[path], f.gone[path]
	if n != nil {
		defer f.mu.Unlock()
		if err := n.reopen(); err != nil {
			return nil, err
		}
		return f.openNode(path, n, false), nil
	}
	f.mu.Unlock()
	if gone {
		return nil, notExist("open", path)
	}
	file, err := f.fs.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &readFile{f: f, file: file}, nil
}

// OpenReadWrite implements pebble's vfs.FS.
func (f *FS) OpenReadWrite(
	path string, _ pebblevfs.DiskWriteCategory, opts ...pebblevfs.OpenOption,
) (pebblevfs.File, error) {
	path = filepath.Clean(path)
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[path]
	if n == nil {
		n = &node{f: f}
		if f.real(func() (err error) {
			n.real, n.size, err = openSized(f.fs, path, os.O_RDWR|os.O_CREATE)
			return err
		}) {
			n.realPath = path
		} else if !f.gone[path] {
			n = f.alias(path)
		}
	}
	if err := n.reopen(); err != nil {
		return nil, err
	}
	file := f.openNode(path, n, true)
	for _, o := range opts {
		o.Apply(file)
	}
	return file, nil
}

// alias is a node for a file on the medium, empty where there is none.
func (f *FS) alias(path string) *node {
	n := &node{f: f}
	if st, err := f.fs.Stat(path); err == nil && !st.IsDir {
		n.realPath, n.size = path, st.Size
	}
	return n
}

func openSized(fs vfs.FS, path string, flag int) (vfs.File, int64, error) {
	file, err := fs.OpenFile(path, flag)
	if err != nil {
		return nil, 0, err
	}
	st, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return nil, 0, err
	}
	return file, st.Size, nil
}

// OpenDir implements pebble's vfs.FS.
func (f *FS) OpenDir(path string) (pebblevfs.File, error) {
	path = filepath.Clean(path)
	st, err := f.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("not a directory")}
	}
	return &dirFile{f: f, path: path}, nil
}

// Link implements pebble's vfs.FS.
func (f *FS) Link(from, to string) error {
	from, to = filepath.Clean(from), filepath.Clean(to)
	f.mu.Lock()
	defer f.mu.Unlock()
	var exists error
	if f.real(func() error {
		err := f.fs.Link(from, to)
		if errors.Is(err, fs.ErrExist) {
			exists = err
			return nil
		}
		return err
	}) {
		return exists
	}
	if _, err := f.stat(to); err == nil {
		return &os.LinkError{Op: "link", Old: from, New: to, Err: fs.ErrExist}
	}
	return f.shadow(from, to)
}

// shadow makes a file appear under another name as well; f.mu is held.
func (f *FS) shadow(from, to string) error {
	if _, err := f.stat(from); err != nil {
		return err
	}
	n := f.nodes[from]
	if n == nil {
		n = f.alias(from)
	}
	f.nodes[to] = n
	delete(f.gone, to)
	return nil
}

// Rename implements pebble's vfs.FS.
func (f *FS) Rename(from, to string) error {
	from, to = filepath.Clean(from), filepath.Clean(to)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.real(func() error { return f.fs.Rename(from, to) }) {
		delete(f.nodes, to)
		if n := f.nodes[from]; n != nil {
			n.realPath = to
			f.nodes[to] = n
			delete(f.nodes, from)
		}
		return nil
	}
	if err := f.shadow(from, to); err != nil {
		return err
	}
	delete(f.nodes, from)
	f.gone[from] = true
	return nil
}

// ReuseForWrite implements pebble's vfs.FS.
func (f *FS) ReuseForWrite(from, to string, c pebblevfs.DiskWriteCategory) (pebblevfs.File, error) {
	if err := f.Rename(from, to); err != nil {
		return nil, err
	}
	return f.OpenReadWrite(to, c)
}

// Remove implements pebble's vfs.FS.
func (f *FS) Remove(path string) error {
	path = filepath.Clean(path)
	f.mu.Lock()
	defer f.mu.Unlock()
	var absent error
	if f.real(func() error {
		err := f.fs.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			absent = err
			return nil
		}
		return err
	}) {
		delete(f.nodes, path)
		return absent
	}
	if _, err := f.stat(path); err != nil {
		return err
	}
	f.hide(path)
	return nil
}

func (f *FS) hide(path string) {
	delete(f.nodes, path)
	delete(f.dirs, path)
	f.gone[path] = true
}

// RemoveAll implements pebble's vfs.FS.
func (f *FS) RemoveAll(path string) error {
	path = filepath.Clean(path)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.real(func() error { return f.fs.RemoveAll(path) }) {
		f.hideAll(path)
	}
	return nil
}

func (f *FS) hideAll(path string) {
	if names, err := f.list(path); err == nil {
		for _, name := range names {
			f.hideAll(filepath.Join(path, name))
		}
	}
	f.hide(path)
}

// MkdirAll implements pebble's vfs.FS. The mode is always 0700.
func (f *FS) MkdirAll(path string, _ os.FileMode) error {
	path = filepath.Clean(path)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.real(func() error { return f.fs.MkdirAll(path) }) {
		return nil
	}
	for p := path; ; p = filepath.Dir(p) {
		if _, err := f.stat(p); err == nil {
			return nil
		}
		f.dirs[p] = true
		delete(f.gone, p)
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

// Lock implements pebble's vfs.FS. That another process has the lock is told;
// other failures poison.
func (f *FS) Lock(path string) (io.Closer, error) {
	var lock io.Closer
	var locked error
	if f.real(func() (err error) {
		lock, err = f.fs.Lock(path)
		if errors.Is(err, vfs.ErrLocked) {
			locked, err = err, nil
		}
		return err
	}) {
		if locked != nil {
			return nil, locked
		}
		return lock, nil
	}
	return io.NopCloser(nil), nil
}

// List implements pebble's vfs.FS.
func (f *FS) List(path string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list(filepath.Clean(path))
}

func (f *FS) list(path string) ([]string, error) {
	names, err := f.fs.List(path)
	if !f.poisoned() {
		return names, err
	}
	if err != nil && !f.dirs[path] {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		return f.gone[filepath.Join(path, name)]
	})
	for p := range f.nodes {
		if filepath.Dir(p) == path {
			names = append(names, filepath.Base(p))
		}
	}
	for p := range f.dirs {
		if filepath.Dir(p) == path && p != path {
			names = append(names, filepath.Base(p))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Stat implements pebble's vfs.FS.
func (f *FS) Stat(path string) (pebblevfs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stat(filepath.Clean(path))
}

func (f *FS) stat(path string) (pebblevfs.FileInfo, error) {
	if n := f.nodes[path]; n != nil {
		return info{name: filepath.Base(path), st: vfs.Stat{Size: n.currentSize()}}, nil
	}
	if f.dirs[path] {
		return info{name: filepath.Base(path), st: vfs.Stat{IsDir: true}}, nil
	}
	if f.gone[path] {
		return nil, notExist("stat", path)
	}
	st, err := f.fs.Stat(path)
	if err != nil {
		return nil, err
	}
	return info{name: filepath.Base(path), st: st}, nil
}

// PathBase implements pebble's vfs.FS.
func (f *FS) PathBase(path string) string { return filepath.Base(path) }

// PathJoin implements pebble's vfs.FS.
func (f *FS) PathJoin(elem ...string) string { return filepath.Join(elem...) }

// PathDir implements pebble's vfs.FS.
func (f *FS) PathDir(path string) string { return filepath.Dir(path) }

// GetDiskUsage implements pebble's vfs.FS.
func (f *FS) GetDiskUsage(path string) (pebblevfs.DiskUsage, error) {
	u, err := f.fs.Usage(path)
	if err != nil {
		return pebblevfs.DiskUsage{}, err
	}
	return pebblevfs.DiskUsage{
		AvailBytes: uint64(u.Free),
		TotalBytes: uint64(u.Total),
		UsedBytes:  uint64(max(0, u.Total-u.Free)),
	}, nil
}

// Unwrap implements pebble's vfs.FS; there is no Pebble FS below.
func (f *FS) Unwrap() pebblevfs.FS { return nil }
