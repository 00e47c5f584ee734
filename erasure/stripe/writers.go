package stripe

import (
	"context"
	"sync/atomic"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// writers bring one stripe to its slots: on goroutines, or by stores that stage
// it. A late one is left to itself; it holds its memory until its store lets go.
//
// Each slot has its end noted before anything is sent. Where all went well, the
// last of the staged slots to end wakes the waiter for all of them.
type writers struct {
	p       *put
	room    room
	results chan struct{} // there is something to take; at most two for a slot
	running erasure.SlotMask
	taken   erasure.SlotMask // what ended, as far as the waiter has seen
	calls   [storagenode.MaxSlots]call
	errs    [storagenode.MaxSlots]error // of those in ended
	ended   atomic.Uint32               // an erasure.SlotMask
	staged  atomic.Int32                // how many that were staged have not ended
}

func newWriters(p *put, r room) *writers {
	return &writers{p: p, room: r, results: make(chan struct{}, 2*len(p.group.Slots))}
}

// start puts a shard, and syncs it where it is the last of its blob.
func (w *writers) start(ctx context.Context, slot int, sh storagenode.Shard) {
	w.running = w.running.With(slot)
	w.calls[slot].drive = w.p.drives[slot]
	if sh.Last && w.stage(slot, sh) {
		return
	}
	buf := w.room.data
	if w.room.parity != nil && slot >= int(sh.K) {
		buf = w.room.parity
	}
	buf.retain(1)
	w.p.set.callers.run(func() { w.run(ctx, w.p.stores[slot], slot, sh, buf) })
}

// stage spares a small shard the goroutine, if its store can do that.
func (w *writers) stage(slot int, sh storagenode.Shard) bool {
	store, ok := w.p.stores[slot].(storagenode.Stager)
	if !ok {
		return false
	}
	w.staged.Add(1)
	ok = store.Stage(sh, func(err error) {
		w.end(slot, err)
		w.unstaged(err != nil)
	})
	if !ok {
		w.unstaged(false)
	}
	return ok
}

// unstaged wakes the waiter where it must look now, or nobody else would.
func (w *writers) unstaged(failed bool) {
	if left := w.staged.Add(-1); left == 0 || failed {
		w.results <- struct{}{}
	}
}

// run puts a shard, which lies in buf, and lets go of that.
func (w *writers) run(ctx context.Context, store storagenode.ShardStore, slot int, sh storagenode.Shard, buf *buffer) {
	d := w.calls[slot].drive
	var token storagenode.Token
	err := d.enter(ctx, buf)
	if err == nil {
		token, err = store.Put(ctx, sh)
		d.leave(buf)
	}
	buf.release() // nothing is retained after return
	if err == nil && sh.Last {
		err = store.Sync(ctx, token)
	}
	w.end(slot, err)
	w.results <- struct{}{}
}

// end notes how a slot ended.
func (w *writers) end(slot int, err error) {
	w.calls[slot].done()
	w.errs[slot] = err
	w.ended.Or(1 << slot)
}

// take calls each for the slots that ended since the last call, late ones
// included.
func (w *writers) take(each func(slot int, err error)) {
	for now := erasure.SlotMask(w.ended.Load()) &^ w.taken; now != 0; {
		slot := now.First()
		now = now.Without(slot)
		w.taken = w.taken.With(slot)
		w.running = w.running.Without(slot)
		each(slot, w.errs[slot])
	}
}

// patience is the time that a write has for its slots: WriteWait when enough
// are there, and more in small steps until enough are, but not for ever.
type patience struct {
	set   *Set
	c     <-chan time.Time
	steps int // left
	alone int // steps for the sake of few
}

const (
	patienceSteps = 28 // half WriteWaits: 15 WriteWaits in all
	// aloneSteps are those since the other slots were there: what is still late
	// hangs, and the client's next try goes elsewhere. 2 WriteWaits.
	aloneSteps = 4
)

func newPatience(s *Set) patience {
	return patience{set: s, c: s.cfg.Clock.After(s.cfg.WriteWait), steps: patienceSteps}
}

// again waits on, if there is patience left; alone says that only few are late.
func (p *patience) again(alone bool) bool {
	if alone {
		p.alone++
	}
	if p.steps == 0 || p.alone > aloneSteps {
		return false
	}
	p.steps--
	p.c = p.set.cfg.Clock.After(p.set.cfg.WriteWait / 2)
	return true
}

// fresh says that the first WriteWait is the only one so far.
func (p *patience) fresh() bool { return p.steps == patienceSteps }
