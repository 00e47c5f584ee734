package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs/pebblefs"
)

// applier puts what records state into one batch of the index, and keeps
// account of what dies by it. applyMu is held from newApplier to close. The
// rules do not depend on the order in which records are met, so that a replay,
// also of records met before, and a rebuild give the same index.
type applier struct {
	s     *Store
	x     *index
	b     *pebble.Batch // not to be read but by reader
	key   []byte
	val   []byte
	dirty []*segFile
	// replay: a record may have been met before, and one that lies elsewhere
	// with the same seq is an older copy.
	replay bool
	// damaged: the record at hand failed its check. It stands for its shard
	// until that is repaired, but never in the place of its own good copy.
	damaged bool
	// verify checks a record's payload, where that was not done; it decides
	// between two copies of a record.
	verify func() bool
}

func (s *Store) newApplier() (*applier, error) {
	x := s.target
	if x == nil || !x.refs.acquire() {
		x = s.index()
	}
	if x == nil {
		return nil, errClosed
	}
	return &applier{s: s, x: x, b: x.db.NewBatch(), key: make([]byte, 0, 64), val: make([]byte, 0, 64)}, nil
}

func (a *applier) close() {
	for _, g := range a.dirty {
		g.dirty = false
	}
	_ = a.b.Close()
	a.x.release()
}

// reader gives the batch, to be read over the index. Groups of new shards need
// none, and their batch no order.
func (a *applier) reader() (*pebble.Batch, error) {
	if a.b.Indexed() {
		return a.b, nil
	}
	b := a.x.db.NewIndexedBatch()
	if err := b.Apply(a.b, nil); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	err := a.b.Close()
	a.b = b
	return b, err
}

// lookup finds what is under a.key, also what the batch has.
func (a *applier) lookup(v decoder) (bool, error) {
	b, err := a.reader()
	if err != nil {
		return false, err
	}
	return lookup(b, a.key, v)
}

// absent is lookup for what is nearly never there.
func (a *applier) absent(v decoder) (bool, error) {
	b, err := a.reader()
	if err != nil {
		return false, err
	}
	return pebblefs.Lookup(b, a.key, v.decode)
}

// touch has a segment's meta written with the batch.
func (a *applier) touch(g *segFile) {
	if !g.dirty {
		g.dirty = true
		a.dirty = append(a.dirty, g)
	}
}

// kill accounts for a record nobody needs any more.
func (a *applier) kill(at place, size int64) {
	if g := (*a.s.segs.Load())[at.segment]; g != nil {
		g.dead += size
		g.held = false // perhaps this was what held it
		a.touch(g)
	}
}

// covered says that the batch covers a segment up to pos.
func (a *applier) covered(g *segFile, pos int64) {
	g.pos = max(g.pos, pos)
	a.touch(g)
}

// commit writes the batch and what it changed of the segments.
func (a *applier) commit() error {
	for _, g := range a.dirty {
		// One that seems shorter than it was is replayed from there once it is not.
		m := meta{pos: g.pos, dead: g.dead, minSeq: g.minSeq.Load(), sealed: g.trimmed && g.short == 0}
		a.val = m.append(a.val[:0])
		a.key = appendMetaKey(a.key[:0], g.id)
		if err := a.b.Set(a.key, a.val, nil); err != nil {
			return fmt.Errorf("index: %w", err)
		}
	}
	a.s.mu.Lock()
	seq, seg, dead := a.s.nextSeq, a.s.nextSeg, a.s.deadTo
	a.s.mu.Unlock()
	a.val = binary.LittleEndian.AppendUint64(a.val[:0], seq)
	a.val = binary.LittleEndian.AppendUint64(a.val, seg)
	a.val = append(a.val, dead[:]...)
	a.val = append(a.val, a.s.novelty.newest[:]...)
	if err := a.b.Set(append(a.key[:0], keyState), a.val, nil); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	if err := a.b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

func (a *applier) apply(h *header, at place, size int64, from place, moved bool) (err error) {
	switch recordType(h.typ) {
	case typeShard:
		err = a.shard(h, at, size, from, moved)
	case typeTombstone:
		err = a.tombstone(h, at, size, from, moved)
	case typeSlotEpoch:
		err = a.epoch(h, at, size, from, moved)
	case typeSlotDrop:
		err = a.drop(h, at, size, from, moved)
	default:
		a.kill(at, size)
	}
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

// supersedes decides between a record and the one of the same key that the
// index knows, by seq.
func (a *applier) supersedes(seq, curSeq uint64, cur, from place, moved bool) bool {
	switch {
	case seq != curSeq:
		return seq > curSeq && !moved
	case moved:
		return cur == from // compare and swap
	case !a.replay || a.damaged:
		return false
	}
	return a.verify == nil || a.verify()
}

// shard counts on writers that raise a slot's fence before they write with its
// epoch, so that a drop, which is refused below the fence, covers all records
// before it. Otherwise one of a higher epoch, replaced by one of a lower, could
// come back when the latter is dropped.
func (a *applier) shard(h *header, at place, size int64, from place, moved bool) (err error) {
	id := h.shardID()
	a.key = appendShardKey(a.key[:0], id)
	var cur entry
	known := false
	if a.replay || !a.s.novelty.isNew(h.blob) {
		if known, err = a.lookup(&cur); err != nil {
			return err
		}
	}
	a.s.novelty.add(h.blob)
	switch {
	case known && cur.place == at && cur.seq == h.seq:
		return nil
	case a.s.dropped(h.pg, h.slot, h.epoch, h.seq),
		known && !a.supersedes(h.seq, cur.seq, cur.place, from, moved),
		!known && moved:
		a.kill(at, size)
		return nil
	case !known && a.replay:
		buried, err := a.buried(h)
		if err != nil {
			return err
		}
		if buried {
			a.kill(at, size)
			return nil
		}
	}
	if known {
		a.kill(cur.place, cur.size())
	}
	e := entryOf(h, at)
	a.val = e.append(a.val[:0])
	a.key = appendShardKey(a.key[:0], id)
	return a.b.Set(a.key, a.val, nil)
}

// buried says whether a blob has a tombstone.
func (a *applier) buried(h *header) (bool, error) {
	var t mark
	a.key = appendTombKey(a.key[:0], h.pg, h.slot, h.blob)
	return a.lookup(&t)
}

// mark stores a tombstone, fence or drop under a.key, unless the known one
// stays; size is that of the record.
func (a *applier) mark(m mark, size int64, from place, moved bool) (stored bool, err error) {
	var cur mark
	known, err := a.absent(&cur)
	switch {
	case err != nil:
		return false, err
	case known && cur.place == m.place && cur.seq == m.seq:
		return false, nil
	case known && !a.supersedes(m.seq, cur.seq, cur.place, from, moved), !known && moved:
		a.kill(m.place, size)
		return false, nil
	case known:
		a.kill(cur.place, size) // all three kinds are of one size
		m.done = m.done || cur.seq == m.seq && cur.done
	}
	a.val = m.append(a.val[:0])
	return true, a.b.Set(a.key, a.val, nil)
}

func (a *applier) tombstone(h *header, at place, size int64, from place, moved bool) error {
	a.s.mu.Lock()
	a.s.deadTo = later(a.s.deadTo, h.blob)
	a.s.mu.Unlock()
	a.key = appendTombKey(a.key[:0], h.pg, h.slot, h.blob)
	stored, err := a.mark(mark{place: at, seq: h.seq, value: uint64(h.timeMS)}, size, from, moved)
	if err != nil || !stored || moved {
		return err
	}
	a.key = appendGraceKey(a.key[:0], h.timeMS, h.pg, h.slot, h.blob)
	return a.b.Set(a.key, nil, nil)
}

func (a *applier) epoch(h *header, at place, size int64, from place, moved bool) error {
	a.key = appendSlotKey(a.key[:0], keyEpoch, h.pg, h.slot)
	_, err := a.mark(mark{place: at, seq: h.seq, value: uint64(h.epoch)}, size, from, moved)
	if a.replay && err == nil {
		a.s.mu.Lock()
		slot := slotKeyOf(h.pg, h.slot)
		a.s.fences[slot] = max(a.s.fences[slot], h.epoch)
		a.s.mu.Unlock()
	}
	return err
}

func (a *applier) drop(h *header, at place, size int64, from place, moved bool) error {
	a.key = appendDropKey(a.key[:0], h.pg, h.slot, h.seq)
	stored, err := a.mark(mark{place: at, seq: h.seq, value: uint64(h.epoch)}, size, from, moved)
	if err != nil || !stored || moved {
		return err
	}
	a.s.addDrop(slotKeyOf(h.pg, h.slot), drop{h.epoch, h.seq})
	a.s.purgeDue = true
	return nil
}

// addDrop has a drop hide shards from now on. applyMu is held.
func (s *Store) addDrop(k slotKey, d drop) {
	m := maps.Clone(*s.drops.Load())
	if !slices.Contains(m[k], d) {
		m[k] = append(slices.Clone(m[k]), d)
	}
	s.drops.Store(&m)
}

// eraseBlob removes the entries of a blob, whose grace is over.
func (a *applier) eraseBlob(pg uint32, slot uint8, blob storagenode.BlobID) error {
	low := append(appendBlobKey(nil, pg, slot, blob), 1)
	high := append(appendBlobKey(nil, pg, slot, blob), 2)
	return a.erase(low, high, 0, nil)
}

// erase removes the shards within [low, high) that gone says yes to (nil:
// all), at most limit (0: any number); the key after the last one seen is left
// in a.key.
func (a *applier) erase(low, high []byte, limit int, gone func(id storagenode.ShardID, e *entry) bool) error {
	b, err := a.reader()
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	it, err := b.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	var keys [][]byte
	a.key = append(a.key[:0], high...)
	seen := 0
	for ok := it.First(); ok; ok = it.Next() {
		if seen++; limit > 0 && seen > limit {
			a.key = append(a.key[:0], it.Key()...)
			break
		}
		id, isShard := parseShardKey(it.Key())
		var e entry
		if !isShard {
			continue
		}
		if err := e.decode(it.Value()); err != nil {
			_ = it.Close()
			return fmt.Errorf("index: %w", err)
		}
		if gone == nil || gone(id, &e) {
			keys = append(keys, bytes.Clone(it.Key()))
			a.kill(e.place, e.size())
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	for _, k := range keys {
		if err := a.b.Delete(k, nil); err != nil {
			return fmt.Errorf("index: %w", err)
		}
	}
	return nil
}

func parseShardKey(k []byte) (id storagenode.ShardID, ok bool) {
	if len(k) != shardKeySize || k[0] != keyBlob || k[blobKeySize] != 1 {
		return id, false
	}
	id.PG = storagenode.PG(binary.BigEndian.Uint32(k[1:]))
	id.Slot = k[5]
	id.Blob = storagenode.BlobID(k[6:22])
	id.Stripe = binary.BigEndian.Uint32(k[23:])
	return id, true
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

// buffer gives a pooled buffer of n bytes; its contents are arbitrary.
func buffer(n int64) *[]byte {
	b := buffers.Get().(*[]byte)
	if int64(cap(*b)) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return b
}
