package metadata_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

func scheme(t *testing.T, text string) erasure.Scheme {
	t.Helper()
	s, err := erasure.ParseScheme(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// cluster is of so many zones, nodes in each, drives in each.
func cluster(zones, nodes, drives int) (list []metadata.Candidate) {
	for z := range zones {
		for n := range nodes {
			for d := range drives {
				list = append(list, metadata.Candidate{Drive: storagenode.DriveID{byte(z + 1), byte(n + 1), byte(d + 1)},
					Zone: fmt.Sprint(z), Node: fmt.Sprint(z, "/", n)})
			}
		}
	}
	return list
}

func TestPlace(t *testing.T) {
	three := metadata.Domains{Zones: 3, Nodes: 6}
	more := func(cands []metadata.Candidate, zone, node string) []metadata.Candidate {
		return append(cands, metadata.Candidate{Zone: zone, Node: node, Drive: storagenode.DriveID{99}})
	}
	for _, c := range []struct {
		cands   []metadata.Candidate
		known   metadata.Domains
		want    string
		scheme  string
		relaxed bool
	}{
		{cluster(1, 1, 6), metadata.Domains{}, "4+2", "4+2", false},
		{cluster(1, 1, 5), metadata.Domains{}, "4+2", "3+2", false},
		{cluster(1, 1, 3), metadata.Domains{}, "4+2", "1+2", false},
		{cluster(1, 1, 2), metadata.Domains{}, "4+2", "", false},
		{cluster(1, 1, 1), metadata.Domains{}, "1+0", "1+0", false},
		{cluster(1, 6, 2), metadata.Domains{}, "4+2", "4+2", false},
		{cluster(1, 3, 4), metadata.Domains{}, "4+2", "4+2", false},
		{cluster(1, 2, 6), metadata.Domains{}, "4+2", "2+2", false}, // two on a node, so that a node may go
		{cluster(2, 3, 1), metadata.Domains{}, "2+1", "1+1", false},
		{more(cluster(1, 1, 3), "0", "b"), metadata.Domains{}, "1+1", "1+1", false},
		{more(cluster(1, 1, 4), "0", "b"), metadata.Domains{}, "4+2", "1+2", false},
		// Three zones of two nodes with two drives: two slots a zone.
		{cluster(3, 2, 2), three, "4+2", "4+2", false},
		{cluster(3, 2, 2)[:8], three, "4+2", "2+2", false},              // a zone gone
		{cluster(3, 2, 2)[:4], three, "4+2", "2+2", true},               // two gone: two a node
		{cluster(3, 2, 2)[:2], metadata.Domains{}, "1+1", "1+1", false}, // it is not known that there were more
		{cluster(3, 2, 2)[:2], three, "1+1", "1+1", true},
		{cluster(3, 2, 2)[:10], three, "4+2", "3+2", false}, // a node gone: two on the other would be lost with it
		{cluster(3, 2, 2)[2:8], three, "4+2", "1+2", false}, // three gone
		{cluster(3, 3, 2)[:14], metadata.Domains{Zones: 3, Nodes: 9}, "4+2", "3+2", false},
		{more(cluster(2, 3, 2), "x", "b"), metadata.Domains{Zones: 3, Nodes: 7}, "4+2", "3+2", false},
		{append(cluster(1, 4, 1), cluster(3, 1, 2)[2:]...), metadata.Domains{Zones: 3, Nodes: 6}, "4+2", "4+2", false}, // zones of 4, 1 and 1 nodes
		{cluster(3, 2, 2)[:9], three, "4+2", "3+2", false},
	} {
		p, ok := metadata.Place(c.cands, c.known, scheme(t, c.want))
		if ok != (c.scheme != "") || ok && p.Scheme.String() != c.scheme || p.Relaxed != c.relaxed {
			t.Errorf("%d candidates, %s: %s relaxed %v ok %v, want %s %v", len(c.cands), c.want, p.Scheme, p.Relaxed, ok, c.scheme, c.relaxed)
		}
	}
	p, _ := metadata.Place(cluster(3, 2, 2), three, scheme(t, "4+2"))
	nodes := map[[2]byte]int{}
	for _, d := range p.Drives {
		nodes[[2]byte(d[:2])]++
	}
	if len(nodes) != 6 {
		t.Errorf("six slots are on %d of six nodes", len(nodes))
	}
	// Load evens out.
	cands := cluster(1, 1, 12)
	load := map[storagenode.DriveID]int{}
	for range 12 {
		p, _ := metadata.Place(cands, metadata.Domains{}, erasure.Scheme{K: 4, M: 2})
		for _, d := range p.Drives {
			load[d]++
			for i := range cands {
				if cands[i].Drive == d {
					cands[i].Load++
				}
			}
		}
	}
	for d, n := range load {
		if n != 6 {
			t.Errorf("drive %s has %d slots, want 6", d, n)
		}
	}
}

func TestDefaultScheme(t *testing.T) {
	for _, c := range []struct {
		zones, nodes, drives int
		want                 string
	}{
		{1, 1, 1, "1+1"}, {1, 1, 2, "1+1"}, {1, 1, 6, "4+2"}, {1, 1, 12, "8+4"}, {1, 3, 4, "2+1"}, {1, 6, 2, "4+2"},
		{3, 2, 2, "4+2"}, {3, 1, 4, "2+1"}, {2, 3, 2, "2+2"}, {3, 4, 1, "8+4"}, {2, 1, 1, "1+1"}, {1, 40, 4, "8+4"},
	} {
		if s := metadata.DefaultScheme(cluster(c.zones, c.nodes, c.drives)); s.String() != c.want {
			t.Errorf("%d zones of %d nodes with %d drives: %s, want %s", c.zones, c.nodes, c.drives, s, c.want)
		}
	}
}

// random makes a topology where everything differs.
func random(rng *rand.Rand) (list []metadata.Candidate) {
	zones := 1 + rng.IntN(4)
	for z := range zones {
		for n := range 1 + rng.IntN(4) {
			for d := range 1 + rng.IntN(4) {
				zone := fmt.Sprint(z)
				if zones == 1 {
					zone = ""
				}
				list = append(list, metadata.Candidate{Drive: storagenode.DriveID{byte(z + 1), byte(n + 1), byte(d + 1)},
					Zone: zone, Node: fmt.Sprint(z, "/", n), Load: rng.IntN(10)})
			}
		}
	}
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// cost is how crowded chosen drives are: nodes first, then zones.
func cost(chosen []metadata.Candidate) (int, int) {
	zones, nodes := map[string]int{}, map[string]int{}
	z, n := 0, 0
	for _, c := range chosen {
		n += 2*nodes[c.Node] + 1
		z += 2*zones[c.Zone] + 1
		nodes[c.Node]++
		zones[c.Zone]++
	}
	return n, z
}

func most(chosen []metadata.Candidate, of func(metadata.Candidate) string) int {
	in, top := map[string]int{}, 0
	for _, c := range chosen {
		in[of(c)]++
		top = max(top, in[of(c)])
	}
	return top
}

func zoneOf(c metadata.Candidate) string { return c.Zone }
func nodeOf(c metadata.Candidate) string { return c.Node }

// TestPlaceOnRandomTopologies: whatever the cluster and whatever of it is left,
// no failure domain has more than m slots unless even 1+m cannot be placed so;
// k is as large as that allows; no exchange of one drive would spread it better.
func TestPlaceOnRandomTopologies(t *testing.T) {
	for seed := range uint64(4000) {
		rng := rand.New(rand.NewPCG(seed, 5))
		all := random(rng)
		known := metadata.DomainsOf(all)
		left := all[:1+rng.IntN(len(all))]
		want := erasure.Scheme{K: uint8(1 + rng.IntN(6)), M: uint8(rng.IntN(4))}
		limit := max(1, int(want.M))
		p, ok := metadata.Place(left, known, want)
		if ok != (len(left) >= 1+int(want.M)) {
			t.Fatalf("seed %d: %d candidates for %s: %v", seed, len(left), want, ok)
		}
		if !ok {
			continue
		}
		by := map[storagenode.DriveID]metadata.Candidate{}
		for _, c := range left {
			by[c.Drive] = c
		}
		var chosen, free []metadata.Candidate
		for _, d := range p.Drives {
			chosen = append(chosen, by[d])
		}
		for _, c := range left {
			if !slices.Contains(p.Drives, c.Drive) {
				free = append(free, c)
			}
		}
		if len(chosen) != p.Scheme.N() || len(free)+len(chosen) != len(left) || p.Scheme.M != want.M || p.Scheme.K > want.K {
			t.Fatalf("seed %d: %+v of %d", seed, p, len(left))
		}
		// room is how many slots fit where no domain has more than the limit.
		room := func(of func(metadata.Candidate) string) int {
			in, n := map[string]int{}, 0
			for _, c := range left {
				if in[of(c)]++; in[of(c)] <= limit {
					n++
				}
			}
			return n
		}
		fits, relaxed, of := len(left), false, func(c metadata.Candidate) string { return string(c.Drive[:]) }
		switch {
		case known.Zones > 1 && room(zoneOf) >= 1+int(want.M):
			fits, of = room(zoneOf), zoneOf
		case known.Zones > 1 && room(nodeOf) >= 1+int(want.M):
			fits, of, relaxed = room(nodeOf), nodeOf, true
		case known.Zones > 1:
			relaxed = true
		case known.Nodes > 1 && room(nodeOf) >= 1+int(want.M):
			fits, of = room(nodeOf), nodeOf
		case known.Nodes > 1:
			relaxed = true
		}
		k := min(int(want.K), fits-int(want.M))
		// Where nodes are away, narrower by as many at most and with no two slots on a
		// node.
		if apart := fewer(left, limit, known) - int(want.M); known.Nodes > 1 && apart >= max(1, int(want.K)-known.Nodes+metadata.DomainsOf(left).Nodes) {
			k, relaxed = min(int(want.K), apart), false
			if most(chosen, nodeOf) > 1 {
				t.Fatalf("seed %d: two slots on a node: %+v", seed, chosen)
			}
		}
		if int(p.Scheme.K) != k || p.Relaxed != relaxed {
			t.Fatalf("seed %d: %s relaxed %v, want k=%d relaxed %v", seed, p.Scheme, p.Relaxed, k, relaxed)
		}
		if most(chosen, of) > limit {
			t.Fatalf("seed %d: a domain has more than %d slots: %+v", seed, limit, chosen)
		}
		nodes, zones := cost(chosen)
		for i, was := range chosen {
			for _, c := range free {
				chosen[i] = c
				n, z := cost(chosen)
				if most(chosen, of) <= limit && (n < nodes || n == nodes && z < zones) {
					t.Fatalf("seed %d: %+v instead of %+v would spread better", seed, c, was)
				}
			}
			chosen[i] = was
		}
	}
}

// fewer is how many slots fit one a node, with limit in a zone where there are
// several.
func fewer(left []metadata.Candidate, limit int, known metadata.Domains) (n int) {
	zones, nodes := map[string]int{}, map[string]bool{}
	for _, c := range left {
		if nodes[c.Node] || known.Zones > 1 && zones[c.Zone] == limit {
			continue
		}
		nodes[c.Node] = true
		zones[c.Zone]++
		n++
	}
	return n
}

// TestReplaceOnRandomTopologies: a slot's new drive keeps to the rules where any
// drive does, and is on a node without a slot where there is one.
func TestReplaceOnRandomTopologies(t *testing.T) {
	replaced, crowded := 0, 0
	for seed := range uint64(4000) {
		rng := rand.New(rand.NewPCG(seed, 6))
		all := random(rng)
		known := metadata.DomainsOf(all)
		want := erasure.Scheme{K: uint8(1 + rng.IntN(4)), M: uint8(1 + rng.IntN(2))}
		p, ok := metadata.Place(all, known, want)
		if !ok || p.Relaxed {
			continue
		}
		var rest, cands []metadata.Candidate
		lost := p.Drives[rng.IntN(len(p.Drives))]
		for _, c := range all {
			switch {
			case c.Drive == lost:
			case slices.Contains(p.Drives, c.Drive):
				rest = append(rest, c)
				cands = append(cands, c) // never chosen twice
			case rng.IntN(3) > 0:
				cands = append(cands, c)
			}
		}
		id, relaxed, ok := metadata.Replace(cands, rest, known, p.Scheme.M)
		free := slices.DeleteFunc(slices.Clone(cands), func(c metadata.Candidate) bool { return slices.Contains(p.Drives, c.Drive) })
		if ok != (len(free) > 0) {
			t.Fatalf("seed %d: %d free drives, %v", seed, len(free), ok)
		}
		if !ok {
			continue
		}
		replaced++
		i := slices.IndexFunc(free, func(c metadata.Candidate) bool { return c.Drive == id })
		if i < 0 {
			t.Fatalf("seed %d: drive %s is not free", seed, id)
		}
		keeps := func(c metadata.Candidate) bool {
			return metadata.Crowd(append(slices.Clone(rest), c), known, p.Scheme.M) < 0
		}
		if relaxed == keeps(free[i]) || relaxed && slices.ContainsFunc(free, keeps) {
			t.Fatalf("seed %d: relaxed %v, keeps the rules %v", seed, relaxed, keeps(free[i]))
		}
		if relaxed {
			crowded++
			continue
		}
		beside := func(c metadata.Candidate) bool {
			return slices.ContainsFunc(rest, func(o metadata.Candidate) bool { return o.Node == c.Node })
		}
		if beside(free[i]) && slices.ContainsFunc(free, func(c metadata.Candidate) bool { return keeps(c) && !beside(c) }) {
			t.Fatalf("seed %d: the new drive is on a node that has a slot already", seed)
		}
	}
	if replaced < 1000 || crowded < 20 {
		t.Errorf("%d replaced, %d of them relaxed: the test tries too little", replaced, crowded)
	}
}
