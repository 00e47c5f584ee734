package stripe

import (
	"context"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// writers are the goroutines that bring one stripe to its slots. A late one is
// left to itself; it holds the buffer until its store lets go.
type writers struct {
	p       *put
	buf     *buffer
	results chan written
	running erasure.SlotMask
	calls   [storagenode.MaxSlots]call
}

type written struct {
	slot int
	err  error
}

func newWriters(p *put, buf *buffer) *writers {
	return &writers{p: p, buf: buf, results: make(chan written, len(p.group.Slots))}
}

// start puts a shard, and syncs it where it is the last of its blob.
func (w *writers) start(ctx context.Context, slot int, sh storagenode.Shard) {
	w.buf.retain(1)
	w.running = w.running.With(slot)
	w.calls[slot].drive = w.p.drives[slot]
	w.p.set.callers.run(func() { w.run(ctx, w.p.stores[slot], slot, sh) })
}

func (w *writers) run(ctx context.Context, store storagenode.ShardStore, slot int, sh storagenode.Shard) {
	d := w.calls[slot].drive
	var token storagenode.Token
	err := d.enter(ctx, w.buf)
	if err == nil {
		token, err = store.Put(ctx, sh)
		d.leave(w.buf)
	}
	w.buf.release() // nothing is retained after return
	if err == nil && sh.Last {
		err = store.Sync(ctx, token)
	}
	w.calls[slot].done()
	w.results <- written{slot, err}
}

// patience is the time that a write has for its slots: WriteWait when enough
// are there, and more in small steps until enough are, but not for ever.
type patience struct {
	set   *Set
	c     <-chan time.Time
	steps int
}

const patienceSteps = 28 // half WriteWaits: 15 WriteWaits in all

func newPatience(s *Set) patience {
	return patience{set: s, c: s.cfg.Clock.After(s.cfg.WriteWait), steps: patienceSteps}
}

// again waits on, if there is patience left.
func (p *patience) again() bool {
	if p.steps == 0 {
		return false
	}
	p.steps--
	p.c = p.set.cfg.Clock.After(p.set.cfg.WriteWait / 2)
	return true
}

// fresh says that the first WriteWait is the only one so far.
func (p *patience) fresh() bool { return p.steps == patienceSteps }
