package catalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
)

// Blobs keeps what every slot should hold (famBlob), what of it is known to be
// missing (famDamage), and the deletes owed (famOwed).
//
// A damage row stands exactly where a blob's Missing is not empty, under the
// margin that follows from it; both change in one transaction. A blob has
// either a record here or an owed row or neither, never both.
type Blobs struct {
	e       *engine
	groups  *Groups
	deleted func(storagenode.BlobID)
	below   func(horizon storagenode.BlobID)
}

// pageSize is how many rows a scan of the repairer copies at a time.
const pageSize = 256

// maxBlobs bounds the blobs of one object or part that is committed in one
// transaction, together with those it replaces.
const maxBlobs = 8

// errTooManyBlobs refuses what does not fit in one transaction.
var errTooManyBlobs = fmt.Errorf("more than %d blobs in one upload", maxBlobs)

// prefetch reads ahead, together with other keys, what admit will read.
func (s *Blobs) prefetch(ctx context.Context, t *txn, blobs []metadata.Written, others ...[]byte) error {
	if _, ok := t.Txn.(kv.Prefetcher); !ok {
		return nil
	}
	keys := append(others, t.formatKey(fmtHorizon))
	for i := range blobs {
		keys = append(keys, t.owedKey(blobs[i].Group.PG, blobs[i].Blob.ID), t.groupKey(blobs[i].Group.PG))
	}
	return kv.Prefetch(ctx, t.Txn, keys...)
}

// guess has a transaction go without reading: the known keys and what admit reads of
// groups and the horizon are as they were seen last, and the absent ones are not
// there, nor are deletes of the blobs owed.
func (s *Blobs) guess(t *txn, blobs []metadata.Written, known, absent []byte) bool {
	g, ok := t.Txn.(kv.Guesser)
	if !ok {
		return false
	}
	keys, none := [][]byte{known, t.formatKey(fmtHorizon)}, [][]byte{absent}
	for i := range blobs {
		keys = append(keys, t.groupKey(blobs[i].Group.PG))
		none = append(none, t.owedKey(blobs[i].Group.PG, blobs[i].Blob.ID))
	}
	return g.Guess(keys, none)
}

// admit checks within a transaction that blobs may be committed: their ids are
// not below the horizon and not owed, and enough of their slots are where they
// were written to. It returns what is missing of each.
func (s *Blobs) admit(ctx context.Context, t *txn, blobs []metadata.Written, missing []erasure.SlotMask) error {
	if len(blobs) == 0 {
		return nil
	}
	v, err := t.Get(ctx, t.formatKey(fmtHorizon))
	if err != nil {
		return err
	}
	horizon, err := decodeHorizon(v)
	if err != nil {
		return err
	}
	for i := range blobs {
		w := &blobs[i]
		if w.Blob.ID.Compare(horizon) < 0 {
			s.below(horizon)
			return fmt.Errorf("blob %s is below the horizon: %w", w.Blob.ID, metadata.ErrStalePlacement)
		}
		if v, err = t.Get(ctx, t.owedKey(w.Group.PG, w.Blob.ID)); err != nil {
			return err
		}
		if v != nil {
			return fmt.Errorf("blob %s is owed a delete: %w", w.Blob.ID, metadata.ErrStalePlacement)
		}
		if v, err = t.Get(ctx, t.groupKey(w.Group.PG)); err != nil {
			return err
		}
		g, err := s.groups.parsed(w.Group.PG, v)
		if err != nil {
			return err
		}
		if missing[i], err = stale(w, g); err != nil {
			return err
		}
	}
	return nil
}

// stale gives the slots of a written blob that are missing, counting those
// that were mapped to another drive since.
func stale(w *metadata.Written, g *metadata.GroupRecord) (erasure.SlotMask, error) {
	if w.Blob.Slots&^erasure.AllSlots(len(g.Slots)) != 0 || len(w.Group.Slots) != len(g.Slots) {
		return 0, fmt.Errorf("blob %s: slots %b of group %d: %w", w.Blob.ID, w.Blob.Slots, g.PG, metadata.ErrStalePlacement)
	}
	missing := w.Blob.Missing & w.Blob.Slots
	for i := range g.Slots {
		if g.Slots[i].Epoch != w.Group.Slots[i].Epoch || g.Slots[i].Drive != w.Group.Slots[i].Drive {
			missing = missing.With(i) & w.Blob.Slots
		}
	}
	least := g.Scheme.MinShards()
	if w.Blob.Mode == erasure.Replicated {
		least = g.Scheme.MinReplicas()
	}
	if live := bits.OnesCount32(uint32(w.Blob.Slots &^ missing)); live < least {
		return 0, fmt.Errorf("blob %s: %d of %d shards left: %w", w.Blob.ID, live, least, metadata.ErrStalePlacement)
	}
	return missing, nil
}

// record writes the records of admitted blobs.
func (s *Blobs) record(t *txn, blobs []metadata.Written, missing []erasure.SlotMask, o *owner) {
	for i := range blobs {
		w := &blobs[i]
		b := w.Blob
		b.Missing = missing[i]
		t.Put(t.blobKey(w.Group.PG, b.ID), encodeBlob(t.room(blobRecordSize(o)), b, o))
		if b.Missing != 0 {
			t.Put(t.damageKey(marginOf(b, w.Group.Scheme), w.Group.PG, b.ID), damageValue(t))
		}
	}
}

// damageValue fills a row that says everything by its key.
func damageValue(t *txn) []byte { return append(t.room(1), recordV1) }

func marginOf(b erasure.Blob, s erasure.Scheme) int {
	return metadata.BlobRecord{Located: metadata.Located{Blob: b}}.Margin(s)
}

// owe takes the records of blobs away within a transaction and writes down
// that their delete is owed.
func (s *Blobs) owe(ctx context.Context, t *txn, blobs []metadata.Located, since time.Time) error {
	if len(blobs) > 1 {
		keys := make([][]byte, len(blobs))
		for i := range blobs {
			keys[i] = t.blobKey(blobs[i].PG, blobs[i].Blob.ID)
		}
		if err := kv.Prefetch(ctx, t.Txn, keys...); err != nil {
			return err
		}
	}
	for i := range blobs {
		l := &blobs[i]
		key := t.blobKey(l.PG, l.Blob.ID)
		v, err := t.Get(ctx, key)
		if err != nil {
			return err
		}
		b := l.Blob
		if v != nil {
			if b, err = decodeBlob(v, l.Blob.ID, nil); err != nil {
				return err
			}
			t.Delete(key)
			if b.Missing != 0 {
				scheme, err := s.groups.scheme(ctx, l.PG)
				if err != nil {
					return err
				}
				t.Delete(t.damageKey(marginOf(b, scheme), l.PG, l.Blob.ID))
			}
		}
		putOwed(t, l.PG, b, since)
		s.deleted(b.ID)
	}
	return nil
}

func putOwed(t *txn, pg storagenode.PG, b erasure.Blob, since time.Time) {
	o := metadata.Owed{Located: metadata.Located{PG: pg, Blob: b}, Since: since, Pending: b.Slots}
	t.Put(t.owedKey(pg, b.ID), encodeOwed(t.room(owedRecordSize), o))
}

// resolve finds out whether a transaction that was to record the blobs was
// committed: where the first has a record or is owed a delete, it was (and
// what it wrote may have been replaced since). Otherwise it sees to it that it
// never will be: it asserts that there is no record and owes the blobs a
// delete, and writes every key the lost transaction would have to.
func (s *Blobs) resolve(ctx context.Context, blobs []metadata.Written) (committed bool, err error) {
	abandoned := false // an attempt to abandon them may have been committed
	for range maxAttempts {
		trace, err := s.tryResolve(ctx, blobs)
		switch {
		case err == nil:
			return trace == traceRecord || trace == traceOwed && !abandoned, nil
		case errors.Is(err, kv.ErrUnknown):
			abandoned = true
		case !errors.Is(err, kv.ErrConflict):
			return false, err
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	return false, kv.ErrConflict
}

// What metadata knows of a blob.
const (
	traceNone = iota
	traceRecord
	traceOwed
)

// tryResolve finds a trace of the blobs, or abandons them in a transaction.
func (s *Blobs) tryResolve(ctx context.Context, blobs []metadata.Written) (trace int, err error) {
	t, err := s.e.begin(ctx)
	if err != nil {
		return traceNone, err
	}
	pg, id := blobs[0].Group.PG, blobs[0].Blob.ID
	if v, err := t.Get(ctx, t.blobKey(pg, id)); v != nil || err != nil {
		return traceRecord, err
	}
	if v, err := t.Get(ctx, t.owedKey(pg, id)); v != nil || err != nil {
		return traceOwed, err
	}
	for i := range blobs {
		w := &blobs[i]
		t.Delete(t.blobKey(w.Group.PG, w.Blob.ID))
		putOwed(t, w.Group.PG, w.Blob, s.e.now())
		s.deleted(w.Blob.ID)
	}
	return traceNone, t.Commit(ctx)
}

// settleUnknown ends a mutation whose commit had an unknown outcome: nil where
// it took place, else ErrUnavailable. It is bounded by resolveTime, and goes on
// where the request is over already.
func (s *Blobs) settleUnknown(ctx context.Context, op string, blobs []metadata.Written) error {
	if len(blobs) == 0 {
		return fmt.Errorf("%s: %w: outcome unknown", op, metadata.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTime)
	defer cancel()
	committed, err := s.resolve(ctx, blobs)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w: outcome unknown: %w", op, metadata.ErrUnavailable, err)
	case !committed:
		return fmt.Errorf("%s: %w: the commit did not take place", op, metadata.ErrUnavailable)
	}
	return nil
}

func (s *Blobs) decode(pg storagenode.PG, id storagenode.BlobID, value []byte) (metadata.BlobRecord, error) {
	var o owner
	b, err := decodeBlob(value, id, &o)
	if err != nil {
		return metadata.BlobRecord{}, fmt.Errorf("blob %s of group %d: %w", id, pg, err)
	}
	return metadata.BlobRecord{Located: metadata.Located{PG: pg, Blob: b}, Owner: o.kind, Bucket: o.bucket,
		Key: o.key, Upload: o.upload, Part: o.part}, nil
}

// Blob implements metadata.Blobs.
func (s *Blobs) Blob(ctx context.Context, pg storagenode.PG, id storagenode.BlobID) (*metadata.BlobRecord, error) {
	v, err := s.e.get(ctx, "blob", new(arena).blobKey(pg, id))
	if v == nil || err != nil {
		return nil, err
	}
	r, err := s.decode(pg, id, v)
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// ScanBlobs implements metadata.Blobs. It reads pages: what changes while the
// scan is under way is seen or not.
func (s *Blobs) ScanBlobs(ctx context.Context, pg storagenode.PG, after storagenode.BlobID) iter.Seq2[metadata.BlobRecord, error] {
	return func(yield func(metadata.BlobRecord, error) bool) {
		from := new(arena).blobKey(pg, after)
		to := prefixEnd(from[:5])
		if after != (storagenode.BlobID{}) {
			from = append(from, 0)
		}
		for from != nil {
			pairs, next, err := s.e.page(ctx, s.e.kv, from, to, pageSize)
			if err != nil {
				yield(metadata.BlobRecord{}, err)
				return
			}
			for _, p := range pairs {
				_, id, ok := splitBlobKey(p.Key)
				if !ok {
					yield(metadata.BlobRecord{}, fmt.Errorf("blob key %x: %w", p.Key, errRecord))
					return
				}
				r, err := s.decode(pg, id, p.Value)
				if !yield(r, err) || err != nil {
					return
				}
			}
			from = next
		}
	}
}

// MarkMissing implements metadata.Blobs.
func (s *Blobs) MarkMissing(ctx context.Context, pg storagenode.PG, id storagenode.BlobID, slots erasure.SlotMask) error {
	err := s.change(ctx, "mark missing", pg, id, func(b *erasure.Blob) { b.Missing |= slots & b.Slots }, nil)
	if errors.Is(err, metadata.ErrNoSuchBlob) {
		return nil
	}
	return err
}

// MarkPresent implements metadata.Blobs. Where metadata does not know the blob
// any more it answers ErrNoSuchBlob: what was written back must go again.
func (s *Blobs) MarkPresent(ctx context.Context, g erasure.Group, id storagenode.BlobID, slots erasure.SlotMask) error {
	return s.change(ctx, "mark present", g.PG, id, func(b *erasure.Blob) { b.Missing &^= slots },
		func(t *txn) error {
			v, err := t.Get(ctx, t.groupKey(g.PG))
			if err != nil {
				return err
			}
			now, err := s.groups.parsed(g.PG, v)
			if err != nil {
				return err
			}
			for i := range storagenode.MaxSlots {
				if !slots.Has(i) {
					continue
				}
				if i >= len(now.Slots) || i >= len(g.Slots) || now.Slots[i].Epoch != g.Slots[i].Epoch ||
					now.Slots[i].Drive != g.Slots[i].Drive {
					return fmt.Errorf("slot %d of group %d: %w", i, g.PG, metadata.ErrStalePlacement)
				}
			}
			return nil
		})
}

// change rewrites what is missing of a blob, and its damage row with it.
func (s *Blobs) change(ctx context.Context, op string, pg storagenode.PG, id storagenode.BlobID,
	edit func(*erasure.Blob), assert func(*txn) error) error {
	return s.e.update(ctx, op, func(t *txn) error {
		key := t.blobKey(pg, id)
		v, err := t.Get(ctx, key)
		if err != nil {
			return err
		}
		if v == nil {
			return metadata.ErrNoSuchBlob
		}
		if assert != nil {
			if err := assert(t); err != nil {
				return err
			}
		}
		var o owner
		was, err := decodeBlob(v, id, &o)
		if err != nil {
			return err
		}
		b := was
		if edit(&b); b.Missing == was.Missing {
			return nil
		}
		scheme, err := s.groups.scheme(ctx, pg)
		if err != nil {
			return err
		}
		t.Put(key, encodeBlob(t.room(blobRecordSize(&o)), b, &o))
		if was.Missing != 0 && (b.Missing == 0 || marginOf(b, scheme) != marginOf(was, scheme)) {
			t.Delete(t.damageKey(marginOf(was, scheme), pg, id))
		}
		if b.Missing != 0 {
			t.Put(t.damageKey(marginOf(b, scheme), pg, id), damageValue(t))
		}
		return nil
	})
}

// ScanDamaged implements metadata.Blobs. It reads pages: a blob whose margin
// changes while the scan is under way may come twice or not at all.
func (s *Blobs) ScanDamaged(ctx context.Context) iter.Seq2[metadata.BlobRecord, error] {
	return func(yield func(metadata.BlobRecord, error) bool) {
		from, to := []byte{famDamage}, []byte{famDamage + 1}
		for from != nil {
			pairs, next, err := s.e.page(ctx, s.e.kv, from, to, pageSize)
			if err != nil {
				yield(metadata.BlobRecord{}, err)
				return
			}
			for _, p := range pairs {
				pg, id, ok := splitBlobKey(p.Key)
				if !ok {
					yield(metadata.BlobRecord{}, fmt.Errorf("damage key %x: %w", p.Key, errRecord))
					return
				}
				r, err := s.Blob(ctx, pg, id)
				if err != nil {
					yield(metadata.BlobRecord{}, err)
					return
				}
				// Healed or deleted since the page was read.
				if r != nil && r.Blob.Missing != 0 && !yield(*r, nil) {
					return
				}
			}
			from = next
		}
	}
}
