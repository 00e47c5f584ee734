package node

import (
	"testing"
	"time"

	"kintsugi/storagenode"
)

// slow lets something happen while its drive's report is made.
type slow struct {
	*drive
	meanwhile func()
}

func (s *slow) Space() storagenode.Space {
	if f := s.meanwhile; f != nil {
		s.meanwhile = nil
		f()
	}
	return s.drive.Space()
}

// still starts a node whose drives nobody looks at.
func (r *rig) still() *Node {
	r.t.Helper()
	cfg := r.config()
	cfg.Poll = time.Hour
	n, err := Open(r.t.Context(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = n.Close() })
	return n
}

// TestReportsComeInTheOrderOfTheStates: a drive that becomes ACTIVE while its being
// BROKEN is reported is not reported BROKEN after that.
func TestReportsComeInTheOrderOfTheStates(t *testing.T) {
	r := newRig(t, 1)
	n := r.still()
	p := n.places[0]
	store := &slow{drive: r.open[r.dirs[0]]}
	well := make(chan struct{})
	store.meanwhile = func() {
		becomesWell := func() {
			defer close(well)
			p.setState(storagenode.DriveActive, "", store)
		}
		if n.tell.TryLock() { // nothing keeps it from being told at once
			n.tell.Unlock()
			becomesWell()
			return
		}
		go becomesWell()
	}
	r.told = nil
	p.setState(storagenode.DriveBroken, "sick", store)
	<-well
	var states []storagenode.DriveState
	for _, d := range r.told {
		states = append(states, d.State)
	}
	if len(states) != 2 || states[0] != storagenode.DriveBroken || states[1] != storagenode.DriveActive {
		t.Errorf("told of %v", states)
	}
	if is := n.Reports()[0].State; is != storagenode.DriveActive {
		t.Errorf("it is %s", is)
	}
}

// TestTell: who asks to be told hears how every drive is, in turn with what changes.
func TestTell(t *testing.T) {
	r := newRig(t, 2)
	n := r.still()
	store := &slow{drive: r.open[r.dirs[0]]}
	n.places[0].setState(storagenode.DriveBroken, "sick", store)
	r.told = nil
	n.Tell()
	if len(r.told) != 2 || r.told[0].State != storagenode.DriveBroken || r.told[1].State != storagenode.DriveActive {
		t.Errorf("told %+v", r.told)
	}
}

// TestCheckThatEndsAfterAll: what a check found stands, though the watch had given it
// up: a drive that is away must not become one that merely does not answer, with the
// store that was closed.
func TestCheckThatEndsAfterAll(t *testing.T) {
	r := newRig(t, 1)
	n := r.still()
	p := n.places[0]
	p.checking.Store(7)
	p.silent(7, storagenode.DriveSuspect)
	if d := n.Reports()[0]; d.State != storagenode.DriveSuspect || p.current() == nil {
		t.Fatalf("while the check hangs it is %+v", d)
	}
	p.shut()
	p.fail(storagenode.DriveDown, "gone")
	p.silent(7, storagenode.DriveSuspect)
	if d := n.Reports()[0]; d.State != storagenode.DriveDown || d.Reason != "gone" || p.current() != nil {
		t.Errorf("it is %+v", d)
	}
	p.setState(storagenode.DriveActive, "", r.open[r.dirs[0]])
	p.checking.Store(0)
	p.silent(7, storagenode.DriveDown)
	if d := n.Reports()[0]; d.State != storagenode.DriveActive {
		t.Errorf("after the check has ended it is %+v", d)
	}
	_, _ = p.withdraw() // closed already
}
