package repair

import (
	"context"
	"fmt"
	"testing"
	"time"

	"kintsugi/storagenode"
)

// ticking is a clock that goes on by a millisecond with each look at it, and notes
// who rests.
type ticking struct {
	*fakeClock
	rests   []time.Duration
	resting func() // may be nil
}

func (c *ticking) Now() time.Time {
	c.advance(time.Millisecond)
	return c.fakeClock.Now()
}

func (c *ticking) Sleep(_ context.Context, d time.Duration) error {
	c.rests = append(c.rests, d)
	if c.resting != nil {
		c.resting()
	}
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

// TestOwedIsToldMeanwhile: who deleted much to make room sees what is owed, and how it
// becomes less, while it is carried out.
func TestOwedIsToldMeanwhile(t *testing.T) {
	r := newRig(t, "1+1", 2)
	clock := &ticking{fakeClock: r.clock}
	r.rep.deletes.cfg.Clock = clock
	r.must(r.rep.detectAndPlan(r.ctx))
	const objects = 3*owedPerBatch + 10
	for i := range objects {
		r.put(fmt.Sprint("o", i), 10)
	}
	for i := range objects {
		r.delete(fmt.Sprint("o", i))
	}
	clock.rests = nil
	clock.resting = func() {
		n := int64(len(clock.rests))
		if s := r.rep.Status().Deletes; s.Owed != objects-n*owedPerBatch || s.Done != n*owedPerBatch {
			t.Errorf("after %d batches of %d deletes: %+v", n, objects, s)
		}
	}
	r.must(r.rep.deletes.pass(r.ctx))
	if s := r.rep.Status().Deletes; len(clock.rests) != 3 || s.Owed != 0 || s.Done != objects {
		t.Errorf("%+v after %d rests", s, len(clock.rests))
	}
}

// TestOwedIsToldWhereItStays: neither a drive that is away, nor a pass that is broken off,
// makes less of what is owed.
func TestOwedIsToldWhereItStays(t *testing.T) {
	r := newRig(t, "1+1", 2)
	clock := &ticking{fakeClock: r.clock}
	r.rep.deletes.cfg.Clock = clock
	r.must(r.rep.detectAndPlan(r.ctx))
	const objects = 3 * owedPerBatch
	for i := range objects {
		r.put(fmt.Sprint("o", i), 10)
	}
	for i := range objects {
		r.delete(fmt.Sprint("o", i))
	}
	r.state(1, storagenode.DriveDown)
	r.must(r.rep.deletes.pass(r.ctx))
	if s := r.rep.Status().Deletes; s.Owed != objects || s.Done != 0 {
		t.Errorf("with a drive away: %+v", s)
	}
	r.state(1, storagenode.DriveActive)
	clock.rests = nil
	clock.resting = func() { r.must(r.rep.Pause(r.ctx)) }
	r.must(r.rep.deletes.pass(r.ctx))
	if s := r.rep.Status().Deletes; s.Owed != objects-owedPerBatch || s.Done != owedPerBatch {
		t.Errorf("paused after a batch: %+v", s)
	}
}
