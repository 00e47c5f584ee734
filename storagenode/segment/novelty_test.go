package segment

import (
	"math/rand/v2"
	"testing"

	"kintsugi/storagenode"
)

func TestNoveltyNeverMistakesAKnownBlob(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	n := newNovelty()
	known := map[storagenode.BlobID]bool{}
	var ids []storagenode.BlobID
	fresh := 0
	for i := range 5 * noveltySize {
		// Ids that grow, but arrive up to 50 places too late.
		var b storagenode.BlobID
		v := uint32(i*4 + rng.IntN(200))
		b[0], b[1], b[2], b[3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
		if len(ids) > 0 && rng.IntN(20) == 0 {
			b = ids[rng.IntN(len(ids))]
		}
		if n.isNew(b) {
			if known[b] {
				t.Fatalf("%s was added before", b)
			}
			fresh++
		}
		n.add(b)
		known[b] = true
		ids = append(ids, b)
	}
	if fresh < 4*noveltySize {
		t.Fatalf("only %d of %d new blobs were recognised", fresh, len(known))
	}
	last := n.newest
	n.forgetTo(last)
	for b := range known {
		if n.isNew(b) {
			t.Fatalf("%s is forgotten", b)
		}
	}
}
