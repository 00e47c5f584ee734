package etcd

import (
	"runtime"
	"sync"
	"time"
)

const (
	// maxFlights bounds the requests of a lane that are under way, were all of
	// them slow.
	maxFlights = 8
	// slowFlight is how old the newest request under way is where those that
	// wait go in a further one: a member that says nothing holds up what it was
	// sent, not what comes after.
	slowFlight = 100 * time.Millisecond
	// yields is how often the processor is given to others before a group is
	// taken, so that those about to come are in it.
	yields = 2
)

// lane sends what waits in groups: while a request is under way, what comes
// waits for the next. There are no timers; where nobody else is there, a group
// is one and goes at once. What is in a request was in the lane before the
// request was made.
type lane[T any] struct {
	// take chooses the next group out of what waits, in order, the first of
	// all in any case; rest is what goes on waiting. It may use waiting's
	// memory for rest.
	take func(waiting []T) (group, rest []T)
	send func(group []T)

	mu      sync.Mutex // guards what follows
	waiting []T
	flights int       // goroutines that send
	begun   time.Time // when the newest request was; zero: it has ended, nothing waited
}

// add puts one in the lane and returns at once.
func (l *lane[T]) add(one T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, one)
	if l.flights == 0 || l.flights < maxFlights && time.Since(l.begun) > slowFlight {
		l.flights++
		l.begun = time.Now()
		go l.fly()
	}
}

// fly sends groups until nothing waits, or until another does that began later.
func (l *lane[T]) fly() {
	var begun time.Time
	for {
		for range yields {
			runtime.Gosched()
		}
		l.mu.Lock()
		relieved := !begun.IsZero() && !l.begun.Equal(begun) && time.Since(l.begun) <= slowFlight
		if len(l.waiting) == 0 || relieved {
			if l.begun.Equal(begun) { // what comes next goes at once, and older ones are not relieved
				l.begun = time.Time{}
			}
			l.flights--
			l.mu.Unlock()
			return
		}
		var group []T
		group, l.waiting = l.take(l.waiting)
		begun = time.Now()
		l.begun = begun
		l.mu.Unlock()
		l.send(group)
	}
}
