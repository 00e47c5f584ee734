package repair

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// room sets how many bytes more a drive takes.
func (r *rig) room(d *disk, n int64) {
	s := d.memory.Space()
	s.ReadOnly, s.Free = false, s.Used+n
	d.memory.SetSpace(s)
}

// waits gives what is said of a slot that waits.
func (r *rig) waits(pg storagenode.PG, slot int) string {
	for _, w := range r.rep.Status().Waiting {
		if w.PG == pg && w.Slot == slot {
			return w.Why
		}
	}
	return ""
}

// inGroup puts objects of n bytes until count of them are in one group.
func (r *rig) inGroup(count, n int) []object {
	r.t.Helper()
	var in []object
	for i := 0; len(in) < count; i++ {
		o := r.put(fmt.Sprintf("in%03d", i), n)
		if len(in) == 0 || o.pg == in[0].pg {
			in = append(in, o)
		} else {
			r.delete(o.key)
		}
		r.clock.advance(time.Millisecond)
	}
	r.must(r.rep.deletes.pass(r.ctx))
	return in
}

// inGroups puts twelve objects, and begins another group after each of those named. It
// gives what a slot of each group takes, and the most of that.
func (r *rig) inGroups(last ...int) (all []object, bytes map[storagenode.PG]int64, most int64) {
	r.t.Helper()
	bytes = map[storagenode.PG]int64{}
	for i := range 12 {
		o := r.put(fmt.Sprint("o", i), 300_000)
		all = append(all, o)
		bytes[o.pg] += 150_000 + recordBytes
		most = max(most, bytes[o.pg])
		r.clock.advance(time.Millisecond)
		if slices.Contains(last, i) {
			r.must(r.cat.Seal(r.ctx, o.pg))
		}
	}
	return all, bytes, most
}

// reads fails unless every object can be read.
func (r *rig) reads(objects ...object) {
	r.t.Helper()
	for _, o := range objects {
		var got strings.Builder
		rec := r.record(o)
		if err := r.set.Read(r.ctx, r.group(o.pg), rec.Blob, 0, rec.Blob.Size, &got); err != nil || got.String() != string(o.data) {
			r.t.Fatalf("%s: %v", o.key, err)
		}
	}
}

// TestDriveFillsUpWhileItIsFilled: a slot's drive is lost, and the one that takes the
// slot, which others write to as well, is full when half is copied. The slot goes on
// to a drive with room; nothing counts as whole before it is, and what was written
// where it did not fit is dropped, but not before.
func TestDriveFillsUpWhileItIsFilled(t *testing.T) {
	r := newRig(t, "2+1", 5)
	r.must(r.rep.detectAndPlan(r.ctx))
	in := r.inGroup(8, 300_000)
	pg := in[0].pg
	first := r.group(pg).Slots[0].Drive
	r.out(first)
	second := r.diskOf(pg, 0)
	if second.report.ID == first {
		t.Fatal("the slot did not move")
	}
	r.room(second, 4*150_000+1000)
	_, _, _ = r.rep.worker.rebuildSlots(r.ctx)
	if s := r.group(pg).Slots[0]; s.State != storagenode.SlotRebuilding || len(second.memory.Shards()) != 4 {
		t.Fatalf("slot %+v, drive has %d shards", s, len(second.memory.Shards()))
	}
	r.reads(in...)
	old := r.group(pg)

	r.must(r.rep.detectAndPlan(r.ctx))
	s := r.group(pg).Slots[0]
	if s.Drive == second.report.ID || s.State != storagenode.SlotRebuilding {
		t.Fatalf("slot %+v stays at the full drive; waiting: %q", s, r.waits(pg, 0))
	}
	if len(second.memory.Shards()) != 4 {
		t.Fatal("dropped before the slot is whole elsewhere")
	}
	if rep, err := r.rep.Recount(r.ctx); err != nil || rep.Whole {
		t.Fatalf("whole before it is: %+v, %v", rep, err)
	}
	// Whoever is late at the full drive is refused, also when that has room again.
	r.room(second, 1<<30)
	if err := r.rep.worker.rebuildSlot(r.ctx, old, 0); err == nil {
		t.Fatal("a late rebuild was taken for done")
	}
	if now := r.group(pg).Slots[0]; now != s {
		t.Fatalf("slot %+v became %+v by a late rebuild", s, now)
	}
	r.heal()
	r.whole(in...)
	r.rep.inventory.all.Store(true)
	r.round()
	if n := len(second.memory.Shards()); n != 0 {
		t.Fatalf("%d shards stay where the slot was given up", n)
	}
}

// asked is how many reads of shards all drives were asked for.
func (r *rig) asked() (n int64) {
	for _, d := range r.drives.disks {
		n += d.store.Calls(storetest.OpReadAt | storetest.OpStat)
	}
	return n
}

// TestNoDriveHasRoom: the one drive that a slot can go to becomes full. The slot waits
// there and says so, nothing is read for it in vain, and it goes on by itself when
// there is room.
func TestNoDriveHasRoom(t *testing.T) {
	r := newRig(t, "2+1", 4)
	r.must(r.rep.detectAndPlan(r.ctx))
	in := r.inGroup(6, 300_000)
	pg := in[0].pg
	r.out(r.group(pg).Slots[0].Drive)
	to := r.diskOf(pg, 0)
	r.room(to, 3*150_000+1000)
	var last Progress
	_, err := r.rep.RepairNow(r.ctx, func(p Progress) { last = p })
	r.must(err)
	if last.Phase != NotHealed || !strings.Contains(last.Why, "full") {
		t.Fatalf("said: %+v", last)
	}
	s, reads, failed := r.group(pg).Slots[0], r.asked(), r.rep.Status().Queue.Failed
	for range 5 {
		r.round()
		r.clock.advance(time.Minute)
	}
	if now := r.group(pg).Slots[0]; now != s || s.State != storagenode.SlotRebuilding || s.Drive != to.report.ID {
		t.Fatalf("slot %+v became %+v", s, now)
	}
	if n, f := r.asked()-reads, r.rep.Status().Queue.Failed-failed; n != 0 || f != 0 {
		t.Fatalf("%d reads and %d repairs for a drive that takes nothing", n, f)
	}
	if why := r.waits(pg, 0); !strings.Contains(why, "full") {
		t.Fatalf("said: %q", why)
	}
	groups, err := r.cat.ListGroups(r.ctx)
	r.must(err)
	o := r.rep.planner.outlook(groups)
	if have, want := o.room[o.on[to.report.ID]], to.memory.Space().Free-3*(150_000+recordBytes); have > want || have < want-1000 {
		t.Fatalf("room for %d bytes beside what the slot lacks, want %d", have, want)
	}
	r.reads(in...)
	r.room(to, 1<<30)
	r.round()
	r.round()
	if s := r.group(pg).Slots[0]; s.State != storagenode.SlotClean || r.waits(pg, 0) != "" {
		t.Fatalf("slot %+v, said %q", s, r.waits(pg, 0))
	}
	r.whole(in...)
}

// TestQuotasDoNotShow: a drive that says it has room refuses what is written to it, and
// so does every other one. The slot is tried at another, but not sent round and round.
func TestQuotasDoNotShow(t *testing.T) {
	r := newRig(t, "2+1", 6)
	r.must(r.rep.detectAndPlan(r.ctx))
	in := r.inGroup(2, 300_000)
	pg := in[0].pg
	first := r.group(pg).Slots[0].Drive
	var quotas []*storetest.Injected
	for _, d := range r.drives.disks {
		quotas = append(quotas, d.store.Inject(storetest.Fault{Ops: storetest.OpPut, Err: storagenode.ErrReadOnly}))
	}
	r.out(first)
	for range 60 {
		r.round()
		r.clock.advance(3 * time.Second)
	}
	if e := r.group(pg).Slots[0].Epoch; e != 4 { // three drives outside the group
		t.Fatalf("slot was mapped %d times", e-1)
	}
	if why := r.waits(pg, 0); !strings.Contains(why, "room") {
		t.Fatalf("said: %q", why)
	}
	for _, q := range quotas {
		q.Release()
	}
	r.heal()
	r.whole(in...)
	// Those that refused before are better than none.
	r.clock.advance(time.Minute)
	for _, d := range r.drives.disks {
		if id := d.report.ID; id != first && r.group(pg).Slots[0].Drive == id {
			r.state(r.indexOf(id), storagenode.DriveBroken)
			break
		}
	}
	r.heal()
	r.whole(in...)
}

// TestSlotsGoWhereTheyFit: the slots of a drive that is drained go to drives that have
// room for all of them together. What fits nowhere stays where it is, whole, and is
// said to wait; nothing is begun that cannot be ended.
func TestSlotsGoWhereTheyFit(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.must(r.rep.detectAndPlan(r.ctx))
	from := r.drives.disks[0].report.ID
	all, bytes, most := r.inGroups(3, 7, 11)
	for range 2 { // each has room for one slot
		r.room(r.addDrive("n0", "", storagenode.DriveID{}), most)
	}
	r.rep.StatusNow(r.ctx)
	_, err := r.rep.Drain(r.ctx, from)
	r.must(err)
	for range 4 {
		r.round()
		r.clock.advance(time.Minute)
	}
	left := 0
	for pg := range bytes {
		for i, s := range r.group(pg).Slots {
			if s.State != storagenode.SlotClean {
				t.Errorf("slot %d of pg %d is begun: %+v", i, pg, s)
			}
			if s.Drive == from {
				left++
				if why := r.waits(pg, i); !strings.Contains(why, "room") {
					t.Errorf("slot %d of pg %d waits: %q", i, pg, why)
				}
			}
		}
	}
	if left != len(bytes)-2 || r.rep.Status().Queue.Failed > 0 {
		t.Fatalf("%d of %d slots stayed, %d repairs failed", left, len(bytes), r.rep.Status().Queue.Failed)
	}
	r.heal()
	r.whole(all...)
	r.room(r.drives.disks[3], 1<<30)
	for range 4 {
		r.round()
		r.clock.advance(time.Minute)
	}
	if s := r.stateOf(from); s != storagenode.DriveDrained {
		t.Fatalf("drive is %s", s)
	}
	r.whole(all...)
}

// TestSmallerDriveInItsPlace: a drive is replaced by one on which not all of it has
// room, and there is no other. What fits comes back, what does not waits and says so.
func TestSmallerDriveInItsPlace(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.must(r.rep.detectAndPlan(r.ctx))
	all, bytes, most := r.inGroups(6)
	small := r.wipe(0)
	r.room(small, most)
	for range 3 {
		r.round()
		r.clock.advance(time.Minute)
	}
	back, told := 0, 0
	for pg := range bytes {
		for i, s := range r.group(pg).Slots {
			switch {
			case s.Drive == small.report.ID && s.State == storagenode.SlotClean:
				back++
			case strings.Contains(r.waits(pg, i), "room"):
				told++
			}
		}
	}
	for _, w := range r.rep.Status().Waiting {
		if w.Needs > bytes[w.PG] || w.Needs < bytes[w.PG]-12*recordBytes { // not counted yet
			t.Errorf("pg %d waits for room for %d bytes, want %d", w.PG, w.Needs, bytes[w.PG])
		}
	}
	if back == 0 || told == 0 || back+told != len(bytes) {
		t.Fatalf("of %d slots %d are back, %d are said to wait: %+v", len(bytes), back, told, r.rep.Status().Waiting)
	}
	r.reads(all...)
	r.room(small, 1<<30)
	r.heal()
	r.whole(all...)
}

// TestTakenBackForWantOfRoom: where a slot does not fit any more, the drive that it
// came from takes it back, which has it already, however full that is otherwise.
func TestTakenBackForWantOfRoom(t *testing.T) {
	r := newRig(t, "2+1", 4)
	r.must(r.rep.detectAndPlan(r.ctx))
	in := r.inGroup(6, 300_000)
	pg := in[0].pg
	first, from := r.group(pg).Slots[0].Drive, r.diskOf(pg, 0)
	_, err := r.rep.Drain(r.ctx, first)
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	to := r.diskOf(pg, 0)
	r.room(to, 3*150_000+1000)
	_, _, _ = r.rep.worker.rebuildSlots(r.ctx)
	_, err = r.rep.Undrain(r.ctx, first)
	r.must(err)
	r.room(from, 1000)
	r.heal()
	if s := r.group(pg).Slots[0]; s.Drive != first {
		t.Fatalf("slot %+v", s)
	}
	r.whole(in...)
}

// TestFullWhenAllIsThere: a slot of which nothing is lacking any more becomes clean on
// a drive that is full.
func TestFullWhenAllIsThere(t *testing.T) {
	r := newRig(t, "2+1", 4)
	r.must(r.rep.detectAndPlan(r.ctx))
	in := r.inGroup(3, 300_000)
	pg := in[0].pg
	r.out(r.group(pg).Slots[0].Drive)
	to := r.diskOf(pg, 0)
	g := r.group(pg)
	for _, o := range in {
		_, err := r.rep.worker.repair(r.ctx, g, *r.record(o), 1, 1, r.clock.Now())
		r.must(err)
	}
	s := to.memory.Space()
	s.ReadOnly = true
	to.memory.SetSpace(s)
	r.must(r.rep.detectAndPlan(r.ctx))
	_, _, err := r.rep.worker.rebuildSlots(r.ctx)
	r.must(err)
	if s := r.group(pg).Slots[0]; s.State != storagenode.SlotClean {
		t.Fatalf("slot %+v", s)
	}
	r.whole(in...)
}

// fillUp has a drive become full under a write, whose shard it then lacks.
func (r *rig) fillUp(o object, slot int) (*disk, object) {
	r.t.Helper()
	d := r.diskOf(o.pg, slot)
	r.room(d, 100_000)
	late := object{}
	for i := 0; late.pg != o.pg; i++ {
		late = r.put(fmt.Sprint("late", i), 300_000)
	}
	if m := r.record(late).Blob.Missing; !m.Has(slot) {
		r.t.Fatalf("missing: %b", m)
	}
	r.must(r.rep.detectAndPlan(r.ctx))
	return d, late
}

// TestFullDriveLacksShards: a drive becomes full under a write, and stays so. Where the
// blob lacks a shard for that, its slot moves to a drive with room, but not as soon.
func TestFullDriveLacksShards(t *testing.T) {
	r := newRig(t, "2+1", 5)
	r.must(r.rep.detectAndPlan(r.ctx))
	in := r.inGroup(4, 300_000)
	full, late := r.fillUp(in[0], 0)
	r.round()
	r.round()
	if s := r.group(late.pg).Slots[0]; s.Drive != full.report.ID {
		t.Fatalf("moved at once: %+v", s)
	}
	for range 8 {
		r.clock.advance(2 * time.Minute)
		r.round()
	}
	s := r.group(late.pg).Slots[0]
	if s.Drive == full.report.ID || s.State != storagenode.SlotClean {
		t.Fatalf("slot %+v, waiting %+v", s, r.rep.Status().Waiting)
	}
	r.whole(append(in, late)...)
	r.heal()
	r.rep.inventory.all.Store(true)
	r.round()
	if n := len(full.memory.Shards()); n != 0 {
		t.Fatalf("%d shards stay on the full drive", n)
	}
}

// TestFullDriveLacksShardsForGood: the same where no other drive is there. It is said.
func TestFullDriveLacksShardsForGood(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("o", 300_000)
	full, late := r.fillUp(o, 0)
	for range 8 {
		r.clock.advance(2 * time.Minute)
		r.round()
	}
	var last Progress
	_, err := r.rep.RepairNow(r.ctx, func(p Progress) { last = p })
	r.must(err)
	if why := r.waits(late.pg, 0); !strings.Contains(why, "full") || last.Phase != NotHealed || !strings.Contains(last.Why, "full") {
		t.Fatalf("said: %q, %+v", why, last)
	}
	r.room(full, 1<<30)
	r.heal()
	r.round()
	if why := r.waits(late.pg, 0); why != "" {
		t.Fatalf("said: %q", why)
	}
	r.whole(o, late)
}

// TestFenceFindsNoRoom: not even the fence of a slot can be set at most of the drives
// that seem to have room. The slot goes to the one that takes it.
func TestFenceFindsNoRoom(t *testing.T) {
	r := newRig(t, "2+1", 7)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("o", 300_000)
	g := r.group(o.pg)
	_, err := r.rep.Drain(r.ctx, g.Slots[0].Drive)
	r.must(err)
	free := 0
	for _, d := range r.drives.disks {
		if slices.ContainsFunc(g.Slots, func(s storagenode.Slot) bool { return s.Drive == d.report.ID }) {
			continue
		}
		if free++; free < 4 {
			d.store.Inject(storetest.Fault{Ops: storetest.OpPut | storetest.OpSetSlotEpoch, Err: storagenode.ErrReadOnly})
		}
	}
	for range 6 {
		r.round()
		r.clock.advance(3 * time.Second)
	}
	if s := r.group(o.pg).Slots[0]; s.Drive == g.Slots[0].Drive || s.State != storagenode.SlotClean {
		t.Fatalf("slot %+v", s)
	}
	r.whole(o)
}

// TestRefusalsAreFew: where a drive has no room for one shard, it is not asked to take
// all the others, nor are those of its other slots read for it.
func TestRefusalsAreFew(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.must(r.rep.detectAndPlan(r.ctx))
	for i := range 600 { // each at two of three slots
		o := r.put(fmt.Sprint("o", i), 100)
		if i%60 == 59 {
			r.must(r.cat.Seal(r.ctx, o.pg))
		}
	}
	d := r.wipe(0).store
	refuses := d.Inject(storetest.Fault{Ops: storetest.OpPut, Err: storagenode.ErrReadOnly})
	r.must(r.rep.detectAndPlan(r.ctx))
	lists := d.Calls(storetest.OpList)
	r.onFill = func(int, erasure.Blob) { r.clock.advance(time.Millisecond) }
	_, _, _ = r.rep.worker.rebuildSlots(r.ctx)
	if n := refuses.Hits(); n == 0 || n > rebuildsAtOnce*r.rep.cfg.Concurrency {
		t.Fatalf("refused %d shards of 400", n)
	}
	if n := d.Calls(storetest.OpList) - lists; n >= 2*10 { // each slot twice
		t.Fatalf("listed %d times for ten slots", n)
	}
	refuses.Release()
	r.heal()
}

// TestRepairNowGoesOn: a drive that seems to have room takes nothing. The repair that
// finds it out goes on with another.
func TestRepairNowGoesOn(t *testing.T) {
	r := newRig(t, "2+1", 5)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("o", 300_000)
	first := r.group(o.pg).Slots[0].Drive
	r.out(first)
	r.diskOf(o.pg, 0).store.Inject(storetest.Fault{Ops: storetest.OpPut, Err: storagenode.ErrReadOnly})
	r.onFill = func(int, erasure.Blob) { r.clock.advance(time.Millisecond) }
	r.heal()
	r.whole(o)
}

// TestFencesAreNotTriedForEver: the one drive that is left for a lost slot has no room
// even for its fence. It is tried now and then.
func TestFencesAreNotTriedForEver(t *testing.T) {
	r := newRig(t, "2+1", 4)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("o", 300_000)
	g := r.group(o.pg)
	for _, d := range r.drives.disks {
		d.store.Inject(storetest.Fault{Ops: storetest.OpSetSlotEpoch, Err: storagenode.ErrReadOnly})
	}
	calls := func() (n int64) {
		for _, d := range r.drives.disks {
			n += d.store.Calls(storetest.OpSetSlotEpoch)
		}
		return n
	}
	r.state(r.indexOf(g.Slots[0].Drive), storagenode.DriveBroken)
	before := calls()
	for range 60 {
		r.round()
		r.clock.advance(3 * time.Second)
	}
	if n := calls() - before; n < 2 || n > 20 {
		t.Fatalf("tried %d times in three minutes", n)
	}
	if why := r.waits(o.pg, 0); !strings.Contains(why, "room") {
		t.Fatalf("said: %q", why)
	}
}

// TestFewSlotsMoveOnAtOnce: two slots of a group that bears the loss of one leave
// drives that are drained, and those that they go to become full, together or one
// before a write. What was written meanwhile can be read all the time: they go on one
// after the other.
func TestFewSlotsMoveOnAtOnce(t *testing.T) {
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprint("before=", before), func(t *testing.T) {
			r := newRig(t, "2+1", 7)
			r.must(r.rep.detectAndPlan(r.ctx))
			in := r.inGroup(3, 300_000)
			pg := in[0].pg
			for slot := range 2 {
				_, err := r.rep.Drain(r.ctx, r.group(pg).Slots[slot].Drive)
				r.must(err)
			}
			r.must(r.rep.detectAndPlan(r.ctx))
			refuse := func(slot int) {
				r.diskOf(pg, slot).store.Inject(storetest.Fault{Ops: storetest.OpPut, Err: storagenode.ErrReadOnly})
			}
			if before {
				refuse(1)
			}
			late := object{}
			for i := 0; late.pg != pg; i++ {
				late = r.put(fmt.Sprint("late", i), 300_000)
			}
			if m := r.record(late).Blob.Missing; m.Has(0) || m.Has(1) != before {
				t.Fatalf("missing: %b", m)
			}
			refuse(0)
			if !before {
				refuse(1)
			}
			r.rep.StatusNow(r.ctx)
			_, _, _ = r.rep.worker.rebuildSlots(r.ctx)
			all := append(in, late)
			for range 6 {
				r.must(r.rep.detectAndPlan(r.ctx))
				r.reads(all...)
				_, _, _ = r.rep.worker.rebuildSlots(r.ctx)
				r.reads(all...)
				r.rep.census.fresh.Store(true)
				r.must(r.rep.census.pass(r.ctx))
				r.clock.advance(3 * time.Second)
			}
			for slot, s := range r.group(pg).Slots {
				if s.State != storagenode.SlotClean {
					t.Errorf("slot %d: %+v, said %q", slot, s, r.waits(pg, slot))
				}
			}
			r.heal()
			r.whole(all...)
		})
	}
}

// lacks has every group of objects lack a shard on a drive, and gives the groups.
func (r *rig) lacks(d *disk, objects []object) map[storagenode.PG]int {
	r.t.Helper()
	slots := map[storagenode.PG]int{}
	for _, o := range objects {
		if _, ok := slots[o.pg]; ok {
			continue
		}
		i := slices.IndexFunc(r.group(o.pg).Slots, func(s storagenode.Slot) bool { return s.Drive == d.report.ID })
		slots[o.pg] = i
		d.memory.Lose(storagenode.ShardID{PG: o.pg, Slot: uint8(i), Blob: o.blob})
		r.must(r.rep.worker.markMissing(r.ctx, o.pg, o.blob, i))
	}
	return slots
}

// TestOneSlotMakesRoom: a full drive lacks shards of many slots. When the first has
// left, what it held is dropped there, which makes room for what the others lack: they
// stay.
func TestOneSlotMakesRoom(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.must(r.rep.detectAndPlan(r.ctx))
	var all []object
	for i := range 80 { // as many in each group as there are groups, at least
		all = append(all, r.put(fmt.Sprint("o", i), 70_000))
		if i%10 == 9 {
			r.must(r.cat.Seal(r.ctx, all[i].pg))
		}
		r.clock.advance(time.Millisecond)
	}
	full := r.drives.disks[0]
	used := full.memory.Space().Used
	slots := r.lacks(full, all)
	full.memory.SetSpace(storagenode.Space{Total: 1 << 40, Free: used - int64(len(slots))*35_000 + 1000})
	for range 3 {
		r.addDrive("n0", "", storagenode.DriveID{})
	}
	left := func() (n int) {
		for pg, i := range slots {
			if r.group(pg).Slots[i].Drive != full.report.ID {
				n++
			}
		}
		return n
	}
	for range 120 {
		_ = r.rep.detectAndPlan(r.ctx)
		_ = r.rep.rebuildPass(r.ctx)
		_, _ = r.rep.worker.repairDamage(r.ctx)
		r.clock.advance(30 * time.Second)
	}
	if n := left(); n == 0 || n > 2 {
		t.Errorf("%d of %d slots left", n, len(slots))
	}
	r.whole(all...)
}

// TestQuotaLacksShards: a drive over a quota says that it has room. Slots that lack
// what it refuses leave it, too.
func TestQuotaLacksShards(t *testing.T) {
	r := newRig(t, "2+1", 4)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("o", 300_000)
	d := r.diskOf(o.pg, 0)
	d.store.Inject(storetest.Fault{Ops: storetest.OpPut, Err: storagenode.ErrReadOnly})
	slots := r.lacks(d, []object{o})
	for range 30 {
		r.round()
		r.clock.advance(30 * time.Second)
	}
	if s := r.group(o.pg).Slots[slots[o.pg]]; s.Drive == d.report.ID || s.State != storagenode.SlotClean {
		t.Fatalf("slot %+v", s)
	}
	r.whole(o)
}

// TestNoRoundOfRefusals: no drive takes what it says it has room for. A slot is sent on
// ever more seldom.
func TestNoRoundOfRefusals(t *testing.T) {
	r := newRig(t, "2+1", 6)
	r.must(r.rep.detectAndPlan(r.ctx))
	in := r.inGroup(2, 300_000)
	pg := in[0].pg
	var quotas []*storetest.Injected
	for _, d := range r.drives.disks {
		quotas = append(quotas, d.store.Inject(storetest.Fault{Ops: storetest.OpPut, Err: storagenode.ErrReadOnly}))
	}
	r.out(r.group(pg).Slots[0].Drive)
	for range 24 * 120 {
		r.round()
		r.clock.advance(30 * time.Second)
	}
	if e := r.group(pg).Slots[0].Epoch; e > 60 {
		t.Errorf("slot was mapped %d times in a day", e-1)
	}
	for _, q := range quotas {
		q.Release()
	}
	r.heal()
	r.whole(in...)
}

// TestStuckSlotsHoldNoneUp: slots that wait for room on full drives, and are too large
// for any other, do not keep a smaller one from leaving. They are a lost drive's, or of
// one that is drained.
func TestStuckSlotsHoldNoneUp(t *testing.T) {
	t.Run("lost", func(t *testing.T) {
		testStuckSlots(t, func(r *rig) *disk { return r.wipe(0) })
	})
	t.Run("drained", func(t *testing.T) {
		testStuckSlots(t, func(r *rig) *disk {
			_, err := r.rep.Drain(r.ctx, r.drives.disks[0].report.ID)
			r.must(err)
			return r.addDrive("n0", "", storagenode.DriveID{})
		})
	})
}

// testStuckSlots has what lies on the first drive go to another, that leave gives.
func testStuckSlots(t *testing.T, leave func(*rig) *disk) {
	r := newRig(t, "2+1", 3)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("o", 300_000)
	r.must(r.cat.Seal(r.ctx, o.pg))
	var large []object
	for i := range 16 {
		large = append(large, r.put(fmt.Sprint("large", i), 300_000))
		if i%4 == 3 {
			r.must(r.cat.Seal(r.ctx, large[i].pg))
		}
		r.clock.advance(time.Millisecond)
	}
	slot := slices.IndexFunc(r.group(o.pg).Slots, func(s storagenode.Slot) bool { return s.Drive == r.drives.disks[0].report.ID })
	d := leave(r)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(r.rep.worker.rebuildSlot(r.ctx, r.group(o.pg), slot))
	full := r.drives.disks[1]
	slots := r.lacks(full, []object{o})
	for _, d := range []*disk{d, full} {
		s := d.memory.Space()
		s.ReadOnly = true
		d.memory.SetSpace(s)
	}
	r.room(r.addDrive("n0", "", storagenode.DriveID{}), 200_000)
	r.rep.StatusNow(r.ctx)
	for range 30 {
		r.round()
		r.clock.advance(30 * time.Second)
	}
	if s := r.group(o.pg).Slots[slots[o.pg]]; s.Drive == full.report.ID || s.State != storagenode.SlotClean {
		t.Errorf("slot %+v, said %q", s, r.waits(o.pg, slots[o.pg]))
	}
	r.room(d, 1<<30)
	r.heal()
	r.whole(append(large, o)...)
}

// TestSameDriveInItsPlace: a full drive is lost, and one of its size takes its place. All
// comes back, though by what is reckoned for each record it would not fit.
func TestSameDriveInItsPlace(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.must(r.rep.detectAndPlan(r.ctx))
	var all []object
	for i := range 12 {
		all = append(all, r.put(fmt.Sprint("o", i), 300_000))
		r.clock.advance(time.Millisecond)
		if i%4 == 3 {
			r.must(r.cat.Seal(r.ctx, all[i].pg))
		}
	}
	r.rep.StatusNow(r.ctx)
	used := r.drives.disks[0].memory.Space().Used
	r.room(r.wipe(0), used+1000)
	for range 10 {
		r.round()
		r.clock.advance(time.Minute)
	}
	r.heal()
	r.whole(all...)
}

// roomOnNewDrive adds a drive with room for so many bytes, where the others, but for
// some, have hardly any.
func (r *rig) roomOnNewDrive(most int64, but ...*disk) *disk {
	for _, d := range r.drives.disks {
		if !slices.Contains(but, d) {
			r.room(d, 1000)
		}
	}
	added := r.addDrive("n0", "", storagenode.DriveID{})
	r.room(added, most)
	r.rep.StatusNow(r.ctx)
	return added
}

// TestRoomGoesToTheLeastMargin: two drives are lost, and there is room for one slot. It
// goes to a group that lost two slots and survives no further loss, not to one that was
// made before it and lost one.
func TestRoomGoesToTheLeastMargin(t *testing.T) {
	r := newRig(t, "2+2", 5)
	r.must(r.rep.detectAndPlan(r.ctx))
	_, bytes, most := r.inGroups(1, 3, 5, 7, 9, 11)
	on := func(pg storagenode.PG, d *disk) bool {
		return slices.ContainsFunc(r.group(pg).Slots, func(s storagenode.Slot) bool { return s.Drive == d.report.ID })
	}
	first := slices.Min(slices.Collect(maps.Keys(bytes)))
	var lost []*disk // of which the first group has one, and another has both
	for _, out := range r.drives.disks {
		for _, in := range r.drives.disks {
			both := func(pg storagenode.PG) bool { return on(pg, in) && on(pg, out) }
			if on(first, in) && !on(first, out) && slices.ContainsFunc(slices.Collect(maps.Keys(bytes)), both) {
				lost = []*disk{in, out}
			}
		}
	}
	if lost == nil {
		t.Fatal("all groups are on the same drives")
	}
	added := r.roomOnNewDrive(most, lost...)
	for _, d := range lost {
		r.state(r.indexOf(d.report.ID), storagenode.DriveBroken)
	}
	r.must(r.rep.detectAndPlan(r.ctx))
	took := 0
	for pg := range bytes {
		if !on(pg, added) {
			continue
		}
		if took++; !on(pg, lost[0]) && !on(pg, lost[1]) { // one of two was moved, so one is left
			t.Errorf("the room went to pg %d, which had lost one slot only", pg)
		}
	}
	if took != 1 {
		t.Fatalf("%d slots found room", took)
	}
}

// TestGivenAwayInVain: the drive that a full one's slot is to go to cannot be reached when
// its fence is to be set. The slot goes with the next plan, not after another while.
func TestGivenAwayInVain(t *testing.T) {
	r := newRig(t, "2+1", 5)
	r.must(r.rep.detectAndPlan(r.ctx))
	in := r.inGroup(4, 300_000)
	full, late := r.fillUp(in[0], 0)
	r.round()
	r.clock.advance(r.rep.cfg.OutAfter)
	var faults []*storetest.Injected
	for _, d := range r.drives.disks {
		faults = append(faults, d.store.Inject(storetest.Fault{Ops: storetest.OpSetSlotEpoch, Err: storagenode.ErrUnavailable}))
	}
	if err := r.rep.detectAndPlan(r.ctx); err == nil {
		t.Fatal("no slot was to move")
	}
	for _, f := range faults {
		f.Release()
	}
	r.clock.advance(r.rep.cfg.Tick)
	r.round()
	if s := r.group(late.pg).Slots[0]; s.Drive == full.report.ID || s.State != storagenode.SlotClean {
		t.Fatalf("slot %+v, waiting %+v", s, r.rep.Status().Waiting)
	}
	r.whole(append(in, late)...)
}

// TestFullDrivesAreListedForWhatEnded: of many slots that are being rebuilt one ends. Full
// drives are asked for what they had of that one, not of all.
func TestFullDrivesAreListedForWhatEnded(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.must(r.rep.detectAndPlan(r.ctx))
	all, _, _ := r.inGroups(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
	full := r.drives.disks[1]
	r.wipe(0)
	r.must(r.rep.detectAndPlan(r.ctx))
	s := full.memory.Space()
	s.ReadOnly = true
	full.memory.SetSpace(s)
	groups, err := r.cat.ListGroups(r.ctx)
	r.must(err)
	fails := r.drives.disks[0].store.Inject(storetest.Fault{Ops: storetest.OpPut, Skip: 1, Err: storagenode.ErrUnavailable})
	lists := full.store.Calls(storetest.OpList)
	_ = r.rep.rebuildPass(r.ctx)
	clean := 0
	for _, g := range groups {
		for _, s := range r.group(g.PG).Slots {
			if s.Drive == r.drives.disks[0].report.ID && s.State == storagenode.SlotClean {
				clean++
			}
		}
	}
	if n := full.store.Calls(storetest.OpList) - lists; clean == 0 || clean == len(groups) || n != int64(clean) {
		t.Fatalf("listed %d times, %d of %d slots became clean", n, clean, len(groups))
	}
	fails.Release()
	r.heal()
	r.whole(all...)
}

// TestRoomGoesToWhatWasLost: two slots of a group are being copied off drained drives,
// where they can be read still, when a third drive of it is drained and another group
// loses a slot. There is room for one, and that is for what was lost.
func TestRoomGoesToWhatWasLost(t *testing.T) {
	r := newRig(t, "2+2", 8)
	r.must(r.rep.detectAndPlan(r.ctx))
	_, bytes, most := r.inGroups(5, 11)
	pgs := slices.Sorted(maps.Keys(bytes))
	moved, lost := r.group(pgs[0]), r.group(pgs[len(pgs)-1])
	for _, s := range moved.Slots {
		if slices.ContainsFunc(lost.Slots, func(l storagenode.Slot) bool { return l.Drive == s.Drive }) {
			t.Fatalf("both groups are on drive %s", s.Drive)
		}
	}
	for _, s := range moved.Slots[:2] {
		_, err := r.rep.Drain(r.ctx, s.Drive)
		r.must(err)
	}
	r.must(r.rep.detectAndPlan(r.ctx))
	if g := r.group(moved.PG); g.Slots[0].State != storagenode.SlotRebuilding || g.Slots[1].State != storagenode.SlotRebuilding {
		t.Fatalf("%+v", g.Slots)
	}
	added := r.roomOnNewDrive(most)
	_, err := r.rep.Drain(r.ctx, moved.Slots[2].Drive)
	r.must(err)
	at := slices.IndexFunc(lost.Slots, func(s storagenode.Slot) bool {
		return !slices.ContainsFunc(r.group(moved.PG).Slots, func(m storagenode.Slot) bool { return m.Drive == s.Drive })
	})
	r.state(r.indexOf(lost.Slots[at].Drive), storagenode.DriveBroken)
	r.must(r.rep.detectAndPlan(r.ctx))
	if got := r.group(lost.PG).Slots[at]; got.Drive != added.report.ID {
		t.Fatalf("the lost slot is %+v, the drained one %+v, waiting %+v", got, r.group(moved.PG).Slots[2], r.rep.Status().Waiting)
	}
}

// TestLostSlotsMoveFirst: a group waits for a drive to take a slot off one that is
// drained, and loses another. The drive that is added takes what was lost.
func TestLostSlotsMoveFirst(t *testing.T) {
	r := newRig(t, "2+2", 4)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("o", 300_000)
	slots := r.group(o.pg).Slots
	_, err := r.rep.Drain(r.ctx, slots[0].Drive)
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.state(r.indexOf(slots[1].Drive), storagenode.DriveBroken)
	added := r.addDrive("n0", "", storagenode.DriveID{})
	r.must(r.rep.detectAndPlan(r.ctx))
	if got := r.group(o.pg).Slots; got[1].Drive != added.report.ID {
		t.Fatalf("the drained slot is %+v, the lost one %+v", got[0], got[1])
	}
	if why := r.waits(o.pg, 0); !strings.Contains(why, "DRAINING") {
		t.Errorf("the drained slot: %q", why)
	}
}

// TestRepairNowMakesRoom: a slot leaves a full drive on command. What the drive had of
// it is dropped with that, for others wait for the room.
func TestRepairNowMakesRoom(t *testing.T) {
	r := newRig(t, "2+1", 5)
	r.must(r.rep.detectAndPlan(r.ctx))
	in := r.inGroup(4, 300_000)
	full, late := r.fillUp(in[0], 0)
	r.round()
	r.clock.advance(r.rep.cfg.OutAfter)
	r.heal()
	if s := r.group(late.pg).Slots[0]; s.Drive == full.report.ID || s.State != storagenode.SlotClean {
		t.Fatalf("not moved: %+v", s)
	}
	for _, id := range full.memory.Shards() {
		if id.PG == late.pg && id.Slot == 0 {
			t.Fatalf("the full drive still has %+v", id)
		}
	}
	r.whole(append(in, late)...)
}
