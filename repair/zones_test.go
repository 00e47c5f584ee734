package repair

import (
	"fmt"
	"testing"
	"time"

	"kintsugi/storagenode"
)

// newZones is a rig of zones with nodes with drives; without a name for zones
// there is none.
func newZones(t testing.TB, scheme string, zones, nodes, drives int) *rig {
	r := newRig(t, scheme, 0)
	for z := range zones {
		for n := range nodes {
			for range drives {
				zone := ""
				if zones > 1 {
					zone = fmt.Sprint("z", z)
				}
				r.addDrive(fmt.Sprint("z", z, "n", n), zone, storagenode.DriveID{})
			}
		}
	}
	return r
}

// all sets the state of every drive that which chooses.
func (r *rig) all(state storagenode.DriveState, which func(storagenode.DriveReport) bool) (n int) {
	for i, d := range r.drives.disks {
		if !d.gone && which(d.report) {
			r.state(i, state)
			n++
		}
	}
	return n
}

func onNode(name string) func(storagenode.DriveReport) bool {
	return func(d storagenode.DriveReport) bool { return d.Node == name }
}

func inZone(name string) func(storagenode.DriveReport) bool {
	return func(d storagenode.DriveReport) bool { return d.Zone == name }
}

// passOut looks at the drives until what is away has been so for long enough to
// be OUT.
func (r *rig) passOut() {
	r.t.Helper()
	for range 3 {
		r.must(r.rep.detectAndPlan(r.ctx))
		r.clock.advance(r.rep.cfg.OutAfter/2 + time.Second)
	}
	r.must(r.rep.detectAndPlan(r.ctx))
}

// most gives the greatest number of slots of one group in one zone, on one
// node, and on one drive.
func (r *rig) most() (zone, node, drive int) {
	r.t.Helper()
	groups, err := r.cat.ListGroups(r.ctx)
	r.must(err)
	for _, g := range groups {
		zones, nodes, drives := map[string]int{}, map[string]int{}, map[storagenode.DriveID]int{}
		for _, s := range g.Slots {
			d, _ := r.rep.fleet.drive(s.Drive)
			zones[d.record.Zone]++
			nodes[d.record.Node]++
			drives[s.Drive]++
			zone, node, drive = max(zone, zones[d.record.Zone]), max(node, nodes[d.record.Node]), max(drive, drives[s.Drive])
		}
	}
	return zone, node, drive
}

func (r *rig) counts() map[string]int { return r.rep.Status().States }

// TestNodeIsLost: a node of a zone goes for good. Its slots go to the zone's
// other node, so that the loss of a zone still costs no group more than m.
func TestNodeIsLost(t *testing.T) {
	r := newZones(t, "4+2", 3, 2, 2)
	objects := r.some(16)
	r.intact(r.rep)
	if zone, node, drive := r.most(); zone != 2 || node != 1 || drive != 1 {
		t.Fatalf("at most %d slots a zone, %d a node, %d a drive", zone, node, drive)
	}
	r.all(storagenode.DriveDown, onNode("z1n0"))
	r.passOut()
	if s := r.counts(); s["OUT"] != 2 {
		t.Fatalf("states %v", s)
	}
	r.heal()
	r.whole(objects...)
	zone, node, drive := r.most()
	s := r.rep.Status()
	if zone != 2 || node != 2 || drive != 1 || s.Spread.Relaxed != 0 || s.Spread.Zones != 3 || len(s.Waiting) != 0 {
		t.Fatalf("at most %d slots a zone, %d a node, %d a drive; %+v, waiting %+v", zone, node, drive, s.Spread, s.Waiting)
	}
}

// TestNodeIsLostWithoutZones: where nodes are the failure domain a node of
// several drives is not held back for being a whole domain, and its slots are
// spread over the others.
func TestNodeIsLostWithoutZones(t *testing.T) {
	r := newZones(t, "4+2", 1, 6, 2)
	objects := r.some(16)
	r.intact(r.rep)
	r.all(storagenode.DriveDown, onNode("z0n3"))
	r.passOut()
	if s := r.counts(); s["OUT"] != 2 {
		t.Fatalf("states %v", s)
	}
	r.heal()
	r.whole(objects...)
	if _, node, drive := r.most(); node != 2 || drive != 1 || r.rep.Status().Spread.Relaxed != 0 {
		t.Fatalf("at most %d slots a node, %d a drive", node, drive)
	}
}

// TestLostBeforeAnybodyLooked: two drives that hold shards are gone before any
// repairer saw a report of theirs. Nobody knows their zone, which makes them no
// zone that is away as a whole.
func TestLostBeforeAnybodyLooked(t *testing.T) {
	r := newZones(t, "4+2", 3, 2, 2)
	objects := r.some(16)
	r.drives.mu.Lock()
	for _, d := range r.drives.disks {
		d.gone = d.gone || d.report.Node == "z1n0"
	}
	r.drives.mu.Unlock()
	r.passOut()
	if s := r.rep.Status(); s.States["OUT"] != 2 {
		t.Fatalf("states %v, waiting %+v", s.States, s.Waiting)
	}
	r.heal()
	r.whole(objects...)
}

// holds says whether any slot is mapped to a drive that which chooses.
func (r *rig) holds(which func(storagenode.DriveReport) bool) bool {
	r.t.Helper()
	groups, err := r.cat.ListGroups(r.ctx)
	r.must(err)
	for _, d := range r.drives.disks {
		if which(d.report) && inUse(groups, d.report.ID) {
			return true
		}
	}
	return false
}

// TestZoneIsAwayIsHeld: a whole zone that is away is a network. Nothing of it is
// OUT, however long it takes, and writes go on, narrower; but what is broken,
// wiped or replaced elsewhere is repaired meanwhile.
func TestZoneIsAwayIsHeld(t *testing.T) {
	for _, c := range []struct {
		scheme               string
		zones, nodes, drives int
		narrow               string
	}{
		{"4+2", 3, 2, 2, "2+2"},
		{"2+2", 5, 1, 2, "2+2"}, // two of ten drives: only that it is a zone holds it
	} {
		r := newZones(t, c.scheme, c.zones, c.nodes, c.drives)
		objects := r.some(12)
		for tries := 0; !r.holds(inZone("z2")); tries++ { // a zone without a slot is not held
			if tries == 50 {
				t.Fatal("no group lies in the zone, again and again")
			}
			r = newZones(t, c.scheme, c.zones, c.nodes, c.drives)
			objects = r.some(12)
		}
		r.intact(r.rep)
		n := r.all(storagenode.DriveDown, inZone("z2"))
		r.passOut()
		s := r.rep.Status()
		if s.States["OUT"] != 0 || s.States["DOWN"] != n {
			t.Fatalf("%+v: states %v", c, s.States)
		}
		held := 0
		for _, d := range s.Drives {
			if d.Held {
				held++
			}
		}
		if held != n {
			t.Errorf("%+v: %d of %d drives are said to be held", c, held, n)
		}
		// The catalog looks anew after half a second of its clock.
		r.clock.advance(time.Second)
		o := r.put("while the zone is away", 300_000)
		if g := r.group(o.pg); g.Scheme.String() != c.narrow {
			t.Errorf("%+v: written as %s", c, g.Scheme)
		}
		objects = append(objects, o)
		// A drive that breaks and one that is wiped in another zone.
		for i, d := range r.drives.disks {
			if d.report.Zone == "z0" {
				r.state(i, storagenode.DriveBroken)
				break
			}
		}
		for i, d := range r.drives.disks {
			if d.report.Zone == "z1" {
				r.wipe(i)
				break
			}
		}
		r.must(r.rep.detectAndPlan(r.ctx))
		if s := r.counts(); s["BROKEN"] != 1 || s["RETIRED"] != 1 || s["OUT"] != 0 {
			t.Fatalf("%+v: states %v", c, s)
		}
		groups, err := r.cat.ListGroups(r.ctx)
		r.must(err)
		for _, g := range groups {
			for i, slot := range g.Slots {
				d, _ := r.rep.fleet.drive(slot.Drive)
				if d.dead() {
					t.Errorf("%+v: slot %d of pg %d is still on a dead drive (%s)", c, i, g.PG, d.record.State)
				}
			}
		}
		r.all(storagenode.DriveActive, inZone("z2"))
		r.heal()
		r.whole(objects...)
		if zone, _, drive := r.most(); zone > 2 || drive > 1 || r.rep.Status().Spread.Relaxed != 0 {
			t.Errorf("%+v: at most %d slots a zone, %d a drive", c, zone, drive)
		}
	}
}

// TestHalfAZoneIsNotHeld: one drive of a zone of several is a drive.
func TestHalfAZoneIsNotHeld(t *testing.T) {
	r := newZones(t, "2+2", 5, 1, 2)
	r.some(4)
	r.must(r.rep.detectAndPlan(r.ctx))
	done := false
	r.all(storagenode.DriveDown, func(d storagenode.DriveReport) bool {
		is := d.Zone == "z2" && !done
		done = done || is
		return is
	})
	r.passOut()
	if s := r.counts(); s["OUT"] != 1 {
		t.Fatalf("states %v", s)
	}
}

// TestManyDrivesAwayAreHeld: more than max(m, a quarter) of the drives, spread
// over all zones; one less is not.
func TestManyDrivesAwayAreHeld(t *testing.T) {
	for away, out := range map[int]int{3: 3, 4: 0} { // of twelve, m = 2
		r := newZones(t, "4+2", 3, 2, 2)
		r.some(4)
		r.must(r.rep.detectAndPlan(r.ctx))
		left := away
		seen := map[string]bool{}
		r.all(storagenode.DriveDown, func(d storagenode.DriveReport) bool {
			if left == 0 || seen[d.Node] {
				return false
			}
			seen[d.Node] = true
			left--
			return true
		})
		r.passOut()
		if s := r.counts(); s["OUT"] != out || s["DOWN"] != away-out {
			t.Errorf("%d away: states %v", away, s)
		}
	}
}

// TestRelaxedSpreadIsSaid: groups from when there was one zone are named once
// there are several, and so is a slot that had to go where it crowds one.
func TestRelaxedSpreadIsSaid(t *testing.T) {
	r := newZones(t, "2+1", 1, 3, 1)
	r.some(4)
	r.must(r.rep.detectAndPlan(r.ctx))
	if s := r.rep.Status().Spread; s.Relaxed != 0 || s.Nodes != 3 {
		t.Fatalf("%+v", s)
	}
	for _, zone := range []string{"z1", "z2"} {
		r.addDrive(zone, zone, storagenode.DriveID{})
	}
	r.must(r.rep.detectAndPlan(r.ctx))
	groups, err := r.cat.ListGroups(r.ctx)
	r.must(err)
	if s := r.rep.Status().Spread; s.Relaxed != len(groups) || len(s.RelaxedGroups) != len(groups) || s.Zones != 3 {
		t.Fatalf("%+v", s)
	}
}

// TestTakingOverKnowsForHowLong: a repairer that waited knows since when drives
// are away, and a new leader's look at drives that nobody else saw does not
// begin anew.
func TestTakingOverKnowsForHowLong(t *testing.T) {
	r := newZones(t, "4+2", 3, 2, 2)
	r.some(4)
	waits := r.repairer(r.kv)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(waits.observe(r.ctx))
	r.all(storagenode.DriveDown, onNode("z1n0"))
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(waits.observe(r.ctx))
	before := r.counts()
	r.clock.advance(waits.cfg.OutAfter + time.Second)
	r.must(waits.observe(r.ctx)) // stores nothing
	if s := r.counts(); s["DOWN"] != before["DOWN"] || s["DOWN"] != 2 {
		t.Fatalf("states %v, before %v", s, before)
	}
	list, err := r.cat.ListDrives(r.ctx)
	r.must(err)
	for _, d := range list {
		if d.State == storagenode.DriveOut {
			t.Fatal("a repairer that does not lead stored a state")
		}
	}
	r.must(waits.detectAndPlan(r.term(waits)))
	if s := waits.Status().States; s["OUT"] != 2 {
		t.Fatalf("states %v", s)
	}
}

// TestCrowdedGroupsAreSpread: what was written while there was one node does not
// survive its loss. When there are more, its slots move, a few at a time, until
// it does.
func TestCrowdedGroupsAreSpread(t *testing.T) {
	r := newZones(t, "4+2", 1, 1, 6)
	objects := r.some(16)
	r.intact(r.rep)
	for n := range 4 {
		r.addDrive(fmt.Sprint("new", n), "", storagenode.DriveID{})
	}
	r.must(r.rep.detectAndPlan(r.ctx))
	if s := r.rep.Status().Spread; s.Relaxed == 0 {
		t.Fatalf("%+v: all slots are on one of five nodes", s)
	}
	for round := 0; r.rep.Status().Spread.Relaxed > 0; round++ {
		if round == 100 {
			t.Fatalf("%+v after %d rounds", r.rep.Status().Spread, round)
		}
		r.must(r.rep.detectAndPlan(r.ctx))
		groups, err := r.cat.ListGroups(r.ctx)
		r.must(err)
		rebuilding := 0
		for _, g := range groups {
			for _, s := range g.Slots {
				if s.State == storagenode.SlotRebuilding {
					rebuilding++
				}
			}
		}
		if rebuilding > leisureAtOnce {
			t.Fatalf("%d slots on their way at once", rebuilding)
		}
		r.heal()
	}
	r.whole(objects...)
	if _, node, _ := r.most(); node > 2 {
		t.Fatalf("%d slots of a group on one node", node)
	}
}

// TestDoubledSlotsAreSpread: groups of when there were three nodes have two slots
// on some; when there are six, none has.
func TestDoubledSlotsAreSpread(t *testing.T) {
	r := newZones(t, "4+2", 1, 3, 2)
	objects := r.some(16)
	r.intact(r.rep)
	if _, node, _ := r.most(); node != 2 {
		t.Fatalf("%d slots of a group on one node", node)
	}
	for n := range 3 {
		r.addDrive(fmt.Sprint("new", n), "", storagenode.DriveID{})
	}
	for round := 0; ; round++ {
		r.must(r.rep.detectAndPlan(r.ctx))
		if _, node, _ := r.most(); node == 1 {
			break
		}
		if round == 100 {
			_, node, _ := r.most()
			t.Fatalf("%d slots of a group on one node after %d rounds", node, round)
		}
		r.heal()
	}
	r.heal()
	r.whole(objects...)
	// Nothing moves that lies well.
	groups, err := r.cat.ListGroups(r.ctx)
	r.must(err)
	for range 3 {
		r.must(r.rep.detectAndPlan(r.ctx))
	}
	after, err := r.cat.ListGroups(r.ctx)
	r.must(err)
	for i := range groups {
		for j := range groups[i].Slots {
			if groups[i].Slots[j].Drive != after[i].Slots[j].Drive {
				t.Fatalf("slot %d of group %d moved on", j, groups[i].PG)
			}
		}
	}
}

// TestGoneWithoutASlotHoldsNothing: drives that hold no slot and are gone for
// good, a whole zone of them, do not keep the others from being taken for lost.
func TestGoneWithoutASlotHoldsNothing(t *testing.T) {
	for _, drained := range []bool{true, false} {
		r := newZones(t, "4+2", 3, 2, 2)
		objects := r.some(16)
		for range 5 {
			r.addDrive("z3n0", "z3", storagenode.DriveID{})
		}
		r.must(r.rep.detectAndPlan(r.ctx))
		for _, d := range r.drives.disks {
			if drained && d.report.Zone == "z3" {
				_, err := r.rep.Drain(r.ctx, d.report.ID)
				r.must(err)
			}
		}
		for range 3 {
			r.heal()
			r.round()
		}
		if s := r.counts(); drained && s["DRAINED"] != 5 {
			t.Fatalf("states %v", s)
		}
		r.all(storagenode.DriveDown, inZone("z3"))
		r.passOut()
		r.all(storagenode.DriveDown, onNode("z1n0"))
		r.passOut()
		for _, d := range r.rep.Status().Drives {
			if d.Node == "z1n0" && d.State != storagenode.DriveOut {
				t.Errorf("drained %v: drive that holds shards is %s, held back: %v", drained, d.State, d.Held)
			}
		}
		r.heal()
		r.whole(objects...)
	}
}

// TestLostZoneIsGivenUpByDraining: a zone that burned down is held back like one
// that is cut off, until an operator who knows better has its drives drained.
func TestLostZoneIsGivenUpByDraining(t *testing.T) {
	r := newZones(t, "2+2", 4, 2, 2)
	objects := r.some(12)
	r.intact(r.rep)
	n := r.all(storagenode.DriveDown, inZone("z2"))
	r.passOut()
	if s := r.counts(); s["DOWN"] != n {
		t.Fatalf("states %v", s)
	}
	for _, d := range r.drives.disks {
		if d.report.Zone == "z2" {
			_, err := r.rep.Drain(r.ctx, d.report.ID)
			r.must(err)
		}
	}
	r.passOut()
	r.heal()
	r.whole(objects...)
	for range 3 {
		r.round()
	}
	if s := r.counts(); s["DRAINED"] != n {
		t.Fatalf("given up: states %v", s)
	}
	r.all(storagenode.DriveActive, inZone("z2"))
	for range 3 {
		r.round()
	}
	if s := r.counts(); s["DRAINED"] != n {
		t.Fatalf("back from the dead, the command is forgotten: states %v", s)
	}
	r.heal()
	r.whole(objects...)
}
