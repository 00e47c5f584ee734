package storetest

import (
	"bytes"
	"encoding/binary"
	"io"
	"iter"
	"math/rand/v2"
	"slices"

	"kintsugi/storagenode"
)

func testReadBack(s *suite) {
	for i, n := range []int{
		1, 7, 64, 511, 4096, 65535, 65536, 65537, 131072, 200_000, 1 << 20,
	} {
		sh := NewShard(shardID(1, 2, uint64(i+1), 0), n)
		if i%2 == 0 {
			sh.Sums = storagenode.AppendSums(nil, sh.Payload)
		}
		s.store(sh)
		s.holds(sh.ID, sh.Payload)
	}
	for i, n := range []int{1, 7, 64} {
		s.holds(shardID(1, 2, uint64(i+1), 0), Payload(shardID(1, 2, uint64(i+1), 0), n))
	}
}

func testRanges(s *suite) {
	sh := NewShard(shardID(3, 0, 1, 0), 3*storagenode.SumBlock+1000)
	s.store(sh)
	size := len(sh.Payload)
	borders := []int{0, 1, 63, 4096, 65535, 65536, 65537, 131071, 131072, 196608, size - 1, size, size + 1}
	for _, off := range borders {
		for _, n := range []int{0, 1, 2, 100, 65536, 65537, 140_000, size} {
			p := make([]byte, n)
			got, err := s.ReadAt(s.ctx, sh.ID, int64(off), p)
			want := sh.Payload[min(off, size):min(off+n, size)]
			if got != len(want) || !bytes.Equal(p[:got], want) {
				s.Fatalf("read of %d at %d: %d bytes, want %d", n, off, got, len(want))
			}
			if got < n && err != io.EOF || got == n && err != nil {
				s.Fatalf("read of %d at %d gave %d: error %v", n, off, got, err)
			}
		}
	}
	if _, err := s.ReadAt(s.ctx, sh.ID, -1, make([]byte, 1)); err == nil {
		s.Fatal("read at a negative offset")
	}
}

func testEmpty(s *suite) {
	sh := NewShard(shardID(1, 0, 1, 0), 0)
	sh.Last, sh.Attrs = true, []byte("attributes")
	s.store(sh)
	s.holds(sh.ID, nil)
	info, err := s.Stat(s.ctx, sh.ID)
	s.must(err)
	if info.Size != 0 || string(info.Attrs) != "attributes" || !info.Last {
		s.Fatalf("stat: %+v", info)
	}
	if got := s.listed(1, 0, storagenode.BlobID{}); !slices.Equal(got, []storagenode.ShardID{sh.ID}) {
		s.Fatalf("list: %v", got)
	}
}

func testLargest(s *suite) {
	sh := NewShard(shardID(1, 0, 1, 7), storagenode.MaxPayload)
	sh.Last, sh.Attrs = true, bytes.Repeat([]byte{7}, storagenode.MaxAttrs)
	s.store(sh)
	s.holds(sh.ID, sh.Payload)
	info, err := s.Stat(s.ctx, sh.ID)
	s.must(err)
	if !bytes.Equal(info.Attrs, sh.Attrs) || info.Size != storagenode.MaxPayload {
		s.Fatal("the attributes or the size differ")
	}
}

func testTooLarge(s *suite) {
	sh := NewShard(shardID(1, 0, 1, 0), storagenode.MaxPayload+1)
	s.refused(sh, storagenode.ErrTooLarge)
	sh = NewShard(shardID(1, 0, 1, 0), 10)
	sh.Last, sh.Attrs = true, make([]byte, storagenode.MaxAttrs+1)
	s.refused(sh, storagenode.ErrTooLarge)
	s.unknown(sh.ID)
}

func testInvalid(s *suite) {
	sh := NewShard(shardID(1, 0, 1, 0), 100)
	sh.Sums = []uint64{1, 2}
	if _, err := s.Put(s.ctx, sh); err == nil {
		s.Fatal("two sums for one block were accepted")
	}
	for _, slot := range []int{-1, storagenode.MaxSlots, 256, 1 << 20} {
		for info, err := range s.List(s.ctx, 1, slot, storagenode.BlobID{}) {
			if err == nil {
				s.Fatalf("slot %d has %v", slot, info.ID)
			}
		}
	}
	s.store(NewShard(shardID(1, 0, 1, 0), 100))
}

func testNotFound(s *suite) {
	sh := NewShard(shardID(5, 1, 9, 3), 100)
	s.store(sh)
	for _, id := range []storagenode.ShardID{
		shardID(5, 1, 9, 2), shardID(5, 1, 9, 4), shardID(5, 2, 9, 3), shardID(6, 1, 9, 3), shardID(5, 1, 8, 3),
	} {
		_, err := s.ReadAt(s.ctx, id, 0, make([]byte, 1))
		s.want(err, storagenode.ErrNotFound)
		s.unknown(id)
	}
	s.holds(sh.ID, sh.Payload)
}

func testInvisible(s *suite) {
	sh := NewShard(shardID(1, 1, 1, 0), 1000)
	t, err := s.Put(s.ctx, sh)
	s.must(err)
	_, err = s.ReadAt(s.ctx, sh.ID, 0, make([]byte, 1))
	s.want(err, storagenode.ErrNotFound)
	s.unknown(sh.ID)
	s.must(s.Sync(s.ctx, t))
	s.holds(sh.ID, sh.Payload)
}

func testReplace(s *suite) {
	sh := NewShard(shardID(1, 1, 1, 0), 1000)
	s.store(sh)
	for i := range 5 {
		next := sh
		next.Payload = Payload(shardID(9, 9, uint64(i), 0), 100_000-i*20_000)
		next.StripeHash = uint64(i)
		next.SlotEpoch = uint32(i + 1)
		s.store(next)
		s.holds(sh.ID, next.Payload)
		info, err := s.Stat(s.ctx, sh.ID)
		s.must(err)
		if info.StripeHash != uint64(i) || info.SlotEpoch != uint32(i+1) {
			s.Fatalf("stat after replacing: %+v", info)
		}
	}
	// The later Put counts, also where both are made durable together.
	first, second := sh, sh
	first.Payload, second.Payload = []byte("first"), []byte("second")
	_, err := s.Put(s.ctx, first)
	s.must(err)
	t, err := s.Put(s.ctx, second)
	s.must(err)
	s.must(s.Sync(s.ctx, t))
	s.holds(sh.ID, second.Payload)
	if got := s.listed(1, 1, storagenode.BlobID{}); len(got) != 1 {
		s.Fatalf("listed %d times", len(got))
	}
}

func testTokens(s *suite) {
	var last storagenode.Token
	for i := range uint64(20) {
		t, err := s.Put(s.ctx, NewShard(shardID(1, 0, i+1, 0), int(i)*100))
		s.must(err)
		if t <= last {
			s.Fatalf("token %d after %d", t, last)
		}
		last = t
	}
	s.must(s.Sync(s.ctx, last))
	for i := range uint64(20) {
		id := shardID(1, 0, i+1, 0)
		s.holds(id, Payload(id, int(i)*100))
	}
	s.must(s.Sync(s.ctx, last)) // again
	s.must(s.Sync(s.ctx, 1))    // long past
	s.must(s.Sync(s.ctx, 0))
}

func testStat(s *suite) {
	sh := storagenode.Shard{
		ID: shardID(1<<31, 31, 1<<63, 1<<31), K: 8, M: 4, SlotEpoch: 1 << 31, StripeLen: 4 << 20,
		StripeHash: 1<<63 | 5, Last: true, Attrs: []byte{0, 1, 255}, Payload: []byte("payload"),
	}
	s.store(sh)
	info, err := s.Stat(s.ctx, sh.ID)
	s.must(err)
	s.same(info, sh)
	if !bytes.Equal(info.Attrs, sh.Attrs) {
		s.Fatalf("attributes %v", info.Attrs)
	}
	for info, err := range s.List(s.ctx, sh.ID.PG, int(sh.ID.Slot), storagenode.BlobID{}) {
		s.must(err)
		s.same(info, sh)
		if info.Attrs != nil {
			s.Fatal("attributes are listed")
		}
	}
}

func (s *suite) same(i storagenode.ShardInfo, sh storagenode.Shard) {
	s.Helper()
	if i.ID != sh.ID || i.K != sh.K || i.M != sh.M || i.SlotEpoch != sh.SlotEpoch ||
		i.StripeLen != sh.StripeLen || i.StripeHash != sh.StripeHash || i.Last != sh.Last ||
		i.Size != int64(len(sh.Payload)) {
		s.Fatalf("got %+v of %+v", i, sh)
	}
}

func testList(s *suite) {
	var ids []storagenode.ShardID
	for blob := uint64(1); blob <= 30; blob++ {
		for stripe := range int(blob%4) + 1 {
			ids = append(ids, shardID(7, 3, blob, stripe*(1+stripe*100)))
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	var last storagenode.Token
	for _, i := range rng.Perm(len(ids)) {
		t, err := s.Put(s.ctx, NewShard(ids[i], i*10))
		s.must(err)
		last = max(last, t)
	}
	s.must(s.Sync(s.ctx, last))
	s.store(NewShard(shardID(7, 2, 5, 0), 10)) // neighbours
	s.store(NewShard(shardID(7, 4, 5, 0), 10))
	s.store(NewShard(shardID(6, 3, 99, 0), 10))
	s.store(NewShard(shardID(8, 3, 1, 0), 10))
	if got := s.listed(7, 3, storagenode.BlobID{}); !slices.Equal(got, ids) {
		s.Fatalf("listed %v, want %v", got, ids)
	}
	for _, after := range []uint64{1, 2, 15, 29, 30, 31} {
		want := slices.DeleteFunc(slices.Clone(ids), func(id storagenode.ShardID) bool {
			return id.Blob.Compare(Blob(after)) <= 0
		})
		if got := s.listed(7, 3, Blob(after)); !slices.Equal(got, want) {
			s.Fatalf("listed after %d: %v, want %v", after, got, want)
		}
	}
	next, stop := iter.Pull2(s.List(s.ctx, 7, 3, storagenode.BlobID{}))
	if info, err, ok := next(); !ok || err != nil || info.ID != ids[0] {
		s.Fatalf("first of the list: %v, %v", info.ID, err)
	}
	stop() // breaking off is no error and leaves nothing behind
	s.must(s.Delete(s.ctx, 7, 3, Blob(12)))
	want := slices.DeleteFunc(slices.Clone(ids), func(id storagenode.ShardID) bool { return id.Blob == Blob(12) })
	if got := s.listed(7, 3, storagenode.BlobID{}); !slices.Equal(got, want) {
		s.Fatalf("listed after a delete: %v", got)
	}
}

// testListWhileWriting wants a list to hold, in order, all that was there
// before it began, and to let its reader write.
func testListWhileWriting(s *suite) {
	for i := uint64(2); i <= 40; i += 2 {
		s.store(NewShard(shardID(1, 0, i, 0), 10))
	}
	seen, last := 0, storagenode.BlobID{}
	for info, err := range s.List(s.ctx, 1, 0, storagenode.BlobID{}) {
		s.must(err)
		if info.ID.Blob.Compare(last) <= 0 {
			s.Fatal("out of order")
		}
		last = info.ID.Blob
		n := binary.BigEndian.Uint64(last[:8])
		if n%2 == 0 {
			seen++
			s.store(NewShard(shardID(1, 0, n+1, 0), 10))
		}
	}
	if seen != 20 {
		s.Fatalf("saw %d of 20", seen)
	}
}
