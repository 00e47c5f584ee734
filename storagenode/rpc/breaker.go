package rpc

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"kintsugi/storagenode"
)

// breaker decides from how calls end whether a node is worth asking. It opens
// after a number of failures in a row, and at once where nobody listens; open,
// it lets no call through. Only a poll that was answered closes it again. What
// the caller gives up, and what the node itself answers, is no failure.
type breaker struct {
	strikes int // failures in a row that open it

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
func (b *breaker) failed(err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fails++
	if b.why.Load() != nil || b.fails < b.strikes && !nobodyListens(err) {
		return false
	}
	b.why.Store(&breakage{fmt.Errorf("node does not answer: %w: %w", storagenode.ErrUnavailable, err)})
	return true
}

// answered ends a row of failures. An open breaker stays open: the answer may
// be one to a call from before.
func (b *breaker) answered() {
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
