package repair

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/erasure"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// newLive is a rig whose repairers run by the machine's clock, fast.
func newLive(t testing.TB, scheme string, n int) *rig {
	return newRig(t, scheme, n, func(c *Config) {
		c.Clock = clock.System{}
		c.Tick = 5 * time.Millisecond
		c.OutAfter = time.Hour
		c.CensusInterval = 10 * time.Millisecond
		c.Registerer = prometheus.NewRegistry()
	})
}

func (r *rig) run(reps ...*Repairer) (stop func()) {
	ctx, cancel := context.WithCancel(r.ctx)
	var all sync.WaitGroup
	for _, rep := range reps {
		all.Go(func() {
			if err := rep.Run(ctx); !errors.Is(err, context.Canceled) {
				r.t.Errorf("Run gave %v", err)
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

func (r *rig) await(what string, ok func(Status) bool) Status {
	r.t.Helper()
	for range 2000 {
		if s := r.rep.Status(); ok(s) {
			return s
		}
		time.Sleep(5 * time.Millisecond)
	}
	text, _ := json.Marshal(r.rep.Status())
	r.t.Fatalf("never: %s\n%s", what, text)
	return Status{}
}

// Run alone brings everything back, and says whole only then.
func TestRunHealsByItself(t *testing.T) {
	r := newLive(t, "4+2", 6)
	objects := r.some(16)
	defer r.run(r.rep)()
	r.await("whole", func(s Status) bool { return s.Whole && s.Durability.Blobs == 16 })
	var filled atomic.Int64
	r.onFill = func(int, erasure.Blob) { // as long as something is lacking
		if filled.Add(1); r.rep.Status().Whole {
			t.Error("said to be whole while it is rebuilt")
		}
	}
	r.wipe(4)
	r.await("whole again", func(s Status) bool { return s.Whole && s.States["RETIRED"] == 1 })
	if filled.Load() == 0 {
		t.Error("nothing was rebuilt")
	}
	r.whole(objects...)
	r.delete(objects[0].key)
	r.rep.Kick()
	r.await("deleted", func(Status) bool { return r.shards(objects[0].blob) == 0 })
	if got, err := r.cfg.Registerer.(*prometheus.Registry).Gather(); err != nil || len(got) < 10 {
		t.Fatalf("%d metrics, %v", len(got), err)
	}
}

// Two repairers at once, with writers and deleters beside them, while one
// drive after the other is wiped or goes away and comes back.
func TestTwoRepairersUnderLoad(t *testing.T) {
	r := newLive(t, "2+2", 6)
	cfg := r.cfg
	cfg.Registerer = nil
	other, err := New(cfg)
	r.must(err)
	stop := r.run(r.rep, other)
	rng := rand.New(rand.NewPCG(3, 4))
	alive, dead := map[string]object{}, []object{}
	for round := range 6 {
		i := rng.IntN(len(r.drives.disks))
		for r.drives.disks[i].gone {
			i = rng.IntN(len(r.drives.disks))
		}
		for n := range 40 {
			key := fmt.Sprintf("k%d", rng.IntN(30))
			if n == 10 {
				if round%2 == 0 {
					r.wipe(i)
				} else {
					r.state(i, storagenode.DriveDown)
				}
			}
			r.clock.advance(3 * time.Millisecond)
			if rng.IntN(3) == 0 {
				if o, ok := alive[key]; ok {
					r.delete(key)
					delete(alive, key)
					dead = append(dead, o)
				}
				continue
			}
			o, err := r.tryPut(key, 1+rng.IntN(150_000))
			if err != nil {
				continue // placement moved under the writer
			}
			if old, ok := alive[key]; ok {
				dead = append(dead, old)
			}
			alive[key] = o
		}
		if round%2 == 1 {
			r.state(i, storagenode.DriveActive)
		}
		// Not Status, which may be a moment old: more than m losses at once
		// would be too many.
		r.await("whole", func(Status) bool {
			rep, err := r.rep.Recount(r.ctx)
			return err == nil && rep.Whole
		})
	}
	for _, o := range dead {
		r.await("deleted", func(Status) bool { return r.shards(o.blob) == 0 })
	}
	stop()
	r.heal()
	for _, o := range alive {
		r.whole(o)
	}
}

// What cannot be repaired is said, and is never given up.
func TestLostBlobsAreSaid(t *testing.T) {
	r := newRig(t, "2+1", 3)
	o := r.put("x", 200_000)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.wipe(0)
	r.wipe(1)
	var last Progress
	rep, err := r.rep.RepairNow(r.ctx, func(p Progress) { last = p })
	if err != nil || last.Phase != NotHealed || rep.Unreadable != 1 || rep.Damaged != 1 {
		t.Fatalf("%v %+v %+v", err, last, rep)
	}
	if r.record(o) == nil {
		t.Fatal("metadata gave up a blob")
	}
	if n := r.shards(o.blob); n != 1 {
		t.Fatalf("%d shards", n)
	}
	s := r.rep.Status()
	if s.Whole || s.Durability.Unreadable != 1 {
		t.Fatalf("%+v", s.Durability)
	}
}

// TestDamageIsForgottenWithTheTerm: who leads no more does not go on about blobs that it
// last saw without all their shards.
func TestDamageIsForgottenWithTheTerm(t *testing.T) {
	r := newLive(t, "2+1", 3)
	o := r.put("o", 300_000)
	r.room(r.diskOf(o.pg, 0), 100_000)
	for r.record(o).Blob.Missing == 0 {
		o = r.put("late", 300_000)
	}
	r.rep = r.repairer(r.kv, waiting)
	stop := r.run(r.rep)
	r.await("damage", func(s Status) bool { return s.Leader.Leads && s.Queue.Damaged > 0 && s.Recount != nil })
	stop()
	if s := r.rep.Status(); s.Queue.Damaged > 0 || s.Recount != nil {
		t.Fatalf("%d blobs are called damaged, the recount is %+v", s.Queue.Damaged, s.Recount)
	}
}
