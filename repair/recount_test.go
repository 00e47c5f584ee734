package repair

import (
	"context"
	"sync/atomic"
	"testing"

	"kintsugi/metadata"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// lookups are blobs that count who asks for one.
type lookups struct {
	metadata.Blobs
	n atomic.Int64
}

func (l *lookups) Blob(ctx context.Context, pg storagenode.PG, id storagenode.BlobID) (*metadata.BlobRecord, error) {
	l.n.Add(1)
	return l.Blobs.Blob(ctx, pg, id)
}

// TestRecountOfASlotUnderRebuilding: what a slot lacks that is being rebuilt is nothing to
// mark, so that it is looked at once and not twice: it may be all of a drive.
func TestRecountOfASlotUnderRebuilding(t *testing.T) {
	r := newRig(t, "2+1", 3)
	objects := int64(0)
	for range 8 {
		r.put(string(rune('a'+objects)), 300_000)
		objects++
	}
	r.heal()
	empty := r.wipe(0)
	r.must(r.rep.detectAndPlan(r.ctx))
	count := &lookups{Blobs: r.cat}
	r.rep.cfg.Blobs = count
	asked := empty.store.Calls(storetest.OpStat)
	rep, err := r.rep.Recount(r.ctx)
	r.must(err)
	if rep.Damaged != objects || rep.Found != 0 || rep.Blobs != objects {
		t.Fatalf("%+v", rep)
	}
	if asked = empty.store.Calls(storetest.OpStat) - asked; count.n.Load() != objects || asked != objects {
		t.Errorf("%d look-ups and %d inspections of %d blobs", count.n.Load(), asked, objects)
	}
}
