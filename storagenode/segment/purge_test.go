package segment

import (
	"runtime"
	"testing"

	"github.com/cockroachdb/pebble/v2"
)

// TestPurgeOfMany: when the grace of many deleted blobs is over, what was purged is not
// gone through again for those that follow, nor by every round after that.
func TestPurgeOfMany(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Grace = -1 })
	const blobs = 12 * purgeBatch
	for n := 0; n < blobs; {
		r.must(r.update(func(a *applier) error {
			for range purgeBatch {
				n++
				if err := a.b.Set(appendGraceKey(nil, int64(n), 1, 2, testBlob(uint64(n))), nil, nil); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	r.must(r.flushIndex()) // deleted an hour ago
	r.must(r.purge(r.Context()))
	it, err := r.index().db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyGrace}, UpperBound: []byte{keyGrace + 1}})
	r.must(err)
	defer func() { r.must(it.Close()) }()
	if it.First() {
		t.Fatalf("%x was not purged", it.Key())
	}
	s := it.Stats()
	if steps := s.ForwardStepCount[pebble.InternalIterCall] + int(s.InternalStats.PointsCoveredByRangeTombstones); steps > blobs/50 {
		t.Fatalf("a look for more passes %d keys, of %d that were purged", steps, blobs)
	}
}

// TestForgettingAsksFewSegments: what a tombstone costs compaction does not grow with the
// number of segments, of which a large drive has tens of thousands.
func TestForgettingAsksFewSegments(t *testing.T) {
	r := newRig(t, nil)
	const segments = 5000
	many := segMap{}
	for id := range uint64(segments) {
		g := &segFile{id: id + 1}
		g.minSeq.Store(1)
		many[g.id] = g
	}
	c := &compaction{s: r.Store, g: many[1]}
	real := r.segs.Swap(&many)
	defer r.segs.Store(real)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if kept, err := c.forget(r.index(), nil, &mark{seq: 7}, nil); err != nil || !kept {
		t.Fatal("it was forgotten although older records may be in other segments", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > segments {
		t.Fatalf("one tombstone takes %d bytes of memory where there are %d segments", n, segments)
	}
}

// TestPurgesOfFew: purges one after another, of what became due since the last, do not
// cost more and more where nothing is written meanwhile, so that the index is not flushed.
func TestPurgesOfFew(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Grace = -1 })
	const rounds = 1000
	var before, after runtime.MemStats
	for n := range rounds {
		r.must(r.update(func(a *applier) error {
			return a.b.Set(appendGraceKey(nil, int64(n), 1, 2, testBlob(uint64(n))), nil, nil)
		}))
		runtime.ReadMemStats(&before)
		r.must(r.purge(r.Context()))
		runtime.ReadMemStats(&after)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > rounds<<8 {
		t.Fatalf("after %d purges one takes %d bytes of memory", rounds, n)
	}
}
