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

// Read writes n bytes of the blob from off to w, all of them or an error. Every
// byte was verified before. While one stripe is written, the next is read, if
// there is memory for it.
//
// ErrUnreadable, before or after some bytes were written, where fewer than k
// good shards of a stripe can be had; ErrRange; ErrOverload; ctx's error; w's.
func (s *Set) Read(ctx context.Context, g erasure.Group, b erasure.Blob, off, n int64, w io.Writer) error {
	if err := checkGroup(&g); err != nil {
		return err
	}
	if off < 0 || n < 0 || off > b.Size || n > b.Size-off {
		return fmt.Errorf("blob %s: %d bytes from %d of %d: %w", b.ID, n, off, b.Size, ErrRange)
	}
	if n == 0 {
		return nil
	}
	if b.Mode == erasure.Replicated {
		err := s.readCopy(ctx, &g, &b, off, int(n), w)
		if errors.Is(err, ErrUnreadable) && s.find(ctx, &g) {
			err = s.readCopy(ctx, &g, &b, off, int(n), w)
		}
		return err
	}
	r := reader{set: s, group: &g, blob: &b, off: off, end: off + n}
	err := r.run(ctx, w)
	if errors.Is(err, ErrUnreadable) && s.find(ctx, &g) {
		err = r.run(ctx, w)
	}
	return err
}

// find looks for the drives of a group that are not known here yet, and says
// whether one was found.
func (s *Set) find(ctx context.Context, g *erasure.Group) bool {
	f, can := s.cfg.Drives.(storagenode.Finder)
	if !can {
		return false
	}
	ids := make([]storagenode.DriveID, len(g.Slots))
	for i := range g.Slots {
		ids[i] = g.Slots[i].Drive
	}
	return f.Find(ctx, ids...)
}

// reader streams a range of an encoded blob.
type reader struct {
	set      *Set
	group    *erasure.Group
	blob     *erasure.Blob
	off, end int64 // what is left; off is moved on
}

// window is the part of one stripe that a read wants: bytes from to to of n.
type window struct{ stripe, n, from, to int }

// fetched is a window in memory, in pieces in order.
type fetched struct {
	mem    *buffer
	pieces [][]byte
	one    [1][]byte
	err    error
}

// write writes the window, and lets go of its memory whatever happens.
func (f *fetched) write(w io.Writer) error {
	defer f.mem.release()
	for _, p := range f.pieces {
		if err := writeAll(w, p); err != nil {
			return err
		}
	}
	return nil
}

// window gives the next window from pos on: the rest of a stripe, or of the
// range.
func (r *reader) window(pos int64) window {
	stripe := int(pos / erasure.StripeSize)
	base := int64(stripe) * erasure.StripeSize
	n := stripeLen(r.blob.Size, stripe)
	return window{stripe, n, int(pos - base), int(min(int64(n), r.end-base))}
}

// run writes what is left of the range, all of it or an error; it can be called
// again after ErrUnreadable. Drives that answer from memory are read in turn (see
// turns), others side by side, a stripe ahead of what is written.
func (r *reader) run(ctx context.Context, w io.Writer) error {
	f := r.fromMemory(ctx, w)
	if f == nil && r.off == r.end {
		return nil
	}
	return r.rest(ctx, w, f)
}

// rest writes what is left of the range, of which f is next, or nil.
func (r *reader) rest(ctx context.Context, w io.Writer, f *fetched) error {
	ctx, cancel := context.WithCancel(ctx)
	var ahead chan *fetched
	defer func() {
		cancel() // ends what is read ahead in vain
		r.forget(ahead)
	}()
	for f != nil || r.off < r.end {
		if f == nil {
			f = r.fetch(ctx, r.lacking(r.window(r.off)), nil)
		}
		if f.err != nil {
			return f.err
		}
		for _, p := range f.pieces {
			r.off += int64(len(p))
		}
		if r.off < r.end && !r.kept() && !r.inTurns(r.off) {
			ahead = r.prefetch(ctx, r.lacking(r.window(r.off)))
		}
		if err := f.write(w); err != nil {
			return err
		}
		if ahead != nil {
			f, ahead = <-ahead, nil
		} else {
			f = r.fromMemory(ctx, w)
		}
	}
	return nil
}

// fromMemory writes what it can of the rest, and moves off behind it: pieces
// that are kept, and what drives answer from their memory. It gives a window in
// place of what a drive did not give, or why nothing more can be had; nil where
// nothing is left, or what is next cannot be had this way.
func (r *reader) fromMemory(ctx context.Context, w io.Writer) *fetched {
	for r.off < r.end {
		if err := ended(ctx); err != nil {
			return &fetched{err: err}
		}
		b := &batch{}
		next := r.takeKept(b)
		if next < r.end && !b.full() && r.inTurns(next) {
			mem := r.set.memory.try(r.turnMemory())
			if mem == nil && b.n == 0 { // who holds memory does not wait for more
				var err error
				if mem, err = r.set.memory.get(ctx, r.turnMemory()); err != nil {
					return &fetched{err: err}
				}
			}
			if mem != nil {
				return r.inTurn(ctx, w, r.turns(b, next, mem))
			}
		}
		if b.n == 0 {
			return nil
		}
		if err := b.write(w); err != nil {
			return &fetched{err: err}
		}
		r.off = next
	}
	return nil
}

// prefetch reads a window in the background if there is memory for it now; a
// reader that holds a window never waits for more.
func (r *reader) prefetch(ctx context.Context, win window) chan *fetched {
	mem := r.set.memory.try(win.to - win.from)
	if mem == nil {
		return nil
	}
	c := make(chan *fetched, 1)
	go func() { c <- r.fetch(ctx, win, mem) }()
	return c
}

// forget lets go of a prefetched window, without waiting for it.
func (r *reader) forget(ahead chan *fetched) {
	if ahead != nil {
		go func() { (<-ahead).mem.release() }()
	}
}

// fetch reads a window: straight from the data shards where their drives are
// well, otherwise by gathering the stripe. It owns mem, which may be nil.
func (r *reader) fetch(ctx context.Context, win window, mem *buffer) *fetched {
	if r.direct(win) {
		var err error
		wide := r.wide(win)
		if mem == nil {
			if mem, err = r.set.memory.get(ctx, wide.to-wide.from); err != nil {
				return &fetched{err: err}
			}
		} else if wide.to-wide.from > len(mem.mem) {
			wide = win
		}
		f := r.straight(ctx, win, wide, mem)
		if f != nil {
			return f
		}
	} else {
		mem.release()
	}
	d, err := r.set.gather(ctx, r.group, r.blob, win.stripe, nil)
	if err != nil {
		return &fetched{err: err}
	}
	return r.cut(d, win)
}

// cut takes a window out of a decoded stripe, and what is wanted of the stripe
// behind it, so that no stripe is decoded twice.
func (r *reader) cut(d *decoded, win window) *fetched {
	win.to = int(min(int64(win.n), r.end-int64(win.stripe)*erasure.StripeSize))
	f := &fetched{mem: d.mem}
	at := 0
	for _, p := range d.shards[:r.group.Scheme.K] {
		from, to := max(win.from-at, 0), min(win.to-at, len(p))
		if from < to {
			f.pieces = append(f.pieces, p[from:to])
		}
		at += len(p)
	}
	return f
}

// direct says whether all data shards of a window can be expected to be there.
func (r *reader) direct(win window) bool {
	size := r.group.Scheme.ShardSize(win.n)
	for i := win.from / size; i <= (win.to-1)/size; i++ {
		id := r.group.Slots[i].Drive
		store, state := r.set.cfg.Drives.Drive(id)
		if r.blob.Missing.Has(i) || store == nil || !state.Readable() || r.set.drives.get(id).stuck(r.set.cfg.Clock.Now) {
			return false
		}
	}
	return true
}

// ask has the data shards' runs of a window read into mem, one call each, and
// says when they are late.
func (r *reader) ask(ctx context.Context, win window, mem *buffer, calls []call, results chan<- lateResult) time.Duration {
	s := r.set
	size := r.group.Scheme.ShardSize(win.n)
	first := win.from / size
	run := func(i int) (from, to int) { return max(win.from, i*size), min(win.to, (i+1)*size) }
	patience := hedgeMin
	for i := range calls {
		from, to := run(first + i)
		calls[i].drive = s.drives.get(r.group.Slots[first+i].Drive)
		patience = max(patience, calls[i].drive.hedgeAfter(to-from))
	}
	mem.retain(len(calls))
	one := func(i int) {
		from, to := run(first + i)
		c, slot := &calls[i], first+i
		id := storagenode.ShardID{PG: r.group.PG, Slot: uint8(slot), Blob: r.blob.ID, Stripe: uint32(win.stripe)}
		err := c.drive.enter(ctx, mem)
		if err == nil {
			err = s.readPart(ctx, r.group, id, int64(from-slot*size), mem.mem[from-win.from:to-win.from])
			c.drive.leave(mem)
		}
		c.done()
		mem.release()
		results <- lateResult{slot, err}
	}
	for i := range calls {
		s.callers.run(func() { one(i) })
	}
	return patience
}

// straight reads the data shards' runs of a window side by side into mem, which
// it owns, with what lies around it in wide. A shard that is late gets a hedge: the whole stripe by other slots.
// Nil where a shard is lost: gather.
func (r *reader) straight(ctx context.Context, win, wide window, mem *buffer) *fetched {
	s := r.set
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends stragglers and hedges
	size := r.group.Scheme.ShardSize(win.n)
	first, last := wide.from/size, (wide.to-1)/size
	results := make(chan lateResult, last-first+1)
	calls := make([]call, last-first+1)
	patience := r.ask(ctx, wide, mem, calls, results)
	s.hedges.reads.Add(1)
	timer := s.cfg.Clock.After(patience)
	var hedge chan *decoded
	for left := len(calls); left > 0; {
		select {
		case res := <-results:
			if left--; res.err == nil {
				continue
			}
			if err := ended(ctx); err != nil {
				mem.release()
				return &fetched{err: err}
			}
			s.damaged(r.group, r.blob.ID, res.slot, res.err)
			mem.release()
			return r.hedged(ctx, hedge, win)
		case <-timer:
			now := s.cfg.Clock.Now()
			markLate(calls, now, patience >= stuckAfter)
			if patience >= stuckAfter { // for the second time, or at once on a slow drive
				mem.release()
				return r.hedged(ctx, hedge, win)
			}
			hedge = r.hedge(ctx, win)
			timer, patience = s.cfg.Clock.After(stuckAfter-patience), stuckAfter
		case d := <-hedge:
			if hedge = nil; d != nil {
				mem.release()
				return r.cut(d, win)
			}
		case <-ctx.Done():
			mem.release()
			return &fetched{err: context.Cause(ctx)}
		}
	}
	f := &fetched{mem: mem}
	f.one[0] = mem.mem[win.from-wide.from : win.to-wide.from]
	r.keep(wide, mem)
	f.pieces = f.one[:]
	return f
}

// markLate marks the calls that still run, as hung where they were given up.
func markLate(calls []call, now time.Time, hung bool) {
	for i := range calls {
		if hung {
			calls[i].hang(now)
		} else {
			calls[i].late(now)
		}
	}
}

type lateResult struct {
	slot int
	err  error
}

// hedge gathers the stripe beside a late read, if the share of hedges and the
// memory allow it. The channel gives nil where that failed.
func (r *reader) hedge(ctx context.Context, win window) chan *decoded {
	mem := r.hedgeMemory(win.n)
	if mem == nil {
		return nil
	}
	r.set.stats.hedged.Inc()
	c := make(chan *decoded)
	go func() {
		d, err := r.set.gather(ctx, r.group, r.blob, win.stripe, mem)
		if err != nil {
			d = nil
		}
		select {
		case c <- d:
		case <-ctx.Done():
			if d != nil {
				d.release()
			}
		}
	}()
	return c
}

// hedgeMemory is the memory to gather a stripe of n bytes, nil where it is used
// up or the share of hedges is.
func (r *reader) hedgeMemory(n int) *buffer {
	if !r.set.hedges.allow() {
		return nil
	}
	return r.set.memory.try(gatherMemory(r.group.Scheme, n))
}

// hedged waits for the hedge's answer, nil where there is none. When ctx ends the
// hedge may do so without one.
func (r *reader) hedged(ctx context.Context, hedge chan *decoded, win window) *fetched {
	if hedge == nil {
		return nil
	}
	select {
	case d := <-hedge:
		if d != nil {
			return r.cut(d, win)
		}
		return nil
	case <-ctx.Done():
		return &fetched{err: context.Cause(ctx)}
	}
}

// readPart reads a run of a shard, from the drive the slot was mapped from where
// its own does not have it.
func (s *Set) readPart(ctx context.Context, g *erasure.Group, id storagenode.ShardID, off int64, p []byte) error {
	slot := &g.Slots[id.Slot]
	err := s.readDrive(ctx, slot.Drive, id, off, p)
	if err != nil && slot.State == storagenode.SlotRebuilding && !slot.From.IsZero() {
		if s.readDrive(ctx, slot.From, id, off, p) == nil {
			return nil
		}
	}
	return err
}

func (s *Set) readDrive(ctx context.Context, drive storagenode.DriveID, id storagenode.ShardID, off int64, p []byte) error {
	store, state := s.cfg.Drives.Drive(drive)
	if store == nil || !state.Readable() {
		return fmt.Errorf("drive %s is %s: %w", drive, state, storagenode.ErrUnavailable)
	}
	begin := s.cfg.Clock.Now()
	if err := readFull(ctx, store, id, off, p); err != nil {
		return err
	}
	s.drives.get(drive).latency(len(p)).add(s.cfg.Clock.Now().Sub(begin))
	return nil
}

var errNoCopy = errors.New("no slot answered")
