package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// compactSync is how many bytes of copies are made durable at a time.
const compactSync = 4 << 20

// compact wins back the segments that are worth it.
func (s *Store) compact(ctx context.Context) error {
	var failed error
	skip := map[*segFile]bool{}
	for ctx.Err() == nil && s.broken.Load() == nil {
		g := s.candidate(skip)
		if g == nil {
			break
		}
		skip[g] = true
		if err := s.compactSegment(ctx, g); err != nil {
			failed = errors.Join(failed, fmt.Errorf("compact segment %d: %w", g.id, err))
		}
		s.checkSpace()
	}
	return failed
}

// candidate picks the segment with the greatest share of dead bytes: at least
// half of it, or an eighth where space is tight. The last segment stays: ids
// are not used twice.
func (s *Store) candidate(skip map[*segFile]bool) *segFile {
	share := int64(50)
	if s.tight() {
		share = 12
	}
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	var best *segFile
	bestShare, total := int64(0), int64(0)
	list := s.segments()
	for i, g := range list {
		total += g.dead
		if i == len(list)-1 || !g.trimmed || g.held || skip[g] {
			continue
		}
		have := int64(100)
		if used := g.used(); used > 0 {
			have = g.dead * 100 / used
		}
		if have >= share && have > bestShare {
			best, bestShare = g, have
		}
	}
	s.deadBytes.Store(total)
	return best
}

// compactSegment copies what lives in g to the tail of the log and removes g.
// It stays where it holds something that could not be copied.
func (s *Store) compactSegment(ctx context.Context, g *segFile) error {
	c := compaction{s: s, g: g, started: s.cfg.Clock.Now()}
	// Shards and fences first: their copies decide which tombstones and drops
	// are needed further on.
	if err := c.pass(ctx, scanAll, typeShard, typeSlotEpoch); err != nil {
		return err
	}
	if err := c.pass(ctx, scanHeaders, typeTombstone, typeSlotDrop); err != nil {
		return err
	}
	clean, err := c.emptied()
	if err != nil {
		return err
	}
	if !clean {
		s.cfg.Logger.Error("segment holds damage and is kept", "segment", g.id)
		return s.update(func(a *applier) error { g.held = true; a.touch(g); return nil })
	}
	return s.removeSegment(g)
}

type compaction struct {
	s       *Store
	g       *segFile
	w       writer
	started time.Time
	read    int64
	last    storagenode.Token // of the last copy
	copied  int64             // since the last sync
}

// pass copies the live records of two types, and makes the copies durable.
func (c *compaction) pass(ctx context.Context, depth scanDepth, one, other recordType) error {
	sc := scanner{f: keptFile{c.g.f, c.s.gate}, bind: c.g.bind, off: superSize, size: c.g.tail, depth: depth}
	for {
		r, err := sc.next()
		if err == io.EOF {
			return c.sync(ctx)
		}
		if err != nil {
			return err
		}
		if t := recordType(r.h.typ); !r.isRecord || t != one && t != other {
			continue
		}
		if depth == scanAll {
			if err := c.pace(ctx, r.size); err != nil {
				return err
			}
		}
		if err := c.record(ctx, &sc, &r); err != nil {
			return err
		}
	}
}

// pace keeps to the rate.
func (c *compaction) pace(ctx context.Context, n int64) error {
	c.read += n
	rate := c.s.cfg.CompactionRate
	if rate <= 0 || c.s.tight() {
		return ctx.Err()
	}
	due := time.Duration(float64(c.read) / float64(rate) * float64(time.Second))
	if ahead := due - c.s.cfg.Clock.Now().Sub(c.started); ahead > 50*time.Millisecond {
		return c.s.cfg.Clock.Sleep(ctx, ahead)
	}
	return ctx.Err()
}

// record copies a record if it lives.
func (c *compaction) record(ctx context.Context, sc *scanner, r *found) error {
	live, err := c.lives(&r.h, place{c.g.id, r.off})
	if err != nil || !live {
		return err
	}
	if r.err != nil {
		c.s.applyMu.Lock()
		c.s.reportCorrupt(r.h.shardID(), r.err)
		c.s.applyMu.Unlock()
		return nil // emptied will see that it is still needed
	}
	l := layoutOf(int(r.h.attrLen), int(r.h.payloadLen))
	p, err := sc.window(r.off, r.size)
	if err != nil {
		return err
	}
	c.w.head = append(c.w.head[:0], p[:l.payload]...)
	h := r.h
	err = c.s.gate.kept(func() error {
		c.last, err = c.s.append(ctx, &h, &c.w, p[l.payload:l.payload+int64(h.payloadLen)], 0, &place{c.g.id, r.off})
		return err
	})
	if err != nil {
		return err
	}
	if c.copied += r.size; c.copied >= compactSync {
		return c.sync(ctx)
	}
	return nil
}

func (c *compaction) sync(ctx context.Context) error {
	if c.last == 0 {
		return nil
	}
	c.copied = 0
	return c.s.Sync(ctx, c.last)
}

// lateGraces is for how many times Config.Grace a tombstone is kept at least: a write
// of its blob that comes so late, out of a network that held it back, is refused
// still. Two hours are more than what stands before a drive lets pass
// (rpc/auth.MaxSkew).
const lateGraces = 2

// lives says whether the index needs the record at this place. A tombstone or
// drop that covers nothing any more is taken out of the index here.
func (c *compaction) lives(h *header, at place) (bool, error) {
	x := c.s.index()
	if x == nil {
		return false, errClosed
	}
	defer x.release()
	switch recordType(h.typ) {
	case typeShard:
		var e entry
		known, err := lookup(x.db, appendShardKey(nil, h.shardID()), &e)
		return known && e.place == at && !c.s.dropped(h.pg, h.slot, e.epoch, e.seq), err
	case typeSlotEpoch:
		var m mark
		known, err := lookup(x.db, appendSlotKey(nil, keyEpoch, h.pg, h.slot), &m)
		return known && m.place == at, err
	case typeTombstone:
		key := appendTombKey(nil, h.pg, h.slot, h.blob)
		var m mark
		known, err := lookup(x.db, key, &m)
		if err != nil || !known || m.place != at {
			return false, err
		}
		if c.s.cfg.Clock.Now().UnixMilli()-int64(m.value) < lateGraces*c.s.cfg.Grace.Milliseconds() {
			return true, nil
		}
		return c.forget(x, key, &m, appendGraceKey(nil, int64(m.value), h.pg, h.slot, h.blob))
	default:
		key := appendDropKey(nil, h.pg, h.slot, h.seq)
		var m mark
		known, err := lookup(x.db, key, &m)
		if err != nil || !known || m.place != at {
			return false, err
		}
		if !m.done {
			return true, nil
		}
		live, err := c.forget(x, key, &m, nil)
		if err == nil && !live {
			c.s.removeDrop(slotKeyOf(h.pg, h.slot), drop{h.epoch, h.seq})
		}
		return live, err
	}
}

// forget takes a tombstone or drop out of the index, if no other segment holds
// a record from before it. It is true where it must be kept.
func (c *compaction) forget(x *index, key []byte, m *mark, graceKey []byte) (bool, error) {
	if graceKey != nil {
		_, closer, err := x.db.Get(graceKey)
		if err == nil {
			return true, closer.Close()
		}
		if !errors.Is(err, pebble.ErrNotFound) {
			return false, err
		}
	}
	// In no order: there may be many segments, and nearly any will do for an answer.
	for _, g := range *c.s.segs.Load() {
		if g != c.g && g.minSeq.Load() < m.seq {
			return true, nil
		}
	}
	return false, c.s.update(func(a *applier) error {
		a.kill(m.place, headerSizeAligned)
		return a.b.Delete(key, nil)
	})
}

// headerSizeAligned is the size of a record without attributes and payload.
const headerSizeAligned = (headerSize + recordAlign - 1) / recordAlign * recordAlign

// removeDrop forgets a drop that hides nothing.
func (s *Store) removeDrop(k slotKey, d drop) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	m := dropMap{}
	for slot, list := range *s.drops.Load() {
		for _, have := range list {
			if slot != k || have != d {
				m[slot] = append(m[slot], have)
			}
		}
	}
	s.drops.Store(&m)
}

// emptied proves that nothing in the segment is needed: record by record, and
// where bytes hold none, by all of the index.
func (c *compaction) emptied() (bool, error) {
	sc := scanner{f: keptFile{c.g.f, c.s.gate}, bind: c.g.bind, off: superSize, size: c.g.tail, depth: scanHeaders}
	for {
		r, err := sc.next()
		if err == io.EOF && c.g.short > 0 {
			return c.unreferenced() // more was there
		}
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if !r.isRecord {
			return c.unreferenced()
		}
		if recordType(r.h.typ) == typeSkip {
			continue
		}
		if live, err := c.lives(&r.h, place{c.g.id, r.off}); err != nil || live {
			return false, err
		}
	}
}

// unreferenced says whether no entry of the index points into the segment.
func (c *compaction) unreferenced() (bool, error) {
	s := c.s
	x := s.index()
	if x == nil {
		return false, errClosed
	}
	defer x.release()
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyBlob}, UpperBound: []byte{keyGrace}})
	if err != nil {
		return false, err
	}
	clean := true
	for ok := it.First(); ok && clean; ok = it.Next() {
		at, err := placeIn(it.Value())
		if err != nil {
			_ = it.Close()
			return false, err
		}
		clean = at.segment != c.g.id
	}
	return clean, it.Close()
}

// placeIn reads the place from an entry or a mark.
func placeIn(v []byte) (place, error) {
	var e entry
	if len(v) == entrySize {
		err := e.decode(v)
		return e.place, err
	}
	var m mark
	err := m.decode(v)
	return m.place, err
}

// removeSegment unlinks a segment nothing refers to. The index forgets it
// durably before.
func (s *Store) removeSegment(g *segFile) error {
	if err := s.syncRemoved(); err != nil {
		return err
	}
	err := s.update(func(a *applier) error { return a.b.Delete(appendMetaKey(nil, g.id), nil) })
	if err != nil {
		return err
	}
	if err := s.flushIndex(); err != nil && !s.idxUnmarked.Load() {
		return err // where the index is lost, its rebuild will not know the segment
	}
	if err := s.broken.Load(); err != nil {
		return *err
	}
	s.mu.Lock()
	s.setSegment(g.id, nil)
	s.mu.Unlock()
	if err := s.gate.kept(func() error { return s.cfg.FS.Remove(g.path) }); err != nil && !errors.Is(err, vfs.ErrNotExist) { // or lost
		err = fmt.Errorf("remove segment: %w", err)
		if refused := s.passing(err); refused != nil {
			// Its file may still be read at an open: tombstones of what is in it are needed.
			s.mu.Lock()
			s.setSegment(g.id, g)
			s.mu.Unlock()
			return refused
		}
		s.fail(err)
		return err
	}
	g.release()
	s.unsynced = true
	s.cfg.Logger.Debug("segment removed", "segment", g.id)
	return s.syncRemoved()
}

// syncRemoved makes the removal of the last segment durable, before another's: what
// it held must not come back without its tombstone.
func (s *Store) syncRemoved() error {
	if !s.unsynced {
		return nil
	}
	if err := s.gate.kept(func() error { return s.cfg.FS.SyncDir(s.segDir) }); err != nil {
		err = fmt.Errorf("remove segment: %w: %w", errSync, err)
		if s.passing(err) == nil || vfs.NoSpace(err) {
			s.fail(err)
		}
		return err
	}
	s.unsynced = false
	return nil
}
