package node

import (
	"context"
	"syscall"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/segment"
	"kintsugi/storagenode/vfs"
)

// TestStoreThatHangsInCloseKeepsItsDirectory: a drive whose store does not close is
// not opened a second time, for the first one may still write; what that acknowledges
// is there afterwards.
func TestStoreThatHangsInCloseKeepsItsDirectory(t *testing.T) {
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
	id := n.Reports()[0].ID
	first := n.Store(id)
	shard := func(blob byte) storagenode.Shard {
		return storagenode.Shard{ID: storagenode.ShardID{PG: 1, Blob: storagenode.BlobID{blob}}, K: 1, Last: true, StripeLen: 3, Payload: []byte("abc")}
	}
	write := func(blob byte) error {
		token, err := first.Put(t.Context(), shard(blob))
		if err == nil {
			err = first.Sync(t.Context(), token)
		}
		return err
	}
	if err := write(1); err != nil {
		t.Fatal(err)
	}
	hang := fault.Inject(vfs.Rule{Ops: vfs.OpSync, Path: "/segments/", Times: 1, Hang: true})
	done := make(chan error, 1)
	go func() { done <- write(2) }()
	for hang.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	fault.Inject(vfs.Rule{Ops: vfs.OpRead, Path: IdentityName, Times: 1, Err: syscall.EIO})
	for range 3 {
		n.places[0].check(t.Context())
	}
	if n.Store(id) != nil {
		t.Error("the directory was opened again while its first store still hangs in a write")
	}
	hang.Release()
	acknowledged := map[byte]bool{1: true, 2: <-done == nil, 3: write(3) == nil}
	for range 1000 {
		if n.places[0].check(t.Context()); n.Store(id) != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if n.Store(id) == nil {
		t.Fatalf("the drive does not come back: %+v", n.Reports())
	}
	for blob, yes := range acknowledged {
		if _, err := n.Store(id).Stat(t.Context(), shard(blob).ID); yes && err != nil {
			t.Errorf("blob %d was acknowledged: %v", blob, err)
		}
	}
}
