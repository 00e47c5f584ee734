package segment

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// rebuild makes a new index from the segments and puts it in the place of the
// old one, which serves reads until then. applyMu is held.
func (s *Store) rebuild(ctx context.Context) error {
	gens, err := s.indexGens()
	if err != nil {
		return err
	}
	gen := uint64(1)
	if len(gens) > 0 {
		gen = gens[len(gens)-1] + 1
	}
	if n := len(*s.segs.Load()); n > 0 { // a new drive has nothing to rebuild
		s.cfg.Logger.Info("rebuilding the index", "segments", n)
	}
	x, err := openIndex(s.cfg.FS, s.idxDir, gen, s.cfg.Cache, s.cfg.Logger, s.indexFailed)
	if err != nil {
		_ = s.cfg.FS.RemoveAll(filepath.Join(s.idxDir, strconv.FormatUint(gen, 10)))
		return err
	}
	type state struct {
		pos, dead int64
		held      bool
	}
	before := map[*segFile]state{}
	for _, g := range s.segments() {
		before[g] = state{g.pos, g.dead, g.held}
	}
	old := s.idx.Load()
	s.target = x
	err = s.rebuildInto(ctx, x)
	s.target = nil
	if err != nil && (old != nil || !vfs.NoSpace(err)) {
		for g, m := range before {
			g.pos, g.dead, g.held = m.pos, m.dead, m.held
		}
		x.release()
		_ = s.cfg.FS.RemoveAll(x.dir) // also done at the next open
		return err
	}
	s.idx.Store(x)
	s.report.Rebuilt = true
	s.idxUnmarked.Store(false)
	s.idxFailed.Store(nil)
	if err != nil {
		// The file system is full: the index serves from memory for now.
		s.indexLost(gen, err)
		return nil
	}
	if old != nil {
		old.release()
		_ = s.cfg.FS.RemoveAll(old.dir)
	}
	return nil
}

func (s *Store) rebuildInto(ctx context.Context, x *index) error {
	for i, g := range s.segments() {
		g.pos, g.dead, g.held = superSize, 0, false
		if err := s.replay(ctx, g, true); err != nil {
			return err
		}
		if i%100 == 99 {
			s.cfg.Logger.Info("rebuilding the index", "done", i+1)
		}
	}
	if err := x.flush(); err != nil {
		return err
	}
	return x.complete(s.cfg.FS)
}

// indexFailed is told by the index that its files cannot be written or hold
// damage. The log loses nothing; the index is rebuilt as soon as it can be.
func (s *Store) indexFailed(gen uint64, err error) {
	if s.idx.Load() == nil && errors.Is(err, fs.ErrClosed) {
		return // the last reader left after the store was closed, and so was the directory
	}
	if errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS) {
		s.fail(fmt.Errorf("index: %w", err))
		return
	}
	if x := s.idx.Load(); x != nil && x.gen != gen {
		return
	}
	s.indexLost(gen, err)
}

// indexLost has the index rebuilt, also where the process ends before.
func (s *Store) indexLost(gen uint64, err error) {
	if !s.idxFailed.CompareAndSwap(nil, &err) {
		return
	}
	s.readOnly.Store(true)
	s.cfg.Logger.Error("index lost, it will be rebuilt", "err", err)
	path := filepath.Join(s.idxDir, strconv.FormatUint(gen, 10), indexMarker)
	err = s.cfg.FS.Remove(path)
	if err == nil || errors.Is(err, vfs.ErrNotExist) {
		err = s.cfg.FS.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		s.cfg.Logger.Warn("index not marked as lost", "err", err)
		return
	}
	s.idxUnmarked.Store(true)
}

// indexErr gives an error of the index a meaning; nil where it only says that
// there is nothing.
func (s *Store) indexErr(x *index, err error) error {
	if err == nil || errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if s.idx.Load() == nil && errors.Is(err, fs.ErrClosed) {
		return errClosed // as in indexFailed
	}
	if short(err) {
		return s.passing(err)
	}
	if errors.Is(err, syscall.EIO) {
		_ = s.readFailed(err) // counts it
	}
	s.indexLost(x.gen, err)
	return fmt.Errorf("index: %w: %w", storagenode.ErrUnavailable, err)
}
