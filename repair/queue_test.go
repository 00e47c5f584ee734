package repair

import (
	"context"
	"sync"
	"testing"
	"time"

	"kintsugi/storagenode"
)

func TestGateLetsTheMostUrgentFirst(t *testing.T) {
	g := &gate{free: 1}
	ctx := context.Background()
	if err := g.enter(ctx, 0, 1); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order []int
	var all sync.WaitGroup
	for _, u := range []int{3, 1, 2, -1} {
		before, _ := g.length()
		all.Go(func() {
			if g.enter(ctx, u, 10) != nil {
				return
			}
			mu.Lock()
			order = append(order, u)
			mu.Unlock()
			g.leave()
		})
		for n := before; n == before; n, _ = g.length() {
			time.Sleep(time.Millisecond)
		}
	}
	if n, bytes := g.length(); n != 4 || bytes != 40 {
		t.Fatalf("%d waiting, %d bytes", n, bytes)
	}
	// One that gives up leaves no trace.
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := g.enter(gone, -9, 5); err == nil {
		t.Fatal("entered with an ended context while none was free")
	}
	g.leave()
	all.Wait()
	for i, want := range []int{-1, 1, 2, 3} {
		if order[i] != want {
			t.Fatalf("order %v", order)
		}
	}
	if n, bytes := g.length(); n != 0 || bytes != 0 || g.free != 1 {
		t.Fatalf("%d waiting, %d bytes, %d free", n, bytes, g.free)
	}
}

func TestBudgetSpacesBytesOfEachDrive(t *testing.T) {
	c := &fakeClock{now: time.Unix(1000, 0)}
	b := newBudget(c, 1000)
	a, other := storagenode.NewUUID(), storagenode.NewUUID()
	ctx := context.Background()
	for _, id := range []storagenode.DriveID{a, other} { // the first goes at once
		if err := b.spend(ctx, id, 2000); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- b.spend(ctx, a, 1) }()
	for {
		c.mu.Lock()
		n := len(c.timers)
		c.mu.Unlock()
		if n > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	c.advance(1900 * time.Millisecond)
	select {
	case <-done:
		t.Fatal("too early")
	case <-time.After(20 * time.Millisecond):
	}
	c.advance(200 * time.Millisecond)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
