package main

import (
	"strings"
	"testing"
	"time"

	"kintsugi/repair"
	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc"
)

// TestNodesAtWrongAddresses: who announces itself and is not where it says is
// named with its address and the error; who is away, or new, is not, nor who has
// announced itself to a former leader only.
func TestNodesAtWrongAddresses(t *testing.T) {
	now := time.Now()
	long := now.Add(-time.Minute)
	said := func(name, address string, heard time.Time, living bool) repair.NodeStatus {
		return repair.NodeStatus{Name: name, Address: address, Heard: heard, Living: living}
	}
	got := unreached([]repair.NodeStatus{
		said("good", "http://g", now, true), said("wrong", "http://127.0.0.1:9100", now, true), said("left", "http://l", now, true),
		said("dies", "http://d", now.Add(-5*time.Second), true), said("away", "http://a", long, false), said("new", "http://n", now, true),
		said("twin", "http://g", now, true), said("before", "http://b", time.Time{}, true), said("moved", "http://g", time.Time{}, true),
	}, []rpc.NodeState{
		{Name: "good", Address: "http://g", State: storagenode.DriveActive, Heard: now},
		{Address: "http://127.0.0.1:9100", State: storagenode.DriveDown, Reason: "connection refused"},
		{Name: "left", Address: "http://l", State: storagenode.DriveDown, Heard: long, Reason: "no route"},
		{Name: "dies", Address: "http://d", State: storagenode.DriveDown, Heard: now.Add(-7 * time.Second), Reason: "reset"},
		{Address: "http://b", State: storagenode.DriveDown, Reason: "reset"},
		{Name: "away", Address: "http://a", State: storagenode.DriveDown, Heard: long, Reason: "reset"},
	})
	want := []unreachedNode{{"wrong", "http://127.0.0.1:9100", "connection refused"}, {"left", "http://l", "no route"}, {"twin", "http://g", "node good answers there"}}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
	var out strings.Builder
	if err := writeStatus(&out, adminStatus{Unreached: got}); err != nil || strings.Count(out.String(), "--advertise") != 3 || !strings.Contains(out.String(), "http://127.0.0.1:9100: connection refused") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// TestAddressesThatNobodyReaches are refused before anybody is told of them.
func TestAddressesThatNobodyReaches(t *testing.T) {
	for address, good := range map[string]bool{
		"http://n1:9100": true, "https://[fd00::1]:9100": true, "http://127.0.0.1:9100": true,
		"n1:9100": false, "http://0.0.0.0:9100": false, "http://[::]:9100": false, "http://:9100": false, "": false,
	} {
		if err := checkAdvertised(address); (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
}
