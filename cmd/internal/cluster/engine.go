package cluster

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
)

// engine is the metadata of a cluster of many: one kv/memory for all, and a
// line to it for each life of a process. A line can be down, hang, and lose
// what passes, in every way that the contract of package kv allows: a commit
// whose outcome is unknown was made, was not, or is made later, unless a
// transaction that writes one of its keys comes before it.
type engine struct {
	store *memory.Store
	// committed is told of every commit, in their order; set before any.
	committed func(by string, writes []write)

	mu    sync.Mutex // one commit at a time
	late  []*txn     // commits that are still to be made; guarded by mu
	moved chan struct{}
}

// write is one change of a commit.
type write struct {
	key    []byte
	delete bool
}

func newEngine() *engine { return &engine{store: memory.New(), moved: make(chan struct{})} }

// lineMode is what a line does.
type lineMode int32

const (
	linePasses lineMode = iota
	lineDown            // nothing is reached, and that is known at once
	lineHangs           // nothing is heard; who asks gives up after a while
	lineFrozen          // the process stands still
	lineFlaky           // some commits have an unknown outcome
)

// line is the engine as one life of a process reaches it: a kv.Store.
type line struct {
	e    *engine
	who  string
	mode atomic.Int32
	dead atomic.Bool

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
}

func (e *engine) line(who string, seed uint64) *line {
	return &line{e: e, who: who, rng: rand.New(rand.NewPCG(seed, 9))}
}

func (l *line) set(m lineMode) { l.mode.Store(int32(m)); l.e.wake() }

// die ends the process: what it asks from now on is never asked.
func (l *line) die() { l.dead.Store(true); l.e.wake() }

func (e *engine) wake() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.moved)
	e.moved = make(chan struct{})
}

func (e *engine) whenMoved() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.moved
}

var errLineDown = fmt.Errorf("no line: %w", kv.ErrUnavailable)

// travel takes the time that a request needs.
func (l *line) travel() {
	l.mu.Lock()
	d := time.Duration(l.rng.Int64N(int64(latency)))
	l.mu.Unlock()
	time.Sleep(d)
}

func (l *line) chance(percent int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rng.IntN(100) < percent
}

// pass waits until the line lets a request through.
func (l *line) pass(ctx context.Context) error {
	var patience <-chan time.Time
	for {
		moved := l.e.whenMoved()
		mode := lineMode(l.mode.Load())
		if l.dead.Load() || mode == lineDown {
			return errLineDown
		}
		done := ctx.Done()
		switch mode {
		case lineHangs:
			if patience == nil {
				t := time.NewTimer(linePatience)
				defer t.Stop()
				patience = t.C
			}
		case lineFrozen:
			done = nil // its timers stand still too
		default:
			return ctx.Err()
		}
		select {
		case <-moved:
		case <-patience:
			return errLineDown
		case <-done:
			return ctx.Err()
		}
	}
}

// read is pass for what only reads.
func (l *line) read(ctx context.Context) error {
	l.travel()
	if mode := lineMode(l.mode.Load()); mode == linePasses && !l.dead.Load() {
		return nil
	} else if mode == lineFlaky && l.chance(2) {
		return errLineDown
	}
	return l.pass(ctx)
}

// Get implements kv.Reader.
func (l *line) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := l.read(ctx); err != nil {
		return nil, err
	}
	return l.e.store.Get(ctx, key)
}

// Scan implements kv.Reader.
func (l *line) Scan(ctx context.Context, from, to []byte) iter.Seq2[kv.Pair, error] {
	if err := l.read(ctx); err != nil {
		return func(yield func(kv.Pair, error) bool) { yield(kv.Pair{}, err) }
	}
	return l.e.store.Scan(ctx, from, to)
}

// Snapshot implements kv.Store.
func (l *line) Snapshot(ctx context.Context) (kv.Snapshot, error) {
	if err := l.read(ctx); err != nil {
		return nil, err
	}
	return l.e.store.Snapshot(ctx)
}

// Begin implements kv.Store.
func (l *line) Begin(ctx context.Context) (kv.Txn, error) {
	if err := l.read(ctx); err != nil {
		return nil, err
	}
	inner, err := l.e.store.Begin(ctx)
	return &txn{Txn: inner, line: l}, err
}

// Close implements kv.Store; the engine is everybody's.
func (l *line) Close() error { return nil }

// txn is a transaction over a line.
type txn struct {
	kv.Txn
	line   *line
	writes []write
}

// Get implements kv.Txn.
func (t *txn) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := t.line.read(ctx); err != nil {
		return nil, err
	}
	return t.Txn.Get(ctx, key)
}

// Guess implements kv.Guesser.
func (t *txn) Guess(known, absent [][]byte) bool { return kv.Guess(t.Txn, known, absent) }

// Put implements kv.Txn.
func (t *txn) Put(key, value []byte) {
	t.writes = append(t.writes, write{key: slices.Clone(key)})
	t.Txn.Put(key, value)
}

// Delete implements kv.Txn.
func (t *txn) Delete(key []byte) {
	t.writes = append(t.writes, write{key: slices.Clone(key), delete: true})
	t.Txn.Delete(key)
}

var errLostAnswer = fmt.Errorf("no answer: %w", kv.ErrUnknown)

// Commit implements kv.Txn. A line that is not sound may fail before the
// commit is made or after it, and the process cannot tell.
func (t *txn) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.line.travel()
	defer t.line.travel()
	mode := lineMode(t.line.mode.Load())
	switch {
	case mode == lineFlaky && t.line.chance(3):
		return errLineDown
	case mode == lineFlaky && t.line.chance(6):
		return errLostAnswer
	case mode == lineFlaky && t.line.chance(6):
		t.later()
		return errLostAnswer
	case mode == lineFlaky && t.line.chance(6):
		_ = t.apply()
		return errLostAnswer
	case (mode == lineHangs || mode == lineFrozen) && t.line.chance(50) && !t.line.dead.Load():
		err := t.apply()
		if t.line.pass(ctx) != nil {
			return errLostAnswer
		}
		return err
	}
	if err := t.line.pass(ctx); err != nil {
		if mode == lineHangs && !t.line.dead.Load() {
			if t.line.chance(50) {
				t.later()
			}
			return errLostAnswer
		}
		return err
	}
	return t.apply()
}

// apply makes the commit.
func (t *txn) apply() error {
	e := t.line.e
	e.mu.Lock()
	defer e.mu.Unlock()
	return t.commit()
}

// commit is apply for who holds the engine's mu.
func (t *txn) commit() error {
	err := t.Txn.Commit(context.Background())
	if err == nil && len(t.writes) > 0 {
		e := t.line.e
		e.late = slices.DeleteFunc(e.late, t.overlaps)
		e.committed(t.line.who, t.writes)
	}
	return err
}

// overlaps says that two transactions write one of the same keys.
func (t *txn) overlaps(o *txn) bool {
	for _, a := range t.writes {
		if slices.ContainsFunc(o.writes, func(b write) bool { return slices.Equal(a.key, b.key) }) {
			return true
		}
	}
	return false
}

// later has the commit made some time from now, if nothing comes before it.
func (t *txn) later() {
	e := t.line.e
	e.mu.Lock()
	e.late = append(e.late, t)
	e.mu.Unlock()
	t.line.mu.Lock()
	wait := time.Duration(t.line.rng.IntN(200)) * time.Millisecond
	t.line.mu.Unlock()
	time.AfterFunc(wait, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if i := slices.Index(e.late, t); i >= 0 {
			e.late = slices.Delete(e.late, i, i+1)
			_ = t.commit() // what it read may have changed: then it is never made
		}
	})
}
