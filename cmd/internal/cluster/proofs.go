package cluster

import (
	"context"
	"errors"
	"fmt"

	"kintsugi/metadata"
	"kintsugi/repair"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// Whole repairs through whoever leads until an independent recount says that
// every blob has all its shards, for as long as ctx lets it.
func (c *Many) Whole(ctx context.Context) error {
	return until(ctx, func() error {
		r := c.leader()
		if r == nil {
			return errors.New("not whole: no repairer leads")
		}
		why := ""
		rep, err := r.now().RepairNow(ctx, func(p repair.Progress) { why = p.Why })
		if err != nil || !rep.Whole {
			return fmt.Errorf("not whole: %d of %d blobs full, %d unreached, %d unreadable; %s: %w", rep.Full, rep.Blobs, rep.Unreached, rep.Unreadable, why, err)
		}
		return nil
	})
}

// Sound proves the metadata consistent, and every shard good byte by byte.
func (c *Many) Sound(ctx context.Context) error {
	bad, err := c.ledger.truth.Check(ctx)
	if err != nil {
		return err
	}
	if len(bad) > 0 {
		return fmt.Errorf("metadata has %d inconsistencies, the first: %s", len(bad), bad[0])
	}
	return until(ctx, func() error {
		r := c.leader()
		if r == nil {
			return errors.New("verify every shard: no repairer leads")
		}
		v, err := r.now().VerifyAll(ctx, repair.Filter{}, nil)
		if err == nil && v.Good != v.Shards {
			err = fmt.Errorf("verified every shard: %+v", v)
		}
		return err
	})
}

// store gives a drive as its own node has it, nil where it is not in use.
func (c *Many) store(id storagenode.DriveID) storagenode.ShardStore {
	for _, n := range c.nodes {
		if nd := n.now(); nd != nil {
			if s, _ := nd.Drive(id); s != nil {
				return s
			}
		}
	}
	return nil
}

// eachSlot calls f for the slots that are clean and whose drives are in use.
func (c *Many) eachSlot(ctx context.Context, f func(g metadata.GroupRecord, slot int, store storagenode.ShardStore) error) error {
	groups, err := c.ledger.truth.ListGroups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		for i, s := range g.Slots {
			store := c.store(s.Drive)
			if store == nil || s.State != storagenode.SlotClean {
				continue
			}
			if err := f(g, i, store); err != nil {
				return fmt.Errorf("slot %d of group %d at drive %s: %w", i, g.PG, s.Drive, err)
			}
		}
	}
	return nil
}

// Fenced proves that drives refuse who writes by an older mapping of a slot.
func (c *Many) Fenced(ctx context.Context) error {
	ids := storagenode.NewBlobIDs(clock.System{}.Now)
	return c.eachSlot(ctx, func(g metadata.GroupRecord, slot int, store storagenode.ShardStore) error {
		epoch := g.Slots[slot].Epoch
		if epoch <= 1 {
			return nil
		}
		_, err := store.Put(ctx, storagenode.Shard{
			ID: storagenode.ShardID{PG: g.PG, Slot: uint8(slot), Blob: ids.Next()}, K: 1, SlotEpoch: epoch - 1, Last: true,
			StripeHash: storagenode.BlockSum(nil),
		})
		if !errors.Is(err, storagenode.ErrStaleEpoch) {
			return fmt.Errorf("a write of epoch %d, the slot's is %d: %v", epoch-1, epoch, err)
		}
		return nil
	})
}

// NoGhosts proves that no slot lists, of its present mapping, what it held for
// a blob that was committed and is deleted. (What a write left on slots that
// it then did without is the orphan pass's.)
func (c *Many) NoGhosts(ctx context.Context) error {
	return c.eachSlot(ctx, func(g metadata.GroupRecord, slot int, store storagenode.ShardStore) error {
		suspects := map[storagenode.BlobID]bool{}
		for again := range 2 { // those whose delete was carried out meanwhile are not listed again
			for info, err := range store.List(ctx, g.PG, slot, storagenode.BlobID{}) {
				if err != nil {
					return err
				}
				id := info.ID.Blob
				if info.SlotEpoch != g.Slots[slot].Epoch || !c.ledger.slots(g.PG, id).Has(slot) {
					continue
				}
				if again == 1 && suspects[id] {
					return fmt.Errorf("%d deleted blobs came back, such as %s", len(suspects), id)
				}
				known, err := c.known(ctx, g.PG, id)
				if err != nil {
					return err
				}
				suspects[id] = !known
			}
		}
		return nil
	})
}

// known says that metadata has a record of a blob, or owes it a delete.
func (c *Many) known(ctx context.Context, pg storagenode.PG, id storagenode.BlobID) (bool, error) {
	if b, err := c.ledger.truth.Blob(ctx, pg, id); b != nil || err != nil {
		return true, err
	}
	for o, err := range c.ledger.truth.ScanOwed(ctx) {
		if err != nil || o.PG == pg && o.Blob.ID == id {
			return true, err
		}
	}
	return false, nil
}
