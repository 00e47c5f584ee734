package repair

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// candidatesMax bounds the orphans remembered at once; more are found again
// when these are gone.
const candidatesMax = 1 << 20

// candidate is a blob that a slot lists and metadata does not know.
type candidate struct {
	pg   storagenode.PG
	slot uint8
	blob storagenode.BlobID
}

// slotRef names a slot.
type slotRef struct {
	pg   storagenode.PG
	slot uint8
}

// StoppedSlot is a slot whose orphans are not collected, for they are so many
// that metadata rather than the drive may be wrong.
type StoppedSlot struct {
	PG      storagenode.PG `json:"pg"`
	Slot    int            `json:"slot"`
	Orphans int            `json:"orphans"`
	Blobs   int64          `json:"blobs"`
}

// orphans collects what neither a blob record nor an owed delete names. What is
// in quarantine is stored too (quarantine.go), for later leaders.
type orphans struct {
	cfg       *Config
	inventory *inventory
	paused    func() bool

	running   sync.Mutex // one pass at a time
	mu        sync.Mutex
	term      uint64                                      // that seen was read under; guarded by mu
	seen      map[slotRef]map[storagenode.BlobID]sighting // guarded by mu
	count     int                                         // of seen; guarded by mu
	stored    int                                         // of count, those with a row in metadata; guarded by mu
	stopped   []StoppedSlot                               // in the last pass; guarded by mu
	restored  bool                                        // the last pass was refused, for metadata is of a dump; guarded by mu
	collected int64                                       // guarded by mu
}

func newOrphans(cfg *Config, v *inventory, paused func() bool) *orphans {
	return &orphans{cfg: cfg, inventory: v, paused: paused, seen: map[slotRef]map[storagenode.BlobID]sighting{}}
}

// AgreeToOrphans lets the next orphan pass collect what an operator has seen
// in Status: those candidates that are in quarantine at this moment, also
// where a slot would lose more than 1%.
func (r *Repairer) AgreeToOrphans() { r.orphans.agree() }

// agree lets those in quarantine now be collected whatever their share.
func (o *orphans) agree() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.restored = false // whoever calls has told the metadata
	for _, blobs := range o.seen {
		for id, s := range blobs {
			s.Agreed = true
			blobs[id] = s
		}
	}
}

// pass first raises the horizon, so that from then on no commit can claim an
// id below it, then looks for orphans below it. Those seen in an earlier pass
// too, and for as long as the quarantine, are collected.
func (o *orphans) pass(ctx context.Context) error {
	o.running.Lock()
	defer o.running.Unlock()
	if o.paused() {
		return nil
	}
	below := storagenode.BlobIDAt(o.cfg.Clock.Now().Add(-o.cfg.OrphanAge))
	err := o.cfg.Horizon.RaiseHorizon(ctx, below)
	o.mu.Lock()
	o.restored = errors.Is(err, metadata.ErrRestored) || err != nil && o.restored
	o.mu.Unlock()
	if err != nil {
		return fmt.Errorf("raise horizon: %w", err)
	}
	stored, err := o.cfg.Horizon.Horizon(ctx)
	if err != nil || stored.Compare(below) < 0 {
		return errors.Join(errors.New("horizon was not raised"), err)
	}
	groups, err := o.cfg.Groups.ListGroups(ctx)
	if err != nil {
		return err
	}
	o.begin(ctx)
	var errs []error
	for _, g := range groups {
		for i := range g.Slots {
			if err := o.slot(ctx, g.Group, i, below); err != nil {
				errs = append(errs, err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return errors.Join(errs...)
}

// slot looks at one slot. Where its list or the scan of its group breaks off,
// nothing is concluded and what was seen before stays as it was.
func (o *orphans) slot(ctx context.Context, g erasure.Group, slot int, below storagenode.BlobID) error {
	store := o.inventory.ask(g.Slots[slot].Drive)
	if store == nil {
		return nil
	}
	found, blobs, err := o.find(ctx, store, g, slot, below)
	if err != nil {
		return err
	}
	ripe, err := o.remember(ctx, g.PG, slot, found)
	if err != nil {
		return err
	}
	share := 0
	for _, c := range ripe {
		if !c.agreed {
			share++
		}
	}
	if int64(share)*100 > blobs {
		o.mu.Lock()
		o.stopped = append(o.stopped, StoppedSlot{g.PG, slot, share, blobs})
		o.mu.Unlock()
		o.cfg.Logger.Error("orphans are not collected: the slot would lose more than 1%", "pg", uint32(g.PG),
			"slot", slot, "orphans", share, "blobs", blobs)
	}
	for _, c := range ripe {
		if !c.agreed && int64(share)*100 > blobs {
			continue
		}
		if o.paused() {
			return nil
		}
		if err := o.collect(ctx, g, c.candidate, below); err != nil {
			return err
		}
	}
	return nil
}

// find gives the orphans that a slot lists, and how many blobs it lists.
func (o *orphans) find(ctx context.Context, store storagenode.ShardStore, g erasure.Group, slot int, below storagenode.BlobID) ([]candidate, int64, error) {
	var found []candidate
	passed := func(id storagenode.BlobID) error {
		if id.Compare(below) >= 0 || len(found) >= candidatesMax {
			return nil
		}
		free, err := o.ownerless(ctx, g.PG, id)
		if free {
			found = append(found, candidate{g.PG, uint8(slot), id})
		}
		return err
	}
	c := o.inventory.worker.inspect.list(ctx, store, g.PG, slot)
	defer c.close()
	for rec, err := range o.cfg.Blobs.ScanBlobs(ctx, g.PG, storagenode.BlobID{}) {
		if err != nil {
			return nil, 0, fmt.Errorf("scan blobs of pg %d: %w", g.PG, err)
		}
		if err := c.seek(rec.Blob.ID, passed); err != nil {
			return nil, 0, fmt.Errorf("list slot %d of pg %d: %w", slot, g.PG, err)
		}
		if _, err := c.holds(rec.Blob); err != nil { // moves on beyond the blob
			return nil, 0, fmt.Errorf("list slot %d of pg %d: %w", slot, g.PG, err)
		}
	}
	if err := c.rest(passed); err != nil {
		return nil, 0, fmt.Errorf("list slot %d of pg %d: %w", slot, g.PG, err)
	}
	return found, c.blobs, nil
}

// ownerless is the proof, from metadata as it is now.
func (o *orphans) ownerless(ctx context.Context, pg storagenode.PG, id storagenode.BlobID) (bool, error) {
	rec, err := o.cfg.Blobs.Blob(ctx, pg, id)
	if err != nil || rec != nil {
		return false, err
	}
	owed, err := o.cfg.Blobs.IsOwed(ctx, pg, id)
	return err == nil && !owed, err
}

type ripeCandidate struct {
	candidate
	agreed bool
}

// collect sends the tombstone, after asking metadata once more.
func (o *orphans) collect(ctx context.Context, g erasure.Group, c candidate, below storagenode.BlobID) error {
	if c.blob.Compare(below) >= 0 {
		return nil
	}
	if free, err := o.ownerless(ctx, c.pg, c.blob); err != nil || !free {
		return err
	}
	store := o.inventory.ask(g.Slots[c.slot].Drive)
	if store == nil {
		return nil
	}
	if err := o.inventory.prove(ctx); err != nil {
		return err
	}
	opCtx, cancel := context.WithTimeout(ctx, o.cfg.OpTimeout)
	defer cancel()
	if err := store.Delete(opCtx, c.pg, int(c.slot), c.blob); err != nil {
		return fmt.Errorf("collect orphan %s at slot %d of pg %d: %w", c.blob, c.slot, c.pg, err)
	}
	o.mu.Lock()
	if s, ok := o.seen[slotRef{c.pg, c.slot}][c.blob]; ok && !s.gone {
		s.gone = true // its row goes with the next pass, which does not see it
		o.seen[slotRef{c.pg, c.slot}][c.blob] = s
		o.count--
	}
	o.collected++
	o.mu.Unlock()
	o.cfg.Logger.Info("orphan collected", "pg", uint32(c.pg), "slot", c.slot, "blob", c.blob.String())
	return nil
}

// OrphanStatus is what orphan passes know.
type OrphanStatus struct {
	Quarantined int           `json:"quarantined"`
	Collected   int64         `json:"collected"`
	Stopped     []StoppedSlot `json:"stopped"`
	// Restored: metadata was loaded from a dump, and nothing is collected until an
	// operator agrees.
	Restored bool `json:"restored"`
}

func (o *orphans) status() OrphanStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	return OrphanStatus{o.count, o.collected, append([]StoppedSlot{}, o.stopped...), o.restored}
}
