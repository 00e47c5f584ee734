package repair

import (
	"testing"

	"kintsugi/storagenode"
)

// TestDrivesThatNobodyServes say why they are away: a directory left out of the
// command line was DOWN without a word.
func TestDrivesThatNobodyServes(t *testing.T) {
	r := newRig(t, "2+1", 4)
	r.must(r.rep.detectAndPlan(r.ctx))
	id := r.drives.disks[1].report.ID
	r.drives.mu.Lock()
	r.drives.disks[1].gone = true
	r.drives.mu.Unlock()
	r.must(r.rep.detectAndPlan(r.ctx))
	for _, d := range r.rep.Status().Drives {
		if away := d.ID == id; away != (d.Reason == unserved) || away != (d.State == storagenode.DriveDown) {
			t.Errorf("%s is %s: %q", d.ID, d.State, d.Reason)
		}
	}
}
