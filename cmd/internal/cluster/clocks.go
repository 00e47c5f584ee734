package cluster

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"
	"unsafe"

	"kintsugi/storagenode/clock"
)

// skewed is the clock of a machine whose date is wrong, by a time that may
// change from one moment to the next. What a machine counts of the time that
// passes is right all the same, and so is the monotonic reading here.
type skewed struct {
	clock.System
	by atomic.Int64 // ns
}

// jump has the clock be wrong by a time from now on.
func (c *skewed) jump(by time.Duration) { c.by.Store(int64(by)) }

// Now implements clock.Clock.
func (c *skewed) Now() time.Time {
	now := c.System.Now()
	wrong := now.Add(time.Duration(c.by.Load()))
	// Nothing in package time makes a date with another monotonic reading than
	// its own, and in a bubble there is none: these are the fields of a
	// time.Time, seconds since 1885 in the upper bits of the first.
	type fields struct {
		wall uint64
		ext  int64 // the monotonic reading, ns
		loc  *time.Location
	}
	f := (*fields)(unsafe.Pointer(&wrong))
	f.wall = 1<<63 | uint64(wrong.Unix()-since1885)<<30 | uint64(wrong.Nanosecond())
	f.ext = now.UnixNano()
	return wrong
}

var since1885 = time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC).Unix()

// machine is the clock of a host, over all its lives.
func (c *Many) machine(host string) *skewed {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clocks[host] == nil {
		c.clocks[host] = &skewed{}
		c.clocks[host].jump(c.cfg.Skew(host))
	}
	return c.clocks[host]
}

// watch is a machine's clock as a process has it: while that stands still no
// time is up for it. What was due meanwhile comes when it goes on, among all
// that waits to go on then, and not before it.
type watch struct {
	*skewed
	life *life
}

// After implements clock.Clock.
func (w watch) After(d time.Duration) <-chan time.Time {
	c := make(chan time.Time, 1)
	time.AfterFunc(d, func() {
		if w.life.frozenNow() {
			w.life.runs(context.Background())
			time.Sleep(rand.N(wakes))
		}
		c <- w.Now()
	})
	return c
}

// Sleep implements clock.Clock.
func (w watch) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-w.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
