package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"kintsugi/storagenode"
)

// breaker decides from how calls end whether a node is worth asking. It opens
// after a number of failures in a row, and at once where nobody listens, or where
// a poll got no answer and nothing else did meanwhile; open, it lets no call
// through. Only a poll that was answered closes it again. What the caller gives
// up, and what the node itself answers, is no failure.
type breaker struct {
	strikes int           // failures in a row that open it
	answers atomic.Uint64 // so far

	mu    sync.Mutex
	fails int                      // in a row; guarded by mu
	why   atomic.Pointer[breakage] // nil: closed; written under mu
}

// breakage is why a breaker is open.
type breakage struct{ err error }

// allow says why a call need not be tried; nil: it may be.
func (b *breaker) allow() error {
	if w := b.why.Load(); w != nil {
		return w.err
	}
	return nil
}

// failed counts a failure, and says whether that opened the breaker.
func (b *breaker) failed(err error) bool { return b.fail(err, nobodyListens(err)) }

// unanswered is failed for a poll that got no answer; since are the answers there
// were when it began.
func (b *breaker) unanswered(err error, since uint64) bool {
	return b.fail(err, b.answers.Load() == since)
}

func (b *breaker) fail(err error, surely bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fails++
	if b.why.Load() != nil || b.fails < b.strikes && !surely {
		return false
	}
	if !errors.Is(err, storagenode.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", storagenode.ErrUnavailable, err)
	}
	b.why.Store(&breakage{fmt.Errorf("node does not answer: %w", err)})
	return true
}

// answered ends a row of failures. An open breaker stays open: the answer may
// be one to a call from before.
func (b *breaker) answered() {
	b.answers.Add(1)
	b.mu.Lock()
	b.fails = 0
	b.mu.Unlock()
}

// polled closes the breaker, and says whether it was open.
func (b *breaker) polled() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fails = 0
	return b.why.Swap(nil) != nil
}

// nobodyListens: the machine, or the network before it, says that there is no
// such process now.
func nobodyListens(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// underway are the calls to a node that have not ended.
type underway struct {
	mu    sync.Mutex
	calls map[*context.CancelFunc]struct{}
}

// began takes a call in; the function it returns takes it out again.
func (u *underway) began(giveUp context.CancelFunc) (ended func()) {
	key := &giveUp
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.calls == nil {
		u.calls = map[*context.CancelFunc]struct{}{}
	}
	u.calls[key] = struct{}{}
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.calls, key)
	}
}

// giveUp ends all of them.
func (u *underway) giveUp() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for f := range u.calls {
		(*f)()
	}
}
