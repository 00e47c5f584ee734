package repair

import (
	"errors"
	"testing"
	"time"

	"kintsugi/metadata"
)

// TestQuarantineOutlivesRestarts: a process that is started anew every day still
// collects an orphan, and not before its quarantine is over.
func TestQuarantineOutlivesRestarts(t *testing.T) {
	r := newRig(t, "1+1", 2)
	objects := r.many()
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.orphan(70_000)
	r.clock.advance(30 * time.Hour) // older than the horizon
	life := func() *Repairer {
		t.Helper()
		rep := r.repairer(r.kv)
		ctx := r.term(rep)
		r.must(rep.detectAndPlan(ctx))
		r.must(rep.orphans.pass(ctx))
		return rep
	}
	for day := range 4 {
		rep := life()
		want := 2
		if day == 3 {
			want = 0
		}
		if n := r.shards(o.blob); n != want {
			t.Fatalf("day %d: %d shards, want %d; %+v", day, n, want, rep.Status().Orphans)
		}
		if s := rep.Status().Orphans; day < 3 && s.Quarantined != 2 {
			t.Fatalf("day %d: %+v", day, s)
		}
		r.clock.advance(24 * time.Hour)
	}
	if life(); r.sightings() != 0 {
		t.Errorf("%d rows are left of what was collected", r.sightings())
	}
	r.whole(objects...)
}

// sightings counts the rows of orphans.
func (r *rig) sightings() (n int) {
	r.t.Helper()
	groups, err := r.cat.ListGroups(r.ctx)
	r.must(err)
	for _, g := range groups {
		for slot := range g.Slots {
			list, err := r.cat.Sightings(r.ctx, g.PG, uint8(slot))
			r.must(err)
			n += len(list)
		}
	}
	return n
}

// TestQuarantineAgainstJumpingClocks: a clock that is a year ahead after a
// restart, or goes back, gains at most the time between two passes.
func TestQuarantineAgainstJumpingClocks(t *testing.T) {
	for _, jump := range []time.Duration{365 * 24 * time.Hour, -10 * time.Hour} {
		r := newRig(t, "1+1", 2)
		r.many()
		r.must(r.rep.detectAndPlan(r.ctx))
		o := r.orphan(70_000)
		r.clock.advance(40 * time.Hour)
		r.must(r.rep.orphans.pass(r.ctx))
		r.clock.advance(time.Hour)
		r.must(r.rep.orphans.pass(r.ctx))
		if r.sightings() != 2 {
			t.Fatalf("%d rows", r.sightings())
		}
		for range 2 {
			r.clock.advance(jump)
			rep := r.repairer(r.kv)
			r.must(rep.orphans.pass(r.term(rep)))
			if n := r.shards(o.blob); n != 2 {
				t.Fatalf("jump %s: collected after an hour", jump)
			}
		}
	}
}

// TestSightingsAfterAnotherLed: what another stores meanwhile counts when
// the first leads again, and nothing is stored under a term that has ended.
func TestSightingsAfterAnotherLed(t *testing.T) {
	r := newRig(t, "1+1", 2)
	r.many()
	a, b := r.repairer(r.kv), r.repairer(r.kv)
	r.must(a.detectAndPlan(r.ctx))
	r.must(b.detectAndPlan(r.ctx))
	o := r.orphan(70_000)
	r.clock.advance(30 * time.Hour)
	ctxA := r.term(a)
	r.must(a.orphans.pass(ctxA)) // seen
	for range 2 {
		r.clock.advance(24 * time.Hour)
		r.must(b.orphans.pass(r.term(b)))
	}
	if err := a.orphans.pass(ctxA); !errors.Is(err, metadata.ErrStaleTerm) {
		t.Fatalf("a pass under a term that has ended: %v", err)
	}
	a.leader.end(a.leader.now, metadata.ErrStaleTerm)
	r.clock.advance(24 * time.Hour)
	r.must(a.orphans.pass(r.term(a)))
	if n := r.shards(o.blob); n != 0 {
		t.Fatalf("%d shards left after 72 h, %+v", n, a.Status().Orphans)
	}
}

// TestScrubTimesOutliveRestarts: a drive that was scrubbed is not due again
// before its time, whoever leads; a clock that was ahead does not put it off.
func TestScrubTimesOutliveRestarts(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.some(4)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(r.rep.scrubber.pass(r.ctx))
	r.clock.advance(24 * time.Hour)
	r.must(r.rep.scrubber.pass(r.ctx))
	ended := r.clock.Now()
	other := func() *Repairer {
		t.Helper()
		rep := r.repairer(r.kv)
		r.must(rep.detectAndPlan(r.ctx))
		r.must(rep.scrubber.pass(r.term(rep)))
		return rep
	}
	r.clock.advance(13 * 24 * time.Hour)
	for _, d := range other().Status().Drives {
		if !d.Scrub.Ended.Equal(ended) || !d.Scrub.Next.Equal(ended.Add(14*24*time.Hour)) {
			t.Fatalf("%+v, ended %s", d.Scrub, ended)
		}
	}
	r.clock.advance(25 * time.Hour)
	for _, d := range other().Status().Drives {
		if !d.Scrub.Ended.Equal(r.clock.Now()) {
			t.Fatalf("not scrubbed when due: %+v", d.Scrub)
		}
	}
	for _, d := range r.drives.disks {
		r.must(r.cat.PutScrub(r.ctx, d.report.ID, r.clock.Now().Add(1000*24*time.Hour)))
	}
	for _, d := range other().Status().Drives {
		if d.Scrub.Next.After(r.clock.Now().Add(14 * 24 * time.Hour)) {
			t.Fatalf("put off: %+v", d.Scrub)
		}
	}
}
