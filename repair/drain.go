package repair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// Tenant keeps something of its own on the drives, as the metadata of a store in
// one process does.
type Tenant interface {
	// Leave has what is on a drive moved to others or, where leaves is false,
	// lets it be used again. It says whether the drive may be taken out: nothing
	// that counts is on it any more. Called again and again, it must not block.
	Leave(id storagenode.DriveID, leaves bool) (left bool)
}

// ErrNotDrainable is wrapped with why a drive cannot be drained, or no longer be
// kept from it.
var ErrNotDrainable = errors.New("not possible in this state")

// Drain has a drive give its slots away, to be taken out when it is DRAINED.
// Reads go on and nothing loses a copy meanwhile; new groups leave it out. To
// call it for one that is being drained does nothing.
func (r *Repairer) Drain(ctx context.Context, id storagenode.DriveID) (storagenode.DriveState, error) {
	return r.command(ctx, id, func(was storagenode.DriveState) (storagenode.DriveState, error) {
		switch was {
		case storagenode.DriveDraining, storagenode.DriveDrained:
			return was, nil
		case storagenode.DriveActive, storagenode.DriveSuspect, storagenode.DriveDown:
			return storagenode.DriveDraining, nil
		}
		return was, fmt.Errorf("drive %s is %s, so its slots move without a command: %w", id, was, ErrNotDrainable)
	})
}

// Undrain takes a drive back that is being drained or is DRAINED. What moved
// away stays where it is.
func (r *Repairer) Undrain(ctx context.Context, id storagenode.DriveID) (storagenode.DriveState, error) {
	return r.command(ctx, id, func(was storagenode.DriveState) (storagenode.DriveState, error) {
		switch was {
		case storagenode.DriveDraining, storagenode.DriveDrained:
			return storagenode.DriveDown, nil // until the next look at it
		case storagenode.DriveActive, storagenode.DriveSuspect, storagenode.DriveDown:
			return was, nil
		}
		return was, fmt.Errorf("drive %s is %s: %w", id, was, ErrNotDrainable)
	})
}

// command stores what state follows on the stored one of a drive. The leader
// goes on from there with its next look.
func (r *Repairer) command(ctx context.Context, id storagenode.DriveID, next func(was storagenode.DriveState) (storagenode.DriveState, error)) (now storagenode.DriveState, err error) {
	var refused error
	err = r.cfg.Records.EditDrive(ctx, id, func(d *metadata.DriveRecord) bool {
		if refused = nil; d.Added.IsZero() {
			refused = fmt.Errorf("drive %s is not in the metadata yet: %w", id, ErrNotDrainable)
			return false
		}
		was := d.State
		now, refused = next(was)
		d.State = now
		return refused == nil && now != was
	})
	if err == nil {
		err = refused
	}
	return now, err
}

// held is a reason for which a slot waits to be rebuilt, with what is in the way of
// that, where it is known.
func (p *planner) held(pg storagenode.PG, slot int, s storagenode.Slot, why string) string {
	if o := p.worker.obstacle(pg, slot, s.Epoch); o != "" {
		why += ": " + o
	}
	return why
}

// sources gives the slots that left drives which are being drained, and cannot be
// rebuilt from them at present.
func (p *planner) sources(groups []metadata.GroupRecord) (waiting []WaitingSlot) {
	for _, g := range groups {
		for i, s := range g.Slots {
			if s.State != storagenode.SlotRebuilding || s.From.IsZero() {
				continue
			}
			d, known := p.fleet.drive(s.From)
			if o := p.worker.obstacle(g.PG, i, s.Epoch); known && d.record.State == storagenode.DriveDraining && o != "" {
				waiting = append(waiting, WaitingSlot{g.PG, i, s.From, fmt.Sprintf("what it held is to be copied to drive %s: %s", s.Drive, o), 0})
			}
		}
	}
	return waiting
}

// drained ends the draining of drives without a slot. What they held counts as
// copied only once no slot is being rebuilt from them, and nothing on them is needed
// that may be nowhere else. It gives those that are kept for that.
func (p *planner) drained(ctx context.Context, drives []drive, load map[storagenode.DriveID]int) (kept []WaitingSlot, err error) {
	tenants := p.moveTenant(drives)
	var errs []error
	for _, d := range drives {
		id := d.record.ID
		if d.record.State != storagenode.DriveDraining || load[id] > 0 || tenants[id] {
			continue
		}
		groups, err := p.cfg.Groups.ListGroups(ctx)
		if err != nil {
			return kept, err
		}
		if inUse(groups, id) {
			continue
		}
		w, err := p.keeps(ctx, groups, id)
		if w != nil {
			kept = append(kept, *w)
		}
		if w != nil || err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, p.cfg.Records.EditDrive(ctx, id, func(r *metadata.DriveRecord) bool {
			was := r.State
			r.State = storagenode.DriveDrained
			return was == storagenode.DriveDraining
		}))
	}
	return kept, errors.Join(errs...)
}

// keptDrive is a drive without a slot that is needed, as of at.
type keptDrive struct {
	at   time.Time
	slot WaitingSlot
}

// keeps says what a drive without a slot is still needed for; nil: nothing. Damaged
// blobs may be many, so they are gone through every 10 ticks only.
func (p *planner) keeps(ctx context.Context, groups []metadata.GroupRecord, id storagenode.DriveID) (*WaitingSlot, error) {
	if w := p.between(ctx, groups, id); w != nil {
		return w, nil
	}
	now := p.cfg.Clock.Now()
	if k, ok := p.kept[id]; ok && now.Sub(k.at) < 10*p.cfg.Tick {
		return &k.slot, nil
	}
	delete(p.kept, id)
	w, err := p.needed(ctx, id)
	if w != nil {
		p.kept[id] = keptDrive{now, *w}
	}
	return w, err
}

// between finds a slot that moved on from a drive before it was rebuilt there. What
// was written in between may be on no other, and metadata names only the drive that
// the slot was on first: so the drive stays until the slot is rebuilt.
func (p *planner) between(ctx context.Context, groups []metadata.GroupRecord, id storagenode.DriveID) *WaitingSlot {
	store, state := p.cfg.Drives.Drive(id)
	for _, g := range groups {
		for i, s := range g.Slots {
			if s.State != storagenode.SlotRebuilding || s.Epoch <= 2 || s.Drive == id || s.From == id {
				continue // epoch 1 is the slot's first drive, 2 the second
			}
			if store == nil || !state.Readable() {
				return &WaitingSlot{g.PG, i, id, "it cannot be asked, and may have what is being copied to drive " + s.Drive.String() + ": bring it back", 0}
			}
			c := p.worker.inspect.list(ctx, store, g.PG, i)
			has, err := c.more, c.err
			c.close()
			if has || err != nil {
				return &WaitingSlot{g.PG, i, id, p.held(g.PG, i, s, "what it has of the slot is being copied to drive "+s.Drive.String()+" first"), 0}
			}
		}
	}
	return nil
}

// needed says of a drive without a slot that it may have a shard of a blob that cannot
// be read, which is nowhere else: of a slot that was mapped to it once. Such a shard is
// moved when the damage is repaired (rescue); while the drive is away nobody knows.
// A damaged blob that can be read by its marks counts as well where the drive has a shard
// of it and the others, asked, do not have enough: one may have come back without them.
func (p *planner) needed(ctx context.Context, id storagenode.DriveID) (*WaitingSlot, error) {
	store, state := p.cfg.Drives.Drive(id)
	away := store == nil || !state.Readable()
	groups, lists, silent := &groupCache{lookup: p.cfg.Lookup}, map[slotRef]bool{}, map[storagenode.DriveID]bool{}
	for rec, err := range p.cfg.Blobs.ScanDamaged(ctx) {
		if err != nil {
			return nil, fmt.Errorf("scan damaged blobs: %w", err)
		}
		g, err := groups.group(ctx, rec.PG)
		if err != nil {
			return nil, err
		}
		unreadable := margin(g.Scheme, rec.Blob.Mode, rec.Blob.Slots&^rec.Blob.Missing&liveSlots(p.fleet, g)) < 0
		for i, s := range g.Slots {
			if !rec.Blob.Missing.Has(i) || s.Epoch <= 1 {
				continue
			}
			if away && unreadable {
				return &WaitingSlot{rec.PG, i, id, "it cannot be asked, and may have shards of blobs that cannot be read: bring it back", 0}, nil
			}
			if away || !unreadable && !(p.lists(ctx, store, rec.PG, i, lists) && p.last(ctx, store, g, rec.Blob, i, silent)) {
				continue
			}
			switch what, _ := p.worker.inspect.inspect(ctx, store, rec.PG, i, rec.Blob, true); what {
			case good:
				return &WaitingSlot{rec.PG, i, id, "it has shards of blobs that cannot be read, which are to be copied first", 0}, nil
			case unknown:
				return &WaitingSlot{rec.PG, i, id, "it does not answer, and may have shards of blobs that cannot be read", 0}, nil
			}
		}
	}
	return nil, nil
}

// lists says that a drive may have something of a slot; most have not, and their damaged
// blobs need not be asked for one by one. It remembers that in known.
func (p *planner) lists(ctx context.Context, store storagenode.ShardStore, pg storagenode.PG, slot int, known map[slotRef]bool) bool {
	ref := slotRef{pg, uint8(slot)}
	has, ok := known[ref]
	if !ok {
		c := p.worker.inspect.list(ctx, store, pg, slot)
		has = c.more || c.err != nil
		c.close()
		known[ref] = has
	}
	return has
}

// last says that a drive may have a slot's shards of a blob of which the drives of the
// other slots, asked afresh, have too few. One that does not answer goes to silent, and
// is not waited for again.
func (p *planner) last(ctx context.Context, store storagenode.ShardStore, g erasure.Group, b erasure.Blob, slot int, silent map[storagenode.DriveID]bool) bool {
	if what, _ := p.worker.inspect.inspect(ctx, store, g.PG, slot, b, false); what == absent || what == corrupt {
		return false
	}
	have := b.Slots &^ b.Missing & liveSlots(p.fleet, g)
	for i, s := range g.Slots {
		if !have.Has(i) {
			continue
		}
		other, state := p.cfg.Drives.Drive(s.Drive)
		if silent[s.Drive] || other == nil || !state.Readable() {
			have = have.Without(i)
			continue
		}
		what, _ := p.worker.inspect.inspect(ctx, other, g.PG, i, b, false)
		if what == unknown {
			silent[s.Drive] = true
		}
		if what != good {
			have = have.Without(i)
		}
	}
	return margin(g.Scheme, b.Mode, have) < 0
}
