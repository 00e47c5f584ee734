package repair

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// Role is what the repairers of a cluster compete for.
const Role = "repair"

// errLapsed: the lease could not be renewed in time.
var errLapsed = fmt.Errorf("lease was not renewed in time: %w", metadata.ErrStaleTerm)

// tenure is this process's time as the leader, under one term.
type tenure struct {
	term  metadata.Term
	ended chan struct{} // closed when it is over
}

// leadership competes for the lease of the repairers and keeps it.
//
// No clock is compared with another. A holder counts from the moment before it
// sent a renewal and stops after Lease; whoever waits counts from the moment
// after it saw the record change, and takes over after Lease and a quarter
// more, which is for clocks that run at different speeds. What a former holder
// does beyond that – a process that was stopped in the middle of a step – is
// refused by the term, which every transaction asserts.
type leadership struct {
	cfg    *Config
	holder string // this life of the process

	trying sync.Mutex // one look at the lease at a time
	mu     sync.Mutex
	held   metadata.Lease // guarded by mu, as all below
	until  time.Time      // by this process's clock; meaningless with Sole
	now    *tenure        // nil: it does not lead
	seen   metadata.Lease // the record as last read
	seenAt time.Time      // since when it is known to be the same
}

func newLeadership(cfg *Config) *leadership {
	return &leadership{cfg: cfg, holder: storagenode.NewUUID().String()}
}

// patience is for how long a record must stay the same before another takes
// over.
func (l *leadership) patience() time.Duration { return l.cfg.Lease + l.cfg.Lease/4 }

// beat is the time between renewals, and between looks of those who wait.
func (l *leadership) beat() time.Duration { return l.cfg.Lease / 5 }

// try looks at the lease and takes it where nobody holds it any more; nil where
// somebody does.
func (l *leadership) try(ctx context.Context) (*tenure, error) {
	l.trying.Lock()
	defer l.trying.Unlock()
	l.mu.Lock()
	t := l.now
	l.mu.Unlock()
	if t != nil {
		return t, nil
	}
	began := l.cfg.Clock.Now()
	lease, err := l.cfg.Leaders.Lease(ctx, Role)
	if err != nil {
		return nil, err
	}
	if since := l.look(lease); lease.Holder != "" && !l.cfg.Sole && began.Sub(since) < l.patience() {
		return nil, nil
	}
	began = l.cfg.Clock.Now()
	held, err := l.cfg.Leaders.Acquire(ctx, lease, l.holder, l.cfg.AdminAddress)
	if err != nil {
		if errors.Is(err, metadata.ErrNotLeader) {
			return nil, nil // another was faster
		}
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held, l.until = held, began.Add(l.cfg.Lease)
	l.seen, l.seenAt = held, l.cfg.Clock.Now()
	l.now = &tenure{term: metadata.Term{Role: Role, Number: held.Term}, ended: make(chan struct{})}
	l.cfg.Logger.Info("leads the repairers", "term", held.Term)
	return l.now, nil
}

// look takes note of the lease as it was just read, and gives since when it is
// known to be the same.
func (l *leadership) look(lease metadata.Lease) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seenAt.IsZero() || lease.Term != l.seen.Term || lease.Beat != l.seen.Beat {
		l.seen, l.seenAt = lease, l.cfg.Clock.Now()
	}
	return l.seenAt
}

// end ends a tenure, once.
func (l *leadership) end(t *tenure, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == t {
		l.now = nil
		close(t.ended)
		l.cfg.Logger.Warn("leads the repairers no longer", "term", t.term.Number, "err", why)
	}
}

// tend renews the lease until the tenure or ctx ends, and ends the tenure where
// that cannot be done in time.
func (l *leadership) tend(ctx context.Context, t *tenure) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.ended:
			return
		case <-l.cfg.Clock.After(l.beat()):
		}
		l.mu.Lock()
		held, until := l.held, l.until
		l.mu.Unlock()
		began := l.cfg.Clock.Now()
		result := make(chan error, 1)
		go func() { result <- l.renew(ctx, t, held, began) }()
		var err error
		select {
		case <-t.ended:
			return
		case err = <-result:
		case <-l.cfg.Clock.After(until.Sub(began)):
			err = errLapsed
		}
		if err != nil && ctx.Err() == nil {
			l.cfg.Logger.Warn("lease was not renewed", "err", err)
		}
		if errors.Is(err, metadata.ErrStaleTerm) || err != nil && !l.cfg.Clock.Now().Before(until) {
			l.end(t, err)
			return
		}
	}
}

// renew is one renewal; a result that comes when the tenure is over changes
// nothing.
func (l *leadership) renew(ctx context.Context, t *tenure, held metadata.Lease, began time.Time) error {
	next, err := l.cfg.Leaders.Renew(ctx, held)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.now == t {
		l.held, l.until = next, began.Add(l.cfg.Lease)
		l.seen, l.seenAt = next, l.cfg.Clock.Now()
	}
	return err
}

// enter binds ctx to the term that this process leads under: what is done with
// the result asserts it, and it ends with the term. Where ctx has a term
// already it stays that one. ErrNotLeader.
func (l *leadership) enter(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if _, ok := metadata.TermOf(ctx); ok {
		return ctx, func() {}, nil
	}
	t := l.tenure()
	if t == nil && l.cfg.Sole {
		var err error
		if t, err = l.try(ctx); err != nil {
			return nil, nil, err
		}
	}
	if t == nil {
		s := l.status()
		return nil, nil, fmt.Errorf("%w: %s at %q", metadata.ErrNotLeader, s.Holder, s.Address)
	}
	ctx, cancel := bind(ctx, t)
	return ctx, cancel, nil
}

// bind makes ctx act under a tenure's term and end with it. Call the function
// it returns.
func bind(ctx context.Context, t *tenure) (context.Context, context.CancelFunc) {
	bound, cancel := context.WithCancelCause(metadata.UnderTerm(ctx, t.term))
	done := make(chan struct{})
	go func() {
		select {
		case <-t.ended:
			cancel(metadata.ErrStaleTerm)
		case <-done:
		}
	}()
	return bound, sync.OnceFunc(func() { close(done); cancel(context.Canceled) })
}

// tenure gives the one under way, nil where there is none or its time is up.
func (l *leadership) tenure() *tenure {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == nil || !l.cfg.Sole && !l.cfg.Clock.Now().Before(l.until) {
		return nil
	}
	return l.now
}

// overtaken ends the tenure that ctx acts under: a transaction found its term
// stale.
func (l *leadership) overtaken(ctx context.Context, why error) {
	l.mu.Lock()
	t := l.now
	l.mu.Unlock()
	if term, ok := metadata.TermOf(ctx); ok && t != nil && t.term == term {
		l.end(t, why)
	}
}

// prove gives fresh proof, from metadata, that the term which ctx acts under is
// the newest: what destroys asks for it right before. Nil where ctx has none.
func (l *leadership) prove(ctx context.Context) error {
	term, ok := metadata.TermOf(ctx)
	if !ok {
		return nil
	}
	if t := l.tenure(); t == nil || t.term != term {
		return fmt.Errorf("term %d: %w", term.Number, metadata.ErrStaleTerm)
	}
	return l.cfg.Leaders.Prove(ctx)
}

// resign gives the lease back at the end of the process, so that the next need
// not wait. What was begun under it must have ended.
func (l *leadership) resign(ctx context.Context, t *tenure) {
	l.mu.Lock()
	held, leads := l.held, l.now == t
	if leads {
		l.now = nil
		close(t.ended)
	}
	l.mu.Unlock()
	if !leads || l.cfg.Sole {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Lease/2)
	defer cancel()
	if err := l.cfg.Leaders.Release(ctx, held); err != nil {
		l.cfg.Logger.Warn("lease is not given back: the next leader waits for it to lapse", "err", err)
	}
}

// LeaderStatus says who leads the repairers, as this one last saw it.
type LeaderStatus struct {
	Leads   bool      `json:"leads"` // this process does
	Term    uint64    `json:"term"`
	Holder  string    `json:"holder,omitempty"`
	Address string    `json:"address,omitempty"` // of its admin API
	Since   time.Time `json:"since,omitzero"`
}

func (l *leadership) status() LeaderStatus {
	leads := l.tenure() != nil
	l.mu.Lock()
	defer l.mu.Unlock()
	return LeaderStatus{Leads: leads, Term: l.seen.Term, Holder: l.seen.Holder, Address: l.seen.Address, Since: l.seen.Since}
}
