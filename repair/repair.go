// Package repair keeps the promised redundancy: it notices drives that are
// gone, maps their slots to others, rebuilds what is missing, finds corruption
// before users do, and collects what nobody owns any more.
//
// Start at Repairer.Run, which drives these parts, one file each:
//
//	leader      who of several repairers does all this, under which term
//	membership  nodes announce themselves; the cluster is founded
//	detector    what each drive's state is, from what nodes report
//	planner     slots of dead drives are mapped to healthy ones
//	worker      blobs are rebuilt, worst margin first (queue: who goes first)
//	inventory   what a slot should hold, compared with what its drive lists
//	scrub       every record of every drive is read and verified
//	orphans     shards that metadata does not know are collected, slowly
//	deletes     deletes owed to drives are carried out
//	durability  how many more losses each blob survives, and what if
//	recount     the independent count behind the word "whole"
//
// Two rules hold everywhere. Unreachable is not absent: only a drive's own
// answer that it does not have a shard counts. And nothing is destroyed but on
// proof taken from metadata at that moment. Any number of repairers may run at
// once: one leads, the others only look. Whatever a pass changes it changes
// under the term that its context carries (leader), so that work which comes
// late is refused; slot epochs, asserted by drives and metadata alike, do the
// same at the drives.
package repair

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// Stripes recreates and verifies shards; erasure/stripe's Set is one.
type Stripes interface {
	// Rebuild recreates all shards of one slot of a blob at dst from verified
	// others, makes them durable, reads them back and verifies them.
	Rebuild(ctx context.Context, g erasure.Group, b erasure.Blob, slot int, dst storagenode.ShardStore, epoch uint32) error
	// Move is Rebuild from what drive from has of the slot, as it is there.
	Move(ctx context.Context, g erasure.Group, b erasure.Blob, slot int, from storagenode.DriveID, dst storagenode.ShardStore, epoch uint32) error
	// Verify reads every shard of a blob and says what it found at each slot.
	Verify(ctx context.Context, g erasure.Group, b erasure.Blob) (stripe.Report, error)
}

// GroupLookup gives a group as it is now.
type GroupLookup interface {
	Group(ctx context.Context, pg storagenode.PG) (erasure.Group, error)
}

// Config is what a Repairer needs. The interfaces must be set; every other
// field may be zero, which gives what is said beside it.
type Config struct {
	Blobs   metadata.Blobs
	Groups  metadata.Groups
	Lookup  GroupLookup
	Records metadata.DriveRecords
	Horizon metadata.Horizon
	Leaders metadata.Leaders
	Nodes   metadata.Nodes
	// Switches keeps Pause for whoever leads, Rounds how far slow rounds are.
	Switches metadata.Switches
	Rounds   metadata.Rounds
	Stripes  Stripes
	Drives   storagenode.Reporter
	// Foundation keeps the cluster's UUID. The first leader founds the cluster.
	Foundation metadata.Foundation
	// Cluster is the UUID that the drives have, where they are this process's;
	// zero: it is the metadata's, and made when the cluster is founded.
	Cluster storagenode.UUID

	// Tenant keeps something else on the drives; nil: nobody does.
	Tenant Tenant

	// Sole says that no other process can have the metadata open, for an engine
	// that locks it: a lease that is found is of this process's former life and
	// taken at once, and none is renewed.
	Sole bool
	// Lease is how long the leader goes on without a renewal; 10 s. Another
	// takes over after a quarter more and a fifth, the time between its looks.
	Lease time.Duration
	// AdminAddress is where this process's admin API answers, for others to
	// find the leader; may be empty.
	AdminAddress string

	Clock      clock.Clock           // the system's
	Logger     *slog.Logger          // discards
	Registerer prometheus.Registerer // no metrics

	Tick     time.Duration // between looks at the drives; 3 s
	OutAfter time.Duration // unreachable for so long: OUT; a slot that lacks shards its drive has no room for moves; 10 min
	// OpTimeout is how long one drive may be silent within one operation; 30 s.
	OpTimeout time.Duration
	// NodeTimeout is how long a node that fell silent keeps its name; 30 s.
	NodeTimeout time.Duration
	// Concurrency is the number of blobs repaired at once; 8.
	Concurrency int
	// BytesPerSecond bounds what repair writes to one drive; 0: no limit. A
	// blob that would not survive one more loss is repaired without limit.
	BytesPerSecond int64

	ScrubInterval time.Duration // between full passes of a drive; 14 days
	// ScrubBytesPerSecond bounds a drive's scrub; 0: what lets a pass take a
	// quarter of ScrubInterval, at least 8 MiB.
	ScrubBytesPerSecond int64
	InventoryInterval   time.Duration // 24 h
	CensusInterval      time.Duration // 1 min, longer where a census takes long

	OrphanInterval   time.Duration // between orphan passes; 24 h
	OrphanAge        time.Duration // how far back the horizon lies; 24 h
	OrphanQuarantine time.Duration // 72 h
}

func (c *Config) setDefaults() {
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.Concurrency <= 0 {
		c.Concurrency = 8
	}
	for d, v := range map[*time.Duration]time.Duration{
		&c.Tick:              3 * time.Second,
		&c.Lease:             10 * time.Second,
		&c.NodeTimeout:       30 * time.Second,
		&c.OutAfter:          10 * time.Minute,
		&c.OpTimeout:         30 * time.Second,
		&c.ScrubInterval:     14 * 24 * time.Hour,
		&c.InventoryInterval: 24 * time.Hour,
		&c.CensusInterval:    time.Minute,
		&c.OrphanInterval:    24 * time.Hour,
		&c.OrphanAge:         24 * time.Hour,
		&c.OrphanQuarantine:  72 * time.Hour,
	} {
		if *d <= 0 {
			*d = v
		}
	}
}

// Repairer runs the parts of this package. Safe for concurrent use.
type Repairer struct {
	cfg       *Config
	fleet     *fleet
	progress  *progress
	leader    *leadership
	members   *membership
	detector  *detector
	planner   *planner
	worker    *worker
	inventory *inventory
	reader    *readRepair
	scrubber  *scrubber
	orphans   *orphans
	deletes   *deletes
	census    *census

	paused atomic.Bool
	kicks  map[Kind]chan struct{}
	// round keeps RepairNow and the loop of detection and planning apart.
	round sync.Mutex

	mu      sync.Mutex
	recount *Report // the last one; guarded by mu
}

// New makes a Repairer; nothing runs before Run.
func New(cfg Config) (*Repairer, error) {
	if cfg.Blobs == nil || cfg.Groups == nil || cfg.Lookup == nil || cfg.Records == nil ||
		cfg.Horizon == nil || cfg.Leaders == nil || cfg.Nodes == nil || cfg.Foundation == nil || cfg.Switches == nil || cfg.Rounds == nil || cfg.Stripes == nil || cfg.Drives == nil {
		return nil, errors.New("repair: an interface of Config is not set")
	}
	cfg.setDefaults()
	r := &Repairer{cfg: &cfg, fleet: newFleet(), progress: newProgress(cfg.Clock), kicks: map[Kind]chan struct{}{}}
	for _, k := range kinds {
		r.kicks[k] = make(chan struct{}, 1)
	}
	r.leader = newLeadership(r.cfg)
	r.members = newMembership(r.cfg, r.leader, r.fleet)
	r.detector = &detector{cfg: r.cfg, fleet: r.fleet, announced: r.members.announced}
	moved := &moving{}
	r.worker = newWorker(r.cfg, r.fleet, r.progress)
	r.census = &census{cfg: r.cfg, fleet: r.fleet, moving: moved, running: make(chan struct{}, 1), marked: r.worker.marked.Load}
	r.planner = &planner{cfg: r.cfg, fleet: r.fleet, moving: moved, worker: r.worker, census: r.census, kept: map[storagenode.DriveID]keptDrive{}, relieved: map[storagenode.DriveID]time.Time{}}
	r.inventory = &inventory{cfg: r.cfg, worker: r.worker, progress: r.progress, moving: moved, paused: r.paused.Load, prove: r.mayDestroy}
	r.reader = newReadRepair(r.inventory, func() { r.kick(Damage) })
	r.scrubber = newScrubber(r.cfg, r.fleet, r.reader, r.progress)
	r.orphans = newOrphans(r.cfg, r.inventory, r.paused.Load)
	r.deletes = &deletes{cfg: r.cfg, fleet: r.fleet, paused: r.paused.Load, prove: r.mayDestroy}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(&metrics{r: r}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Kind names a kind of pass.
type Kind string

// The passes that Start can begin at once.
const (
	Damage    Kind = "damage"    // repair what is known to be damaged
	Rebuild   Kind = "rebuild"   // fill the slots that are being rebuilt
	Inventory Kind = "inventory" // compare every slot with its drive's list
	Scrub     Kind = "scrub"     // read and verify every record of every drive
	Orphans   Kind = "orphans"   // look for shards that metadata does not know
	Deletes   Kind = "deletes"   // carry out deletes that are owed
	Census    Kind = "census"    // count margins anew
	Counting  Kind = "recount"   // count afresh what drives list of every blob
)

var kinds = [...]Kind{Damage, Rebuild, Inventory, Scrub, Orphans, Deletes, Census, Counting}

// Start begins a pass now, in Run's background, and says whether k is a kind.
func (r *Repairer) Start(k Kind) bool {
	if _, ok := r.kicks[k]; !ok {
		return false
	}
	if k == Scrub {
		r.scrubber.dueNow()
	}
	if k == Census {
		r.census.fresh.Store(true)
	}
	if k == Inventory {
		r.inventory.all.Store(true)
	}
	r.kick(k)
	return true
}

func (r *Repairer) kick(k Kind) {
	select {
	case r.kicks[k] <- struct{}{}:
	default: // one is waiting already
	}
}

// Kick says that a delete was committed: its tombstones go out now.
func (r *Repairer) Kick() { r.kick(Deletes) }

// Pause stops everything that destroys: tombstones, the collection of
// orphans, the dropping of slots that moved away. What repairs goes on. It holds
// for every repairer, and until Resume, also over restarts.
func (r *Repairer) Pause(ctx context.Context) error { return r.pause(ctx, true) }

// Resume ends Pause.
func (r *Repairer) Resume(ctx context.Context) error {
	err := r.pause(ctx, false)
	r.kick(Deletes)
	return err
}

func (r *Repairer) pause(ctx context.Context, paused bool) error {
	if err := r.cfg.Switches.SetPaused(ctx, paused); err != nil {
		return err
	}
	r.paused.Store(paused)
	return nil
}

// errPaused: an operator wants nothing destroyed.
var errPaused = errors.New("paused by an operator")

// refreshPaused takes over what was switched through any process.
func (r *Repairer) refreshPaused(ctx context.Context) error {
	paused, err := r.cfg.Switches.Paused(ctx)
	if err == nil {
		r.paused.Store(paused)
	}
	return err
}

// mayDestroy gives fresh proof, right before something is destroyed, that this
// process leads and that nobody paused.
func (r *Repairer) mayDestroy(ctx context.Context) error {
	if err := r.leader.prove(ctx); err != nil {
		return err
	}
	if err := r.refreshPaused(ctx); err != nil {
		return err
	}
	if r.paused.Load() {
		return errPaused
	}
	return nil
}

// Notify reports a shard that a reader found missing or corrupt; it is made for
// stripe.Config.Damaged. It never blocks; the claim is verified before anything
// follows from it.
func (r *Repairer) Notify(d stripe.Damage) {
	r.reader.notify(claim{pg: d.PG, slot: d.Slot, blob: d.Blob})
}

// NotifyAll is Notify for claims that came from other processes; those that name no
// blob or no slot are passed over.
func (r *Repairer) NotifyAll(claims []storagenode.ShardClaim) {
	for _, c := range claims {
		if id, err := storagenode.ParseBlobID(c.Blob); err == nil && c.Slot >= 0 && c.Slot < storagenode.MaxSlots {
			r.Notify(stripe.Damage{PG: c.PG, Slot: c.Slot, Blob: id})
		}
	}
}

// Run waits until this repairer leads, then detects, plans, repairs and
// collects while it does, until ctx ends.
func (r *Repairer) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		t, err := r.leader.try(ctx)
		switch {
		case t != nil:
			r.lead(ctx, t)
			continue
		case err != nil && ctx.Err() == nil:
			r.cfg.Logger.Warn("who leads the repairers is not known", "err", err)
		}
		if err := r.observe(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("look at the drives failed", "err", err)
		}
		_ = r.cfg.Clock.Sleep(ctx, min(r.leader.beat(), r.cfg.Tick))
	}
	return context.Cause(ctx)
}

// lead runs every pass under a term, until it or ctx ends.
func (r *Repairer) lead(ctx context.Context, t *tenure) {
	defer r.leader.resign(ctx, t)
	ctx, done := bind(ctx, t)
	defer done()
	defer r.forgetCounts() // another goes on, and these would stay as they are
	var all sync.WaitGroup
	defer all.Wait()
	if !r.cfg.Sole {
		all.Go(func() { r.leader.tend(ctx, t) })
	}
	// What former leaders had begun and found is not known: every slot is looked at,
	// and nothing counted before is said any more.
	r.inventory.all.Store(true)
	r.forgetCounts()
	if _, err := r.look(ctx); err != nil {
		r.cfg.Logger.Warn("first look at the drives failed", "err", err)
	}
	all.Go(func() { r.loop(ctx, "", r.cfg.Tick, r.detectAndPlan) })
	all.Go(func() { r.loop(ctx, Damage, 10*r.cfg.Tick, r.damagePass) })
	all.Go(func() { r.loop(ctx, Rebuild, 10*r.cfg.Tick, r.rebuildPass) })
	all.Go(func() { r.loop(ctx, Counting, 24*time.Hour, r.recountPass) })
	all.Go(func() { r.loop(ctx, Inventory, 10*r.cfg.Tick, r.inventoryPass) })
	all.Go(func() { r.loop(ctx, Scrub, time.Minute, r.scrubber.pass) })
	all.Go(func() { r.loop(ctx, Orphans, r.cfg.OrphanInterval, r.orphans.pass) })
	all.Go(func() { r.loop(ctx, Deletes, 10*r.cfg.Tick, r.deletes.pass) })
	all.Go(func() { r.loop(ctx, Census, r.cfg.CensusInterval, r.census.pass) })
	all.Go(func() { r.reader.run(ctx) })
	<-ctx.Done()
}

// longestPause is how long a pass is left out at most for what the last one took: that
// may be hours, most of which it waited, and what is urgent does not always kick.
const longestPause = 5 * time.Minute

// loop runs pass at once, then at every interval and whenever it is kicked. A
// pass that fails is tried again after a wait that doubles from one tick up to
// the interval or a minute, whichever is less; kicks do not shorten it to less
// than what the last pass took, or than a tick where that failed: whatever is in
// its way is in the way of the next one, too.
func (r *Repairer) loop(ctx context.Context, k Kind, interval time.Duration, pass func(context.Context) error) {
	wait := r.cfg.Tick
	for ctx.Err() == nil {
		began := r.cfg.Clock.Now()
		err := pass(ctx)
		next, rest := interval, time.Duration(0)
		if errors.Is(err, errPaused) {
			err = nil // it goes on when it is kicked, or the next time
		}
		if errors.Is(err, metadata.ErrStaleTerm) {
			r.leader.overtaken(ctx, err)
			return
		}
		if err != nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("repair pass did not complete", "kind", string(k), "err", err)
			next, rest = min(wait, interval), r.cfg.Tick
			wait = min(2*wait, time.Minute)
		} else {
			wait = r.cfg.Tick
		}
		took := r.cfg.Clock.Now().Sub(began)
		select {
		case <-ctx.Done():
			return
		case <-r.cfg.Clock.After(next + min(2*took, longestPause)):
		case <-r.kicks[k]: // a nil channel, for the loop without a kind, never fires
			if r.cfg.Clock.Sleep(ctx, min(max(took, rest), time.Minute)) != nil {
				return
			}
		}
	}
}

// detectAndPlan is one look at the drives and what follows for the slots.
func (r *Repairer) detectAndPlan(ctx context.Context) error {
	r.round.Lock()
	defer r.round.Unlock()
	if err := r.members.foundOwn(ctx); err != nil {
		return err
	}
	if err := r.members.load(ctx); err != nil {
		return err
	}
	if err := r.refreshPaused(ctx); err != nil {
		return err
	}
	groups, err := r.look(ctx)
	if err != nil {
		return err
	}
	moved, err := r.planner.plan(ctx, groups)
	if moved > 0 {
		r.kick(Rebuild)
		r.kick(Deletes)
	}
	return err
}

// look updates the states of the drives, and has those that came back checked.
func (r *Repairer) look(ctx context.Context) ([]metadata.GroupRecord, error) {
	groups, err := r.cfg.Groups.ListGroups(ctx)
	if err != nil {
		return nil, err
	}
	back, err := r.detector.look(ctx, groups, true)
	if err != nil {
		return nil, err
	}
	r.planner.survey(groups)
	if len(back) > 0 {
		r.worker.formers.forget()
		r.inventory.add(back)
		r.kick(Inventory)
		r.kick(Deletes)
		r.kick(Damage)
		r.kick(Rebuild)
		if last := r.lastRecount(); last != nil && last.Unreached > 0 {
			r.kick(Counting)
		}
	}
	return groups, nil
}

// observe is a look at the drives that stores nothing: what a repairer does
// that waits, so that it knows for how long drives are away when it takes over.
func (r *Repairer) observe(ctx context.Context) error {
	groups, err := r.cfg.Groups.ListGroups(ctx)
	if err != nil {
		return err
	}
	back, err := r.detector.look(ctx, groups, false)
	if err != nil {
		return err
	}
	if len(back) > 0 {
		r.worker.formers.forget()
	}
	r.planner.survey(groups)
	return r.refreshPaused(ctx)
}

// damagePass repairs what is marked. When that leaves nothing, it is time for
// a recount; so it is where what was left by the last pass is gone.
func (r *Repairer) damagePass(ctx context.Context) error {
	before, were := r.worker.shards(), r.worker.damaged.Load()
	left, err := r.worker.repairDamage(ctx)
	if left == 0 && (r.worker.shards() != before || err == nil && were > 0) {
		r.countAnew()
	}
	return err
}

// inventoryPass compares the slots of drives that came back, or of all.
func (r *Repairer) inventoryPass(ctx context.Context) error {
	found, err := r.inventory.pass(ctx)
	if found > 0 {
		r.kick(Damage)
	}
	return err
}
