package cluster

import (
	"log/slog"
	"os"
	"strconv"
	"testing"
)

// forSeeds runs f for n seeds, KINTSUGI_SEEDS of them where that is set, or
// for KINTSUGI_SEED alone. It stops at the third failure.
func forSeeds(t *testing.T, n int, f func(seed uint64) error) {
	t.Helper()
	first := uint64(1)
	if v, err := strconv.Atoi(os.Getenv("KINTSUGI_SEEDS")); err == nil {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("KINTSUGI_FIRST"), 10, 64); err == nil {
		first = v
	}
	if v, err := strconv.ParseUint(os.Getenv("KINTSUGI_SEED"), 10, 64); err == nil {
		first, n = v, 1
	}
	failed := 0
	for seed := first; seed < first+uint64(n); seed++ {
		if err := f(seed); err != nil {
			t.Errorf("KINTSUGI_SEED=%d: %v", seed, err)
			if failed++; failed == 3 {
				return
			}
		}
	}
}

// logger tells a story where KINTSUGI_LOG is set.
func logger() *slog.Logger {
	if os.Getenv("KINTSUGI_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// brief chooses the smaller amount of work for -short.
func brief(short, full int) int {
	if testing.Short() {
		return short
	}
	return full
}
