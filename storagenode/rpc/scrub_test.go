package rpc

import (
	"context"
	"errors"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

func TestScrub(t *testing.T) {
	store := storetest.NewMemory()
	r := newRig(t, store)
	d := r.drive(r.client)
	bad := map[storagenode.ShardID]bool{}
	for i := range uint64(50) {
		id := shardID(i+1, 0)
		put(t, store, storetest.NewShard(id, 1000))
		if i%7 == 0 {
			store.Corrupt(id, 5)
			bad[id] = true
		}
	}
	found := map[storagenode.ShardID]bool{}
	rep, err := d.Scrub(t.Context(), 0, func(id storagenode.ShardID, err error) {
		if !errors.Is(err, storagenode.ErrCorrupt) {
			t.Errorf("%v: %v", id, err)
		}
		found[id] = true
	})
	if err != nil || rep.Records != 50 || rep.Bytes != 50_000 || len(rep.Corrupt) != len(bad) || len(found) != len(bad) {
		t.Fatalf("%+v, %v, %d found", rep, err, len(found))
	}
	for id := range bad {
		if !found[id] {
			t.Errorf("%v was not found", id)
		}
	}
	if _, err := d.Scrub(t.Context(), 0, nil); err != nil {
		t.Fatal(err)
	}
}

// longScrub finds one damage, then goes on until it is broken off.
type longScrub struct {
	failing
	began, ended chan error
	rate         int64
}

func (l *longScrub) Scrub(ctx context.Context, rate int64, damaged func(storagenode.ShardID, error)) (storagenode.ScrubReport, error) {
	l.rate = rate
	damaged(shardID(7, 0), storagenode.ErrCorrupt)
	close(l.began)
	<-ctx.Done()
	l.ended <- ctx.Err()
	return storagenode.ScrubReport{Records: 3}, ctx.Err()
}

func newLongScrub() *longScrub {
	return &longScrub{began: make(chan error), ended: make(chan error, 1)}
}

// TestScrubEndsWithItsCaller: on the node too.
func TestScrubEndsWithItsCaller(t *testing.T) {
	l := newLongScrub()
	r := newRig(t, l)
	d := r.drive(r.client)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rep, err := d.Scrub(ctx, 1234, func(storagenode.ShardID, error) { cancel() })
	if !errors.Is(err, context.Canceled) || len(rep.Corrupt) != 1 || l.rate != 1234 {
		t.Fatalf("%+v at %d, %v", rep, l.rate, err)
	}
	if err := <-l.ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// TestScrubEndsWithTheServer, which could not be shut down otherwise.
func TestScrubEndsWithTheServer(t *testing.T) {
	l := newLongScrub()
	r := newRig(t, l)
	d := r.drive(r.client)
	go func() { <-l.began; r.server.Close() }()
	if _, err := d.Scrub(t.Context(), 0, nil); !errors.Is(err, storagenode.ErrUnavailable) {
		t.Fatal(err)
	}
	<-l.ended
}

// fastClock is a clock whose waits are a hundredth as long.
type fastClock struct{}

func (fastClock) Now() time.Time                         { return time.Now() }
func (fastClock) After(d time.Duration) <-chan time.Time { return time.After(d / 100) }
func (fastClock) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d / 100):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestScrubMayBeSlow: it goes on for longer than a call may be silent, since
// the node says that it does.
func TestScrubMayBeSlow(t *testing.T) {
	l := newLongScrub()
	r := newRigWith(t, ServerConfig{Clock: fastClock{}}, l) // says so every 20 ms
	c := r.dialFor(r.http.URL, 2*time.Second)
	d := c.Drive(testDrive, r.drive(r.client).life)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if _, err := d.Scrub(ctx, 0, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("ended before its time: %v", err)
	}
	<-l.ended
}
