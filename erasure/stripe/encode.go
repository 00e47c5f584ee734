package stripe

import (
	"context"
	"fmt"
	"io"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// part is one stripe on its way to the slots.
type part struct {
	room
	sums   []uint64 // of the blocks of its data shards, once it is encoded
	stripe int
	n      int // bytes of data
	last   bool
	size   int64 // of the blob up to the end of this stripe
}

// encode writes a blob over all slots. It owns first, which holds the first n
// bytes. The next stripe is read while one is written: two are in memory.
func (p *put) encode(ctx context.Context, in *Source, exact bool, first room, n int, more bool) (PutResult, error) {
	work, cancel := context.WithCancel(ctx)
	defer cancel() // ends stragglers
	if got, want := p.live.Count(), p.group.Scheme.MinShards(); got < want {
		first.release()
		return PutResult{}, p.quorumError(got, want)
	}
	if p.obs == nil {
		p.obs = observe(p.opt.Observer)
		p.obs.see(first.data, 0, n)
	}
	st := part{room: first, n: n, size: int64(n), last: !more}
	var before chan error // the stripe that is being written
	for !st.last {
		err := wait(before)
		if err != nil {
			st.release()
			return PutResult{}, err
		}
		before = make(chan error, 1)
		go func(st part, done chan error) { done <- p.write(work, st) }(st, before)
		if st, err = p.next(ctx, in, exact, st); err != nil {
			cancel()
			_ = wait(before) // it lost to the error that is returned
			return PutResult{}, err
		}
		more = !st.last
		if st.size == erasure.BlobMax && !st.last {
			st.last = true
		}
	}
	if err := wait(before); err != nil {
		st.release()
		return PutResult{}, err
	}
	if err := p.write(work, st); err != nil {
		return PutResult{}, err
	}
	all := erasure.AllSlots(p.group.Scheme.N())
	return PutResult{More: more, Blob: erasure.Blob{
		ID: p.id, Size: st.size, Mode: erasure.Encoded, Slots: all, Missing: all &^ p.live,
	}}, nil
}

func wait(c chan error) error {
	if c == nil {
		return nil
	}
	return <-c
}

// next reads the stripe after st. Whether the source goes on behind it is in
// last; at erasure.BlobMax a source that cannot hold a byte back is not asked,
// and counts as going on.
func (p *put) next(ctx context.Context, in *Source, exact bool, st part) (part, error) {
	r, err := p.roomFor(ctx, erasure.StripeSize)
	if err != nil {
		return part{}, err
	}
	n, err := p.fill(in, r.data, 0, erasure.StripeSize)
	more := true
	size := st.size + int64(n)
	if err == nil && (exact || size < erasure.BlobMax) {
		more, err = in.more()
	}
	if err != nil {
		r.release()
		return part{}, fmt.Errorf("read source: %w", err)
	}
	return part{room: r, stripe: st.stripe + 1, n: n, size: size, last: !more}, nil
}

// write encodes a stripe and puts it to the live slots; the last one is synced,
// which makes all of them durable. It owns the memory.
func (p *put) write(ctx context.Context, st part) error {
	defer st.release()
	if err := ended(ctx); err != nil {
		return err
	}
	var hold [storagenode.MaxSlots][]byte
	shards := hold[:0]
	if k1 := p.group.Scheme.K == 1; k1 {
		one := st.data.mem[:p.group.Scheme.ShardSize(st.n)]
		clear(one[st.n:])
		for range p.group.Scheme.N() {
			shards = append(shards, one)
		}
	} else {
		var parity []byte
		if st.parity != nil {
			parity = st.parity.mem
		}
		shards = p.coder.Split(shards, st.data.mem, parity, st.n)
		if err := p.coder.Encode(shards); err != nil {
			return err
		}
	}
	sh := storagenode.Shard{
		ID:        storagenode.ShardID{PG: p.group.PG, Blob: p.id, Stripe: uint32(st.stripe)},
		K:         p.group.Scheme.K,
		M:         p.group.Scheme.M,
		StripeLen: uint32(st.n), StripeHash: storagenode.BlockSum(st.data.mem[:st.n]), Last: st.last,
	}
	if st.last {
		if err := p.obs.end(); err != nil {
			return fmt.Errorf("observer: %w", err)
		}
		var err error
		if sh.Attrs, err = p.attrs(st.size); err != nil {
			return err
		}
	}
	data := shards[:p.group.Scheme.K]
	each := storagenode.SumCount(len(data[0]))
	st.sums = make([]uint64, 0, each*len(data))
	for _, s := range data {
		st.sums = storagenode.AppendSums(st.sums, s)
	}
	w := newWriters(p, st.room)
	if p.later = st.stripe > 0; !p.later {
		p.begun = p.live
	}
	for i := range shards {
		if p.live.Has(i) {
			sh.ID.Slot, sh.SlotEpoch, sh.Payload, sh.Sums = uint8(i), p.group.Slots[i].Epoch, shards[i], nil
			if i < len(data) {
				sh.Sums = st.sums[i*each : (i+1)*each]
			}
			w.start(ctx, i, sh)
		}
	}
	if err := p.collect(ctx, w); err != nil {
		return err
	}
	p.set.hot.written(p.group.Scheme, p.id, st)
	return nil
}

// collect waits for the slots of one stripe, and lets those fall that fail or
// are late when enough others are there.
func (p *put) collect(ctx context.Context, w *writers) error {
	want := p.group.Scheme.MinShards()
	patience := newPatience(p.set)
	fell := func(slot int, err error) {
		if err != nil {
			p.fell(slot, err)
		}
	}
	for w.running != 0 {
		impatient := false
		select {
		case <-w.results:
		case <-patience.c:
			impatient = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		w.take(fell)
		inTime := (p.live &^ w.running).Count()
		alone := inTime >= int(p.group.Scheme.K) // those that are late, for the others are well
		if impatient && (inTime >= want || !patience.again(alone)) {
			for i := range p.group.Slots {
				if w.running.Has(i) {
					p.drop(i, &w.calls[i], patience.fresh() || alone && inTime < want)
				}
			}
			w.running = 0
		}
		if got := p.live.Count(); got < want {
			return p.quorumError(got, want)
		}
	}
	return nil
}

// observeBytes is how much an observer on a goroutine gets at a time.
const observeBytes = 256 << 10

// observer feeds an io.Writer in order on a goroutine of its own.
type observer struct {
	pieces chan piece
	done   chan struct{}
	err    error // once done is closed
	ended  bool
}

type piece struct {
	buf *buffer
	p   []byte
}

// observe starts an observer; nil where w is nil, and all of its methods do
// nothing on that.
func observe(w io.Writer) *observer {
	if w == nil {
		return nil
	}
	o := &observer{pieces: make(chan piece, 8), done: make(chan struct{})}
	go func() {
		defer close(o.done)
		for pc := range o.pieces {
			if o.err == nil {
				o.err = writeAll(w, pc.p)
			}
			pc.buf.release()
		}
	}()
	return o
}

// see passes mem[from:to] on, holding the buffer until it was seen.
func (o *observer) see(buf *buffer, from, to int) {
	if o == nil || from == to {
		return
	}
	buf.retain(1)
	o.pieces <- piece{buf, buf.mem[from:to]}
}

// end waits until everything was seen. It may be called again.
func (o *observer) end() error {
	if o == nil {
		return nil
	}
	if !o.ended {
		o.ended = true
		close(o.pieces)
	}
	<-o.done
	return o.err
}
