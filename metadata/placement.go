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

// domains gives the failure domain that is counted: the zone where there are
// several, else the node, else every drive is its own.
func domains(cands []Candidate) func(*Candidate) string {
	zones, nodes := false, false
	for i := range cands {
		zones = zones || cands[i].Zone != cands[0].Zone
		nodes = nodes || cands[i].Node != cands[0].Node
	}
	switch {
	case zones:
		return func(c *Candidate) string { return c.Zone }
	case nodes:
		return func(c *Candidate) string { return c.Node }
	}
	return nil
}

// Spread chooses n drives for the slots of a new group: never one twice,
// evenly over zones, then over nodes, then by load. With most above 0 no
// failure domain gets more than that many. It is deterministic: of equal
// candidates the earlier is taken. Nil where it cannot be done.
func Spread(cands []Candidate, n, most int) []storagenode.DriveID {
	domain := domains(cands)
	inZone, inNode := make(map[string]int), make(map[string]int)
	inDomain := make(map[string]int)
	taken := make([]bool, len(cands))
	chosen := make([]storagenode.DriveID, 0, n)
	for len(chosen) < n {
		best := -1
		for i := range cands {
			c := &cands[i]
			if taken[i] || domain != nil && most > 0 && inDomain[domain(c)] >= most {
				continue
			}
			if best < 0 || less(inZone[c.Zone], inNode[c.Node], c.Load,
				inZone[cands[best].Zone], inNode[cands[best].Node], cands[best].Load) {
				best = i
			}
		}
		if best < 0 {
			return nil
		}
		c := &cands[best]
		taken[best] = true
		inZone[c.Zone]++
		inNode[c.Node]++
		if domain != nil {
			inDomain[domain(c)]++
		}
		chosen = append(chosen, c.Drive)
	}
	return chosen
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

// Place chooses the scheme and the drives of a new group: the scheme that is
// wanted where the candidates can hold it, else the same tolerance m with the
// largest smaller k. No failure domain gets more than m slots (at least one),
// so that losing one loses no data; only where not even 1+m can be placed so
// is that given up, which relaxed reports. False where the candidates are
// fewer than 1+m.
func Place(cands []Candidate, want erasure.Scheme) (s erasure.Scheme, drives []storagenode.DriveID, relaxed, ok bool) {
	for _, most := range []int{max(1, int(want.M)), 0} {
		for k := want.K; k >= 1; k-- {
			s = erasure.Scheme{K: k, M: want.M}
			if s.N() > len(cands) {
				continue
			}
			if drives = Spread(cands, s.N(), most); drives != nil {
				return s, drives, most == 0, true
			}
		}
	}
	return erasure.Scheme{}, nil, false, false
}
