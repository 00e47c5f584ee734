package journal

import (
	"testing"
	"time"

	"kintsugi/storagenode/clock"
)

// lateClock says of every time that it is over.
type lateClock struct{ clock.System }

func (lateClock) After(time.Duration) <-chan time.Time {
	c := make(chan time.Time, 1)
	c <- time.Time{}
	return c
}

// TestAnswersThatAreThereCount: a process that stood still for longer than a member may
// take – a machine that was paused or moved – finds the answers of all beside a time
// that is over. It leaves nobody behind but who has not answered.
func TestAnswersThatAreThereCount(t *testing.T) {
	for range 100 {
		c := &committer{cfg: Config{Clock: lateClock{}, EvictAfter: time.Second, StallAfter: time.Minute}, results: make(chan result, 8)}
		quick, slow, hung := &member{}, &member{}, &member{}
		c.members = []*member{quick, slow, hung}
		c.results <- result{m: quick, commit: 7}
		c.results <- result{m: slow, commit: 7}
		c.await(7)
		if quick.err != nil || slow.err != nil || hung.err == nil {
			t.Fatalf("left behind: %v, %v, and who has not answered: %v", quick.err, slow.err, hung.err)
		}
	}
}
