package repair

import (
	"context"
	"errors"
	"sync"

	"kintsugi/storagenode"
)

const (
	claimsQueued  = 4096
	claimCheckers = 2
)

// claim says that a slot's part of a blob was found missing or corrupt.
type claim struct {
	pg   storagenode.PG
	slot int
	blob storagenode.BlobID
}

// readRepair verifies claims and marks what is true of them. claims beyond its
// queue are dropped: whoever reads the blob next claims again.
type readRepair struct {
	inventory *inventory
	marked    func() // called after a claim proved true
	queue     chan claim

	mu      sync.Mutex
	waiting map[claim]bool // in the queue; guarded by mu
	dropped int64          // guarded by mu
	proved  int64          // guarded by mu
}

func newReadRepair(v *inventory, marked func()) *readRepair {
	return &readRepair{inventory: v, marked: marked, queue: make(chan claim, claimsQueued), waiting: map[claim]bool{}}
}

func (r *readRepair) notify(c claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[c] {
		return
	}
	select {
	case r.queue <- c:
		r.waiting[c] = true
	default:
		r.dropped++
	}
}

// run verifies claims until ctx ends.
func (r *readRepair) run(ctx context.Context) {
	var all sync.WaitGroup
	for range claimCheckers {
		all.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case c := <-r.queue:
					r.mu.Lock()
					delete(r.waiting, c)
					r.mu.Unlock()
					r.verify(ctx, c)
				}
			}
		})
	}
	all.Wait()
}

// verify gives whether the claim proved true.
func (r *readRepair) verify(ctx context.Context, c claim) bool {
	marked, err := r.inventory.confirm(ctx, c.pg, c.blob, c.slot, true)
	if err != nil && !errors.Is(err, errAway) {
		r.inventory.cfg.Logger.Warn("could not verify a bad shard", "pg", uint32(c.pg), "slot", c.slot, "blob", c.blob.String(), "err", err)
	}
	if marked {
		r.mu.Lock()
		r.proved++
		r.mu.Unlock()
		r.marked()
	}
	return marked
}
