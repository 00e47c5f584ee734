package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// forSeeds runs f for n seeds, KINTSUGI_SEEDS of them where that is set, or
// for KINTSUGI_SEED alone. It stops at the third failure, or KINTSUGI_FAILURES.
func forSeeds(t *testing.T, n int, f func(seed uint64) error) {
	t.Helper()
	first, most := uint64(1), 3
	if v, err := strconv.Atoi(os.Getenv("KINTSUGI_SEEDS")); err == nil {
		n = v
	}
	if v, err := strconv.Atoi(os.Getenv("KINTSUGI_FAILURES")); err == nil {
		most = v
	}
	if v, err := strconv.ParseUint(os.Getenv("KINTSUGI_FIRST"), 10, 64); err == nil {
		first = v
	}
	if v, err := strconv.ParseUint(os.Getenv("KINTSUGI_SEED"), 10, 64); err == nil {
		first, n = v, 1
	}
	part, parts := uint64(0), uint64(1) // of several processes that share the seeds
	if _, err := fmt.Sscanf(os.Getenv("KINTSUGI_PART"), "%d/%d", &part, &parts); err != nil {
		part, parts = 0, 1
	}
	failed := 0
	for seed := first; seed < first+uint64(n); seed++ {
		if seed%parts != part {
			continue
		}
		began := time.Now()
		err := f(seed)
		if took := time.Since(began); took > 5*time.Second {
			t.Logf("KINTSUGI_SEED=%d took %s", seed, took)
		}
		if err != nil {
			t.Errorf("KINTSUGI_SEED=%d: %v", seed, err)
			if failed++; failed == most {
				return
			}
		}
	}
}

// story keeps what a store logs, to be told where its seed fails.
type story struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (s *story) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *story) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(s, nil))
}

// tell wraps err with the end of the story; where KINTSUGI_LOG names a
// directory, all of it goes to a file there.
func (s *story) tell(seed uint64, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.buf.Bytes()
	if dir := os.Getenv("KINTSUGI_LOG"); dir != "" {
		path := filepath.Join(dir, fmt.Sprintf("seed-%d.log", seed))
		return errors.Join(err, os.WriteFile(path, text, 0o600))
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; the log ends:\n%s", err, text[max(0, len(text)-4000):])
}

// last gives the last n bytes of the story.
func (s *story) last(n int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.buf.Bytes()
	return string(text[max(0, len(text)-n):])
}

// brief chooses the smaller amount of work for -short.
func brief(short, full int) int {
	if testing.Short() {
		return short
	}
	return full
}
