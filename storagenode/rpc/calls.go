package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"kintsugi/storagenode"
)

// put takes a shard; where it is the last of a small blob, it is synced too.
func (c *call) put() error {
	defer c.timed()()
	var h putHead
	if err := c.head.put(&h); err != nil {
		return err
	}
	if h.life != c.life {
		return errOtherLife
	}
	if c.in.BulkSize != int64(h.payload) {
		return fmt.Errorf("payload of %d bytes, its head says %d: %w", c.in.BulkSize, h.payload, storagenode.ErrUnavailable)
	}
	release, err := c.memoryFor(int64(h.payload))
	if err != nil {
		return err
	}
	defer release()
	buf := c.s.buffers.get(int(h.payload))
	defer c.s.buffers.put(buf)
	if err := c.receive(*buf); err != nil {
		return err
	}
	token, err := c.accept(&h, *buf)
	synced := uint8(0)
	if err == nil && h.sync {
		err, synced = c.store.Sync(c.ctx, token), 1
	}
	if err != nil {
		return err
	}
	c.out = append(le.AppendUint64(c.ok(), uint64(token)), synced)
	return nil
}

// accept verifies a shard and gives it to the drive.
func (c *call) accept(h *putHead, payload []byte) (storagenode.Token, error) {
	if h.life != c.life {
		return 0, errOtherLife
	}
	if err := verify(payload, h.shard.Sums); err != nil {
		return 0, err
	}
	h.shard.Payload = payload
	return c.store.Put(c.ctx, h.shard)
}

// puts takes small shards, each for itself, and syncs them.
func (c *call) puts() error {
	defer c.timed()()
	heads, total, err := c.head.puts()
	if err != nil {
		return err
	}
	if c.in.BulkSize != int64(total) {
		return fmt.Errorf("payloads of %d bytes, their heads say %d: %w", c.in.BulkSize, total, storagenode.ErrUnavailable)
	}
	release, err := c.memoryFor(int64(total))
	if err != nil {
		return err
	}
	defer release()
	buf := c.s.buffers.get(total)
	defer c.s.buffers.put(buf)
	if err := c.receive(*buf); err != nil {
		return err
	}
	tokens, errs := make([]storagenode.Token, len(heads)), make([]error, len(heads))
	rest := *buf
	for i := range heads {
		n := int(heads[i].payload)
		tokens[i], errs[i] = c.accept(&heads[i], rest[:n])
		rest = rest[n:]
	}
	c.out = c.ok()
	for i, err := range errs {
		if err == nil {
			err = c.store.Sync(c.ctx, tokens[i])
		}
		c.out = appendStatus(c.out, err)
	}
	return nil
}

func (c *call) sync() error {
	defer c.timed()()
	life, token := c.head.u64(), storagenode.Token(c.head.u64())
	if err := c.head.end(); err != nil {
		return err
	}
	if life != c.life {
		return errOtherLife
	}
	if err := c.store.Sync(c.ctx, token); err != nil {
		return err
	}
	c.out = c.ok()
	return nil
}

// read sends what is asked for in pieces that end at the borders of blocks, so
// that no block is read and verified twice.
func (c *call) read() error {
	defer c.timed()()
	id, off, left := c.head.shardID(), c.head.i64(), int64(c.head.u32())
	if err := c.head.end(); err != nil {
		return err
	}
	room := min(left, pieceSize)
	release, err := c.memoryFor(room)
	if err != nil {
		return err
	}
	defer release()
	buf := c.s.buffers.get(int(room))
	defer c.s.buffers.put(buf)
	for {
		want := left
		if off >= 0 {
			want = min(left, off/storagenode.SumBlock*storagenode.SumBlock+pieceSize-off)
		}
		want = min(want, room)
		p := (*buf)[:want]
		n, err := c.store.ReadAt(c.ctx, id, off, p)
		if err != nil && err != io.EOF {
			n = 0
		}
		off, left = off+int64(n), left-int64(n)
		last := err != nil || left <= 0
		c.said = err
		c.out = appendStatus(c.out[:0], err)
		for rest := p[:n]; len(rest) > 0; rest = rest[min(storagenode.SumBlock, len(rest)):] {
			c.out = le.AppendUint64(c.out, storagenode.BlockSum(rest[:min(storagenode.SumBlock, len(rest))]))
		}
		if err := c.w.Answer(c.out, p[:n], last); err != nil || last {
			return errAnswered // if at all: the connection is gone otherwise
		}
	}
}

func (c *call) stat() error {
	defer c.timed()()
	id := c.head.shardID()
	if err := c.head.end(); err != nil {
		return err
	}
	info, err := c.store.Stat(c.ctx, id)
	if err != nil {
		return err
	}
	c.out = le.AppendUint32(appendInfo(c.ok(), &info), uint32(len(info.Attrs)))
	c.out = append(c.out, info.Attrs...)
	return nil
}

// list gives a page.
func (c *call) list() error {
	defer c.timed()()
	h := c.head.slot()
	at := c.head.cursor()
	if err := c.head.end(); err != nil {
		return err
	}
	c.out = append(c.ok(), 0, 0, 0, 0, 0)
	start, n := len(c.out)-5, 0
	for info, err := range c.store.List(c.ctx, h.pg, h.slot, at.before()) {
		if err != nil {
			return err
		}
		if at.passed(info.ID) {
			continue
		}
		if n == pageShards {
			c.out[start] = 1
			break
		}
		n++
		c.out = appendInfo(c.out, &info)
	}
	le.PutUint32(c.out[start+1:], uint32(n))
	return nil
}

func (c *call) delete() error {
	defer c.timed()()
	h, blob := c.head.slot(), c.head.blob()
	if err := c.head.end(); err != nil {
		return err
	}
	c.out = c.ok()
	return c.store.Delete(c.ctx, h.pg, h.slot, blob)
}

func (c *call) setSlotEpoch() error { return c.fence(c.store.SetSlotEpoch) }

func (c *call) dropSlot() error { return c.fence(c.store.DropSlot) }

// fence makes a call that names a slot and an epoch.
func (c *call) fence(op func(ctx context.Context, pg storagenode.PG, slot int, epoch uint32) error) error {
	defer c.timed()()
	h := c.head.slot()
	epoch := c.head.u32()
	if err := c.head.end(); err != nil {
		return err
	}
	c.out = c.ok()
	return op(c.ctx, h.pg, h.slot, epoch)
}

// scrubber is a store that can verify itself, as storagenode.Drive says.
type scrubber interface {
	Scrub(ctx context.Context, bytesPerSecond int64, damaged func(storagenode.ShardID, error)) (storagenode.ScrubReport, error)
}

// scrubEvent is what a scrub has found, or how it ended.
type scrubEvent struct {
	frame scrubFrame
	err   error
}

// scrub streams what a scrub finds. It ends when the client goes, and when the
// server closes.
func (c *call) scrub() error {
	rate := c.head.i64()
	if err := c.head.end(); err != nil {
		return err
	}
	store, ok := c.store.(scrubber)
	if !ok {
		return errors.New("the drive cannot scrub itself")
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	defer context.AfterFunc(c.s.stopped, cancel)()
	events := make(chan scrubEvent)
	go func() { // a drive that hangs keeps this goroutine, not the call
		tell := func(e scrubEvent) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		}
		r, err := store.Scrub(ctx, rate, func(id storagenode.ShardID, err error) {
			tell(scrubEvent{scrubFrame{kind: scrubDamage, shard: id}, err})
		})
		tell(scrubEvent{scrubFrame{kind: scrubEnd, records: r.Records, bytes: r.Bytes}, err})
	}()
	for {
		var e scrubEvent
		select {
		case e = <-events:
		case <-c.s.cfg.Clock.After(beatEvery):
		case <-ctx.Done():
			return fmt.Errorf("scrub was broken off: %w: %w", storagenode.ErrUnavailable, ctx.Err())
		}
		last := e.frame.kind == scrubEnd
		if last {
			c.said = e.err
		}
		c.out = e.frame.append(appendStatus(c.out[:0], e.err))
		if err := c.w.Answer(c.out, nil, last); err != nil || last {
			return errAnswered // if at all: the connection is gone otherwise
		}
	}
}
