package auth

import (
	"sync"
	"time"
)

const (
	// windowBits is how far behind its sender's newest request one may come.
	windowBits = 32 << 10
	// maxSenders bounds the senders that are remembered, 4 KiB each.
	maxSenders = 4096
)

// replays remembers which requests were seen.
type replays struct {
	mu      sync.Mutex
	senders map[life]*window
}

// window is what is known of one sender's counters.
type window struct {
	heard time.Time
	high  uint64 // the greatest counter seen
	seen  [windowBits / 64]uint64
}

// The verdicts of admit; "" lets a request in.
const (
	admitted      = ""
	refusedReplay = "this request was seen before, or is older than what is remembered"
	refusedFull   = "there are too many senders to remember"
)

// admit says whether a request is new, and remembers it.
func (r *replays) admit(sender life, counter uint64, now time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.senders[sender]
	if w == nil {
		if len(r.senders) >= maxSenders && !r.forget(now) {
			return refusedFull
		}
		w = &window{high: counter}
		r.senders[sender] = w
	}
	if !w.admit(counter) {
		return refusedReplay
	}
	w.heard = now
	return admitted
}

// forget drops the senders whose every request would be too old by its time:
// a request may be from up to MaxSkew in the future.
func (r *replays) forget(now time.Time) bool {
	before := len(r.senders)
	for s, w := range r.senders {
		if now.Sub(w.heard) > 2*MaxSkew {
			delete(r.senders, s)
		}
	}
	return len(r.senders) < before
}

func (w *window) admit(counter uint64) bool {
	switch {
	case counter > w.high && counter-w.high >= windowBits:
		w.seen = [windowBits / 64]uint64{}
		w.high = counter
	case counter > w.high:
		for c := w.high + 1; c <= counter; c++ {
			w.seen[c/64%uint64(len(w.seen))] &^= 1 << (c % 64)
		}
		w.high = counter
	case w.high-counter >= windowBits:
		return false
	}
	bit := uint64(1) << (counter % 64)
	word := &w.seen[counter/64%uint64(len(w.seen))]
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}
