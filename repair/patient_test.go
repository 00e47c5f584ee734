package repair

import (
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/storagenode"
)

// stuck is a drive that hangs as a disk does: whoever calls it waits, whatever the
// context says.
type stuck struct {
	storagenode.ShardStore
	on   *atomic.Bool
	hang chan struct{}
}

func (s stuck) wait() {
	if s.on.Load() {
		<-s.hang
	}
}

func (s stuck) Stat(ctx context.Context, id storagenode.ShardID) (storagenode.ShardInfo, error) {
	s.wait()
	return s.ShardStore.Stat(ctx, id)
}

func (s stuck) ReadAt(ctx context.Context, id storagenode.ShardID, off int64, p []byte) (int, error) {
	s.wait()
	return s.ShardStore.ReadAt(ctx, id, off, p)
}

func (s stuck) List(ctx context.Context, pg storagenode.PG, slot int, after storagenode.BlobID) iter.Seq2[storagenode.ShardInfo, error] {
	return func(yield func(storagenode.ShardInfo, error) bool) {
		s.wait()
		for info, err := range s.ShardStore.List(ctx, pg, slot, after) {
			if !yield(info, err) {
				return
			}
		}
	}
}

func (s stuck) Scrub(ctx context.Context, rate int64, damaged func(storagenode.ShardID, error)) (storagenode.ScrubReport, error) {
	s.wait()
	return s.ShardStore.(driveScrubber).Scrub(ctx, rate, damaged)
}

// withStuck is a rig whose first drive hangs while on says so.
type withStuck struct {
	*drives
	on   atomic.Bool
	hang chan struct{}
}

func (d *withStuck) Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState) {
	store, state := d.drives.Drive(id)
	if id != d.disks[0].report.ID || store == nil {
		return store, state
	}
	if d.on.Load() {
		state = storagenode.DriveSuspect
	}
	return stuck{store, &d.on, d.hang}, state
}

func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s waits for a drive that hangs", what)
	}
}

// TestHungDriveHoldsUpNothing: what asks a drive that hangs gives up in time.
func TestHungDriveHoldsUpNothing(t *testing.T) {
	d := &withStuck{hang: make(chan struct{})}
	defer close(d.hang)
	r := newRig(t, "2+1", 3, func(c *Config) {
		d.drives = c.Drives.(*drives)
		c.Drives = d
		c.Clock = nil
		c.OpTimeout = 100 * time.Millisecond
	})
	o := r.put("x", 300_000)
	r.heal()
	slot := 0
	for r.group(o.pg).Slots[slot].Drive != d.disks[0].report.ID {
		slot++
	}
	d.on.Store(true)
	within(t, "a claim", func() { r.rep.reader.verify(r.ctx, claim{o.pg, slot, o.blob}) })
	within(t, "a recount", func() {
		if rep, err := r.rep.Recount(r.ctx); err != nil || rep.Unreached != 1 || rep.Whole {
			t.Errorf("%+v, %v", rep, err)
		}
	})
	within(t, "an inventory", func() {
		r.rep.inventory.all.Store(true)
		_, _ = r.rep.inventory.pass(r.ctx)
	})
	if r.record(o).Blob.Missing != 0 {
		t.Fatal("a drive that hangs was taken for one without the shard")
	}
	within(t, "a scrub", func() {
		_ = r.rep.scrubber.pass(r.ctx)
		r.rep.scrubber.dueNow()
		if err := r.rep.scrubber.pass(r.ctx); !errors.Is(err, storagenode.ErrSuspect) {
			t.Error(err)
		}
	})
	for _, k := range d.disks {
		if s := r.rep.scrubber.of(k.report.ID); (k != d.disks[0]) == s.Ended.IsZero() {
			t.Errorf("%+v", s)
		}
	}
	ctx, cancel := context.WithCancel(r.ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.rep.Run(ctx) }()
	time.Sleep(50 * time.Millisecond)
	cancel()
	within(t, "the end", func() { <-ended })
}

// together is a drive whose scrub takes until all others are being scrubbed too.
type together struct {
	storagenode.ShardStore
	all *sync.WaitGroup
}

func (s together) Scrub(ctx context.Context, rate int64, damaged func(storagenode.ShardID, error)) (storagenode.ScrubReport, error) {
	s.all.Done()
	s.all.Wait()
	return s.ShardStore.(driveScrubber).Scrub(ctx, rate, damaged)
}

type withTogether struct {
	*drives
	all sync.WaitGroup
}

func (d *withTogether) Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState) {
	store, state := d.drives.Drive(id)
	return together{store, &d.all}, state
}

// TestDrivesAreScrubbedSideBySide: each takes a quarter of the interval, so that
// one after the other more than four would not be done in time.
func TestDrivesAreScrubbedSideBySide(t *testing.T) {
	d := &withTogether{}
	r := newRig(t, "2+1", 8, func(c *Config) { d.drives = c.Drives.(*drives); c.Drives = d })
	r.must(r.rep.detectAndPlan(r.ctx))
	r.must(r.rep.scrubber.pass(r.ctx)) // plans the first, none is due yet
	d.all.Add(8)
	r.clock.advance(24 * time.Hour)
	within(t, "a pass", func() { r.must(r.rep.scrubber.pass(r.ctx)) })
}
