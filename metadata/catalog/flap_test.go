package catalog

import (
	"math/rand/v2"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode/clock"
)

type steppedClock struct {
	clock.System
	now time.Time
}

func (c *steppedClock) Now() time.Time { return c.now }

// TestFullDrivesMakeFewGroups: drives that are nearly full take writes for
// moments, each at another time. Every set of those that did got groups of its
// own, one for each drive, and groups stay for ever.
func TestFullDrivesMakeFewGroups(t *testing.T) {
	const drives, rounds = 12, 240
	c := &steppedClock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	d := newDrives(drives)
	cat, err := Open(t.Context(), Config{KV: memory.New(), Drives: d, Scheme: erasure.Scheme{K: 8, M: 4}, Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	open := func() {
		c.now = c.now.Add(openTTL + time.Millisecond)
		_, _ = cat.OpenGroup(t.Context(), stickBytes) // there may be too few drives
	}
	count := func() int { return len(*cat.Groups.known.Load()) }
	rng := rand.New(rand.NewPCG(1, 2))
	for range rounds {
		for i := range d.reports {
			d.reports[i].Space.ReadOnly = rng.IntN(2) == 0
		}
		open()
	}
	// One for each set at most, and in every minute once one for each drive.
	if bound := rounds + drives*int(rounds*openTTL/makeTTL+2); count() > bound {
		t.Errorf("%d groups after %d changes, want at most %d", count(), rounds, bound)
	}

	// Where it stays so, a set has its groups after a while.
	for i := range d.reports {
		d.reports[i].Space.ReadOnly = i == 5
	}
	open()
	before := count()
	c.now = c.now.Add(makeTTL)
	open()
	if made := count() - before; made < drives/2 {
		t.Errorf("%d groups made after a minute with one drive full", made)
	}
}
