package repair

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// formersKept bounds the slots whose former drives are remembered.
const formersKept = 1 << 16

// formers finds the drives that still have something of a slot which is mapped
// elsewhere now. Metadata names one former drive at most, and none of a slot that
// is clean; but a shard is good wherever it lies, so that those of a blob of which
// too few can be had are looked for at all drives. Safe for concurrent use.
type formers struct {
	cfg     *Config
	fleet   *fleet
	inspect *inspector
	mu      sync.Mutex
	known   map[slotRef]formerDrives // guarded by mu
}

type formerDrives struct {
	epoch  uint32 // of the slot when it was looked for them
	drives []storagenode.DriveID
}

// forget is called where a drive may have come back: it may be one.
func (f *formers) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = nil
}

// of gives the drives other than the slot's own that list something of it. A drive
// that ought to answer and does not is not among them, and asked again by the next
// call.
func (f *formers) of(ctx context.Context, pg storagenode.PG, slot int, s storagenode.Slot) []storagenode.DriveID {
	if s.Epoch <= 1 {
		return nil // it never moved
	}
	ref := slotRef{pg, uint8(slot)}
	f.mu.Lock()
	known, ok := f.known[ref]
	f.mu.Unlock()
	if ok && known.epoch == s.Epoch {
		return known.drives
	}
	found, sure := formerDrives{epoch: s.Epoch}, true
	for _, rep := range f.cfg.Drives.Reports() {
		store, state := f.cfg.Drives.Drive(rep.ID)
		if rep.ID == s.Drive {
			continue
		}
		if store == nil || !state.Readable() {
			sure = sure && !f.fleet.readable(rep.ID)
			continue
		}
		c := f.inspect.list(ctx, store, pg, slot)
		if sure = sure && c.err == nil; c.err == nil && c.more {
			found.drives = append(found.drives, rep.ID)
		}
		c.close()
	}
	if sure {
		f.mu.Lock()
		if f.known == nil || len(f.known) >= formersKept {
			f.known = map[slotRef]formerDrives{}
		}
		f.known[ref] = found
		f.mu.Unlock()
	}
	return found.drives
}

// rescue moves a slot's shards of a blob of which too few can be had, from a drive
// that the slot was mapped to before. It returns cause, which is why they could not
// be rebuilt, where no drive has them.
func (w *worker) rescue(ctx context.Context, g erasure.Group, b erasure.Blob, slot int, dst storagenode.ShardStore, cause error) error {
	if !errors.Is(cause, stripe.ErrUnreadable) {
		return cause
	}
	s, failed := g.Slots[slot], error(nil)
	for _, id := range w.formers.of(ctx, g.PG, slot, s) {
		store, state := w.cfg.Drives.Drive(id)
		if store == nil || !state.Readable() {
			continue
		}
		if what, _ := w.inspect.inspect(ctx, store, g.PG, slot, b, false); what != good {
			continue
		}
		err := w.cfg.Stripes.Move(ctx, g, b, slot, id, dst, s.Epoch)
		if err == nil {
			w.cfg.Logger.Info("shard of a blob that cannot be read moved as it is", "pg", uint32(g.PG),
				"slot", slot, "blob", b.ID.String(), "from", id.String(), "drive", s.Drive.String())
			return nil
		}
		if !errors.Is(err, storagenode.ErrCorrupt) && !errors.Is(err, storagenode.ErrNotFound) {
			failed = fmt.Errorf("moved as it is from drive %s: %w", id, err)
		}
	}
	if failed != nil { // it is there: the slot is not done
		return fmt.Errorf("%v; %w", cause, failed)
	}
	return cause
}

// awaited says what might still come of a blob that cannot be read: a drive that
// ought to have one of its shards, or had it before, and cannot be asked, though
// it is not taken for lost. "" where nothing is to be waited for: all of them have
// answered, or are lost. What a lost drive has is found if it comes back.
func (w *worker) awaited(ctx context.Context, g erasure.Group, b erasure.Blob, slot int) string {
	for i, s := range g.Slots {
		if !b.Slots.Has(i) {
			continue
		}
		if i != slot && !b.Missing.Has(i) {
			if why := w.silent(ctx, g.PG, b, i, s.Drive); why != "" {
				return why
			}
		}
		if s.State == storagenode.SlotRebuilding && !s.From.IsZero() {
			if why := w.silent(ctx, g.PG, b, i, s.From); why != "" {
				return why
			}
		}
	}
	return ""
}

// silent says that a drive is not lost, and does not tell what it has of a blob.
func (w *worker) silent(ctx context.Context, pg storagenode.PG, b erasure.Blob, slot int, id storagenode.DriveID) string {
	d, known := w.fleet.drive(id)
	if !known || d.dead() {
		return ""
	}
	store, state := w.cfg.Drives.Drive(id)
	if store == nil || !state.Readable() {
		return fmt.Sprintf("drive %s, which is %s", id, state)
	}
	if what, err := w.inspect.inspect(ctx, store, pg, slot, b, false); what == unknown {
		return fmt.Sprintf("drive %s, which does not answer: %v", id, err)
	}
	return ""
}

// errAwaited: a blob cannot be read, and drives that are away may change that.
var errAwaited = errors.New("a blob that cannot be read now")

// nothingLeft gives nil where waiting for a blob is in vain: it is marked damaged
// at the slot instead, and tried again from there, so that it does not keep the
// slot from being clean. Else it says what is in the way.
func (w *worker) nothingLeft(ctx context.Context, g erasure.Group, slot int, rec metadata.BlobRecord, cause error) error {
	if !errors.Is(cause, stripe.ErrUnreadable) || rec.Blob.Missing.Has(slot) {
		return cause
	}
	if why := w.awaited(ctx, g, rec.Blob, slot); why != "" {
		return fmt.Errorf("%w waits for %s", errAwaited, why)
	}
	return errors.Join(w.markMissing(ctx, g.PG, rec.Blob.ID, slot), ctx.Err())
}

// obstacle is why a slot could not be rebuilt when that was last tried.
type obstacle struct {
	epoch uint32
	why   string
}

// tried notes what came of rebuilding a slot.
func (w *worker) tried(g erasure.Group, slot int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ref := slotRef{g.PG, uint8(slot)}
	if err == nil {
		delete(w.obstacles, ref)
		delete(w.lacks, ref)
		return
	}
	w.obstacles[ref] = obstacle{g.Slots[slot].Epoch, err.Error()}
}

// obstacle gives why a slot was not rebuilt; "" where it is not known that it cannot be.
func (w *worker) obstacle(pg storagenode.PG, slot int, epoch uint32) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.obstacles[slotRef{pg, uint8(slot)}]; o.epoch == epoch {
		return o.why
	}
	return ""
}
