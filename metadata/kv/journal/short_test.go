package journal_test

import (
	"fmt"
	"slices"
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
			patient(&cfg)
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

// TestReadFailsOnce: a read of a member's files that fails or comes back short while
// the metadata is opened, its state being lost, is no damage: the member stays what it
// is, and its files are neither written anew nor removed. With one member, which
// nothing could replace, and with two.
func TestReadFailsOnce(t *testing.T) {
	for name, rule := range map[string]vfs.Rule{
		"EIO":        {Ops: vfs.OpRead, Err: syscall.EIO},
		"short":      {Ops: vfs.OpRead, Short: true},
		"no file":    {Ops: vfs.OpOpen, Err: syscall.EMFILE},
		"no memory":  {Ops: vfs.OpRead, Err: syscall.ENOMEM},
		"not stat":   {Ops: vfs.OpStat, Err: syscall.ENOMEM},
		"not listed": {Ops: vfs.OpList, Path: "/journal", Err: syscall.EMFILE},
		"EIO, twice": {Ops: vfs.OpRead, Err: syscall.EIO, Times: 2},
	} {
		for _, file := range []string{"/journal/snap-", "/journal/log-"} {
			for _, tolerance := range []int{0, 1} {
				t.Run(fmt.Sprint(name, " ", file, " ", tolerance), func(t *testing.T) {
					t.Parallel()
					cfg, fs, _ := faulty(t, 1+tolerance, tolerance)
					cfg.SnapshotAfter, cfg.CheckEvery = 8<<10, time.Hour
					patient(&cfg)
					s := open(t, cfg)
					acked := map[string]string{}
					for i := range 60 {
						k, v := fmt.Sprint("k", i), strings.Repeat("x", 300)
						mustPut(t, s, k, v)
						acked[k] = v
					}
					files := func() (out []string) {
						for _, d := range cfg.Drives {
							names, err := fs.List(d.Dir + "/journal")
							if err != nil {
								t.Fatal(err)
							}
							for _, n := range names {
								if strings.HasPrefix(n, "snap-") && n != "snap.new" {
									out = append(out, d.Dir+"/"+n)
								}
							}
						}
						return out
					}
					eventually(t, "snapshots", func() bool { return len(files()) > tolerance })
					whole(t, s, cfg)
					members := s.Status().Members
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					cfg.SnapshotAfter = 1 << 30
					skips := []int{0, 1, 2, 3, 4}
					if rule.Ops != vfs.OpRead {
						skips = skips[:1] // what comes then is for the file that the log goes on in
					}
					for _, skip := range skips {
						for _, d := range cfg.Drives {
							if err := fs.RemoveAll(d.Dir + "/state"); err != nil {
								t.Fatal(err)
							}
						}
						before := files()
						rule := rule
						if rule.Path == "" {
							rule.Path = file
						}
						rule.Skip, rule.Times = skip, max(1, rule.Times)
						injected := fs.Inject(rule)
						s := open(t, cfg)
						injected.Release()
						if st := s.Status(); st.Generation != 2 || !slices.Equal(st.Members, members) {
							t.Fatalf("skip %d: %+v", skip, st)
						}
						checkAll(t, s, acked)
						if err := s.Close(); err != nil {
							t.Fatal(err)
						}
						if now := files(); !slices.Equal(now, before) {
							t.Fatalf("skip %d: %v, before %v", skip, now, before)
						}
					}
				})
			}
		}
	}
}

func checkAll(t *testing.T, s kv.Reader, want map[string]string) {
	t.Helper()
	for k, v := range want {
		wantGet(t, s, k, v)
	}
}
