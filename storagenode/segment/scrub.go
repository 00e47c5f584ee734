package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode"
)

// Scrub implements storagenode.Drive. It goes by the index, so that it also
// finds records whose header is gone.
func (s *Store) Scrub(ctx context.Context, bytesPerSecond int64, damaged func(storagenode.ShardID, error)) (storagenode.ScrubReport, error) {
	var rep storagenode.ScrubReport
	started := s.cfg.Clock.Now()
	b := scrubber{s: s, low: []byte{keyBlob}}
	for b.low != nil {
		if err := b.fill(ctx); err != nil {
			return rep, fmt.Errorf("scrub: %w", err)
		}
		for i := range b.found {
			id, size := b.found[i].id, b.found[i].e.size()
			rep.Records++
			rep.Bytes += size
			if err := s.scrubOne(ctx, id); errors.Is(err, storagenode.ErrCorrupt) {
				rep.Corrupt = append(rep.Corrupt, id)
				if damaged != nil {
					damaged(id, err)
				}
			} else if err != nil && !errors.Is(err, storagenode.ErrNotFound) {
				return rep, fmt.Errorf("scrub: %w", err)
			}
			if bytesPerSecond <= 0 {
				continue
			}
			due := time.Duration(float64(rep.Bytes) / float64(bytesPerSecond) * float64(time.Second))
			if ahead := due - s.cfg.Clock.Now().Sub(started); ahead > 20*time.Millisecond {
				if err := s.cfg.Clock.Sleep(ctx, ahead); err != nil {
					return rep, err
				}
			}
		}
	}
	return rep, nil
}

type scrubItem struct {
	id storagenode.ShardID
	e  entry
}

// scrubber walks all entries in chunks, each under its own hold on the index.
type scrubber struct {
	s     *Store
	low   []byte // nil: done
	found []scrubItem
}

func (b *scrubber) fill(ctx context.Context) error {
	b.found = b.found[:0]
	i, err := b.s.enterRead(ctx)
	if err != nil {
		return err
	}
	defer b.s.gate.leave(i)
	x := b.s.index()
	if x == nil {
		return errClosed
	}
	defer x.release()
	var next []byte
	err = b.s.walkShards(x, b.low, func(key []byte, id storagenode.ShardID, e entry) bool {
		if len(b.found) == listChunk {
			next = bytes.Clone(key) // a tombstone may be before it: scrubOne would only do too much
			return false
		}
		b.found = append(b.found, scrubItem{id: id, e: e})
		return true
	})
	if err == nil {
		b.low = next
	}
	return err
}

// walkShards goes through the shards of the index, from a key on, that are not
// deleted, as long as each says so. The key is valid until each returns.
func (s *Store) walkShards(x *index, from []byte, each func(key []byte, id storagenode.ShardID, e entry) bool) error {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{keyBlob + 1}})
	if err != nil {
		return s.indexErr(x, err)
	}
	defer func() { _ = it.Close() }() // Error was asked
	var buried []byte
	for ok := it.First(); ok; ok = it.Next() {
		if len(it.Key()) == tombKeySize {
			buried = append(buried[:0], it.Key()[:blobKeySize]...)
			continue
		}
		id, isShard := parseShardKey(it.Key())
		if !isShard || len(buried) > 0 && bytes.HasPrefix(it.Key(), buried) {
			continue
		}
		var e entry
		if err := e.decode(it.Value()); err != nil {
			return s.indexErr(x, err)
		}
		if !each(it.Key(), id, e) {
			return nil
		}
	}
	return s.indexErr(x, it.Error())
}

// scrubOne reads and verifies all of a shard's record.
func (s *Store) scrubOne(ctx context.Context, id storagenode.ShardID) error {
	i, err := s.enterRead(ctx)
	if err != nil {
		return err
	}
	defer s.gate.leave(i)
	for range readAttempts {
		e, err := s.find(id)
		if err != nil {
			return err
		}
		g := s.segment(e.segment)
		if g == nil {
			continue
		}
		h := header{
			seq: e.seq, pg: uint32(id.PG), slot: id.Slot, blob: id.Blob, stripe: id.Stripe,
			attrLen: e.attrLen, payloadLen: e.payloadLen,
		}
		h.typ = uint8(typeShard)
		err = verifyRecord(g, e.off, &h)
		g.release()
		if err != nil {
			return s.readErr(id, &e, err)
		}
		return nil
	}
	return fmt.Errorf("the segment is gone: %w", storagenode.ErrCorrupt)
}
