package vfs_test

import (
	"io"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"kintsugi/storagenode/vfs"
)

func TestFaultRules(t *testing.T) {
	f := vfs.NewFault(vfs.NewMem())
	a, b := create(t, f, "/a", nil), create(t, f, "/b", nil)
	in := f.Inject(vfs.Rule{Ops: vfs.OpWrite, Path: "/a", Skip: 1, Times: 2, Err: syscall.EIO})
	want := []error{nil, syscall.EIO, syscall.EIO, nil}
	for i, w := range want {
		_, err := a.WriteAt([]byte{1}, 0)
		if w == nil {
			must(t, err)
		} else {
			wantErr(t, err, w)
		}
		_, err = b.WriteAt([]byte{1, 2}, 0)
		must(t, err)
		must(t, a.SyncData())
		if i == 0 && in.Hits() != 0 {
			t.Fatal("a skipped call was hit")
		}
	}
	if in.Hits() != 2 || f.Calls(vfs.OpWrite) != 8 || f.Calls(vfs.OpSync) != 4 || f.Calls(vfs.OpCreate) != 2 {
		t.Fatalf("%d hits, %d writes, %d syncs", in.Hits(), f.Calls(vfs.OpWrite), f.Calls(vfs.OpSync))
	}
	f.Clear()
	f.Inject(vfs.Rule{Path: "/a", Err: syscall.ENOSPC})
	wantErr(t, a.Sync(), syscall.ENOSPC)
	wantErr(t, a.Sync(), syscall.ENOSPC)
	wantErr(t, f.Rename("/b", "/a"), syscall.ENOSPC)
	_, err := f.Stat("/a")
	wantErr(t, err, syscall.ENOSPC)
	must(t, b.Sync())
	f.Clear()
	must(t, a.Sync())
}

func TestFaultShortAndLie(t *testing.T) {
	f := vfs.NewFault(vfs.NewMem())
	a := create(t, f, "/a", nil)
	in := f.Inject(vfs.Rule{Ops: vfs.OpWrite, Short: true})
	n, err := a.WriteAt([]byte("abcdefgh"), 0)
	wantErr(t, err, io.ErrShortWrite)
	if n != 4 || string(content(t, f, "/a")) != "abcd" {
		t.Fatalf("wrote %d: %q", n, content(t, f, "/a"))
	}
	in.Release()
	in = f.Inject(vfs.Rule{Ops: vfs.OpWrite, Lie: true})
	n, err = a.WriteAt([]byte("xyz"), 0)
	must(t, err)
	if n != 3 || string(content(t, f, "/a")) != "abcd" {
		t.Fatalf("wrote %d: %q", n, content(t, f, "/a"))
	}
	in.Release()
	must(t, f.FlipBit("/a", 1, 0))
	if got := string(content(t, f, "/a")); got != "accd" {
		t.Fatalf("after the flip %q", got)
	}
	if err := f.FlipBit("/a", 99, 0); err == nil {
		t.Fatal("flipped beyond the end")
	}
}

func TestFaultHang(t *testing.T) {
	f := vfs.NewFault(vfs.NewMem())
	a := create(t, f, "/a", []byte("data"))
	in := f.Inject(vfs.Rule{Ops: vfs.OpRead | vfs.OpSync, Path: "a", Hang: true})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			p := make([]byte, 4)
			if _, err := a.ReadAt(p, 0); err != nil || string(p) != "data" {
				t.Errorf("after the hang: %q, %v", p, err)
			}
		})
	}
	for deadline := time.Now().Add(10 * time.Second); in.Waiting() < 3; {
		if time.Now().After(deadline) {
			t.Fatal("nothing hangs")
		}
		time.Sleep(time.Millisecond)
	}
	_, err := a.WriteAt([]byte("x"), 4) // other calls go on
	must(t, err)
	in.Release()
	in.Release()
	wg.Wait()
	must(t, a.Sync())
	slow := f.Inject(vfs.Rule{Ops: vfs.OpStat, Delay: 20 * time.Millisecond, Times: 1})
	start := time.Now()
	_, err = f.Stat("/a")
	must(t, err)
	if time.Since(start) < 20*time.Millisecond || slow.Hits() != 1 {
		t.Fatal("no delay")
	}
}

// TestFaultRace changes rules while calls run.
func TestFaultRace(t *testing.T) {
	f := vfs.NewFault(vfs.NewMem())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			file, err := f.OpenFile(string(rune('a'+w)), os.O_RDWR|os.O_CREATE)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 300 {
				_, _ = file.WriteAt([]byte("data"), int64(i))
				_ = file.Sync()
			}
			_ = file.Close()
		})
	}
	for range 100 {
		in := f.Inject(vfs.Rule{Ops: vfs.OpSync, Err: syscall.EIO})
		hang := f.Inject(vfs.Rule{Ops: vfs.OpWrite, Hang: true, Times: 1})
		in.Release()
		hang.Release()
	}
	wg.Wait()
	if got := f.Calls(vfs.OpWrite); got != 1200 {
		t.Fatalf("%d writes", got)
	}
}
