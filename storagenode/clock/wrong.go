package clock

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// Wrong is the clock of a machine whose date is wrong, by a time that may change
// from one moment to the next; for tests. What a machine counts of the time that
// passes is right all the same, and so is the monotonic reading here.
type Wrong struct {
	System
	by atomic.Int64 // ns
}

// Jump has the clock be wrong by a time from now on.
func (c *Wrong) Jump(by time.Duration) { c.by.Store(int64(by)) }

// Now implements Clock.
func (c *Wrong) Now() time.Time {
	now := c.System.Now()
	wrong := now.Add(time.Duration(c.by.Load()))
	// Nothing in package time makes a date with another monotonic reading than
	// its own, and in a bubble there is none: these are the fields of a
	// time.Time, seconds since 1885 in the upper bits of the first.
	type fields struct {
		wall uint64
		ext  int64 // the monotonic reading, ns
		loc  *time.Location
	}
	f := (*fields)(unsafe.Pointer(&wrong))
	f.wall = 1<<63 | uint64(wrong.Unix()-since1885)<<30 | uint64(wrong.Nanosecond())
	f.ext = now.UnixNano()
	return wrong
}

var since1885 = time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
