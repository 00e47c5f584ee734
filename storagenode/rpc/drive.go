package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc/auth"
)

// Drive is one drive of a node, in one of its lives. It implements
// storagenode.ShardStore, and Scrub of storagenode.Drive.
type Drive struct {
	client *Client
	id     storagenode.DriveID
	life   uint64
	places chan struct{}
	urls   map[string]*url.URL
	// synced are tokens whose Put was synced in the same request, by their low
	// bits. One that was pushed out costs a request.
	synced [256]atomic.Uint64
	stage  stage
}

var (
	_ storagenode.ShardStore = (*Drive)(nil)
	_ storagenode.Stager     = (*Drive)(nil)
)

// do makes one call. use gets the answer's first frame behind its status.
func (d *Drive) do(ctx context.Context, op string, head *[]byte, bulk []byte, use func(*wireReader) error) error {
	return d.exchange(ctx, op, head, bulk, oneFrame(use))
}

// oneFrame takes an answer of one frame apart; use gets what is behind its
// status, nil: nothing is.
func oneFrame(use func(*wireReader) error) func(*auth.Answer) error {
	return func(a *auth.Answer) error {
		payload, _, err := a.Next()
		if err != nil {
			return err
		}
		r := wireReader{b: payload}
		if err := r.status(); err != nil {
			return err
		}
		if use != nil {
			if err := use(&r); err != nil {
				return err
			}
		}
		return r.end()
	}
}

// exchange makes a call whose answer use takes apart. It owns head.
func (d *Drive) exchange(ctx context.Context, op string, head *[]byte, bulk []byte, use func(*auth.Answer) error) error {
	defer d.client.buffers.put(head)
	leave, err := d.enter(ctx)
	if err != nil {
		return fmt.Errorf("%s on drive %s: %w", op, d.id, err)
	}
	defer leave()
	err = d.client.exchange(ctx, http.MethodPost, d.urls[op], auth.NewBody(*head, bulk), use)
	return d.result(op, err)
}

// result adds what was being done, and notices a new life.
func (d *Drive) result(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if w := d.client.watch.otherLife; w != nil && errors.Is(err, errOtherLife) {
		w(d)
	}
	return fmt.Errorf("%s on drive %s: %w", op, d.id, err)
}

// enter waits for a place.
func (d *Drive) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if allow := d.client.watch.allow; allow != nil {
		if err := allow(); err != nil {
			return nil, err
		}
	}
	select {
	case d.places <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return func() { <-d.places }, nil
}

// head gives an empty buffer for the head of a request.
func (d *Drive) head() *[]byte {
	p := d.client.buffers.get(0)
	*p = (*p)[:0]
	return p
}

// Put implements storagenode.ShardStore. The last shard of a small blob is
// synced in the same request; Sync of its token then costs nothing.
func (d *Drive) Put(ctx context.Context, s storagenode.Shard) (storagenode.Token, error) {
	switch {
	case len(s.Payload) > storagenode.MaxPayload, len(s.Attrs) > storagenode.MaxAttrs:
		return 0, fmt.Errorf("put: payload of %d, attributes of %d bytes: %w", len(s.Payload), len(s.Attrs), storagenode.ErrTooLarge)
	case s.Sums != nil && len(s.Sums) != storagenode.SumCount(len(s.Payload)):
		return 0, fmt.Errorf("put: %d sums for %d bytes: %w", len(s.Sums), len(s.Payload), storagenode.ErrCorrupt)
	}
	if s.Sums == nil {
		s.Sums = storagenode.AppendSums(make([]uint64, 0, storagenode.SumCount(len(s.Payload))), s.Payload)
	}
	h := putHead{life: d.life, sync: s.Last && len(s.Payload) <= joinMax, shard: s, payload: uint32(len(s.Payload))}
	head := d.head()
	*head = appendPut(*head, &h)
	var token storagenode.Token
	err := d.do(ctx, "put", head, s.Payload, func(r *wireReader) error {
		token = storagenode.Token(r.u64())
		if r.u8() == 1 && r.err == nil {
			d.syncedAt(token).Store(uint64(token))
		}
		return nil
	})
	return token, err
}

func (d *Drive) syncedAt(t storagenode.Token) *atomic.Uint64 {
	return &d.synced[uint64(t)%uint64(len(d.synced))]
}

// Sync implements storagenode.ShardStore.
func (d *Drive) Sync(ctx context.Context, t storagenode.Token) error {
	// Only this very token: a smaller one may be of something refused since.
	if t != 0 && d.syncedAt(t).Load() == uint64(t) {
		return nil
	}
	head := d.head()
	*head = le.AppendUint64(le.AppendUint64(*head, d.life), uint64(t))
	return d.do(ctx, "sync", head, nil, nil)
}

// ReadAt implements storagenode.ShardStore. What arrives is verified where it
// lies, in p.
func (d *Drive) ReadAt(ctx context.Context, id storagenode.ShardID, off int64, p []byte) (int, error) {
	head := d.head()
	*head = le.AppendUint64(appendShardID(*head, id), uint64(off))
	*head = le.AppendUint32(*head, uint32(min(len(p), storagenode.MaxPayload+1)))
	n := 0
	err := d.exchange(ctx, "read", head, nil, func(a *auth.Answer) error {
		for {
			payload, raw, err := a.Next()
			if err == io.EOF && n < len(p) {
				return fmt.Errorf("%d bytes of %d: %w", n, len(p), io.ErrUnexpectedEOF)
			}
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			r := wireReader{b: payload}
			said := r.status()
			if raw > len(p)-n {
				return fmt.Errorf("%d bytes where %d are missing: %w", raw, len(p)-n, storagenode.ErrUnavailable)
			}
			sums := r.sums(storagenode.SumCount(raw))
			if err := r.end(); err != nil {
				return err
			}
			if err := a.Raw(p[n : n+raw]); err != nil {
				return err
			}
			if err := verify(p[n:n+raw], sums); err != nil {
				return err
			}
			n += raw
			if said != nil {
				return said
			}
		}
	})
	if err != nil && err != io.EOF {
		n = 0
	}
	return n, err
}

// Stat implements storagenode.ShardStore.
func (d *Drive) Stat(ctx context.Context, id storagenode.ShardID) (info storagenode.ShardInfo, err error) {
	head := d.head()
	*head = appendShardID(*head, id)
	err = d.do(ctx, "stat", head, nil, func(r *wireReader) error {
		info = r.info(id.PG, id.Slot)
		if n := int(r.u32()); n > 0 {
			info.Attrs = append([]byte(nil), r.bytes(n)...)
		}
		return r.err
	})
	if err == nil && info.ID != id {
		err = fmt.Errorf("stat on drive %s: another shard was described: %w", d.id, storagenode.ErrUnavailable)
	}
	if err != nil {
		info = storagenode.ShardInfo{}
	}
	return info, err
}

// List implements storagenode.ShardStore. It fetches page by page and holds no
// connection while its reader works.
func (d *Drive) List(ctx context.Context, pg storagenode.PG, slot int, after storagenode.BlobID) iter.Seq2[storagenode.ShardInfo, error] {
	return func(yield func(storagenode.ShardInfo, error) bool) {
		at := cursor{after: after}
		for more := true; more; {
			var page []storagenode.ShardInfo
			head := d.head()
			*head = at.append(appendSlot(*head, pg, slot))
			err := d.do(ctx, "list", head, nil, func(r *wireReader) (err error) {
				page, more, err = r.page(pg, uint8(slot))
				return err
			})
			if err == nil && more && len(page) == 0 {
				err = fmt.Errorf("list on drive %s: a page without shards: %w", d.id, storagenode.ErrUnavailable)
			}
			if err != nil {
				yield(storagenode.ShardInfo{}, err)
				return
			}
			for _, info := range page {
				if err := ctx.Err(); err != nil {
					yield(storagenode.ShardInfo{}, err)
					return
				}
				at = cursor{after: info.ID.Blob, from: true, stripe: info.ID.Stripe}
				if !yield(info, nil) {
					return
				}
			}
		}
	}
}

// Delete implements storagenode.ShardStore.
func (d *Drive) Delete(ctx context.Context, pg storagenode.PG, slot int, blob storagenode.BlobID) error {
	head := d.head()
	*head = append(appendSlot(*head, pg, slot), blob[:]...)
	return d.do(ctx, "delete", head, nil, nil)
}

// SetSlotEpoch implements storagenode.ShardStore.
func (d *Drive) SetSlotEpoch(ctx context.Context, pg storagenode.PG, slot int, epoch uint32) error {
	head := d.head()
	*head = le.AppendUint32(appendSlot(*head, pg, slot), epoch)
	return d.do(ctx, "epoch", head, nil, nil)
}

// DropSlot implements storagenode.ShardStore.
func (d *Drive) DropSlot(ctx context.Context, pg storagenode.PG, slot int, epoch uint32) error {
	head := d.head()
	*head = le.AppendUint32(appendSlot(*head, pg, slot), epoch)
	return d.do(ctx, "drop", head, nil, nil)
}

// Scrub has the drive verify itself, as storagenode.Drive says. It takes as
// long as it takes, but not without a sign of life; it ends with its context,
// on the node too.
func (d *Drive) Scrub(ctx context.Context, bytesPerSecond int64, damaged func(storagenode.ShardID, error)) (report storagenode.ScrubReport, err error) {
	head := d.head()
	defer d.client.buffers.put(head)
	*head = le.AppendUint64(*head, uint64(bytesPerSecond))
	leave, err := d.enter(ctx)
	if err != nil {
		return report, fmt.Errorf("scrub on drive %s: %w", d.id, err)
	}
	defer leave()
	timed, cancel := context.WithCancel(ctx)
	defer cancel()
	ended, err := d.client.watch.call(cancel)
	if err != nil {
		return report, fmt.Errorf("scrub on drive %s: %w", d.id, err)
	}
	defer ended()
	// Runs while the node is waited for, not while damaged works.
	alarm := time.AfterFunc(d.client.cfg.OpTime, cancel)
	defer alarm.Stop()
	err = d.client.send(ctx, timed, http.MethodPost, d.urls["scrub"], auth.NewBody(*head, nil), func(a *auth.Answer) error {
		for {
			payload, _, err := a.Next()
			if err != nil {
				return err
			}
			alarm.Stop()
			r := wireReader{b: payload}
			said := r.status()
			if said != nil && len(r.b) == 0 {
				return said // the scrub did not begin, or was broken off
			}
			f, err := r.scrub()
			if err != nil {
				return err
			}
			switch f.kind {
			case scrubDamage:
				report.Corrupt = append(report.Corrupt, f.shard)
				if damaged != nil {
					damaged(f.shard, said)
				}
			case scrubEnd:
				report.Records, report.Bytes = f.records, f.bytes
				return said
			}
			alarm.Reset(d.client.cfg.OpTime)
		}
	})
	return report, d.result("scrub", err)
}
