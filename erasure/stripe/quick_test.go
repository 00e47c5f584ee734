package stripe

import (
	"bytes"
	"context"
	"testing"
	"time"

	"kintsugi/storagenode/storetest"
)

// TestOneHungDriveOfAQuickRead: where drives are asked one after another, the
// one that hangs is blamed, and not those that wait behind it.
func TestOneHungDriveOfAQuickRead(t *testing.T) {
	r := newRig(t, "4+2")
	want := noise(1<<20, 1)
	b := r.put(want)
	read := func() error {
		var out bytes.Buffer
		err := r.set.Read(context.Background(), r.group, b, 0, b.Size, &out)
		if err == nil && !bytes.Equal(out.Bytes(), want) {
			t.Fatal("wrong bytes")
		}
		return err
	}
	for i := range r.group.Slots { // as after many reads from memory
		r.set.drives.get(r.group.Slots[i].Drive).large.high.Store(int64(fromMemory / 2))
	}
	r.faulty[0].Inject(storetest.Fault{Ops: storetest.OpRead, Hang: true})
	began := time.Now()
	for range 3 {
		if err := read(); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("three reads beside a hung drive take %s", took)
	}
	for i, slot := range r.group.Slots[1:] {
		if d := r.set.drives.get(slot.Drive); d.hung(time.Now) || d.late.Load() > 0 {
			t.Errorf("slot %d is blamed", i+1)
		}
	}
}
