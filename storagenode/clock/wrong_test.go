package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestWrongClockJumps: the date is another from one moment to the next, and as much
// time has passed as really has.
func TestWrongClockJumps(t *testing.T) {
	synctest.Test(t, testWrongClockJumps)
	testWrongClockJumps(t)
}

func testWrongClockJumps(t *testing.T) {
	c := &Wrong{}
	before := c.Now()
	if wrong := before.Round(0).Sub(time.Now().Round(0)).Abs(); wrong > time.Minute {
		t.Fatalf("wrong by %s from the start", wrong)
	}
	c.Jump(-40 * time.Minute)
	time.Sleep(30 * time.Millisecond)
	after := c.Now()
	if passed := after.Sub(before); passed < 30*time.Millisecond || passed > time.Minute {
		t.Errorf("the monotonic reading moved by %s", passed)
	}
	if moved := after.Round(0).Sub(before.Round(0)); moved < -40*time.Minute || moved > -39*time.Minute {
		t.Errorf("the date moved by %s", moved)
	}
}

// TestCount: it counts the time that passes, whatever the date is set to.
func TestCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Wrong{}
		count := NewCount(c)
		first := count.Now()
		c.Jump(-time.Hour)
		time.Sleep(time.Second)
		c.Jump(time.Hour)
		if passed := count.Now() - first; first < 1 || passed != int64(time.Second) {
			t.Errorf("began at %d, counted %d ns", first, passed)
		}
	})
}
