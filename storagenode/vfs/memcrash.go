package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// entryChange is one change of names that happens as a whole or not at all:
// one entry, or the two of a rename.
type entryChange []entryEdit

type entryEdit struct {
	dir      *inode
	name     string
	old, new *inode // nil: no such entry
}

type entryKey struct {
	dir  *inode
	name string
}

func (e entryEdit) key() entryKey { return entryKey{e.dir, e.name} }

func (e entryEdit) set(n *inode) {
	if n == nil {
		delete(e.dir.entries, e.name)
	} else {
		e.dir.entries[e.name] = n
	}
}

// change applies a change of names; m.mu is held for writing.
func (m *Mem) change(c entryChange) {
	for _, e := range c {
		e.set(e.new)
		if e.new != nil {
			e.new.links++
		}
		if e.old != nil {
			e.old.links--
			m.reclaim(e.old)
		}
	}
	m.renames = append(m.renames, c)
}

// release drops one handle of an inode; m.mu is held for writing.
func (m *Mem) release(n *inode) {
	n.opens--
	m.reclaim(n)
}

// reclaim gives back the space of a file nobody can reach any more. The
// contents stay: a crash may bring the entry back.
func (m *Mem) reclaim(n *inode) {
	if n.links > 0 || n.opens > 0 || n.isDir() {
		return
	}
	n.mu.Lock()
	m.used.Add(-n.spaceUsed())
	for i := range n.pages {
		n.pages[i].alloc = 0
	}
	n.mu.Unlock()
}

// syncEntries makes the entries of d durable, and with them every earlier
// change of the same names, also those a rename touched elsewhere.
func (m *Mem) syncEntries(d *inode) {
	kept := len(m.renames)
	durable := map[entryKey]bool{}
	for i := len(m.renames) - 1; i >= 0; i-- {
		c, is := m.renames[i], false
		for _, e := range c {
			is = is || e.dir == d || durable[e.key()]
		}
		if !is {
			kept--
			m.renames[kept] = c
			continue
		}
		for _, e := range c {
			durable[e.key()] = true
		}
	}
	n := copy(m.renames, m.renames[kept:])
	clear(m.renames[n:])
	m.renames = m.renames[:n]
}

// Crash cuts the power and gives the file system as it is found afterwards:
//
//   - what was synced is there;
//   - of each file, every sector of 512 bytes shows some state it had since the
//     last Sync, each for itself, so that writes are lost, kept, torn and
//     reordered; the size, too, is one it had since then;
//   - each change of a directory since its last SyncDir happened or did not, a
//     rename as a whole; changes of one name in their order.
//
// The receiver is dead from then on: calls answer ErrCrashed, closing does
// nothing. The same state and the same rng give the same outcome. Crash must
// not be called twice.
func (m *Mem) Crash(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashed = true
	next := &Mem{lastIno: m.lastIno, locks: map[*inode]bool{}, pins: map[string]*inode{}}
	next.capacity.Store(m.capacity.Load())
	m.loseEntries(rng, survival(rng))
	c := crash{rng: rng, next: next, copies: map[*inode]*inode{}}
	next.root = c.copyOf(m.root)
	next.root.links = 1
	// Whoever holds on to the dead file system shall not hold its contents.
	m.root, m.renames = m.newInode(true), nil
	return next
}

// survival draws how likely an unsynced change is to have reached the medium:
// the extremes are as telling as the middle.
func survival(rng *rand.Rand) float64 {
	return []float64{0, 0.1, 0.5, 0.9, 1}[rng.IntN(5)]
}

// loseEntries undoes the changes of names that did not survive. One that
// touches the name of a lost one is lost as well.
func (m *Mem) loseEntries(rng *rand.Rand, p float64) {
	lost := make([]bool, len(m.renames))
	names := map[entryKey]bool{}
	for i, c := range m.renames {
		lost[i] = rng.Float64() >= p
		for _, e := range c {
			lost[i] = lost[i] || names[e.key()]
		}
		for _, e := range c {
			if lost[i] {
				names[e.key()] = true
			}
		}
	}
	for i := len(m.renames) - 1; i >= 0; i-- {
		for j := len(m.renames[i]) - 1; lost[i] && j >= 0; j-- {
			e := m.renames[i][j]
			e.set(e.old)
		}
	}
}

// crash copies what is reachable, with the contents a power cut leaves.
type crash struct {
	rng    *rand.Rand
	next   *Mem
	copies map[*inode]*inode
}

func (c *crash) copyOf(n *inode) *inode {
	if d, ok := c.copies[n]; ok {
		d.links++
		return d
	}
	d := &inode{ino: n.ino, links: 1}
	c.copies[n] = d
	if n.isDir() {
		d.entries = make(map[string]*inode, len(n.entries))
		for _, name := range sortedNames(n) {
			d.entries[name] = c.copyOf(n.entries[name])
		}
		return d
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	d.size, d.pages = n.size, n.pages // the old file system never looks again
	if len(n.pending) > 0 {
		d.tear(c.rng, n.pending)
	}
	n.pages, n.pending = nil, nil
	for i := range d.pages {
		pg := &d.pages[i]
		pg.alloc |= blockMask(0, int64(len(pg.data)))
	}
	c.next.used.Add(d.spaceUsed())
	return d
}

// tear goes back through the unsynced changes, newest first, and undoes them
// sector by sector until one is found to have reached the medium.
func (n *inode) tear(rng *rand.Rand, pending []contentChange) {
	// sizeAt counts the changes whose size survived; cut and cutSector say where
	// a device that writes in order stopped.
	p, sizeAt := survival(rng), len(pending)
	inOrder := rng.IntN(4) == 0
	cut, cutSector := len(pending), int64(0)
	if inOrder {
		cut = rng.IntN(len(pending) + 1)
		sizeAt = cut
		if cut < len(pending) {
			c := pending[cut]
			cutSector = c.off/sectorSize + rng.Int64N(c.n/sectorSize+2)
		}
	} else if rng.Float64() >= p {
		sizeAt = rng.IntN(len(pending) + 1)
	}
	full := n.size
	for i := range pending {
		full = max(full, pending[i].oldSize, pending[i].newSize)
	}
	settled := make([]bool, full/sectorSize+1) // sectors whose state is decided
	for i := len(pending) - 1; i >= 0; i-- {
		c := &pending[i]
		for at := c.off; at < c.off+c.n; {
			sector := at / sectorSize
			end := min(c.off+c.n, (sector+1)*sectorSize)
			var keep bool
			switch {
			case c.truncation:
				keep = i < sizeAt
			case inOrder:
				keep = i < cut || i == cut && sector < cutSector
			default:
				keep = p == 1 || p > 0 && rng.Float64() < p
			}
			if !settled[sector] {
				if keep {
					settled[sector] = true
				} else {
					n.undo(c, at, end)
				}
			}
			at = end
		}
	}
	if sizeAt < len(pending) {
		n.size = pending[sizeAt].oldSize
	}
	if n.size < full {
		n.zero(n.size, full-n.size)
	}
	n.growPages(n.size)
}

// undo restores the bytes [from, to) a change overwrote.
func (n *inode) undo(c *contentChange, from, to int64) {
	known := min(to, c.off+int64(len(c.old)))
	if from < known {
		n.put(c.old[from-c.off:known-c.off], from)
	} else {
		known = from
	}
	n.zero(known, to-known)
}

func sortedNames(d *inode) []string { return slices.Sorted(maps.Keys(d.entries)) }
