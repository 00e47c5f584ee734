package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"kintsugi/repair"
	"kintsugi/storagenode"
)

// TestStatusOfSharedDisks: directories of one file system are one disk's space,
// a drive that is away has none, and its slots wait in one line.
func TestStatusOfSharedDisks(t *testing.T) {
	const gib = 1 << 30
	space := storagenode.Space{Total: 100 * gib, Used: 40 * gib, Free: 55 * gib}
	st := adminStatus{Status: repair.Status{
		Drives: []repair.DriveStatus{
			{ID: storagenode.DriveID{1}, Node: "a", Device: 7, Space: space},
			{ID: storagenode.DriveID{2}, Node: "a", Device: 7, Space: space},
			{ID: storagenode.DriveID{3}, Node: "b", Device: 7, Space: space},
			{ID: storagenode.DriveID{4}, Node: "b", State: storagenode.DriveDown},
		},
		States: map[string]int{"ACTIVE": 3, "DOWN": 1},
		Waiting: []repair.WaitingSlot{
			{PG: 1, Slot: 2, Drive: storagenode.DriveID{4}, Why: "away"},
			{PG: 2, Slot: 0, Drive: storagenode.DriveID{4}, Why: "away"},
			{PG: 3, Slot: 0, Drive: storagenode.DriveID{5}, Why: "no room", Needs: 3 * gib},
			{PG: 4, Slot: 0, Drive: storagenode.DriveID{5}, Why: "no room", Needs: 2 * gib},
			{PG: 5, Slot: 1, Drive: storagenode.DriveID{6}, Why: "no room", Needs: gib},
		},
	}}
	st.Tasks = []repair.Task{{Kind: repair.Scrub, What: "drive 1"}, {Kind: repair.Damage, What: "blobs", BytesTotal: 10}}
	st.Drives[2].Space.ReadOnly = true
	var out bytes.Buffer
	if err := writeStatus(&out, st); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"drives     3 ACTIVE, 1 DOWN, 1 of them full: read-only; 80 GiB used of 200 GiB, 3 drives on 2 file systems\n",
		"waiting    2 slots of drive 04000000-0000-0000-0000-000000000000: away\n",
		"2 slots of drive 05000000-0000-0000-0000-000000000000: no room, 3 GiB for the largest and 5 GiB in all; add drives, or delete objects\n",
		"1 slot of drive 06000000-0000-0000-0000-000000000000: no room, 1 GiB; add a drive, or delete objects\n",
		"DOWN    -       -  ",
		"  scrub      drive 1\n", // nobody knows how far it is
		"  damage     blobs [░░░░░░░░░░░░░░░░░░░░]   0%  0 B of 10 B\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// TestRetiredDrives: one that came back is listed and says why it is not used.
func TestRetiredDrives(t *testing.T) {
	var out bytes.Buffer
	err := writeDrives(&out, []repair.DriveStatus{
		{ID: storagenode.DriveID{1}, State: storagenode.DriveRetired, Away: time.Unix(1, 0)},
		{ID: storagenode.DriveID{2}, State: storagenode.DriveRetired, Reason: "not used"},
	})
	if text := out.String(); err != nil || strings.Contains(text, "01000000") || !strings.Contains(text, "not used") {
		t.Errorf("%v\n%s", err, text)
	}
}
