package clock

import "time"

// Count is the time that has passed since it was made, whatever the clock's
// date was set to meanwhile: what is kept of a time, to ask later how long ago
// that was, is such a count.
type Count struct {
	clock Clock
	began time.Time
}

// NewCount begins to count.
func NewCount(c Clock) Count { return Count{c, c.Now()} }

// Now is the count, in ns; 1 at least.
func (c Count) Now() int64 { return c.At(c.clock.Now()) }

// At is the count at a time that the clock gave.
func (c Count) At(t time.Time) int64 { return max(1, 1+int64(t.Sub(c.began))) }
