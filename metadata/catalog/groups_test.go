package catalog

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
)

func TestOpenGroupSpreads(t *testing.T) {
	f := newFixture(t, nil)
	_ = f.written(1)
	groups, err := f.ListGroups(t.Context())
	if err != nil || len(groups) != 6 {
		t.Fatalf("%d groups, %v", len(groups), err)
	}
	data := map[storagenode.DriveID]int{}
	for _, g := range groups {
		seen := map[storagenode.DriveID]bool{}
		for i, s := range g.Slots {
			if seen[s.Drive] {
				t.Errorf("group %d has drive %s twice", g.PG, s.Drive)
			}
			seen[s.Drive] = true
			if i < int(g.Scheme.K) {
				data[s.Drive]++
			}
			if s.Epoch != 1 || s.State != storagenode.SlotClean {
				t.Errorf("slot %+v", s)
			}
		}
	}
	for d, n := range data {
		if n != 4 {
			t.Errorf("drive %s has %d data slots, want 4", d, n)
		}
	}
	used := map[storagenode.PG]bool{}
	for range 24 {
		used[f.written(1).Group.PG] = true
	}
	if len(used) < 5 {
		t.Errorf("only %d groups are used", len(used))
	}
	// Another process finds the same groups.
	c, err := Open(t.Context(), Config{KV: f.e.kv, Drives: f.drives, Scheme: erasure.Scheme{K: 4, M: 2}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.OpenGroup(t.Context(), stickBytes); err != nil {
		t.Fatal(err)
	}
	if again, err := c.ListGroups(t.Context()); err != nil || len(again) != 6 {
		t.Errorf("%d groups after a second opening, %v", len(again), err)
	}
}

// TestSmallBlobsShareAGroup: large blobs take turns among the groups; small ones
// that come at about the same time go to one, whose syncs they share.
func TestSmallBlobsShareAGroup(t *testing.T) {
	f := newFixture(t, nil)
	cat := f.another(f.e.kv, func(cfg *Config) { cfg.Clock = newStepped() })
	for _, c := range []struct {
		size                  int64
		calls, turns, atLeast int
	}{
		{0, 1024, 1, 1}, {4 << 10, 1024, 1, 1}, {64 << 10, 256, 4, 4}, {1 << 20, 64, 16, 6},
		{4 << 20, 18, 18, 6}, {16 << 20, 18, 18, 6}, {1 << 30, 18, 18, 6},
	} {
		used := map[storagenode.PG]bool{}
		turns := 0
		last := storagenode.PG(0)
		for range c.calls {
			g, err := cat.OpenGroup(t.Context(), c.size)
			if err != nil {
				t.Fatal(err)
			}
			if g.PG != last {
				turns++
			}
			used[g.PG], last = true, g.PG
		}
		if turns > c.turns+1 || len(used) < c.atLeast {
			t.Errorf("%d blobs of %d bytes: %d turns of %d groups, want %d turns of %d groups or more",
				c.calls, c.size, turns, len(used), c.turns, c.atLeast)
		}
	}
}

func TestNarrowing(t *testing.T) {
	f := newFixture(t, nil)
	want := func(scheme string) erasure.Group {
		t.Helper()
		g, err := f.OpenGroup(t.Context(), stickBytes)
		if err != nil || g.Scheme.String() != scheme {
			t.Fatalf("scheme %s, want %s (%v)", g.Scheme, scheme, err)
		}
		return g
	}
	want("4+2")
	// At once, not when the set has grown old.
	f.drives.set(0, storagenode.DriveBroken)
	g := want("3+2")
	for _, s := range g.Slots {
		if s.Drive == f.drives.reports[0].ID {
			t.Error("the broken drive has a slot")
		}
	}
	f.drives.set(1, storagenode.DriveSuspect)
	want("2+2")
	f.drives.set(2, storagenode.DriveDraining)
	narrow := want("1+2")
	// Two drives: the group of those with the greatest margin goes on.
	f.drives.set(3, storagenode.DriveDown)
	if g := want("1+2"); g.PG != narrow.PG && len(g.Slots) != 3 {
		t.Errorf("group %+v", g)
	}
	// One drive: no quorum anywhere.
	f.drives.set(4, storagenode.DriveDown)
	f.Groups.open.Store(nil)
	_, err := f.OpenGroup(t.Context(), stickBytes)
	wantErr(t, err, metadata.ErrNoPlacement)
	// All back: the groups there were, none new.
	before := f.rows(famGroup)
	for i := range 6 {
		f.drives.set(i, storagenode.DriveActive)
	}
	want("4+2")
	if now := f.rows(famGroup); now != before {
		t.Errorf("%d groups were made for nothing", now-before)
	}
}

// silent is an engine that, once told, answers nothing.
type silent struct {
	kv.Store
	now atomic.Bool
}

func (s *silent) wait(ctx context.Context) error {
	if !s.now.Load() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (s *silent) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, key)
}

func (s *silent) Begin(ctx context.Context) (kv.Txn, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return s.Store.Begin(ctx)
}

// TestGroupsWhileTheEngineIsSilent: who wants a group to write to does not wait
// for the engine, where there are groups.
func TestGroupsWhileTheEngineIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &silent{Store: memory.New()}
		f := newFixture(t, s)
		b := f.bucket("bkt")
		f.put(b, "key", 100) // something to save
		s.now.Store(true)
		for range 3 {
			time.Sleep(saveTTL)
			began := time.Now()
			if _, err := f.OpenGroup(t.Context(), stickBytes); err != nil || time.Since(began) > 2*time.Second {
				t.Fatalf("%v after %s", err, time.Since(began))
			}
		}
	})
}

// TestDrivesOutOfServiceTakeNoGroups: a drive that was replaced and came back, or
// that is being drained, is well as its node sees it, but the repairers take
// every slot away from it.
func TestDrivesOutOfServiceTakeNoGroups(t *testing.T) {
	for _, state := range []storagenode.DriveState{storagenode.DriveRetired, storagenode.DriveDraining, storagenode.DriveDrained} {
		f := newFixture(t, nil)
		out := f.drives.reports[2].ID
		err := f.EditDrive(t.Context(), out, func(d *metadata.DriveRecord) bool { d.State = state; return true })
		if err != nil {
			t.Fatal(err)
		}
		g, err := f.OpenGroup(t.Context(), stickBytes)
		if err != nil || g.Scheme.String() != "3+2" {
			t.Fatalf("%s: scheme %s, %v", state, g.Scheme, err)
		}
		groups, err := f.ListGroups(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range groups {
			for _, s := range g.Slots {
				if s.Drive == out {
					t.Fatalf("%s: the drive has a slot of group %d", state, g.PG)
				}
			}
		}
	}
}

func TestReadOnlyDriveTakesNoGroups(t *testing.T) {
	f := newFixture(t, nil)
	f.drives.reports[3].Space.ReadOnly = true
	g, err := f.OpenGroup(t.Context(), stickBytes)
	if err != nil || g.Scheme.String() != "3+2" {
		t.Errorf("scheme %s, %v", g.Scheme, err)
	}
}

func TestSeal(t *testing.T) {
	f := newFixture(t, nil)
	f.Groups.cfg.SealBlobs = 10
	b := f.bucket("bucket")
	for i := range 200 {
		f.put(b, fmt.Sprint(i), 10)
		f.Groups.open.Store(nil)
	}
	groups, err := f.ListGroups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sealed, blobs := 0, int64(0)
	for _, g := range groups {
		blobs += g.Blobs
		if g.Sealed {
			sealed++
		}
		if g.Blobs > 11 {
			t.Errorf("group %d got %d blobs", g.PG, g.Blobs)
		}
	}
	if sealed < 10 || blobs != 200 {
		t.Errorf("%d sealed groups with %d blobs in all", sealed, blobs)
	}
	f.Groups.save(t.Context())
	c, err := Open(t.Context(), Config{KV: f.e.kv, Drives: f.drives, Scheme: erasure.Scheme{K: 4, M: 2}})
	if err != nil {
		t.Fatal(err)
	}
	blobs = 0
	if groups, err = c.ListGroups(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		blobs += g.Blobs
	}
	if blobs != 200 {
		t.Errorf("%d blobs are remembered", blobs)
	}
	f.checkClean()
}

func TestRemap(t *testing.T) {
	s := &scripted{Store: memory.New()}
	f := newFixture(t, s)
	g, err := f.OpenGroup(t.Context(), stickBytes)
	if err != nil {
		t.Fatal(err)
	}
	old, to := g.Slots[2].Drive, storagenode.DriveID{99}
	s.next = append(s.next, applied) // its outcome is found out
	now, err := f.Remap(t.Context(), g.PG, 2, 1, to)
	want := storagenode.Slot{Drive: to, Epoch: 2, State: storagenode.SlotRebuilding, From: old}
	if err != nil || now.Slots[2] != want {
		t.Fatalf("%+v %v", now, err)
	}
	if g.Slots[2].Drive != old {
		t.Error("a group that was handed out was changed")
	}
	_, err = f.Remap(t.Context(), g.PG, 2, 1, to)
	wantErr(t, err, metadata.ErrStalePlacement)
	if _, err = f.Remap(t.Context(), g.PG, 2, 2, g.Slots[0].Drive); err == nil {
		t.Error("a drive got two slots of a group")
	}
	now, err = f.Remap(t.Context(), g.PG, 2, 2, storagenode.DriveID{98})
	if err != nil || now.Slots[2].From != old {
		t.Errorf("%+v %v", now.Slots[2], err)
	}
	wantErr(t, f.MarkClean(t.Context(), g.PG, 2, 2), metadata.ErrStalePlacement)
	wantErr(t, f.MarkClean(t.Context(), g.PG, 2, 3), nil)
	now, err = f.Group(t.Context(), g.PG)
	if err != nil || now.Slots[2] != (storagenode.Slot{Drive: storagenode.DriveID{98}, Epoch: 3}) {
		t.Errorf("%+v %v", now.Slots[2], err)
	}
	_, err = f.Group(t.Context(), 999)
	wantErr(t, err, metadata.ErrStalePlacement)
	// It is not offered for new blobs while its new drive is not there.
	for range 12 {
		if g := f.written(1).Group; slices.ContainsFunc(g.Slots, func(s storagenode.Slot) bool { return s.Drive[0] > 6 }) {
			t.Fatal("group with an unknown drive")
		}
	}
}

func TestDriveRecords(t *testing.T) {
	f := newFixture(t, nil)
	want := []metadata.DriveRecord{
		{ID: storagenode.DriveID{1}, Node: "n", Zone: "z", Address: "/d", State: storagenode.DriveOut, Added: time.UnixMilli(5).UTC()},
		{ID: storagenode.DriveID{2}, Replaces: storagenode.DriveID{1}},
	}
	for _, i := range []int{1, 0} {
		wantErr(t, f.EditDrive(t.Context(), want[i].ID, func(d *metadata.DriveRecord) bool {
			if *d != (metadata.DriveRecord{ID: want[i].ID}) {
				t.Errorf("a new record begins as %+v", d)
			}
			*d = want[i]
			return true
		}), nil)
	}
	wantErr(t, f.EditDrive(t.Context(), want[0].ID, func(d *metadata.DriveRecord) bool {
		if *d != want[0] {
			t.Errorf("%+v", d)
		}
		d.Node = "lost"
		return false
	}), nil)
	got, err := f.ListDrives(t.Context())
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v %v", got, err)
	}
}

// TestTwoProcesses: what one process remembers of a group is never believed
// against what another has written.
func TestTwoProcesses(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	w := f.written(1 << 20)
	other, err := Open(t.Context(), Config{KV: f.e.kv, Drives: f.drives, Scheme: erasure.Scheme{K: 4, M: 2}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Remap(t.Context(), w.Group.PG, 4, 1, storagenode.DriveID{50}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, f.PutObject(t.Context(), b, object("k", w), []metadata.Written{w}, metadata.Condition{}), nil)
	r, err := other.Blob(t.Context(), w.Group.PG, w.Blob.ID)
	if err != nil || r.Blob.Missing != 1<<4 {
		t.Errorf("%+v %v", r, err)
	}
	if g, err := f.Group(t.Context(), w.Group.PG); err != nil || g.Slots[4].Epoch != 2 {
		t.Errorf("%+v %v", g, err)
	}
	f.checkClean()
}
