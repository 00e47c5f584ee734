package main

import (
	"strings"
	"testing"
	"time"

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
	st.Orphans.Restored = true
	out.Reset()
	if err := writeStatus(&out, st); err != nil || !strings.Contains(out.String(), "agree-orphans") || !strings.Contains(out.String(), "restored from a dump") {
		t.Fatalf("%v\n%s", err, &out)
	}
	st.Orphans.Restored = false
	st.Orphans.Stopped = []repair.StoppedSlot{{PG: 1, Orphans: 2, Blobs: 2}, {PG: 1, Slot: 1, Orphans: 3, Blobs: 40}}
	out.Reset()
	if err := writeStatus(&out, st); err != nil || !strings.Contains(out.String(), "5 shards") ||
		!strings.Contains(out.String(), "2 slots") || !strings.Contains(out.String(), "agree-orphans") {
		t.Fatalf("%v\n%s", err, &out)
	}
}

// TestVerdict: nothing is said of blobs before they were counted, and "not yet
// counted" of none that were.
func TestVerdict(t *testing.T) {
	counted := repair.Durability{At: time.Unix(1, 0), Blobs: 3, Bytes: 1024, Full: 3}
	whole, broken := &repair.Report{Whole: true}, &repair.Report{}
	for name, c := range map[string]struct {
		st    adminStatus
		lines []string
	}{
		"just started":       {adminStatus{}, []string{"state      not yet counted\n", "blobs      not yet counted\n"}},
		"not yet recounted":  {adminStatus{Status: repair.Status{Durability: counted}}, []string{"first recount", "blobs      3, 1 KiB"}},
		"damage was found":   {adminStatus{Status: repair.Status{Durability: counted, Recount: broken}}, []string{"admin repair"}},
		"changed since":      {adminStatus{Status: repair.Status{Durability: counted, Recount: whole}}, []string{"being counted"}},
		"a member is away":   {adminStatus{Status: repair.Status{Durability: counted, Recount: whole}, Metadata: metadataStatus{Degraded: "1 of 3"}}, []string{"state      no blob is known to lack shards, but the metadata", "; 1 of 3\n"}},
		"both":               {adminStatus{Status: repair.Status{Durability: counted, Recount: broken}, Metadata: metadataStatus{Degraded: "1 of 3"}}, []string{"admin repair", "; 1 of 3\n"}},
		"whole":              {adminStatus{Status: repair.Status{Durability: counted, Recount: whole, Whole: true}}, []string{"state      whole"}},
		"drives are missing": {adminStatus{Status: repair.Status{Durability: repair.Durability{At: time.Unix(1, 0), Blobs: 3, Full: 1}}}, []string{"degraded: 2 of 3"}},
	} {
		var out strings.Builder
		if err := writeStatus(&out, c.st); err != nil {
			t.Fatal(err)
		}
		for _, line := range c.lines {
			if !strings.Contains(out.String(), line) {
				t.Errorf("%s: no %q in\n%s", name, line, &out)
			}
		}
		if !c.st.Durability.At.IsZero() && strings.Contains(out.String(), "not yet counted") {
			t.Errorf("%s: not yet counted?\n%s", name, &out)
		}
	}
}
