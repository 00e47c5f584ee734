package repair

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// gate lets a bounded number of repairs run, the most urgent first. Its
// callers bound how many wait.
type gate struct {
	mu      sync.Mutex
	free    int
	waiting waiters
	bytes   int64 // of those waiting
	seq     uint64
}

// waiter is one repair in the queue. index is its place in the heap, -1 once
// it was let through.
type waiter struct {
	urgency int // lower goes first
	seq     uint64
	bytes   int64
	index   int
	ready   chan struct{}
}

// enter waits for a place; every nil needs a leave.
func (g *gate) enter(ctx context.Context, urgency int, bytes int64) error {
	g.mu.Lock()
	if g.free > 0 && len(g.waiting) == 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	g.seq++
	w := &waiter{urgency: urgency, seq: g.seq, bytes: bytes, ready: make(chan struct{})}
	heap.Push(&g.waiting, w)
	g.bytes += bytes
	g.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.index < 0 { // let through meanwhile
		g.pass()
		return ctx.Err()
	}
	heap.Remove(&g.waiting, w.index)
	g.bytes -= w.bytes
	return ctx.Err()
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass()
}

// pass hands a place on, or frees it. mu is held.
func (g *gate) pass() {
	if len(g.waiting) == 0 {
		g.free++
		return
	}
	w := heap.Pop(&g.waiting).(*waiter)
	g.bytes -= w.bytes
	close(w.ready)
}

// length gives how many wait and their bytes.
func (g *gate) length() (int, int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting), g.bytes
}

// waiters implements heap.Interface.
type waiters []*waiter

func (w waiters) Len() int { return len(w) }
func (w waiters) Less(i, j int) bool {
	if w[i].urgency != w[j].urgency {
		return w[i].urgency < w[j].urgency
	}
	return w[i].seq < w[j].seq
}
func (w waiters) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].index, w[j].index = i, j
}

// Push implements heap.Interface.
func (w *waiters) Push(x any) {
	v := x.(*waiter)
	v.index = len(*w)
	*w = append(*w, v)
}

// Pop implements heap.Interface.
func (w *waiters) Pop() any {
	old := *w
	v := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	v.index = -1
	return v
}

// budget spaces the bytes written to each drive.
type budget struct {
	clock clock.Clock
	rate  int64 // bytes per second; 0: no limit

	mu   sync.Mutex
	next map[storagenode.DriveID]time.Time // when the drive may be written to again
}

// spend waits until n more bytes may go to the drive.
func (b *budget) spend(ctx context.Context, id storagenode.DriveID, n int64) error {
	if b.rate <= 0 {
		return nil
	}
	now := b.clock.Now()
	b.mu.Lock()
	at := b.next[id]
	if at.Before(now) {
		at = now
	}
	b.next[id] = at.Add(time.Duration(float64(n) / float64(b.rate) * float64(time.Second)))
	b.mu.Unlock()
	if wait := at.Sub(now); wait > 0 {
		return b.clock.Sleep(ctx, wait)
	}
	return nil
}

func newBudget(c clock.Clock, rate int64) *budget {
	return &budget{clock: c, rate: rate, next: map[storagenode.DriveID]time.Time{}}
}
