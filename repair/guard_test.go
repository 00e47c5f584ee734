package repair

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// A delete that was discharged while a repair was writing, without a tombstone
// at the repaired drive, leaves nothing behind.
func TestRepairTakesBackWhatWasDeleted(t *testing.T) {
	for _, rebuild := range []bool{false, true} {
		r := newRig(t, "2+2", 4)
		o := r.put("x", 300_000)
		r.must(r.rep.detectAndPlan(r.ctx))
		if rebuild {
			r.wipe(1)
		} else {
			r.must(r.cat.MarkMissing(r.ctx, o.pg, o.blob, erasure.SlotMask(0).With(1)))
		}
		target := -1
		r.onFill = func(slot int, _ erasure.Blob) {
			target = slot
			r.delete("x")
			for owed, err := range r.cat.ScanOwed(r.ctx) {
				r.must(err)
				r.must(r.cat.Discharge(r.ctx, []metadata.Owed{owed}, []erasure.SlotMask{owed.Pending}))
			}
		}
		r.heal()
		if target < 0 {
			t.Fatal("nothing was repaired")
		}
		id := storagenode.ShardID{PG: o.pg, Slot: uint8(target), Blob: o.blob}
		if _, err := r.diskOf(o.pg, target).store.Stat(r.ctx, id); !errors.Is(err, storagenode.ErrNotFound) {
			t.Fatalf("rebuild %v: the shard of a deleted blob is there: %v", rebuild, err)
		}
	}
}

// recalling is metadata that learns of a blob while an orphan pass runs: after
// so many questions it knows it.
type recalling struct {
	metadata.Blobs
	mu     sync.Mutex
	id     storagenode.BlobID
	before int
}

func (l *recalling) Blob(ctx context.Context, pg storagenode.PG, id storagenode.BlobID) (*metadata.BlobRecord, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == l.id {
		if l.before--; l.before < 0 {
			return &metadata.BlobRecord{Located: metadata.Located{PG: pg, Blob: erasure.Blob{ID: id}}}, nil
		}
	}
	return l.Blobs.Blob(ctx, pg, id)
}

func TestOrphanAsksForFreshProof(t *testing.T) {
	// Two passes, two slots: found, found, found again, and asked for right before it
	// is collected at the first.
	for before, left := range map[int]int{4: 1, 3: 2} {
		r := newRig(t, "1+1", 2)
		r.many()
		o := r.orphan(64)
		cfg := r.cfg
		cfg.Blobs = &recalling{Blobs: r.cat, id: o.blob, before: before}
		rep, err := New(cfg)
		r.must(err)
		for range 2 {
			r.clock.advance(80 * time.Hour)
			r.must(rep.orphans.pass(r.ctx))
		}
		if n := r.shards(o.blob); n != 2-int(rep.Status().Orphans.Collected) || n != left {
			t.Fatalf("%d shards of a blob that is known by now, after %d looks", n, before)
		}
	}
}

// behind gives a group as it was, the first times.
type behind struct {
	GroupLookup
	old  erasure.Group
	left int
}

func (b *behind) Group(ctx context.Context, pg storagenode.PG) (erasure.Group, error) {
	if b.left--; b.left >= 0 && pg == b.old.PG {
		return b.old, nil
	}
	return b.GroupLookup.Group(ctx, pg)
}

// A tombstone that went to the slot's former drive discharges nothing.
func TestDischargeAssertsWhereTheSlotIs(t *testing.T) {
	r := newRig(t, "2+1", 4)
	o := r.put("x", 300_000)
	r.must(r.rep.detectAndPlan(r.ctx))
	old := r.group(o.pg)
	var spare storagenode.DriveID
	for _, d := range r.drives.disks {
		if d.report.ID != old.Slots[0].Drive && d.report.ID != old.Slots[1].Drive && d.report.ID != old.Slots[2].Drive {
			spare = d.report.ID
		}
	}
	_, err := r.cat.Remap(r.ctx, o.pg, 1, old.Slots[1].Epoch, spare)
	r.must(err)
	r.delete("x")
	cfg := r.cfg
	cfg.Lookup = &behind{r.cat, old, 1}
	rep, err := New(cfg)
	r.must(err)
	r.must(rep.deletes.pass(r.ctx))
	var pending erasure.SlotMask
	for owed, err := range r.cat.ScanOwed(r.ctx) {
		r.must(err)
		pending = owed.Pending
	}
	if pending != erasure.SlotMask(0).With(1) {
		t.Fatalf("pending %b", pending)
	}
	r.must(rep.deletes.pass(r.ctx))
	if d := r.diskOf(o.pg, 1); d.store.Calls(storetest.OpDelete) == 0 {
		t.Fatal("the new drive got no tombstone")
	}
}

// lying says that it rebuilt, and did nothing.
type lying struct{ Stripes }

func (lying) Rebuild(context.Context, erasure.Group, erasure.Blob, int, storagenode.ShardStore, uint32) error {
	return nil
}

func TestSlotIsCleanOnlyWhenItsListSaysSo(t *testing.T) {
	r := newRig(t, "2+2", 4)
	o := r.put("x", 300_000)
	cfg := r.cfg
	cfg.Stripes = lying{r}
	rep, err := New(cfg)
	r.must(err)
	r.must(rep.detectAndPlan(r.ctx))
	r.wipe(2)
	var last Progress
	report, err := rep.RepairNow(r.ctx, func(p Progress) { last = p })
	if err != nil || report.Whole || last.Phase != NotHealed {
		t.Fatalf("%v %+v %+v", err, report, last)
	}
	rebuilding := 0
	for _, s := range r.group(o.pg).Slots {
		if s.State == storagenode.SlotRebuilding {
			rebuilding++
		}
	}
	if rebuilding != 1 {
		t.Fatalf("%d slots under rebuilding, want 1", rebuilding)
	}
}

// Whoever still holds the group as it was cannot write to a moved slot.
func TestMovedSlotIsFenced(t *testing.T) {
	r := newRig(t, "2+1", 4)
	o := r.put("x", 300_000)
	r.must(r.rep.detectAndPlan(r.ctx))
	old := r.group(o.pg)
	for i, d := range r.drives.disks {
		if d.report.ID == old.Slots[1].Drive {
			r.state(i, storagenode.DriveBroken)
		}
	}
	r.heal()
	now := r.group(o.pg).Slots[1]
	if now.Drive == old.Slots[1].Drive || now.Epoch != old.Slots[1].Epoch+1 {
		t.Fatalf("slot %+v, was %+v", now, old.Slots[1])
	}
	sh := storetest.NewShard(storagenode.ShardID{PG: o.pg, Slot: 1, Blob: r.ids.Next()}, 100)
	sh.SlotEpoch = old.Slots[1].Epoch
	if _, err := r.diskOf(o.pg, 1).store.Put(r.ctx, sh); !errors.Is(err, storagenode.ErrStaleEpoch) {
		t.Fatalf("a stale write: %v", err)
	}
}

// An inventory that looked at a slot's former drive marks nothing.
func TestConfirmAssertsWhereTheSlotIs(t *testing.T) {
	r := newRig(t, "2+1", 4)
	o := r.put("x", 300_000)
	r.must(r.rep.detectAndPlan(r.ctx))
	old := r.group(o.pg)
	for i, d := range r.drives.disks {
		if d.report.ID == old.Slots[1].Drive {
			r.state(i, storagenode.DriveBroken)
			r.heal()
			d.memory.Wipe() // its slot was dropped
			r.state(i, storagenode.DriveActive)
		}
	}
	cfg := r.cfg
	cfg.Lookup = &behind{r.cat, old, 1}
	rep, err := New(cfg)
	r.must(err)
	if marked, err := rep.inventory.confirm(r.ctx, o.pg, o.blob, 1, false); marked || err != nil {
		t.Fatal(marked, err)
	}
	if m := r.record(o).Blob.Missing; m != 0 {
		t.Fatalf("marked %b", m)
	}
}

// TestRetiredDriveKeepsWhatIsLost: disks were swapped for empty ones, too many
// at once. When the old ones are back their shards are the only ones there are.
func TestRetiredDriveKeepsWhatIsLost(t *testing.T) {
	r := newRig(t, "2+1", 3)
	o := r.put("x", 300_000)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.wipe(0)
	r.wipe(1)
	for range 3 {
		r.round()
	}
	old := r.drives.disks[3:]
	for _, d := range old {
		if len(d.memory.Shards()) != 1 {
			t.Fatal("the old disks are not whole")
		}
		d.gone = false // in another place of the node now
	}
	for range 5 {
		_, _ = r.rep.RepairNow(r.ctx, nil)
		r.clock.advance(time.Hour)
	}
	for _, d := range old {
		if len(d.memory.Shards()) != 1 {
			t.Fatalf("a shard of a blob that cannot be read was dropped; slots %+v, record %+v", r.group(o.pg).Slots, r.record(o).Blob)
		}
	}
}

// failing is groups that cannot be listed for a while.
type failing struct {
	metadata.Groups
	err error
}

func (f *failing) ListGroups(ctx context.Context) ([]metadata.GroupRecord, error) {
	if f.err != nil {
		return nil, f.err
	}
	return f.Groups.ListGroups(ctx)
}

// TestInventoryIsOwed: a pass that could not begin is owed still.
func TestInventoryIsOwed(t *testing.T) {
	groups := &failing{}
	r := newRig(t, "2+1", 3, func(c *Config) { groups.Groups, c.Groups = c.Groups, groups })
	o := r.put("x", 300_000)
	r.heal()
	r.diskOf(o.pg, 1).memory.Lose(storagenode.ShardID{PG: o.pg, Slot: 1, Blob: o.blob})
	for _, ask := range []func(){
		func() { r.rep.inventory.add([]storagenode.DriveID{r.diskOf(o.pg, 1).report.ID}) },
		func() { r.rep.inventory.all.Store(true) },
	} {
		ask()
		groups.err = metadata.ErrUnavailable
		if _, err := r.rep.inventory.pass(r.ctx); !errors.Is(err, metadata.ErrUnavailable) {
			t.Fatal(err)
		}
		groups.err = nil
		if n, err := r.rep.inventory.pass(r.ctx); n != 1 || err != nil {
			t.Fatalf("%d, %v: the inventory is forgotten", n, err)
		}
		r.must(r.cat.MarkPresent(r.ctx, r.group(o.pg), o.blob, erasure.SlotMask(0).With(1)))
	}
}

// TestReplacedDriveThatLives: a drive was moved, and another took its old place.
// It is not lost because a new leader cannot reach its node yet.
func TestReplacedDriveThatLives(t *testing.T) {
	r := newRig(t, "2+1", 3)
	o := r.put("x", 300_000)
	r.must(r.rep.detectAndPlan(r.ctx))
	moved := r.drives.disks[0]
	r.addDrive("n1", "", moved.report.ID)
	for range 2 {
		r.must(r.rep.detectAndPlan(r.ctx))
	}
	next := r.repairer(r.kv)
	moved.gone = true
	for range 2 {
		r.must(next.detectAndPlan(r.ctx))
	}
	if d, _ := next.fleet.drive(moved.report.ID); d.record.State != storagenode.DriveDown {
		t.Fatalf("a drive whose node was not reached yet is %s", d.record.State)
	}
	moved.gone = false
	r.heal()
	r.whole(o)
}

// TestRetiredDriveCountsForNothing: what lies on a drive that is given up, and only
// there, is not healed, however well the drive looks.
func TestRetiredDriveCountsForNothing(t *testing.T) {
	r := newRig(t, "2+1", 3)
	o := r.put("x", 300_000)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.wipe(0)
	r.state(0, storagenode.DriveBroken) // and its replacement is no better
	r.must(r.rep.detectAndPlan(r.ctx))
	r.drives.disks[3].gone = false
	var last Progress
	rep, err := r.rep.RepairNow(r.ctx, func(p Progress) { last = p })
	r.must(err)
	if s := r.rep.Status(); rep.Whole || last.Phase == Healed || s.Whole || len(s.Waiting) == 0 {
		t.Fatalf("%+v is %v, %+v; status says whole %v, %+v", last, rep.Whole, rep, s.Whole, s.Waiting)
	}
	r.addDrive("n0", "", storagenode.DriveID{})
	r.heal()
	r.whole(o)
}
