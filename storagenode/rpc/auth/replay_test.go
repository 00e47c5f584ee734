package auth

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestWindow compares the window with a memory that forgets nothing.
func TestWindow(t *testing.T) {
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, seed))
	w := &window{high: 1000}
	seen := map[uint64]bool{}
	high := uint64(1000)
	for i := range 300_000 {
		c := high + rng.Uint64N(8)
		switch rng.IntN(20) {
		case 0:
			c = high - min(high, rng.Uint64N(2*windowBits))
		case 1:
			c = high - min(high, rng.Uint64N(100))
		case 2:
			if rng.IntN(500) == 0 {
				c = high + rng.Uint64N(3*windowBits)
			}
		}
		want := !seen[c] && (c > high || high-c < windowBits)
		if got := w.admit(c); got != want {
			t.Fatalf("step %d: counter %d with %d the highest: %v, want %v", i, c, high, got, want)
		}
		seen[c] = seen[c] || want
		high = max(high, c)
	}
}

// TestSendersAreNotForgottenTooEarly fills the memory: new senders are refused
// until what the old ones sent has become void by its time.
func TestSendersAreNotForgottenTooEarly(t *testing.T) {
	r := replays{senders: map[life]*window{}}
	now := time.Now()
	for i := range maxSenders {
		if text := r.admit(life{byte(i), byte(i >> 8)}, 1, now); text != admitted {
			t.Fatal(text)
		}
	}
	fresh := life{15: 1}
	for _, later := range []time.Duration{0, MaxSkew, 2 * MaxSkew} {
		if text := r.admit(fresh, 1, now.Add(later)); text != refusedFull {
			t.Fatalf("after %s: %q", later, text)
		}
		if text := r.admit(life{1}, 1, now.Add(later)); text != refusedReplay {
			t.Fatalf("after %s a replay is not refused: %q", later, text)
		}
	}
	if text := r.admit(fresh, 1, now.Add(2*MaxSkew+time.Second)); text != admitted || len(r.senders) != 1 {
		t.Fatalf("%q, %d senders", text, len(r.senders))
	}
}
