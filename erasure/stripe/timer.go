package stripe

import (
	"sync"
	"time"

	"kintsugi/storagenode/clock"
)

// timer is a Clock's After that can be stopped and costs nothing where the
// clock is the system's.
type timer struct {
	c    <-chan time.Time
	real *time.Timer // nil where the clock is another
	set  *Set
}

// realTimers holds stopped timers of the system's clock.
type realTimers struct{ pool sync.Pool }

func (s *Set) timer(d time.Duration) timer {
	if _, ok := s.cfg.Clock.(clock.System); !ok {
		return timer{c: s.cfg.Clock.After(d), set: s}
	}
	t, _ := s.timers.pool.Get().(*time.Timer)
	if t == nil {
		t = time.NewTimer(d)
	} else {
		t.Reset(d)
	}
	return timer{c: t.C, real: t, set: s}
}

func (t *timer) reset(d time.Duration) {
	if t.real == nil {
		t.c = t.set.cfg.Clock.After(d)
		return
	}
	t.real.Reset(d)
}

// stop gives the timer back; nothing is left in its channel then.
func (t *timer) stop() {
	if t.real != nil {
		t.real.Stop()
		t.set.timers.pool.Put(t.real)
	}
}
