package repair

import (
	"errors"
	"testing"
	"time"

	"kintsugi/storagenode"
)

// TestLostMetadataFoundsNothing: where metadata is empty and nodes have drives of a
// cluster, no other is founded in its place, neither for them nor for a new node.
func TestLostMetadataFoundsNothing(t *testing.T) {
	r := newRig(t, "2+1", 4)
	a := r.repairer(r.kv)
	ctx := r.term(a)
	r.must(a.detectAndPlan(ctx))
	old := node("n1", "http://n1")
	old.Cluster = storagenode.NewUUID()
	for range 20 {
		if w, err := a.Announce(r.ctx, old); !errors.Is(err, storagenode.ErrOtherCluster) {
			t.Fatalf("%+v %v", w, err)
		}
		if w, err := a.Announce(r.ctx, node("n2", "http://n2")); !errors.Is(err, storagenode.ErrOtherCluster) {
			t.Fatalf("%+v %v", w, err)
		}
		r.clock.advance(30 * time.Second)
		r.must(a.detectAndPlan(ctx)) // as time goes by, too
	}
	if id, err := r.cat.Cluster(r.ctx); err != nil || !id.IsZero() {
		t.Fatalf("founded %s, %v", id, err)
	}
	// A process that never heard of them founds one, as an operator says.
	b := r.repairer(r.kv)
	ctx = r.term(b)
	r.must(b.detectAndPlan(ctx))
	if id, err := r.cat.Cluster(r.ctx); err != nil || !id.IsZero() {
		t.Fatalf("founded %s for nobody, %v", id, err)
	}
	if w, err := b.Announce(r.ctx, node("n2", "http://n2")); err != nil || w.Cluster.IsZero() {
		t.Fatalf("%+v %v", w, err)
	}
}
