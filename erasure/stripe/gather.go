package stripe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// gather collects whole shards of one stripe, with their headers, until k of
// one generation are there (or, with all set, until every slot has answered),
// and decodes them. It is the way of reads that lost a data shard, of Rebuild
// and of Verify.
type gather struct {
	set    *Set
	coder  *erasure.Coder
	group  *erasure.Group
	blob   *erasure.Blob
	stripe int
	n      int  // bytes of data in the stripe
	all    bool // read every slot, from its own drive only
	// need is how many good shards of one generation are collected: k, and more
	// where k of them did not fit together.
	need int
	// without is a slot whose own drive is not read, only the one it was
	// mapped from; -1: none.
	without int

	size    int     // of a shard
	mem     *buffer // a place for each slot's shard, then m for what is computed
	results chan gathered
	calls   [storagenode.MaxSlots]call
	started erasure.SlotMask
	running erasure.SlotMask
	good    erasure.SlotMask // answered, verified by the store, header plausible
	infos   [storagenode.MaxSlots]storagenode.ShardInfo
	errs    [storagenode.MaxSlots]error
	shards  [storagenode.MaxSlots][]byte
}

type gathered struct {
	slot int
	info storagenode.ShardInfo
	err  error
}

// decoded is a stripe whose hash was compared. shards has the k data shards and
// whatever else was asked for; release it when they were used.
type decoded struct {
	mem    *buffer
	shards [][]byte
	used   erasure.SlotMask // of one generation, verified
	hash   uint64
	attrs  []byte // of the last stripe
	last   bool
}

func (d *decoded) release() { d.mem.release() }

// gatherMemory is what a gather needs for a stripe of n bytes.
func gatherMemory(s erasure.Scheme, n int) int { return s.ShardSize(n) * (s.N() + int(s.M)) }

// newGather owns mem; where it is nil, it acquires the memory, and whoever
// calls must hold no other.
func (s *Set) newGather(ctx context.Context, g *erasure.Group, b *erasure.Blob, stripe int, mem *buffer) (*gather, error) {
	coder, err := s.coder(g.Scheme)
	if err != nil {
		mem.release()
		return nil, err
	}
	a := &gather{
		mem: mem, set: s, coder: coder, group: g, blob: b, stripe: stripe,
		n: stripeLen(b.Size, stripe), need: int(g.Scheme.K), without: -1,
		results: make(chan gathered, g.Scheme.N()),
	}
	a.size = g.Scheme.ShardSize(a.n)
	if mem == nil {
		if a.mem, err = s.memory.get(ctx, gatherMemory(g.Scheme, a.n)); err != nil {
			return nil, err
		}
	}
	for i := range g.Scheme.N() {
		a.shards[i] = a.mem.mem[i*a.size : (i+1)*a.size : (i+1)*a.size]
	}
	return a, nil
}

// release gives up the memory; reads still running hold it until they return.
func (a *gather) release() { a.mem.release() }

// gather collects and decodes a stripe. It owns mem, see newGather.
func (s *Set) gather(ctx context.Context, g *erasure.Group, b *erasure.Blob, stripe int, mem *buffer) (*decoded, error) {
	a, err := s.newGather(ctx, g, b, stripe, mem)
	if err != nil {
		return nil, err
	}
	defer a.release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends stragglers
	d, err := a.fit(ctx, 0)
	if err == nil {
		s.stats.decoded.Inc()
	}
	return d, err
}

// fit collects shards and decodes them. Where they do not give the stripe that was
// written, though their drives take them for good, one of them is wrong, and it goes
// on with those that were not asked yet.
func (a *gather) fit(ctx context.Context, want erasure.SlotMask) (*decoded, error) {
	for ; ; a.need++ {
		if err := a.collect(ctx); err != nil {
			return nil, err
		}
		d, err := a.decode(want)
		if !errors.Is(err, storagenode.ErrCorrupt) || a.pick() < 0 && a.running == 0 {
			return d, err
		}
	}
}

// pick finds the best slot not asked yet, -1 when all were: data before parity,
// drives that answer before those that are late, and what metadata calls
// missing last.
func (a *gather) pick() int {
	best, least := -1, 1<<30
	for i := range a.group.Scheme.N() {
		if a.started.Has(i) {
			continue
		}
		cost := i
		if a.blob.Missing.Has(i) {
			cost += 4000
		}
		if i == a.without {
			cost += 2000
		}
		if rank := a.set.rank(a.group, i); rank > 0 {
			cost += rank * 100
		}
		if cost < least {
			best, least = i, cost
		}
	}
	return best
}

// Ranks: how little a slot should be read from; 0 for one that is well.
const (
	rankRebuilding = 2
	rankSlow       = 5
	rankAway       = 10
)

// rank tells how a slot's drive is now.
func (s *Set) rank(g *erasure.Group, slot int) int {
	store, state := s.cfg.Drives.Drive(g.Slots[slot].Drive)
	switch {
	case store == nil || !state.Readable():
		return rankAway
	case s.drives.get(g.Slots[slot].Drive).slow(s.cfg.Clock.Now):
		return rankSlow
	case g.Slots[slot].State == storagenode.SlotRebuilding:
		return rankRebuilding
	}
	return 0
}

// start begins to read a slot.
func (a *gather) start(ctx context.Context, slot int) {
	a.started = a.started.With(slot)
	a.running = a.running.With(slot)
	a.calls[slot].drive = a.set.drives.get(a.group.Slots[slot].Drive)
	a.mem.retain(1)
	go func() {
		var info storagenode.ShardInfo
		d := a.calls[slot].drive
		err := d.enter(ctx, a.mem)
		if err == nil {
			info, err = a.read(ctx, slot)
			d.leave(a.mem)
		}
		a.calls[slot].done()
		a.mem.release()
		a.results <- gathered{slot, info, err}
	}()
}

// read fetches a slot's shard and header, from the drive the slot was mapped
// from where its own does not have it.
func (a *gather) read(ctx context.Context, slot int) (storagenode.ShardInfo, error) {
	sl := &a.group.Slots[slot]
	id := storagenode.ShardID{PG: a.group.PG, Slot: uint8(slot), Blob: a.blob.ID, Stripe: uint32(a.stripe)}
	err := fmt.Errorf("slot %d: %w", slot, storagenode.ErrUnavailable)
	var info storagenode.ShardInfo
	if slot != a.without {
		if info, err = a.set.readWhole(ctx, sl.Drive, id, a.shards[slot]); err == nil {
			return info, nil
		}
	}
	if (!a.all || errors.Is(err, storagenode.ErrNotFound)) && sl.State == storagenode.SlotRebuilding && !sl.From.IsZero() {
		if info, ferr := a.set.readWhole(ctx, sl.From, id, a.shards[slot]); ferr == nil {
			return info, nil
		}
	}
	return info, err
}

// readWhole reads a shard whose length is known, and its header.
func (s *Set) readWhole(ctx context.Context, id storagenode.DriveID, shard storagenode.ShardID, p []byte) (storagenode.ShardInfo, error) {
	store, state := s.cfg.Drives.Drive(id)
	if store == nil || !state.Readable() {
		return storagenode.ShardInfo{}, fmt.Errorf("drive %s is %s: %w", id, state, storagenode.ErrUnavailable)
	}
	begin := s.cfg.Clock.Now()
	info, err := store.Stat(ctx, shard)
	if err != nil {
		return info, err
	}
	if info.Size != int64(len(p)) {
		return info, fmt.Errorf("shard %d of stripe %d has %d bytes, should have %d: %w", shard.Slot, shard.Stripe, info.Size, len(p), storagenode.ErrCorrupt)
	}
	if err := readFull(ctx, store, shard, 0, p); err != nil {
		return info, err
	}
	s.drives.get(id).latency(len(p)).add(s.cfg.Clock.Now().Sub(begin))
	return info, nil
}

// readFull is ReadAt where less than all is corruption.
func readFull(ctx context.Context, store storagenode.ShardStore, id storagenode.ShardID, off int64, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := store.ReadAt(ctx, id, off, p)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("shard %d of stripe %d ends at %d: %w", id.Slot, id.Stripe, off+int64(n), storagenode.ErrCorrupt)
	}
	return err
}

// collect reads until enough is there. A slot that is late gets company, at
// once where it failed; ErrUnreadable when nothing is left to ask.
func (a *gather) collect(ctx context.Context) error {
	k := int(a.group.Scheme.K)
	if a.all {
		a.need = a.group.Scheme.N()
	}
	for !a.hopeful() && a.startNext(ctx) {
	}
	clock := a.set.cfg.Clock
	began, over := clock.Now(), clock.After(a.set.cfg.ReadWait)
	tick := clock.After(a.lateness())
	for a.running != 0 {
		if _, most := a.generation(); !a.all && most >= a.need {
			return nil
		}
		select {
		case r := <-a.results:
			a.take(r)
			if !a.all && !a.hopeful() {
				a.startNext(ctx)
			}
		case <-tick:
			now := clock.Now()
			a.markLate(now)
			// One that is slow as well is asked when the others are stuck.
			stuck := now.Sub(began) >= stuckAfter
			if slot := a.pick(); !a.all && slot >= 0 && (stuck || a.set.rank(a.group, slot) < rankSlow) {
				a.start(ctx, slot)
			}
			tick = clock.After(a.lateness())
		case <-over:
			a.markLate(clock.Now())
			for i := range a.group.Slots {
				if a.running.Has(i) {
					a.errs[i] = fmt.Errorf("slot %d: %w", i, storagenode.ErrSuspect)
				}
			}
			a.running = 0
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if _, most := a.generation(); most < k {
		return fmt.Errorf("blob %s stripe %d: %d good shards, %d needed: %w: %w", a.blob.ID, a.stripe, most, k, ErrUnreadable, a.reasons())
	}
	return nil
}

func (a *gather) startNext(ctx context.Context) bool {
	slot := a.pick()
	if slot < 0 {
		return false
	}
	a.start(ctx, slot)
	return true
}

// hopeful says that enough shards are there or on their way.
func (a *gather) hopeful() bool {
	_, most := a.generation()
	return most+a.running.Count() >= a.need
}

func (a *gather) lateness() time.Duration {
	d := hedgeMin
	for i := range a.group.Slots {
		if a.running.Has(i) {
			d = max(d, a.calls[i].drive.hedgeAfter(a.size))
		}
	}
	return d
}

func (a *gather) markLate(now time.Time) {
	for i := range a.group.Slots {
		if a.running.Has(i) {
			a.calls[i].late(now)
		}
	}
}

// take notes an answer. A header that does not fit the blob is corruption.
func (a *gather) take(r gathered) {
	a.running = a.running.Without(r.slot)
	s := a.group.Scheme
	if r.err == nil && (r.info.K != s.K || r.info.M != s.M || int(r.info.StripeLen) != a.n) {
		r.err = fmt.Errorf("shard %d of stripe %d is of %d+%d and %d bytes: %w", r.slot, a.stripe, r.info.K, r.info.M, r.info.StripeLen, storagenode.ErrCorrupt)
	}
	if r.err != nil {
		a.errs[r.slot] = r.err
		if r.slot != a.without && !a.blob.Missing.Has(r.slot) {
			a.set.damaged(a.group, a.blob.ID, r.slot, r.err)
		}
		return
	}
	a.good = a.good.With(r.slot)
	a.infos[r.slot] = r.info
}

// generation is the largest set of good shards that belong to one stripe by
// its hash. Of two as large, the one with the newest slot epoch.
func (a *gather) generation() (erasure.SlotMask, int) {
	var best erasure.SlotMask
	most, newest := 0, uint32(0)
	for i := range a.group.Slots {
		if !a.good.Has(i) {
			continue
		}
		set, epoch := erasure.SlotMask(0), uint32(0)
		for j := range a.group.Slots {
			if a.good.Has(j) && a.infos[j].StripeHash == a.infos[i].StripeHash {
				set = set.With(j)
				epoch = max(epoch, a.infos[j].SlotEpoch)
			}
		}
		if n := set.Count(); n > most || n == most && epoch > newest {
			best, most, newest = set, n, epoch
		}
	}
	return best, most
}

// reasons says what kept the slots from answering.
func (a *gather) reasons() error {
	var all []error
	for i, err := range a.errs {
		if err != nil {
			all = append(all, fmt.Errorf("slot %d: %w", i, err))
		}
	}
	if len(all) == 0 {
		return errors.New("no slot answered")
	}
	return errors.Join(all...)
}
