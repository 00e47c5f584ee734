package repair

import (
	"context"
	"iter"
	"testing"
	"time"

	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// slowScans are blobs whose scan waits at its end, while the clock runs, until somebody
// has seen something.
type slowScans struct {
	metadata.Blobs
	clock *fakeClock
	seen  func() bool
}

func (s *slowScans) ScanBlobs(ctx context.Context, pg storagenode.PG, after storagenode.BlobID) iter.Seq2[metadata.BlobRecord, error] {
	return func(yield func(metadata.BlobRecord, error) bool) {
		n := 0
		for rec, err := range s.Blobs.ScanBlobs(ctx, pg, after) {
			if n++; !yield(rec, err) {
				return
			}
		}
		for i := 0; n > 0 && i < 500 && !s.seen(); i++ {
			s.clock.advance(progressEvery)
			time.Sleep(time.Millisecond)
		}
	}
}

// TestCountingIsNotSilent: while a repair compares lists, and while it counts, which take
// minutes where there are millions of blobs, it tells how far it is.
func TestCountingIsNotSilent(t *testing.T) {
	r := newRig(t, "2+1", 3)
	r.some(8)
	r.heal()
	for _, phase := range []Phase{Inventorying, Recounting} {
		told := make(chan struct{})
		now, done := Phase(""), false
		r.rep.cfg.Blobs = &slowScans{r.cat, r.clock, func() bool {
			select {
			case <-told:
				return true
			default:
				return len(r.rep.progress.list()) == 0 // of another phase
			}
		}}
		_, err := r.rep.RepairNow(r.ctx, func(p Progress) {
			if now = p.Phase; now == phase && p.BytesDone > 0 && !done {
				done = true
				close(told)
			}
		})
		r.must(err)
		if !done {
			t.Errorf("nothing was told while it was at %q", phase)
		}
	}
}
