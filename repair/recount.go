package repair

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// groupsAtOnce bounds the groups recounted or verified at the same time.
const groupsAtOnce = 2

// Report is what an independent count of everything found: for each blob that
// metadata knows, whether each of its slots' drives lists it in full.
type Report struct {
	At      time.Time     `json:"at"` // when it began
	Took    time.Duration `json:"tookNS"`
	Blobs   int64         `json:"blobs"`
	Bytes   int64         `json:"bytes"`
	Full    int64         `json:"full"`    // all shards listed, none marked bad
	Damaged int64         `json:"damaged"` // at least one shard absent or marked bad
	// Unreached blobs have all other shards, but at least one that lies on a
	// drive that cannot be asked.
	Unreached  int64         `json:"unreached"`
	Unreadable int64         `json:"unreadable"` // fewer than k good shards can be had
	Found      int64         `json:"found"`      // absent shards that were not known before
	Margins    []MarginCount `json:"margins"`
	// Drives that could not be asked, or whose list broke off.
	Drives []storagenode.DriveID `json:"drives"`
	// Whole: every blob is Full.
	Whole bool `json:"whole"`
}

// recounter gathers a Report.
type recounter struct {
	r       *Repairer
	mu      sync.Mutex
	report  Report                       // guarded by mu
	margins map[int]tally                // guarded by mu
	silent  map[storagenode.DriveID]bool // guarded by mu
}

// Recount walks all groups, their blobs, and what every slot's drive lists of
// them, and says how many blobs have their full redundancy. Absent shards that
// nobody knew of are marked for repair. ErrNotLeader.
func (r *Repairer) Recount(ctx context.Context) (Report, error) {
	ctx, done, err := r.leader.enter(ctx)
	if err != nil {
		return Report{}, err
	}
	defer done()
	began := r.cfg.Clock.Now()
	groups, err := r.cfg.Groups.ListGroups(ctx)
	if err != nil {
		return Report{}, err
	}
	task := r.progress.begin(Counting, "all blobs", 0)
	defer task.end()
	c := &recounter{r: r, margins: map[int]tally{}, silent: map[storagenode.DriveID]bool{}}
	jobs, jobCtx := errgroup.WithContext(ctx)
	jobs.SetLimit(groupsAtOnce)
	for _, g := range groups {
		jobs.Go(func() error { return c.group(jobCtx, g.Group, task) })
	}
	if err := jobs.Wait(); err != nil {
		return Report{}, fmt.Errorf("recount: %w", err)
	}
	rep := c.report
	rep.At, rep.Took = began, r.cfg.Clock.Now().Sub(began)
	rep.Whole = rep.Full == rep.Blobs
	rep.Margins, rep.Drives = []MarginCount{}, []storagenode.DriveID{}
	for m, t := range c.margins {
		rep.Margins = append(rep.Margins, MarginCount{m, t.blobs, t.bytes})
	}
	sort.Slice(rep.Margins, func(a, b int) bool { return rep.Margins[a].Margin < rep.Margins[b].Margin })
	for id := range c.silent {
		rep.Drives = append(rep.Drives, id)
	}
	sort.Slice(rep.Drives, func(a, b int) bool { return rep.Drives[a].String() < rep.Drives[b].String() })
	r.mu.Lock()
	r.recount = &rep
	r.mu.Unlock()
	if rep.Found > 0 {
		r.kick(Damage)
	}
	return rep, nil
}

// countAnew has everything counted: what was lacking was repaired.
func (r *Repairer) countAnew() {
	r.kick(Counting)
	r.Start(Census)
}

// forgetCounts drops what was counted under a term that ended.
func (r *Repairer) forgetCounts() {
	r.census.fresh.Store(true)
	r.worker.damaged.Store(0)
	r.mu.Lock()
	r.recount = nil
	r.mu.Unlock()
}

// lastRecount is what was counted last under this term, nil: nothing.
func (r *Repairer) lastRecount() *Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.recount
}

// recountPass is Recount as a pass of Run.
func (r *Repairer) recountPass(ctx context.Context) error {
	_, err := r.Recount(ctx)
	return err
}

// ask gives the store of a drive that can be asked; nil also where its slots are to
// be moved away: what is on it counts as there for nobody.
func (c *recounter) ask(id storagenode.DriveID) storagenode.ShardStore {
	if d, ok := c.r.fleet.drive(id); ok && d.dead() {
		return nil
	}
	return c.r.inventory.ask(id)
}

// group counts one group: its blobs in order beside one list for each slot.
func (c *recounter) group(ctx context.Context, g erasure.Group, task running) error {
	cursors := make([]*cursor, len(g.Slots))
	for i, s := range g.Slots {
		store := c.ask(s.Drive)
		if store == nil {
			continue
		}
		cursors[i] = c.r.worker.inspect.list(ctx, store, g.PG, i)
		defer cursors[i].close()
	}
	for rec, err := range c.r.cfg.Blobs.ScanBlobs(ctx, g.PG, storagenode.BlobID{}) {
		if err != nil {
			return fmt.Errorf("scan blobs of pg %d: %w", g.PG, err)
		}
		if err := c.blob(ctx, g, cursors, rec); err != nil {
			return err
		}
		task.add(rec.Blob.Size)
	}
	return ctx.Err()
}

func (c *recounter) blob(ctx context.Context, g erasure.Group, cursors []*cursor, rec metadata.BlobRecord) error {
	var have, silent, moves erasure.SlotMask
	found := int64(0)
	for i := range g.Slots {
		if !rec.Blob.Slots.Has(i) {
			continue
		}
		has, err := listed(cursors[i], rec.Blob)
		switch {
		case err != nil:
			silent = silent.With(i)
			cursors[i] = nil
		case rec.Blob.Missing.Has(i):
		case has:
			have = have.With(i)
		default: // written, moved or deleted since the list began, or truly absent
			state, marked, err := c.again(ctx, g.PG, i, rec.Blob.ID)
			if err != nil {
				return err
			}
			switch {
			case state == gone:
				return nil
			case state == there:
				have = have.With(i)
			case state == unheard:
				silent = silent.With(i)
			case state == leaving:
				moves = moves.With(i)
			}
			if marked {
				found++
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, s := range g.Slots {
		if silent.Has(i) {
			c.silent[s.Drive] = true
		}
	}
	left := margin(g.Scheme, rec.Blob.Mode, have|moves)
	t := c.margins[left]
	c.margins[left] = tally{t.blobs + 1, t.bytes + rec.Blob.Size}
	c.report.Blobs++
	c.report.Bytes += rec.Blob.Size
	c.report.Found += found
	if left < 0 {
		c.report.Unreadable++
	}
	switch {
	case have == rec.Blob.Slots:
		c.report.Full++
	case have|silent == rec.Blob.Slots:
		c.report.Unreached++
	default:
		c.report.Damaged++
	}
	return nil
}

func listed(c *cursor, b erasure.Blob) (bool, error) {
	if c == nil {
		return false, storagenode.ErrUnavailable
	}
	if err := c.seek(b.ID, nil); err != nil {
		return false, err
	}
	return c.holds(b)
}

// presence is what a second look says of a shard that was not listed.
type presence uint8

const (
	missing presence = iota
	there
	unheard // its drive cannot be asked
	gone    // the blob was deleted
	leaving // it is still on the drive that the slot is moved from
)

// again looks once more at a slot's part of a blob, by all that is known now,
// and marks what is truly absent and was not known to be.
func (c *recounter) again(ctx context.Context, pg storagenode.PG, slot int, id storagenode.BlobID) (presence, bool, error) {
	rec, err := c.r.cfg.Blobs.Blob(ctx, pg, id)
	if err != nil {
		return missing, false, err
	}
	if rec == nil {
		return gone, false, nil
	}
	if rec.Blob.Missing.Has(slot) {
		return missing, false, nil
	}
	g, err := c.r.cfg.Lookup.Group(ctx, pg)
	if err != nil {
		return missing, false, err
	}
	store := c.ask(g.Slots[slot].Drive)
	if store == nil {
		return unheard, false, nil
	}
	what, _ := c.r.worker.inspect.inspect(ctx, store, pg, slot, rec.Blob, false)
	switch what {
	case good:
		return there, false, nil
	case unknown:
		return unheard, false, ctx.Err()
	}
	if s := g.Slots[slot]; what == absent && s.State == storagenode.SlotRebuilding {
		if from := c.ask(s.From); from != nil {
			if what, _ := c.r.worker.inspect.inspect(ctx, from, pg, slot, rec.Blob, false); what == good {
				return leaving, false, nil
			}
		}
		return missing, false, nil // nothing to mark: rebuilding looks for what the slot lacks
	}
	marked, err := c.r.inventory.confirm(ctx, pg, id, slot, false)
	if errors.Is(err, metadata.ErrUnavailable) || ctx.Err() != nil {
		return missing, false, errors.Join(err, ctx.Err())
	}
	return missing, marked, nil
}
