package repair

import (
	"bytes"
	"testing"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// TestWrongShardIsHealed: a shard whose sums are right and that is not what the stripe
// gives all the same – it was computed or summed wrongly – is found by verifying, and
// written anew. It verifies by itself: only the others say that it is wrong.
func TestWrongShardIsHealed(t *testing.T) {
	for _, size := range []int{4096, 300_000, erasure.StripeSize + 1000} {
		r := newRig(t, "2+1", 4)
		r.must(r.rep.detectAndPlan(r.ctx))
		o := r.put("o", size)
		slot := 2 // parity of the encoded
		if rec := r.record(o); !rec.Blob.Slots.Has(slot) {
			slot = rec.Blob.Slots.First()
		}
		r.heal()
		store := r.diskOf(o.pg, slot).memory
		id := storagenode.ShardID{PG: o.pg, Slot: uint8(slot), Blob: o.blob, Stripe: uint32(stripes(r.record(o).Blob) - 1)}
		info, p, err := r.readShard(store, id)
		r.must(err)
		wrong := bytes.Clone(p)
		wrong[len(p)/2] ^= 4
		token, err := store.Put(r.ctx, storagenode.Shard{ID: id, K: info.K, M: info.M, SlotEpoch: info.SlotEpoch,
			StripeLen: info.StripeLen, StripeHash: info.StripeHash, Last: info.Last, Attrs: info.Attrs, Payload: wrong})
		r.must(err)
		r.must(store.Sync(r.ctx, token))

		rep, err := r.rep.VerifyAll(r.ctx, Filter{}, nil)
		r.must(err)
		if rep.Corrupt != 1 || rep.Marked != 1 || r.rep.Status().Whole {
			t.Fatalf("%d bytes: %+v, whole %v", size, rep, r.rep.Status().Whole)
		}
		r.heal()
		r.whole(o)
		if rep, err := r.rep.VerifyAll(r.ctx, Filter{}, nil); err != nil || rep.Corrupt != 0 || rep.Marked != 0 {
			t.Fatalf("%d bytes, healed: %+v %v", size, rep, err)
		}
	}
}
