package cluster

import (
	"testing"
	"time"

	"kintsugi/cmd/internal/embedded"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// TestHungDrive lets one drive hang, in reads or in changes, for longer than
// patience lasts: the rest serves on in bounded time, the drive is noticed,
// and once it answers it gets what it missed.
func TestHungDrive(t *testing.T) {
	t.Parallel()
	const reads = vfs.OpOpen | vfs.OpRead | vfs.OpStat | vfs.OpList
	kinds := []struct {
		name string
		ops  vfs.Op
		of   func(victims) string
		long bool
	}{
		{"state in reads", reads, func(v victims) string { return v.state }, false},
		{"member in changes", vfs.OpChange, func(v victims) string { return v.member }, false},
		{"state in changes", vfs.OpChange, func(v victims) string { return v.state }, true},
		{"member in reads", reads, func(v victims) string { return v.member }, true},
		{"plain in reads", reads, func(v victims) string { return v.plain }, true},
		{"plain in changes", vfs.OpChange, func(v victims) string { return v.plain }, true},
	}
	for _, k := range kinds {
		if k.long && testing.Short() {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			hungDrive(t, k.ops, k.of)
		})
	}
}

func hungDrive(t *testing.T, ops vfs.Op, of func(victims) string) {
	r := newRig(t, vfs.OS(), t.TempDir(), func(c *embedded.Config) {
		c.SegmentSize, c.LogSize, c.SnapshotAfter = 0, 0, 0
		c.Poll = 500 * time.Millisecond
	})
	r.fill("before", 24, 5*time.Second)
	victim := of(r.victims())
	began := time.Now()
	hang := r.fault.Inject(vfs.Rule{Ops: ops, Path: victim + "/", Hang: true})
	// An operation may wait for a slot (2 s), for the journal to leave a member
	// behind (2 s), or for its state to be found hung (2 s) and built anew on
	// another drive; the last whenever a read first misses the state's caches.
	r.fill("first", 1, 8*time.Second)
	r.readAll(5 * time.Second)
	for i := 0; time.Since(began) < 8*time.Second; i++ {
		r.readAll(5 * time.Second)
		r.fill("during", 8, 5*time.Second)
	}
	if hang.Hits() == 0 {
		t.Fatal("nothing hung: the test is wrong")
	}
	r.until(12*time.Second, func() error {
		if d := r.drive(victim); d.State == storagenode.DriveActive {
			return errHangs
		}
		return nil
	})
	r.readAll(3 * time.Second)
	hang.Release()
	r.becomes(victim, storagenode.DriveActive, 15*time.Second)
	r.fill("after", 8, 5*time.Second)
	r.whole()
}

// TestStartWithAHungDrive starts the store while one drive, which has the journal as
// well, hangs in whatever it is asked: it serves all the same, and the drive gets what
// it missed when it answers.
func TestStartWithAHungDrive(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits out a start's patience")
	}
	t.Parallel()
	r := newRig(t, vfs.OS(), t.TempDir(), func(c *embedded.Config) {
		c.SegmentSize, c.LogSize, c.SnapshotAfter = 0, 0, 0
		c.Poll = 500 * time.Millisecond
	})
	r.fill("before", 24, 5*time.Second)
	victim := r.victims().member
	r.close()
	hang := r.fault.Inject(vfs.Rule{
		Ops: vfs.OpOpen | vfs.OpRead | vfs.OpStat | vfs.OpList | vfs.OpChange, Path: victim + "/", Hang: true,
	})
	began := time.Now()
	r.open()
	if took := time.Since(began); took > 2*time.Minute {
		t.Errorf("the start took %s", took)
	}
	if hang.Hits() == 0 {
		t.Fatal("nothing hung: the test is wrong")
	}
	r.readAll(5 * time.Second)
	r.fill("during", 8, 8*time.Second)
	if d := r.drive(victim); d.State != storagenode.DriveDown {
		t.Errorf("the drive that hangs is %s: %s", d.State, d.Reason)
	}
	hang.Release()
	r.becomes(victim, storagenode.DriveActive, 15*time.Second)
	r.fill("after", 8, 5*time.Second)
	r.whole()
}
