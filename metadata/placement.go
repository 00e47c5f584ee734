package metadata

import (
	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// Candidate is a drive that may take a slot.
type Candidate struct {
	Drive      storagenode.DriveID
	Zone, Node string
	// Load is how many slots it has already, in any unit.
	Load int
}

// Domains counts the failure domains of a cluster, also those that are away
// now: a cluster of three zones of which one is left is not one of one zone.
type Domains struct{ Zones, Nodes int }

// DomainsOf counts those of candidates. Drives without a zone are in one zone
// together.
func DomainsOf(cands []Candidate) Domains {
	zones, nodes := make(map[string]bool), make(map[string]bool)
	for i := range cands {
		zones[cands[i].Zone], nodes[cands[i].Node] = true, true
	}
	return Domains{Zones: len(zones), Nodes: len(nodes)}
}

// level is a failure domain of which none may get more than m slots of a group.
type level uint8

// From the widest to none. A node lies within a zone, so what holds of zones
// holds of nodes.
const (
	byZone level = iota
	byNode
	byDrive // a drive never gets two
)

// levels gives those to be tried in turn: first the widest there are several
// of, and after it ever narrower ones, which means to relax the spread.
func (d Domains) levels() []level {
	all := []level{byZone, byNode, byDrive}
	switch {
	case d.Zones > 1:
		return all
	case d.Nodes > 1:
		return all[1:]
	}
	return all[2:]
}

func (l level) of(c *Candidate) string {
	switch l {
	case byZone:
		return c.Zone
	case byNode:
		return c.Node
	}
	return ""
}

// tally is how many slots of one group are where.
type tally struct {
	zones, nodes map[string]int
	drives       map[storagenode.DriveID]bool
	apart        bool // no node gets two
}

func newTally() *tally {
	return &tally{zones: make(map[string]int), nodes: make(map[string]int), drives: make(map[storagenode.DriveID]bool)}
}

func (t *tally) add(c *Candidate) {
	t.zones[c.Zone]++
	t.nodes[c.Node]++
	t.drives[c.Drive] = true
}

// admits says whether c may take one more slot where no domain of the level
// gets more than most.
func (t *tally) admits(c *Candidate, l level, most int) bool {
	switch {
	case t.drives[c.Drive], t.apart && t.nodes[c.Node] > 0:
		return false
	case l == byZone:
		return t.zones[c.Zone] < most
	case l == byNode:
		return t.nodes[c.Node] < most
	}
	return true
}

// best gives the index of the candidate that is to take the next slot, -1 where
// none may: the one whose node has the fewest of the group, then its zone, then
// the one with the least load; of equals the first. Taken one after the other
// this is as even as can be: two slots are on one node only where nodes are too
// few, and zones differ only where nodes or the limit make them.
func (t *tally) best(cands []Candidate, l level, most int) int {
	best := -1
	for i := range cands {
		c := &cands[i]
		if !t.admits(c, l, most) {
			continue
		}
		if best < 0 || less(t.nodes[c.Node], t.zones[c.Zone], c.Load,
			t.nodes[cands[best].Node], t.zones[cands[best].Zone], cands[best].Load) {
			best = i
		}
	}
	return best
}

func less(a1, a2, a3, b1, b2, b3 int) bool {
	if a1 != b1 {
		return a1 < b1
	}
	if a2 != b2 {
		return a2 < b2
	}
	return a3 < b3
}

// widest chooses drives for the scheme as wanted or, where it cannot be done, with
// the largest smaller k; nil where not for 1+m. apart: no node gets two.
func widest(cands []Candidate, want erasure.Scheme, l level, apart bool) (erasure.Scheme, []storagenode.DriveID) {
	for k := want.K; k >= 1; k-- {
		s := erasure.Scheme{K: k, M: want.M}
		if s.N() > len(cands) {
			continue
		}
		if drives := spread(cands, s.N(), l, max(1, int(want.M)), apart); drives != nil {
			return s, drives
		}
	}
	return erasure.Scheme{}, nil
}

// spread chooses n drives, nil where it cannot be done.
func spread(cands []Candidate, n int, l level, most int, apart bool) []storagenode.DriveID {
	t := newTally()
	t.apart = apart
	chosen := make([]storagenode.DriveID, 0, n)
	for len(chosen) < n {
		i := t.best(cands, l, most)
		if i < 0 {
			return nil
		}
		t.add(&cands[i])
		chosen = append(chosen, cands[i].Drive)
	}
	return chosen
}

// Placed is where a new group goes.
type Placed struct {
	Scheme erasure.Scheme
	Drives []storagenode.DriveID
	// Relaxed: the loss of one failure domain may cost more than m slots.
	Relaxed bool
}

// Place chooses the scheme and the drives of a new group: the scheme that is
// wanted where the candidates can hold it, else the same tolerance m with the
// largest smaller k. No failure domain – the zone where known has several, else
// the node, else the drive – gets more than m slots (at least one), so that
// losing one loses no data; only where not even 1+m can be placed so is that
// given up, first for zones, then for nodes. Where nodes are away, k narrows by as
// many before two slots share a node: a group of a cluster that has a node for
// each slot is to survive any m of them, whenever it was made. known may be zero:
// what the candidates are in counts as well. False where they are fewer than 1+m.
func Place(cands []Candidate, known Domains, want erasure.Scheme) (Placed, bool) {
	here := DomainsOf(cands)
	levels := Domains{max(here.Zones, known.Zones), max(here.Nodes, known.Nodes)}.levels()
	if l := levels[0]; l != byDrive {
		away := max(0, known.Nodes-here.Nodes)
		if s, drives := widest(cands, want, l, true); drives != nil && int(s.K) >= int(want.K)-away {
			return Placed{Scheme: s, Drives: drives}, true
		}
	}
	for i, l := range levels {
		if s, drives := widest(cands, want, l, false); drives != nil {
			return Placed{Scheme: s, Drives: drives, Relaxed: i > 0}, true
		}
	}
	return Placed{}, false
}

// Replace chooses the drive for one slot of a group, whose other slots are on
// rest, by the rules of Place; relaxed says that a failure domain then has more
// than m slots. False where no candidate is left that has none of the slots.
func Replace(cands, rest []Candidate, known Domains, m uint8) (id storagenode.DriveID, relaxed, ok bool) {
	t := newTally()
	for i := range rest {
		t.add(&rest[i])
	}
	for n, l := range known.levels() {
		if i := t.best(cands, l, max(1, int(m))); i >= 0 {
			return cands[i].Drive, n > 0, true
		}
	}
	return storagenode.DriveID{}, false, false
}

// Crowd gives the place in drives, which a group's slots are on, of one in the
// fullest failure domain, where losing that domain costs the group more than m
// of its slots; -1 where none costs so much.
func Crowd(drives []Candidate, known Domains, m uint8) int {
	l := known.levels()[0]
	if l == byDrive {
		return -1
	}
	in := make(map[string]int)
	most, at := max(1, int(m)), -1
	for i := range drives {
		name := l.of(&drives[i])
		if in[name]++; in[name] > most {
			most, at = in[name], i
		}
	}
	return at
}

// Doubled gives the place in drives of one on the node that has most of them,
// where that are several; -1 where each is on a node of its own.
func Doubled(drives []Candidate) int {
	on := make(map[string]int)
	most, at := 1, -1
	for i := range drives {
		if n := drives[i].Node; n != "" {
			if on[n]++; on[n] > most {
				most, at = on[n], i
			}
		}
	}
	return at
}

// DefaultScheme is the scheme for a cluster where none was chosen: the widest
// of the default schemes (erasure.DefaultScheme) for as many failure domains as
// it has nodes – drives where there is one node – that can be spread over its
// zones. It is never without tolerance: a cluster that is just being put
// together must not begin with groups that survive nothing.
func DefaultScheme(all []Candidate) erasure.Scheme {
	known := DomainsOf(all)
	n := known.Nodes
	if n <= 1 {
		n = len(all)
	}
	least := erasure.Scheme{K: 1, M: 1}
	for n = min(n, 12); n > 2; n-- {
		want := erasure.DefaultScheme(n)
		if p, ok := Place(all, known, want); ok && p.Scheme == want && !p.Relaxed {
			return want
		}
	}
	return least
}
