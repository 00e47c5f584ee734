package main

import (
	"strings"
	"testing"

	"kintsugi/repair"
)

// TestStatusTellsOfStoppedOrphans: what needs an operator's agreement was only in
// the log, and the space did not come back.
func TestStatusTellsOfStoppedOrphans(t *testing.T) {
	var st adminStatus
	var out strings.Builder
	if err := writeStatus(&out, st); err != nil || strings.Contains(out.String(), "agree-orphans") {
		t.Fatalf("%v\n%s", err, &out)
	}
	st.Orphans.Stopped = []repair.StoppedSlot{{PG: 1, Orphans: 2, Blobs: 2}, {PG: 1, Slot: 1, Orphans: 3, Blobs: 40}}
	out.Reset()
	if err := writeStatus(&out, st); err != nil || !strings.Contains(out.String(), "5 shards") ||
		!strings.Contains(out.String(), "2 slots") || !strings.Contains(out.String(), "agree-orphans") {
		t.Fatalf("%v\n%s", err, &out)
	}
}
