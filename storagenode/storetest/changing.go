package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"

	"kintsugi/storagenode"
)

func testEpochs(s *suite) {
	old := NewShard(shardID(1, 0, 1, 0), 10)
	old.SlotEpoch = 3
	s.store(old)
	s.must(s.SetSlotEpoch(s.ctx, 1, 0, 5))
	s.must(s.SetSlotEpoch(s.ctx, 1, 0, 5))
	s.want(s.SetSlotEpoch(s.ctx, 1, 0, 4), storagenode.ErrStaleEpoch)
	sh := NewShard(shardID(1, 0, 2, 0), 10)
	sh.SlotEpoch = 4
	s.refused(sh, storagenode.ErrStaleEpoch)
	sh.SlotEpoch = 5
	s.store(sh)
	sh.ID.Blob, sh.SlotEpoch = Blob(3), 6
	s.store(sh)
	s.holds(old.ID, old.Payload) // what was there stays
	if got := s.listed(1, 0, storagenode.BlobID{}); len(got) != 3 {
		s.Fatalf("listed %v", got)
	}
	// Other slots have fences of their own.
	for _, id := range []storagenode.ShardID{shardID(1, 1, 1, 0), shardID(2, 0, 1, 0)} {
		sh := NewShard(id, 10)
		s.store(sh)
	}
}

func testDelete(s *suite) {
	for stripe := range 3 {
		s.store(NewShard(shardID(1, 0, 1, stripe), 100))
	}
	s.store(NewShard(shardID(1, 0, 2, 0), 100))
	s.store(NewShard(shardID(1, 1, 1, 0), 100))
	s.store(NewShard(shardID(2, 0, 1, 0), 100))
	s.must(s.Delete(s.ctx, 1, 0, Blob(1)))
	for stripe := range 3 {
		s.unknown(shardID(1, 0, 1, stripe))
		s.refused(NewShard(shardID(1, 0, 1, stripe), 100), storagenode.ErrDeleted)
	}
	s.refused(NewShard(shardID(1, 0, 1, 9), 100), storagenode.ErrDeleted)
	for _, id := range []storagenode.ShardID{shardID(1, 0, 2, 0), shardID(1, 1, 1, 0), shardID(2, 0, 1, 0)} {
		s.holds(id, Payload(id, 100))
	}
	s.must(s.Delete(s.ctx, 1, 0, Blob(1))) // again
	// A blob that was never known is remembered as well.
	s.must(s.Delete(s.ctx, 4, 3, Blob(77)))
	s.refused(NewShard(shardID(4, 3, 77, 0), 10), storagenode.ErrDeleted)
	s.unknown(shardID(4, 3, 77, 0))
}

// testDeletePending: a shard accepted before its blob's delete never shows.
func testDeletePending(s *suite) {
	sh := NewShard(shardID(1, 0, 1, 0), 100)
	t, err := s.Put(s.ctx, sh)
	s.must(err)
	s.must(s.Delete(s.ctx, 1, 0, Blob(1)))
	if err := s.Sync(s.ctx, t); err != nil {
		s.want(err, storagenode.ErrDeleted)
	}
	s.unknown(sh.ID)
}

func testDropSlot(s *suite) {
	put := func(slot int, blob uint64, epoch uint32) {
		sh := NewShard(shardID(1, slot, blob, 0), 100)
		sh.SlotEpoch = epoch
		s.store(sh)
	}
	put(0, 1, 1)
	put(0, 2, 2)
	put(0, 3, 3)
	put(1, 1, 1)
	s.must(s.DropSlot(s.ctx, 1, 0, 2))
	s.unknown(shardID(1, 0, 1, 0))
	s.unknown(shardID(1, 0, 2, 0))
	if got := s.listed(1, 0, storagenode.BlobID{}); len(got) != 1 || got[0] != shardID(1, 0, 3, 0) {
		s.Fatalf("left: %v", got)
	}
	s.holds(shardID(1, 1, 1, 0), Payload(shardID(1, 1, 1, 0), 100))
	s.must(s.DropSlot(s.ctx, 1, 0, 2)) // again
	// The slot came back to this drive with a higher fence: the late drop of
	// its former life must not touch it.
	s.must(s.SetSlotEpoch(s.ctx, 1, 0, 7))
	put(0, 9, 7)
	s.want(s.DropSlot(s.ctx, 1, 0, 6), storagenode.ErrStaleEpoch)
	s.holds(shardID(1, 0, 3, 0), Payload(shardID(1, 0, 3, 0), 100))
	s.must(s.DropSlot(s.ctx, 1, 0, 7))
	if got := s.listed(1, 0, storagenode.BlobID{}); len(got) != 0 {
		s.Fatalf("left: %v", got)
	}
	s.must(s.DropSlot(s.ctx, 99, 5, 1)) // never seen
}

// testBuffers scribbles over everything it passed in as soon as it may.
func testBuffers(s *suite) {
	sh := NewShard(shardID(1, 0, 1, 0), 100_000)
	want := bytes.Clone(sh.Payload)
	sh.Last, sh.Attrs = true, []byte("attributes")
	sh.Sums = storagenode.AppendSums(nil, sh.Payload)
	t, err := s.Put(s.ctx, sh)
	s.must(err)
	clear(sh.Payload)
	clear(sh.Attrs)
	clear(sh.Sums)
	s.must(s.Sync(s.ctx, t))
	s.holds(sh.ID, want)
	info, err := s.Stat(s.ctx, sh.ID)
	s.must(err)
	if string(info.Attrs) != "attributes" {
		s.Fatalf("attributes %q", info.Attrs)
	}
	clear(info.Attrs)
	p := make([]byte, len(want))
	_, err = s.ReadAt(s.ctx, sh.ID, 0, p)
	s.must(err)
	clear(p)
	s.holds(sh.ID, want)
	if info, err = s.Stat(s.ctx, sh.ID); err != nil || string(info.Attrs) != "attributes" {
		s.Fatalf("attributes %q, %v", info.Attrs, err)
	}
}

// testContext: a call whose context ended does not hang, and what error it
// gives says so. What it did before is not known, but never half of it.
func testContext(s *suite) {
	s.store(NewShard(shardID(1, 0, 1, 0), 100))
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	check := func(what string, err error) {
		s.Helper()
		if err != nil && !errors.Is(err, context.Canceled) {
			s.Fatalf("%s: %v", what, err)
		}
	}
	t, err := s.Put(ctx, NewShard(shardID(1, 0, 2, 0), 100))
	check("put", err)
	check("sync", s.Sync(ctx, t))
	_, err = s.ReadAt(ctx, shardID(1, 0, 1, 0), 0, make([]byte, 10))
	check("read", err)
	_, err = s.Stat(ctx, shardID(1, 0, 1, 0))
	check("stat", err)
	for _, err := range s.List(ctx, 1, 0, storagenode.BlobID{}) {
		check("list", err)
	}
	check("epoch", s.SetSlotEpoch(ctx, 5, 0, 1))
	check("drop", s.DropSlot(ctx, 5, 0, 1))
	check("delete", s.Delete(ctx, 1, 0, Blob(3)))
	s.store(NewShard(shardID(1, 0, 4, 0), 100))
	s.holds(shardID(1, 0, 1, 0), Payload(shardID(1, 0, 1, 0), 100))
	s.holds(shardID(1, 0, 4, 0), Payload(shardID(1, 0, 4, 0), 100))
}

func testConcurrent(s *suite) {
	const workers, each = 8, 40
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { s.work(w, each) })
	}
	wg.Wait()
	if s.Failed() {
		return
	}
	ids := s.listed(1, 0, storagenode.BlobID{})
	if want := workers * (each - each/4); len(ids) != want {
		s.Fatalf("%d shards left, want %d", len(ids), want)
	}
	for _, id := range ids {
		n := binary.BigEndian.Uint64(id.Blob[:8])
		s.holds(id, Payload(id, int(n*379%100_000)))
	}
}

// work writes blobs of its own, reads them back, deletes every fourth and
// lists in between.
func (s *suite) work(worker, each int) {
	fail := func(format string, args ...any) { s.Errorf("worker %d: "+format, append([]any{worker}, args...)...) }
	for i := range each {
		n := uint64(worker*each + i + 1)
		sh := NewShard(shardID(1, 0, n, 0), int(n*379%100_000))
		t, err := s.Put(s.ctx, sh)
		if err == nil {
			err = s.Sync(s.ctx, t)
		}
		if err != nil {
			fail("store: %v", err)
			return
		}
		p := make([]byte, len(sh.Payload))
		if _, err := s.ReadAt(s.ctx, sh.ID, 0, p); err != nil || !bytes.Equal(p, sh.Payload) {
			fail("read of its own write: %v", err)
			return
		}
		if i%4 == 3 {
			if err := s.Delete(s.ctx, 1, 0, sh.ID.Blob); err != nil {
				fail("delete: %v", err)
				return
			}
			if _, err := s.Stat(s.ctx, sh.ID); !errors.Is(err, storagenode.ErrNotFound) {
				fail("stat after delete: %v", err)
			}
		}
		last := storagenode.BlobID{}
		for info, err := range s.List(s.ctx, 1, 0, last) {
			if err != nil || info.ID.Blob.Compare(last) <= 0 {
				fail("list: %v, %v", info.ID, err)
				return
			}
			last = info.ID.Blob
		}
	}
}

// testDrive is for stores that are Drives.
func testDrive(s *suite) {
	d, ok := s.ShardStore.(storagenode.Drive)
	if !ok {
		s.Skip("no Drive")
	}
	s.must(d.Health())
	for i := range uint64(10) {
		s.store(NewShard(shardID(1, 0, i+1, 0), 10_000))
	}
	s.must(s.Delete(s.ctx, 1, 0, Blob(3)))
	r, err := d.Scrub(s.ctx, 0, func(id storagenode.ShardID, err error) { s.Errorf("%v: %v", id, err) })
	s.must(err)
	if r.Records < 9 || r.Bytes < 9*10_000 || len(r.Corrupt) != 0 {
		s.Fatalf("scrub of 9 shards: %+v", r)
	}
	if sp := d.Space(); sp.Total <= 0 || sp.Free < 0 || sp.ReadOnly {
		s.Fatalf("space: %+v", sp)
	}
	s.must(d.Close())
	if _, err := d.Put(s.ctx, NewShard(shardID(1, 0, 99, 0), 10)); err == nil {
		s.Fatal("put after Close")
	}
}
