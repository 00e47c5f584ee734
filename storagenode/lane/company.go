package lane

import (
	"sync"
	"time"
)

const (
	// maxWait bounds how long a group waits for company, waitShare the part of
	// what the last group took that it may wait.
	maxWait   = time.Millisecond
	waitShare = 2
	// maxAlone bounds how many groups in a row go at once after waits that were
	// not worth it: one for every second of these.
	maxAlone = 8
)

// company has a group wait a moment for those who are about to join it. Clients
// that ask again as soon as they are answered otherwise come to travel in two
// halves, each of which waits for the other: a wait that is shorter than that
// makes one group of them, for half the cost. It is the answered who are
// expected back, so that who is alone waits for nobody, and where waits are not
// worth their time there are fewer of them. All is done under the lock that
// guards who waits.
type company struct {
	expected int           // who was in the last group, and who came while it was under way; as many as fit into one
	took     time.Duration // by the last group
	ended    time.Time     // when it did
	all      chan struct{} // closed when the expected are there; nil: nobody waits for it
	failed   int           // waits in a row that were not worth it
	alone    int           // so many groups do not wait
}

// came is told that one more waits, n in all.
func (c *company) came(n int) {
	if c.all != nil && n >= c.expected {
		close(c.all)
		c.all = nil
	}
}

// gather waits for those expected, where it makes sense; waiting says how many are
// there. It lets the lock go meanwhile.
func (c *company) gather(l sync.Locker, waiting func() int) {
	have := waiting()
	if have == 0 || have >= c.expected || time.Since(c.ended) > c.took {
		return
	}
	if c.alone > 0 {
		c.alone--
		return
	}
	all := make(chan struct{})
	c.all = all
	begun := time.Now()
	late := time.NewTimer(min(c.took/waitShare, maxWait))
	l.Unlock()
	select {
	case <-all:
	case <-late.C:
	}
	late.Stop()
	l.Lock()
	c.all = nil
	// A wait pays where it adds more to the group, for its time, than a group
	// has for the time it takes.
	if int64(waiting()-have)*int64(c.took) > int64(have)*int64(time.Since(begun)) {
		c.failed = 0
		return
	}
	c.failed++
	c.alone = min(c.failed/2, maxAlone)
}

// left is told how many were in a group that has ended, whether no more fitted into
// it, when it began, and how many wait now.
func (c *company) left(group int, full bool, begun time.Time, waiting int) {
	c.expected, c.ended = group+waiting, time.Now()
	if full {
		c.expected = group
	}
	c.took = c.ended.Sub(begun)
}
