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

// TestLongPassIsFollowedSoon: what was marked or became due during a pass that took hours
// – it repaired much, or scrubbed a drive at its pace – does not wait for twice as long.
func TestLongPassIsFollowedSoon(t *testing.T) {
	for name, failure := range map[string]error{"done": nil, "failed": errors.New("a drive is away")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const tick, long = time.Second, 5 * time.Hour
				r := &Repairer{
					cfg:   &Config{Tick: tick, Clock: clock.System{}, Logger: slog.New(slog.DiscardHandler)},
					kicks: map[Kind]chan struct{}{Damage: make(chan struct{}, 1)},
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var ended time.Time
				r.loop(ctx, Damage, 10*tick, func(context.Context) error {
					if ended.IsZero() {
						time.Sleep(long)
						ended = time.Now()
						return failure
					}
					if waited := time.Since(ended); waited > 10*tick+longestPause || waited < 10*tick {
						t.Errorf("the next pass begins after %s", waited)
					}
					cancel()
					return nil
				})
			})
		})
	}
}
