package stripe

import (
	"context"
	"fmt"
	"io"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// attempt is one read of one copy. Its buffer has two holders: the goroutine
// that reads, and whoever waits.
type attempt struct {
	call call
	slot int
	buf  *buffer
	err  error
}

// copyReader reads a run of a replicated blob: one copy, another one where that
// fails or is late.
type copyReader struct {
	set     *Set
	group   *erasure.Group
	blob    *erasure.Blob
	off     int64
	n       int
	results chan *attempt
	asked   erasure.SlotMask
	running []*attempt
	hold    [4]*attempt
	err     error // the first
}

func (s *Set) readCopy(ctx context.Context, g *erasure.Group, b *erasure.Blob, off int64, n int, w io.Writer) error {
	key := hotKey{blob: b.ID}
	if p, buf := s.hot.take(key, int(off), int(off)+n); p != nil {
		defer buf.release()
		if err := ended(ctx); err != nil {
			return err
		}
		return writeAll(w, p)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends stragglers
	r := &copyReader{set: s, group: g, blob: b, off: off, n: n, results: make(chan *attempt, b.Slots.Count())}
	r.running = r.hold[:0]
	s.hedges.reads.Add(1)
	a, err := r.race(ctx)
	for _, late := range r.running {
		late.buf.release()
	}
	if err != nil {
		return err
	}
	if int64(n) == b.Size {
		s.hot.keep(key, a.buf, 0, n)
	}
	err = writeAll(w, a.buf.mem[:n])
	a.buf.release()
	return err
}

// pick finds the copy to read next, -1 when all were asked. Drives that answer
// come first; among them the blob's id decides, so that the page caches hold
// each blob once.
func (r *copyReader) pick() int {
	best, least := -1, 1<<30
	n := r.group.Scheme.N()
	first := int(r.blob.ID[15])
	for i := range n {
		if r.asked.Has(i) || !r.blob.Slots.Has(i) {
			continue
		}
		cost := (i+first)%n + 100*r.set.rank(r.group, i)
		if r.blob.Missing.Has(i) {
			cost += 4000
		}
		if cost < least {
			best, least = i, cost
		}
	}
	return best
}

// start asks the next copy; nil when there is none, or no memory beside that of a
// copy which is on its way: who holds memory does not wait for more.
func (r *copyReader) start(ctx context.Context) (*attempt, error) {
	slot := r.pick()
	if slot < 0 {
		return nil, nil
	}
	buf := r.set.memory.try(r.n)
	if buf == nil && len(r.running) > 0 {
		return nil, nil
	}
	if buf == nil {
		var err error
		if buf, err = r.set.memory.get(ctx, r.n); err != nil {
			return nil, err
		}
	}
	r.asked = r.asked.With(slot)
	a := &attempt{slot: slot, buf: buf}
	a.call.drive = r.set.drives.get(r.group.Slots[slot].Drive)
	buf.retain(1)
	r.running = append(r.running, a)
	r.set.callers.run(func() { r.read(ctx, a) })
	return a, nil
}

func (r *copyReader) read(ctx context.Context, a *attempt) {
	id := storagenode.ShardID{PG: r.group.PG, Slot: uint8(a.slot), Blob: r.blob.ID}
	if a.err = a.call.drive.enter(ctx, a.buf); a.err == nil {
		a.err = r.set.readPart(ctx, r.group, id, r.off, a.buf.mem[:r.n])
		a.call.drive.leave(a.buf)
	}
	a.call.done()
	a.buf.release()
	r.results <- a
}

// race returns the first good attempt, whose buffer the caller then holds.
func (r *copyReader) race(ctx context.Context) (*attempt, error) {
	a, err := r.start(ctx)
	if err != nil {
		return nil, err
	}
	clock := r.set.cfg.Clock
	patience := hedgeMin
	if a != nil {
		patience = a.call.drive.hedgeAfter(r.n)
	}
	timer := r.set.timer(patience)
	defer timer.stop()
	over := clock.Now().Add(r.set.cfg.ReadWait)
	for len(r.running) > 0 {
		select {
		case a := <-r.results:
			r.remove(a)
			if a.err == nil {
				return a, nil
			}
			a.buf.release()
			if err := ended(ctx); err != nil {
				return nil, err
			}
			if r.failed(a); len(r.running) == 0 {
				if _, err := r.start(ctx); err != nil {
					return nil, err
				}
			}
		case <-timer.c:
			now := clock.Now()
			if now.After(over) {
				return nil, r.unreadable(storagenode.ErrSuspect)
			}
			for _, a := range r.running {
				if a.call.late(now); patience >= stuckAfter {
					a.call.hang(now)
				}
			}
			if patience >= stuckAfter || r.set.hedges.allow() {
				r.set.stats.hedged.Inc()
				if _, err := r.start(ctx); err != nil {
					return nil, err
				}
			}
			timer.reset(stuckAfter)
			patience = stuckAfter
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return nil, r.unreadable(r.err)
}

func (r *copyReader) remove(a *attempt) {
	for i, o := range r.running {
		if o == a {
			r.running = append(r.running[:i], r.running[i+1:]...)
			return
		}
	}
}

func (r *copyReader) failed(a *attempt) {
	if r.err == nil {
		r.err = a.err
	}
	if !r.blob.Missing.Has(a.slot) {
		r.set.damaged(r.group, r.blob.ID, a.slot, a.err)
	}
}

func (r *copyReader) unreadable(err error) error {
	if err == nil {
		err = errNoCopy
	}
	return fmt.Errorf("blob %s: no copy: %w: %w", r.blob.ID, ErrUnreadable, err)
}
