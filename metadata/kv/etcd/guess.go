package etcd

import "sync"

// maxSeen bounds the keys that are remembered; beyond it all are forgotten.
const maxSeen = 1024

// sights are keys that transactions guess, as they were read last; those without
// a read are remembered once they are.
type sights struct {
	mu   sync.Mutex
	seen map[string]*read // guarded by mu
}

// Guess implements kv.Guesser.
func (t *txn) Guess(known, absent [][]byte) bool {
	ahead := make([]read, 0, len(known)+len(absent))
	whole := true
	m := &t.s.sights
	m.mu.Lock()
	for _, k := range known {
		full := t.s.key(k)
		if r := m.seen[string(full)]; r != nil {
			ahead = append(ahead, *r)
			continue
		}
		if m.seen == nil || len(m.seen) >= maxSeen {
			m.seen = map[string]*read{}
		}
		m.seen[string(full)] = nil
		whole = false
	}
	m.mu.Unlock()
	if !whole {
		return false
	}
	for _, k := range absent {
		ahead = append(ahead, read{key: t.s.key(k)})
	}
	t.ahead = append(t.ahead, ahead...)
	return true
}

// note remembers what was read of keys that are guessed.
func (m *sights) note(found []read) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.seen) == 0 {
		return
	}
	for i := range found {
		if _, ok := m.seen[string(found[i].key)]; ok {
			m.seen[string(found[i].key)] = &read{found[i].key, found[i].value, found[i].mod}
		}
	}
}
