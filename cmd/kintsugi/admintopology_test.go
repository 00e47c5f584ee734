package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/repair"
	"kintsugi/storagenode"
)

func TestTopologyJoinsNodesAndDrives(t *testing.T) {
	drive := func(n byte, node string, state storagenode.DriveState) repair.DriveStatus {
		return repair.DriveStatus{ID: storagenode.DriveID{n}, Node: node, Zone: "b", Dir: "/d" + string('0'+n), State: state, Space: storagenode.Space{Used: 1 << 20, Free: 2 << 20}}
	}
	gone, back := drive(4, "n2", storagenode.DriveRetired), drive(5, "n2", storagenode.DriveRetired)
	gone.Away, back.Reason = time.Now(), "not used"
	nodes := joinNodes(
		[]metadata.NodeRecord{{Name: "n2", Zone: "b", Address: "http://n2:9100"}, {Name: "n1", Zone: "a"}},
		[]repair.DriveStatus{drive(2, "n2", storagenode.DriveDown), drive(1, "n2", storagenode.DriveActive), drive(3, "unknown", storagenode.DriveDown), gone, back},
		map[string]time.Time{"n2": time.Now()})
	var names []string
	for _, n := range nodes {
		names = append(names, n.Zone+"/"+n.Name+"="+n.State)
	}
	if got := strings.Join(names, " "); got != "a/n1=DOWN b/n2=ACTIVE b/unknown=DOWN" {
		t.Fatalf("nodes %s", got)
	}
	if n := nodes[1]; len(n.Drives) != 3 || n.Drives[0].Dir != "/d1" || n.space().Used != 3<<20 {
		t.Fatalf("%+v", n)
	}
	var out bytes.Buffer
	if err := writeTopology(&out, nodes); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"zone a\n", "zone b\n", "  node n2 ", "heard 0s ago", "heard never", "3 MiB used", "DOWN", "not used"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestGroupsTellTheirMargin(t *testing.T) {
	drives := map[storagenode.DriveID]repair.DriveStatus{}
	g := metadata.GroupRecord{Group: erasure.Group{PG: 7, Scheme: erasure.Scheme{K: 2, M: 2}}}
	for i, state := range []storagenode.DriveState{storagenode.DriveActive, storagenode.DriveSuspect, storagenode.DriveDown, storagenode.DriveActive} {
		id := storagenode.DriveID{byte(i + 1)}
		drives[id] = repair.DriveStatus{ID: id, Node: "n" + string(rune('0'+i)), State: state}
		g.Slots = append(g.Slots, storagenode.Slot{Drive: id, Epoch: 1})
	}
	g.Slots[3].State = storagenode.SlotRebuilding
	st := describeGroup(g, drives)
	if st.Live != 2 || st.Margin != 0 || !st.Slots[3].Rebuilding {
		t.Fatalf("%+v", st)
	}
	delete(drives, storagenode.DriveID{1})
	if st = describeGroup(g, drives); st.Live != 1 || st.Margin != -1 || st.Slots[0].State != "UNKNOWN" {
		t.Fatalf("%+v", st)
	}
	var out bytes.Buffer
	if err := writeGroups(&out, []groupStatus{st}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "n2(DOWN) n3(rebuilding)") {
		t.Errorf("%s", out.String())
	}
}

// TestReadyAsksTheRepairer: a number of drives is there when they can be written
// to and the leading repairer knows them as well.
func TestReadyAsksTheRepairer(t *testing.T) {
	var ready readyAnswer
	var list driveList
	leads := true
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/admin/v1/ready":
			_ = json.NewEncoder(w).Encode(ready)
		case r.URL.Path == "/admin/v1/drives" && leads:
			_ = json.NewEncoder(w).Encode(list)
		default:
			http.Error(w, "nobody leads", http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	base, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := &adminClient{base: base, cred: credentials{AccessKey: "access", SecretKey: "secret-of-the-test"}, region: "us-east-1"}
	ask := func(drives int) readyAnswer {
		t.Helper()
		answer, err := awaitReady(t.Context(), client, 0, drives)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	ready = readyAnswer{Ready: true, Scheme: "2+1", Drives: 3}
	list.Drives = []repair.DriveStatus{{State: storagenode.DriveActive}, {State: storagenode.DriveActive}, {State: storagenode.DriveDown}}
	if a := ask(0); !a.Ready {
		t.Errorf("any number: %+v", a)
	}
	if a := ask(4); a.Ready || !strings.Contains(a.Why, "3 drives of 4") {
		t.Errorf("more than can be written to: %+v", a)
	}
	if a := ask(3); a.Ready || !strings.Contains(a.Why, "2 drives of 3") {
		t.Errorf("more than the repairer knows: %+v", a)
	}
	list.Drives[2].State = storagenode.DriveActive
	if a := ask(3); !a.Ready {
		t.Errorf("all are there: %+v", a)
	}
	leads = false
	if a, err := awaitReady(t.Context(), client, 0, 3); err == nil {
		t.Errorf("nobody leads: %+v", a)
	}
}

// remembered is a catalog that knows a group, and whose engine may be away.
type remembered struct {
	metadata.Placement
	metadata.Foundation
	storagenode.Reporter
	away, full error
}

func (r *remembered) OpenGroup(context.Context, int64) (erasure.Group, error) {
	return erasure.Group{Scheme: erasure.Scheme{K: 4, M: 2}}, r.full
}

func (r *remembered) Cluster(context.Context) (storagenode.UUID, error) {
	return storagenode.UUID{1}, r.away
}

func (r *remembered) Reports() []storagenode.DriveReport {
	return []storagenode.DriveReport{{State: storagenode.DriveActive}, {State: storagenode.DriveActive, Space: storagenode.Space{ReadOnly: true}}}
}

// TestReadyCountsNoFullDrives: the answer is for people, and counts the drives that
// can be written to.
func TestReadyCountsNoFullDrives(t *testing.T) {
	r := &remembered{full: fmt.Errorf("open group: %w", metadata.ErrNoPlacement)}
	got, err := placement(r, r, r, erasure.Scheme{K: 4, M: 2})(httptest.NewRequest("GET", "/admin/v1/ready", nil))
	if a, ok := got.(readyAnswer); err != nil || !ok || a.Ready || a.Drives != 1 || a.Why != "1 drive can be written to, which is too few: the others are full or away" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestReadyAsksTheMetadata: nothing can be written while its members are away,
// whatever is remembered of groups and drives.
func TestReadyAsksTheMetadata(t *testing.T) {
	for _, away := range []error{nil, errors.New("no majority")} {
		r := &remembered{away: away}
		got, err := placement(r, r, r, erasure.Scheme{K: 4, M: 2})(httptest.NewRequest("GET", "/admin/v1/ready", nil))
		if answer, ok := got.(readyAnswer); err != nil || !ok || answer.Ready != (away == nil) || away != nil && answer.Why != away.Error() {
			t.Errorf("members %v: %+v, %v", away, got, err)
		}
	}
}

// TestAnswerBreaksOff: a repairer that dies while a command watches it.
func TestAnswerBreaksOff(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("{}\n"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	base, _ := url.Parse(server.URL)
	client := &adminClient{base: base, cred: credentials{AccessKey: "access", SecretKey: "secret-of-the-test"}, region: "us-east-1"}
	err := client.stream(t.Context(), "/admin/v1/repair", nil, func([]byte) (bool, error) { return false, nil })
	if err == nil || !strings.Contains(err.Error(), "run this again") {
		t.Errorf("%v", err)
	}
}
