package repair

import (
	"slices"
	"strings"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// lose takes a blob's shards out of a slot, and has that noticed.
func (r *rig) lose(o object, slot int) {
	r.t.Helper()
	for s := range stripes(r.record(o).Blob) {
		r.diskOf(o.pg, slot).memory.Lose(storagenode.ShardID{PG: o.pg, Slot: uint8(slot), Blob: o.blob, Stripe: uint32(s)})
	}
	r.must(r.cat.MarkMissing(r.ctx, o.pg, o.blob, erasure.SlotMask(0).With(slot)))
}

func (r *rig) stateOf(id storagenode.DriveID) storagenode.DriveState {
	d, _ := r.rep.fleet.drive(id)
	return d.record.State
}

// out has a drive away for as long as it takes to be given up; its slots are mapped
// elsewhere then.
func (r *rig) out(id storagenode.DriveID) {
	r.t.Helper()
	r.state(r.indexOf(id), storagenode.DriveDown)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.clock.advance(11 * time.Minute)
	r.must(r.rep.detectAndPlan(r.ctx))
	if s := r.stateOf(id); s != storagenode.DriveOut {
		r.t.Fatalf("drive is %s", s)
	}
}

func (r *rig) rounds(n int) {
	for range n {
		r.clock.advance(3 * time.Second)
		r.round()
	}
}

// TestDrainBesideAnUnreadableBlob: a slot that is being rebuilt, from a drive that
// was given up, holds a blob of which too few shards are left. Its drive can be
// drained all the same, and the blob is whole once the other drive is back.
func TestDrainBesideAnUnreadableBlob(t *testing.T) {
	for _, size := range []int{100, 300_000} {
		r := newRig(t, "2+1", 6)
		r.must(r.rep.detectAndPlan(r.ctx))
		o := r.put("lost", size)
		var others []object
		for i := 0; len(others) < 3; i++ {
			if x := r.put("other"+string(rune('a'+i)), 300_000); x.pg == o.pg {
				others = append(others, x)
			}
		}
		slots := r.record(o).Blob.Slots
		first := slots.First()
		for i := first + 1; i < 3; i++ {
			if slots.Has(i) && (size == 100 || i == first+1) {
				r.lose(o, i)
			}
		}
		gone := r.group(o.pg).Slots[first].Drive
		r.out(gone)
		to := r.group(o.pg).Slots[first].Drive
		_, err := r.rep.Drain(r.ctx, to)
		r.must(err)
		r.rounds(6)
		if s := r.stateOf(to); s != storagenode.DriveDrained {
			t.Fatalf("drive is %s, slots %+v, waiting %+v", s, r.group(o.pg).Slots, r.rep.planner.list())
		}
		r.whole(others...)
		if d := r.rep.StatusNow(r.ctx).Durability; d.Unreadable != 1 {
			t.Fatalf("%+v", d)
		}
		v, err := r.rep.VerifyAll(r.ctx, Filter{}, nil)
		if err != nil || len(v.Named) != 1 || v.Named[0].Key != o.key || v.Named[0].BucketID != r.bucket.ID {
			t.Fatalf("%+v, %v", v, err)
		}
		r.state(r.indexOf(gone), storagenode.DriveActive)
		r.rounds(2)
		r.heal()
		r.whole(append(others, o)...)
	}
}

// TestLastShardLeavesADrainedDrive: what a drive that is being drained has of a blob
// that cannot be read, for drives that are given up, is moved from it as it is.
func TestLastShardLeavesADrainedDrive(t *testing.T) {
	r := newRig(t, "2+1", 7)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("x", 300_000)
	g := r.group(o.pg)
	r.lose(o, 1)
	r.out(g.Slots[2].Drive)
	_, err := r.rep.Drain(r.ctx, g.Slots[0].Drive)
	r.must(err)
	r.rounds(4)
	if s := r.stateOf(g.Slots[0].Drive); s != storagenode.DriveDrained {
		t.Fatalf("drive is %s, slots %+v, waiting %+v", s, r.group(o.pg).Slots, r.rep.planner.list())
	}
	r.drives.disks[r.indexOf(g.Slots[0].Drive)].gone = true // it is taken out
	r.rounds(2)
	r.state(r.indexOf(g.Slots[2].Drive), storagenode.DriveActive)
	r.rounds(2)
	r.heal()
	r.whole(o)
}

// TestDrainSaysWhatItWaitsFor: a drive that is away for a moment may have what the
// slots of a drained one need; until then the drain names it.
func TestDrainSaysWhatItWaitsFor(t *testing.T) {
	r := newRig(t, "2+1", 6)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("x", 300_000)
	g := r.group(o.pg)
	r.out(g.Slots[0].Drive)
	to := r.group(o.pg).Slots[0].Drive
	r.state(r.indexOf(g.Slots[1].Drive), storagenode.DriveDown)
	r.rounds(1)
	_, err := r.rep.Drain(r.ctx, to)
	r.must(err)
	r.rounds(2)
	told := ""
	for _, w := range r.rep.Status().Waiting {
		if w.Drive == to {
			told = w.Why
		}
	}
	if !strings.Contains(told, g.Slots[1].Drive.String()) || !strings.Contains(told, "DOWN") {
		t.Fatalf("told: %q", told)
	}
	r.state(r.indexOf(g.Slots[1].Drive), storagenode.DriveActive)
	r.rounds(4)
	if s := r.stateOf(to); s != storagenode.DriveDrained {
		t.Fatalf("drive is %s", s)
	}
	r.heal()
	r.whole(o)
}

// TestSlotMovedTwice: a slot leaves a full drive before it was rebuilt there. What was
// written to it meanwhile is neither where it is mapped to nor where it is rebuilt
// from; it is found all the same.
func TestSlotMovedTwice(t *testing.T) {
	r := newRig(t, "2+1", 7)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("before", 300_000)
	first := r.group(o.pg).Slots[0].Drive
	_, err := r.rep.Drain(r.ctx, first)
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	second := r.group(o.pg).Slots[0].Drive
	var late object
	for i := 0; late.pg != o.pg; i++ {
		late = r.put("late"+string(rune('a'+i)), 300_000)
	}
	full := r.drives.disks[r.indexOf(second)].memory
	s := full.Space()
	s.ReadOnly = true
	full.SetSpace(s)
	_, err = r.rep.Drain(r.ctx, second)
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	if s := r.group(o.pg).Slots[0]; s.Drive == second || s.From != first {
		t.Fatalf("slot is %+v", s)
	}
	r.lose(late, 1)
	for range 3 { // the one shard that is left of late in this slot is on second
		r.must(r.rep.detectAndPlan(r.ctx))
		r.clock.advance(time.Minute)
	}
	if s := r.stateOf(second); s != storagenode.DriveDraining || !told(r.rep, second) {
		t.Fatalf("drive is %s, waiting %+v", s, r.rep.Status().Waiting)
	}
	r.rounds(4)
	r.heal()
	r.whole(o, late)
	r.clock.advance(time.Minute)
	r.rounds(2)
	for _, id := range []storagenode.DriveID{first, second} {
		if s := r.stateOf(id); s != storagenode.DriveDrained {
			t.Fatalf("drive is %s", s)
		}
	}
}

// TestStraysOfALostSlotStay: the drive that a slot moved to breaks right after; what is
// left where it came from is not dropped, though the slot is still called clean.
func TestStraysOfALostSlotStay(t *testing.T) {
	r := newRig(t, "2+1", 4)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("x", 300_000)
	from := r.group(o.pg).Slots[0].Drive
	_, err := r.rep.Drain(r.ctx, from)
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	_, _, err = r.rep.worker.rebuildSlots(r.ctx)
	r.must(err)
	s := r.group(o.pg).Slots[0]
	if s.State != storagenode.SlotClean || s.Drive == from {
		t.Fatalf("%+v", s)
	}
	r.state(r.indexOf(s.Drive), storagenode.DriveBroken)
	r.rounds(2) // no other drive can take the slot
	if len(r.drives.disks[r.indexOf(from)].memory.Shards()) == 0 {
		t.Fatal("dropped where it came from, though the drive that it went to is broken")
	}
	_, err = r.rep.Undrain(r.ctx, from)
	r.must(err)
	r.heal()
	r.whole(o)
}

// told says whether a repairer tells what a drive waits for.
func told(r *Repairer, id storagenode.DriveID) bool {
	return slices.ContainsFunc(r.Status().Waiting, func(w WaitingSlot) bool { return w.Drive == id })
}

// TestFormerDriveBackMeanwhile: what was nowhere to be found is looked for again where
// a drive came back while another repairer led.
func TestFormerDriveBackMeanwhile(t *testing.T) {
	r := newRig(t, "2+1", 6)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("o", 300_000)
	former := r.group(o.pg).Slots[0].Drive
	r.out(former)
	r.rounds(4)
	r.lose(o, 0)
	r.lose(o, 1)
	r.rounds(4)
	if n := r.record(o).Blob.Missing.Count(); n != 2 {
		t.Fatalf("%d shards are missing", n)
	}
	r.state(r.indexOf(former), storagenode.DriveActive)
	r.must(r.rep.observe(r.ctx))
	r.rounds(4)
	r.heal()
	r.whole(o)
}

// TestFormerDriveIsDroppedOnProofOnly: what a drive that comes back still has of a slot
// is dropped only once the drive that has the slot now lists all of it again: since the
// slot was called clean there, it may have lost what nobody has looked for yet.
func TestFormerDriveIsDroppedOnProofOnly(t *testing.T) {
	r := newRig(t, "2+1", 4)
	o := r.put("o", 300_000)
	r.heal()
	away := r.diskOf(o.pg, 0)
	at := slices.Index(r.drives.disks, away)
	r.state(at, storagenode.DriveDown)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.clock.advance(11 * time.Minute)
	r.heal()
	for slot := range 2 { // one more than is borne, and nobody has noticed
		d := r.diskOf(o.pg, slot)
		d.memory.Lose(storagenode.ShardID{PG: o.pg, Slot: uint8(slot), Blob: o.blob})
	}
	r.state(at, storagenode.DriveActive)
	for range 3 {
		r.clock.advance(time.Minute)
		r.round()
	}
	r.heal()
	r.whole(o)
}

// TestDrainedOnlyOnceCopied: a drive whose slots have all been mapped to others is not
// DRAINED before what it held is on them.
func TestDrainedOnlyOnceCopied(t *testing.T) {
	r := newRig(t, "2+1", 4)
	objects := r.some(6)
	r.heal()
	id := r.diskOf(objects[0].pg, 0).report.ID
	_, err := r.rep.Drain(r.ctx, id)
	r.must(err)
	for range 3 { // its slots are mapped, and nothing is rebuilt yet
		r.clock.advance(time.Minute)
		r.must(r.rep.detectAndPlan(r.ctx))
	}
	if s := r.stateOf(id); s != storagenode.DriveDraining {
		t.Fatalf("%s before anything was copied", s)
	}
	r.heal()
	for range 2 { // the second tells of it
		r.must(r.rep.detectAndPlan(r.ctx))
	}
	if s := r.stateOf(id); s != storagenode.DriveDrained {
		t.Fatalf("%s when all was copied", s)
	}
	r.whole(objects...)
}

// TestLastShardStaysUntilItIsKnown: a drive that is being drained has the only other shard
// of a damaged blob, where a third came back without its own and nobody has looked yet.
// It is not DRAINED, for who takes it out then loses the blob.
func TestLastShardStaysUntilItIsKnown(t *testing.T) {
	for _, size := range []int{100, 300_000} {
		r := newRig(t, "2+1", 4)
		o := r.put("o", size)
		r.heal()
		slots := r.record(o).Blob.Slots
		first := slots.First()
		drained := r.diskOf(o.pg, first)
		_, err := r.rep.Drain(r.ctx, drained.report.ID)
		r.must(err)
		r.must(r.rep.detectAndPlan(r.ctx))
		_, _, err = r.rep.worker.rebuildSlots(r.ctx)
		r.must(err)
		if s := r.group(o.pg).Slots[first]; s.State != storagenode.SlotClean || s.Drive == drained.report.ID {
			t.Fatalf("%+v", s)
		}
		full := r.diskOf(o.pg, first)
		space := full.memory.Space()
		space.ReadOnly = true
		full.memory.SetSpace(space)
		r.lose(o, first) // on a drive without room to have it again
		var away []*disk
		for i := range 3 {
			if i != first && slots.Has(i) && len(away) < r.record(o).Blob.Slots.Count()-1 && (size == 100 || len(away) == 0) {
				d := r.diskOf(o.pg, i)
				d.memory.Lose(storagenode.ShardID{PG: o.pg, Slot: uint8(i), Blob: o.blob})
				away = append(away, d)
			}
		}
		for _, d := range away { // it comes back, and is looked at later
			r.state(r.indexOf(d.report.ID), storagenode.DriveDown)
		}
		r.must(r.rep.detectAndPlan(r.ctx))
		for _, d := range away {
			r.state(r.indexOf(d.report.ID), storagenode.DriveActive)
		}
		for range 3 {
			r.clock.advance(time.Minute)
			r.must(r.rep.detectAndPlan(r.ctx))
		}
		if s := r.stateOf(drained.report.ID); s != storagenode.DriveDraining {
			t.Errorf("%d bytes: the drive with the last shard is %s", size, s)
			drained.gone = true // it is taken out
		}
		space.ReadOnly = false
		full.memory.SetSpace(space)
		r.rounds(4)
		for range 3 {
			r.clock.advance(time.Minute)
			r.must(r.rep.detectAndPlan(r.ctx))
		}
		if s := r.stateOf(drained.report.ID); s != storagenode.DriveDrained {
			t.Errorf("%d bytes: %s when all was copied, waiting %+v", size, s, r.rep.Status().Waiting)
		}
		drained.gone = true
		r.heal()
		r.whole(o)
	}
}
