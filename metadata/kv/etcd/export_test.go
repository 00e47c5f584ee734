package etcd

import "slices"

// HoldCommits has commits wait until there are n of them; release lets them
// go, as many in a request as may.
func (s *Store) HoldCommits() (await func(n int), release func()) { return s.commits.Hold() }

// HoldReads is the same for Gets.
func (s *Store) HoldReads() (await func(n int), release func()) { return s.looks.Hold() }

// Sketch is a transaction by what it reads and writes.
type Sketch struct {
	Reads, Writes []string
	Size          int
}

// Groups gives how transactions that wait together are sent.
func Groups(list []Sketch) (groups [][]Sketch) {
	var waiting, group []*commit
	for _, t := range list {
		c := &commit{size: t.Size}
		for _, k := range t.Reads {
			c.reads = append(c.reads, read{key: []byte(k)})
		}
		for _, k := range t.Writes {
			c.writes = append(c.writes, write{key: []byte(k), value: []byte{1}})
		}
		waiting = append(waiting, c)
	}
	all := slices.Clone(waiting)
	for len(waiting) > 0 {
		group, waiting = takeCommits(waiting)
		var g []Sketch
		for _, c := range group {
			g = append(g, list[slices.Index(all, c)])
		}
		groups = append(groups, g)
	}
	return groups
}

// Limits of a request.
const (
	MaxGroup   = maxGroup
	MaxRequest = maxRequest
	MaxOps     = maxCompares
)
