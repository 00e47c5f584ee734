package segment

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cespare/xxhash/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs/pebblefs"
)

// The high bits of a token name its incarnation: the Open it is of, so that no
// token outlives the process that could lose what it stands for, and how many
// groups were refused since, so that none outlives a staged record that found
// no space.
const (
	openBits        = 16
	refusalBits     = 8
	incarnationBits = openBits + refusalBits
	ticketBits      = 64 - incarnationBits
	ticketMask      = 1<<ticketBits - 1
)

// firstIncarnation is the incarnation of an Open; never 0.
func firstIncarnation(nextSeg uint64) uint64 {
	return max(1, nextSeg&(1<<openBits-1)) << refusalBits
}

// nextIncarnation is the one after a refused group.
func nextIncarnation(i uint64) uint64 {
	return i&^(1<<refusalBits-1) | (i+1)&(1<<refusalBits-1)
}

// writer is the scratch space of one append.
type writer struct {
	head []byte // header, attributes, sums
	pad  [recordAlign]byte
	key  []byte
}

var writers = sync.Pool{New: func() any { return &writer{head: make([]byte, 0, 1024), key: make([]byte, 0, 64)} }}

// Put implements storagenode.ShardStore. A small record is staged in memory, a
// larger one written on the caller's goroutine; a sick drive may hold it there.
func (s *Store) Put(ctx context.Context, sh storagenode.Shard) (storagenode.Token, error) {
	if err := s.checkShard(&sh); err != nil {
		return 0, err
	}
	place, err := s.gate.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer s.gate.leave(place)
	h := headerOf(&sh)
	w := writers.Get().(*writer)
	defer writers.Put(w)
	if err := w.fill(&sh, s.cfg.TrustSums); err != nil {
		return 0, err
	}
	for {
		token, err := s.putOnce(ctx, &h, w, sh.Payload)
		switch {
		case err == nil:
			return token, nil
		case errors.Is(err, errRetry):
		case errors.Is(err, errBehind):
			if err := s.syncAll(ctx); err != nil {
				return 0, fmt.Errorf("put: %w", err)
			}
		case errors.Is(err, storagenode.ErrReadOnly) && s.spaceStale():
			s.checkSpace()
			if s.readOnly.Load() {
				return 0, fmt.Errorf("put: %w", err)
			}
		default:
			return 0, fmt.Errorf("put: %w", err)
		}
	}
}

func headerOf(sh *storagenode.Shard) header {
	h := header{
		typ: uint8(typeShard), k: sh.K, m: sh.M, slot: sh.ID.Slot,
		pg: uint32(sh.ID.PG), blob: sh.ID.Blob, stripe: sh.ID.Stripe, epoch: sh.SlotEpoch,
		attrLen: uint32(len(sh.Attrs)), payloadLen: uint32(len(sh.Payload)),
		stripeLen: sh.StripeLen, stripeHash: sh.StripeHash,
	}
	if sh.Last {
		h.flags = flagLast
	}
	return h
}

func (s *Store) putOnce(ctx context.Context, h *header, w *writer, payload []byte) (storagenode.Token, error) {
	token, err := s.append(ctx, h, w, payload, notLooked, nil)
	if !errors.Is(err, errLook) {
		return token, err
	}
	gen := s.deadGen.Load()
	if deleted, err := s.isDeleted(h, w); err != nil {
		return 0, err
	} else if deleted {
		return 0, storagenode.ErrDeleted
	}
	return s.append(ctx, h, w, payload, gen, nil)
}

// append writes a record whose head is filled; it returns its token.
func (s *Store) append(ctx context.Context, h *header, w *writer, payload []byte, gen uint64, from *place) (storagenode.Token, error) {
	size := h.size()
	if from == nil {
		h.timeMS = s.cfg.Clock.Now().UnixMilli()
	}
	h.bodyHash = xxhash.Sum64(w.head[headerSize:])
	if size <= stageMax && s.staged.Load() < stageBudget {
		return s.stage(h, w, payload, gen, from, size)
	}
	b, err := s.takeWriter(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { s.large <- b }()
	r, err := s.reserve(h, size, gen, from, nil)
	if err != nil {
		return 0, err
	}
	h.encode(w.head, r.seg.bind, r.off)
	b.begin(r.seg, r.off, recordBuffer)
	err = b.add(w.head)
	for _, p := range [][]byte{payload, w.pad[:size-int64(len(w.head)+len(payload))]} {
		if err == nil {
			err = b.add(p)
		}
	}
	if err == nil {
		err = b.pad(r.pad)
	}
	if err == nil {
		err = b.flush()
	}
	return r.token(), s.wrote(r, size, err)
}

// fill lays out header space, attributes and sums.
func (w *writer) fill(sh *storagenode.Shard, trust bool) error {
	w.head = append(w.head[:0], make([]byte, headerSize)...)
	w.head = append(w.head, sh.Attrs...)
	payload := sh.Payload
	for i := 0; len(payload) > 0; i++ {
		n := min(storagenode.SumBlock, len(payload))
		var sum uint64
		if sh.Sums == nil || !trust {
			sum = storagenode.BlockSum(payload[:n])
		}
		if sh.Sums != nil {
			if !trust && sum != sh.Sums[i] {
				return fmt.Errorf("put: block %d does not match its sum: %w", i, storagenode.ErrCorrupt)
			}
			sum = sh.Sums[i]
		}
		w.head = binary.LittleEndian.AppendUint64(w.head, sum)
		payload = payload[n:]
	}
	return nil
}

// checkShard refuses what the format cannot hold.
func (s *Store) checkShard(sh *storagenode.Shard) error {
	switch {
	case len(sh.Payload) > storagenode.MaxPayload, len(sh.Attrs) > storagenode.MaxAttrs:
		return fmt.Errorf("put: payload of %d, attributes of %d bytes: %w", len(sh.Payload), len(sh.Attrs), storagenode.ErrTooLarge)
	case sh.Sums != nil && len(sh.Sums) != storagenode.SumCount(len(sh.Payload)):
		return fmt.Errorf("put: %d sums for %d bytes: %w", len(sh.Sums), len(sh.Payload), storagenode.ErrCorrupt)
	}
	return nil
}

// isDeleted looks for a tombstone of the record's blob in the index.
func (s *Store) isDeleted(h *header, w *writer) (bool, error) {
	x := s.index()
	if x == nil {
		return false, errClosed
	}
	defer x.release()
	w.key = appendTombKey(w.key[:0], h.pg, h.slot, h.blob)
	var t mark
	deleted, err := pebblefs.Lookup(x.db, w.key, t.decode)
	if err != nil {
		return false, s.indexErr(x, err)
	}
	return deleted, nil
}
