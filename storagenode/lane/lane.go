// Package lane has small requests to one place travel together: while one is
// under way, what comes waits for the next.
package lane

import (
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// maxFlights bounds the requests of a lane that are under way, were all of
	// them slow.
	maxFlights = 8
	// slowFlight is how old the newest request under way is where those that
	// wait go in a further one: a place that says nothing holds up what it was
	// sent, not what comes after.
	slowFlight = 100 * time.Millisecond
	// yields is how often the processor is given to others before a group is
	// taken, so that those about to come are in it.
	yields = 2
)

// Lane sends what waits in groups. Who is alone goes at once. What is in a request
// was in the lane before the request was made. The exported fields are set before
// the first Add; safe for concurrent use.
type Lane[T any] struct {
	// Take chooses the next group out of what waits, in order, the first of
	// all in any case; rest is what goes on waiting. It may use waiting's
	// memory for rest, and nothing else that anybody could hold up.
	Take func(waiting []T) (group, rest []T)
	Send func(group []T)
	// Patient gives the processor to other processes as well before a group is
	// taken: where processors are free it costs nothing, and where they are not,
	// more requests share what each group costs, which is dear where it is
	// written to disks.
	Patient bool
	// Gather has a group wait a moment for those who are likely to join it, see
	// company: for requests whose number is dearer than what is in them. Not for
	// lanes that tests Hold in a bubble, where its timer would stand still.
	Gather bool

	mu      sync.Mutex // guards what follows
	waiting []T
	flights int       // goroutines that send
	begun   time.Time // when the newest request was; zero: it has ended, nothing waited
	company company
}

// Add puts one in the lane and returns at once.
func (l *Lane[T]) Add(one T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, one)
	l.company.came(len(l.waiting))
	if l.flights == 0 || l.flights < maxFlights && time.Since(l.begun) > slowFlight {
		l.flights++
		l.begun = time.Now()
		go l.fly()
	}
}

// fly sends groups until nothing waits, or until another does that began later.
func (l *Lane[T]) fly() {
	var begun time.Time
	for {
		LetOthersRun(yields, l.Patient)
		l.mu.Lock()
		if l.Gather && l.flights == 1 {
			l.company.gather(&l.mu, func() int { return len(l.waiting) })
		}
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
		group, l.waiting = l.Take(l.waiting)
		full := len(l.waiting) > 0
		begun = time.Now()
		l.begun = begun
		l.mu.Unlock()
		l.Send(group)
		if l.Gather {
			l.mu.Lock()
			l.company.left(len(group), full, begun, len(l.waiting))
			l.mu.Unlock()
		}
	}
}

// LetOthersRun lets goroutines that are ready to run go first, which may make
// others ready: times of them. processes lets other processes of the machine go
// first as well, clients that are about to ask for more, for instance. Where
// processors are idle, both take no time.
func LetOthersRun(times int, processes bool) {
	for range times {
		runtime.Gosched()
	}
	if processes {
		_, _, _ = syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) // cannot fail
	}
}

// Hold is for tests: what is added waits. await returns once n wait, and release
// lets them go, as many in a request as may.
func (l *Lane[T]) Hold() (await func(n int), release func()) {
	l.mu.Lock()
	for l.flights > 0 { // the last may be about to look for more
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
	}
	l.flights += maxFlights
	l.mu.Unlock()
	await = func(n int) {
		for {
			l.mu.Lock()
			have := len(l.waiting)
			l.mu.Unlock()
			if have >= n {
				return
			}
			runtime.Gosched()
		}
	}
	return await, func() {
		l.mu.Lock()
		l.flights -= maxFlights - 1
		l.mu.Unlock()
		go l.fly()
	}
}
