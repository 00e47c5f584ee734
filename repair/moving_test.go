package repair

import (
	"testing"

	"kintsugi/storagenode"
)

// indexOf is where the drive is among the rig's.
func (r *rig) indexOf(id storagenode.DriveID) int {
	r.t.Helper()
	for i, d := range r.drives.disks {
		if d.report.ID == id {
			return i
		}
	}
	r.t.Fatalf("no drive %s", id)
	return -1
}

// TestSlotsOnTheMoveAreThere: status and what-if count what a drained drive
// holds for as long as it is there. With another drive away it was said that
// blobs cannot be read that could.
func TestSlotsOnTheMoveAreThere(t *testing.T) {
	r := newRig(t, "2+1", 5)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("o", 100_000)
	g := r.group(o.pg)
	from := g.Slots[0].Drive
	_, err := r.rep.Drain(r.ctx, from)
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	to := r.group(o.pg).Slots[0].Drive
	if to == from {
		t.Fatal("not moved")
	}
	margin := func(lost ...storagenode.DriveID) int {
		t.Helper()
		d, err := r.rep.WhatIf(r.ctx, lost)
		if err != nil || len(d.Margins) != 1 || d.Unreadable == 1 != (d.Margins[0].Margin < 0) {
			t.Fatalf("%+v %v", d, err)
		}
		return d.Margins[0].Margin
	}
	if m := margin(); m != 1 {
		t.Fatalf("margin %d while a slot is moved", m)
	}
	if d := r.rep.StatusNow(r.ctx).Durability; d.Full != 1 {
		t.Fatalf("degraded: %+v", d)
	}
	if a, b := margin(from), margin(to); a != 0 || b != 0 {
		t.Fatalf("margins %d and %d without the drives it is moved between", a, b)
	}
	if m := margin(g.Slots[1].Drive); m != 0 {
		t.Fatalf("margin %d without another drive", m)
	}

	r.state(r.indexOf(g.Slots[1].Drive), storagenode.DriveDown)
	r.must(r.rep.detectAndPlan(r.ctx))
	if m := margin(); m != 0 {
		t.Fatalf("margin %d with another drive away", m)
	}
	if d := r.repairer(r.kv); d.detectAndPlan(r.ctx) != nil || d.StatusNow(r.ctx).Durability.Unreadable != 1 {
		t.Fatal("a repairer that did not begin the move knows what lies where")
	}
	r.state(r.indexOf(g.Slots[1].Drive), storagenode.DriveActive)

	// The new drive breaks: what was written to it meanwhile is on neither.
	r.state(r.indexOf(to), storagenode.DriveBroken)
	r.must(r.rep.detectAndPlan(r.ctx))
	if s := r.group(o.pg).Slots[0]; s.Drive == to || s.From != from {
		t.Fatalf("slot is %+v", s)
	}
	if m := margin(); m != 0 {
		t.Fatalf("margin %d of a slot that was moved twice", m)
	}
	r.heal()
	r.whole(o)
	if m := margin(); m != 1 {
		t.Fatalf("margin %d in the end", m)
	}
}

// TestMovesOfAFormerLeader: a repairer that takes over finds out what lies where. What
// is on neither drive is not counted as there.
func TestMovesOfAFormerLeader(t *testing.T) {
	for _, lost := range []bool{false, true} {
		r := newRig(t, "2+1", 5)
		r.must(r.rep.detectAndPlan(r.ctx))
		o := r.put("o", 100_000)
		g := r.group(o.pg)
		_, err := r.rep.Drain(r.ctx, g.Slots[0].Drive)
		r.must(err)
		r.must(r.rep.detectAndPlan(r.ctx))
		var late object
		for i := 0; late.pg != o.pg; i++ {
			late = r.put("late"+string(rune('a'+i)), 100_000)
		}
		if lost {
			r.drives.disks[r.indexOf(g.Slots[0].Drive)].memory.Lose(storagenode.ShardID{PG: o.pg, Slot: 0, Blob: o.blob})
		}
		next := r.repairer(r.kv)
		r.must(next.detectAndPlan(r.ctx))
		next.inventory.all.Store(true)
		_, err = next.inventory.pass(r.ctx)
		r.must(err)
		d := next.StatusNow(r.ctx).Durability
		rep, err := next.Recount(r.ctx)
		r.must(err)
		if lost {
			if d.Full == d.Blobs || d.Margins[0].Margin != 0 || rep.Margins[0].Margin != 0 {
				t.Fatalf("a shard is lost: %+v, recount %+v", d, rep)
			}
			continue
		}
		if d.Full != d.Blobs || len(d.Margins) != 1 || d.Margins[0].Margin != 1 || rep.Margins[0].Margin != 1 || rep.Whole {
			t.Fatalf("%+v, recount %+v", d, rep)
		}
	}
}
