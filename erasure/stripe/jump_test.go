package stripe

import (
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// TestDriveIsNotMovedByTheDate: for how long a drive is left out is counted, not
// told by the date, which may be set forwards or back meanwhile.
func TestDriveIsNotMovedByTheDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock.Wrong
		set := New(Config{Clock: &c})
		d := set.drives.get(storagenode.DriveID{1})
		hung := call{drive: d}
		hung.hang(c.Now())
		hung.done()
		c.Jump(time.Hour)
		if !d.stuck(c.Now) {
			t.Error("read again at once because the date was set forwards")
		}
		c.Jump(-time.Hour)
		time.Sleep(2 * hungFor)
		if d.stuck(c.Now) {
			t.Error("left out for an hour because the date was set back")
		}
	})
}
