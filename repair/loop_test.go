package repair

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/storagenode/clock"
)

// TestFailingPassIsNotHurried: a pass that fails at once, and is asked for again and
// again, is not made more often than once a tick, and goes on.
func TestFailingPassIsNotHurried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tick, ticks = time.Second, 60
		r := &Repairer{
			cfg:   &Config{Tick: tick, Clock: clock.System{}, Logger: slog.New(slog.DiscardHandler)},
			kicks: map[Kind]chan struct{}{Deletes: make(chan struct{}, 1)},
		}
		ctx, cancel := context.WithTimeout(t.Context(), ticks*tick)
		defer cancel()
		passes := 0
		r.loop(ctx, Deletes, 10*tick, func(context.Context) error {
			passes++
			select {
			case r.kicks[Deletes] <- struct{}{}:
			default:
			}
			return errors.New("a drive is away")
		})
		if passes < ticks/2 || passes > ticks+1 {
			t.Errorf("%d passes in %d ticks", passes, ticks)
		}
	})
}
