package repair

import (
	"slices"
	"sort"
	"sync"
	"time"

	"kintsugi/storagenode/clock"
)

// Kinds lists the passes that Start knows.
func Kinds() []Kind { return slices.Clone(kinds[:]) }

// Task is one piece of work under way.
type Task struct {
	Kind       Kind      `json:"kind"`
	What       string    `json:"what"`
	Started    time.Time `json:"started"`
	BytesDone  int64     `json:"bytesDone"`
	BytesTotal int64     `json:"bytesTotal"` // 0: not known
	Rate       float64   `json:"bytesPerSecond"`
	ETASeconds float64   `json:"etaSeconds"` // 0: not known
}

// progress lists what is under way.
type progress struct {
	clock clock.Clock
	mu    sync.Mutex
	seq   int
	tasks map[int]*Task  // guarded by mu
	done  map[Kind]int64 // bytes since the start, of tasks that ended too; guarded by mu
}

func newProgress(c clock.Clock) *progress {
	return &progress{clock: c, tasks: map[int]*Task{}, done: map[Kind]int64{}}
}

// bytes is how much all tasks of a kind did since the start.
func (p *progress) bytes(k Kind) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done[k]
}

// running is a task's handle.
type running struct {
	p  *progress
	id int
}

func (p *progress) begin(k Kind, what string, total int64) running {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	p.tasks[p.seq] = &Task{Kind: k, What: what, Started: p.clock.Now(), BytesTotal: total}
	return running{p, p.seq}
}

func (r running) add(n int64) {
	r.p.mu.Lock()
	t := r.p.tasks[r.id]
	t.BytesDone += n
	r.p.done[t.Kind] += n
	r.p.mu.Unlock()
}

func (r running) end() {
	r.p.mu.Lock()
	delete(r.p.tasks, r.id)
	r.p.mu.Unlock()
}

// list gives the tasks under way, oldest first.
func (p *progress) list() []Task {
	now := p.clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := make([]int, 0, len(p.tasks))
	for id := range p.tasks {
		ids = append(ids, id)
	}
	sort.Ints(ids)
	out := make([]Task, 0, len(ids))
	for _, id := range ids {
		t := *p.tasks[id]
		t.Rate, t.ETASeconds = speed(t.BytesDone, t.BytesTotal, now.Sub(t.Started))
		out = append(out, t)
	}
	return out
}

// speed gives bytes per second and the seconds left, 0 where not known.
func speed(done, total int64, took time.Duration) (rate, eta float64) {
	if took <= 0 || done <= 0 {
		return 0, 0
	}
	rate = float64(done) / took.Seconds()
	return rate, max(0, float64(total-done)/rate)
}
