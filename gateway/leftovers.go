package gateway

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"kintsugi/metadata"
)

// leftovers are the blobs of writes that failed, on their way to be owed a delete.
type leftovers struct {
	mu      sync.Mutex
	waiting [][]metadata.Written // of a write each; guarded by mu
	workers int                  // guarded by mu
}

const (
	leftoversMax    = 4096 // writes; what is above is left to the orphan pass
	leftoversAtOnce = 16
	leftoversPause  = time.Second // after a failure
	leftoversTries  = 1000        // failures in a row of a worker: 17 minutes
)

// abandon has blobs deleted that were written for a client who left, or who sent
// something else than was announced, or that too few drives took, or whose commit
// failed: whether that took place all the same is found out first. As orphans they
// would be found only after days, and stay where they are many beside what is there.
// No drive is owed the delete of what it was not asked to write: clients who try again
// and again would have as many owed to drives that are away. It does not keep the
// client waiting, and outlasts an outage of the metadata, but not the process; see
// Front.Settle.
func (g *gateway) abandon(blobs []metadata.Written) {
	l := &g.left
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(blobs) == 0 {
		return
	}
	if len(l.waiting) < leftoversMax {
		l.waiting = append(l.waiting, slices.Clone(blobs))
	}
	if l.workers < min(len(l.waiting), leftoversAtOnce) {
		l.workers++
		go g.clearLeftovers()
	}
}

// clearLeftovers works until none wait. Where the metadata is away for long it gives
// up, and what waits goes with the next write that fails.
func (g *gateway) clearLeftovers() {
	l := &g.left
	for failed := 0; ; {
		l.mu.Lock()
		if len(l.waiting) == 0 || failed == leftoversTries {
			l.workers--
			l.mu.Unlock()
			return
		}
		blobs := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.mu.Unlock()
		err := g.objects.Abandon(context.Background(), blobs)
		if !errors.Is(err, metadata.ErrUnavailable) {
			if failed = 0; err != nil {
				g.log.Debug("blobs of a write that failed are left to the orphan pass", "blob", blobs[0].Blob.ID, "err", err)
			}
			g.deleted()
			continue
		}
		l.mu.Lock()
		l.waiting = append(l.waiting, blobs)
		l.mu.Unlock()
		<-g.clock.After(leftoversPause)
		failed++
	}
}

// Settle waits, once the server was closed, until the requests that this cut off have
// ended and what they left on drives is owed a delete, or for as long as ctx lasts.
func (f Front) Settle(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for f.inFlight.Load() != 0 || f.left.busy() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *leftovers) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.workers != 0
}
