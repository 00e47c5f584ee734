package stripe

import (
	"context"
	"fmt"
	"sync/atomic"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// rotateBytes is how much payload small blobs bring to one set of slots before
// the next one's turn. Blobs that share a set share its group commits.
const rotateBytes = 4 << 20

// rotor says at which slot of a PG the copies of small blobs begin.
type rotor struct{ bytes atomic.Int64 }

func (s *Set) rotate(g *erasure.Group, size int) int {
	v, ok := s.rotors.Load(g.PG)
	if !ok {
		v, _ = s.rotors.LoadOrStore(g.PG, &rotor{})
	}
	round := v.(*rotor).bytes.Add(int64(size)+512) / rotateBytes
	return int(round * int64(g.Scheme.M+1) % int64(g.Scheme.N()))
}

// replicate writes a small blob as m+1 copies. It owns the memory. A slot that
// fails or is late is replaced by another.
func (p *put) replicate(ctx context.Context, r room, n int) (erasure.Blob, error) {
	defer r.release()
	data := r.data.mem[:n]
	err := p.obs.end()
	if p.obs == nil && p.opt.Observer != nil && n > 0 {
		err = writeAll(p.opt.Observer, data)
	}
	if err != nil {
		return erasure.Blob{}, fmt.Errorf("observer: %w", err)
	}
	attrs, err := p.attrs(int64(n))
	if err != nil {
		return erasure.Blob{}, err
	}
	c := copies{p: p, next: p.set.rotate(p.group, n), want: int(p.group.Scheme.M) + 1}
	hash := storagenode.BlockSum(data)
	c.shard = storagenode.Shard{
		ID: storagenode.ShardID{PG: p.group.PG, Blob: p.id},
		K:  1, M: p.group.Scheme.M, StripeLen: uint32(n), StripeHash: hash,
		Last: true, Attrs: attrs, Payload: data,
	}
	if n > 0 {
		c.sums[0] = hash // of at most one block
		c.shard.Sums = c.sums[:1]
	}
	work, cancel := context.WithCancel(ctx)
	defer cancel() // ends stragglers
	if err := c.write(work, room{data: r.data}); err != nil {
		return erasure.Blob{}, err
	}
	p.set.hot.written(erasure.Scheme{K: 1}, p.id, part{room: r, n: n, last: true})
	return c.blob(int64(n)), nil
}

// copies are the replicas of one small blob on their way.
type copies struct {
	p     *put
	shard storagenode.Shard
	sums  [1]uint64
	next  int // slot to look at next
	tried int
	want  int // copies
	done  erasure.SlotMask
	lost  erasure.SlotMask // tried in vain
}

// start begins a copy on the next slot that can be written to.
func (c *copies) start(ctx context.Context, w *writers) bool {
	n := c.p.group.Scheme.N()
	for ; c.tried < n; c.tried++ {
		slot := c.next
		c.next = (c.next + 1) % n
		if c.p.live.Has(slot) {
			c.tried++
			c.shard.ID.Slot, c.shard.SlotEpoch = uint8(slot), c.p.group.Slots[slot].Epoch
			c.p.begun = c.p.begun.With(slot)
			w.start(ctx, slot, c.shard)
			return true
		}
	}
	return false
}

func (c *copies) write(ctx context.Context, r room) error {
	p := c.p
	least := p.group.Scheme.MinReplicas()
	w := newWriters(p, r)
	for range c.want {
		c.start(ctx, w)
	}
	patience := newPatience(p.set)
	ended := func(slot int, err error) {
		if err == nil {
			c.done = c.done.With(slot)
			return
		}
		p.fell(slot, err)
		c.lost = c.lost.With(slot)
		c.start(ctx, w)
	}
	for w.running != 0 {
		late := erasure.SlotMask(0)
		select {
		case <-w.results:
		case <-patience.c:
			late = w.running
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		w.take(ended)
		if late &^= w.taken; late != 0 {
			c.late(ctx, w, late, &patience, least)
		}
	}
	if got := c.done.Count(); got < least {
		return p.quorumError(got, least)
	}
	return nil
}

// late has other slots take what those that are late should have.
func (c *copies) late(ctx context.Context, w *writers, late erasure.SlotMask, patience *patience, least int) {
	p := c.p
	if c.done.Count() < least && c.tried == p.group.Scheme.N() && patience.again(false) {
		return
	}
	alone := patience.fresh() && c.done.Count() >= least
	w.running &^= late
	for i := range p.group.Slots {
		if late.Has(i) {
			p.drop(i, &w.calls[i], alone)
			c.lost = c.lost.With(i)
			c.start(ctx, w)
		}
	}
	patience.again(false)
}

// blob says where the copies are, and which of the slots that were meant to
// hold one do not.
func (c *copies) blob(size int64) erasure.Blob {
	b := erasure.Blob{ID: c.p.id, Size: size, Mode: erasure.Replicated, Slots: c.done}
	spare := [...]erasure.SlotMask{c.lost, erasure.AllSlots(c.p.group.Scheme.N())}
	for _, from := range spare {
		for i := range c.p.group.Slots {
			if b.Slots.Count() < c.want && from.Has(i) && !b.Slots.Has(i) {
				b.Slots = b.Slots.With(i)
				b.Missing = b.Missing.With(i)
			}
		}
	}
	return b
}
