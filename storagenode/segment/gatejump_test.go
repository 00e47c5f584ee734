package segment

import (
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/storagenode/clock"
)

// TestGateIsNotMovedByTheDate: how long an operation has been inside is counted,
// not told by the date, which may be set forwards or back meanwhile.
func TestGateIsNotMovedByTheDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock.Wrong
		g := newGate(&c, time.Second)
		if _, err := g.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Jump(time.Hour)
		if g.suspect() {
			t.Error("suspect because the date was set forwards")
		}
		c.Jump(-time.Hour)
		time.Sleep(2 * time.Second)
		if !g.suspect() {
			t.Error("not suspect because the date was set back")
		}
	})
}
