package stripe

import (
	"context"
	"errors"
	"fmt"
	"io"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// PutOptions go with one blob. The zero value is fine.
type PutOptions struct {
	// Attrs gives the attributes of the blob's last stripe, which go to all its
	// slots. It is called once, when size bytes were read to the end and
	// Observer has seen them all, before the last stripe is written. Nil: none.
	Attrs func(size int64) []byte
	// Observer gets every byte in order, on one goroutine at a time, and for
	// larger blobs beside the writing. Its error fails the Put. Nil: nobody.
	Observer io.Writer
}

// PutResult is what was written, durably.
type PutResult struct {
	Blob erasure.Blob
	// More says that src goes on: the blob is erasure.BlobMax long. Where src
	// is a *Source this is certain; another reader may turn out to have ended.
	More bool
}

// put is one blob on its way.
type put struct {
	set    *Set
	coder  *erasure.Coder
	group  *erasure.Group
	id     storagenode.BlobID
	opt    PutOptions
	obs    *observer                                    // nil while the blob may be small, and without Observer
	stores [storagenode.MaxSlots]storagenode.ShardStore // nil: not to be written to
	drives [storagenode.MaxSlots]*drive
	live   erasure.SlotMask // slots that may still hold the whole blob
	cause  error            // why the first slot fell out
	// begun are the slots that a write was begun at; refused, of these, those whose
	// first answer was that nothing was taken.
	begun, refused erasure.SlotMask
	later          bool // the first stripe is written
}

// Put writes src to its end, but at most erasure.BlobMax bytes, as one blob, and
// returns when it is durable at the write quorum: on every slot it should be
// on, but for those whose drives cannot be written to, fail, or let the rest
// wait for longer than Config.WriteWait. Those are in the result's Missing. A
// drive that made a write wait so is left out of others for a while.
//
// sizeHint is how many bytes src has, or -1; a wrong one costs copying. ErrQuorum
// where fewer than the scheme's least number of slots took the blob, wrapping
// the first slot's error too (storagenode.ErrStaleEpoch: the group has moved);
// ErrOverload; src's, Observer's or ctx's error. What a failed Put leaves on
// drives is garbage that metadata never knew: the result's Slots are those that may
// have some of it, now or when what is still under way there ends.
func (s *Set) Put(ctx context.Context, g erasure.Group, id storagenode.BlobID, src io.Reader, sizeHint int64, opt PutOptions) (PutResult, error) {
	if err := checkGroup(&g); err != nil {
		return PutResult{}, err
	}
	coder, err := s.coder(g.Scheme)
	if err != nil {
		return PutResult{}, err
	}
	in, exact := src.(*Source)
	if !exact {
		in = &Source{r: src}
	}
	p := &put{set: s, coder: coder, group: &g, id: id, opt: opt}
	p.resolve()
	if sizeHint > erasure.ReplicateMax {
		p.obs = observe(opt.Observer)
	}
	defer func() { _ = p.obs.end() }() // whoever needed its error has asked
	room, n, more, err := p.first(ctx, in, sizeHint)
	if err != nil {
		return PutResult{}, err
	}
	if !more && n <= erasure.ReplicateMax {
		b, err := p.replicate(ctx, room, n)
		return p.leaves(PutResult{Blob: b}, err, erasure.Replicated), err
	}
	res, err := p.encode(ctx, in, exact, room, n, more)
	if err != nil {
		s.hot.lose(id)
	}
	return p.leaves(res, err, erasure.Encoded), err
}

// leaves is a Put's result, also where it failed.
func (p *put) leaves(res PutResult, err error, mode erasure.Mode) PutResult {
	if err != nil {
		res.Blob = erasure.Blob{ID: p.id, Mode: mode, Slots: p.begun &^ p.refused}
	}
	return res
}

// Crowded says that a Put or a Read waits for memory that others hold.
func (s *Set) Crowded() bool { return s.memory.waiting.Load() > 0 }

// Forget lets go of what is kept of a blob that is being deleted: a hint.
func (s *Set) Forget(id storagenode.BlobID) { s.hot.lose(id) }

// resolve finds the slots that can be written to, without those that are
// shunned if enough others are there.
func (p *put) resolve() {
	now, shunned := int64(0), erasure.SlotMask(0)
	for i, slot := range p.group.Slots {
		store, state := p.set.cfg.Drives.Drive(slot.Drive)
		d := p.set.drives.get(slot.Drive)
		p.drives[i] = d
		if store == nil || !state.Writable() {
			p.fell(i, fmt.Errorf("drive %s is %s: %w", slot.Drive, state, storagenode.ErrUnavailable))
			continue
		}
		if until := d.shunned.Load(); until != 0 {
			if now == 0 {
				now = p.set.drives.count.Now()
			}
			if now < until {
				shunned = shunned.With(i)
			}
		}
		p.stores[i] = store
		p.live = p.live.With(i)
	}
	if p.live&^shunned != p.live && (p.live&^shunned).Count() >= max(p.group.Scheme.MinShards(), int(p.group.Scheme.M)+1) {
		p.live &^= shunned
	}
}

// fell notes that a slot does not get the blob.
func (p *put) fell(slot int, err error) {
	p.live = p.live.Without(slot)
	if !p.later && (errors.Is(err, storagenode.ErrReadOnly) || errors.Is(err, storagenode.ErrStaleEpoch)) {
		p.refused = p.refused.With(slot)
	}
	if p.cause == nil || errors.Is(err, storagenode.ErrStaleEpoch) {
		p.cause = err
	}
}

// drop is fell for a slot that was too late. Where it was late alone, others
// being there in time, writes shun it for a while; not where all are slow.
func (p *put) drop(slot int, c *call, alone bool) {
	now := p.set.cfg.Clock.Now()
	c.late(now)
	if alone {
		p.drives[slot].shunned.Store(p.drives[slot].count.At(now) + int64(penaltyWaits*p.set.cfg.WriteWait))
	}
	p.set.stats.late.Inc()
	p.fell(slot, fmt.Errorf("drive %s: %w", p.group.Slots[slot].Drive, storagenode.ErrSuspect))
}

func (p *put) quorumError(got, want int) error {
	if p.cause == nil {
		return fmt.Errorf("put blob %s: %d slots of %d: %w", p.id, got, want, ErrQuorum)
	}
	return fmt.Errorf("put blob %s: %d slots of %d: %w: %w", p.id, got, want, ErrQuorum, p.cause)
}

// room is the memory of a stripe on its way. The parity's is apart, since what
// was written may be kept, but not what was computed.
type room struct {
	data   *buffer
	parity *buffer // nil where there is none
}

func (r room) release() {
	r.data.release()
	r.parity.release()
}

// roomFor takes the memory in which a stripe of n bytes is encoded.
func (p *put) roomFor(ctx context.Context, n int) (r room, err error) {
	s := p.group.Scheme
	if size := s.ShardSize(n); s.K == 1 || s.M == 0 {
		r.data, err = p.set.memory.get(ctx, size*int(s.K)) // of one, every shard is the data itself
	} else {
		r.data, r.parity, err = p.set.memory.pair(ctx, size*int(s.K), size*int(s.M))
	}
	return r, err
}

// first reads the first stripe: its memory, its length, and whether src goes on
// behind it. On an error there is no memory.
func (p *put) first(ctx context.Context, in *Source, hint int64) (r room, n int, more bool, err error) {
	size := erasure.ReplicateMax
	if hint > erasure.ReplicateMax {
		size = int(min(hint, erasure.StripeSize))
		r, err = p.roomFor(ctx, size)
	} else {
		if hint >= 0 {
			size = max(int(hint), 1)
		}
		r.data, err = p.set.memory.get(ctx, size)
	}
	if err != nil {
		return room{}, 0, false, err
	}
	for {
		var c int
		c, err = p.fill(in, r.data, n, size)
		n += c
		if err == nil {
			more, err = in.more()
		}
		if err != nil {
			r.release()
			return room{}, 0, false, fmt.Errorf("read source: %w", err)
		}
		if !more || size == erasure.StripeSize {
			return r, n, more, nil
		}
		size = erasure.StripeSize
		if r, err = p.grow(ctx, r, n); err != nil {
			return room{}, 0, false, err
		}
	}
}

// fill reads into mem[from:to] and shows the observer what came.
func (p *put) fill(in *Source, buf *buffer, from, to int) (int, error) {
	if p.obs == nil {
		return in.fill(buf.mem[from:to], nil)
	}
	told := from
	n, err := in.fill(buf.mem[from:to], func(n int) {
		if from+n-told >= observeBytes {
			p.obs.see(buf, told, from+n)
			told = from + n
		}
	})
	p.obs.see(buf, told, from+n)
	return n, err
}

// grow moves what a hint was too small for into memory for a whole stripe.
// The small one is held for as long as the other takes to be had, but is too
// small to starve anybody, unless the hint lied.
func (p *put) grow(ctx context.Context, old room, n int) (room, error) {
	r, err := p.roomFor(ctx, erasure.StripeSize)
	if err == nil {
		copy(r.data.mem, old.data.mem[:n])
	}
	old.release()
	return r, err
}

// attrs asks for the attributes; the observer has seen everything.
func (p *put) attrs(size int64) ([]byte, error) {
	if p.opt.Attrs == nil {
		return nil, nil
	}
	a := p.opt.Attrs(size)
	if len(a) > storagenode.MaxAttrs {
		return nil, fmt.Errorf("attributes of %d bytes: %w", len(a), storagenode.ErrTooLarge)
	}
	return a, nil
}
