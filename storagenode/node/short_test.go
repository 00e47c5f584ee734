package node

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// TestProcessShortOfFiles: a drive is not given up because its node has no file to
// look at it, or to open it, and is opened later.
func TestProcessShortOfFiles(t *testing.T) {
	r := newRig(t, 2)
	fault := vfs.NewFault(vfs.OS())
	var opens atomic.Int32
	cfg := r.config()
	next := cfg.Open
	cfg.FS = fault
	cfg.Open = func(ctx context.Context, fs vfs.FS, dir string, id Identity) (storagenode.Drive, error) {
		if opens.Add(1) == 1 {
			return nil, fmt.Errorf("open segment store: %w", syscall.EMFILE)
		}
		return next(ctx, fs, dir, id)
	}
	n, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	for i := range r.dirs {
		r.await(n, i, "ACTIVE", func(d storagenode.DriveReport) bool { return d.State == storagenode.DriveActive })
	}
	r.mu.Lock()
	told := len(r.told)
	for _, d := range r.told {
		if d.State == storagenode.DriveBroken {
			t.Errorf("at the start: %v: %s", d.State, d.Reason)
		}
	}
	r.mu.Unlock()
	rule := fault.Inject(vfs.Rule{Ops: vfs.OpOpen | vfs.OpCreate | vfs.OpList | vfs.OpLock, Err: syscall.EMFILE})
	for rule.Hits() < 6 {
		if err := n.cfg.Clock.Sleep(t.Context(), n.cfg.Poll); err != nil {
			t.Fatal(err)
		}
	}
	fault.Clear()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.told[told:] {
		if d.State != storagenode.DriveActive {
			t.Errorf("told of %v: %s", d.State, d.Reason)
		}
	}
}
