package rpc

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/storetest"
)

// TestNoRouteAnswersUnauthenticated goes through the server's own list.
func TestNoRouteAnswersUnauthenticated(t *testing.T) {
	store := storetest.NewFaulty(storetest.NewMemory())
	r := newRig(t, store)
	routes := append(r.server.routes(), route{method: "GET", path: "/v1/nothing"}, route{method: "GET", path: "/"})
	if len(routes) < 12 {
		t.Fatalf("%d routes", len(routes))
	}
	fresh := &http.Transport{DisableKeepAlives: true} // what was idle the server may just be closing
	for _, route := range routes {
		path := strings.ReplaceAll(route.path, "{drive}", testDrive.String())
		for _, method := range []string{route.method, "GET", "POST", "PUT", "HEAD", "OPTIONS"} {
			for _, ticket := range []string{"", "Kintsugi1 ", "Kintsugi1 " + strings.Repeat("A", 112), "Basic cm9vdDpyb290"} {
				q, err := http.NewRequestWithContext(t.Context(), method, r.http.URL+path, strings.NewReader(strings.Repeat("x", 50)))
				if err != nil {
					t.Fatal(err)
				}
				if ticket != "" {
					q.Header.Set("Authorization", ticket)
				}
				resp, err := fresh.RoundTrip(q)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s %s with %q: answer %d", method, path, ticket, resp.StatusCode)
				}
			}
		}
	}
	if n := store.Calls(storetest.OpAny); n != 0 {
		t.Errorf("%d calls reached the drive", n)
	}
}

func TestReports(t *testing.T) {
	r := newRig(t, storetest.NewMemory())
	r.drives.set(storagenode.DriveID{5}, nil)
	got, err := r.client.Reports(t.Context(), false)
	if err != nil || got.Cluster != testCluster || got.Name != "n1" || len(got.Drives) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, d := range got.Drives {
		if d.Node != "n1" || d.Zone != "z1" || d.Space.Total != 100 || d.Replaces != (storagenode.DriveID{9}) {
			t.Errorf("%+v", d)
		}
		if _, open := got.Lives[d.ID]; open != (d.ID == testDrive) {
			t.Errorf("drive %s is open: %v", d.ID, open)
		}
	}
	again, err := r.client.Reports(t.Context(), false)
	if err != nil || again.Lives[testDrive] != got.Lives[testDrive] {
		t.Fatalf("the life of an open drive changed: %v, %v", again.Lives, err)
	}
}

// TestListInPages: more than a page, within one blob too.
func TestListInPages(t *testing.T) {
	store := storetest.NewMemory()
	r := newRig(t, store)
	d := r.drive(r.client)
	var want []storagenode.ShardID
	for blob := range uint64(40) {
		n := uint32(7)
		if blob == 20 {
			n = 2*pageShards + 5
		}
		for stripe := range n {
			id := shardID(blob, stripe)
			want = append(want, id)
			if _, err := store.Put(t.Context(), storetest.NewShard(id, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := store.Sync(t.Context(), storagenode.Token(len(want))); err != nil {
		t.Fatal(err)
	}
	for _, after := range []storagenode.BlobID{{}, storetest.Blob(3), storetest.Blob(19), storetest.Blob(20), storetest.Blob(39)} {
		var got []storagenode.ShardID
		for info, err := range d.List(t.Context(), 1, 2, after) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, info.ID)
		}
		rest := slices.DeleteFunc(slices.Clone(want), func(id storagenode.ShardID) bool { return id.Blob.Compare(after) <= 0 })
		if !slices.Equal(got, rest) {
			t.Errorf("after %s: %d shards, want %d, or in another order", after, len(got), len(rest))
		}
	}
}

// TestHungDriveLeavesTheOthersAlone: calls hang in one drive until it is full;
// it then answers busy, and the other drive goes on.
func TestHungDriveLeavesTheOthersAlone(t *testing.T) {
	hung := storetest.NewFaulty(storetest.NewMemory())
	// The least memory there is: one payload for a drive.
	r := newRigWith(t, ServerConfig{DriveCalls: 4, Wait: 20 * time.Millisecond, MemoryBytes: 1}, hung)
	other := storagenode.DriveID{6}
	r.drives.set(other, storetest.NewMemory())
	reports, err := r.client.Reports(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	f := hung.Inject(storetest.Fault{Hang: true})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	bad, good := r.client.Drive(testDrive, reports.Lives[testDrive]), r.client.Drive(other, reports.Lives[other])
	wait := func(n int) {
		for f.Waiting() < n {
			time.Sleep(time.Millisecond)
		}
	}
	all.Go(func() { _, _ = bad.Put(ctx, storetest.NewShard(shardID(1, 0), storagenode.MaxPayload)) })
	wait(1)
	// The drive's memory is used up.
	_, err = bad.Put(ctx, storetest.NewShard(shardID(2, 0), storagenode.MaxPayload))
	if !errors.Is(err, storagenode.ErrUnavailable) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("without memory: %v", err)
	}
	for range 3 {
		all.Go(func() { _ = bad.Sync(ctx, 1) })
	}
	wait(4)
	// Its places too.
	if _, err = bad.Stat(ctx, shardID(1, 0)); !errors.Is(err, storagenode.ErrUnavailable) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("without places: %v", err)
	}
	put(t, good, storetest.NewShard(shardID(1, 0), storagenode.MaxPayload))
}

// TestBodiesAreBounded: what a head claims beyond the limits, or does not
// agree with the body, is refused, signed as it may be.
func TestBodiesAreBounded(t *testing.T) {
	r := newRig(t, storetest.NewMemory())
	d := r.drive(r.client)
	send := func(h putHead, bulk int) error {
		head := d.head()
		*head = appendPut(*head, &h)
		return d.do(t.Context(), "put", head, make([]byte, bulk), func(r *wireReader) error { r.b = nil; return nil })
	}
	sums := storagenode.AppendSums(nil, make([]byte, 100))
	base := putHead{life: d.life, payload: 100, shard: storagenode.Shard{Sums: sums}}
	if err := send(base, 100); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*putHead){
		"payload":    func(h *putHead) { h.payload = storagenode.MaxPayload + 1 },
		"shorter":    func(h *putHead) { h.payload = 99 },
		"longer":     func(h *putHead) { h.payload = 101 },
		"attributes": func(h *putHead) { h.shard.Attrs = make([]byte, storagenode.MaxAttrs+1) },
		"no sums":    func(h *putHead) { h.shard.Sums = nil },
		"wrong sums": func(h *putHead) { h.shard.Sums = []uint64{1} },
		"more sums":  func(h *putHead) { h.shard.Sums = []uint64{sums[0], 1} },
	} {
		h := base
		change(&h)
		if err := send(h, 100); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	big := d.head()
	*big = append(*big, make([]byte, auth.MaxHead+1)...)
	if err := d.do(t.Context(), "put", big, nil, nil); err == nil {
		t.Error("a head beyond the limit passes")
	}
	if err := send(base, 100); err != nil {
		t.Fatalf("a good one afterwards: %v", err)
	}
}

// TestMetrics: calls are counted by what they said.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	r := newRigWith(t, ServerConfig{Registerer: reg}, storetest.NewMemory())
	d := r.drive(r.client)
	put(t, d, storetest.NewShard(shardID(1, 0), 10))
	for _, id := range []storagenode.ShardID{shardID(1, 0), shardID(2, 0)} {
		_, _ = d.ReadAt(t.Context(), id, 0, make([]byte, 100)) // the second is not there
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() != "drive" && l.GetName() != "dir" {
					key += " " + l.GetValue()
				}
			}
			got[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for key, want := range map[string]float64{
		"kintsugi_node_calls_total put ok": 1, "kintsugi_node_calls_total sync ok": 1, "kintsugi_node_calls_total read ok": 1,
		"kintsugi_node_calls_total read not_found": 1, "kintsugi_node_call_seconds read": 2,
		"kintsugi_node_drive_bytes free": 90, "kintsugi_node_drive_state ACTIVE": 1,
	} {
		if got[key] != want {
			t.Errorf("%s: %v, want %v", key, got[key], want)
		}
	}
}
