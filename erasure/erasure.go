// Package erasure holds the mathematics of redundancy: Scheme says how many
// shards a stripe has and how many may be lost, Coder computes them. It is
// pure: no I/O, no goroutines, no clock.
package erasure

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"kintsugi/storagenode"
)

// Scheme is k+m: any M of the K+M shards may be lost.
type Scheme struct{ K, M uint8 }

// N is the number of shards, k+m.
func (s Scheme) N() int { return int(s.K) + int(s.M) }

// String gives the form "4+2".
func (s Scheme) String() string { return fmt.Sprintf("%d+%d", s.K, s.M) }

// MarshalText implements encoding.TextMarshaler.
func (s Scheme) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ParseScheme reads the form "k+m" with 1 ≤ k, 0 ≤ m and k+m ≤
// storagenode.MaxSlots.
func ParseScheme(text string) (Scheme, error) {
	ks, ms, ok := strings.Cut(text, "+")
	k, errK := strconv.ParseUint(ks, 10, 8)
	m, errM := strconv.ParseUint(ms, 10, 8)
	if !ok || errK != nil || errM != nil || k < 1 || k+m > storagenode.MaxSlots {
		return Scheme{}, fmt.Errorf("scheme %q: want k+m such as 4+2, with k at least 1 and k+m at most %d", text, storagenode.MaxSlots)
	}
	return Scheme{K: uint8(k), M: uint8(m)}, nil
}

// DefaultScheme is the scheme for a number of failure domains.
func DefaultScheme(domains int) Scheme {
	switch {
	case domains <= 1:
		return Scheme{1, 0}
	case domains == 2:
		return Scheme{1, 1}
	case domains == 3:
		return Scheme{2, 1}
	case domains == 4:
		return Scheme{2, 2}
	case domains == 5:
		return Scheme{3, 2}
	case domains <= 7:
		return Scheme{4, 2}
	case domains <= 11:
		return Scheme{5, 3}
	default:
		return Scheme{8, 4}
	}
}

// Sizes of the layout.
const (
	// StripeSize is the number of data bytes encoded as one unit.
	StripeSize = 4 << 20
	// ReplicateMax is the size up to which a blob is replicated on m+1 slots
	// instead of being encoded.
	ReplicateMax = 64 << 10
	// BlobMax is the largest blob.
	BlobMax = 1 << 30
)

// ShardSize is the payload of each shard of a stripe of n data bytes: the
// smallest multiple of 64 with k·size ≥ n. Contiguous fill: shard i < k holds
// bytes [i·size, (i+1)·size) of the stripe, zero-padded at the end.
func (s Scheme) ShardSize(n int) int {
	return ((n+int(s.K)-1)/int(s.K) + 63) &^ 63
}

// MinShards is the fewest shards a commit may rest on for an encoded blob:
// k+1, or k where m is at most 1.
func (s Scheme) MinShards() int {
	if s.M <= 1 {
		return int(s.K)
	}
	return int(s.K) + 1
}

// MinReplicas is the fewest copies a commit of a replicated blob may rest on.
func (s Scheme) MinReplicas() int { return min(2, int(s.M)+1) }

// Mode says how a blob is laid out over the slots of its PG.
type Mode uint8

const (
	// Encoded: every slot holds shard number slot of each stripe.
	Encoded Mode = iota
	// Replicated: each slot in the mask holds a whole copy (one stripe).
	Replicated
)

// SlotMask is a set of slot numbers.
type SlotMask uint32

// Has says whether slot i is in the set.
func (m SlotMask) Has(i int) bool { return m>>i&1 == 1 }

// With adds slot i.
func (m SlotMask) With(i int) SlotMask { return m | 1<<i }

// Without removes slot i.
func (m SlotMask) Without(i int) SlotMask { return m &^ (1 << i) }

// Count is the number of slots in the set.
func (m SlotMask) Count() int { return bits.OnesCount32(uint32(m)) }

// First is the lowest slot of the set; 32 where it is empty.
func (m SlotMask) First() int { return bits.TrailingZeros32(uint32(m)) }

// AllSlots is the set of the first n slots.
func AllSlots(n int) SlotMask { return SlotMask(uint64(1)<<n - 1) }

// Blob says what the slots of a PG should hold of one blob.
type Blob struct {
	ID   storagenode.BlobID
	Size int64
	Mode Mode
	// Slots that should hold a shard: all of them when encoded, the copies'
	// when replicated. Missing is the part of Slots known not to.
	Slots, Missing SlotMask
}

// Group is a PG as the data path needs it: where each slot is.
type Group struct {
	PG     storagenode.PG
	Scheme Scheme
	Slots  []storagenode.Slot // len == Scheme.N()
}
