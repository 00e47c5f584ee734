package repair

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// TestUrgentGroupsGoNext: while the slots of an emptied drive are rebuilt, which takes
// hours, another drive fails. The groups that survive no more loss since go next, and
// those of its slots that are mapped elsewhere meanwhile as well, not after all others.
func TestUrgentGroupsGoNext(t *testing.T) {
	for _, state := range []storagenode.DriveState{storagenode.DriveDown, storagenode.DriveBroken} {
		t.Run(state.String(), func(t *testing.T) { urgentGroupsGoNext(t, state) })
	}
}

func urgentGroupsGoNext(t *testing.T, state storagenode.DriveState) {
	r := newRig(t, "2+2", 7)
	r.must(r.rep.detectAndPlan(r.ctx))
	var objects []object
	groups := map[storagenode.BlobID]storagenode.PG{}
	for i := range 100 {
		o := r.put(fmt.Sprint("o", i), 300_000)
		groups[o.blob] = o.pg
		objects = append(objects, o)
		r.must(r.cat.Seal(r.ctx, o.pg))
		r.clock.advance(time.Millisecond)
	}
	on := func(pg storagenode.PG, id storagenode.DriveID) bool {
		return slices.ContainsFunc(r.group(pg).Slots, func(s storagenode.Slot) bool { return s.Drive == id })
	}
	var urgent map[storagenode.PG]bool // of a drive that is in few of the emptied one's groups
	other := 0
	for i := range r.drives.disks[1:] {
		both := map[storagenode.PG]bool{}
		for _, o := range objects {
			if on(o.pg, r.drives.disks[0].report.ID) && on(o.pg, r.drives.disks[i+1].report.ID) {
				both[o.pg] = true
			}
		}
		if len(both) >= 2*rebuildsAtOnce && (urgent == nil || len(both) < len(urgent)) {
			urgent, other = both, i+1
		}
	}
	if urgent == nil {
		t.Fatal("no other drive shares groups with the emptied one")
	}
	r.wipe(0)
	r.must(r.rep.detectAndPlan(r.ctx))

	var mu sync.Mutex
	var order []storagenode.PG // groups in the order in which they are begun
	full, release := make(chan struct{}, 2), []chan struct{}{make(chan struct{}), make(chan struct{})}
	r.onFill = func(_ int, b erasure.Blob) {
		mu.Lock()
		wave := len(release)
		if pg := groups[b.ID]; !slices.Contains(order, pg) {
			wave = len(order) / rebuildsAtOnce
			if order = append(order, pg); len(order)%rebuildsAtOnce == 0 && wave < len(release) {
				full <- struct{}{}
			}
		}
		mu.Unlock()
		if wave < len(release) {
			<-release[wave]
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _, _ = r.rep.worker.rebuildSlots(r.ctx)
	}()
	<-full
	r.state(other, state)
	r.must(r.rep.detectAndPlan(r.ctx))
	r.clock.advance(r.rep.cfg.Tick)
	close(release[0])
	<-full
	mu.Lock()
	next := order[rebuildsAtOnce:][:rebuildsAtOnce]
	for _, pg := range next {
		if !urgent[pg] {
			t.Errorf("of %v, which were begun next, %d survives one more loss", next, pg)
		}
	}
	mu.Unlock()
	close(release[1])
	<-ended
	r.onFill = nil
	if state == storagenode.DriveDown {
		r.state(other, storagenode.DriveActive)
	}
	r.heal()
	r.whole(objects...)
}
