package repair

import (
	"errors"
	"strings"
	"testing"

	"kintsugi/storagenode"
)

// TestForgetNode: a node that lives, or that is needed, is kept; one that is gone
// and rebuilt elsewhere is forgotten with its drives, and is new when it returns.
func TestForgetNode(t *testing.T) {
	r := newZones(t, "2+2", 3, 2, 1)
	objects := r.some(12)
	refused := func(name, why string) {
		t.Helper()
		if _, err := r.rep.ForgetNode(r.ctx, name); !errors.Is(err, ErrNotForgettable) || !strings.Contains(err.Error(), why) {
			t.Fatalf("node %s: %v, want %q", name, err, why)
		}
	}
	_, err := r.rep.Announce(r.ctx, node("z2n0", "http://z2n0"))
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	refused("nobody", "no node is called")
	refused("z2n0", "was heard of")
	r.clock.advance(r.rep.cfg.NodeTimeout)
	refused("z2n0", "answers")
	gone := r.all(storagenode.DriveDown, onNode("z2n0"))
	r.must(r.rep.detectAndPlan(r.ctx))
	refused("z2n0", "still has slots")
	v := r.rep.members.members["z2n0"]
	r.rep.members.members["z2n0"] = member{heard: r.clock.Now(), assumed: true}
	refused("z2n0", "may be there")
	r.rep.members.members["z2n0"] = v
	r.passOut()
	r.heal()
	kept := r.drives.disks
	for i := 0; i < len(r.drives.disks); { // nobody speaks of it any more
		if d := r.drives.disks[i]; d.report.Node == "z2n0" {
			r.drives.disks = append(append([]*disk(nil), r.drives.disks[:i]...), r.drives.disks[i+1:]...)
			continue
		}
		i++
	}
	if n, err := r.rep.ForgetNode(r.ctx, "z2n0"); err != nil || n != gone {
		t.Fatalf("%d drives, %v", n, err)
	}
	known := func() (n int) {
		for _, d := range r.rep.Status().Drives {
			if d.Node == "z2n0" {
				n++
			}
		}
		if _, stored := r.nodes()["z2n0"]; stored {
			n++
		}
		return n
	}
	for range 2 {
		if n := known(); n != 0 {
			t.Fatalf("%d traces of it", n)
		}
		r.must(r.rep.detectAndPlan(r.ctx))
	}
	r.heal()
	r.whole(objects...)
	r.drives.disks = kept
	r.all(storagenode.DriveActive, onNode("z2n0"))
	_, err = r.rep.Announce(r.ctx, node("z2n0", "http://z2n0"))
	r.must(err)
	r.must(r.rep.detectAndPlan(r.ctx))
	if n := known(); n != gone+1 {
		t.Fatalf("back again, %d of it are known", n)
	}
	r.heal()
	r.whole(objects...)
}
