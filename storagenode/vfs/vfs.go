// Package vfs is the file system seam: all access to drives goes through FS.
//
// OS is the real one. Mem is a file system in memory that knows what was
// synced: Crash gives what a power cut would leave. Fault wraps any FS and
// makes chosen calls fail, hang or run out of space. Each of them pins
// directories: Pin gives an FS that goes by the open directory, not by its path.
package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"
	"unsafe"
)

// Direct is a flag of OpenFile: writes go past the page cache, where the file
// system can (O_DIRECT of open(2)); it saves a copy and the cache's pages, and
// reads bring bytes from the medium. Each write's offset, length and memory
// must then be at multiples of BlockSize (AlignedBuffer), or it fails with
// EINVAL. Reads know no such rule.
const Direct = syscall.O_DIRECT

// BlockSize is the unit of writes to a Direct file, in bytes.
const BlockSize = 4096

// AlignedBuffer gives n zero bytes at an address that is a multiple of
// BlockSize.
func AlignedBuffer(n int) []byte {
	b := make([]byte, n+BlockSize)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (BlockSize - 1)
	return b[skip : skip+n : skip+n]
}

// checkDirect refuses a write that a Direct file does not take.
func checkDirect(p []byte, off int64) error {
	address := int64(uintptr(unsafe.Pointer(unsafe.SliceData(p))))
	if len(p) > 0 && (off|int64(len(p))|address)&(BlockSize-1) != 0 {
		return syscall.EINVAL
	}
	return nil
}

// File is an open file. WriteAt extends it as needed.
// Nothing written is durable before Sync or SyncData returned nil; a new
// file's name is not durable before SyncDir of its directory did.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes contents and size durable; SyncData is fdatasync(2).
	Sync() error
	SyncData() error
	// Truncate sets the size.
	Truncate(size int64) error
	// Allocate reserves space for [off, off+n) without changing the size,
	// where the file system can; elsewhere it does nothing.
	Allocate(off, n int64) error
	// Writeback starts writing dirty pages of the range without waiting
	// (sync_file_range(2)); a hint.
	Writeback(off, n int64) error
	// DontNeed drops clean pages of the range from the cache; a hint.
	DontNeed(off, n int64) error
	// Stat: Size in bytes, Links the number of directory entries (0: someone
	// unlinked it).
	Stat() (Stat, error)
	Name() string
}

// Stat describes a file.
type Stat struct {
	Size  int64
	Links int
	IsDir bool
	// Dev and Inode identify the file on this machine.
	Dev, Inode uint64
}

// Usage is the space of the file system behind a path, in bytes. What is neither
// Free nor Reserved, which a file system keeps for root, is used.
type Usage struct{ Total, Free, Reserved int64 }

// FS is what Kintsugi needs of a file system. Paths are as in package os.
// Errors match fs.ErrNotExist, fs.ErrExist and syscall.ENOSPC by errors.Is.
type FS interface {
	// OpenFile takes os.O_* flags and Direct; files are created 0600.
	OpenFile(path string, flag int) (File, error)
	Mkdir(path string) error    // 0700; fs.ErrExist where it exists
	MkdirAll(path string) error // 0700
	Rename(from, to string) error
	Link(from, to string) error
	Remove(path string) error
	RemoveAll(path string) error
	// List gives the names in a directory, sorted.
	List(path string) ([]string, error)
	Stat(path string) (Stat, error)
	// SyncDir makes the directory's entries durable.
	SyncDir(path string) error
	Usage(path string) (Usage, error)
	// Lock takes an exclusive lock on a file, made when absent, and fails at
	// once where another process has it.
	Lock(path string) (io.Closer, error)
	// Pin opens a directory once and gives the FS of what is in it.
	Pin(dir string) (Pinned, error)
}

// Pinned is an FS of one directory: a path in it leads to where the directory is now,
// moved or mounted elsewhere as it may be, and never to what has taken its name. Other
// paths are refused. After Close every call fails; files that are open stay so.
type Pinned interface {
	FS
	io.Closer
}

// inDir gives a path relative to a directory that it is in, or is; both are clean.
func inDir(dir, path string) (string, error) {
	if path == dir {
		return ".", nil
	}
	rel, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/")
	if !ok {
		return "", fmt.Errorf("%s is not in the pinned directory %s: %w", path, dir, fs.ErrInvalid)
	}
	return rel, nil
}

// ErrNotExist and ErrExist are those of io/fs.
var (
	ErrNotExist = fs.ErrNotExist
	ErrExist    = fs.ErrExist
)
