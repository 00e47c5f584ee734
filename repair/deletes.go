package repair

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

const (
	owedPerBatch       = 256
	tombstonesPerDrive = 32 // at once, so that they share the drive's syncs
	longestRest        = time.Second
)

// deletes carries out the deletes owed to drives.
type deletes struct {
	cfg    *Config
	fleet  *fleet
	paused func() bool
	prove  func(context.Context) error // that this process leads

	running sync.Mutex // one pass at a time
	mu      sync.Mutex
	pending int64 // owed after the last batch; guarded by mu
	done    int64 // guarded by mu
}

// batch is some owed deletes and what became of them.
type batch struct {
	owed   []metadata.Owed
	groups []erasure.Group
	mu     sync.Mutex
	acked  []erasure.SlotMask // guarded by mu
}

// pass sends the tombstones of everything owed. Slots of drives that cannot be
// asked stay pending, slots of retired drives are discharged. Between batches it rests
// for as long as one took: many deletes are not to hold up who reads and writes.
func (d *deletes) pass(ctx context.Context) error {
	d.running.Lock()
	defer d.running.Unlock()
	if d.paused() {
		return nil
	}
	var (
		b       = &batch{}
		failed  = map[storagenode.DriveID]bool{} // not asked again in this pass
		left    int64
		counted = false
		whole   = true // nothing broke the scan off
		errs    []error
	)
	groups := &groupCache{lookup: d.cfg.Lookup}
	flush := func() {
		n, err := d.carryOut(ctx, b, failed)
		left += n
		if err != nil && len(errs) < 8 {
			errs = append(errs, err)
		}
		b, groups = &batch{}, &groupCache{lookup: d.cfg.Lookup}
	}
	for o, err := range d.cfg.Blobs.ScanOwed(ctx) {
		if err != nil {
			errs, whole = append(errs, fmt.Errorf("scan owed deletes: %w", err)), false
			break
		}
		if d.paused() {
			return nil
		}
		g, err := groups.group(ctx, o.PG)
		if err != nil {
			errs, whole = append(errs, err), false
			break
		}
		b.owed, b.groups, b.acked = append(b.owed, o), append(b.groups, g), append(b.acked, 0)
		if len(b.owed) == owedPerBatch {
			began := d.cfg.Clock.Now()
			if !counted { // there are many: who made room sees how many are to come
				d.count(ctx)
				counted = true
			}
			flush()
			if err := d.cfg.Clock.Sleep(ctx, min(d.cfg.Clock.Now().Sub(began), longestRest)); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	flush()
	if whole {
		d.mu.Lock()
		d.pending = left
		d.mu.Unlock()
	}
	return errors.Join(errs...)
}

// count counts what is owed; where that fails, what was known of it stays.
func (d *deletes) count(ctx context.Context) {
	n := int64(0)
	for _, err := range d.cfg.Blobs.ScanOwed(ctx) {
		if err != nil {
			return
		}
		n++
	}
	d.mu.Lock()
	d.pending = n
	d.mu.Unlock()
}

// carryOut sends the tombstones of a batch to all drives at once, and returns
// how many deletes are still owed after it.
func (d *deletes) carryOut(ctx context.Context, b *batch, failed map[storagenode.DriveID]bool) (int64, error) {
	if err := d.prove(ctx); err != nil {
		return int64(len(b.owed)), err
	}
	type target struct{ index, slot int }
	byDrive := map[storagenode.DriveID][]target{}
	for i, o := range b.owed {
		for slot, s := range b.groups[i].Slots {
			if !o.Pending.Has(slot) || failed[s.Drive] {
				continue
			}
			if v, ok := d.fleet.drive(s.Drive); ok && v.record.State == storagenode.DriveRetired {
				b.ack(i, slot)
				continue
			}
			if store, state := d.cfg.Drives.Drive(s.Drive); store != nil && state.Readable() {
				byDrive[s.Drive] = append(byDrive[s.Drive], target{i, slot})
			}
		}
	}
	var (
		drives sync.WaitGroup
		mu     sync.Mutex
		first  error
	)
	for id, targets := range byDrive {
		drives.Go(func() {
			jobs, jobCtx := errgroup.WithContext(ctx)
			jobs.SetLimit(tombstonesPerDrive)
			for _, t := range targets {
				if jobCtx.Err() != nil {
					break
				}
				jobs.Go(func() error {
					err := d.tombstone(jobCtx, id, b.owed[t.index], t.slot)
					if err == nil {
						b.ack(t.index, t.slot)
					}
					return err
				})
			}
			if err := jobs.Wait(); err != nil {
				mu.Lock()
				failed[id] = true
				first = errors.Join(first, fmt.Errorf("tombstones at drive %s: %w", id, err))
				mu.Unlock()
			}
		})
	}
	drives.Wait()
	left, err := d.discharge(ctx, b)
	return left, errors.Join(first, err)
}

func (b *batch) ack(i, slot int) {
	b.mu.Lock()
	b.acked[i] = b.acked[i].With(slot)
	b.mu.Unlock()
}

func (d *deletes) tombstone(ctx context.Context, id storagenode.DriveID, o metadata.Owed, slot int) error {
	store, _ := d.cfg.Drives.Drive(id)
	if store == nil {
		return storagenode.ErrUnavailable
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.OpTimeout)
	defer cancel()
	return store.Delete(ctx, o.PG, slot, o.Blob.ID)
}

// discharge records the acknowledgements, of slots that did not move since the
// tombstone was sent: where one did, its new drive must acknowledge. It gives how
// many deletes are still owed.
func (d *deletes) discharge(ctx context.Context, b *batch) (int64, error) {
	var (
		owed  []metadata.Owed
		slots []erasure.SlotMask
		done  int64
		now   = &groupCache{lookup: d.cfg.Lookup} // as they are after the tombstones
	)
	for i, o := range b.owed {
		acked := b.acked[i]
		if acked == 0 {
			continue
		}
		g, err := now.group(ctx, o.PG)
		if err != nil {
			return int64(len(b.owed)), err
		}
		for slot, s := range g.Slots {
			if s.Epoch != b.groups[i].Slots[slot].Epoch {
				acked = acked.Without(slot)
			}
		}
		if acked == 0 {
			continue
		}
		owed, slots = append(owed, o), append(slots, acked)
		if o.Pending&^acked == 0 {
			done++
		}
	}
	if err := d.cfg.Blobs.Discharge(ctx, owed, slots); err != nil {
		return int64(len(b.owed)), fmt.Errorf("discharge: %w", err)
	}
	d.mu.Lock()
	d.done += done
	d.pending = max(0, d.pending-done) // more may have become owed than were counted
	d.mu.Unlock()
	return int64(len(b.owed)) - done, nil
}

// counts gives how many deletes are owed as of the last batch, and how many were
// carried out since the start.
func (d *deletes) counts() (owed, done int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pending, d.done
}
