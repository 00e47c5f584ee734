package repair

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// rebuildRounds bounds how often one pass lists a slot again; what then still
// lacks something waits for the next pass.
const rebuildRounds = 4

// rebuildPass fills the slots under rebuilding, then has a recount made.
func (r *Repairer) rebuildPass(ctx context.Context) error {
	left, done, err := r.rebuild(ctx)
	if left == 0 && done > 0 {
		r.countAnew()
	}
	return err
}

// rebuild fills the slots under rebuilding, and has full drives drop what they had of
// those that became clean.
func (r *Repairer) rebuild(ctx context.Context) (left, done int, err error) {
	were, err := r.cfg.Groups.ListGroups(ctx)
	if err != nil {
		return 0, 0, err
	}
	left, done, err = r.worker.rebuildSlots(ctx)
	if done > 0 {
		err = errors.Join(err, r.inventory.relieved(ctx, were))
	}
	return left, done, err
}

// rebuildSlot copies into a slot whatever metadata says it should hold and its
// drive does not list, then lists again, and calls the slot clean only when
// nothing is lacking any more but what is marked damaged and unreadable.
func (w *worker) rebuildSlot(ctx context.Context, g erasure.Group, slot int) error {
	s := g.Slots[slot]
	store, full := w.open(s.Drive)
	if store == nil {
		return errWaiting
	}
	total, blobs, lacking := int64(0), int64(0), int64(0)
	err := w.lacking(ctx, g, slot, store, func(r metadata.BlobRecord) error {
		total += slotBytes(g.Scheme, r.Blob)
		if blobs++; !r.Blob.Missing.Has(slot) {
			lacking++
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.expect(g, slot, total+blobs*recordBytes)
	if full && lacking > 0 {
		return errNoRoom
	}
	task := w.progress.begin(Rebuild, fmt.Sprintf("slot %d of pg %d", slot, g.PG), total)
	defer task.end()
	for range rebuildRounds {
		lacking, err := w.fill(ctx, g, slot, store, func(n int64) {
			task.add(n)
			w.got(g, slot, n)
		})
		if err != nil {
			return err
		}
		if lacking == 0 {
			if err := w.cfg.Groups.MarkClean(ctx, g.PG, slot, s.Epoch); err != nil {
				return fmt.Errorf("mark slot %d of pg %d clean: %w", slot, g.PG, err)
			}
			w.cfg.Logger.Info("slot rebuilt", "pg", uint32(g.PG), "slot", slot, "drive", s.Drive.String(), "bytes", total)
			return nil
		}
	}
	return fmt.Errorf("slot %d of pg %d still lacks blobs after %d rounds", slot, g.PG, rebuildRounds)
}

// lacking calls f for every blob that the slot should hold and does not list,
// but for those marked missing there that are nobody's to wait for.
func (w *worker) lacking(ctx context.Context, g erasure.Group, slot int, store storagenode.ShardStore, f func(metadata.BlobRecord) error) error {
	c := w.inspect.list(ctx, store, g.PG, slot)
	defer c.close()
	for rec, err := range w.cfg.Blobs.ScanBlobs(ctx, g.PG, storagenode.BlobID{}) {
		if err != nil {
			return fmt.Errorf("scan blobs of pg %d: %w", g.PG, err)
		}
		if !rec.Blob.Slots.Has(slot) {
			continue
		}
		if err := c.seek(rec.Blob.ID, nil); err != nil {
			return fmt.Errorf("list slot %d of pg %d: %w", slot, g.PG, err)
		}
		has, err := c.holds(rec.Blob)
		if err != nil {
			return fmt.Errorf("list slot %d of pg %d: %w", slot, g.PG, err)
		}
		if has && !rec.Blob.Missing.Has(slot) {
			continue
		}
		if err := f(rec); err != nil {
			return err
		}
	}
	return c.err
}

// fill is one round: it repairs what is lacking and returns how much that was.
// Zero is said only by a round that found nothing to do.
func (w *worker) fill(ctx context.Context, g erasure.Group, slot int, store storagenode.ShardStore, bytes func(int64)) (int64, error) {
	var (
		jobs    errgroup.Group
		mu      sync.Mutex
		lacking int64
		first   error
	)
	jobs.SetLimit(queuedPerPass)
	began := w.cfg.Clock.Now()
	err := w.lacking(ctx, g, slot, store, func(rec metadata.BlobRecord) error {
		mu.Lock()
		failed := first
		if !rec.Blob.Missing.Has(slot) {
			lacking++
		}
		mu.Unlock()
		if errors.Is(failed, storagenode.ErrBroken) || errors.Is(failed, storagenode.ErrReadOnly) {
			return failed
		}
		jobs.Go(func() error {
			n, err := w.repair(ctx, g, rec, erasure.SlotMask(0).With(slot), 1, began)
			bytes(n)
			if err != nil {
				err = w.nothingLeft(ctx, g, slot, rec, err)
			}
			if err == nil {
				return nil
			}
			mu.Lock()
			if first == nil && !rec.Blob.Missing.Has(slot) {
				first = err
			}
			mu.Unlock()
			return nil
		})
		return nil
	})
	_ = jobs.Wait()
	return lacking, errors.Join(err, first)
}
