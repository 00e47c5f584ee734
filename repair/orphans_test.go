package repair

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// orphan writes shards that no commit follows.
func (r *rig) orphan(n int) object {
	r.t.Helper()
	g, err := r.cat.OpenGroup(r.ctx, 0)
	r.must(err)
	data := make([]byte, n)
	b, err := r.write(g, r.ids.Next(), data)
	r.must(err)
	return object{"", data, g.PG, b.ID}
}

// many puts so many objects into every group that one orphan is below 1%.
func (r *rig) many() []object {
	r.t.Helper()
	var out []object
	for i := range 900 {
		out = append(out, r.put(fmt.Sprintf("many%04d", i), 64))
		r.clock.advance(7 * time.Millisecond)
	}
	return out
}

func (r *rig) orphanPass() {
	r.t.Helper()
	r.must(r.rep.orphans.pass(r.ctx))
}

func TestOrphanIsQuarantinedThenCollected(t *testing.T) {
	r := newRig(t, "1+1", 2)
	objects := r.many()
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.orphan(70_000)
	young := func() int { return r.rep.Status().Orphans.Quarantined }
	r.orphanPass()
	if young() != 0 {
		t.Fatal("younger than the horizon, yet a candidate")
	}
	r.clock.advance(25 * time.Hour)
	r.orphanPass()
	r.clock.advance(71 * time.Hour)
	r.orphanPass()
	if n := r.shards(o.blob); n != 2 || young() != 2 {
		t.Fatalf("%d shards, %d in quarantine", n, young())
	}
	r.clock.advance(2 * time.Hour)
	r.must(r.rep.Pause(r.ctx))
	r.orphanPass()
	if n := r.shards(o.blob); n != 2 {
		t.Fatal("collected while paused")
	}
	r.must(r.rep.Resume(r.ctx))
	r.orphanPass()
	if n := r.shards(o.blob); n != 0 || young() != 0 || r.rep.Status().Orphans.Collected != 2 {
		t.Fatalf("%d shards left, %+v", n, r.rep.Status().Orphans)
	}
	r.whole(objects...)
}

// Seen once is not enough, however long ago.
func TestOrphanMustBeSeenTwice(t *testing.T) {
	r := newRig(t, "1+1", 2)
	r.many()
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.orphan(64)
	r.clock.advance(1000 * time.Hour)
	r.orphanPass()
	if r.shards(o.blob) == 0 {
		t.Fatal("collected when it was first seen")
	}
	r.orphanPass()
	if r.shards(o.blob) == 0 {
		t.Fatal("collected without a quarantine")
	}
}

// The commit of an upload that took longer than the horizon is refused, so
// its shards are orphans for good; one that was in time keeps its shards.
func TestOrphanPassAgainstSlowUpload(t *testing.T) {
	r := newRig(t, "1+1", 2)
	r.many()
	r.must(r.rep.detectAndPlan(r.ctx))
	g, err := r.cat.OpenGroup(r.ctx, 0)
	r.must(err)
	commit := func(key string, b erasure.Blob) error {
		return r.cat.PutObject(r.ctx, r.bucket, &metadata.Object{
			Key: key, Version: "null", Size: b.Size, ETag: "e", Modified: r.clock.Now(), Blobs: []metadata.Located{{PG: g.PG, Blob: b}},
		}, []metadata.Written{{Group: g, Blob: b}}, metadata.Condition{})
	}
	late, err := r.write(g, r.ids.Next(), make([]byte, 64))
	r.must(err)
	r.clock.advance(2 * time.Hour)
	inTime, err := r.write(g, r.ids.Next(), make([]byte, 64))
	r.must(err)
	r.clock.advance(23 * time.Hour)
	r.orphanPass()
	r.must(commit("in time", inTime))
	if err := commit("late", late); err == nil {
		t.Fatal("a commit below the horizon went through")
	}
	for range 3 {
		r.clock.advance(80 * time.Hour)
		r.orphanPass()
	}
	if n := r.shards(inTime.ID); n != 2 {
		t.Fatalf("%d shards of a committed blob", n)
	}
	r.must(r.rep.deletes.pass(r.ctx)) // the refused commit may be owed a delete instead
	if n := r.shards(late.ID); n != 0 {
		t.Fatalf("%d shards of a refused one", n)
	}
}

// What is owed a delete is none of the orphan pass's business.
func TestOwedIsNoOrphan(t *testing.T) {
	r := newRig(t, "1+1", 2)
	objects := r.many()
	r.must(r.rep.detectAndPlan(r.ctx))
	r.delete(objects[0].key)
	for range 3 {
		r.clock.advance(80 * time.Hour)
		r.orphanPass()
	}
	if s := r.rep.Status().Orphans; s.Quarantined != 0 || s.Collected != 0 {
		t.Fatalf("%+v", s)
	}
	for _, d := range r.drives.disks {
		if d.store.Calls(storetest.OpDelete) != 0 {
			t.Fatal("deleted")
		}
	}
}

func TestOrphansStopAboveOnePercent(t *testing.T) {
	r := newRig(t, "1+1", 2)
	objects := r.some(20)
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.orphan(64)
	r.clock.advance(25 * time.Hour)
	r.orphanPass()
	r.clock.advance(100 * time.Hour)
	r.orphanPass()
	r.orphanPass()
	if n := r.shards(o.blob); n != 2 || len(r.rep.Status().Orphans.Stopped) != 2 {
		t.Fatalf("%d shards, %+v", n, r.rep.Status().Orphans)
	}
	r.rep.AgreeToOrphans()
	later := r.orphan(64) // not what the operator agreed to
	r.clock.advance(25 * time.Hour)
	r.orphanPass()
	r.clock.advance(100 * time.Hour)
	r.orphanPass()
	if r.shards(o.blob) != 0 || r.shards(later.blob) != 2 {
		t.Fatalf("agreed: %d, not agreed: %d", r.shards(o.blob), r.shards(later.blob))
	}
	r.whole(objects...)
}

// A list that breaks off concludes nothing and forgets nothing.
func TestOrphansNeedWholeLists(t *testing.T) {
	r := newRig(t, "1+1", 2)
	r.many()
	r.must(r.rep.detectAndPlan(r.ctx))
	o := r.orphan(64)
	r.clock.advance(25 * time.Hour)
	r.orphanPass()
	r.clock.advance(100 * time.Hour)
	for _, d := range r.drives.disks {
		d.store.Inject(storetest.Fault{Ops: storetest.OpList, Err: storagenode.ErrUnavailable, After: true})
	}
	if err := r.rep.orphans.pass(r.ctx); !errors.Is(err, storagenode.ErrUnavailable) {
		t.Fatal(err)
	}
	if r.shards(o.blob) != 2 || r.rep.Status().Orphans.Quarantined != 2 {
		t.Fatalf("%+v", r.rep.Status().Orphans)
	}
}

// Metadata that says of everything that it does not exist (a restored copy,
// say) makes the pass stop rather than delete.
func TestRestoredMetadataDeletesNothing(t *testing.T) {
	r := newRig(t, "1+1", 2)
	objects := r.some(20)
	cfg := r.cfg
	cfg.Blobs = amnesiac{r.cat}
	rep, err := New(cfg)
	r.must(err)
	r.must(rep.detectAndPlan(r.ctx))
	for range 4 {
		r.clock.advance(80 * time.Hour)
		r.must(rep.orphans.pass(r.ctx))
	}
	if len(rep.Status().Orphans.Stopped) == 0 {
		t.Fatal("did not stop")
	}
	r.whole(objects...)
}

// TestClockThatRanAhead: the horizon that was raised by a clock far ahead does not
// keep objects from being written for as long.
func TestClockThatRanAhead(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.heal()
	r.clock.advance(400 * 24 * time.Hour)
	r.must(r.rep.orphans.pass(r.ctx))
	r.clock.advance(-400 * 24 * time.Hour)
	if _, err := r.tryPut("x", 1000); !errors.Is(err, metadata.ErrStalePlacement) {
		t.Fatal(err)
	}
	o := r.put("x", 1000)
	r.clock.advance(100 * time.Hour)
	r.must(r.rep.orphans.pass(r.ctx))
	r.heal()
	r.whole(o)
}

// restored is the horizon of metadata that was loaded from a dump.
type restored struct{}

func (restored) Horizon(context.Context) (storagenode.BlobID, error) {
	return storagenode.BlobID{}, nil
}

func (restored) RaiseHorizon(context.Context, storagenode.BlobID) error { return metadata.ErrRestored }

// TestStatusTellsOfRestoredMetadata: that nothing is collected, until an operator
// agrees, was only in the log.
func TestStatusTellsOfRestoredMetadata(t *testing.T) {
	r := newRig(t, "2+1", 4)
	horizon := r.rep.orphans.cfg.Horizon
	r.rep.orphans.cfg.Horizon = restored{}
	if err := r.rep.orphans.pass(r.ctx); !errors.Is(err, metadata.ErrRestored) || !r.rep.Status().Orphans.Restored {
		t.Fatalf("%v, %+v", err, r.rep.Status().Orphans)
	}
	r.rep.AgreeToOrphans()
	r.rep.orphans.cfg.Horizon = horizon
	if r.rep.Status().Orphans.Restored {
		t.Error("restored, although somebody agreed")
	}
	r.must(r.rep.orphans.pass(r.ctx))
}
