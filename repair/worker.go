package repair

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

const (
	// queuedPerPass bounds how many repairs one pass has in the queue.
	queuedPerPass = 64
	// rebuildsAtOnce bounds the slots that are filled at the same time.
	rebuildsAtOnce = 4
	// classes orders repairs of the same margin: damage, then rebuilding.
	classes = 2
	// slowestRebuild is the bytes per second below which a rebuild is given up.
	slowestRebuild = 1 << 20
)

// errWaiting: the slot's drive cannot take the shard now.
var errWaiting = errors.New("the slot's drive cannot be written to")

// errNoRoom: another shard just found no room at the slot's drive.
var errNoRoom = fmt.Errorf("%w: %w", errWaiting, storagenode.ErrReadOnly)

// blobKey names a blob within a cluster.
type blobKey struct {
	pg   storagenode.PG
	blob storagenode.BlobID
}

// worker repairs blobs: those marked damaged, and those that a slot under
// rebuilding lacks.
type worker struct {
	cfg      *Config
	fleet    *fleet
	progress *progress
	inspect  *inspector
	gate     *gate
	budget   *budget
	formers  *formers

	damage, rebuild sync.Mutex // one pass of each kind at a time

	mu       sync.Mutex
	marked   atomic.Int64     // how often something was marked missing, counted before and after
	damaged  atomic.Int64     // blobs that the last look at damage left so
	busy     map[blobKey]bool // being repaired by this process; guarded by mu
	repaired int64            // shards; guarded by mu
	written  int64            // bytes; guarded by mu
	failed   int64            // guarded by mu
	// obstacles are of the slots whose rebuild failed; guarded by mu.
	obstacles map[slotRef]obstacle
	lacks     map[slotRef]lack                // of slots under rebuilding; guarded by mu
	refused   map[storagenode.DriveID]refusal // guarded by mu
	refusals  int64                           // guarded by mu
	crowded   map[slotRef]crowding            // slots that lack shards and whose drives are full; guarded by mu
}

func newWorker(cfg *Config, f *fleet, p *progress) *worker {
	inspect := &inspector{cfg: cfg}
	return &worker{
		cfg: cfg, fleet: f, progress: p,
		inspect:   inspect,
		gate:      &gate{free: cfg.Concurrency},
		budget:    newBudget(cfg.Clock, cfg.BytesPerSecond),
		formers:   &formers{cfg: cfg, fleet: f, inspect: inspect},
		busy:      map[blobKey]bool{},
		obstacles: map[slotRef]obstacle{},
		lacks:     map[slotRef]lack{},
		refused:   map[storagenode.DriveID]refusal{},
	}
}

// liveSlots are the slots of a group whose drives hold what they should and
// can be asked.
func liveSlots(f *fleet, g erasure.Group) erasure.SlotMask {
	var live erasure.SlotMask
	for i, s := range g.Slots {
		if s.State == storagenode.SlotClean && f.readable(s.Drive) {
			live = live.With(i)
		}
	}
	return live
}

// margin is how many more losses a blob survives where only live slots count.
func margin(s erasure.Scheme, mode erasure.Mode, present erasure.SlotMask) int {
	n := present.Count()
	if mode == erasure.Replicated {
		return n - 1
	}
	return n - int(s.K)
}

// repairDamage repairs what is marked missing, least margin first. What cannot
// be repaired yet, for its drive is away, is left for a later pass. It returns how many
// blobs are still damaged.
func (w *worker) repairDamage(ctx context.Context) (int64, error) {
	w.damage.Lock()
	defer w.damage.Unlock()
	var (
		jobs  errgroup.Group
		mu    sync.Mutex
		left  int64
		first error
	)
	groups, crowded, began := &groupCache{lookup: w.cfg.Lookup}, map[slotRef]crowding{}, w.cfg.Clock.Now()
	jobs.SetLimit(queuedPerPass)
	note := func(err error) {
		mu.Lock()
		left++
		if first == nil && !errors.Is(err, errWaiting) {
			first = err
		}
		mu.Unlock()
	}
	for rec, err := range w.cfg.Blobs.ScanDamaged(ctx) {
		if err != nil {
			_ = jobs.Wait()
			return left, fmt.Errorf("scan damaged blobs: %w", err)
		}
		g, err := groups.group(ctx, rec.PG)
		if err != nil {
			_ = jobs.Wait()
			return left, err
		}
		w.crowd(g, rec.Blob.Missing, crowded)
		slots := w.writable(g, rec.Blob.Missing)
		if slots == 0 {
			note(errWaiting)
			continue
		}
		jobs.Go(func() error {
			if _, err := w.repair(ctx, g, rec, slots, 0, began); err != nil {
				note(err)
			} else if slots != rec.Blob.Missing {
				note(errWaiting)
			}
			return nil
		})
	}
	_ = jobs.Wait()
	if ctx.Err() != nil {
		return left, ctx.Err()
	}
	w.damaged.Store(left)
	w.mu.Lock()
	w.crowded = crowded
	w.mu.Unlock()
	return left, first
}

// writable gives those of slots whose drives can take shards now.
func (w *worker) writable(g erasure.Group, slots erasure.SlotMask) erasure.SlotMask {
	var out erasure.SlotMask
	for i, s := range g.Slots {
		if !slots.Has(i) {
			continue
		}
		if store, full := w.open(s.Drive); store != nil && !full {
			out = out.With(i)
		}
	}
	return out
}

// open gives the store of a drive that is there to be written to, nil where it is not,
// and whether it says that it is full.
func (w *worker) open(id storagenode.DriveID) (store storagenode.ShardStore, full bool) {
	d, _ := w.fleet.drive(id)
	store, state := w.cfg.Drives.Drive(id)
	if d.dead() || !state.Writable() {
		return nil, false
	}
	return store, d.report.Space.ReadOnly
}

// repair waits for its turn and recreates the blob's shards at slots, but where a drive
// had no room for another since a time. It returns the bytes written.
func (w *worker) repair(ctx context.Context, g erasure.Group, rec metadata.BlobRecord, slots erasure.SlotMask, class int, since time.Time) (int64, error) {
	key := blobKey{rec.PG, rec.Blob.ID}
	left := margin(g.Scheme, rec.Blob.Mode, rec.Blob.Slots&^rec.Blob.Missing&^slots&liveSlots(w.fleet, g))
	size := slotBytes(g.Scheme, rec.Blob)
	if err := w.gate.enter(ctx, left*classes+class, size*int64(slots.Count())); err != nil {
		return 0, err
	}
	defer w.gate.leave()
	if !w.take(key) {
		return 0, fmt.Errorf("blob %s is being repaired already: %w", rec.Blob.ID, errWaiting)
	}
	defer w.give(key)
	written := int64(0)
	var errs []error
	for i := range g.Slots {
		if !slots.Has(i) {
			continue
		}
		if w.refusedSince(g.Slots[i].Drive, since) {
			errs = append(errs, errNoRoom)
			continue
		}
		if left > 0 {
			if err := w.budget.spend(ctx, g.Slots[i].Drive, size); err != nil {
				return written, err
			}
		}
		err := w.repairSlot(ctx, rec.PG, rec.Blob.ID, i)
		w.count(err, size)
		if err != nil {
			errs = append(errs, fmt.Errorf("repair blob %s at slot %d of pg %d: %w", rec.Blob.ID, i, rec.PG, err))
			continue
		}
		left++
		written += size
	}
	return written, errors.Join(errs...)
}

// repairSlot recreates one slot's part of a blob from what metadata says now.
// A blob that was deleted meanwhile is removed again from the slot: whoever
// deletes it from here on finds the slot's epoch and sends a tombstone.
func (w *worker) repairSlot(ctx context.Context, pg storagenode.PG, id storagenode.BlobID, slot int) error {
	rec, err := w.cfg.Blobs.Blob(ctx, pg, id)
	if err != nil || rec == nil || !rec.Blob.Slots.Has(slot) {
		return err
	}
	g, err := w.cfg.Lookup.Group(ctx, pg)
	if err != nil {
		return err
	}
	s := g.Slots[slot]
	dst, state := w.cfg.Drives.Drive(s.Drive)
	if dst == nil || !state.Writable() {
		return errWaiting
	}
	blob := rec.Blob
	blob.Missing = blob.Missing.With(slot) // never a source for itself
	// A drive that hangs must not hold a place in the queue for ever.
	patience := w.cfg.OpTimeout + time.Duration(slotBytes(g.Scheme, blob)/slowestRebuild)*time.Second
	fillCtx, cancel := context.WithTimeout(ctx, patience)
	rebuilt := w.cfg.Stripes.Rebuild(fillCtx, g, blob, slot, dst, s.Epoch)
	rebuilt = w.rescue(fillCtx, g, blob, slot, dst, rebuilt)
	cancel()
	if errors.Is(rebuilt, storagenode.ErrReadOnly) {
		w.refuse(s.Drive)
	} else if rebuilt == nil {
		w.took(s.Drive)
	}
	// Also a failed rebuild may have written something.
	now, err := w.cfg.Blobs.Blob(ctx, pg, id)
	if err != nil {
		return errors.Join(rebuilt, err)
	}
	if now == nil {
		return w.takeBack(ctx, dst, pg, slot, id)
	}
	if rebuilt != nil || !now.Blob.Missing.Has(slot) {
		return rebuilt
	}
	err = w.cfg.Blobs.MarkPresent(ctx, g, id, erasure.SlotMask(0).With(slot))
	if errors.Is(err, metadata.ErrNoSuchBlob) {
		return w.takeBack(ctx, dst, pg, slot, id)
	}
	if err != nil {
		return fmt.Errorf("mark present: %w", err)
	}
	return nil
}

func (w *worker) takeBack(ctx context.Context, dst storagenode.ShardStore, pg storagenode.PG, slot int, id storagenode.BlobID) error {
	opCtx, cancel := context.WithTimeout(ctx, w.cfg.OpTimeout)
	defer cancel()
	if err := dst.Delete(opCtx, pg, slot, id); err != nil {
		return fmt.Errorf("take back blob %s, deleted during its repair: %w", id, err)
	}
	return nil
}

// markMissing marks a slot's part of a blob. Status knows of it at once, though the
// blobs are counted later: a count that began before the mark was made does not have it.
func (w *worker) markMissing(ctx context.Context, pg storagenode.PG, id storagenode.BlobID, slot int) error {
	w.marked.Add(1)
	defer w.marked.Add(1)
	return w.cfg.Blobs.MarkMissing(ctx, pg, id, erasure.SlotMask(0).With(slot))
}

func (w *worker) take(k blobKey) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy[k] {
		return false
	}
	w.busy[k] = true
	return true
}

func (w *worker) give(k blobKey) {
	w.mu.Lock()
	delete(w.busy, k)
	w.mu.Unlock()
}

func (w *worker) count(err error, size int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failed++
		return
	}
	w.repaired++
	w.written += size
}

// bytes is how many were written by repairs so far.
func (w *worker) bytes() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}

// shards is the number of shards repaired so far.
func (w *worker) shards() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.repaired
}

// groupCache remembers groups for the length of one pass; what acts on them
// asserts epochs, or looks again.
type groupCache struct {
	lookup GroupLookup
	known  map[storagenode.PG]erasure.Group
}

func (c *groupCache) group(ctx context.Context, pg storagenode.PG) (erasure.Group, error) {
	if g, ok := c.known[pg]; ok {
		return g, nil
	}
	g, err := c.lookup.Group(ctx, pg)
	if err != nil {
		return g, fmt.Errorf("look up pg %d: %w", pg, err)
	}
	if c.known == nil {
		c.known = map[storagenode.PG]erasure.Group{}
	}
	c.known[pg] = g
	return g, nil
}
