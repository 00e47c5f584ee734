package journal

import (
	"bytes"
	"math/bits"
	"sync"
	"sync/atomic"
)

// The bounds of values. What is read once only never gets in.
const (
	valueShards   = 64
	valueMax      = 4 << 10   // longer values are not held
	valueRoom     = 128 << 10 // bytes a shard holds, overhead included
	valueOverhead = 160       // bytes of an entry beside key and value
	valueDoors    = 128
)

// values holds hot keys of one state with their values, nil where there is
// none, and is exact: what get answers is what the state would. To that end
// the committer announces the keys of a group before the group is applied, and
// says when it is. Between, those keys are not answered, and nothing is taken
// into their shards; nor is what was read before the announcement, afterwards.
type values struct {
	shards [valueShards]valueShard
	// The committer's, for the group under way: the shards announced, and the
	// entries it changes.
	announced uint64
	touched   []*valueEntry
}

type valueShard struct {
	mu sync.RWMutex // guards the following
	// turn is odd while a group with keys of the shard is under way, and
	// another one after every group.
	turn    uint64
	entries map[uint64]*valueEntry // by the key's hash
	ring    []*valueEntry          // the same, for the clock that evicts
	hand    int
	size    int

	// doors hold parts of hashes that were asked for lately: a key gets in
	// when it is asked for again.
	doors [valueDoors]atomic.Uint32
}

// valueEntry is guarded by its shard's mu, but for used. key never changes.
type valueEntry struct {
	hash  uint64
	key   []byte
	value []byte
	long  bool // the value is too long and not here
	busy  bool // long, or the group under way changes it
	used  atomic.Bool
}

func (v *values) shard(hash uint64) *valueShard { return &v.shards[hash%valueShards] }

func (e *valueEntry) size() int { return len(e.key) + len(e.value) + valueOverhead }

// get answers from memory, or gives the turn to hand to offer with what was
// then read from the state.
func (v *values) get(hash uint64, key []byte) (value []byte, turn uint64, ok bool) {
	s := v.shard(hash)
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.entries[hash]
	if e == nil || e.busy || !bytes.Equal(e.key, key) {
		return nil, s.turn, false
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	return e.value, s.turn, true
}

// offer takes in what was read from the state after the get that gave turn,
// where it is worth it and may not be outdated. The value must not change.
func (v *values) offer(hash uint64, key, value []byte, turn uint64) {
	s := v.shard(hash)
	door, tag := &s.doors[hash>>8%valueDoors], uint32(hash>>32)
	if turn&1 != 0 || len(value) > valueMax {
		return
	}
	if door.Load() != tag {
		door.Store(tag)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turn != turn || s.entries[hash] != nil {
		return
	}
	if s.entries == nil {
		s.entries = make(map[uint64]*valueEntry)
	}
	e := &valueEntry{hash: hash, key: bytes.Clone(key), value: value}
	e.used.Store(true) // or it would be the next to go, where all others are
	s.entries[hash] = e
	s.ring = append(s.ring, e)
	s.size += e.size()
	s.evict()
}

// evict makes room; the shard's mu is held, and no group is under way in it.
func (s *valueShard) evict() {
	for s.size > valueRoom && len(s.ring) > 0 {
		s.hand %= len(s.ring)
		e := s.ring[s.hand]
		if e.used.Swap(false) {
			s.hand++
			continue
		}
		last := len(s.ring) - 1
		s.ring[s.hand], s.ring[last] = s.ring[last], nil
		s.ring = s.ring[:last]
		delete(s.entries, e.hash)
		s.size -= e.size()
	}
}

// announce comes before a group that writes the keys is applied, once for each
// of its transactions. The committer's.
func (v *values) announce(hashes []uint64) {
	for _, h := range hashes {
		s := v.shard(h)
		s.mu.Lock()
		if bit := uint64(1) << (h % valueShards); v.announced&bit == 0 {
			v.announced |= bit
			s.turn++
		}
		if e := s.entries[h]; e != nil && (!e.busy || e.long) {
			e.busy = true
			v.touched = append(v.touched, e)
		}
		s.mu.Unlock()
	}
}

// applied comes after the announced group was, and before anybody is told. The
// committer's. A group that fails to be applied ends the state, and this with
// it.
func (v *values) applied(payload []byte) {
	if len(v.touched) > 0 {
		// An error would have been one of the batch already.
		_ = eachOp(payload, func(k, val []byte) error {
			v.set(keyHash(k), k, val)
			return nil
		})
	}
	// Only now, since a group may write a key more than once.
	for _, e := range v.touched {
		s := v.shard(e.hash)
		s.mu.Lock()
		e.busy = e.long
		s.mu.Unlock()
	}
	clear(v.touched)
	v.touched = v.touched[:0]
	for ; v.announced != 0; v.announced &= v.announced - 1 {
		s := &v.shards[bits.TrailingZeros64(v.announced)]
		s.mu.Lock()
		s.turn++
		s.evict()
		s.mu.Unlock()
	}
}

// set is a write to a key whose shard was announced. An entry whose value is
// too long to hold answers no more.
func (v *values) set(hash uint64, key, value []byte) {
	s := v.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[hash]
	if e == nil || !bytes.Equal(e.key, key) {
		return // of another key with the same hash: that one did not change
	}
	s.size -= e.size()
	if e.long = len(value) > valueMax; e.long {
		value = nil
	}
	e.value = bytes.Clone(value)
	s.size += e.size()
}

// forget drops everything, and holds nothing until the next forget: before and
// after groups are applied without being announced. The committer's.
func (v *values) forget() {
	for i := range v.shards {
		s := &v.shards[i]
		s.mu.Lock()
		s.turn++
		s.entries, s.ring, s.hand, s.size = nil, nil, 0, 0
		s.mu.Unlock()
	}
}
