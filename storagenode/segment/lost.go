package segment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

var errSegmentMissing = errors.New("the segment is missing")

// lookAfter is how old the last look at the segments may be when a slot is listed.
const lookAfter = time.Second

// checkSegments gives up segments whose files are gone.
func (s *Store) checkSegments() {
	if lost := s.look(); len(lost) > 0 {
		s.lose(lost)
	}
}

// lookLately has what is listed looked for where nobody did lately.
func (s *Store) lookLately(ctx context.Context) error {
	if s.cfg.Clock.Now().UnixNano()-s.lookedAt.Load() < int64(lookAfter) {
		return nil
	}
	i, err := s.enterRead(ctx)
	if err != nil {
		return err
	}
	defer s.gate.leave(i)
	s.look()
	return nil
}

// look finds segments that are not in their directory any more, and marks them. A file
// that was removed can be read for as long as it is open, so nothing else would notice
// before the next open.
func (s *Store) look() (lost []*segFile) {
	s.lookedAt.Store(s.cfg.Clock.Now().UnixNano())
	known := *s.segs.Load()
	names, err := s.cfg.FS.List(s.segDir)
	if err != nil {
		return nil // checkDir says what is wrong
	}
	found := map[uint64]bool{}
	for _, name := range names {
		if id, ok := parseSegName(name); ok && known[id] != nil {
			found[id] = true
		}
	}
	for id, g := range known {
		if !found[id] {
			// A listing may be older than the file.
			if _, err := s.cfg.FS.Stat(g.path); !errors.Is(err, vfs.ErrNotExist) {
				found[id] = true
			}
		}
	}
	for id, g := range known {
		if found[id] || (*s.segs.Load())[id] != g {
			continue // there, or compacted meanwhile
		}
		s.mu.Lock()
		sealed := g.sealed
		s.mu.Unlock()
		if !sealed || len(found) == 0 {
			s.noReads.Store(true)
			s.fail(fmt.Errorf("segment %d was removed from its directory", id))
			return nil
		}
		g.lost.Store(true)
		lost = append(lost, g)
	}
	return lost
}

// lose gives up segments whose files are gone, and tells which shards were in them.
func (s *Store) lose(lost []*segFile) {
	s.keeping.Lock() // compaction reads them
	defer s.keeping.Unlock()
	s.applyMu.Lock()
	for _, g := range lost {
		s.mu.Lock()
		tail, still := g.tail, (*s.segs.Load())[g.id] == g
		if still {
			s.setSegment(g.id, nil)
		}
		s.mu.Unlock()
		if still {
			s.reportDamage(g.id, 0, tail, errSegmentMissing)
			g.release()
		}
	}
	s.applyMu.Unlock()
	ids, err := s.absent()
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.tell(ids, err)
}

// tell reports absent shards. applyMu is held.
func (s *Store) tell(ids []storagenode.ShardID, err error) {
	for _, id := range ids {
		s.reportCorrupt(id, errSegmentMissing)
	}
	if err != nil {
		s.cfg.Logger.Warn("not all shards of missing segments are named", "err", err)
	}
}

// present says whether the bytes that an entry of the index names can be there: its
// segment is, and is as long as it was. Where compaction has moved the shard
// meanwhile, the index is asked anew.
func (s *Store) present(id storagenode.ShardID, e entry) bool {
	for range readAttempts {
		if g := (*s.segs.Load())[e.segment]; g != nil {
			return !g.lost.Load() && (g.short == 0 || e.off+e.size() <= g.short)
		}
		var err error
		if e, err = s.find(id); err != nil {
			return !errors.Is(err, storagenode.ErrNotFound)
		}
	}
	return false
}

// absent walks the index for shards whose bytes are not there; at most as many as a
// report holds: who lists the slots finds the others.
func (s *Store) absent() (ids []storagenode.ShardID, err error) {
	x := s.index()
	if x == nil {
		return nil, errClosed
	}
	defer x.release()
	err = s.walkShards(x, []byte{keyBlob}, func(_ []byte, id storagenode.ShardID, e entry) bool {
		if !s.dropped(uint32(id.PG), id.Slot, e.epoch, e.seq) && !s.present(id, e) {
			ids = append(ids, id)
		}
		return len(ids) < maxReported
	})
	return ids, err
}
