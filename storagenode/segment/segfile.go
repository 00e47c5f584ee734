package segment

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"kintsugi/storagenode/vfs"
)

// refs counts the users of something that is closed when the last has left.
// It starts with the owner's own reference.
type refs struct{ n atomic.Int64 }

func (r *refs) init() { r.n.Store(1) }

// acquire is false where the owner has let go and the last user is gone.
func (r *refs) acquire() bool {
	for {
		n := r.n.Load()
		if n == 0 {
			return false
		}
		if r.n.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release is true for whoever must close.
func (r *refs) release() bool { return r.n.Add(-1) == 0 }

// segFile is one segment.
type segFile struct {
	id   uint64
	path string
	f    vfs.File
	refs refs
	bind binding

	// Guarded by the store's mu.
	tail      int64 // the next record goes here
	filled    int64 // zero-filled or written up to here
	allocated int64
	durable   int64 // synced up to here
	sealed    bool  // nothing is appended any more

	// minSeq is the least original seq of its records.
	minSeq atomic.Uint64

	// short is how long the file was when it was opened, where it had been longer.
	short int64
	// lost: the file is not in its directory any more.
	lost atomic.Bool

	// Guarded by applyMu.
	pos     int64 // the index covers records below
	dead    int64 // bytes of records that compaction can win back
	trimmed bool  // sealed and cut to its end
	held    bool  // holds damage that compaction must not remove
	dirty   bool  // its meta is to be written with the next batch
}

const segSuffix = ".seg"

func segName(id uint64) string { return fmt.Sprintf("%016x%s", id, segSuffix) }

func parseSegName(name string) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, segSuffix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	id, err := strconv.ParseUint(hex, 16, 64)
	return id, err == nil && segName(id) == name
}

func (s *Store) newSegFile(id uint64, path string, f vfs.File) *segFile {
	g := &segFile{id: id, path: path, f: f, bind: binding{s.cfg.Drive, id}}
	g.refs.init()
	g.minSeq.Store(math.MaxUint64)
	return g
}

// lowerMinSeq notes that the segment holds a record of seq.
func (g *segFile) lowerMinSeq(seq uint64) {
	for {
		cur := g.minSeq.Load()
		if seq >= cur || g.minSeq.CompareAndSwap(cur, seq) {
			return
		}
	}
}

func (g *segFile) release() {
	if g.refs.release() {
		_ = g.f.Close() // nothing unsynced is in it any more
	}
}

// used is the bytes the segment's records take, 0 where there are none.
func (g *segFile) used() int64 { return max(0, g.tail-superSize) }

// openSegments opens the segment files, and removes what a crash left of ones
// that were being made. One that follows them is opened also where it is not listed: a
// listing may be older than the file.
func (s *Store) openSegments() error {
	names, err := s.cfg.FS.List(s.segDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		id, ok := parseSegName(name)
		if !ok {
			s.cfg.Logger.Warn("not a segment", "name", name)
			continue
		}
		if _, err := s.openSegment(id); err != nil {
			return err
		}
	}
	for more := true; more && err == nil; {
		more, err = s.openSegment(s.nextSeg)
	}
	return err
}

// openSegment opens a segment's file; false where there is none.
func (s *Store) openSegment(id uint64) (there bool, err error) {
	path := filepath.Join(s.segDir, segName(id))
	f, err := s.cfg.FS.OpenFile(path, os.O_RDWR)
	if errors.Is(err, vfs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.nextSeg = max(s.nextSeg, id+1)
	g := s.newSegFile(id, path, f)
	kind, err := s.inspect(g)
	if kind == segmentOurs {
		s.setSegment(id, g)
		return true, nil
	}
	_ = f.Close()
	if err == nil && kind == segmentEmpty {
		err = s.cfg.FS.Remove(path)
	}
	return true, err
}

// createSegment makes a segment file with room for a record of size bytes, its
// superblock and its name durable.
func (s *Store) createSegment(id uint64, size int64) (_ *segFile, err error) {
	path := filepath.Join(s.segDir, segName(id))
	f, err := s.cfg.FS.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|vfs.Direct)
	if err != nil {
		return nil, fmt.Errorf("create segment: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = s.cfg.FS.Remove(path) // an empty one is harmless
		}
	}()
	step := s.allocStep(superSize + size)
	if err := allocate(f, 0, step); err != nil {
		return nil, fmt.Errorf("allocate segment: %w", err)
	}
	super := superblock{s.cfg.Cluster, s.cfg.Drive, id, s.cfg.Clock.Now().UnixMilli()}
	if _, err := f.WriteAt(super.encode(), 0); err != nil {
		return nil, fmt.Errorf("write superblock: %w", err)
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("sync segment: %w", errors.Join(err, errSync))
	}
	if err := s.cfg.FS.SyncDir(s.segDir); err != nil {
		return nil, fmt.Errorf("sync segments directory: %w", errors.Join(err, errSync))
	}
	g := s.newSegFile(id, path, f)
	g.tail, g.filled, g.durable, g.pos = superSize, superSize, superSize, superSize
	g.allocated = step
	return g, nil
}

// allocate makes room from one size to another: a file that does not grow with
// each write takes several of them at a time.
func allocate(f vfs.File, from, to int64) error {
	if err := f.Allocate(from, to-from); err != nil {
		return err
	}
	return f.Truncate(to)
}

// allocStep rounds a size in a segment up to the step of allocation, a 16th of
// a segment: what is allocated ahead stays small beside the drive.
func (s *Store) allocStep(n int64) int64 {
	step := max(s.segSize/16, 64<<10)
	return (n + step - 1) / step * step
}

// readFull reads len(p) bytes at off; io.ErrUnexpectedEOF where there are fewer.
func readFull(f io.ReaderAt, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
