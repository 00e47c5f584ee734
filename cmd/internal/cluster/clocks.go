package cluster

import (
	"context"
	"math/rand/v2"
	"time"

	"kintsugi/storagenode/clock"
)

// machine is the clock of a host, over all its lives.
func (c *Many) machine(host string) *clock.Wrong {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clocks[host] == nil {
		c.clocks[host] = &clock.Wrong{}
		c.clocks[host].Jump(c.cfg.Skew(host))
	}
	return c.clocks[host]
}

// watch is a machine's clock as a process has it: while that stands still no
// time is up for it. What was due meanwhile comes when it goes on, among all
// that waits to go on then, and not before it.
type watch struct {
	*clock.Wrong
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
