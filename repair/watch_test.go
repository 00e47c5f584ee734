package repair

import (
	"sync"
	"testing"
	"time"

	"kintsugi/erasure"
)

// TestProgressOfAnotherPass: who watches a repair sees what is rebuilt, also where the
// background had begun with it before, as it does when it finds a drive empty.
func TestProgressOfAnotherPass(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.some(8)
	r.heal()
	r.wipe(0)
	r.must(r.rep.detectAndPlan(r.ctx))

	started, watched, shown := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var begin, see, watch sync.Once
	late := time.After(10 * time.Second)
	r.onFill = func(int, erasure.Blob) { // takes until it was seen, once it is watched
		begin.Do(func() { close(started) })
		select {
		case <-watched:
		case <-late:
			return
		}
		for range 1000 {
			r.clock.advance(progressEvery / 100)
			select {
			case <-shown:
				return
			case <-time.After(time.Millisecond):
			}
			if r.rep.worker.shards() == 0 {
				return // something must have been done
			}
		}
	}
	background := make(chan struct{})
	go func() {
		defer close(background)
		_, _, _ = r.rep.worker.rebuildSlots(r.ctx)
	}()
	<-started
	var saw Progress
	_, err := r.rep.RepairNow(r.ctx, func(p Progress) {
		if p.Phase == Repairing {
			watch.Do(func() { close(watched) })
			if p.BytesDone > 0 {
				see.Do(func() { saw = p; close(shown) })
			}
		}
	})
	r.must(err)
	<-background
	if saw.BytesDone == 0 || saw.BytesTotal < saw.BytesDone || saw.Rate == 0 {
		t.Fatalf("of what the background rebuilt %+v was told", saw)
	}
}

// TestProgressOfMoreThanWasCounted: what is found damaged while a repair goes on is repaired
// by it as well; it never tells of more done than there is to do.
func TestProgressOfMoreThanWasCounted(t *testing.T) {
	r := newRig(t, "2+2", 4)
	objects := r.some(4)
	r.heal()
	r.wipe(0)
	r.must(r.rep.detectAndPlan(r.ctx))
	var once sync.Once
	r.onFill = func(slot int, _ erasure.Blob) { // the emptied drive has one slot of each group
		once.Do(func() { r.lose(objects[3], (slot+1)%4) })
	}
	most := int64(0)
	_, err := r.rep.RepairNow(r.ctx, func(p Progress) {
		if p.Phase == Repairing {
			most = max(most, p.BytesDone)
			if p.BytesDone > p.BytesTotal {
				t.Errorf("told %+v", p)
			}
		}
	})
	r.must(err)
	if most == 0 {
		t.Error("nothing was told")
	}
	r.whole(objects...)
}
