package stripe

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// Limits of patience with one drive's reads.
const (
	hedgeMin = 10 * time.Millisecond
	// stuckAfter is when a read that nobody hedged is hedged whatever the
	// share of hedged reads, and when a drive counts as stuck.
	stuckAfter = 250 * time.Millisecond
	// hungFor is for how long reads go elsewhere after one hung.
	hungFor = 2 * time.Second
	// penaltyWaits is for how many WriteWaits a drive that made a write wait
	// in vain is left out of others: a hang would cost each of them as much.
	penaltyWaits = 2
)

// drive is what is remembered of a drive. It outlives its stores.
type drive struct {
	// room bounds the memory of the calls the drive is busy with, so that what
	// a hung one never gives back leaves enough for the others.
	room         *semaphore.Weighted
	limit        int64
	small, large latency // of reads up to smallRead bytes, and of larger ones
	late         atomic.Int32
	count        clock.Count
	lateSince    atomic.Int64 // by count; when late last left 0
	hungUntil    atomic.Int64 // by count; reads go elsewhere until then
	shunned      atomic.Int64 // by count; writes go without it until then
}

const smallRead = 64 << 10

func (d *drive) latency(n int) *latency {
	if n <= smallRead {
		return &d.small
	}
	return &d.large
}

// hedgeAfter is when a read of n bytes is late.
func (d *drive) hedgeAfter(n int) time.Duration {
	return min(max(hedgeMin, 2*d.latency(n).p95()), stuckAfter)
}

// roomShare is the part of the memory, one in so many, that calls to one drive
// may occupy.
const roomShare = 5

// enter waits for room for a call that uses buf.
func (d *drive) enter(ctx context.Context, buf *buffer) error {
	if err := d.room.Acquire(ctx, d.weight(buf)); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (d *drive) leave(buf *buffer) { d.room.Release(d.weight(buf)) }

func (d *drive) weight(buf *buffer) int64 { return min(int64(len(buf.mem)), d.limit) }

// slow says that a read is late now, or hung just now.
func (d *drive) slow(now func() time.Time) bool {
	return d.late.Load() > 0 || d.hung(now)
}

// stuck says that reads have been late for long, or hung just now.
func (d *drive) stuck(now func() time.Time) bool {
	return d.hung(now) || d.late.Load() > 0 && d.count.At(now())-d.lateSince.Load() > int64(stuckAfter)
}

func (d *drive) hung(now func() time.Time) bool {
	until := d.hungUntil.Load()
	return until != 0 && d.count.At(now()) < until
}

// call is one operation that a store is busy with.
type call struct {
	drive *drive
	state atomic.Int32
}

const (
	callRuns = iota
	callLate
	callDone
)

// late marks the drive late until the operation returns.
func (c *call) late(now time.Time) {
	if c.state.CompareAndSwap(callRuns, callLate) && c.drive.late.Add(1) == 1 {
		c.drive.lateSince.Store(c.drive.count.At(now))
	}
}

// hang is late for an operation that was given up: the drive is remembered for
// a while, also where the operation then ends because nobody waits.
func (c *call) hang(now time.Time) {
	c.late(now)
	if c.state.Load() == callLate {
		c.drive.hungUntil.Store(c.drive.count.At(now) + int64(hungFor))
	}
}

// done says that the operation returned.
func (c *call) done() {
	if c.state.Swap(callDone) == callLate {
		c.drive.late.Add(-1)
	}
}

// driveTable finds drives without a lock.
type driveTable struct {
	count clock.Count
	limit int64                                          // bytes of room for each
	table atomic.Pointer[map[storagenode.DriveID]*drive] // grows by copies
	mu    sync.Mutex                                     // one copy at a time
}

func (t *driveTable) get(id storagenode.DriveID) *drive {
	if m := t.table.Load(); m != nil {
		if d := (*m)[id]; d != nil {
			return d
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[storagenode.DriveID]*drive{}
	if m := t.table.Load(); m != nil {
		if d := (*m)[id]; d != nil {
			return d
		}
		maps.Copy(next, *m)
	}
	d := &drive{count: t.count, limit: t.limit, room: semaphore.NewWeighted(t.limit)}
	next[id] = d
	t.table.Store(&next)
	return d
}

// latency is a histogram that forgets: bucket i counts 2^i to 2^(i+1) µs in
// half steps. Writers race and may lose a count, which is harmless.
type latency struct {
	counts [48]atomic.Uint32
	total  atomic.Uint32
	high   atomic.Int64 // the 95th percentile, ns
}

const (
	recountEvery = 64
	forgetAfter  = 1024
)

// p95 is the 95th percentile; 0 before there is one.
func (l *latency) p95() time.Duration { return time.Duration(l.high.Load()) }

func (l *latency) add(d time.Duration) {
	us := max(uint64(d/time.Microsecond), 1)
	b, e := 0, 63
	for us>>e == 0 {
		e--
	}
	b = 2 * e
	if e > 0 && us>>(e-1)&1 == 1 {
		b++
	}
	l.counts[min(b, len(l.counts)-1)].Add(1)
	if n := l.total.Add(1); n%recountEvery == 0 {
		l.recount(n)
	}
}

func (l *latency) recount(n uint32) {
	var sum, all uint32
	for i := range l.counts {
		all += l.counts[i].Load()
	}
	for i := range l.counts {
		sum += l.counts[i].Load()
		if sum >= all-all/20 {
			top := time.Duration(1<<(i/2)) * time.Microsecond // the bucket's upper end
			if i&1 == 0 {
				top += top / 2
			} else {
				top *= 2
			}
			l.high.Store(int64(top))
			break
		}
	}
	if n >= forgetAfter {
		l.total.Store(0)
		for i := range l.counts {
			l.counts[i].Store(l.counts[i].Load() / 2)
		}
	}
}

// hedges keeps hedged reads to a share of all.
type hedges struct{ reads, hedged atomic.Int64 }

const (
	hedgeShare = 20 // one in so many
	hedgeSlack = 16
)

func (h *hedges) allow() bool {
	if h.hedged.Load()*hedgeShare > h.reads.Load()+hedgeSlack*hedgeShare {
		return false
	}
	h.hedged.Add(1)
	return true
}
