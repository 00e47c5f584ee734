package repair

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/metadata/catalog"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

func TestWipedDriveIsRebuilt(t *testing.T) {
	r := newRig(t, "4+2", 6)
	objects := r.some(24)
	r.must(r.rep.detectAndPlan(r.ctx))
	old := r.drives.disks[2].report.ID
	fresh := r.wipe(2)
	rep := r.heal()
	if rep.Full != 24 || rep.Blobs != 24 {
		t.Fatalf("report %+v", rep)
	}
	r.whole(objects...)
	if d, _ := r.rep.fleet.drive(old); d.record.State != storagenode.DriveRetired {
		t.Fatalf("old drive is %s", d.record.State)
	}
	if len(fresh.memory.Shards()) == 0 {
		t.Fatal("nothing on the new drive")
	}
	if s := r.rep.Status(); !s.Whole || len(s.Waiting) != 0 || s.States["RETIRED"] != 1 {
		t.Fatalf("status %+v", s)
	}
	// The old disk is put in somewhere: it stays RETIRED, and that is said.
	back := r.addDrive("n9", "", storagenode.DriveID{})
	back.report.ID = old
	r.must(r.rep.detectAndPlan(r.ctx))
	for _, d := range r.rep.Status().Drives {
		if d.ID == old && (d.State != storagenode.DriveRetired || !strings.Contains(d.Reason, "not used")) {
			t.Fatalf("%+v", d)
		}
	}
}

// A drive may be in use, and be replaced, before any repairer looks.
func TestWipedBeforeTheFirstLook(t *testing.T) {
	r := newRig(t, "2+2", 4)
	objects := r.some(8)
	r.wipe(1)
	r.heal()
	r.whole(objects...)
	if s := r.rep.Status(); s.States["RETIRED"] != 1 {
		t.Fatalf("%+v", s.States)
	}
}

func TestTwoWipedDrivesAtOnce(t *testing.T) {
	r := newRig(t, "4+2", 6)
	objects := r.some(16)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.wipe(0)
	r.wipe(5)
	r.heal()
	r.whole(objects...)
}

func TestReturnedDriveGetsWhatItMissed(t *testing.T) {
	r := newRig(t, "2+2", 5)
	objects := r.some(8)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.state(1, storagenode.DriveDown)
	r.must(r.rep.detectAndPlan(r.ctx))
	for i := range 8 {
		objects = append(objects, r.put("late"+string(rune('a'+i)), 200_000))
	}
	r.round()
	if s := r.rep.Status(); s.Whole {
		t.Fatal("whole with a drive away")
	}
	// Lost beside what was marked: only an inventory can see it.
	lost := 0
	for _, id := range r.drives.disks[1].memory.Shards() {
		if lost < 2 && r.drives.disks[1].memory.Lose(id) {
			lost++
		}
	}
	r.state(1, storagenode.DriveActive)
	r.round()
	if rep, err := r.rep.Recount(r.ctx); err != nil || !rep.Whole {
		t.Fatalf("%+v %v", rep, err)
	}
	r.whole(objects...)
}

func TestBrokenWithoutSpareWaitsAndSpareIsUsed(t *testing.T) {
	r := newRig(t, "2+2", 4)
	objects := r.some(8)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.state(3, storagenode.DriveBroken)
	r.round()
	s := r.rep.Status()
	if len(s.Waiting) == 0 || s.Whole || s.States["BROKEN"] != 1 {
		t.Fatalf("status %+v", s)
	}
	var last Progress
	rep, err := r.rep.RepairNow(r.ctx, func(p Progress) { last = p })
	r.must(err)
	if rep.Whole || last.Phase != NotHealed || last.Why == "" {
		t.Fatalf("%+v %+v", rep, last)
	}
	r.addDrive("n0", "", storagenode.DriveID{})
	r.heal()
	r.whole(objects...)
	if s := r.rep.Status(); len(s.Waiting) != 0 {
		t.Fatalf("still waiting: %+v", s.Waiting)
	}
}

func TestSparePrefersOtherNode(t *testing.T) {
	r := newRig(t, "2+1", 0)
	for _, n := range []string{"a", "b", "c"} {
		r.addDrive(n, "", storagenode.DriveID{})
	}
	o := r.put("x", 200_000)
	r.addDrive("a", "", storagenode.DriveID{})
	want := r.addDrive("d", "", storagenode.DriveID{})
	r.state(1, storagenode.DriveBroken)
	r.heal()
	r.whole(o)
	for _, s := range r.group(o.pg).Slots {
		if s.Drive == want.report.ID {
			return
		}
	}
	t.Fatal("the slot went to a node that has one already")
}

func TestOutAfterTenMinutesAndHeld(t *testing.T) {
	r := newRig(t, "2+2", 8)
	objects := r.some(8)
	r.must(r.rep.detectAndPlan(r.ctx))
	for i := range 3 { // more than max(m, a quarter): a network
		r.state(i, storagenode.DriveDown)
	}
	r.must(r.rep.detectAndPlan(r.ctx))
	r.clock.advance(11 * time.Minute)
	r.must(r.rep.detectAndPlan(r.ctx))
	s, held := r.rep.Status(), 0
	for _, d := range s.Drives {
		if d.Held {
			held++
		}
	}
	if s.States["DOWN"] != 3 || s.States["OUT"] != 0 || held != 3 {
		t.Fatalf("not held: %d, %+v", held, s.States)
	}
	r.state(2, storagenode.DriveActive)
	r.must(r.rep.detectAndPlan(r.ctx))
	if s := r.rep.Status(); s.States["OUT"] != 2 {
		t.Fatalf("two of eight away for long: %+v", s.States)
	}
	r.heal()
	r.whole(objects...)
	// Back again: in use no more, but welcome, and what it held is dropped.
	r.state(0, storagenode.DriveActive)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.rep.inventory.all.Store(true)
	if _, err := r.rep.inventory.pass(r.ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(r.drives.disks[0].memory.Shards()); n != 0 {
		t.Fatalf("%d stray shards left", n)
	}
	r.heal()
	r.whole(objects...)
}

func TestWholeZoneIsHeldBrokenIsNot(t *testing.T) {
	r := newRig(t, "2+1", 0)
	for i := range 6 {
		r.addDrive("n"+string(rune('0'+i)), []string{"z1", "z2", "z3"}[i/2], storagenode.DriveID{})
	}
	r.some(6)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.state(0, storagenode.DriveDown)
	r.state(1, storagenode.DriveDown)
	r.state(2, storagenode.DriveBroken)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.clock.advance(time.Hour)
	r.must(r.rep.detectAndPlan(r.ctx))
	if s := r.rep.Status(); s.States["DOWN"] != 2 || s.States["BROKEN"] != 1 {
		t.Fatalf("%+v", s.States)
	}
}

func TestCorruptShardFoundByRead(t *testing.T) {
	r := newRig(t, "4+2", 6)
	o := r.put("x", 300_000)
	r.must(r.rep.detectAndPlan(r.ctx))
	d := r.diskOf(o.pg, 3)
	d.memory.Corrupt(storagenode.ShardID{PG: o.pg, Slot: 3, Blob: o.blob}, 17)
	r.rep.Notify(stripe.Damage{PG: o.pg, Slot: 3, Blob: o.blob, Err: storagenode.ErrCorrupt})
	r.rep.Notify(stripe.Damage{PG: o.pg, Slot: 2, Blob: o.blob, Err: storagenode.ErrCorrupt}) // a false claim
	r.healsClaims(o, 3)
}

// healsClaims verifies the claims that wait, of which one is right, and repairs.
func (r *rig) healsClaims(o object, slot int) {
	r.t.Helper()
	for len(r.rep.reader.queue) > 0 {
		r.rep.reader.verify(r.ctx, <-r.rep.reader.queue)
	}
	if m := r.record(o).Blob.Missing; m != erasure.SlotMask(0).With(slot) {
		r.t.Fatalf("missing %b", m)
	}
	if left, err := r.rep.worker.repairDamage(r.ctx); left != 0 || err != nil {
		r.t.Fatal(left, err)
	}
	r.whole(o)
}

func TestCorruptShardFoundByScrubAndVerify(t *testing.T) {
	r := newRig(t, "4+2", 6)
	objects := r.some(8)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(r.rep.scrubber.pass(r.ctx)) // plans the first scrubs
	o := objects[2]
	r.diskOf(o.pg, 1).memory.Corrupt(storagenode.ShardID{PG: o.pg, Slot: 1, Blob: o.blob}, 5)
	if !r.rep.Start(Scrub) || r.rep.Start("nonsense") {
		t.Fatal("kinds")
	}
	r.must(r.rep.scrubber.pass(r.ctx))
	if m := r.record(o).Blob.Missing; !m.Has(1) {
		t.Fatalf("missing %b", m)
	}
	r.heal()
	r.whole(objects...)
	st := r.rep.Status()
	bad := 0
	for _, d := range st.Drives {
		bad += d.Scrub.Corrupt
		if d.Scrub.Ended.IsZero() {
			t.Fatalf("drive without a scrub: %+v", d)
		}
	}
	if bad != 1 {
		t.Fatalf("%d corrupt", bad)
	}
	o = objects[3]
	r.diskOf(o.pg, 0).memory.Corrupt(storagenode.ShardID{PG: o.pg, Slot: 0, Blob: o.blob}, 5)
	calls := 0
	v, err := r.rep.VerifyAll(r.ctx, Filter{Bucket: r.bucket.ID, Key: o.key}, func(VerifyReport) { calls++ })
	if err != nil || v.Blobs != 1 || v.Corrupt != 1 || v.Marked != 1 || v.Good != 5 || calls != 1 {
		t.Fatalf("%+v %v", v, err)
	}
	r.heal()
	if v, err = r.rep.VerifyAll(r.ctx, Filter{}, nil); err != nil || v.Blobs != 8 || v.Good != v.Shards {
		t.Fatalf("%+v %v", v, err)
	}
	r.whole(objects...)
}

func TestScrubIsDueAndSpread(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(r.rep.scrubber.pass(r.ctx))
	r.clock.advance(24 * time.Hour)
	r.must(r.rep.scrubber.pass(r.ctx))
	for _, d := range r.rep.Status().Drives {
		if d.Scrub.Ended.IsZero() || d.Scrub.Next.Sub(d.Scrub.Ended) != r.rep.cfg.ScrubInterval {
			t.Fatalf("%+v", d.Scrub)
		}
	}
}

// A deletion at any moment of a repair leaves nothing behind.
func TestRepairAgainstDelete(t *testing.T) {
	for _, rebuild := range []bool{false, true} {
		r := newRig(t, "2+2", 4)
		o := r.put("x", 300_000)
		r.must(r.rep.detectAndPlan(r.ctx))
		if rebuild {
			r.wipe(1)
		} else {
			r.diskOf(o.pg, 1).memory.Lose(storagenode.ShardID{PG: o.pg, Slot: 1, Blob: o.blob})
			r.must(r.cat.MarkMissing(r.ctx, o.pg, o.blob, erasure.SlotMask(0).With(1)))
		}
		hit := 0
		r.onFill = func(int, erasure.Blob) {
			hit++
			r.delete("x")
			r.must(r.rep.deletes.pass(r.ctx))
		}
		r.heal()
		if hit != 1 || r.record(o) != nil {
			t.Fatalf("hit %d, record %+v", hit, r.record(o))
		}
		r.must(r.rep.deletes.pass(r.ctx))
		if n := r.shards(o.blob); n != 0 {
			t.Fatalf("rebuild %v: %d shards of a deleted blob", rebuild, n)
		}
	}
}

// Whatever a drive does but answer, nothing is marked and nothing deleted.
func TestUnreachableIsNeverAbsent(t *testing.T) {
	faults := map[string]storetest.Fault{
		"list fails":      {Ops: storetest.OpList, Err: storagenode.ErrUnavailable},
		"list breaks off": {Ops: storetest.OpList, Err: errors.New("cut"), After: true},
		"stat fails":      {Ops: storetest.OpStat, Err: storagenode.ErrSuspect},
		"reads fail":      {Ops: storetest.OpReadAt, Err: errors.New("input/output error")},
		"all fails":       {Ops: storetest.OpAny, Err: storagenode.ErrUnavailable},
		"stat hangs":      {Ops: storetest.OpStat, Hang: true},
		"all hangs":       {Ops: storetest.OpAny, Hang: true},
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "2+1", 3, func(c *Config) { c.OpTimeout = 30 * time.Millisecond })
			objects := r.some(6)
			r.must(r.rep.detectAndPlan(r.ctx))
			r.patient(300 * time.Millisecond)
			f := f
			stop := make(chan struct{})
			go func() { // time passes for the watch over lists
				for {
					select {
					case <-stop:
						return
					case <-time.After(5 * time.Millisecond):
						r.clock.advance(10 * time.Millisecond)
					}
				}
			}()
			defer close(stop)
			fault := r.drives.disks[1].store.Inject(f)
			defer fault.Release()
			r.rep.inventory.all.Store(true)
			_, _ = r.rep.inventory.pass(r.ctx)
			for _, o := range objects[:2] {
				for slot := range 3 {
					r.rep.reader.verify(r.ctx, claim{o.pg, slot, o.blob})
				}
			}
			_, _ = r.rep.VerifyAll(r.ctx, Filter{}, nil)
			if rep, err := r.rep.Recount(r.ctx); err == nil && (rep.Damaged != 0 || rep.Found != 0) {
				t.Fatalf("recount took silence for damage: %+v", rep)
			}
			if r.drives.disks[1].store.Calls(storetest.OpDelete|storetest.OpDropSlot) != 0 {
				t.Fatal("something was deleted")
			}
			for _, o := range objects {
				if m := r.record(o).Blob.Missing; m != 0 {
					t.Fatalf("%s: marked %b", o.key, m)
				}
			}
		})
	}
}

func TestDeletesAreDischarged(t *testing.T) {
	r := newRig(t, "2+1", 3)
	objects := r.some(12)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.state(2, storagenode.DriveDown)
	r.must(r.rep.detectAndPlan(r.ctx))
	for _, o := range objects[:6] {
		r.delete(o.key)
	}
	r.must(r.rep.Pause(r.ctx))
	r.must(r.rep.deletes.pass(r.ctx))
	for _, d := range r.drives.disks {
		if d.store.Calls(storetest.OpDelete) != 0 {
			t.Fatal("a tombstone while paused")
		}
	}
	r.must(r.rep.Resume(r.ctx))
	r.must(r.rep.deletes.pass(r.ctx))
	if s := r.rep.Status().Deletes; s.Owed == 0 || s.Owed > 6 {
		t.Fatalf("owed %+v", s)
	}
	r.state(2, storagenode.DriveActive)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(r.rep.deletes.pass(r.ctx))
	if s := r.rep.Status().Deletes; s.Owed != 0 || s.Done != 6 {
		t.Fatalf("owed %+v", s)
	}
	for _, o := range objects[:6] {
		if n := r.shards(o.blob); n != 0 {
			t.Fatalf("%s: %d shards", o.key, n)
		}
	}
	// A drive that is retired discharges what it was owed.
	r.wipe(0)
	r.delete(objects[7].key)
	groups, err := r.cat.ListGroups(r.ctx)
	r.must(err)
	_, err = r.rep.detector.look(r.ctx, groups, true)
	r.must(err)
	r.must(r.rep.deletes.pass(r.ctx))
	if s := r.rep.Status().Deletes; s.Owed != 0 {
		t.Fatalf("owed %+v", s)
	}
	r.heal()
	r.whole(append(objects[8:], objects[6])...)
}

func TestUnreadableWaitsForItsDrive(t *testing.T) {
	r := newRig(t, "2+1", 4)
	o := r.put("x", 200_000)
	r.must(r.rep.detectAndPlan(r.ctx))
	g := r.group(o.pg)
	slotOf := func(i int) int {
		for s, x := range g.Slots {
			if x.Drive == r.drives.disks[i].report.ID {
				return s
			}
		}
		return -1
	}
	var in []int
	for i := range 4 {
		if slotOf(i) >= 0 {
			in = append(in, i)
		}
	}
	// One drive goes OUT and its slot moves; a second is lost for a while too.
	r.state(in[0], storagenode.DriveDown)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.clock.advance(11 * time.Minute)
	r.drives.disks[in[1]].store.SetDown(storagenode.ErrUnavailable)
	r.round()
	r.round()
	if s := r.group(o.pg).Slots[slotOf(in[0])]; s.State != storagenode.SlotRebuilding {
		t.Fatalf("slot %+v called clean though its blob could not be rebuilt", s)
	}
	if r.record(o) == nil || r.rep.Status().Whole {
		t.Fatal("given up")
	}
	r.drives.disks[in[1]].store.SetDown(nil)
	r.heal()
	r.whole(o)
}

func TestWhatIf(t *testing.T) {
	r := newRig(t, "4+2", 6)
	for i := range 10 {
		r.put("e"+string(rune('0'+i)), 100_000)
	}
	r.must(r.rep.detectAndPlan(r.ctx))
	ids := func(n int) []storagenode.DriveID {
		var out []storagenode.DriveID
		for _, d := range r.drives.disks[:n] {
			out = append(out, d.report.ID)
		}
		return out
	}
	for lost, want := range []int{2, 1, 0, -1} {
		d, err := r.rep.WhatIf(r.ctx, ids(lost))
		if err != nil || len(d.Margins) != 1 || d.Margins[0] != (MarginCount{want, 10, 1_000_000}) {
			t.Fatalf("%d lost: %+v %v", lost, d, err)
		}
		if lost == 3 && d.Unreadable != 10 {
			t.Fatalf("%+v", d)
		}
	}
}

func TestStatusNowCountsAnew(t *testing.T) {
	r := newRig(t, "4+2", 6)
	r.must(r.rep.detectAndPlan(r.ctx))
	if d := r.rep.StatusNow(r.ctx).Durability; d.Blobs != 0 || d.At.IsZero() {
		t.Fatalf("%+v", d)
	}
	r.put("new", 100_000)
	if d := r.rep.Status().Durability; d.Blobs != 0 {
		t.Fatalf("Status counts: %+v", d)
	}
	if d := r.rep.StatusNow(r.ctx).Durability; d.Blobs != 1 || d.Full != 1 {
		t.Fatalf("%+v", d)
	}
}

func TestDraining(t *testing.T) {
	r := newRig(t, "2+1", 4)
	objects := r.some(8)
	r.must(r.rep.detectAndPlan(r.ctx))
	id := r.group(objects[0].pg).Slots[0].Drive
	if state, err := r.rep.Drain(r.ctx, id); err != nil || state != storagenode.DriveDraining {
		t.Fatalf("%s, %v", state, err)
	}
	for range 3 {
		r.heal()
		r.round()
	}
	r.whole(objects...)
	if d, _ := r.rep.fleet.drive(id); d.record.State != storagenode.DriveDrained {
		t.Fatalf("drive is %s", d.record.State)
	}
	for _, k := range r.drives.disks {
		if n := len(k.memory.Shards()); k.report.ID == id && n != 0 {
			t.Fatalf("%d shards left on a drained drive", n)
		}
	}
}

// TestDrainByCommand: who changes their mind has the drive back, and what is
// dead or unknown is refused.
func TestDrainByCommand(t *testing.T) {
	r := newRig(t, "2+1", 4)
	objects := r.some(8)
	r.must(r.rep.detectAndPlan(r.ctx))
	id := r.group(objects[0].pg).Slots[0].Drive
	now := func() storagenode.DriveState {
		r.must(r.rep.detectAndPlan(r.ctx))
		d, _ := r.rep.fleet.drive(id)
		return d.record.State
	}
	for range 2 {
		if state, err := r.rep.Drain(r.ctx, id); err != nil || state != storagenode.DriveDraining {
			t.Fatalf("%s, %v", state, err)
		}
	}
	if state := now(); state != storagenode.DriveDraining {
		t.Fatalf("drive is %s", state)
	}
	for range 3 {
		r.heal()
		r.round()
	}
	if state := now(); state != storagenode.DriveDrained {
		t.Fatalf("drive is %s", state)
	}
	for range 2 {
		if _, err := r.rep.Undrain(r.ctx, id); err != nil {
			t.Fatal(err)
		}
		if state := now(); state != storagenode.DriveActive {
			t.Fatalf("drive is %s", state)
		}
	}
	r.whole(objects...)
	if _, err := r.rep.Drain(r.ctx, storagenode.NewUUID()); !errors.Is(err, ErrNotDrainable) {
		t.Fatalf("a drive that is not there: %v", err)
	}
	for i, d := range r.drives.disks {
		if d.report.ID == id {
			r.state(i, storagenode.DriveBroken)
		}
	}
	r.must(r.rep.detectAndPlan(r.ctx))
	if _, err := r.rep.Drain(r.ctx, id); !errors.Is(err, ErrNotDrainable) {
		t.Fatalf("a broken drive: %v", err)
	}
	if _, err := r.rep.Undrain(r.ctx, id); !errors.Is(err, ErrNotDrainable) {
		t.Fatalf("a broken drive: %v", err)
	}
}

// tenant stays until it is told to go.
type tenant struct {
	stays  atomic.Bool
	leaves sync.Map // by drive: what it was told last
}

func (t *tenant) Leave(id storagenode.DriveID, leaves bool) bool {
	t.leaves.Store(id, leaves)
	return leaves && !t.stays.Load()
}

// TestTenantIsWaitedFor: a drive that holds something else than slots is not
// called drained.
func TestTenantIsWaitedFor(t *testing.T) {
	other := &tenant{}
	other.stays.Store(true)
	r := newRig(t, "2+1", 4, func(c *Config) { c.Tenant = other })
	objects := r.some(8)
	r.must(r.rep.detectAndPlan(r.ctx))
	id := r.group(objects[0].pg).Slots[0].Drive
	_, err := r.rep.Drain(r.ctx, id)
	r.must(err)
	state := func() (s DriveStatus) {
		for _, d := range r.rep.Status().Drives {
			if d.ID == id {
				s = d
			}
		}
		return s
	}
	for range 4 {
		r.heal()
		r.round()
	}
	if s := state(); s.State != storagenode.DriveDraining || s.Reason == "" {
		t.Fatalf("%+v", s)
	}
	other.stays.Store(false)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(r.rep.detectAndPlan(r.ctx))
	if s := state(); s.State != storagenode.DriveDrained || s.Reason != "" {
		t.Fatalf("%+v", s)
	}
	if told, _ := other.leaves.Load(id); told != true {
		t.Fatal("a drained drive may be used again")
	}
	_, err = r.rep.Undrain(r.ctx, id)
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	if told, _ := other.leaves.Load(id); told != false {
		t.Fatal("a drive in use is to be left")
	}
}

func TestStaleRemapIsRefused(t *testing.T) {
	r := newRig(t, "2+1", 5)
	objects := r.some(8)
	other, err := New(r.cfg)
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(other.detectAndPlan(r.ctx))
	r.state(0, storagenode.DriveBroken)
	groups, err := r.cat.ListGroups(r.ctx)
	r.must(err)
	_, err = r.rep.detector.look(r.ctx, groups, true)
	r.must(err)
	_, err = other.detector.look(r.ctx, groups, true)
	r.must(err)
	// Both plan from the same state; the second finds every slot moved.
	n, err := r.rep.planner.plan(r.ctx, groups)
	r.must(err)
	m, err := other.planner.plan(r.ctx, groups)
	r.must(err)
	if n == 0 || m != 0 {
		t.Fatalf("first moved %d slots, second %d", n, m)
	}
	if _, err := r.cat.Remap(r.ctx, 1, 0, 0, r.drives.disks[1].report.ID); !errors.Is(err, metadata.ErrStalePlacement) {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _, _ = other.RepairNow(r.ctx, nil) }()
	_, _ = r.rep.RepairNow(r.ctx, nil)
	<-done
	r.heal()
	r.whole(objects...)
}

// TestDrainedDriveIsFoundInUse: a gateway that did not know yet made a group on
// a drive that was drained at once, since it had no slot.
func TestDrainedDriveIsFoundInUse(t *testing.T) {
	r := newRig(t, "2+1", 3)
	late, err := catalog.Open(r.ctx, catalog.Config{KV: r.kv, Drives: r.drives, Scheme: erasure.Scheme{K: 2, M: 1}, Clock: r.clock, OpenGroups: 2})
	r.must(err)
	_, err = late.OpenGroup(r.ctx, 100)
	r.must(err)
	objects := r.some(4)
	r.must(r.rep.detectAndPlan(r.ctx))
	spare := r.addDrive("n0", "", storagenode.DriveID{})
	r.must(r.rep.detectAndPlan(r.ctx))
	_, err = r.rep.Drain(r.ctx, spare.report.ID)
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(r.rep.detectAndPlan(r.ctx))
	if d, _ := r.rep.fleet.drive(spare.report.ID); d.record.State != storagenode.DriveDrained {
		t.Fatalf("drive is %s", d.record.State)
	}
	r.clock.advance(time.Second)
	_, err = late.OpenGroup(r.ctx, 100)
	r.must(err)
	used := func() bool {
		groups, err := r.cat.ListGroups(r.ctx)
		r.must(err)
		return inUse(groups, spare.report.ID)
	}
	if !used() {
		t.Fatal("the gateway knew")
	}
	for range 4 {
		r.must(r.rep.detectAndPlan(r.ctx))
		d, _ := r.rep.fleet.drive(spare.report.ID)
		if d.record.State == storagenode.DriveDrained && used() {
			t.Log("called drained while a slot is mapped to it")
		}
		_, _, _ = r.rep.worker.rebuildSlots(r.ctx)
	}
	r.must(r.rep.detectAndPlan(r.ctx))
	if used() {
		t.Fatal("the slots never leave the drive")
	}
	r.whole(objects...)
}

// TestNotWholeOnceDamageIsKnown: what was found since the recount counts.
func TestNotWholeOnceDamageIsKnown(t *testing.T) {
	r := newRig(t, "2+1", 3)
	o := r.put("x", 300_000)
	r.heal()
	if !r.rep.Status().Whole {
		t.Fatal("not whole")
	}
	r.diskOf(o.pg, 1).memory.Corrupt(storagenode.ShardID{PG: o.pg, Slot: 1, Blob: o.blob}, 17)
	rep, err := r.rep.VerifyAll(r.ctx, Filter{}, nil)
	r.must(err)
	if rep.Marked != 1 || r.record(o).Blob.Missing == 0 {
		t.Fatalf("%+v", rep)
	}
	if r.rep.Status().Whole {
		t.Fatal("called whole though a shard was found bad and marked")
	}
	r.heal()
	if !r.rep.Status().Whole {
		t.Fatal("not whole after the repair")
	}
}

// TestDrainOfADriveThatIsBeingFilled: a slot does not leave a drive that is being
// drained before it was rebuilt there. What was written to it meanwhile is nowhere
// else, and who takes the slot next fills it from the drive that had it before.
func TestDrainOfADriveThatIsBeingFilled(t *testing.T) {
	r := newRig(t, "2+1", 5)
	r.put("before", 300_000)
	r.round()
	o := r.put("a", 300_000)
	first := r.group(o.pg).Slots[0].Drive
	_, err := r.rep.Drain(r.ctx, first)
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	second := r.group(o.pg).Slots[0].Drive
	if second == first {
		t.Fatal("the slot was not mapped elsewhere")
	}
	var late object
	for i := 0; late.pg != o.pg; i++ {
		r.clock.advance(time.Second)
		late = r.put("late"+strconv.Itoa(i), 300_000)
	}
	_, err = r.rep.Drain(r.ctx, second)
	r.must(err)
	for range 3 {
		r.must(r.rep.detectAndPlan(r.ctx))
		report, err := r.set.Verify(r.ctx, r.group(o.pg), r.record(late).Blob)
		if err != nil || report.Slots[0].Finding != stripe.Good {
			t.Fatalf("%v, %+v", err, report)
		}
	}
	for range 8 {
		r.round()
	}
	for _, id := range []storagenode.DriveID{first, second} {
		if d, _ := r.rep.fleet.drive(id); d.record.State != storagenode.DriveDrained {
			t.Fatalf("drive is %s in the end", d.record.State)
		}
	}
	r.whole(o, late)
}

// markHook calls before with each mark that is made.
type markHook struct {
	metadata.Blobs
	before func()
}

func (h markHook) MarkMissing(ctx context.Context, pg storagenode.PG, id storagenode.BlobID, slots erasure.SlotMask) error {
	h.before()
	return h.Blobs.MarkMissing(ctx, pg, id, slots)
}

// TestCountedBeforeTheMark: the blobs are counted while one is about to be marked.
func TestCountedBeforeTheMark(t *testing.T) {
	var r *rig
	count := func() {}
	r = newRig(t, "2+1", 3, func(c *Config) { c.Blobs = markHook{c.Blobs, func() { count() }} })
	o := r.put("x", 300_000)
	r.heal()
	count = func() {
		r.rep.census.fresh.Store(true)
		r.must(r.rep.census.pass(r.ctx))
	}
	r.diskOf(o.pg, 1).memory.Corrupt(storagenode.ShardID{PG: o.pg, Slot: 1, Blob: o.blob}, 17)
	if rep, err := r.rep.VerifyAll(r.ctx, Filter{}, nil); err != nil || rep.Marked != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if r.rep.Status().Whole {
		t.Fatal("called whole by a count from before the mark")
	}
	r.heal()
}

// TestNotWholeWhileWritesLackShards: a write that a full drive took no shard of is found
// by the repair of damage, though the blobs were not counted since.
func TestNotWholeWhileWritesLackShards(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("o", 300_000)
	r.heal()
	if !r.rep.Status().Whole {
		t.Fatal("not whole")
	}
	full, late := r.fillUp(o, 0)
	r.round()
	if r.rep.Status().Whole {
		t.Fatal("called whole though a blob is known to lack a shard")
	}
	r.room(full, 1<<30)
	r.heal()
	if !r.rep.Status().Whole {
		t.Fatal("not whole after the repair")
	}
	r.whole(o, late)
}

// TestWholeAfterWhatLackedShardsIsDeleted: blobs lack shards for want of room, and are
// deleted. With that everything is counted, as it is when they are repaired.
func TestWholeAfterWhatLackedShardsIsDeleted(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.put("o", 300_000)
	_, late := r.fillUp(o, 0)
	if rep, err := r.rep.RepairNow(r.ctx, nil); err != nil || rep.Whole {
		t.Fatalf("%+v, %v", rep, err)
	}
	for _, kind := range []Kind{Counting, Census} {
		for len(r.rep.kicks[kind]) > 0 {
			<-r.rep.kicks[kind]
		}
	}
	r.delete(late.key)
	r.must(r.rep.damagePass(r.ctx))
	for kind, pass := range map[Kind]func(context.Context) error{Counting: r.rep.recountPass, Census: r.rep.census.pass} {
		select {
		case <-r.rep.kicks[kind]:
			r.must(pass(r.ctx))
		default:
			t.Errorf("no %s is made", kind)
		}
	}
	if s := r.rep.Status(); !s.Whole {
		t.Errorf("not whole: %+v", s)
	}
}

// TestHealedIsWhole: a blob is in the hands of another pass when RepairNow goes over
// the damage, and repaired before it counts. What it calls healed Status calls whole.
func TestHealedIsWhole(t *testing.T) {
	r := newRig(t, "2+1", 3)
	o := r.put("o", 300_000)
	r.heal()
	r.diskOf(o.pg, 1).memory.Corrupt(storagenode.ShardID{PG: o.pg, Slot: 1, Blob: o.blob}, 17)
	if rep, err := r.rep.VerifyAll(r.ctx, Filter{}, nil); err != nil || rep.Marked != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	w := r.rep.worker
	w.take(blobKey{o.pg, o.blob})
	var last Progress
	_, err := r.rep.RepairNow(r.ctx, func(p Progress) {
		if last = p; p.Phase == Recounting && r.record(o).Blob.Missing != 0 {
			r.must(w.repairSlot(r.ctx, o.pg, o.blob, 1))
			w.give(blobKey{o.pg, o.blob})
		}
	})
	r.must(err)
	if s := r.rep.Status(); last.Phase != Healed || !s.Whole {
		t.Errorf("ended with %+v, whole %v, %d blobs are called damaged", last, s.Whole, s.Queue.Damaged)
	}
}

// TestCountedAnewWhenDrivesAreBack: a drive was away while all blobs were counted. They
// are counted again when it is back, though it lacks nothing.
func TestCountedAnewWhenDrivesAreBack(t *testing.T) {
	r := newRig(t, "2+1", 3)
	o := r.put("o", 300_000)
	r.heal()
	r.state(0, storagenode.DriveDown)
	r.must(r.rep.detectAndPlan(r.ctx))
	if rep, err := r.rep.Recount(r.ctx); err != nil || rep.Unreached != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if len(r.rep.kicks[Counting]) > 0 {
		t.Fatal("counted again though the drive is away")
	}
	r.clock.advance(time.Second)
	r.state(0, storagenode.DriveActive)
	r.must(r.rep.detectAndPlan(r.ctx))
	select {
	case <-r.rep.kicks[Counting]:
		r.must(r.rep.recountPass(r.ctx))
	default:
		t.Error("not counted again")
	}
	if s := r.rep.StatusNow(r.ctx); !s.Whole {
		t.Errorf("not whole: %+v, %+v", s.Durability, s.Recount)
	}
	r.whole(o)
}
