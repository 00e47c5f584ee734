package stripe

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// turnBytes is how much is read at once while the drives answer from memory:
// little enough to stay in the processor's cache while it is verified.
const turnBytes = 256 << 10

// fromMemory is how long a read takes at most that did not ask the disk.
const fromMemory = 2 * time.Millisecond

// turns reads a range from drives that answer from memory: a piece is read,
// from one drive after another where it spans several, and verified, then the
// next, until there are enough to be written. All of that happens on one
// goroutine, for waking others costs more than it would save. It is not the
// goroutine of whoever reads, which watches it instead, and goes on by itself,
// from behind what was written, where a drive holds it.
type turns struct {
	reader *reader
	mem    *buffer // held by run: where the next piece is read into
	batch  *batch  // of run
	next   int64   // what is before was written, or is in the batch at first
	// state is when the drive's call that runs now began, in ns. It is
	// turnFree between two calls and while w is written to, turnTaken once the
	// watcher has taken the range: what run does after that is seen by nobody.
	state atomic.Int64
	slot  atomic.Int32 // of the call that runs
	pos   atomic.Int64 // what is before was written
	calls []call       // of each data slot, one at a time
	// done is sent to when run has ended; not waited for where it is taken.
	done chan struct{}

	// Of run until it is done or taken.
	err   error // of the slot's drive
	wrote error // of w
	panic any   // of w
}

const (
	turnFree  = 0
	turnTaken = -1
)

// quick says that the drives' reads come from this machine's memory.
func (r *reader) quick(pos int64) bool {
	if r.set.cfg.Remote {
		return false
	}
	n := min(turnBytes, r.group.Scheme.ShardSize(stripeLen(r.blob.Size, int(pos/erasure.StripeSize))))
	for i := range int(r.group.Scheme.K) {
		p95 := r.set.drives.get(r.group.Slots[i].Drive).latency(n).p95()
		if p95 == 0 || p95 > r.set.quick {
			return false
		}
	}
	return true
}

// pieceSize is the length of all pieces but the last of a shard, or of a stripe
// of small shards: about turnBytes, and none is much shorter than the others.
func (r *reader) pieceSize(stripe int) int {
	return pieceSize(r.group.Scheme.ShardSize(stripeLen(r.blob.Size, stripe)))
}

// pieceSize is what reader.pieceSize is for shards of size bytes.
func pieceSize(size int) int {
	if size < turnBytes {
		return turnBytes / size * size
	}
	pieces := (size + turnBytes/2) / turnBytes
	blocks := (size + pieces*storagenode.SumBlock - 1) / (pieces * storagenode.SumBlock)
	return blocks * storagenode.SumBlock
}

// piece is the next window from pos on, and the whole piece that it is of.
// Pieces are the same for all reads of a blob: shards, or parts of shards that
// end with a block, or several small shards.
func (r *reader) piece(pos int64) (win, whole window) {
	win = r.window(pos)
	whole = window{stripe: win.stripe, n: win.n}
	whole.from, whole.to = pieceAt(r.group.Scheme.ShardSize(win.n), win.n, win.from)
	win.to = min(win.to, whole.to)
	return win, whole
}

// pieceAt is the piece that holds the byte at, of a stripe of n bytes in shards of
// size bytes.
func pieceAt(size, n, at int) (from, to int) {
	step := pieceSize(size)
	if size < turnBytes {
		from = at / step * step
		return from, min(n, from+step)
	}
	shard := at / size * size
	from = shard + (at-shard)/step*step
	return from, min(n, shard+size, from+step)
}

// inTurns says that what comes at pos can be read in turn.
func (r *reader) inTurns(pos int64) bool {
	win, _ := r.piece(pos)
	return r.quick(pos) && r.direct(win)
}

// turnMemory is what the longest piece needs.
func (r *reader) turnMemory() int {
	return int(min(r.blob.Size, int64(max(r.pieceSize(0), r.pieceSize(stripes(r.blob.Size)-1)))))
}

// turns makes turns that begin at pos, and with what is in the batch. It owns
// batch and mem.
func (r *reader) turns(b *batch, pos int64, mem *buffer) *turns {
	t := &turns{reader: r, mem: mem, batch: b, next: pos, calls: make([]call, r.group.Scheme.K), done: make(chan struct{}, 1)}
	t.pos.Store(r.off)
	for i := range t.calls {
		t.calls[i].drive = r.set.drives.get(r.group.Slots[i].Drive)
	}
	return t
}

// inTurn has what can be written of the rest in turn; see fromMemory.
func (r *reader) inTurn(ctx context.Context, w io.Writer, t *turns) *fetched {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends a call that was given up
	r.set.callers.run(func() { t.run(ctx, w) })
	hedge, taken := t.watch(ctx)
	r.off = t.pos.Load()
	switch {
	case taken && ended(ctx) != nil:
		hedge.release()
		return &fetched{err: context.Cause(ctx)}
	case taken:
		return r.around(ctx, hedge)
	case t.panic != nil:
		panic(t.panic)
	case t.wrote != nil:
		return &fetched{err: t.wrote}
	case t.err == nil:
		return nil
	}
	if err := ended(ctx); err != nil {
		return &fetched{err: err}
	}
	r.set.damaged(r.group, r.blob.ID, int(t.slot.Load()), t.err)
	return r.around(ctx, nil)
}

// around reads the rest of a stripe by whatever slots give it. It owns mem,
// which may be nil.
func (r *reader) around(ctx context.Context, mem *buffer) *fetched {
	win := r.window(r.off)
	d, err := r.set.gather(ctx, r.group, r.blob, win.stripe, mem)
	if err != nil {
		return &fetched{err: err}
	}
	return r.cut(d, win)
}

// run reads and writes until all is written, or something goes wrong.
func (t *turns) run(ctx context.Context, w io.Writer) {
	defer func() {
		t.batch.drop()
		t.mem.release()
		t.done <- struct{}{}
	}()
	r := t.reader
	for pos := t.next; pos < r.end; {
		win, whole := r.piece(pos)
		p, buf := r.hot(win, whole)
		if p == nil {
			p, buf = t.fetch(ctx, win, whole, pos)
		}
		if p != nil {
			t.batch.add(p, buf)
			if pos += int64(len(p)); pos < r.end && !t.batch.full() && buf != t.mem {
				continue
			}
		}
		if t.state.Load() == turnTaken {
			return
		}
		if t.wrote = t.write(w); t.wrote != nil || t.panic != nil {
			return
		}
		if t.pos.Store(pos); p == nil {
			return
		}
	}
}

// fetch reads a window, which begins at pos, from the drives. A piece that was
// read before is read wholly and kept. The buffer comes with a reference; it is
// still mem, to be written before more is read, where there is no memory for
// another. Nil where the drives failed, or the range was taken.
func (t *turns) fetch(ctx context.Context, win, whole window, pos int64) ([]byte, *buffer) {
	r := t.reader
	key := r.hotKey(whole.stripe, whole.from)
	again := r.set.hot.wants(key, whole.to-whole.from)
	if !again {
		whole = win
	}
	if !r.direct(whole) || !t.read(ctx, whole) {
		return nil, nil
	}
	buf := t.mem
	p := buf.mem[win.from-whole.from : win.to-whole.from]
	if pos+int64(len(p)) == r.end {
		t.mem = nil
	} else if t.mem = r.set.memory.spare(len(buf.mem)); t.mem == nil {
		t.mem = buf
		buf.retain(1)
		return p, buf
	}
	if again {
		r.set.hot.put(key, buf, whole.to-whole.from)
	}
	return p, buf
}

// write writes the batch, and keeps a panic for whoever reads.
func (t *turns) write(w io.Writer) error {
	defer func() { t.panic = recover() }()
	return t.batch.write(w)
}

// read fills the buffer with a window; false where it failed or was taken.
func (t *turns) read(ctx context.Context, win window) bool {
	s, g := t.reader.set, t.reader.group
	s.hedges.reads.Add(1)
	size := g.Scheme.ShardSize(win.n)
	for at := win.from; at < win.to; {
		slot := at / size
		to := min(win.to, (slot+1)*size)
		c := &t.calls[slot]
		c.state.Store(callRuns)
		t.slot.Store(int32(slot))
		began := s.drives.count.Now()
		t.state.Store(began)
		err := c.drive.enter(ctx, t.mem)
		if err == nil {
			id := storagenode.ShardID{PG: g.PG, Slot: uint8(slot), Blob: t.reader.blob.ID, Stripe: uint32(win.stripe)}
			err = s.readPart(ctx, g, id, int64(at-slot*size), t.mem.mem[at-win.from:to-win.from])
			c.drive.leave(t.mem)
		}
		c.done()
		if !t.state.CompareAndSwap(began, turnFree) {
			return false
		}
		if t.err = err; err != nil {
			return false
		}
		at = to
	}
	return true
}

// watch waits until run is done, or takes the range from it where ctx ends or a
// drive is late. Memory for a hedge comes with it, if the share of hedges
// allows for one; where not, the drive has until it counts as stuck.
func (t *turns) watch(ctx context.Context) (hedge *buffer, taken bool) {
	clock := t.reader.set.cfg.Clock
	timer := t.reader.set.timer(hedgeMin) // twice fromMemory is less
	defer timer.stop()
	ending := ctx.Done()
	for {
		select {
		case <-t.done:
			return nil, false
		case <-ending:
			ending = nil // a write that runs is waited for: w is the caller's
			if began := t.state.Load(); began > turnFree && t.state.CompareAndSwap(began, turnTaken) {
				return nil, true
			}
			timer.reset(hedgeMin)
		case <-timer.c:
			wait := hedgeMin
			if began := t.state.Load(); began > turnFree {
				now := clock.Now()
				age := time.Duration(t.reader.set.drives.count.At(now) - began)
				if hedge, taken = t.take(began, age, now, ending == nil); taken {
					return hedge, true
				}
				if age < hedgeMin {
					wait = hedgeMin - age
				}
			}
			timer.reset(wait)
		}
	}
}

// take ends the watch over a call that began then, if it is time to.
func (t *turns) take(began int64, age time.Duration, now time.Time, ended bool) (*buffer, bool) {
	if ended {
		return nil, t.state.CompareAndSwap(began, turnTaken)
	}
	if age < hedgeMin {
		return nil, false
	}
	c := &t.calls[t.slot.Load()]
	if age >= stuckAfter {
		c.hang(now)
		return nil, t.state.CompareAndSwap(began, turnTaken)
	}
	c.late(now)
	hedge := t.reader.hedgeMemory(stripeLen(t.reader.blob.Size, int(t.pos.Load()/erasure.StripeSize)))
	if hedge == nil {
		return nil, false
	}
	if !t.state.CompareAndSwap(began, turnTaken) {
		hedge.release()
		return nil, false
	}
	t.reader.set.stats.hedged.Inc()
	return hedge, true
}
