package journal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"

	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
)

// Store is the engine. It implements kv.Store.
type Store struct {
	cfg     Config
	window  *window
	applied atomic.Uint64 // the newest commit that is readable
	started atomic.Uint64 // the newest commit given out
	state   atomic.Pointer[state]
	status  atomic.Pointer[Status]
	tickets sync.Pool     // of chan error with room for one
	kick    chan struct{} // has something to do for the committer

	mu       sync.Mutex // guards the following
	pending  []waiting
	controls []func(*committer) // run by the committer between groups
	ready    chan struct{}      // closed when state is set; made anew when it is lost
	closed   bool
	down     error // why nothing can be committed; nil: it can

	round   atomic.Pointer[chan struct{}] // closed when the group under way is applied
	stopped chan struct{}                 // closed when the committer has ended
}

// waiting is a transaction to be committed; the outcome goes to ch.
type waiting struct {
	t  *txn
	ch chan error
}

var errClosed = fmt.Errorf("%w: the journal is closed", kv.ErrUnavailable)

// Open opens the namespace on the drives of cfg. Where too few of them can be
// read for that to be safe, the error wraps kv.ErrUnavailable and names them.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.FS == nil || cfg.Cluster.IsZero() || len(cfg.Drives) == 0 || cfg.Tolerance < 0 {
		return nil, errors.New("journal: FS, Cluster and Drives are required")
	}
	cfg = cfg.withDefaults()
	s := &Store{
		cfg: cfg, window: newWindow(0), kick: make(chan struct{}, 1),
		ready: make(chan struct{}), stopped: make(chan struct{}),
	}
	s.tickets.New = func() any { return make(chan error, 1) }
	c := newCommitter(s)
	if err := c.recover(ctx.Done(), cfg.Format); err != nil {
		c.shutdown()
		return nil, err
	}
	go c.run()
	return s, nil
}

// Close ends the engine: commits not begun fail with kv.ErrUnavailable.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wake()
	<-s.stopped
	return nil
}

// Status describes the engine now.
func (s *Store) Status() Status { return *s.status.Load() }

// SetUsable says whether the journal may use a drive. One declared usable
// again, for which it is called once more, may join at once.
func (s *Store) SetUsable(id storagenode.DriveID, usable bool) {
	s.control(func(c *committer) { c.setUsable(id, usable) })
}

// Replace says in which directory a drive is now. One that was formatted anew takes
// the place of the drive that was there; where there was none, it is added. One that
// was elsewhere has moved, and what was there before is used no more until it is said
// where it is.
func (s *Store) Replace(m Member) {
	s.control(func(c *committer) { c.replace(m) })
}

// control hands the committer something to do between groups.
func (s *Store) control(f func(*committer)) {
	s.mu.Lock()
	s.controls = append(s.controls, f)
	s.mu.Unlock()
	s.wake()
}

func (s *Store) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *Store) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// enqueue hands a transaction to the committer.
func (s *Store) enqueue(t *txn) (chan error, error) {
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return nil, errClosed
	case s.down != nil:
		defer s.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", kv.ErrUnavailable, s.down)
	case len(s.pending) >= s.cfg.MaxPending:
		s.mu.Unlock()
		return nil, fmt.Errorf("%w: too many commits wait", kv.ErrUnavailable)
	}
	ch := s.tickets.Get().(chan error)
	s.pending = append(s.pending, waiting{t, ch})
	first := len(s.pending) == 1
	s.mu.Unlock()
	if first {
		s.wake()
	}
	return ch, nil
}

// setState publishes a state, or that there is none.
func (s *Store) setState(st *state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	had := s.state.Swap(st) != nil
	switch {
	case st != nil && !had:
		close(s.ready)
	case st == nil && had:
		s.ready = make(chan struct{})
	}
}

// acquire gives the state to read from, to be released; it waits while there
// is none.
func (s *Store) acquire(ctx context.Context) (*state, error) {
	for range 1000 {
		if st := s.state.Load(); st != nil && st.acquire() {
			if st.readable() {
				return st, nil
			}
			st.release()
			s.wake()
		}
		s.mu.Lock()
		ready, closed, down := s.ready, s.closed, s.down
		s.mu.Unlock()
		if closed {
			return nil, errClosed
		}
		if st := s.state.Load(); st != nil {
			// Failed, and the committer has not seen it yet.
			if err := s.cfg.Clock.Sleep(ctx, s.cfg.Wait/1000); err != nil {
				return nil, err
			}
			continue
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.stopped:
			return nil, errClosed
		case <-s.cfg.Clock.After(s.cfg.Wait):
			if down == nil {
				down = errors.New("the state is being rebuilt")
			}
			return nil, fmt.Errorf("%w: %w", kv.ErrUnavailable, down)
		}
	}
	return nil, fmt.Errorf("%w: the state cannot be read", kv.ErrUnavailable)
}

// Get implements kv.Reader.
func (s *Store) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(key) == 0 {
		return nil, nil
	}
	hash := keyHash(key)
	for range 3 {
		hot, turn := s.state.Load(), uint64(0)
		if hot != nil && hot.readable() {
			v, t, ok := hot.values.get(hash, key)
			if ok {
				return v, nil
			}
			turn = t
		}
		st, err := s.acquire(ctx)
		if err != nil {
			return nil, err
		}
		v, err := st.read(st.db, key)
		st.release()
		if err == nil {
			if st == hot {
				st.values.offer(hash, key, v, turn)
			}
			return v, nil
		}
		st.fail(fmt.Errorf("read of the state: %w", err))
	}
	return nil, fmt.Errorf("%w: the state cannot be read", kv.ErrUnavailable)
}

// Scan implements kv.Reader. Where the state is lost after the first pair it
// ends with kv.ErrUnavailable.
func (s *Store) Scan(ctx context.Context, from, to []byte) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) {
		err := ctx.Err()
		begun := false
		for attempt := 0; err == nil; attempt++ {
			var st *state
			if st, err = s.acquire(ctx); err != nil {
				break
			}
			more, serr := scan(ctx, st.db, from, to, func(p kv.Pair, err error) bool {
				begun = true
				return yield(p, err)
			})
			if serr != nil {
				st.fail(fmt.Errorf("scan of the state: %w", serr))
			}
			st.release()
			if serr == nil || !more {
				return
			}
			if begun || attempt == 2 {
				err = fmt.Errorf("%w: %w", kv.ErrUnavailable, serr)
			}
		}
		yield(kv.Pair{}, err)
	}
}

// settled waits while a group that writes the key is under way: to read what
// it overwrites would only make for a conflict.
func (s *Store) settled(ctx context.Context, hash uint64) error {
	if s.started.Load() == s.applied.Load() {
		return nil
	}
	round := s.round.Load()
	s.window.mu.RLock()
	last := s.window.last(hash)
	s.window.mu.RUnlock()
	if round == nil || last <= s.applied.Load() {
		return nil
	}
	select {
	case <-*round:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Snapshot implements kv.Store.
func (s *Store) Snapshot(ctx context.Context) (kv.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for range 3 {
		st, err := s.acquire(ctx)
		if err != nil {
			return nil, err
		}
		snap, err := st.snapshot()
		if err == nil {
			return &view{st: st, snap: snap}, nil
		}
		st.release()
	}
	return nil, fmt.Errorf("%w: the state cannot be read", kv.ErrUnavailable)
}

// Begin implements kv.Store.
func (s *Store) Begin(ctx context.Context) (kv.Txn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.isClosed() {
		return nil, errClosed
	}
	t := &txn{s: s}
	t.reads, t.hashes = t.readRoom[:0], t.hashRoom[:0]
	return t, nil
}
