package repair

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// amnesiac is metadata that has forgotten all blobs.
type amnesiac struct{ metadata.Blobs }

func (amnesiac) Blob(context.Context, storagenode.PG, storagenode.BlobID) (*metadata.BlobRecord, error) {
	return nil, nil
}
func (amnesiac) ScanBlobs(context.Context, storagenode.PG, storagenode.BlobID) iter.Seq2[metadata.BlobRecord, error] {
	return func(func(metadata.BlobRecord, error) bool) {}
}
func (amnesiac) IsOwed(context.Context, storagenode.PG, storagenode.BlobID) (bool, error) {
	return false, nil
}

// TestModel breaks drives, loses and corrupts shards, deletes and writes in
// random order, with repair in between, never beyond what the scheme bears;
// in the end every object that was not deleted is whole to the byte, and
// nothing is left of those that were. KINTSUGI_SEEDS=n runs n seeds.
func TestModel(t *testing.T) {
	seeds := 40
	if n, err := strconv.Atoi(os.Getenv("KINTSUGI_SEEDS")); err == nil {
		seeds = n
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { model(t, seed) })
	}
}

func model(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	schemes := []string{"2+2", "4+2", "1+1", "2+1"}
	scheme := schemes[rng.IntN(len(schemes))]
	s, _ := erasure.ParseScheme(scheme)
	r := newRig(t, scheme, s.N()+rng.IntN(3))
	r.rng = rng
	r.must(r.rep.detectAndPlan(r.ctx))
	alive, dead := map[string]object{}, []object{}
	hurt := 0 // losses since everything was last whole
	for step := range 60 {
		r.clock.advance(time.Duration(rng.IntN(5000)) * time.Millisecond)
		switch what := rng.IntN(10); {
		case what < 4: // write, also over something
			key := fmt.Sprintf("k%d", rng.IntN(20))
			o, err := r.tryPut(key, 1+rng.IntN(150_000))
			if err != nil { // it must not be visible; its shards may be
				if !errors.Is(err, metadata.ErrNoPlacement) && !errors.Is(err, stripe.ErrQuorum) && !errors.Is(err, metadata.ErrStalePlacement) {
					t.Fatalf("step %d: put: %v", step, err)
				}
				continue
			}
			if old, ok := alive[key]; ok {
				dead = append(dead, old)
			}
			alive[key] = o
		case what < 5:
			for key, o := range alive {
				r.delete(key)
				delete(alive, key)
				dead = append(dead, o)
				break
			}
		case what < 7 && hurt < int(s.M):
			hurt++
			r.harm(rng)
		case what < 8:
			_ = r.rep.deletes.pass(r.ctx) // drives may be away
		case what < 9:
			r.round()
		default:
			r.restore(rng)
			r.healAll(seed, step)
			hurt = 0
		}
	}
	r.restore(rng)
	r.healAll(seed, -1)
	for range 3 {
		r.must(r.rep.deletes.pass(r.ctx))
	}
	// A write may have left shards at slots that its blob then did without.
	for range 3 {
		r.clock.advance(80 * time.Hour)
		r.must(r.rep.orphans.pass(r.ctx))
		r.rep.AgreeToOrphans()
	}
	for _, o := range alive {
		r.whole(o)
	}
	for _, o := range dead {
		if n := r.shards(o.blob); n != 0 || r.record(o) != nil {
			t.Fatalf("seed %d: %d shards of deleted %s (blob %s)", seed, n, o.key, o.blob)
		}
	}
	v, err := r.rep.VerifyAll(r.ctx, Filter{}, nil)
	if err != nil || v.Good != v.Shards || v.Blobs != int64(len(alive)) {
		t.Fatalf("seed %d: %+v %v", seed, v, err)
	}
	if bad, err := r.cat.Check(r.ctx); err != nil || len(bad) != 0 {
		t.Fatalf("seed %d: metadata %v %v", seed, bad, err)
	}
}

// harm does one thing of which a scheme bears m at a time: all of it happens
// on one drive.
func (r *rig) harm(rng *rand.Rand) {
	i := rng.IntN(len(r.drives.disks))
	d := r.drives.disks[i]
	if d.gone {
		return
	}
	ids := d.memory.Shards()
	switch rng.IntN(6) {
	case 0:
		r.exchange(i)
	case 1:
		r.state(i, storagenode.DriveDown)
	case 2:
		r.state(i, storagenode.DriveBroken)
	case 3:
		d.store.SetDown(storagenode.ErrUnavailable)
	case 4:
		for _, id := range ids {
			if rng.IntN(3) == 0 {
				d.memory.Corrupt(id, 0)
			}
		}
	case 5:
		for _, id := range ids {
			if rng.IntN(3) == 0 {
				d.memory.Lose(id)
			}
		}
	}
	if rng.IntN(2) == 0 {
		d.store.Inject(storetest.Fault{Err: errors.New("input/output error"), Times: 3, Skip: rng.IntN(20)})
	}
}

// restore brings every drive back, as it was or as an empty one in its place.
func (r *rig) restore(*rand.Rand) {
	for i, d := range r.drives.disks {
		if d.gone {
			continue
		}
		d.store.Clear()
		switch d.report.State {
		case storagenode.DriveDown:
			r.state(i, storagenode.DriveActive)
		case storagenode.DriveBroken:
			r.exchange(i)
		}
	}
}

// exchange has a drive replaced that the repairer has seen. Of one that was replaced
// twice between two looks it never hears whose place it took: the first is taken for
// lost after ten minutes, which nobody waits for here.
func (r *rig) exchange(i int) {
	for range 4 { // a drive may answer with an error, three times
		if r.rep.detectAndPlan(r.ctx) == nil {
			break
		}
	}
	r.wipe(i)
}

// healAll scrubs and repairs until all is well.
func (r *rig) healAll(seed uint64, step int) {
	r.t.Helper()
	r.must(r.rep.detectAndPlan(r.ctx))
	if _, err := r.rep.VerifyAll(r.ctx, Filter{}, nil); err != nil {
		r.t.Fatalf("seed %d step %d: %v", seed, step, err)
	}
	var last Progress
	rep, err := r.rep.RepairNow(r.ctx, func(p Progress) { last = p })
	if err != nil || last.Phase != Healed || !rep.Whole {
		r.t.Fatalf("seed %d step %d: %v %+v\n%+v", seed, step, err, last, rep)
	}
}
