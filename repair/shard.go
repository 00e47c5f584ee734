package repair

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// stripes is the number of stripes of a blob; an empty one has one record.
func stripes(b erasure.Blob) int {
	if b.Mode == erasure.Replicated || b.Size == 0 {
		return 1
	}
	return int((b.Size + erasure.StripeSize - 1) / erasure.StripeSize)
}

// stripeLen is the number of data bytes in stripe i.
func stripeLen(b erasure.Blob, i int) int64 {
	if b.Mode == erasure.Replicated {
		return b.Size
	}
	return min(erasure.StripeSize, b.Size-int64(i)*erasure.StripeSize)
}

// slotBytes is what one slot holds of a blob.
func slotBytes(s erasure.Scheme, b erasure.Blob) int64 {
	if b.Mode == erasure.Replicated || b.Size == 0 {
		return b.Size
	}
	n := int64(0)
	full := b.Size / erasure.StripeSize
	if full > 0 {
		n = full * int64(s.ShardSize(erasure.StripeSize))
	}
	if rest := b.Size % erasure.StripeSize; rest > 0 {
		n += int64(s.ShardSize(int(rest)))
	}
	return n
}

// finding is what a fresh look at a slot's part of a blob gave.
type finding uint8

const (
	good finding = iota
	absent
	corrupt
	unknown // the drive could not be asked: says nothing about the shard
)

// inspector asks drives for shards, with bounded patience.
type inspector struct {
	cfg     *Config
	buffers sync.Pool // of *[]byte, readSize long
}

const readSize = 16 * storagenode.SumBlock

// inspect looks at all shards of a blob at one slot: that they are there and
// fit the blob and, with deep, that every byte verifies. Only the drive's own
// answer makes a shard absent or corrupt; everything else is unknown, with the
// error that says why.
func (v *inspector) inspect(ctx context.Context, store storagenode.ShardStore, pg storagenode.PG, slot int, b erasure.Blob, deep bool) (finding, error) {
	for i := range stripes(b) {
		id := storagenode.ShardID{PG: pg, Slot: uint8(slot), Blob: b.ID, Stripe: uint32(i)}
		if f, err := v.inspectOne(ctx, store, id, stripeLen(b, i), deep); f != good {
			return f, err
		}
	}
	return good, nil
}

func (v *inspector) inspectOne(ctx context.Context, store storagenode.ShardStore, id storagenode.ShardID, want int64, deep bool) (finding, error) {
	opCtx, cancel := context.WithTimeout(ctx, v.cfg.OpTimeout)
	info, err := patiently(opCtx, func() (storagenode.ShardInfo, error) { return store.Stat(opCtx, id) })
	cancel()
	if err != nil {
		return classify(err), err
	}
	if int64(info.StripeLen) != want {
		return corrupt, fmt.Errorf("stripe %d of blob %s is %d bytes long, want %d: %w", id.Stripe, id.Blob, info.StripeLen, want, storagenode.ErrCorrupt)
	}
	if !deep {
		return good, nil
	}
	buf, _ := v.buffers.Get().(*[]byte)
	if buf == nil {
		p := make([]byte, readSize)
		buf = &p
	}
	for off := int64(0); off < info.Size; off += readSize {
		p := (*buf)[:min(readSize, info.Size-off)]
		opCtx, cancel := context.WithTimeout(ctx, v.cfg.OpTimeout)
		n, err := patiently(opCtx, func() (int, error) { return store.ReadAt(opCtx, id, off, p) })
		cancel()
		if err != nil && !(errors.Is(err, io.EOF) && n == len(p)) {
			return classify(err), err // the buffer is not reused: a late reader may still write to it
		}
	}
	v.buffers.Put(buf)
	return good, nil
}

func classify(err error) finding {
	switch {
	case errors.Is(err, storagenode.ErrNotFound), errors.Is(err, storagenode.ErrDeleted):
		return absent
	case errors.Is(err, storagenode.ErrCorrupt), errors.Is(err, io.EOF):
		return corrupt
	}
	return unknown
}

// cursor walks what a drive lists of a slot, blob by blob. A list that broke
// off, or that stood still for too long, says nothing about what follows: from
// then on err is set.
type cursor struct {
	next    func() (storagenode.ShardInfo, error, bool)
	halt    func()
	moved   atomic.Int64
	current storagenode.ShardInfo
	more    bool
	err     error
	blobs   int64 // distinct blobs seen so far
}

// list opens a cursor before the first blob; close it.
func (v *inspector) list(ctx context.Context, store storagenode.ShardStore, pg storagenode.PG, slot int) *cursor {
	c := &cursor{}
	ctx, cancel := context.WithCancelCause(ctx)
	next, stop := iter.Pull2(listPatiently(ctx, store.List(ctx, pg, slot, storagenode.BlobID{})))
	c.next = next
	c.halt = func() { cancel(context.Canceled); stop() }
	go c.watch(ctx, cancel, v.cfg)
	c.step()
	return c
}

// watch ends a list that is silent for longer than OpTimeout.
func (c *cursor) watch(ctx context.Context, cancel context.CancelCauseFunc, cfg *Config) {
	for last := int64(-1); ; {
		select {
		case <-ctx.Done():
			return
		case <-cfg.Clock.After(cfg.OpTimeout):
		}
		now := c.moved.Load()
		if now == last && now%2 == 1 { // odd: inside the drive's code
			cancel(fmt.Errorf("list stands still: %w", storagenode.ErrUnavailable))
			return
		}
		last = now
	}
}

func (c *cursor) close() { c.halt() }

func (c *cursor) step() {
	before := c.current.ID.Blob
	first := c.blobs == 0
	c.moved.Add(1)
	info, err, ok := c.next()
	c.moved.Add(1)
	c.more = ok && err == nil
	if err != nil {
		c.err = err
		return
	}
	if !c.more {
		return
	}
	if first || info.ID.Blob != before {
		c.blobs++
	}
	c.current = info
}

// seek goes to the first shard of a blob with an id of at least id, calling
// passed once for every blob on the way.
func (c *cursor) seek(id storagenode.BlobID, passed func(storagenode.BlobID) error) error {
	for c.more && c.current.ID.Blob.Compare(id) < 0 {
		if err := c.skip(passed); err != nil {
			return err
		}
	}
	return c.err
}

// rest calls passed for every blob that is left.
func (c *cursor) rest(passed func(storagenode.BlobID) error) error {
	for c.more {
		if err := c.skip(passed); err != nil {
			return err
		}
	}
	return c.err
}

func (c *cursor) skip(passed func(storagenode.BlobID) error) error {
	blob := c.current.ID.Blob
	if passed != nil {
		if err := passed(blob); err != nil {
			return err
		}
	}
	for c.more && c.current.ID.Blob == blob {
		c.step()
	}
	return c.err
}

// holds says whether the list has every shard of b; the cursor must stand at
// b or beyond it (seek), and stands beyond it afterwards.
func (c *cursor) holds(b erasure.Blob) (bool, error) {
	want, next := stripes(b), 0
	for c.more && c.current.ID.Blob == b.ID {
		if int(c.current.ID.Stripe) == next && next < want && int64(c.current.StripeLen) == stripeLen(b, next) {
			next++
		}
		c.step()
	}
	return next == want, c.err
}
