package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kintsugi/storagenode/node"
)

// TestUnmountedDisksAreNoNewStore: where a store was before, empty directories
// are refused, and left alone, unless a new one is asked for.
func TestUnmountedDisksAreNoNewStore(t *testing.T) {
	t.Setenv(envAccessKey, "")
	t.Setenv(envSecretKey, "")
	root := t.TempDir()
	dirs := []string{filepath.Join(root, "d1"), filepath.Join(root, "d2")}
	start := func(anew bool) error {
		cfg := serverConfig{address: "127.0.0.1:0", adminAddress: "127.0.0.1:0", region: "us-east-1", dirs: dirs, memory: 32 << 20, anew: anew}
		if err := cfg.complete("", "error"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- serve(ctx, cfg, writerFunc(cancel)) }()
		return <-ended
	}
	wipe := func() {
		for _, dir := range dirs {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := start(false); err != nil {
		t.Fatalf("first start: %v", err)
	}
	if err := start(false); err != nil {
		t.Fatalf("second start: %v", err)
	}
	wipe()
	if err := start(false); !errors.Is(err, node.ErrRefused) {
		t.Fatalf("all disks gone: %v", err)
	}
	if _, err := os.Stat(dirs[0]); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a refused start made %s: %v", dirs[0], err)
	}
	if err := start(true); err != nil {
		t.Fatalf("--new: %v", err)
	}
}

// writerFunc stops the server at its greeting.
type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return io.Discard.Write(p)
}
