package journal_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/storagenode/vfs"
)

// TestChoresFindNoRoom: chores that find no file, no memory or no space on any drive
// are put off. Commits, which need none of it, go on without a gap, and the members
// stay members.
func TestChoresFindNoRoom(t *testing.T) {
	for name, rule := range map[string]vfs.Rule{
		"no file for a snapshot":       {Ops: vfs.OpCreate, Path: "/journal/snap", Err: syscall.EMFILE},
		"no space for a snapshot":      {Ops: vfs.OpWrite, Path: "/journal/snap", Err: syscall.ENOSPC},
		"no file to read a snapshot":   {Ops: vfs.OpOpen, Path: "/journal/snap", Err: syscall.ENFILE},
		"no file to list what to trim": {Ops: vfs.OpList, Path: "/journal", Err: syscall.EMFILE},
		"no file to check a log":       {Ops: vfs.OpOpen, Path: "/journal/log", Err: syscall.EMFILE},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, fs, _ := faulty(t, 3, 1)
			cfg.LogSize, cfg.SnapshotAfter, cfg.CheckEvery = 8<<20, 64<<10, 20*time.Millisecond
			cfg.RetryAfter = 100 * time.Millisecond
			cfg.EvictAfter, cfg.StallAfter, cfg.StateTimeout = 10*time.Second, 20*time.Second, 10*time.Second // a busy machine is no fault
			s := open(t, cfg)
			whole(t, s, cfg)
			generation := s.Status().Generation
			injected := fs.Inject(rule)
			value := strings.Repeat("x", 1000)
			acked := map[string]string{}
			commit := func() {
				t.Helper()
				key := fmt.Sprint("k", len(acked))
				mustPut(t, s, key, value)
				acked[key] = value
			}
			for end := time.Now().Add(time.Second); time.Now().Before(end) || injected.Hits() < 8; {
				commit()
				time.Sleep(2 * time.Millisecond)
			}
			if st := s.Status(); st.Generation != generation || st.Degraded != "" {
				t.Fatalf("%+v", st)
			}
			injected.Release()
			eventually(t, "a snapshot", func() bool {
				commit()
				return s.Status().LogBytes < cfg.SnapshotAfter
			})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			checkAll(t, open(t, cfg), acked)
		})
	}
}

func checkAll(t *testing.T, s kv.Reader, want map[string]string) {
	t.Helper()
	for k, v := range want {
		wantGet(t, s, k, v)
	}
}
