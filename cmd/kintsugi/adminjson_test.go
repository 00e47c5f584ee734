package main

import (
	"encoding/json"
	"strings"
	"testing"

	"kintsugi/metadata/kv/etcd"
	"kintsugi/metadata/kv/journal"
	"kintsugi/repair"
)

// TestKeysOfJSON: what --json prints has keys in lower case throughout, so that
// nobody has to look up where .space.Free begins with a capital.
func TestKeysOfJSON(t *testing.T) {
	drives := []repair.DriveStatus{{}}
	for name, v := range map[string]any{
		"status": adminStatus{Status: repair.Status{Drives: drives, Recount: &repair.Report{}}, Metadata: metadataStatus{Journal: &journal.Status{}}},
		"nodes":  nodeStatus{Drives: drives}, "pgs": groupStatus{Slots: []slotStatus{{}}}, "ready": readyAnswer{},
		"verify": verifyLine{}, "repair": repairLine{Report: &repair.Report{}}, "members": etcd.Member{},
	} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var back any
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		lowerKeys(t, name, back)
	}
}

// lowerKeys looks at the keys of a JSON value at any depth.
func lowerKeys(t *testing.T, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			if key[:1] != strings.ToLower(key[:1]) {
				t.Errorf("%s: a key %q", path, key)
			}
			lowerKeys(t, path+"."+key, inner)
		}
	case []any:
		for _, inner := range v {
			lowerKeys(t, path+"[]", inner)
		}
	}
}
