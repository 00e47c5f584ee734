package main

import "time"

// throttle says when it is time to show progress again: twice a second.
type throttle struct{ last time.Time }

func newThrottle() *throttle { return &throttle{} }

func (t *throttle) due() bool {
	if now := time.Now(); now.Sub(t.last) >= 500*time.Millisecond {
		t.last = now
		return true
	}
	return false
}
