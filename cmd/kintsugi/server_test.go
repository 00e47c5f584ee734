package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
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

// TestDirectoriesInUse: whoever starts a server a second time is told that, in a
// line for each directory. Nothing is promised of what earlier starts stored.
func TestDirectoriesInUse(t *testing.T) {
	t.Setenv(envAccessKey, "root")
	t.Setenv(envSecretKey, "secret-of-the-test")
	root := t.TempDir()
	dirs := []string{filepath.Join(root, "d1"), filepath.Join(root, "d2")}
	var greeting, second string
	start := func(greeted func(string)) error {
		cfg := serverConfig{address: "127.0.0.1:0", adminAddress: "127.0.0.1:0", region: "us-east-1", dirs: dirs, memory: 32 << 20}
		if err := cfg.complete("", "error"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- serve(ctx, cfg, textFunc(func(text string) { greeted(text); cancel() })) }()
		return <-ended
	}
	err := start(func(text string) {
		greeting = text
		if err := start(func(string) {}); err != nil {
			second = err.Error()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(greeting, "scheme 1+1: new objects survive the loss of any 1\n") {
		t.Errorf("greeting: %s", greeting)
	}
	if lines := strings.Split(second, "\n"); len(lines) != 3 || lines[0] != "no drive can be used:" ||
		!strings.HasPrefix(lines[2], "  "+dirs[1]+" is in use by another process") {
		t.Errorf("a second server says: %s", second)
	}
}

// textFunc takes what is written.
type textFunc func(string)

func (f textFunc) Write(p []byte) (int, error) {
	f(string(p))
	return len(p), nil
}

// writerFunc stops the server at its greeting.
type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return io.Discard.Write(p)
}
