package catalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
)

// Deletes owed come in three kinds of rows. owedBlob names one blob and the
// slots that have not acknowledged. owedList names the part lists of an object
// that is gone; its blobs are moved to rows of their own in bounded steps, by
// whoever scans, and the row says how far that is. owedParts names an upload
// that ended, completed or not: its part rows are cleared, and the blobs of
// those parts that did not become part of an object are owed. An upload's
// owedList waits for its owedParts, which needs the part lists.

// layoutBudget bounds the steps that one ScanOwed takes before it yields.
const layoutBudget = 512

// blobsPerStep is how many blobs one transaction moves: three writes each.
const blobsPerStep = 16

// ScanOwed implements metadata.Blobs: oldest by the birth of the blob. It
// first gives the blobs of whole layouts their rows, at most some thousand at
// a time; the rest comes with the next scan.
func (s *Blobs) ScanOwed(ctx context.Context) iter.Seq2[metadata.Owed, error] {
	return func(yield func(metadata.Owed, error) bool) {
		if err := s.expand(ctx, layoutBudget); err != nil {
			yield(metadata.Owed{}, err)
			return
		}
		from, to := []byte{famOwed, owedBlob}, []byte{famOwed, owedBlob + 1}
		for from != nil {
			pairs, next, err := s.e.page(ctx, s.e.kv, from, to, pageSize)
			if err != nil {
				yield(metadata.Owed{}, err)
				return
			}
			for _, p := range pairs {
				pg, id, ok := splitOwedKey(p.Key)
				if !ok {
					yield(metadata.Owed{}, fmt.Errorf("owed key %x: %w", p.Key, errRecord))
					return
				}
				o, err := decodeOwed(pg, id, p.Value)
				if !yield(o, err) || err != nil {
					return
				}
			}
			from = next
		}
	}
}

// IsOwed implements metadata.Blobs. A blob of a part list that is owed as a
// whole still has its record until it is given a row.
func (s *Blobs) IsOwed(ctx context.Context, pg storagenode.PG, id storagenode.BlobID) (bool, error) {
	v, err := s.e.get(ctx, "owed", new(arena).owedKey(pg, id))
	return v != nil, err
}

// Discharge implements metadata.Blobs, in as few transactions as their bounds
// allow.
func (s *Blobs) Discharge(ctx context.Context, owed []metadata.Owed, slots []erasure.SlotMask) error {
	for len(owed) > 0 {
		n := min(len(owed), kv.MaxTxnOps)
		err := s.e.update(ctx, "discharge", func(t *txn) error {
			if n > 1 {
				keys := make([][]byte, n)
				for i := range keys {
					keys[i] = t.owedKey(owed[i].PG, owed[i].Blob.ID)
				}
				if err := kv.Prefetch(ctx, t.Txn, keys...); err != nil {
					return err
				}
			}
			for i := range n {
				if err := discharge(ctx, t, owed[i].PG, owed[i].Blob.ID, slots[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		owed, slots = owed[n:], slots[n:]
	}
	return nil
}

func discharge(ctx context.Context, t *txn, pg storagenode.PG, id storagenode.BlobID, slots erasure.SlotMask) error {
	key := t.owedKey(pg, id)
	v, err := t.Get(ctx, key)
	if v == nil || err != nil {
		return err
	}
	o, err := decodeOwed(pg, id, v)
	if err != nil {
		return err
	}
	was := o.Pending
	if o.Pending &^= slots; o.Pending == 0 {
		t.Delete(key)
	} else if o.Pending != was {
		t.Put(key, encodeOwed(t.room(owedRecordSize), o))
	}
	return nil
}

// oweVersion owes the bytes of a version that goes a delete.
func (s *Blobs) oweVersion(ctx context.Context, t *txn, cur *current) error {
	since := s.e.now()
	if len(cur.manifest) > 0 {
		m, err := decodeManifest(cur.manifest)
		if err != nil {
			return err
		}
		row := owedLayout{since: since, chunks: len(m.chunks)}
		t.Put(t.owedUploadKey(owedList, m.upload), encodeOwedLayout(t.room(32), row))
	}
	return s.owe(ctx, t, cur.blobs, since)
}

// expand works off layouts that are owed as a whole, ended uploads first, in at
// most steps transactions.
func (s *Blobs) expand(ctx context.Context, steps int) error {
	for _, kind := range []byte{owedParts, owedList} {
		from, to := []byte{famOwed, kind}, []byte{famOwed, kind + 1}
		for from != nil && steps > 0 {
			pairs, next, err := s.e.page(ctx, s.e.kv, from, to, pageSize)
			if err != nil {
				return err
			}
			for _, p := range pairs {
				id := string(p.Key[min(3, len(p.Key)):])
				if kind == owedParts {
					steps, err = s.clearParts(ctx, id, steps)
				} else {
					steps, err = s.expandList(ctx, id, steps)
				}
				if errors.Is(err, errRecord) {
					// A list that cannot be read must not hold up the others.
					s.e.log.Error("deletes owed cannot be read", "upload", id, "err", err)
					continue
				}
				if err != nil || steps <= 0 {
					return err
				}
			}
			from = next
		}
	}
	return nil
}

// expandList moves the blobs of a part list to rows of their own.
func (s *Blobs) expandList(ctx context.Context, id string, steps int) (left int, err error) {
	for ; steps > 0; steps-- {
		done := false
		err := s.e.update(ctx, "expand deletes", func(t *txn) (err error) {
			done, err = s.expandStep(ctx, t, id)
			return err
		})
		if err != nil || done {
			return steps - 1, err
		}
	}
	return 0, nil
}

func (s *Blobs) expandStep(ctx context.Context, t *txn, id string) (done bool, err error) {
	row := t.owedUploadKey(owedList, id)
	v, err := t.Get(ctx, row)
	if v == nil || err != nil {
		return true, err
	}
	o, err := decodeOwedLayout(v)
	if err != nil {
		return true, err
	}
	// The parts of the upload are cleared by what the list says.
	if v, err = t.Get(ctx, t.owedUploadKey(owedParts, id)); v != nil || err != nil {
		return true, err
	}
	if o.chunk >= o.chunks {
		t.Delete(row)
		return true, nil
	}
	chunk := t.chunkKey(id, o.chunk)
	if v, err = t.Get(ctx, chunk); err != nil {
		return true, err
	}
	parts, err := decodeChunkOrNone(v)
	if err != nil {
		return true, fmt.Errorf("part list %s/%d: %w", id, o.chunk, err)
	}
	n := 0
	for ; o.index < len(parts); o.index++ {
		blobs := parts[o.index].blobs
		if n > 0 && n+len(blobs) > blobsPerStep {
			break
		}
		if err := s.owe(ctx, t, blobs, o.since); err != nil {
			return true, err
		}
		n += len(blobs)
	}
	if o.index >= len(parts) {
		t.Delete(chunk)
		o.chunk, o.index = o.chunk+1, 0
	}
	t.Put(row, encodeOwedLayout(t.room(32), o))
	return false, nil
}

func decodeChunkOrNone(v []byte) ([]listedPart, error) {
	if v == nil {
		return nil, nil
	}
	return decodeChunk(v)
}

// endUpload ends an upload within a transaction: its record goes, its parts
// and part lists are to be cleared.
func endUpload(ctx context.Context, t *txn, key []byte, id string, since time.Time) error {
	v, err := t.Get(ctx, key)
	if v == nil || err != nil {
		return err
	}
	t.Delete(key)
	t.Put(t.owedUploadKey(owedParts, id), encodeOwedLayout(t.room(32), owedLayout{since: since}))
	return nil
}

// clearParts clears the part rows of an ended upload: those in the part list
// just go, the blobs of the others are owed a delete. Then pieces of part
// lists that belong to no object go, at last the row itself.
func (s *Blobs) clearParts(ctx context.Context, id string, steps int) (left int, err error) {
	row := new(arena).owedUploadKey(owedParts, id)
	v, err := s.e.get(ctx, "owed parts", row)
	if v == nil || err != nil {
		return steps, err
	}
	o, err := decodeOwedLayout(v)
	if err != nil {
		return steps, err
	}
	named, err := s.listedNumbers(ctx, id, o.chunks)
	if err != nil {
		return steps, err
	}
	from := appendIDPrefix(nil, famPart, id)
	to := prefixEnd(from)
	for ; steps > 0; steps-- {
		pairs, _, err := s.e.page(ctx, s.e.kv, from, to, kv.MaxTxnOps-4)
		if err != nil {
			return steps, err
		}
		if len(pairs) == 0 {
			return s.clearLists(ctx, id, o.chunks, steps)
		}
		err = s.e.update(ctx, "clear parts", func(t *txn) error {
			return s.clearSome(ctx, t, row, pairs, named, o.since)
		})
		if err != nil {
			return steps, err
		}
	}
	return 0, nil
}

// clearSome clears as many of the parts as one transaction holds.
func (s *Blobs) clearSome(ctx context.Context, t *txn, row []byte, parts []kv.Pair, named map[int]bool, since time.Time) error {
	if v, err := t.Get(ctx, row); v == nil || err != nil {
		return err // somebody else is done already
	}
	ops := 0
	for _, p := range parts {
		number := partNumber(p.Key)
		if named[number] {
			if ops++; ops > kv.MaxTxnOps {
				return nil
			}
			t.Delete(p.Key)
			continue
		}
		v, err := t.Get(ctx, p.Key)
		if err != nil {
			return err
		}
		if v == nil {
			continue
		}
		part, err := decodePart(number, v)
		if err != nil {
			return fmt.Errorf("part %x: %w", p.Key, err)
		}
		if ops += 1 + 3*len(part.blobs); ops > kv.MaxTxnOps {
			return nil
		}
		t.Delete(p.Key)
		if err := s.owe(ctx, t, part.blobs, since); err != nil {
			return err
		}
	}
	return nil
}

// clearLists removes the pieces of part lists from number keep on, and then
// the owedParts row.
func (s *Blobs) clearLists(ctx context.Context, id string, keep, steps int) (left int, err error) {
	from := new(arena).chunkKey(id, keep)
	to := prefixEnd(appendIDPrefix(nil, famChunk, id))
	for ; steps > 0; steps-- {
		pairs, next, err := s.e.page(ctx, s.e.kv, from, to, kv.MaxTxnOps-4)
		if err != nil {
			return steps, err
		}
		err = s.e.update(ctx, "clear part lists", func(t *txn) error {
			for _, p := range pairs {
				t.Delete(p.Key)
			}
			if next == nil {
				t.Delete(t.owedUploadKey(owedParts, id))
			}
			return nil
		})
		if err != nil || next == nil {
			return steps - 1, err
		}
	}
	return 0, nil
}

// listedNumbers gives the numbers of the parts in a part list.
func (s *Blobs) listedNumbers(ctx context.Context, id string, chunks int) (map[int]bool, error) {
	named := make(map[int]bool)
	for i := range chunks {
		v, err := s.e.get(ctx, "part list", new(arena).chunkKey(id, i))
		if err != nil {
			return nil, err
		}
		parts, err := decodeChunkOrNone(v)
		if err != nil || v == nil {
			return nil, fmt.Errorf("part list %s/%d: %w", id, i, errRecord)
		}
		for _, p := range parts {
			named[p.number] = true
		}
	}
	return named, nil
}
