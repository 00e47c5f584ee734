package journal_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/journal"
	"kintsugi/storagenode/vfs"
)

// TestNthCallFails: whichever call on the journal's or the state's files fails, once or
// for a while, on a drive or on all, for want of space or files or since the file system
// became read-only: nothing acknowledged is lost, nobody waits for longer than is set,
// and commits go on when it is over. KINTSUGI_SEEDS is how many calls are tried.
func TestNthCallFails(t *testing.T) {
	const calls = 400 // most are among the first
	tries := 3
	if testing.Short() {
		tries = 1
	}
	if n, err := strconv.Atoi(os.Getenv("KINTSUGI_SEEDS")); err == nil {
		tries = n
	}
	room := vfs.OpCreate | vfs.OpWrite | vfs.OpMkdir | vfs.OpRename | vfs.OpAllocate // a sync that fails is the end of the drive
	for cause, ops := range map[syscall.Errno]vfs.Op{
		syscall.ENOSPC: room, syscall.EDQUOT: room, syscall.EROFS: vfs.OpChange,
		syscall.EMFILE: vfs.OpOpen | vfs.OpCreate | vfs.OpList | vfs.OpSyncDir | vfs.OpLock,
	} {
		for _, path := range []string{"/journal", "/state", "/d0/"} {
			for _, once := range []bool{true, false} {
				t.Run(fmt.Sprint(cause.Error(), " ", path, " once ", once), func(t *testing.T) {
					t.Parallel()
					for i := range tries {
						nthFails(t, vfs.Rule{Ops: ops, Path: path, Skip: calls * (i + 1) * (i + 1) / (tries + 2) / (tries + 2), Err: cause}, once)
					}
				})
			}
		}
	}
}

func nthFails(t *testing.T, rule vfs.Rule, once bool) {
	t.Helper()
	if once {
		rule.Times = 1
	}
	cfg, fs, _ := faulty(t, 4, 1)
	cfg.LogSize, cfg.SnapshotAfter, cfg.Checkpoint = 4<<10, 8<<10, 10*time.Millisecond
	cfg.Tick, cfg.RetryAfter, cfg.Wait, cfg.CheckEvery = time.Millisecond, 10*time.Millisecond, time.Second, 5*time.Millisecond
	cfg.EvictAfter, cfg.StallAfter, cfg.StateTimeout = 5*time.Second, 10*time.Second, 5*time.Second
	s := open(t, cfg)
	injected := fs.Inject(rule)
	acked, maybe := map[string]string{}, map[string][]string{}
	commit := func(n int) error {
		key, value := fmt.Sprint("k", n%20), fmt.Sprint(n, strings.Repeat("x", 300))
		begin := time.Now()
		err := put(t, s, key, value)
		if took := time.Since(begin); took > 12*time.Second {
			t.Errorf("skip %d: a commit took %v", rule.Skip, took)
		}
		switch {
		case err == nil:
			acked[key], maybe[key] = value, nil
		case errors.Is(err, kv.ErrUnknown):
			maybe[key] = append(maybe[key], value)
		case !errors.Is(err, kv.ErrUnavailable):
			t.Errorf("skip %d: %v", rule.Skip, err)
		}
		return err
	}
	n := 0
	for ; n < 60; n++ {
		if n == 20 { // the membership changes
			id := s.Status().Members
			if len(id) > 0 {
				s.SetUsable(id[0], false)
				defer s.SetUsable(id[0], true)
			}
		}
		_ = commit(n)
		time.Sleep(500 * time.Microsecond)
	}
	injected.Release()
	if rule.Err == syscall.EROFS { // somebody has to say that it is over
		for _, d := range cfg.Drives {
			s.SetUsable(d.ID, true)
		}
	}
	eventually(t, fmt.Sprintf("commits after skip %d, %d failed: %+v", rule.Skip, injected.Hits(), s.Status()), func() bool {
		n++
		return commit(n) == nil
	})
	holds := func(s *journal.Store) {
		t.Helper()
		for key, want := range acked {
			v, err := s.Get(t.Context(), []byte(key))
			if got := string(v); err != nil || got != want && !slices.Contains(maybe[key], got) {
				t.Fatalf("skip %d, %d failed: %s is %.10q, %v; want %.10q", rule.Skip, injected.Hits(), key, got, err, want)
			}
		}
	}
	holds(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	holds(s)
	whole(t, s, cfg)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
