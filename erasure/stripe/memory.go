package stripe

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// overloadWait is how long a stripe waits for memory.
const overloadWait = 10 * time.Second

// classes is the number of buffer sizes: 4 KiB to 256 MiB, which is what gathering a
// stripe of 1+31 takes, four to a doubling, so that at most a fifth is waste.
const classes = 65

func classSize(c int) int { return (4 + c&3) << (10 + c>>2) }

// classOf is the smallest class that holds n bytes.
func classOf(n int) int {
	if n <= 4<<10 {
		return 0
	}
	e := bits.Len(uint(n-1)) - 3 // n-1 has three leading bits above 1<<e
	return (e-10)<<2 + ((n-1)>>e + 1 - 4)
}

// memory hands out buffers within one budget for the whole process.
type memory struct {
	total  int64
	wait   time.Duration
	budget *semaphore.Weighted // first come, first served
	pools  [classes]sync.Pool
	inUse  atomic.Int64
	// claims is what is in use or asked for; while it is more than there is, what
	// is only kept is given up.
	claims atomic.Int64
	// yield, where set, gives up what is only kept, so that n bytes more could be
	// claimed.
	yield   func(n int64)
	waiting atomic.Int32 // calls of get that wait: nothing is to be kept now
	// poison, set by tests, overwrites what was let go.
	poison bool
}

func newMemory(total int64) *memory {
	return &memory{total: total, wait: overloadWait, budget: semaphore.NewWeighted(total)}
}

// buffer is memory that several goroutines share. It goes back to its pool and
// its budget when each has released it.
type buffer struct {
	mem   []byte
	owner *memory
	class int
	cost  int64 // of the budget
	refs  atomic.Int32
}

// get takes a buffer of at least n bytes with one reference: ErrOverload when
// the budget has no room for long, or ctx's error.
func (m *memory) get(ctx context.Context, n int) (*buffer, error) {
	c := classOf(n)
	cost := m.cost(c)
	if err := m.await(ctx, cost); err != nil {
		return nil, err
	}
	return m.take(c, cost), nil
}

// pair is get for two buffers, of which nobody ever holds one and waits for the
// other.
func (m *memory) pair(ctx context.Context, n, other int) (*buffer, *buffer, error) {
	c, o := classOf(n), classOf(other)
	cost := m.cost(c)
	more := min(m.cost(o), m.total-cost)
	if err := m.await(ctx, cost+more); err != nil {
		return nil, nil, err
	}
	return m.take(c, cost), m.take(o, more), nil
}

// await takes from the budget, waiting for it if it must.
func (m *memory) await(ctx context.Context, cost int64) error {
	if m.acquire(cost) {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, m.wait)
	defer cancel()
	m.claims.Add(cost)
	m.waiting.Add(1)
	m.giveUp()
	err := m.budget.Acquire(wait, cost)
	m.waiting.Add(-1)
	if err == nil {
		return nil
	}
	m.claims.Add(-cost)
	if err := ended(ctx); err != nil {
		return err
	}
	return ErrOverload
}

// try is get without waiting; nil where there is no room.
func (m *memory) try(n int) *buffer {
	c := classOf(n)
	cost := m.cost(c)
	if !m.acquire(cost) {
		return nil
	}
	return m.take(c, cost)
}

// spare is try without giving up what is kept.
func (m *memory) spare(n int) *buffer {
	c := classOf(n)
	cost := m.cost(c)
	if !m.budget.TryAcquire(cost) {
		return nil
	}
	m.claims.Add(cost)
	return m.take(c, cost)
}

// acquire takes from the budget without waiting. Pieces are also given up where it
// took what others were about to wait for.
func (m *memory) acquire(cost int64) bool {
	over := m.claims.Add(cost) > m.total
	ok := m.budget.TryAcquire(cost)
	if over {
		m.giveUp()
	}
	if !ok {
		ok = m.budget.TryAcquire(cost)
	}
	if !ok {
		m.claims.Add(-cost)
	}
	return ok
}

func (m *memory) giveUp() {
	if m.yield != nil {
		m.yield(0)
	}
}

// cost is what a buffer counts for; a single one may be larger than the budget.
func (m *memory) cost(class int) int64 { return min(int64(classSize(class)), m.total) }

func (m *memory) take(class int, cost int64) *buffer {
	m.inUse.Add(cost)
	b, _ := m.pools[class].Get().(*buffer)
	if b == nil {
		b = &buffer{mem: make([]byte, classSize(class)), owner: m, class: class}
	}
	b.cost = cost
	b.refs.Store(1)
	return b
}

// retain adds n references.
func (b *buffer) retain(n int) { b.refs.Add(int32(n)) }

// release takes one reference away; nil is fine.
func (b *buffer) release() {
	if b == nil || b.refs.Add(-1) > 0 {
		return
	}
	m := b.owner
	if m.poison {
		b.mem[0] = 0xDB
		for n := 1; n < len(b.mem); n *= 2 {
			copy(b.mem[n:], b.mem[:n])
		}
	}
	cost := b.cost
	m.inUse.Add(-cost)
	m.claims.Add(-cost)
	m.pools[b.class].Put(b)
	m.budget.Release(cost)
}
