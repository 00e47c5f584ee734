package journal_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/storagenode/vfs"
)

// TestReadsGoOnWhereAllIsFull: nothing can be committed and no state built on
// any drive; what there is can still be read, also by scans and snapshots.
func TestReadsGoOnWhereAllIsFull(t *testing.T) {
	cfg, fs, _ := faulty(t, 6, 2)
	cfg.Checkpoint, cfg.Wait = 200*time.Millisecond, 300*time.Millisecond
	s := open(t, cfg)
	for i := range 50 {
		mustPut(t, s, fmt.Sprint("k", i), "old")
	}
	mustPut(t, s, "k0", "not flushed yet")
	full := fs.Inject(vfs.Rule{Ops: vfs.OpCreate | vfs.OpWrite | vfs.OpAllocate | vfs.OpMkdir, Err: syscall.ENOSPC})
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for i := 1; i < 50; i++ {
			wantGet(t, s, fmt.Sprint("k", i), "old")
		}
		snap, err := s.Snapshot(t.Context())
		if err != nil {
			t.Fatalf("snapshot: %v", err)
		}
		for _, r := range []kv.Reader{s, snap} {
			n := 0
			for _, err := range r.Scan(t.Context(), []byte("k"), []byte("l")) {
				if err != nil {
					t.Fatalf("scan: %v", err)
				}
				n++
			}
			if n != 50 {
				t.Fatalf("scanned %d pairs of 50", n)
			}
		}
		snap.Close()
		if time.Until(end) > time.Second {
			continue // the state fails first, in a checkpoint
		}
		if err := put(t, s, "k0", "new"); err == nil {
			t.Fatal("committed where nothing can be written")
		}
	}
	full.Release()
	eventually(t, "commits", func() bool { return put(t, s, "k1", "after") == nil })
	wantGet(t, s, "k1", "after")
	wantGet(t, s, "k2", "old")
	whole(t, s, cfg)
}
