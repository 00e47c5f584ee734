package journal_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/journal"
	"kintsugi/metadata/kv/kvtest"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

var cluster = storagenode.UUID{1, 2, 3}

// config makes a configuration of n drives below root.
func config(t testing.TB, fs vfs.FS, root string, n, tolerance int) journal.Config {
	t.Helper()
	cfg := journal.Config{FS: fs, Cluster: cluster, Tolerance: tolerance, Format: true}
	for i := range n {
		dir := filepath.Join(root, fmt.Sprintf("d%d", i))
		if err := fs.MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := fs.SyncDir(root); err != nil {
			t.Fatal(err)
		}
		cfg.Drives = append(cfg.Drives, journal.Member{ID: storagenode.DriveID{0xd, byte(i)}, Dir: dir})
	}
	if os.Getenv("KINTSUGI_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return cfg
}

func open(t testing.TB, cfg journal.Config) *journal.Store {
	t.Helper()
	s, err := journal.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	t.Run("OS", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) kv.Store {
			return open(t, config(t, vfs.OS(), t.TempDir(), 3, 2))
		})
	})
	t.Run("Mem", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) kv.Store {
			return open(t, config(t, vfs.NewMem(), "/", 4, 1))
		})
	})
}

func put(t testing.TB, s kv.Store, key, value string) error {
	t.Helper()
	x, err := s.Begin(t.Context())
	if err != nil {
		return err
	}
	x.Put([]byte(key), []byte(value))
	return x.Commit(t.Context())
}

func mustPut(t testing.TB, s kv.Store, key, value string) {
	t.Helper()
	if err := put(t, s, key, value); err != nil {
		t.Fatal(err)
	}
}

func wantGet(t testing.TB, s kv.Reader, key, want string) {
	t.Helper()
	v, err := s.Get(t.Context(), []byte(key))
	if err != nil || string(v) != want {
		t.Fatalf("Get(%q) = %q, %v; want %q", key, v, err, want)
	}
}

// eventually waits until f is true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestReopen(t *testing.T) {
	cfg := config(t, vfs.OS(), t.TempDir(), 6, 2)
	for round := range 4 {
		s := open(t, cfg)
		for i := range round {
			wantGet(t, s, fmt.Sprint("k", i), fmt.Sprint("v", i))
		}
		mustPut(t, s, fmt.Sprint("k", round), fmt.Sprint("v", round))
		if st := s.Status(); len(st.Members) != 3 || st.Generation != 2 || st.Degraded != "" {
			t.Fatalf("status %+v", st)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// load commits from several goroutines until stop is called, which gives every
// acknowledged write and fails on errors that a caller may not see.
func load(t testing.TB, s kv.Store, workers int, allowed ...error) (stop func() map[string]string) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]string{}
	quit := make(chan struct{})
	for w := range workers {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				k, v := fmt.Sprintf("w%d/%06d", w, i%500), fmt.Sprintf("%d-%0100d", i, i)
				err := put(t, s, k, v)
				if errors.Is(err, context.Canceled) {
					return // the test has ended
				}
				if err == nil {
					mu.Lock()
					acked[k] = v
					mu.Unlock()
					time.Sleep(200 * time.Microsecond) // other tests want to run, too
					continue
				}
				ok := false
				for _, a := range allowed {
					ok = ok || errors.Is(err, a)
				}
				if !ok {
					t.Errorf("commit under load: %v", err)
					return
				}
				mu.Lock()
				delete(acked, k) // may be either
				mu.Unlock()
				time.Sleep(time.Millisecond)
			}
		})
	}
	var once sync.Once
	stop = func() map[string]string {
		once.Do(func() { close(quit) })
		wg.Wait()
		return acked
	}
	t.Cleanup(func() { stop() })
	return stop
}

func check(t testing.TB, s kv.Store, acked map[string]string) {
	t.Helper()
	if len(acked) == 0 {
		t.Fatal("nothing was acknowledged")
	}
	for k, v := range acked {
		wantGet(t, s, k, v)
	}
}
