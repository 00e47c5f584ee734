package node

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/segment"
	"kintsugi/storagenode/vfs"
)

// hung is a node of one drive whose store hangs in making a shard durable.
type hung struct {
	*Node
	mem   *vfs.Mem
	fault *vfs.Fault
	id    storagenode.DriveID
	write func(blob byte) error // to the first store
	hang  *vfs.Injected
	done  chan error // of the write of blob 2, which hangs
}

func hangs(t *testing.T) *hung {
	mem := vfs.NewMem()
	fault := vfs.NewFault(mem)
	t.Cleanup(fault.Clear)
	n, err := Open(t.Context(), Config{
		FS: fault, Dirs: []string{"/d1"}, Poll: time.Hour,
		Open: func(ctx context.Context, fs vfs.FS, dir string, id Identity) (storagenode.Drive, error) {
			return segment.Open(ctx, segment.Config{
				FS: fs, Dir: dir, Cluster: id.Cluster, Drive: id.Drive, Stuck: 50 * time.Millisecond,
			})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	h := &hung{Node: n, mem: mem, fault: fault, id: n.Reports()[0].ID, done: make(chan error, 1)}
	first := n.Store(h.id)
	h.write = func(blob byte) error {
		token, err := first.Put(t.Context(), shardOf(blob))
		if err == nil {
			err = first.Sync(t.Context(), token)
		}
		return err
	}
	if err := h.write(1); err != nil {
		t.Fatal(err)
	}
	h.hang = fault.Inject(vfs.Rule{Ops: vfs.OpSync, Path: "/segments/", Times: 1, Hang: true})
	go func() { h.done <- h.write(2) }()
	for h.hang.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	return h
}

func shardOf(blob byte) storagenode.Shard {
	return storagenode.Shard{ID: storagenode.ShardID{PG: 1, Blob: storagenode.BlobID{blob}}, K: 1, Last: true, StripeLen: 3, Payload: []byte("abc")}
}

// served checks the place until a drive is in service there, and gives its store.
func (h *hung) served(t *testing.T) storagenode.ShardStore {
	t.Helper()
	for range 1000 {
		h.places[0].check(t.Context())
		for _, r := range h.Reports() {
			if s := h.Store(r.ID); s != nil {
				return s
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("no drive comes back: %+v", h.Reports())
	return nil
}

// TestStoreThatHangsInCloseKeepsItsDirectory: a drive whose store does not close is
// not opened a second time, for the first one may still write; what that acknowledges
// is there afterwards.
func TestStoreThatHangsInCloseKeepsItsDirectory(t *testing.T) {
	h := hangs(t)
	h.fault.Inject(vfs.Rule{Ops: vfs.OpRead, Path: IdentityName, Times: 1, Err: syscall.EIO})
	for range 3 {
		h.places[0].check(t.Context())
	}
	if h.Store(h.id) != nil {
		t.Error("the directory was opened again while its first store still hangs in a write")
	}
	h.hang.Release()
	acknowledged := map[byte]bool{1: true, 2: <-h.done == nil, 3: h.write(3) == nil}
	store := h.served(t)
	for blob, yes := range acknowledged {
		if _, err := store.Stat(t.Context(), shardOf(blob).ID); yes && err != nil {
			t.Errorf("blob %d was acknowledged: %v", blob, err)
		}
	}
}

// TestStoreThatHangsInCloseInAnEmptiedDirectory: neither is a new drive made beside
// it, though its lock is gone with what else was there.
func TestStoreThatHangsInCloseInAnEmptiedDirectory(t *testing.T) {
	h := hangs(t)
	names, err := h.mem.List("/d1")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := h.mem.RemoveAll("/d1/" + name); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		h.places[0].check(t.Context())
	}
	if names, err := h.mem.List("/d1"); err != nil || len(names) > 0 {
		t.Errorf("made while the store of before has not let go: %v, %v; %+v", names, err, h.Reports())
	}
	h.hang.Release()
	<-h.done
	store := h.served(t)
	if _, err := store.Stat(t.Context(), shardOf(1).ID); !errors.Is(err, storagenode.ErrNotFound) {
		t.Errorf("a new drive has a shard of the one before: %v", err)
	}
}
