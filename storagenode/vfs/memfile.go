package vfs

import (
	"bytes"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"syscall"
)

const (
	pageSize   = 64 << 10
	blockSize  = 4 << 10 // what space is counted in
	sectorSize = 512     // what a power cut leaves whole or not at all
)

// memPage is 64 KiB of a file. data may be shorter, or nil: what is missing is
// zero. alloc has a bit for each block that takes space.
type memPage struct {
	data  []byte
	alloc uint16
}

// contentChange undoes one write or truncation that no Sync has covered.
type contentChange struct {
	off, n           int64  // the bytes changed
	old              []byte // what they were; shorter than n: the rest was zero
	oldSize, newSize int64
	truncation       bool
}

// The methods below want n.mu held (for reading: read), and m.mu for reading.

func (n *inode) read(p []byte, off int64) {
	for len(p) > 0 {
		at := int(off % pageSize)
		c := min(len(p), pageSize-at)
		var data []byte
		if i := off / pageSize; i < int64(len(n.pages)) {
			data = n.pages[i].data
		}
		copied := 0
		if at < len(data) {
			copied = copy(p[:c], data[at:])
		}
		clear(p[copied:c])
		p, off = p[c:], off+int64(c)
	}
}

// put stores bytes without any record of it.
func (n *inode) put(p []byte, off int64) {
	n.growPages(off + int64(len(p)))
	for len(p) > 0 {
		at := int(off % pageSize)
		c := min(len(p), pageSize-at)
		pg := &n.pages[off/pageSize]
		if at+c > len(pg.data) && !isZero(p[:c]) {
			size := blockSize
			for size < at+c {
				size *= 2
			}
			pg.data = append(make([]byte, 0, size), pg.data...)[:size]
		}
		if at < len(pg.data) {
			copy(pg.data[at:], p[:c])
		}
		p, off = p[c:], off+int64(c)
	}
}

// zero clears a range.
func (n *inode) zero(off, count int64) {
	for count > 0 {
		at := off % pageSize
		c := min(count, pageSize-at)
		if i := off / pageSize; i < int64(len(n.pages)) {
			pg := &n.pages[i]
			if at == 0 && c >= int64(len(pg.data)) {
				pg.data = nil
			} else if at < int64(len(pg.data)) {
				clear(pg.data[at:min(at+c, int64(len(pg.data)))])
			}
		}
		off, count = off+c, count-c
	}
}

// written gives the bytes of a range up to the last one that is not zero.
func (n *inode) written(off, count int64) []byte {
	end := off
	for i := (off + count - 1) / pageSize; i >= off/pageSize; i-- {
		if i < int64(len(n.pages)) && len(n.pages[i].data) > 0 {
			end = min(off+count, i*pageSize+int64(len(n.pages[i].data)))
			break
		}
	}
	if end <= off {
		return nil
	}
	old := make([]byte, end-off)
	n.read(old, off)
	if isZero(old) {
		return nil
	}
	return old
}

func (n *inode) growPages(end int64) {
	if need := int((end + pageSize - 1) / pageSize); need > len(n.pages) {
		n.pages = append(n.pages, make([]memPage, need-len(n.pages))...)
	}
}

// reserve takes space for a range and returns how many of its bytes it got.
func (n *inode) reserve(m *Mem, off, count int64) int64 {
	n.growPages(off + count)
	for at := off; at < off+count; {
		pg := &n.pages[at/pageSize]
		end := min(off+count, (at/pageSize+1)*pageSize)
		want := blockMask(at%pageSize, end-at/pageSize*pageSize) &^ pg.alloc
		for want != 0 {
			if m.take(int64(bits.OnesCount16(want)) * blockSize) {
				pg.alloc |= want
				break
			}
			// Not all of the page: as far as it goes.
			first := want & -want
			if !m.take(blockSize) {
				full := at/pageSize*pageSize + int64(bits.TrailingZeros16(first))*blockSize
				return max(0, full-off)
			}
			pg.alloc |= first
			want &^= first
		}
		at = end
	}
	return count
}

// blockMask has the bits of the blocks that [from, to) of a page touches.
func blockMask(from, to int64) uint16 {
	if from >= to {
		return 0
	}
	lo, hi := from/blockSize, (to+blockSize-1)/blockSize
	return uint16(1<<hi-1) &^ uint16(1<<lo-1)
}

func (m *Mem) take(n int64) bool {
	for {
		used, capacity := m.used.Load(), m.capacity.Load()
		if capacity != 0 && used+n > capacity {
			return false
		}
		if m.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

func (n *inode) spaceUsed() int64 {
	blocks := 0
	for i := range n.pages {
		blocks += bits.OnesCount16(n.pages[i].alloc)
	}
	return int64(blocks) * blockSize
}

// write stores p with what a crash needs to undo it, as far as there is space.
func (n *inode) write(m *Mem, p []byte, off int64) (int, error) {
	fit := n.reserve(m, off, int64(len(p)))
	p = p[:fit]
	if fit > 0 {
		c := contentChange{off: off, n: fit, oldSize: n.size, newSize: max(n.size, off+fit)}
		if off < n.size {
			c.old = n.written(off, min(fit, n.size-off))
		}
		n.pending = append(n.pending, c)
		n.put(p, off)
		n.size = c.newSize
	}
	return int(fit), nil
}

func (n *inode) truncate(m *Mem, size int64) {
	if size == n.size {
		return
	}
	c := contentChange{off: size, oldSize: n.size, newSize: size, truncation: true}
	if size < n.size {
		c.n = n.size - size
		c.old = n.written(size, c.n)
		n.zero(size, c.n)
		for i := size / pageSize; i < int64(len(n.pages)); i++ {
			pg := &n.pages[i]
			free := pg.alloc
			if i == size/pageSize {
				free &^= blockMask(0, size%pageSize)
			}
			pg.alloc &^= free
			m.used.Add(-int64(bits.OnesCount16(free)) * blockSize)
		}
	}
	n.pending = append(n.pending, c)
	n.size = size
}

// synced forgets how to undo: everything is on the medium.
func (n *inode) synced() {
	clear(n.pending)
	n.pending = n.pending[:0]
}

func isZero(p []byte) bool {
	var zeros [blockSize]byte
	for len(p) > 0 {
		c := min(len(p), blockSize)
		if !bytes.Equal(p[:c], zeros[:c]) {
			return false
		}
		p = p[c:]
	}
	return true
}

// memFile is one open handle.
type memFile struct {
	m      *Mem
	n      *inode
	name   string
	flag   int
	closed bool // guarded by m.mu
}

// begin locks for a call on the contents; the caller defers m.mu.RUnlock.
func (f *memFile) begin(op string, writing bool) error {
	f.m.mu.RLock()
	var err error
	switch {
	case f.m.crashed:
		err = ErrCrashed
	case f.closed:
		err = fs.ErrClosed
	case writing && f.flag&(os.O_WRONLY|os.O_RDWR) == 0,
		!writing && op == "read" && f.flag&os.O_WRONLY != 0:
		err = syscall.EBADF
	case op == "read" && f.n.isDir():
		err = syscall.EISDIR
	}
	return wrapPath(op, f.name, err)
}

func (f *memFile) Name() string { return f.name }

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	err := f.begin("read", false)
	defer f.m.mu.RUnlock()
	if err == nil && off < 0 {
		err = wrapPath("read", f.name, syscall.EINVAL)
	}
	if err != nil {
		return 0, err
	}
	f.n.mu.RLock()
	defer f.n.mu.RUnlock()
	left := f.n.size - off
	if left <= 0 && len(p) > 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > left {
		p, err = p[:max(0, left)], io.EOF
	}
	f.n.read(p, off)
	return len(p), err
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.begin("write", true)
	defer f.m.mu.RUnlock()
	if err == nil && off < 0 {
		err = wrapPath("write", f.name, syscall.EINVAL)
	}
	if err == nil && f.flag&Direct != 0 {
		err = wrapPath("write", f.name, checkDirect(p, off))
	}
	if err != nil {
		return 0, err
	}
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	n, err := f.n.write(f.m, p, off)
	if err == nil && n < len(p) {
		err = syscall.ENOSPC
	}
	return n, wrapPath("write", f.name, err)
}

func (f *memFile) Sync() error     { return f.sync("fsync") }
func (f *memFile) SyncData() error { return f.sync("fdatasync") }

func (f *memFile) sync(op string) error {
	err := f.begin(op, false)
	defer f.m.mu.RUnlock()
	if err != nil {
		return err
	}
	f.n.mu.Lock()
	f.n.synced()
	f.n.mu.Unlock()
	return nil
}

func (f *memFile) Truncate(size int64) error {
	err := f.begin("truncate", true)
	defer f.m.mu.RUnlock()
	if err == nil && size < 0 {
		err = wrapPath("truncate", f.name, syscall.EINVAL)
	}
	if err != nil {
		return err
	}
	f.n.mu.Lock()
	f.n.truncate(f.m, size)
	f.n.mu.Unlock()
	return nil
}

func (f *memFile) Allocate(off, n int64) error {
	err := f.begin("fallocate", true)
	defer f.m.mu.RUnlock()
	if err == nil && (off < 0 || n <= 0) {
		err = wrapPath("fallocate", f.name, syscall.EINVAL)
	}
	if err != nil {
		return err
	}
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	if f.n.reserve(f.m, off, n) < n {
		return wrapPath("fallocate", f.name, syscall.ENOSPC)
	}
	return nil
}

func (f *memFile) Writeback(_, _ int64) error { return f.hint("sync_file_range") }
func (f *memFile) DontNeed(_, _ int64) error  { return f.hint("fadvise") }

func (f *memFile) hint(op string) error {
	err := f.begin(op, false)
	f.m.mu.RUnlock()
	return err
}

func (f *memFile) Stat() (Stat, error) {
	err := f.begin("fstat", false)
	defer f.m.mu.RUnlock()
	if err != nil {
		return Stat{}, err
	}
	return f.n.stat(), nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return wrapPath("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	if !f.m.crashed { // else the contents belong to the file system after it
		f.m.release(f.n)
	}
	return nil
}
