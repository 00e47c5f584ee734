package stripe

import (
	"context"
	"fmt"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// Rebuild recreates all shards of one slot of a blob at dst, with the slot epoch
// given, from verified shards of the other slots and of the drive the slot was
// mapped from; what dst itself holds is no source. It makes them durable, reads
// them back and compares. Attributes come along.
//
// ErrUnreadable where too few good shards can be had; dst's errors.
func (s *Set) Rebuild(ctx context.Context, g erasure.Group, b erasure.Blob, slot int, dst storagenode.ShardStore, epoch uint32) error {
	return s.recreate(ctx, rebuilder{set: s, group: &g, blob: &b, slot: slot, dst: dst, epoch: epoch})
}

// Move is Rebuild from what another drive holds of the same slot, for a blob of
// which too few shards can be had: its shards are taken as that drive has verified
// them. ErrNotFound, ErrCorrupt and whatever else the drive answers; dst's errors.
func (s *Set) Move(ctx context.Context, g erasure.Group, b erasure.Blob, slot int, from storagenode.DriveID, dst storagenode.ShardStore, epoch uint32) error {
	return s.recreate(ctx, rebuilder{set: s, group: &g, blob: &b, slot: slot, from: from, dst: dst, epoch: epoch})
}

func (s *Set) recreate(ctx context.Context, r rebuilder) error {
	g, b, slot, dst := r.group, r.blob, r.slot, r.dst
	if err := checkGroup(g); err != nil {
		return err
	}
	if slot < 0 || slot >= len(g.Slots) || !b.Slots.Has(slot) {
		return fmt.Errorf("rebuild blob %s: slot %d holds nothing of it", b.ID, slot)
	}
	n := stripes(b.Size)
	if b.Mode == erasure.Replicated {
		n = 1
	}
	sums := make([]uint64, n)
	var last storagenode.Token
	for i := range n {
		token, err := r.stripe(ctx, i, i == n-1, &sums[i])
		if err != nil {
			return fmt.Errorf("rebuild blob %s slot %d stripe %d: %w", b.ID, slot, i, err)
		}
		last = max(last, token)
	}
	if err := s.guard(ctx, nil, func(ctx context.Context) error { return dst.Sync(ctx, last) }); err != nil {
		return fmt.Errorf("rebuild blob %s slot %d: sync: %w", b.ID, slot, err)
	}
	for i := range n {
		if err := r.check(ctx, i, sums[i]); err != nil {
			return fmt.Errorf("rebuild blob %s slot %d stripe %d: read back: %w", b.ID, slot, i, err)
		}
	}
	return nil
}

type rebuilder struct {
	set   *Set
	group *erasure.Group
	blob  *erasure.Blob
	slot  int
	from  storagenode.DriveID // of which the shards are taken as they are; zero: none
	dst   storagenode.ShardStore
	epoch uint32
}

// source decodes a stripe so that it has the slot's shard.
func (r *rebuilder) source(ctx context.Context, stripe int) (*decoded, error) {
	if !r.from.IsZero() {
		return r.taken(ctx, stripe)
	}
	if r.blob.Mode == erasure.Replicated {
		return r.set.wholeCopy(ctx, r.group, r.blob, r.slot)
	}
	a, err := r.set.newGather(ctx, r.group, r.blob, stripe, nil)
	if err != nil {
		return nil, err
	}
	defer a.release()
	a.without = r.slot
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends stragglers
	return a.fit(ctx, erasure.SlotMask(1)<<r.slot)
}

// taken reads the slot's shard of a stripe from the drive it is moved from.
func (r *rebuilder) taken(ctx context.Context, stripe int) (*decoded, error) {
	n, want := int(r.blob.Size), r.blob.Size
	if r.blob.Mode == erasure.Encoded {
		want = int64(stripeLen(r.blob.Size, stripe))
		n = r.group.Scheme.ShardSize(int(want))
	}
	buf, err := r.set.memory.get(ctx, max(1, n))
	if err != nil {
		return nil, err
	}
	p := buf.mem[:n]
	infos := make(chan storagenode.ShardInfo, 1)
	err = r.set.guard(ctx, buf, func(ctx context.Context) error {
		info, err := r.set.readWhole(ctx, r.from, r.id(stripe), p)
		infos <- info
		return err
	})
	if err != nil {
		buf.release()
		return nil, err
	}
	info := <-infos
	if int64(info.StripeLen) != want || r.blob.Mode == erasure.Replicated && storagenode.BlockSum(p) != info.StripeHash {
		buf.release()
		return nil, fmt.Errorf("stripe %d at drive %s is not of this blob: %w", stripe, r.from, storagenode.ErrCorrupt)
	}
	d := &decoded{mem: buf, shards: make([][]byte, len(r.group.Slots)), hash: info.StripeHash, attrs: info.Attrs, last: info.Last}
	d.shards[r.slot] = p
	return d, nil
}

// stripe puts one shard at dst, not yet durable. sum becomes that of its bytes.
func (r *rebuilder) stripe(ctx context.Context, stripe int, last bool, sum *uint64) (storagenode.Token, error) {
	d, err := r.source(ctx, stripe)
	if err != nil {
		return 0, err
	}
	defer d.release()
	sh := storagenode.Shard{
		ID:        r.id(stripe),
		K:         r.group.Scheme.K,
		M:         r.group.Scheme.M,
		SlotEpoch: r.epoch, StripeHash: d.hash, StripeLen: uint32(r.blob.Size),
		Last: last, Payload: d.shards[r.slot],
	}
	if r.blob.Mode == erasure.Replicated {
		sh.K = 1
	} else {
		sh.StripeLen = uint32(stripeLen(r.blob.Size, stripe))
	}
	if last {
		if !d.last {
			return 0, fmt.Errorf("stripe %d is not the last one by its shards: %w", stripe, storagenode.ErrCorrupt)
		}
		sh.Attrs = d.attrs
	}
	*sum = storagenode.BlockSum(sh.Payload)
	var token storagenode.Token
	got := make(chan storagenode.Token, 1)
	err = r.set.guard(ctx, d.mem, func(ctx context.Context) error {
		t, err := r.dst.Put(ctx, sh)
		got <- t
		return err
	})
	if err == nil {
		token = <-got
	}
	return token, err
}

func (r *rebuilder) id(stripe int) storagenode.ShardID {
	return storagenode.ShardID{PG: r.group.PG, Slot: uint8(r.slot), Blob: r.blob.ID, Stripe: uint32(stripe)}
}

// check reads what was written back from dst.
func (r *rebuilder) check(ctx context.Context, stripe int, sum uint64) error {
	n := int(r.blob.Size)
	if r.blob.Mode == erasure.Encoded {
		n = r.group.Scheme.ShardSize(stripeLen(r.blob.Size, stripe))
	}
	buf, err := r.set.memory.get(ctx, n)
	if err != nil {
		return err
	}
	defer buf.release()
	p := buf.mem[:n]
	err = r.set.guard(ctx, buf, func(ctx context.Context) error {
		if _, err := r.dst.Stat(ctx, r.id(stripe)); err != nil {
			return err
		}
		return readFull(ctx, r.dst, r.id(stripe), 0, p)
	})
	if err == nil && storagenode.BlockSum(p) != sum {
		err = fmt.Errorf("other bytes than were written: %w", storagenode.ErrCorrupt)
	}
	return err
}

// guard runs a call to a store so that a hang of the store holds up nobody but
// the call's own goroutine: ErrSuspect after twice Config.ReadWait. buf, which
// may be nil, is held until the call returns.
func (s *Set) guard(ctx context.Context, buf *buffer, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if buf != nil {
		buf.retain(1)
	}
	done := make(chan error, 1)
	go func() {
		err := f(ctx)
		buf.release()
		done <- err
	}()
	t := s.timer(2 * s.cfg.ReadWait)
	defer t.stop()
	select {
	case err := <-done:
		return err
	case <-t.c:
		return storagenode.ErrSuspect
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wholeCopy reads a whole replica with its header from any slot but one, whose
// old drive will do too. The result's shards have it at that slot.
func (s *Set) wholeCopy(ctx context.Context, g *erasure.Group, b *erasure.Blob, without int) (*decoded, error) {
	buf, err := s.memory.get(ctx, max(1, int(b.Size)))
	if err != nil {
		return nil, err
	}
	c := &copyReader{set: s, group: g, blob: b, asked: erasure.SlotMask(1) << without}
	from := g.Slots[without].From
	var first error
	for {
		slot := c.pick()
		drive := from
		switch {
		case slot >= 0:
			c.asked = c.asked.With(slot)
			drive = g.Slots[slot].Drive
		case from.IsZero():
			buf.release()
			return nil, fmt.Errorf("no copy: %w: %w", ErrUnreadable, first)
		default:
			slot, from = without, storagenode.DriveID{}
		}
		info, err := s.copyOn(ctx, g, b, slot, drive, buf)
		if err == nil {
			d := &decoded{mem: buf, shards: make([][]byte, len(g.Slots)), hash: info.StripeHash, attrs: info.Attrs, last: info.Last}
			d.shards[without] = buf.mem[:b.Size]
			return d, nil
		}
		if cause := ended(ctx); cause != nil {
			buf.release()
			return nil, cause
		}
		if first == nil {
			first = err
		}
		// A read that hangs still holds the buffer and may write to it.
		buf.release()
		if buf, err = s.memory.get(ctx, max(1, int(b.Size))); err != nil {
			return nil, err
		}
	}
}

// copyOn reads a replica from one drive and verifies it in whole.
func (s *Set) copyOn(ctx context.Context, g *erasure.Group, b *erasure.Blob, slot int, drive storagenode.DriveID, buf *buffer) (storagenode.ShardInfo, error) {
	id := storagenode.ShardID{PG: g.PG, Slot: uint8(slot), Blob: b.ID}
	p := buf.mem[:b.Size]
	infos := make(chan storagenode.ShardInfo, 1)
	err := s.guard(ctx, buf, func(ctx context.Context) error {
		info, err := s.readWhole(ctx, drive, id, p)
		infos <- info
		return err
	})
	if err != nil {
		return storagenode.ShardInfo{}, err
	}
	info := <-infos
	if int64(info.StripeLen) != b.Size || storagenode.BlockSum(p) != info.StripeHash {
		return info, fmt.Errorf("copy on slot %d does not have the hash it names: %w", slot, storagenode.ErrCorrupt)
	}
	return info, nil
}
