package stripe

import "time"

// callerIdle is about how long an idle caller waits for its next call.
const callerIdle = 100 * time.Millisecond

// callers are goroutines that call stores for others. They are used again, so
// that their stacks do not have to grow anew for each call; there are as many
// as calls under way, and idle ones end soon.
type callers struct{ next chan func() }

func newCallers() callers { return callers{next: make(chan func())} }

// run has f called on another goroutine.
func (c callers) run(f func()) {
	select {
	case c.next <- f:
	default:
		go c.loop(f)
	}
}

func (c callers) loop(f func()) {
	f()
	tick := time.NewTicker(callerIdle)
	defer tick.Stop()
	for idle := false; ; {
		select {
		case f := <-c.next:
			f()
			idle = false
		case <-tick.C:
			if idle {
				return
			}
			idle = true
		}
	}
}
