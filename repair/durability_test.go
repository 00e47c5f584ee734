package repair

import (
	"context"
	"testing"
	"time"
)

// TestNothingIsCountedBeforeTheFirstLook: right after a start no drive is known,
// which says nothing about what lies on them. A status said that every blob
// could not be read.
func TestNothingIsCountedBeforeTheFirstLook(t *testing.T) {
	r := newRig(t, "2+1", 4)
	r.put("o", 100_000)
	ctx, cancel := context.WithTimeout(r.ctx, 50*time.Millisecond)
	defer cancel()
	if d := r.rep.StatusNow(ctx).Durability; !d.At.IsZero() || d.Unreadable > 0 {
		t.Fatalf("%+v", d)
	}
	if d, err := r.rep.WhatIf(ctx, nil); err == nil {
		t.Fatalf("what-if before anything is known: %+v", d)
	}
	asked := make(chan Durability)
	go func() { asked <- r.rep.StatusNow(r.ctx).Durability }()
	r.must(r.rep.detectAndPlan(r.ctx))
	if d := <-asked; d.Blobs != 1 || d.Full != 1 || d.Unreadable > 0 {
		t.Fatalf("%+v", d)
	}
}
