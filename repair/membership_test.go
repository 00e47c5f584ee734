package repair

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
)

// nodes gives the nodes as metadata has them, by name.
func (r *rig) nodes() map[string]metadata.NodeRecord {
	r.t.Helper()
	list, err := r.cat.ListNodes(r.ctx)
	r.must(err)
	all := map[string]metadata.NodeRecord{}
	for _, n := range list {
		all[n.Name] = n
	}
	return all
}

func waiting(c *Config) { c.Sole = false }

func node(name, address string) storagenode.Announcement {
	return storagenode.Announcement{Name: name, Zone: "z", Address: address, Version: "1"}
}

// TestAnnounce: the first leader founds the cluster; nodes are taken in, and
// only changes are stored.
func TestAnnounce(t *testing.T) {
	r := newRig(t, "2+1", 4)
	s := &seam{Store: r.kv}
	commits := 0
	s.commit = func(_, writes [][]byte, commit func() error) error {
		if len(writes) > 0 {
			commits++
		}
		return commit()
	}
	waits := r.repairer(r.kv, waiting)
	// Before a leader was there, there is no cluster to join.
	if w, err := waits.Announce(r.ctx, node("n1", "http://n1")); err != nil || w.Leads || !w.Cluster.IsZero() || w.Drives != nil {
		t.Fatalf("%+v %v", w, err)
	}
	a := r.repairer(s)
	r.term(a)
	w, err := a.Announce(r.ctx, node("n1", "http://n1"))
	if err != nil || !w.Leads || w.Cluster.IsZero() {
		t.Fatalf("%+v %v", w, err)
	}
	cluster := w.Cluster
	if w, err = waits.Announce(r.ctx, node("n1", "http://n1")); err != nil || w.Leads || w.Cluster != cluster {
		t.Fatalf("%+v %v", w, err)
	}
	first := r.nodes()["n1"]
	if first.Address != "http://n1" || first.Zone != "z" || first.Version != "1" || first.Added.IsZero() {
		t.Fatalf("%+v", first)
	}
	before := commits
	for range 5 {
		r.clock.advance(3 * time.Second)
		again := node("n1", "http://n1")
		again.Cluster = cluster
		if _, err := a.Announce(r.ctx, again); err != nil {
			t.Fatal(err)
		}
	}
	if commits != before {
		t.Errorf("%d commits of what is known", commits-before)
	}
	next := node("n1", "http://n1")
	next.Version, next.Zone = "2", "y"
	_, err = a.Announce(r.ctx, next)
	r.must(err)
	if now := r.nodes()["n1"]; now.Version != "2" || now.Zone != "y" || !now.Added.Equal(first.Added) || !now.Changed.After(first.Changed) {
		t.Fatalf("%+v", now)
	}
	// Another leader finds the same cluster.
	b := r.repairer(r.kv)
	r.term(b)
	if w, err = b.Announce(r.ctx, node("n2", "http://n2")); err != nil || !w.Leads || w.Cluster != cluster {
		t.Fatalf("%+v %v", w, err)
	}
	// The first finds out, and leads no longer.
	if w, err = a.Announce(r.ctx, node("n3", "http://n3")); err != nil || w.Leads {
		t.Fatalf("%+v %v", w, err)
	}
	if _, stored := r.nodes()["n3"]; stored {
		t.Error("stored under a term that had ended")
	}
}

func TestAnnouncementsThatAreRefused(t *testing.T) {
	r := newRig(t, "2+1", 4)
	_, err := r.rep.Announce(r.ctx, node("n1", "http://n1"))
	r.must(err)
	other := node("n1", "http://n1")
	other.Cluster = storagenode.NewUUID()
	if _, err := r.rep.Announce(r.ctx, other); !errors.Is(err, storagenode.ErrOtherCluster) {
		t.Errorf("a node of another cluster: %v", err)
	}
	_, err = r.rep.Announce(r.ctx, node("n1", "http://n9"))
	if !errors.Is(err, storagenode.ErrNameTaken) || !strings.Contains(err.Error(), "http://n1") || !strings.Contains(err.Error(), "http://n9") {
		t.Errorf("a name that is taken: %v", err)
	}
	if now := r.nodes(); len(now) != 1 || now["n1"].Address != "http://n1" {
		t.Errorf("stored %+v", now)
	}
	for _, a := range []storagenode.Announcement{
		{Name: "x"}, {Address: "http://x"}, node("a\nb", "http://x"), node(strings.Repeat("x", 256), "http://x"),
		{Name: "x", Address: "http://x", Drives: make([]storagenode.DriveReport, maxNodeDrives+1)},
		{Name: "x", Address: "http://x", Damaged: make([]storagenode.ShardClaim, storagenode.MaxClaims+1)},
	} {
		if _, err := r.rep.Announce(r.ctx, a); err == nil {
			t.Errorf("taken in: %.40q", fmt.Sprint(a))
		}
	}
	// Once it fell silent, the name is free: the node moved.
	r.clock.advance(31 * time.Second)
	_, err = r.rep.Announce(r.ctx, node("n1", "http://n9"))
	r.must(err)
	if now := r.nodes()["n1"]; now.Address != "http://n9" {
		t.Errorf("stored %+v", now)
	}
	if n := r.rep.Status().Nodes; len(n) != 1 || n[0].Address != "http://n9" || !n[0].Living {
		t.Errorf("status %+v", n)
	}
}

// TestNamesSurviveTheLeader: a new leader that heard of nobody yet does not
// give a name away that the former leader's node bears, nor one that a node
// which was refused claims.
func TestNamesSurviveTheLeader(t *testing.T) {
	r := newRig(t, "2+1", 4)
	_, err := r.rep.Announce(r.ctx, node("n1", "http://n1"))
	r.must(err)
	b := r.repairer(r.kv, waiting)
	if _, err := b.Announce(r.ctx, node("n1", "http://thief")); err != nil {
		t.Fatal(err) // it knows no better, and stores nothing
	}
	b.cfg.Sole = true
	r.term(b)
	if _, err := b.Announce(r.ctx, node("n1", "http://thief")); !errors.Is(err, storagenode.ErrNameTaken) {
		t.Fatalf("the name was given away: %v", err)
	}
	// It does not say that it heard of the node before it has.
	if n := b.Status().Nodes; len(n) != 1 || !n[0].Heard.IsZero() || !n[0].Living {
		t.Errorf("status %+v", n)
	}
	_, err = b.Announce(r.ctx, node("n1", "http://n1"))
	r.must(err)
	if n := b.Status().Nodes; len(n) != 1 || n[0].Heard.IsZero() {
		t.Errorf("status %+v", n)
	}
}

// TestOneFounder: of many repairers that begin at once one founds the cluster.
func TestOneFounder(t *testing.T) {
	r := newRig(t, "2+1", 4)
	var mu sync.Mutex
	seen := map[storagenode.UUID]int{}
	var all sync.WaitGroup
	for i := range 6 {
		rep := r.repairer(r.kv)
		all.Go(func() {
			for range 20 {
				w, err := rep.Announce(r.ctx, node(fmt.Sprint(i), "http://"+fmt.Sprint(i)))
				if err != nil && !errors.Is(err, metadata.ErrStaleTerm) {
					t.Error(err)
				}
				if !w.Cluster.IsZero() {
					mu.Lock()
					seen[w.Cluster]++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	if len(seen) != 1 {
		t.Fatalf("%d clusters were founded: %v", len(seen), seen)
	}
}

// TestMetadataOfAnotherCluster: a repairer whose drives are of one cluster does
// nothing on the metadata of another.
func TestMetadataOfAnotherCluster(t *testing.T) {
	r := newRig(t, "2+1", 4)
	_, err := r.rep.Announce(r.ctx, node("n1", "http://n1"))
	r.must(err)
	b := r.repairer(r.kv, func(c *Config) { c.Cluster = storagenode.NewUUID() })
	if err := b.detectAndPlan(r.ctx); !errors.Is(err, storagenode.ErrOtherCluster) {
		t.Fatalf("%v", err)
	}
}

// TestAnnouncedDrives: a drive that only its node's announcement speaks of is
// stored with where it is, DOWN, and ACTIVE once it can be asked.
func TestAnnouncedDrives(t *testing.T) {
	r := newRig(t, "2+1", 4)
	d := r.addDrive("n7", "z7", storagenode.DriveID{})
	d.gone = true
	a := node("n7", "http://n7")
	a.Zone = "z7"
	rep := d.report
	rep.Node, rep.Zone, rep.Dir = "", "", "/data"
	a.Drives = []storagenode.DriveReport{rep}
	_, err := r.rep.Announce(r.ctx, a)
	r.must(err)
	record := func() metadata.DriveRecord {
		t.Helper()
		r.must(r.rep.detectAndPlan(r.ctx))
		list, err := r.cat.ListDrives(r.ctx)
		r.must(err)
		for _, rec := range list {
			if rec.ID == rep.ID {
				return rec
			}
		}
		t.Fatal("the drive is not stored")
		return metadata.DriveRecord{}
	}
	if rec := record(); rec.Node != "n7" || rec.Zone != "z7" || rec.Address != "/data" || rec.State != storagenode.DriveDown {
		t.Fatalf("%+v", rec)
	}
	d.gone = false
	if rec := record(); rec.State != storagenode.DriveActive {
		t.Fatalf("%+v", rec)
	}
}

// TestWelcomeTellsKnownDrives: a node none of whose directories is a drive is
// told which drives it had, whoever answers, and on which file systems where
// that is known; nobody else's, and none that are done with.
func TestWelcomeTellsKnownDrives(t *testing.T) {
	r := newRig(t, "2+1", 4)
	mine, retired, other := r.addDrive("n7", "", storagenode.DriveID{}), r.addDrive("n7", "", storagenode.DriveID{}), r.addDrive("n8", "", storagenode.DriveID{})
	for i, d := range []*disk{mine, retired, other} {
		d.report.Dir, d.report.Device, d.report.Total = fmt.Sprint("/d", i), uint64(7+i), 1000
	}
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(r.cat.EditDrive(r.ctx, retired.report.ID, func(d *metadata.DriveRecord) bool {
		d.State = storagenode.DriveRetired
		return true
	}))
	want := storagenode.KnownDrive{Drive: mine.report.ID, Dir: "/d0", Device: 7, Total: 1000}
	wants := func(rep *Repairer, want storagenode.KnownDrive) {
		t.Helper()
		w, err := rep.Announce(r.ctx, node("n7", "http://n7"))
		if err != nil || len(w.Drives) != 1 || w.Drives[0] != want {
			t.Fatalf("%+v, %v; want %+v", w, err, want)
		}
	}
	mine.gone = true // also when it is away for long
	r.must(r.rep.detectAndPlan(r.ctx))
	wants(r.rep, want)
	want.Device, want.Total = 0, 0 // another process has not seen its report
	wants(r.repairer(r.kv, waiting), want)
	a := node("n7", "http://n7")
	a.Cluster = r.rep.members.cluster
	if w, err := r.rep.Announce(r.ctx, a); err != nil || w.Drives != nil {
		t.Fatalf("to a node that has its drives: %+v, %v", w, err)
	}
}

// TestAnnounceWithoutMetadata: an engine that cannot be reached is an error,
// not a welcome.
func TestAnnounceWithoutMetadata(t *testing.T) {
	r := newRig(t, "2+1", 4)
	s := &seam{Store: r.kv}
	a := r.repairer(s)
	s.cut.Store(true)
	if w, err := a.Announce(r.ctx, node("n", "http://n")); !errors.Is(err, kv.ErrUnavailable) || w.Leads {
		t.Fatalf("%+v %v", w, err)
	}
}

// TestAnnouncedDrivesAreStored: a drive is known to be its node's before anybody
// can write to it, so that what takes its place is known to take it.
func TestAnnouncedDrivesAreStored(t *testing.T) {
	r := newRig(t, "2+1", 4)
	s := &seam{Store: r.kv}
	rep := r.repairer(s)
	r.term(rep)
	drive, old := storagenode.NewUUID(), storagenode.NewUUID()
	a := node("n1", "http://n1")
	a.Drives = []storagenode.DriveReport{{ID: drive, Dir: "/d1", Replaces: old}}
	commits := 0
	s.commit = func(_, writes [][]byte, commit func() error) error {
		if commits += min(1, len(writes)); commits == 1 && len(r.nodes()) > 0 {
			t.Error("the node was stored before its drives")
		}
		return commit()
	}
	for range 3 {
		w, err := rep.Announce(r.ctx, a)
		r.must(err)
		a.Cluster = w.Cluster
	}
	stored := func() (d metadata.DriveRecord) {
		all, err := r.cat.ListDrives(r.ctx)
		r.must(err)
		for _, v := range all {
			if v.ID == drive {
				d = v
			}
		}
		return d
	}
	d := stored()
	if d.Node != "n1" || d.Zone != "z" || d.Address != "/d1" || d.Replaces != old || d.State != storagenode.DriveDown || d.Added.IsZero() {
		t.Fatalf("stored %+v", d)
	}
	if commits != 3 { // the cluster, the drive, the node
		t.Fatalf("%d commits", commits)
	}
	// The node is started again with its directory emptied: it learns what was there.
	again := node("n1", "http://n1")
	w, err := rep.Announce(r.ctx, again)
	r.must(err)
	if len(w.Drives) != 1 || w.Drives[0].Drive != drive || w.Drives[0].Dir != "/d1" {
		t.Fatalf("welcome %+v", w)
	}
	// What metadata knows stays, whoever leads.
	r.must(r.cat.EditDrive(r.ctx, drive, func(d *metadata.DriveRecord) bool { d.State = storagenode.DriveDraining; return true }))
	next := r.repairer(r.kv)
	r.term(next)
	_, err = next.Announce(r.ctx, a)
	r.must(err)
	if d = stored(); d.State != storagenode.DriveDraining {
		t.Fatalf("stored %+v", d)
	}
}

// TestDamageIsAnnounced: what a node has found damaged by itself is repaired
// without anybody reading it, and what it claims wrongly does no harm.
func TestDamageIsAnnounced(t *testing.T) {
	r := newRig(t, "4+2", 6)
	o := r.put("x", 300_000)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.diskOf(o.pg, 3).memory.Corrupt(storagenode.ShardID{PG: o.pg, Slot: 3, Blob: o.blob}, 17)
	a := node("n1", "http://n1")
	a.Damaged = []storagenode.ShardClaim{
		{PG: o.pg, Slot: 3, Blob: o.blob.String()},
		{PG: o.pg, Slot: 2, Blob: o.blob.String()}, // it is well
		{PG: o.pg, Slot: 99, Blob: o.blob.String()},
		{PG: o.pg, Slot: -1, Blob: o.blob.String()},
		{PG: 1 << 30, Slot: 1, Blob: o.blob.String()},
		{PG: o.pg, Slot: 1, Blob: "no blob"},
	}
	waits := r.repairer(r.kv, waiting)
	if w, err := waits.Announce(r.ctx, a); err != nil || w.Leads || len(waits.reader.queue) > 0 {
		t.Fatalf("%+v, %v, %d claims with who does not lead", w, err, len(waits.reader.queue))
	}
	if w, err := r.rep.Announce(r.ctx, a); err != nil || !w.Leads {
		t.Fatal(w, err)
	}
	r.healsClaims(o, 3)
}
