package rpc

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
	"kintsugi/storagenode/vfs"
)

// TestNoTokenOutlivesItsDrive: stripe 0 is put, the node loses power and comes
// back, stripe 1 is put and synced. If that passed, the blob would count as
// durable without its first stripe.
func TestNoTokenOutlivesItsDrive(t *testing.T) {
	fsys := vfs.NewMem()
	if err := fsys.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	if err := fsys.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	old := openSegment(t, fsys, "/d")
	r := newRig(t, old)
	d := r.drive(r.client)
	first, err := d.Put(t.Context(), storetest.NewShard(shardID(1, 0), 40_000))
	if err != nil {
		t.Fatal(err)
	}
	joined := storetest.NewShard(shardID(2, 0), 1000)
	joined.Last = true
	whole, err := d.Put(t.Context(), joined)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := d.Put(t.Context(), storetest.NewShard(shardID(3, 0), 40_000))
	if err != nil || lost <= first {
		t.Fatal(lost, err)
	}

	after := fsys.Crash(rand.New(rand.NewPCG(1, 1)))
	fresh := openSegment(t, after, "/d")
	defer fresh.Close()
	r.drives.set(testDrive, fresh)
	r.restart()

	if err := d.Sync(t.Context(), whole); err != nil {
		t.Errorf("what was synced in its put: %v", err)
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, storagenode.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("sync of a token of the former life", d.Sync(t.Context(), lost))
	_, err = d.Put(t.Context(), storetest.NewShard(shardID(3, 1), 1000))
	refused("put through the former life's drive", err)
	last := storetest.NewShard(shardID(3, 1), 1000)
	last.Last = true
	_, err = d.Put(t.Context(), last)
	refused("put with sync through the former life's drive", err)

	now := r.drive(r.client)
	refused("sync of the former token on the new life", now.Sync(t.Context(), lost))
	if _, err := now.Stat(t.Context(), shardID(3, 0)); !errors.Is(err, storagenode.ErrNotFound) {
		t.Errorf("what was never synced: %v", err)
	}
	for _, id := range []storagenode.ShardID{shardID(1, 0), shardID(2, 0)} { // the put of 2 synced 1 too
		if _, err := now.Stat(t.Context(), id); err != nil {
			t.Errorf("what was synced is gone: %v", err)
		}
	}
	put(t, now, last)
	// Reads and what is durable when it returns need no life.
	if _, err := d.Stat(t.Context(), last.ID); err != nil {
		t.Error(err)
	}
}

// TestDriveOpenedAnew: the same, where only the drive was closed and opened,
// and where the store would take the token of its former life.
func TestDriveOpenedAnew(t *testing.T) {
	r := newRig(t, storetest.NewMemory())
	d := r.drive(r.client)
	tok, err := d.Put(t.Context(), storetest.NewShard(shardID(1, 0), 100))
	if err != nil {
		t.Fatal(err)
	}
	r.drives.set(testDrive, storetest.NewMemory())
	if err := d.Sync(t.Context(), tok); !errors.Is(err, storagenode.ErrUnavailable) || !errors.Is(err, errOtherLife) {
		t.Fatal(err)
	}
}

// TestRefusalsAreHeardWhilePayloadsAreSent: a large put that is refused at its
// head gets its answer, not a connection that is cut, which would count against
// the node.
func TestRefusalsAreHeardWhilePayloadsAreSent(t *testing.T) {
	r := newRig(t, storetest.NewMemory())
	for range 20 {
		d := r.drive(r.client)
		r.drives.set(testDrive, storetest.NewMemory())
		if _, err := d.Put(t.Context(), storetest.NewShard(shardID(1, 0), storagenode.MaxPayload)); !errors.Is(err, errOtherLife) {
			t.Fatal(err)
		}
		d = r.drive(r.client)
		r.restart() // refused by the guard at first, then by the drive's life
		if _, err := d.Put(t.Context(), storetest.NewShard(shardID(1, 0), storagenode.MaxPayload)); !errors.Is(err, errOtherLife) {
			t.Fatal(err)
		}
	}
}

// TestLastShardOfASmallBlobTakesOneRequest: and its sync is a real one.
func TestLastShardOfASmallBlobTakesOneRequest(t *testing.T) {
	f := storetest.NewFaulty(storetest.NewMemory())
	r := newRig(t, f)
	d := r.drive(r.client)
	sh := storetest.NewShard(shardID(1, 0), 4096)
	sh.Last, sh.Attrs = true, []byte("a")
	tok, err := d.Put(t.Context(), sh)
	if err != nil {
		t.Fatal(err)
	}
	if n := f.Calls(storetest.OpSync); n != 1 {
		t.Fatalf("%d syncs with the put", n)
	}
	if err := d.Sync(t.Context(), tok); err != nil || f.Calls(storetest.OpSync) != 1 {
		t.Fatalf("%v after %d syncs", err, f.Calls(storetest.OpSync))
	}
	// Another token, though smaller, is asked for: it may be of something that
	// was refused since.
	if err := d.Sync(t.Context(), tok-1); err != nil || f.Calls(storetest.OpSync) != 2 {
		t.Fatalf("%v after %d syncs", err, f.Calls(storetest.OpSync))
	}
	// A sync that fails fails the put.
	f.Inject(storetest.Fault{Ops: storetest.OpSync, Err: storagenode.ErrBroken})
	sh.ID = shardID(2, 0)
	if _, err := d.Put(context.Background(), sh); !errors.Is(err, storagenode.ErrBroken) {
		t.Fatal(err)
	}
}
