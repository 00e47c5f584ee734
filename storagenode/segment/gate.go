package segment

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// gatePlaces bounds the operations that are inside the drive at once.
const gatePlaces = 128

// gate is the bounded executor of a drive's I/O. An operation runs on its
// caller's goroutine and holds a place while it does, so that a stuck one
// occupies its place and nothing else; the times of entry tell how long.
type gate struct {
	count clock.Count
	stuck time.Duration
	free  chan uint16
	// since[i] is when place i was entered, by count; 0: free. Past gatePlaces
	// lie the places of the store's own goroutines.
	since [gatePlaces + 3]atomic.Int64
}

// The places of the store's own goroutines.
const (
	placeCommit = gatePlaces
	placeKeeper = gatePlaces + 1
	placeFiller = gatePlaces + 2
)

func newGate(c clock.Clock, stuck time.Duration) *gate {
	g := &gate{count: clock.NewCount(c), stuck: stuck, free: make(chan uint16, gatePlaces)}
	for i := range gatePlaces {
		g.free <- uint16(i)
	}
	return g
}

// enter takes a place: ctx's error, or ErrSuspect where none is free and some
// are stuck.
func (g *gate) enter(ctx context.Context) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	select {
	case i := <-g.free:
		g.begin(int(i))
		return int(i), nil
	default:
	}
	if g.suspect() {
		return 0, storagenode.ErrSuspect
	}
	select {
	case i := <-g.free:
		g.begin(int(i))
		return int(i), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (g *gate) leave(i int) {
	g.end(i)
	g.free <- uint16(i)
}

func (g *gate) begin(i int) { g.since[i].Store(g.count.Now()) }
func (g *gate) end(i int)   { g.since[i].Store(0) }

// kept runs one step of the keeper's, which does one thing after the other.
func (g *gate) kept(step func() error) error {
	g.begin(placeKeeper)
	defer g.end(placeKeeper)
	return step()
}

// keptFile is a segment as the keeper reads it.
type keptFile struct {
	f    io.ReaderAt
	gate *gate
}

// ReadAt implements io.ReaderAt.
func (k keptFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = k.gate.kept(func() error {
		n, err = k.f.ReadAt(p, off)
		return err
	})
	return n, err
}

// suspect says whether an operation has been inside for too long.
func (g *gate) suspect() bool {
	limit := g.count.Now() - int64(g.stuck)
	for i := range g.since {
		if t := g.since[i].Load(); t != 0 && t < limit {
			return true
		}
	}
	return false
}
