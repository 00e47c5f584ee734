package repair

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// ticking is a clock that goes on by a millisecond with each look at it, and notes
// who rests.
type ticking struct {
	*fakeClock
	rests []time.Duration
}

func (c *ticking) Now() time.Time {
	c.advance(time.Millisecond)
	return c.fakeClock.Now()
}

func (c *ticking) Sleep(_ context.Context, d time.Duration) error {
	c.rests = append(c.rests, d)
	c.advance(d)
	return nil
}

// TestManyDeletesRest: what deletes many blobs at once leaves others as much time as it
// takes; the last batch waits for nobody.
func TestManyDeletesRest(t *testing.T) {
	r := newRig(t, "1+1", 2)
	clock := &ticking{fakeClock: r.clock}
	r.rep.deletes.cfg.Clock = clock
	r.must(r.rep.detectAndPlan(r.ctx))
	const objects = 2*owedPerBatch + 10
	for i := range objects {
		r.put(fmt.Sprint("o", i), 10)
	}
	for i := range objects {
		r.delete(fmt.Sprint("o", i))
	}
	clock.rests = nil
	r.must(r.rep.deletes.pass(r.ctx))
	if len(clock.rests) != 2 || clock.rests[0] <= 0 || clock.rests[1] <= 0 {
		t.Errorf("rested %v between three batches", clock.rests)
	}
	if owed, done := r.rep.deletes.counts(); owed != 0 || done != objects {
		t.Errorf("%d deletes owed, %d done of %d", owed, done, objects)
	}
}
