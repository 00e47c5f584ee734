package segment_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/segment"
	"kintsugi/storagenode/vfs"
)

func stagedShard(n, size int) storagenode.Shard {
	p := bytes.Repeat([]byte{byte(n), byte(n >> 8)}, size/2)
	sh := storagenode.Shard{ID: storagenode.ShardID{PG: 1}, K: 1, Payload: p, StripeLen: uint32(len(p)), Last: true, SlotEpoch: 1}
	binary.BigEndian.PutUint64(sh.ID.Blob[:], uint64(n+1))
	return sh
}

// TestStage has many stage at once: what was said to be durable can be read
// then, the caller's buffer is its own again, and it is there after a power cut.
func TestStage(t *testing.T) {
	fs := vfs.NewMem()
	if err := fs.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	if err := fs.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	s := open(t, segment.Config{FS: fs, Dir: "/d", SegmentSize: 256 << 10})
	const writers, each = 16, 30
	var staged atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				n := w*each + i
				sh := stagedShard(n, 2000+n)
				want := bytes.Clone(sh.Payload)
				ended := make(chan error, 1)
				ok := s.Stage(sh, func(err error) { ended <- err })
				if !ok {
					token, err := s.Put(t.Context(), sh)
					if err == nil {
						err = s.Sync(t.Context(), token)
					}
					ended <- err
				} else {
					staged.Add(1)
					clear(sh.Payload)
				}
				got := make([]byte, len(want))
				if err := <-ended; err != nil {
					t.Errorf("shard %d: %v", n, err)
				} else if _, err := s.ReadAt(t.Context(), sh.ID, 0, got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("shard %d: %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	if staged.Load() < writers*each/2 {
		t.Errorf("%d of %d staged", staged.Load(), writers*each)
	}
	s = open(t, segment.Config{FS: fs.Crash(rand.New(rand.NewPCG(1, 2))), Dir: "/d", SegmentSize: 256 << 10})
	for n := range writers * each {
		want := stagedShard(n, 2000+n).Payload
		got := make([]byte, len(want))
		if _, err := s.ReadAt(t.Context(), stagedShard(n, 2).ID, 0, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("shard %d after a power cut: %v", n, err)
		}
	}
}

// TestStageRefuses: what Put refuses, and what is not small, is left to Put.
func TestStageRefuses(t *testing.T) {
	s := open(t, segment.Config{FS: vfs.OS(), Dir: t.TempDir()})
	never := func(err error) { t.Errorf("called: %v", err) }
	if s.Stage(stagedShard(1, 1<<20), never) {
		t.Error("a large shard was staged")
	}
	if err := s.SetSlotEpoch(t.Context(), 1, 0, 7); err != nil {
		t.Fatal(err)
	}
	if s.Stage(stagedShard(1, 100), never) {
		t.Error("a stale epoch was staged")
	}
	if err := s.Delete(t.Context(), 1, 1, stagedShard(2, 2).ID.Blob); err != nil {
		t.Fatal(err)
	}
	sh := stagedShard(2, 100)
	sh.ID.Slot = 1
	if s.Stage(sh, never) {
		t.Error("a deleted blob was staged")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	sh.ID.Slot = 2
	if s.Stage(sh, never) {
		t.Error("a closed store staged")
	}
}

// TestStageFails: a failed fsync is told to those who staged, and so is a full
// disk, as a refusal.
func TestStageFails(t *testing.T) {
	for _, c := range []struct {
		rule vfs.Rule
		want error
	}{
		{vfs.Rule{Ops: vfs.OpSync, Err: syscall.EIO}, storagenode.ErrBroken},
		{vfs.Rule{Ops: vfs.OpWrite, Path: ".seg", Err: syscall.ENOSPC}, storagenode.ErrReadOnly},
	} {
		fs := vfs.NewFault(vfs.OS())
		s := open(t, segment.Config{FS: fs, Dir: t.TempDir()})
		ended := make(chan error, 1)
		first := stagedShard(1, 100_000) // makes the segment, and has nothing filled ahead
		token, err := s.Put(t.Context(), first)
		if err == nil {
			err = s.Sync(t.Context(), token)
		}
		if err != nil {
			t.Fatal(err)
		}
		fs.Inject(c.rule)
		if !s.Stage(stagedShard(2, 100), func(err error) { ended <- err }) {
			t.Fatal("not staged")
		}
		if err := <-ended; !errors.Is(err, c.want) {
			t.Fatalf("got %v, want %v", err, c.want)
		}
	}
}
