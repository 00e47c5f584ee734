package pebblefs

import (
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"kintsugi/storagenode/vfs"
)

const pageSize = 4 << 10

// node is a file Pebble writes: on the medium while all goes well, and with
// what was written since the poisoning in memory.
type node struct {
	f *FS
	// refs and realPath are guarded by f.mu: the open handles, and where the
	// file is on the medium ("": nowhere).
	refs     int
	realPath string

	mu    sync.Mutex
	real  vfs.File // nil where the file is not on the medium, or not open
	size  int64
	pages map[int64]*[pageSize]byte // written since the poisoning
	lost  bool                      // a write was dropped
}

// reopen opens the medium's file again where all handles were closed; f.mu is
// held.
func (n *node) reopen() (err error) {
	if n.refs > 0 || n.realPath == "" {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.real == nil {
		n.real, err = n.f.fs.OpenFile(n.realPath, os.O_RDONLY)
	}
	return err
}

// release drops a handle.
func (n *node) release(path string) {
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	n.refs--
	if n.refs > 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.real != nil {
		if err := n.real.Close(); err != nil {
			n.f.poison(err)
		}
		n.real = nil
	}
	if n.f.poisoned() {
		return
	}
	for p, other := range n.f.nodes { // few: the files being written now
		if other == n {
			delete(n.f.nodes, p)
		}
	}
}

func (n *node) currentSize() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.size
}

// change runs a change of the file on the medium, unless poisoned, and says
// whether it was made; n.mu is held.
func (n *node) change(do func(vfs.File) error) bool {
	return n.real != nil && n.f.real(func() error { return do(n.real) })
}

// writeAt never fails. What does not reach the medium is kept.
func (n *node) writeAt(p []byte, off int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.f.poisoned() || !n.change(func(real vfs.File) error {
		done, err := real.WriteAt(p, off)
		if err == nil && done < len(p) {
			err = io.ErrShortWrite
		}
		return err
	}) {
		n.keep(p, off)
	}
	n.size = max(n.size, off+int64(len(p)))
}

func (n *node) keep(p []byte, off int64) {
	if n.pages == nil {
		n.pages = map[int64]*[pageSize]byte{}
	}
	for len(p) > 0 {
		i, at := off/pageSize, off%pageSize
		page := n.pages[i]
		if page == nil {
			if n.f.held.Add(pageSize) > maxHeld {
				n.f.held.Add(-pageSize)
				n.lost = true
				return
			}
			page = new([pageSize]byte)
			if n.real != nil && i*pageSize < n.size {
				// What cannot be read any more is zero: Pebble's checksums tell.
				_, _ = n.real.ReadAt(page[:min(pageSize, n.size-i*pageSize)], i*pageSize)
			}
			n.pages[i] = page
		}
		c := copy(page[at:], p)
		p, off = p[c:], off+int64(c)
	}
}

func (n *node) readAt(p []byte, off int64) (int, error) {
	n.f.pace()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lost {
		return 0, ErrDropped
	}
	left := n.size - off
	if left <= 0 && len(p) > 0 {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > left {
		p, eof = p[:left], io.EOF
	}
	if len(n.pages) == 0 && n.real != nil {
		if c, err := n.real.ReadAt(p, off); c < len(p) {
			return c, err
		}
		return len(p), eof
	}
	for done := 0; done < len(p); {
		i, at := (off+int64(done))/pageSize, (off+int64(done))%pageSize
		c := min(len(p)-done, int(pageSize-at))
		part := p[done : done+c]
		switch page := n.pages[i]; {
		case page != nil:
			copy(part, page[at:])
		case n.real != nil:
			if c, err := n.real.ReadAt(part, off+int64(done)); c < len(part) {
				return done + c, err
			}
		default:
			clear(part)
		}
		done += c
	}
	return len(p), eof
}

// nodeFile is a handle on a node.
type nodeFile struct {
	node     *node
	path     string
	writable bool
	off      int64 // of Read and Write
	closed   bool
}

func (h *nodeFile) Write(p []byte) (int, error) {
	n, err := h.WriteAt(p, h.off)
	h.off += int64(n)
	return n, err
}

func (h *nodeFile) WriteAt(p []byte, off int64) (int, error) {
	if !h.writable || h.closed {
		return 0, &fs.PathError{Op: "write", Path: h.path, Err: fs.ErrPermission}
	}
	h.node.writeAt(p, off)
	return len(p), nil
}

func (h *nodeFile) Read(p []byte) (int, error) {
	n, err := h.node.readAt(p, h.off)
	h.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (h *nodeFile) ReadAt(p []byte, off int64) (int, error) { return h.node.readAt(p, off) }

func (h *nodeFile) Close() error {
	if h.closed {
		return fs.ErrClosed
	}
	h.closed = true
	h.node.release(h.path)
	return nil
}

func (h *nodeFile) sync(do func(vfs.File) error) error {
	// Not under node.mu: Pebble reads a file while it is synced. The handle
	// keeps real open.
	h.node.mu.Lock()
	real := h.node.real
	h.node.mu.Unlock()
	if real != nil {
		h.node.f.real(func() error { return do(real) })
	}
	return nil
}

func (h *nodeFile) Sync() error     { return h.sync(vfs.File.Sync) }
func (h *nodeFile) SyncData() error { return h.sync(vfs.File.SyncData) }

func (h *nodeFile) SyncTo(length int64) (bool, error) {
	return false, h.sync(func(f vfs.File) error { return f.Writeback(0, length) })
}

func (h *nodeFile) Stat() (pebblevfs.FileInfo, error) {
	return info{name: h.node.f.PathBase(h.path), st: vfs.Stat{Size: h.node.currentSize()}}, nil
}

func (h *nodeFile) Preallocate(_, _ int64) error { return nil }
func (h *nodeFile) Prefetch(_, _ int64) error    { return nil }
func (h *nodeFile) Fd() uintptr                  { return pebblevfs.InvalidFd }

// readFile is a handle on a complete file on the medium.
type readFile struct {
	f    *FS
	file vfs.File
	off  int64 // of Read
}

func (h *readFile) Read(p []byte) (int, error) {
	n, err := h.ReadAt(p, h.off)
	h.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (h *readFile) ReadAt(p []byte, off int64) (int, error) {
	h.f.pace()
	return h.file.ReadAt(p, off)
}

func (h *readFile) Close() error { return h.file.Close() }

func (h *readFile) Stat() (pebblevfs.FileInfo, error) {
	st, err := h.file.Stat()
	return info{name: h.file.Name(), st: st}, err
}

func (h *readFile) refuse() error {
	return &fs.PathError{Op: "write", Path: h.file.Name(), Err: fs.ErrPermission}
}

func (h *readFile) Write([]byte) (int, error)          { return 0, h.refuse() }
func (h *readFile) WriteAt([]byte, int64) (int, error) { return 0, h.refuse() }
func (h *readFile) Sync() error                        { return nil }
func (h *readFile) SyncData() error                    { return nil }
func (h *readFile) SyncTo(int64) (bool, error)         { return false, nil }
func (h *readFile) Preallocate(_, _ int64) error       { return nil }
func (h *readFile) Prefetch(_, _ int64) error          { return nil }
func (h *readFile) Fd() uintptr                        { return pebblevfs.InvalidFd }

// dirFile is a directory open for syncing.
type dirFile struct {
	f    *FS
	path string
}

func (h *dirFile) Sync() error {
	h.f.real(func() error { return h.f.fs.SyncDir(h.path) })
	return nil
}

func (h *dirFile) refuse() error {
	return &fs.PathError{Op: "use", Path: h.path, Err: fs.ErrInvalid}
}

func (h *dirFile) SyncData() error                    { return h.Sync() }
func (h *dirFile) SyncTo(int64) (bool, error)         { return false, nil }
func (h *dirFile) Stat() (pebblevfs.FileInfo, error)  { return h.f.Stat(h.path) }
func (h *dirFile) Close() error                       { return nil }
func (h *dirFile) Read([]byte) (int, error)           { return 0, h.refuse() }
func (h *dirFile) ReadAt([]byte, int64) (int, error)  { return 0, h.refuse() }
func (h *dirFile) Write([]byte) (int, error)          { return 0, h.refuse() }
func (h *dirFile) WriteAt([]byte, int64) (int, error) { return 0, h.refuse() }
func (h *dirFile) Preallocate(_, _ int64) error       { return nil }
func (h *dirFile) Prefetch(_, _ int64) error          { return nil }
func (h *dirFile) Fd() uintptr                        { return pebblevfs.InvalidFd }

// info implements pebble's vfs.FileInfo. Times and owners are not known here.
type info struct {
	name string
	st   vfs.Stat
}

func (i info) Name() string                 { return i.name }
func (i info) Size() int64                  { return i.st.Size }
func (i info) IsDir() bool                  { return i.st.IsDir }
func (i info) ModTime() time.Time           { return time.Time{} }
func (i info) Sys() any                     { return nil }
func (i info) DeviceID() pebblevfs.DeviceID { return pebblevfs.DeviceID{} }

func (i info) Mode() os.FileMode {
	if i.st.IsDir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}
