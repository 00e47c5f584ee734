package repair

import (
	"testing"

	"kintsugi/storagenode"
)

// TestWipedTwiceBetweenLooks: a drive whose place was emptied, and emptied again before
// anybody had seen the first replacement, is replaced all the same, and so is one in
// whose place a drive that was given up before came back and was emptied.
func TestWipedTwiceBetweenLooks(t *testing.T) {
	for _, retired := range []bool{false, true} {
		r := newRig(t, "2+2", 4)
		for i, d := range r.drives.disks {
			d.report.Dir = "/d" + string(rune('1'+i))
		}
		objects := r.some(8)
		r.must(r.rep.detectAndPlan(r.ctx))
		first := r.drives.disks[2].report.ID
		wipe := func(replaces storagenode.DriveID) {
			r.wipe(2)
			r.drives.disks[2].report.Dir = "/d3"
			if !replaces.IsZero() {
				r.drives.disks[2].report.Replaces = replaces
			}
		}
		wipe(storagenode.DriveID{})
		if retired {
			r.heal() // the first is given up
			wipe(first)
		} else {
			wipe(storagenode.DriveID{})
		}
		r.heal()
		r.whole(objects...)
		s := r.rep.Status()
		if want := map[bool]int{false: 1, true: 2}[retired]; s.States["RETIRED"] != want || s.States["DOWN"] != 0 || len(s.Waiting) != 0 {
			t.Fatalf("retired %v: %+v, waiting %v", retired, s.States, s.Waiting)
		}
	}
}
