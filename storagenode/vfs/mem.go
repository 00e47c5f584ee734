package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// ErrCrashed is what every call on a Mem, its files and its locks answers
// after Crash. It matches fs.ErrClosed.
var ErrCrashed = fmt.Errorf("power was cut: %w", fs.ErrClosed)

// unlimited is the capacity Usage reports where none was set.
const unlimited = 1 << 40

// Mem is a file system in memory that knows what was synced. Its Crash gives
// what a power cut would leave; everything else behaves as the real one.
//
// Contents are sparse: only what is not zero takes memory, while Usage and the
// capacity count written and allocated blocks of 4 KiB, as a disk would.
//
// Locks: mu is held for reading by calls on file contents and for writing by
// those that change names, so that Crash, which holds it for writing, sees no
// call halfway. An inode's own mu guards its contents.
type Mem struct {
	capacity atomic.Int64 // bytes; 0: unlimited
	used     atomic.Int64

	mu      sync.RWMutex
	crashed bool
	root    *inode
	lastIno uint64
	locks   map[*inode]bool
	lastPin uint64
	pins    map[string]*inode // pinned directories, by names of their own (mempin.go)
	// renames are the changes of directory entries no SyncDir has covered yet,
	// oldest first.
	renames []entryChange
}

// NewMem makes an empty file system with nothing but the directory "/".
func NewMem() *Mem {
	m := &Mem{locks: map[*inode]bool{}, pins: map[string]*inode{}}
	m.root = m.newInode(true)
	m.root.links = 1
	return m
}

// SetCapacity limits the space of all files together; writes beyond it get
// ENOSPC. 0 means unlimited. It may change at any time, also below what is
// used.
func (m *Mem) SetCapacity(bytes int64) { m.capacity.Store(bytes) }

// inode is a file or a directory. links, opens and entries are guarded by
// Mem.mu, the contents by mu (see memfile.go).
type inode struct {
	ino     uint64
	links   int               // entries that name it, as programs see them
	opens   int               // open handles
	entries map[string]*inode // a directory's; nil for a file

	mu      sync.RWMutex
	size    int64
	pages   []memPage
	pending []contentChange // what no Sync has covered yet, oldest first
}

func (n *inode) isDir() bool { return n.entries != nil }

func (n *inode) stat() Stat {
	s := Stat{Links: n.links, IsDir: n.isDir(), Dev: 1, Inode: n.ino}
	if s.IsDir {
		return s
	}
	n.mu.RLock()
	s.Size = n.size
	n.mu.RUnlock()
	return s
}

func (m *Mem) newInode(dir bool) *inode {
	m.lastIno++
	n := &inode{ino: m.lastIno}
	if dir {
		n.entries = map[string]*inode{}
	}
	return n
}

// begin locks for a call that changes names; the caller defers m.mu.Unlock.
func (m *Mem) begin(op, path string) error {
	m.mu.Lock()
	if m.crashed {
		return &fs.PathError{Op: op, Path: path, Err: ErrCrashed}
	}
	return nil
}

// lookup finds a path; m.mu is held.
func (m *Mem) lookup(path string) (*inode, error) {
	n := m.root
	for name := range strings.SplitSeq(filepath.Clean("/"+path), "/") {
		if name == "" {
			continue
		}
		if !n.isDir() {
			return nil, syscall.ENOTDIR
		}
		next := n.entries[name]
		if pin := m.pins[name]; pin != nil && n == m.root {
			next = pin
		}
		if next == nil {
			return nil, syscall.ENOENT
		}
		n = next
	}
	return n, nil
}

// parent finds the directory a path's last name is in; m.mu is held.
func (m *Mem) parent(path string) (*inode, string, error) {
	path = filepath.Clean("/" + path)
	if path == "/" {
		return nil, "", syscall.EBUSY
	}
	d, err := m.lookup(filepath.Dir(path))
	if err != nil {
		return nil, "", err
	}
	if !d.isDir() {
		return nil, "", syscall.ENOTDIR
	}
	if d.links == 0 { // removed, but pinned
		return nil, "", syscall.ENOENT
	}
	return d, filepath.Base(path), nil
}

// OpenFile implements FS.
func (m *Mem) OpenFile(path string, flag int) (File, error) {
	err := m.begin("open", path)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	n, err := m.openInode(path, flag)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	n.opens++
	return &memFile{m: m, n: n, name: path, flag: flag}, nil
}

func (m *Mem) openInode(path string, flag int) (*inode, error) {
	n, err := m.lookup(path)
	if err == syscall.ENOENT && flag&os.O_CREATE != 0 {
		d, name, err := m.parent(path)
		if err != nil {
			return nil, err
		}
		n = m.newInode(false)
		m.change(entryChange{{d, name, nil, n}})
		return n, nil
	}
	if err != nil {
		return nil, err
	}
	if flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0 {
		return nil, syscall.EEXIST
	}
	writing := flag&(os.O_WRONLY|os.O_RDWR) != 0
	if n.isDir() && (writing || flag&os.O_CREATE != 0) {
		return nil, syscall.EISDIR
	}
	if flag&os.O_TRUNC != 0 && writing {
		n.mu.Lock()
		n.truncate(m, 0)
		n.mu.Unlock()
	}
	return n, nil
}

// Mkdir implements FS.
func (m *Mem) Mkdir(path string) error {
	err := m.begin("mkdir", path)
	defer m.mu.Unlock()
	if err == nil {
		err = wrapPath("mkdir", path, m.mkdir(path))
	}
	return err
}

func (m *Mem) mkdir(path string) error {
	d, name, err := m.parent(path)
	if err == syscall.EBUSY || err == nil && d.entries[name] != nil {
		return syscall.EEXIST
	}
	if err != nil {
		return err
	}
	m.change(entryChange{{d, name, nil, m.newInode(true)}})
	return nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(path string) error {
	err := m.begin("mkdir", path)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	path = filepath.Clean("/" + path)
	for end := 1; end <= len(path) && path != "/"; end++ {
		if end < len(path) && path[end] != '/' {
			continue
		}
		n, err := m.lookup(path[:end])
		switch {
		case err == syscall.ENOENT:
			err = m.mkdir(path[:end])
		case err == nil && !n.isDir():
			err = syscall.ENOTDIR
		}
		if err != nil {
			return wrapPath("mkdir", path[:end], err)
		}
	}
	return nil
}

// Rename implements FS.
func (m *Mem) Rename(from, to string) error {
	err := m.begin("rename", from)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (m *Mem) rename(from, to string) error {
	fd, fname, err := m.parent(from)
	if err != nil {
		return err
	}
	n := fd.entries[fname]
	if n == nil {
		return syscall.ENOENT
	}
	td, tname, err := m.parent(to)
	if err != nil {
		return err
	}
	old := td.entries[tname]
	switch {
	case old == n:
		return nil
	case old != nil && old.isDir() && !n.isDir():
		return syscall.EISDIR
	case old != nil && !old.isDir() && n.isDir():
		return syscall.ENOTDIR
	case old != nil && len(old.entries) > 0:
		return syscall.ENOTEMPTY
	case strings.HasPrefix(filepath.Clean("/"+to), filepath.Clean("/"+from)+"/"):
		return syscall.EINVAL
	}
	m.change(entryChange{{td, tname, old, n}, {fd, fname, n, nil}})
	return nil
}

// Link implements FS.
func (m *Mem) Link(from, to string) error {
	err := m.begin("link", from)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.link(from, to); err != nil {
		return &os.LinkError{Op: "link", Old: from, New: to, Err: err}
	}
	return nil
}

func (m *Mem) link(from, to string) error {
	n, err := m.lookup(from)
	if err != nil {
		return err
	}
	if n.isDir() {
		return syscall.EPERM
	}
	d, name, err := m.parent(to)
	if err != nil {
		return err
	}
	if d.entries[name] != nil {
		return syscall.EEXIST
	}
	m.change(entryChange{{d, name, nil, n}})
	return nil
}

// Remove implements FS.
func (m *Mem) Remove(path string) error {
	err := m.begin("remove", path)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	d, name, err := m.parent(path)
	if err != nil {
		return wrapPath("remove", path, err)
	}
	n := d.entries[name]
	switch {
	case n == nil:
		return wrapPath("remove", path, syscall.ENOENT)
	case len(n.entries) > 0:
		return wrapPath("remove", path, syscall.ENOTEMPTY)
	}
	m.change(entryChange{{d, name, n, nil}})
	return nil
}

// RemoveAll implements FS.
func (m *Mem) RemoveAll(path string) error {
	err := m.begin("remove", path)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	d, name, err := m.parent(path)
	if err == syscall.ENOENT || err == nil && d.entries[name] == nil {
		return nil
	}
	if err != nil {
		return wrapPath("remove", path, err)
	}
	m.removeTree(d, name)
	return nil
}

func (m *Mem) removeTree(d *inode, name string) {
	n := d.entries[name]
	for _, child := range slices.Sorted(maps.Keys(n.entries)) {
		m.removeTree(n, child)
	}
	m.change(entryChange{{d, name, n, nil}})
}

// List implements FS.
func (m *Mem) List(path string) ([]string, error) {
	err := m.begin("open", path)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	n, err := m.lookup(path)
	if err == nil && !n.isDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, wrapPath("open", path, err)
	}
	return slices.Sorted(maps.Keys(n.entries)), nil
}

// Stat implements FS.
func (m *Mem) Stat(path string) (Stat, error) {
	err := m.begin("stat", path)
	defer m.mu.Unlock()
	if err != nil {
		return Stat{}, err
	}
	n, err := m.lookup(path)
	if err != nil {
		return Stat{}, wrapPath("stat", path, err)
	}
	return n.stat(), nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(path string) error {
	err := m.begin("sync", path)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	n, err := m.lookup(path)
	if err == nil && !n.isDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return wrapPath("sync", path, err)
	}
	m.syncEntries(n)
	return nil
}

// Usage implements FS.
func (m *Mem) Usage(path string) (Usage, error) {
	err := m.begin("statfs", path)
	defer m.mu.Unlock()
	if err == nil {
		_, lerr := m.lookup(path)
		err = wrapPath("statfs", path, lerr)
	}
	if err != nil {
		return Usage{}, err
	}
	total := m.capacity.Load()
	if total == 0 {
		total = unlimited
	}
	return Usage{Total: total, Free: max(0, total-m.used.Load())}, nil
}

// Lock implements FS; the lock is one of this Mem, whoever asks.
func (m *Mem) Lock(path string) (io.Closer, error) {
	err := m.begin("lock", path)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	n, err := m.openInode(path, os.O_RDWR|os.O_CREATE)
	if err == nil && m.locks[n] {
		err = ErrLocked
	}
	if err != nil {
		return nil, wrapPath("lock", path, err)
	}
	m.locks[n] = true
	n.opens++
	return &memLock{m: m, n: n}, nil
}

type memLock struct {
	m *Mem
	n *inode // nil once closed
}

func (l *memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.n == nil {
		return fs.ErrClosed
	}
	if !l.m.crashed {
		delete(l.m.locks, l.n)
		l.m.release(l.n)
	}
	l.n = nil
	return nil
}

func wrapPath(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}
