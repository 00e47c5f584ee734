package rpc

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// small is the last shard of a blob that can be staged.
func small(blob uint64, size int) storagenode.Shard {
	s := storetest.NewShard(shardID(blob, 0), size)
	s.Last = true
	return s
}

// stageAll stages shards while nothing leaves, lets them go together, and gives
// how each ended.
func stageAll(t *testing.T, d *Drive, shards ...storagenode.Shard) []error {
	t.Helper()
	await, release := d.stage.waiting.Hold()
	ended := make([]error, len(shards))
	var left sync.WaitGroup
	for i, s := range shards {
		left.Add(1)
		// The caller's memory is its own again at once.
		s.Payload, s.Attrs = bytes.Clone(s.Payload), bytes.Clone(s.Attrs)
		if !d.Stage(s, func(err error) { ended[i] = err; left.Done() }) {
			t.Fatalf("shard %d was not staged", i)
		}
		clear(s.Payload)
		clear(s.Attrs)
	}
	await(len(shards))
	release()
	left.Wait()
	return ended
}

// TestStagedShardsTravelTogether: one call, and each has an end of its own.
func TestStagedShardsTravelTogether(t *testing.T) {
	store := storetest.NewFaulty(storetest.NewMemory())
	r := newRig(t, store)
	d := r.drive(r.client)
	if err := d.SetSlotEpoch(t.Context(), 1, 2, 3); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(t.Context(), 1, 2, storetest.Blob(7)); err != nil {
		t.Fatal(err)
	}
	var shards []storagenode.Shard
	for i := range uint64(10) {
		s := small(i+1, int(i)*7000)
		s.SlotEpoch = 3
		shards = append(shards, s)
	}
	shards[2].SlotEpoch = 2
	shards[4].Sums = []uint64{1} // as if a bit had flipped on the way
	calls := r.posts.Load()
	ended := stageAll(t, d, shards...)
	if n := r.posts.Load() - calls; n != 1 {
		t.Errorf("%d calls", n)
	}
	for i, err := range ended {
		want := map[int]error{2: storagenode.ErrStaleEpoch, 4: storagenode.ErrUnavailable, 6: storagenode.ErrDeleted}[i]
		if !errors.Is(err, want) {
			t.Errorf("shard %d: %v, want %v", i, err, want)
		}
		got := make([]byte, len(shards[i].Payload))
		n, err := store.ReadAt(t.Context(), shards[i].ID, 0, got)
		if want == nil && (n != len(got) || !bytes.Equal(got, shards[i].Payload)) {
			t.Errorf("shard %d: %d bytes, %v", i, n, err)
		}
		if info, err := store.Stat(t.Context(), shards[i].ID); want != nil && err == nil || want == nil && !bytes.Equal(info.Attrs, shards[i].Attrs) {
			t.Errorf("shard %d: %+v, %v", i, info, err)
		}
	}
	if n := d.stage.bytes.Load(); n != 0 {
		t.Errorf("%d bytes count as under way", n)
	}
}

// TestStagedShardIsSynced: its end is that of its sync.
func TestStagedShardIsSynced(t *testing.T) {
	store := storetest.NewFaulty(storetest.NewMemory())
	r := newRig(t, store)
	d := r.drive(r.client)
	store.Inject(storetest.Fault{Ops: storetest.OpSync, Err: storagenode.ErrBroken, Times: 1})
	ended := stageAll(t, d, small(1, 10), small(2, 10))
	if !errors.Is(ended[0], storagenode.ErrBroken) || ended[1] != nil {
		t.Errorf("%v", ended)
	}
}

// TestStagedInAnotherLife: what a drive took before it was opened anew may be
// lost, so all of a group is refused, and the fleet hears of it.
func TestStagedInAnotherLife(t *testing.T) {
	r := newRig(t, storetest.NewMemory())
	var heard atomic.Int32
	r.client.watch.otherLife = func(*Drive) { heard.Add(1) }
	d := r.drive(r.client)
	next := storetest.NewFaulty(storetest.NewMemory())
	r.drives.set(testDrive, next)
	for _, err := range stageAll(t, d, small(1, 10), small(2, 0)) {
		if !errors.Is(err, errOtherLife) {
			t.Errorf("%v", err)
		}
	}
	if heard.Load() == 0 || next.Calls(storetest.OpPut) != 0 {
		t.Errorf("heard %d times, %d puts", heard.Load(), next.Calls(storetest.OpPut))
	}
}

// TestStageForAnOlderNode: a node that has only single puts gets those, is not
// taken for broken, and is not asked for the other again.
func TestStageForAnOlderNode(t *testing.T) {
	store := storetest.NewFaulty(storetest.NewMemory())
	r := newRig(t, store)
	r.without("puts")
	r.client.watch.failed = func(err error) { t.Errorf("counts as a failure of the node: %v", err) }
	d := r.drive(r.client)
	shards := []storagenode.Shard{small(1, 100), small(2, 0), small(3, 64<<10)}
	for i, err := range stageAll(t, d, shards...) {
		if err != nil {
			t.Errorf("shard %d: %v", i, err)
		}
		if _, err := store.Stat(t.Context(), shards[i].ID); err != nil {
			t.Errorf("shard %d: %v", i, err)
		}
	}
	if d.Stage(small(4, 1), func(error) { t.Error("an end of what was not staged") }) {
		t.Error("staged again")
	}
}

// TestStageOfASilentNode: what waits is bounded, and ends when the call's time is
// up.
func TestStageOfASilentNode(t *testing.T) {
	silent := make(chan struct{})
	store := storetest.NewMemory()
	r := newRig(t, store)
	d := r.drive(r.client)
	dead := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-silent }))
	defer dead.Close()
	defer close(silent)
	c := r.dialFor(dead.URL, 200*time.Millisecond)
	d = c.Drive(d.id, d.life)
	var ended sync.WaitGroup
	var left atomic.Int64 // what ends gives its bytes back, on a busy machine before all are staged
	staged, most := 0, int64(0)
	for ; staged < 1000; staged++ {
		ended.Add(1)
		left.Add(1)
		if !d.Stage(small(uint64(staged+1), stageMax), func(err error) {
			if !errors.Is(err, storagenode.ErrUnavailable) {
				t.Errorf("%v", err)
			}
			left.Add(-1)
			ended.Done()
		}) {
			left.Add(-1)
			ended.Done()
			break
		}
		most = max(most, left.Load())
	}
	if want := int64(stageBudget / stageMax); most > 2*want || most < want/2 {
		t.Errorf("%d of %d bytes were staged at a time", most, stageMax)
	}
	ended.Wait()
}

func TestWhatIsNotStaged(t *testing.T) {
	r := newRig(t, storetest.NewMemory())
	d := r.drive(r.client)
	large, wordy, wrong := small(1, stageMax+1), small(2, 1), small(3, 10)
	wordy.Attrs = []byte(strings.Repeat("a", stageAttrs+1))
	wrong.Sums = []uint64{1, 2}
	for i, s := range []storagenode.Shard{large, wordy, wrong} {
		if d.Stage(s, func(error) { t.Error("an end of what was not staged") }) {
			t.Errorf("shard %d was staged", i)
		}
	}
	r.client.watch.allow = func() error { return storagenode.ErrUnavailable }
	if d.Stage(small(4, 1), func(error) { t.Error("an end of what was not staged") }) {
		t.Error("staged for a node that is not asked")
	}
}

// TestGroupsFit: no call has more than its node takes.
func TestGroupsFit(t *testing.T) {
	r := newRig(t, storetest.NewMemory())
	d := r.drive(r.client)
	var shards []storagenode.Shard
	for i := range uint64(100) {
		s := small(i+1, int(i%3)*(stageMax/2))
		s.Attrs = []byte(strings.Repeat("a", int(i%5)*stageAttrs/4))
		shards = append(shards, s)
	}
	for i, err := range stageAll(t, d, shards...) {
		if err != nil {
			t.Fatalf("shard %d: %v", i, err)
		}
	}
}
