package repair

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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
	left, slots, err := r.worker.rebuildSlots(ctx)
	if len(slots) > 0 {
		err = errors.Join(err, r.inventory.relieved(ctx, slots))
	}
	return left, len(slots), err
}

// rebuildSlots fills every slot under rebuilding whose drive can be written
// to, those of the groups with the least margin first, as it is when one is begun: a
// pass takes hours, in which other drives fail. None is tried twice. It returns how many
// are left and which became clean.
func (w *worker) rebuildSlots(ctx context.Context) (left int, done map[slotRef]bool, err error) {
	w.rebuild.Lock()
	defer w.rebuild.Unlock()
	began := w.cfg.Clock.Now()
	groups, err := w.cfg.Groups.ListGroups(ctx)
	if err != nil {
		return 0, nil, err
	}
	var (
		tried    = map[slotRef]bool{}
		running  = map[storagenode.PG]bool{}
		finished = make(chan storagenode.PG)
		mu       sync.Mutex
		first    error
	)
	done = map[slotRef]bool{}
	try := func(g erasure.Group, slot int) {
		err := errNoRoom
		if !w.refusedSince(g.Slots[slot].Drive, began) {
			err = w.rebuildSlot(ctx, g, slot)
		}
		if ctx.Err() == nil {
			w.tried(g, slot, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			left++
			if first == nil && !errors.Is(err, errWaiting) {
				first = err
			}
		} else {
			done[slotRef{g.PG, uint8(slot)}] = true
		}
	}
	jobs, listed := w.rebuildJobs(groups, tried, running), began
	for {
		if now := w.cfg.Clock.Now(); now.Sub(listed) >= w.cfg.Tick {
			if again, err := w.cfg.Groups.ListGroups(ctx); err == nil { // else in the order known
				jobs, listed = w.rebuildJobs(again, tried, running), now
			}
		}
		if len(jobs) == 0 && len(running) == 0 || ctx.Err() != nil {
			break
		}
		if len(jobs) == 0 || len(running) == rebuildsAtOnce {
			delete(running, <-finished)
			continue
		}
		j := jobs[0]
		jobs, running[j.g.PG] = jobs[1:], true
		for _, slot := range j.slots {
			tried[slotRef{j.g.PG, uint8(slot)}] = true
		}
		go func() {
			for _, slot := range j.slots {
				try(j.g, slot)
			}
			finished <- j.g.PG
		}()
	}
	for range running {
		<-finished
	}
	return left, done, errors.Join(first, ctx.Err())
}

// rebuildJob is what is to be rebuilt of a group.
type rebuildJob struct {
	g     erasure.Group
	slots []int // one after the other: they lack the same blobs
	left  int
}

// rebuildJobs gives the slots under rebuilding that were not tried, by group, those with
// the least margin first, but nothing of the groups that are in hand.
func (w *worker) rebuildJobs(groups []metadata.GroupRecord, tried map[slotRef]bool, running map[storagenode.PG]bool) (jobs []rebuildJob) {
	for _, g := range groups {
		if running[g.PG] {
			continue
		}
		j := rebuildJob{g: g.Group, left: margin(g.Scheme, erasure.Encoded, liveSlots(w.fleet, g.Group))}
		for i, s := range g.Slots {
			if s.State == storagenode.SlotRebuilding && !tried[slotRef{g.PG, uint8(i)}] {
				j.slots = append(j.slots, i)
			}
		}
		if len(j.slots) > 0 {
			jobs = append(jobs, j)
		}
	}
	slices.SortStableFunc(jobs, func(a, b rebuildJob) int { return cmp.Compare(a.left, b.left) })
	return jobs
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
