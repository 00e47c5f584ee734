package repair

import (
	"context"
	"iter"
	"slices"
	"testing"
	"time"

	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// flicker are blobs: while what is not listed is looked at once more, and until the next
// scan, a drive is away.
type flicker struct {
	metadata.Blobs
	r  *rig
	at int
}

func (f *flicker) Blob(ctx context.Context, pg storagenode.PG, id storagenode.BlobID) (*metadata.BlobRecord, error) {
	f.r.state(f.at, storagenode.DriveDown)
	return f.Blobs.Blob(ctx, pg, id)
}

func (f *flicker) ScanBlobs(ctx context.Context, pg storagenode.PG, after storagenode.BlobID) iter.Seq2[metadata.BlobRecord, error] {
	f.r.state(f.at, storagenode.DriveActive)
	return f.Blobs.ScanBlobs(ctx, pg, after)
}

// TestFormerDriveIsKeptWhereNobodyAnswered: a drive that has a slot goes away for a moment
// right when it is to be asked about a shard that it did not list. That proves nothing,
// so the slot's former drive keeps what it has: it is the last.
func TestFormerDriveIsKeptWhereNobodyAnswered(t *testing.T) {
	r := newRig(t, "2+1", 4)
	o := r.put("o", 300_000)
	r.heal()
	former := slices.Index(r.drives.disks, r.diskOf(o.pg, 0))
	r.state(former, storagenode.DriveDown)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.clock.advance(11 * time.Minute)
	r.heal()
	now := slices.Index(r.drives.disks, r.diskOf(o.pg, 0))
	for slot := range 2 {
		d := r.diskOf(o.pg, slot)
		d.memory.Lose(storagenode.ShardID{PG: o.pg, Slot: uint8(slot), Blob: o.blob})
	}
	r.state(former, storagenode.DriveActive)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.rep.cfg.Blobs = &flicker{r.cat, r, now}
	d := r.drives.disks[former]
	_, _ = r.rep.inventory.dropStray(r.ctx, d.store, d.report.ID, o.pg, 0)
	r.rep.cfg.Blobs = r.cat
	r.state(now, storagenode.DriveActive)
	if len(d.memory.Shards()) == 0 {
		t.Error("the former drive dropped what the other could not be asked for")
	}
	r.rounds(3)
	r.heal()
	r.whole(o)
}
