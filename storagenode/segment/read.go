package segment

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode"
)

// readWhole is the payload up to which one pread brings header and blocks.
const readWhole = 128 << 10

// readAttempts is how often a read follows a record that compaction moves.
const readAttempts = 16

// sumCache keeps the verified sums of records that were read lately, by place.
type sumCache [256]atomic.Pointer[cachedSums]

type cachedSums struct {
	place
	seq  uint64
	sums []byte
}

func (c *sumCache) slot(at place) *atomic.Pointer[cachedSums] {
	return &c[(uint64(at.off)/recordAlign*0x9e3779b97f4a7c15+at.segment*0xc2b2ae3d27d4eb4f)>>56]
}

// ReadAt implements storagenode.ShardStore. It reads on the caller's
// goroutine.
func (s *Store) ReadAt(ctx context.Context, id storagenode.ShardID, off int64, p []byte) (int, error) {
	i, err := s.enterRead(ctx)
	if err != nil {
		return 0, err
	}
	defer s.gate.leave(i)
	for range readAttempts {
		e, err := s.find(id)
		if err != nil {
			return 0, fmt.Errorf("read: %w", err)
		}
		n, err := s.readEntry(id, &e, off, p)
		if !errors.Is(err, errRetry) {
			return n, err
		}
	}
	return 0, fmt.Errorf("read: the segment is gone: %w", storagenode.ErrCorrupt)
}

// enterRead takes a place for a read.
func (s *Store) enterRead(ctx context.Context) (int, error) {
	if s.noReads.Load() {
		return 0, s.brokenErr()
	}
	return s.gate.enter(ctx)
}

// find looks a shard up in the index.
func (s *Store) find(id storagenode.ShardID) (e entry, err error) {
	x := s.index()
	if x == nil {
		return e, errClosed
	}
	defer x.release()
	b := buffer(0)
	defer buffers.Put(b)
	*b = appendShardKey(*b, id)
	known, err := lookup(x.db, *b, &e)
	if err != nil {
		return e, s.indexErr(x, err)
	}
	if !known || s.dropped(uint32(id.PG), id.Slot, e.epoch, e.seq) {
		return e, storagenode.ErrNotFound
	}
	return e, nil
}

// readEntry reads from the place the index named; errRetry where the segment
// is gone meanwhile.
func (s *Store) readEntry(id storagenode.ShardID, e *entry, off int64, p []byte) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read: offset %d is negative", off)
	}
	g := s.segment(e.segment)
	if g == nil {
		return 0, errRetry
	}
	defer g.release()
	want := min(int64(len(p)), int64(e.payloadLen)-off)
	if want <= 0 {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	var err error
	if e.payloadLen <= readWhole {
		err = s.readSmall(g, id, e, off, p[:want])
	} else {
		err = s.readLarge(g, id, e, off, p[:want])
	}
	switch {
	case err != nil:
		return 0, s.readErr(id, e, err)
	case want < int64(len(p)):
		return int(want), io.EOF
	}
	return int(want), nil
}

// readErr gives a failed read or check its meaning.
func (s *Store) readErr(id storagenode.ShardID, e *entry, err error) error {
	what := fmt.Errorf("read blob %s stripe %d at %d of segment %d: %w", id.Blob, id.Stripe, e.off, e.segment, err)
	switch {
	case errors.Is(err, errNoRecord), errors.Is(err, errBadBody), errors.Is(err, errBadPayload),
		errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: %w", storagenode.ErrCorrupt, what)
	}
	return s.readFailed(what)
}

// checkHeader verifies that p begins with the record the index means.
func checkHeader(g *segFile, id storagenode.ShardID, e *entry, p []byte, h *header) error {
	if err := h.decode(p, g.bind, e.off); err != nil {
		return err
	}
	if recordType(h.typ) != typeShard || h.seq != e.seq || h.shardID() != id ||
		h.attrLen != e.attrLen || h.payloadLen != e.payloadLen {
		return fmt.Errorf("another record is there: %w", errNoRecord)
	}
	return nil
}

// readSmall reads the record up to the last block touched.
func (s *Store) readSmall(g *segFile, id storagenode.ShardID, e *entry, off int64, p []byte) error {
	l := layoutOf(int(e.attrLen), int(e.payloadLen))
	last := min(int64(e.payloadLen), (off+int64(len(p))+storagenode.SumBlock-1)/storagenode.SumBlock*storagenode.SumBlock)
	b := buffer(l.payload + last)
	defer buffers.Put(b)
	rec := *b
	if err := readFull(g.f, rec, e.off); err != nil {
		return err
	}
	var h header
	if err := checkHeader(g, id, e, rec, &h); err != nil {
		return err
	}
	if err := h.verifyBody(rec[headerSize:]); err != nil {
		return err
	}
	payload, sums := rec[l.payload:], rec[l.sums:]
	for i := off / storagenode.SumBlock; i*storagenode.SumBlock < last; i++ {
		block := payload[i*storagenode.SumBlock : min(last, (i+1)*storagenode.SumBlock)]
		if storagenode.BlockSum(block) != binary.LittleEndian.Uint64(sums[8*i:]) {
			return fmt.Errorf("block %d: %w", i, errBadPayload)
		}
	}
	copy(p, payload[off:])
	return nil
}

// readLarge reads only the blocks touched, whole ones straight into p.
func (s *Store) readLarge(g *segFile, id storagenode.ShardID, e *entry, off int64, p []byte) error {
	sums, err := s.sumsOf(g, id, e)
	if err != nil {
		return err
	}
	start := e.off + layoutOf(int(e.attrLen), int(e.payloadLen)).payload
	var edge *[]byte
	for len(p) > 0 {
		i := off / storagenode.SumBlock
		from := i * storagenode.SumBlock
		size := min(storagenode.SumBlock, int64(e.payloadLen)-from)
		if off == from && int64(len(p)) >= size {
			// As many blocks as p holds wholly, with one read.
			n := int64(len(p)) / storagenode.SumBlock * storagenode.SumBlock
			if from+int64(len(p)) == int64(e.payloadLen) {
				n = int64(len(p)) // the short last one too
			}
			if err := readFull(g.f, p[:n], start+from); err != nil {
				return err
			}
			if err := verifyBlocks(p[:n], sums, i); err != nil {
				return err
			}
			p, off = p[n:], off+n
			continue
		}
		if edge == nil {
			edge = buffer(storagenode.SumBlock)
			defer buffers.Put(edge)
		}
		block := (*edge)[:size]
		if err := readFull(g.f, block, start+from); err != nil {
			return err
		}
		if err := verifyBlocks(block, sums, i); err != nil {
			return err
		}
		n := copy(p, block[off-from:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// verifyBlocks checks p, which begins with block i, against the sums.
func verifyBlocks(p, sums []byte, i int64) error {
	for ; len(p) > 0; i++ {
		n := min(storagenode.SumBlock, len(p))
		if storagenode.BlockSum(p[:n]) != binary.LittleEndian.Uint64(sums[8*i:]) {
			return fmt.Errorf("block %d: %w", i, errBadPayload)
		}
		p = p[n:]
	}
	return nil
}

// sumsOf gives the verified sums of a record.
func (s *Store) sumsOf(g *segFile, id storagenode.ShardID, e *entry) ([]byte, error) {
	slot := s.sums.slot(e.place)
	if c := slot.Load(); c != nil && c.place == e.place && c.seq == e.seq {
		return c.sums, nil
	}
	l := layoutOf(int(e.attrLen), int(e.payloadLen))
	b := buffer(l.payload)
	defer buffers.Put(b)
	if err := s.readHead(g, id, e, *b); err != nil {
		return nil, err
	}
	c := &cachedSums{e.place, e.seq, bytes.Clone((*b)[l.sums:])}
	slot.Store(c)
	return c.sums, nil
}

// readHead reads and verifies header, attributes and sums into head, which is
// as long as they are.
func (s *Store) readHead(g *segFile, id storagenode.ShardID, e *entry, head []byte) error {
	if err := readFull(g.f, head, e.off); err != nil {
		return err
	}
	var h header
	if err := checkHeader(g, id, e, head, &h); err != nil {
		return err
	}
	return h.verifyBody(head[headerSize:])
}

// Stat implements storagenode.ShardStore.
func (s *Store) Stat(ctx context.Context, id storagenode.ShardID) (storagenode.ShardInfo, error) {
	i, err := s.enterRead(ctx)
	if err != nil {
		return storagenode.ShardInfo{}, err
	}
	defer s.gate.leave(i)
	w := writers.Get().(*writer)
	defer writers.Put(w)
	deleted, err := s.isDeleted(&header{pg: uint32(id.PG), slot: id.Slot, blob: id.Blob}, w)
	if err == nil && deleted {
		err = storagenode.ErrNotFound
	}
	if err != nil {
		return storagenode.ShardInfo{}, fmt.Errorf("stat: %w", err)
	}
	for range readAttempts {
		e, err := s.find(id)
		if err != nil {
			return storagenode.ShardInfo{}, fmt.Errorf("stat: %w", err)
		}
		if g := s.segment(e.segment); g != nil {
			if g.lost.Load() { // it can be read for now, but will not be there after a restart
				g.release()
				break
			}
			return s.statEntry(g, id, &e)
		}
	}
	return storagenode.ShardInfo{}, fmt.Errorf("stat: the segment is gone: %w", storagenode.ErrCorrupt)
}

// statEntry describes an entry from its record; it releases g.
func (s *Store) statEntry(g *segFile, id storagenode.ShardID, e *entry) (storagenode.ShardInfo, error) {
	defer g.release()
	l := layoutOf(int(e.attrLen), int(e.payloadLen))
	b := buffer(l.payload)
	defer buffers.Put(b)
	if err := s.readHead(g, id, e, *b); err != nil {
		return storagenode.ShardInfo{}, s.readErr(id, e, err)
	}
	info := e.info(id)
	if e.attrLen > 0 {
		info.Attrs = bytes.Clone((*b)[headerSize:l.sums])
	}
	return info, nil
}

// listChunk is how many keys are read from the index at a time.
const listChunk = 512

// List implements storagenode.ShardStore. Shards that come or go while it runs
// may or may not be seen.
func (s *Store) List(ctx context.Context, pg storagenode.PG, slot int, after storagenode.BlobID) iter.Seq2[storagenode.ShardInfo, error] {
	return func(yield func(storagenode.ShardInfo, error) bool) {
		if slot < 0 || slot >= storagenode.MaxSlots {
			yield(storagenode.ShardInfo{}, fmt.Errorf("list: slot %d: %w", slot, storagenode.ErrNotFound))
			return
		}
		c := listCursor{s: s, pg: uint32(pg), slot: uint8(slot)}
		c.low = append(appendBlobKey(nil, c.pg, c.slot, after), 2)
		if after == (storagenode.BlobID{}) {
			c.low = appendSlotKey(nil, keyBlob, c.pg, c.slot)
		}
		c.high = keyAfter(appendSlotKey(nil, keyBlob, c.pg, c.slot))
		if err := s.lookLately(ctx); err != nil {
			yield(storagenode.ShardInfo{}, fmt.Errorf("list: %w", err))
			return
		}
		for c.low != nil {
			if err := c.fill(ctx); err != nil {
				yield(storagenode.ShardInfo{}, fmt.Errorf("list: %w", err))
				return
			}
			for i := range c.found {
				if !yield(c.found[i], nil) {
					return
				}
			}
		}
	}
}

// keyAfter is the least key above all that begin with p. p ends before 0xff.
func keyAfter(p []byte) []byte {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i]++; p[i] != 0 {
			return p[:i+1]
		}
	}
	return nil
}

// listCursor walks a slot in chunks, each under its own hold on the index.
type listCursor struct {
	s         *Store
	pg        uint32
	slot      uint8
	low, high []byte // low nil: done
	buried    storagenode.BlobID
	isBuried  bool
	found     []storagenode.ShardInfo
}

func (c *listCursor) fill(ctx context.Context) error {
	c.found = c.found[:0]
	i, err := c.s.enterRead(ctx)
	if err != nil {
		return err
	}
	defer c.s.gate.leave(i)
	x := c.s.index()
	if x == nil {
		return errClosed
	}
	defer x.release()
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: c.low, UpperBound: c.high})
	if err != nil {
		return c.s.indexErr(x, err)
	}
	defer func() { _ = it.Close() }() // Error was asked
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n > listChunk {
			c.low = bytes.Clone(it.Key())
			return nil
		}
		if err := c.see(it.Key(), it.Value()); err != nil {
			return c.s.indexErr(x, err)
		}
	}
	c.low = nil
	if err := it.Error(); err != nil {
		return c.s.indexErr(x, err)
	}
	return nil
}

func (c *listCursor) see(k, v []byte) error {
	if len(k) == tombKeySize {
		c.buried, c.isBuried = storagenode.BlobID(k[slotKeySize:blobKeySize]), true
		return nil
	}
	id, ok := parseShardKey(k)
	if !ok {
		return errIndexValue
	}
	var e entry
	if err := e.decode(v); err != nil {
		return err
	}
	if c.isBuried && id.Blob == c.buried || c.s.dropped(c.pg, c.slot, e.epoch, e.seq) {
		return nil
	}
	if c.s.present(id, e) {
		c.found = append(c.found, e.info(id))
	}
	return nil
}
