package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestClocksJump: the date is another from one moment to the next, and as much
// time has passed as really has.
func TestClocksJump(t *testing.T) {
	synctest.Test(t, testClocksJump)
	testClocksJump(t)
}

func testClocksJump(t *testing.T) {
	c := &skewed{}
	before := c.Now()
	if wrong := before.Round(0).Sub(time.Now().Round(0)).Abs(); wrong > time.Minute {
		t.Fatalf("wrong by %s from the start", wrong)
	}
	c.jump(-40 * time.Minute)
	time.Sleep(30 * time.Millisecond)
	after := c.Now()
	if passed := after.Sub(before); passed < 30*time.Millisecond || passed > time.Minute {
		t.Errorf("the monotonic reading moved by %s", passed)
	}
	if moved := after.Round(0).Sub(before.Round(0)); moved < -40*time.Minute || moved > -39*time.Minute {
		t.Errorf("the date moved by %s", moved)
	}
}
