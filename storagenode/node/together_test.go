package node

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// TestDrivesAreOpenedTogether: a drive that takes long – its index was lost, or there is
// much to replay – does not add to what the others take.
func TestDrivesAreOpenedTogether(t *testing.T) {
	r := newRig(t, 3)
	cfg := r.config()
	inner := cfg.Open
	var all sync.WaitGroup
	all.Add(len(r.dirs))
	opening := make(chan struct{})
	go func() { all.Wait(); close(opening) }()
	cfg.Open = func(ctx context.Context, fs vfs.FS, dir string, id Identity) (storagenode.Drive, error) {
		all.Done()
		select {
		case <-opening:
			return inner(ctx, fs, dir, id)
		case <-time.After(5 * time.Second):
			return nil, errors.New("the other drives are not being opened")
		}
	}
	cfg.Poll = time.Hour
	n, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	for _, d := range n.Reports() {
		if d.State != storagenode.DriveActive {
			t.Errorf("%s is %s: %s", d.Dir, d.State, d.Reason)
		}
	}
}
