package journal

import (
	"sync"

	"github.com/cespare/xxhash/v2"
)

// windowKeys bounds each of the window's two halves.
const windowKeys = 1 << 16

// window knows which keys were written lately, by which commit: what
// validation needs of the state, without reading it. Keys are held as hashes;
// two keys that share one cost a needless conflict at worst. Keys no longer
// known count as written at floor, so that a transaction that read them before
// it conflicts.
type window struct {
	mu        sync.RWMutex // writers: the committer alone
	new, old  map[uint64]uint64
	newest    uint64 // highest commit in new
	oldNewest uint64 // highest commit in old
	floor     uint64
}

func newWindow(floor uint64) *window {
	return &window{new: make(map[uint64]uint64), floor: floor}
}

func keyHash(key []byte) uint64 { return xxhash.Sum64(key) }

// last is the commit that may have written the key last. The caller holds mu
// or is the committer.
func (w *window) last(hash uint64) uint64 {
	if c, ok := w.new[hash]; ok {
		return c
	}
	if c, ok := w.old[hash]; ok {
		return c
	}
	return w.floor
}

// holds says whether nothing read was written since. The caller holds mu or is
// the committer.
func (w *window) holds(reads []readMark) bool {
	for i := range reads {
		if w.last(reads[i].hash) > reads[i].commit {
			return false
		}
	}
	return true
}

// check is holds for everybody else.
func (w *window) check(reads []readMark) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.holds(reads)
}

// wrote notes the keys of one transaction.
func (w *window) wrote(hashes []uint64, commit uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.new) >= windowKeys {
		w.floor = max(w.floor, w.oldNewest)
		w.old, w.oldNewest = w.new, w.newest
		w.new = make(map[uint64]uint64, windowKeys)
	}
	for _, h := range hashes {
		w.new[h] = commit
	}
	w.newest = commit
}

// reset forgets all: every transaction that read before floor conflicts.
func (w *window) reset(floor uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.new, w.old = make(map[uint64]uint64), nil
	w.newest, w.oldNewest, w.floor = 0, 0, floor
}
