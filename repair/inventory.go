package repair

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// inventoriesAtOnce bounds the slots compared at the same time.
const inventoriesAtOnce = 4

// inventory compares what slots should hold with what their drives list.
type inventory struct {
	cfg      *Config
	worker   *worker
	progress *progress
	moving   *moving
	paused   func() bool
	prove    func(context.Context) error // that this process leads, right before something is destroyed

	all     atomic.Bool // the next pass is for every drive
	running sync.Mutex  // one pass at a time
	whole   time.Time   // when the last pass over every drive ended; guarded by running
	mu      sync.Mutex
	drives  map[storagenode.DriveID]bool // that came back; guarded by mu
}

// add asks for an inventory of everything on these drives.
func (v *inventory) add(ids []storagenode.DriveID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.drives == nil {
		v.drives = map[storagenode.DriveID]bool{}
	}
	for _, id := range ids {
		v.drives[id] = true
	}
}

func (v *inventory) takeDrives() map[storagenode.DriveID]bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := v.drives
	v.drives = nil
	return d
}

// pass compares the slots of the drives that were added, and of all drives
// where that is due, and marks what proves missing; it returns how many shards
// that were.
// Drives whose lists break off are asked again in the next pass.
func (v *inventory) pass(ctx context.Context) (int64, error) {
	v.running.Lock()
	defer v.running.Unlock()
	only, all := v.takeDrives(), v.all.Swap(false)
	if all || v.cfg.Clock.Now().Sub(v.whole) >= v.cfg.InventoryInterval {
		all, only = true, nil
	} else if only == nil {
		return 0, nil
	}
	groups, err := v.cfg.Groups.ListGroups(ctx)
	if err != nil { // it is owed still
		v.add(slices.Collect(maps.Keys(only)))
		v.all.CompareAndSwap(false, all)
		return 0, err
	}
	task := v.progress.begin(Inventory, "slots", 0)
	defer task.end()
	var (
		found atomic.Int64
		jobs  errgroup.Group
		mu    sync.Mutex
		again = map[storagenode.DriveID]bool{}
		first error
	)
	jobs.SetLimit(inventoriesAtOnce)
	for _, g := range groups {
		for i, s := range g.Slots {
			if only != nil && !only[s.Drive] && !only[s.From] {
				continue
			}
			jobs.Go(func() error {
				n, err := v.slot(ctx, g.Group, i, task)
				found.Add(n)
				if err != nil {
					mu.Lock()
					again[s.Drive] = true
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
				return nil
			})
		}
	}
	_ = jobs.Wait()
	for id := range again {
		v.add([]storagenode.DriveID{id})
	}
	marked, err := v.strays(ctx, groups, only)
	err = errors.Join(first, err, ctx.Err())
	if only == nil && ctx.Err() == nil {
		v.whole = v.cfg.Clock.Now()
	}
	return found.Load() + marked, err
}

// slot takes the inventory of one slot. Of one under rebuilding nothing is marked:
// rebuilding is an inventory itself. One whose drive cannot be asked is left alone.
func (v *inventory) slot(ctx context.Context, g erasure.Group, slot int, task running) (int64, error) {
	s := g.Slots[slot]
	store := v.ask(s.Drive)
	if store == nil {
		return 0, nil
	}
	if s.State != storagenode.SlotClean {
		return 0, v.between(ctx, g, slot, store)
	}
	return v.compare(ctx, g, slot, store, task)
}

// compare marks what a clean slot should hold and its drive has not. Nil means that the
// drive told of everything.
func (v *inventory) compare(ctx context.Context, g erasure.Group, slot int, store storagenode.ShardStore, task running) (int64, error) {
	found := int64(0)
	c := v.worker.inspect.list(ctx, store, g.PG, slot)
	defer c.close()
	for rec, err := range v.cfg.Blobs.ScanBlobs(ctx, g.PG, storagenode.BlobID{}) {
		if err != nil {
			return found, fmt.Errorf("scan blobs of pg %d: %w", g.PG, err)
		}
		if !rec.Blob.Slots.Has(slot) || rec.Blob.Missing.Has(slot) {
			continue
		}
		task.add(slotBytes(g.Scheme, rec.Blob))
		if err := c.seek(rec.Blob.ID, nil); err != nil {
			return found, fmt.Errorf("list slot %d of pg %d: %w", slot, g.PG, err)
		}
		has, err := c.holds(rec.Blob)
		if err != nil {
			return found, fmt.Errorf("list slot %d of pg %d: %w", slot, g.PG, err)
		}
		if has {
			continue
		}
		marked, err := v.confirm(ctx, g.PG, rec.Blob.ID, slot, false)
		if err != nil {
			return found, err
		}
		if marked {
			found++
		}
	}
	return found, c.err
}

// between looks whether all that a slot should hold is on the drive that it is mapped
// to or on the one that it came from, where this repairer does not know: another one
// moved it. Then it lacks nothing while it is rebuilt.
func (v *inventory) between(ctx context.Context, g erasure.Group, slot int, store storagenode.ShardStore) error {
	s := g.Slots[slot]
	former := v.ask(s.From)
	if former == nil || v.moving.known(g.PG, slot, s.Epoch) {
		return nil
	}
	here, there := v.worker.inspect.list(ctx, store, g.PG, slot), v.worker.inspect.list(ctx, former, g.PG, slot)
	defer here.close()
	defer there.close()
	for rec, err := range v.cfg.Blobs.ScanBlobs(ctx, g.PG, storagenode.BlobID{}) {
		if err != nil {
			return fmt.Errorf("scan blobs of pg %d: %w", g.PG, err)
		}
		if !rec.Blob.Slots.Has(slot) || rec.Blob.Missing.Has(slot) {
			continue
		}
		has, err := listed(here, rec.Blob)
		had, errThere := listed(there, rec.Blob)
		if err := errors.Join(err, errThere); err != nil {
			return fmt.Errorf("list slot %d of pg %d: %w", slot, g.PG, err)
		}
		if has || had {
			continue
		}
		// Written since the list began, or deleted; else it is on neither.
		if what, _ := v.worker.inspect.inspect(ctx, store, g.PG, slot, rec.Blob, false); what == good {
			continue
		}
		if now, err := v.cfg.Blobs.Blob(ctx, g.PG, rec.Blob.ID); now != nil || err != nil {
			return err
		}
	}
	v.moving.found(g.PG, slot, s.Epoch)
	return nil
}

// ask gives the store of a drive that can be asked, else nil.
func (v *inventory) ask(id storagenode.DriveID) storagenode.ShardStore {
	store, state := v.cfg.Drives.Drive(id)
	if store == nil || !state.Readable() {
		return nil
	}
	return store
}

// errAway: the drive cannot be asked now.
var errAway = fmt.Errorf("the slot's drive is away: %w", storagenode.ErrUnavailable)

// confirm looks at one slot's part of a blob afresh and marks it missing where
// the drive itself says that it is absent or corrupt, provided the slot was
// not mapped elsewhere in between. A drive that cannot be asked proves
// nothing: errAway.
func (v *inventory) confirm(ctx context.Context, pg storagenode.PG, id storagenode.BlobID, slot int, deep bool) (bool, error) {
	rec, err := v.cfg.Blobs.Blob(ctx, pg, id)
	if err != nil || rec == nil || !rec.Blob.Slots.Has(slot) || rec.Blob.Missing.Has(slot) {
		return false, err
	}
	g, err := v.cfg.Lookup.Group(ctx, pg)
	if err != nil {
		return false, err
	}
	s := g.Slots[slot]
	store := v.ask(s.Drive)
	if store == nil {
		return false, errAway
	}
	what, cause := v.worker.inspect.inspect(ctx, store, pg, slot, rec.Blob, deep)
	if what == good && deep {
		what, cause = v.fits(ctx, g, slot, rec.Blob)
	}
	if what == unknown {
		return false, fmt.Errorf("inspect blob %s at slot %d of pg %d: %w", id, slot, pg, cause)
	}
	if what == good || what == absent && s.State == storagenode.SlotRebuilding {
		return false, nil
	}
	if now, err := v.cfg.Lookup.Group(ctx, pg); err != nil || now.Slots[slot].Epoch != s.Epoch {
		return false, err
	}
	if v.ask(s.Drive) == nil {
		return false, errAway
	}
	if err := v.worker.markMissing(ctx, pg, id, slot); err != nil {
		return false, fmt.Errorf("mark blob %s missing at slot %d of pg %d: %w", id, slot, pg, err)
	}
	v.cfg.Logger.Warn("shard found bad", "pg", uint32(pg), "slot", slot, "blob", id.String(), "drive", s.Drive.String(), "err", cause)
	return true, nil
}

// fits says whether a slot's part of a blob that verifies by itself is also what the
// other slots give: one that was computed or summed wrongly is not. Only what was
// claimed gets here, so that it may cost the reading of all of the blob.
func (v *inventory) fits(ctx context.Context, g erasure.Group, slot int, b erasure.Blob) (finding, error) {
	all, err := v.cfg.Stripes.Verify(ctx, g, b)
	if err != nil {
		return unknown, err
	}
	if s := all.Slots[slot]; s.Finding == stripe.Corrupt {
		return corrupt, s.Err
	}
	return good, nil
}

// strays drops what drives still hold of slots that were mapped elsewhere and
// are clean there, so that nothing is read from the old place any more. It
// asks metadata for the slot once more right before, and takes the inventory of the
// slot: since it was called clean, its drive may have lost what nobody has looked for
// yet. What has a shard of a blob that is marked missing at the slot stays: a slot is
// clean also where such a blob could not be rebuilt, and that shard may be the last.
// It returns how many shards it marked missing.
func (v *inventory) strays(ctx context.Context, groups []metadata.GroupRecord, only map[storagenode.DriveID]bool) (int64, error) {
	if v.paused() {
		return 0, nil
	}
	var errs []error
	found := int64(0)
	for _, rep := range v.cfg.Drives.Reports() {
		store := v.ask(rep.ID)
		if store == nil || only != nil && !only[rep.ID] {
			continue
		}
		for _, g := range groups {
			for i, s := range g.Slots {
				if s.Epoch <= 1 || s.Drive == rep.ID || s.State != storagenode.SlotClean {
					continue
				}
				n, err := v.dropStray(ctx, store, rep.ID, g.PG, i)
				if found += n; err != nil {
					errs = append(errs, err)
				}
				if ctx.Err() != nil {
					return found, ctx.Err()
				}
			}
		}
	}
	return found, errors.Join(errs...)
}

// relieved drops at full drives, which others wait for the room of, what is there of
// slots that were rebuilt elsewhere.
func (v *inventory) relieved(ctx context.Context, rebuilt map[slotRef]bool) error {
	full := map[storagenode.DriveID]storagenode.ShardStore{}
	for _, rep := range v.cfg.Drives.Reports() {
		if store := v.ask(rep.ID); store != nil && (rep.Space.ReadOnly || v.worker.refuses(rep.ID)) {
			full[rep.ID] = store
		}
	}
	if len(full) == 0 {
		return nil
	}
	groups, err := v.cfg.Groups.ListGroups(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range groups {
		for i, s := range g.Slots {
			if s.State != storagenode.SlotClean || !rebuilt[slotRef{g.PG, uint8(i)}] {
				continue
			}
			for id, store := range full {
				if id != s.Drive {
					_, err := v.dropStray(ctx, store, id, g.PG, i)
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}

func (v *inventory) dropStray(ctx context.Context, store storagenode.ShardStore, id storagenode.DriveID, pg storagenode.PG, slot int) (found int64, err error) {
	c := v.worker.inspect.list(ctx, store, pg, slot)
	any, err := c.more, c.err
	c.close()
	if err != nil || !any {
		return 0, err
	}
	g, there, err := v.superseded(ctx, pg, slot, id)
	if err != nil || there == nil {
		return 0, err
	}
	s := g.Slots[slot]
	task := v.progress.begin(Inventory, "slots of former drives", 0)
	defer task.end()
	if found, err = v.compare(ctx, g, slot, there, task); err != nil {
		return found, err
	}
	if wanted, err := v.wanted(ctx, store, pg, slot); err != nil || wanted {
		return found, err
	}
	if now, there, err := v.superseded(ctx, pg, slot, id); err != nil || there == nil || now.Slots[slot] != s {
		return found, err
	}
	if err := v.prove(ctx); err != nil {
		return found, err
	}
	opCtx, cancel := context.WithTimeout(ctx, v.cfg.OpTimeout)
	defer cancel()
	err = store.DropSlot(opCtx, pg, slot, s.Epoch-1)
	if errors.Is(err, storagenode.ErrStaleEpoch) {
		return found, nil // the drive knows of a later mapping
	}
	if err != nil {
		return found, fmt.Errorf("drop slot %d of pg %d at its former drive %s: %w", slot, pg, id, err)
	}
	v.cfg.Logger.Info("slot dropped at its former drive", "pg", uint32(pg), "slot", slot, "drive", id.String())
	return found, nil
}

// superseded gives the store of the other drive on which a slot of this one is clean; nil
// where it is not, or where that drive cannot be asked.
func (v *inventory) superseded(ctx context.Context, pg storagenode.PG, slot int, id storagenode.DriveID) (g erasure.Group, there storagenode.ShardStore, err error) {
	if g, err = v.cfg.Lookup.Group(ctx, pg); err != nil {
		return g, nil, err
	}
	s := g.Slots[slot]
	if s.Drive == id || s.State != storagenode.SlotClean || !v.worker.fleet.readable(s.Drive) || v.paused() {
		return g, nil, nil
	}
	return g, v.ask(s.Drive), nil
}

// wanted says that a drive lists a blob which is marked missing at the slot.
func (v *inventory) wanted(ctx context.Context, store storagenode.ShardStore, pg storagenode.PG, slot int) (bool, error) {
	c := v.worker.inspect.list(ctx, store, pg, slot)
	defer c.close()
	for rec, err := range v.cfg.Blobs.ScanBlobs(ctx, pg, storagenode.BlobID{}) {
		if err != nil {
			return false, fmt.Errorf("scan blobs of pg %d: %w", pg, err)
		}
		if !rec.Blob.Missing.Has(slot) {
			continue
		}
		if err := c.seek(rec.Blob.ID, nil); err != nil {
			return false, fmt.Errorf("list slot %d of pg %d: %w", slot, pg, err)
		}
		if !c.more {
			return false, nil
		}
		if c.current.ID.Blob == rec.Blob.ID {
			return true, nil
		}
	}
	return false, nil
}
