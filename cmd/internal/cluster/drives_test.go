package cluster

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"kintsugi/cmd/internal/embedded"
	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// blobs gives every blob that metadata knows.
func (r *rig) blobs() []metadata.BlobRecord {
	r.t.Helper()
	groups, err := r.Catalog.ListGroups(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var all []metadata.BlobRecord
	for _, g := range groups {
		for b, err := range r.Catalog.ScanBlobs(r.t.Context(), g.PG, storagenode.BlobID{}) {
			if err != nil {
				r.t.Fatal(err)
			}
			all = append(all, b)
		}
	}
	return all
}

// countsOn gives how many blobs count on a drive for a shard.
func (r *rig) countsOn(id storagenode.DriveID) int {
	r.t.Helper()
	n := 0
	for _, b := range r.blobs() {
		g, err := r.Catalog.Group(r.t.Context(), b.PG)
		if err != nil {
			r.t.Fatal(err)
		}
		for i, s := range g.Slots {
			if s.Drive == id && b.Blob.Slots.Has(i) && !b.Blob.Missing.Has(i) {
				n++
			}
		}
	}
	return n
}

// TestFailedSync: after one failed fsync a drive acknowledges nothing any
// more, although later ones succeed.
func TestFailedSync(t *testing.T) {
	r := newRig(t, vfs.NewMem(), "/data", nil)
	r.fill("before", 16, 5*time.Second)
	victim := r.victims().plain
	id := r.drive(victim).ID
	r.fault.Inject(vfs.Rule{Ops: vfs.OpSync, Path: victim + "/segments/", Err: syscall.EIO, Times: 1})
	r.fill("during", 8, 5*time.Second)
	r.becomes(victim, storagenode.DriveBroken, 10*time.Second)
	before := r.countsOn(id)
	r.fill("after", 24, 5*time.Second)
	if now := r.countsOn(id); now > before {
		t.Errorf("%d blobs written since count on a drive whose fsync failed", now-before)
	}
	r.readAll(3 * time.Second)
	if rep, err := r.Repairer.Recount(t.Context()); err != nil || rep.Whole || rep.Unreadable > 0 {
		t.Errorf("recount with a broken drive: %+v, %v", rep, err)
	}
	r.wipe(victim) // its disk is exchanged
	r.until(20*time.Second, func() error {
		if d := r.drive(victim); d.ID == id || d.State != storagenode.DriveActive {
			return fmt.Errorf("%s is %s (%s)", victim, d.State, d.Reason)
		}
		return nil
	})
	r.whole()
}

// TestFailedReads: a drive that cannot be read from is answered for by the
// others, given up, and rebuilt once it is replaced.
func TestFailedReads(t *testing.T) {
	r := newRig(t, vfs.NewMem(), "/data", nil)
	r.fill("before", 32, 5*time.Second)
	victim := r.victims().state
	failing := r.fault.Inject(vfs.Rule{Ops: vfs.OpRead, Path: victim + "/", Err: syscall.EIO})
	for range 3 {
		r.readAll(3 * time.Second)
		r.fill("during", 8, 5*time.Second)
	}
	r.until(10*time.Second, func() error {
		if d := r.drive(victim); d.State == storagenode.DriveActive {
			return errors.New("the drive is ACTIVE still")
		}
		return nil
	})
	failing.Release()
	r.wipe(victim)
	r.becomes(victim, storagenode.DriveActive, 20*time.Second)
	r.whole()
}

// TestOneDriveFull: a drive without space takes nothing, serves on, and gets
// what it missed when there is space again.
func TestOneDriveFull(t *testing.T) {
	kinds := map[string]func(victims) string{
		"plain":  func(v victims) string { return v.plain },
		"state":  func(v victims) string { return v.state },
		"member": func(v victims) string { return v.member },
	}
	for name, of := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, vfs.NewMem(), "/data", nil)
			r.fill("before", 24, 5*time.Second)
			victim := of(r.victims())
			full := r.fault.Inject(vfs.Rule{
				Ops: vfs.OpCreate | vfs.OpWrite | vfs.OpAllocate | vfs.OpMkdir, Path: victim + "/", Err: syscall.ENOSPC,
			})
			for end := time.Now().Add(time.Second); time.Now().Before(end); {
				r.fill("during", 16, 5*time.Second)
				r.readAll(3 * time.Second)
			}
			if d := r.drive(victim); d.State == storagenode.DriveBroken {
				t.Errorf("a full drive is %s: %s", d.State, d.Reason)
			}
			full.Release()
			r.fill("after", 16, 5*time.Second)
			r.whole()
			r.close()
			r.open()
			r.whole()
		})
	}
}

// TestDrainToDrivesThatFillUp: two of the drives that the slots of a drained one can go
// to find no space any more when they have taken a part. The slots go on to others, and
// what was begun is dropped.
func TestDrainToDrivesThatFillUp(t *testing.T) {
	r := newRig(t, vfs.NewMem(), "/data", func(c *embedded.Config) { c.Scheme = erasure.Scheme{K: 1, M: 1} })
	r.fill("before", 64, 5*time.Second)
	from := r.drive(r.victims().plain).ID
	full := map[storagenode.DriveID]bool{}
	for _, d := range r.Node.Reports() {
		if d.ID != from && len(full) < 2 {
			full[d.ID] = true
			r.fault.Inject(vfs.Rule{
				Ops: vfs.OpCreate | vfs.OpWrite | vfs.OpAllocate, Path: d.Dir + "/segments/", Skip: 12, Err: syscall.ENOSPC,
			})
		}
	}
	if _, err := r.Repairer.Drain(t.Context(), from); err != nil {
		t.Fatal(err)
	}
	r.until(40*time.Second, func() error {
		for _, d := range r.Repairer.Status().Drives {
			if d.ID == from && d.State != storagenode.DriveDrained {
				return fmt.Errorf("drive is %s: %+v", d.State, r.Repairer.Status().Waiting)
			}
		}
		return nil
	})
	r.readAll(3 * time.Second)
	r.fault.Clear()
	r.whole()
}

// TestAllDrivesFull fills the file system with objects until writes are
// refused; reads and deletes work on, and make space for writes again.
func TestAllDrivesFull(t *testing.T) {
	mem := vfs.NewMem()
	r := newRig(t, mem, "/data", func(c *embedded.Config) { c.Grace = -1 })
	mem.SetCapacity(192 << 20)
	r.close()
	if err := mem.RemoveAll("/data"); err != nil {
		t.Fatal(err)
	}
	r.open() // by the capacity now
	var refused error
	n := 0
	for ; refused == nil && n < 2000; n++ {
		key, p := fmt.Sprintf("fill%04d", n), r.payload(5+n%2)
		if refused = r.Put(t.Context(), key, p); refused == nil {
			r.objects[key] = p
		}
	}
	if refused == nil {
		t.Fatal("192 MiB do not get full")
	}
	t.Logf("%d objects, then: %v", n-1, refused)
	r.readAll(3 * time.Second)
	kept := map[string][]byte{}
	for key, p := range r.objects {
		if len(kept) < len(r.objects)/4 {
			kept[key] = p
			continue
		}
		if err := r.Delete(t.Context(), key); err != nil {
			t.Fatalf("delete on full drives: %v", err)
		}
	}
	r.objects = kept
	r.readAll(3 * time.Second)
	r.until(30*time.Second, func() error { return r.Put(t.Context(), "again", r.payload(5)) })
	if err := r.Delete(t.Context(), "again"); err != nil {
		t.Fatal(err)
	}
	r.whole()
	for _, d := range r.Node.Reports() {
		if d.State != storagenode.DriveActive {
			t.Errorf("%s is %s: %s", d.Dir, d.State, d.Reason)
		}
	}
}

// TestFilledByOthers: a stranger fills the file system of all drives to the
// last byte. Nothing can be written then; everything can be read, the process
// lives, and all goes on when there is space again.
func TestFilledByOthers(t *testing.T) {
	r := newRig(t, vfs.NewMem(), "/data", nil)
	r.fill("before", 24, 5*time.Second)
	full := r.fault.Inject(vfs.Rule{
		Ops: vfs.OpCreate | vfs.OpWrite | vfs.OpAllocate | vfs.OpMkdir, Path: "/data/", Err: syscall.ENOSPC,
	})
	refused := 0
	for i := range 6 {
		if err := r.Put(t.Context(), fmt.Sprintf("none%d", i), r.payload(i+1)); err != nil {
			refused++
		} else {
			t.Errorf("write %d was acknowledged where nothing can be written", i)
		}
		r.readAll(5 * time.Second)
	}
	if refused == 0 {
		t.Error("no write was refused")
	}
	full.Release()
	r.until(30*time.Second, func() error { return r.Put(t.Context(), "again", r.payload(3)) })
	r.whole()
	r.close()
	r.open()
	r.whole()
}

// TestDrivesComeAndGo takes drives away by renaming them, brings them back,
// and empties two at once, with the journal's state among them.
func TestDrivesComeAndGo(t *testing.T) {
	mem := vfs.NewMem()
	r := newRig(t, mem, "/data", nil)
	r.fill("before", 24, 5*time.Second)
	v := r.victims()
	for _, dir := range []string{v.state, v.member} {
		if err := mem.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
	}
	r.readAll(5 * time.Second)
	for _, dir := range []string{v.state, v.member} { // until then writes may be refused
		r.becomes(dir, storagenode.DriveDown, 5*time.Second)
	}
	for range 3 {
		r.readAll(5 * time.Second)
		r.fill("away", 8, 8*time.Second)
	}
	for _, dir := range []string{v.state, v.member} {
		if err := mem.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
		r.becomes(dir, storagenode.DriveActive, 10*time.Second)
	}
	r.whole()
	v = r.victims()
	ids := map[string]storagenode.DriveID{v.state: r.drive(v.state).ID, v.plain: r.drive(v.plain).ID}
	for dir := range ids {
		r.wipe(dir)
	}
	r.readAll(5 * time.Second)
	for dir, id := range ids {
		r.until(10*time.Second, func() error {
			if d := r.drive(dir); d.ID == id || d.State != storagenode.DriveActive {
				return fmt.Errorf("%s is %s (%s), id %s", dir, d.State, d.Reason, d.ID)
			}
			return nil
		})
	}
	r.fill("wiped", 16, 8*time.Second)
	r.whole()
}

// TestThreeDrivesGone: with more drives away than may be lost nothing is
// answered as absent, and all is back when one is.
func TestThreeDrivesGone(t *testing.T) {
	mem := vfs.NewMem()
	r := newRig(t, mem, "/data", nil)
	r.fill("before", 32, 5*time.Second)
	dirs := Six("/data")[1:4]
	for _, dir := range dirs {
		if err := mem.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // before and after it is noticed
		failed := 0
		for key, p := range r.objects {
			got, found, err := r.Get(t.Context(), key)
			switch {
			case err == nil && !found:
				t.Errorf("%s: answered as absent", key)
			case err == nil && string(got) != string(p):
				t.Errorf("%s: wrong bytes", key)
			case err != nil:
				failed++
			}
		}
		for _, dir := range dirs {
			if r.drive(dir).State == storagenode.DriveActive && failed == 0 {
				r.becomes(dir, storagenode.DriveDown, 5*time.Second)
			}
		}
	}
	for _, dir := range dirs[:1] {
		if err := mem.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
	}
	r.until(20*time.Second, func() error {
		for key, p := range r.objects {
			got, found, err := r.Get(t.Context(), key)
			if err != nil || !found || string(got) != string(p) {
				return fmt.Errorf("%s: found %v: %w", key, found, err)
			}
		}
		return nil
	})
	for _, dir := range dirs[1:] {
		if err := mem.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
		r.becomes(dir, storagenode.DriveActive, 10*time.Second)
	}
	r.whole()
}
