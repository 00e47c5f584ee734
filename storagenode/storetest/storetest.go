package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"kintsugi/storagenode"
)

// suite is one test's store and its shorthands.
type suite struct {
	*testing.T
	storagenode.ShardStore
	ctx context.Context
}

// Run holds a store to every promise in the comments of ShardStore. open gives
// a new, empty store and ends it with the test.
func Run(t *testing.T, open func(t *testing.T) storagenode.ShardStore) {
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"read back", testReadBack},
		{"ranges", testRanges},
		{"empty payload", testEmpty},
		{"largest", testLargest},
		{"too large", testTooLarge},
		{"invalid", testInvalid},
		{"not found", testNotFound},
		{"invisible before sync", testInvisible},
		{"replace", testReplace},
		{"tokens", testTokens},
		{"stat", testStat},
		{"list", testList},
		{"list while writing", testListWhileWriting},
		{"epochs", testEpochs},
		{"delete", testDelete},
		{"delete beats pending put", testDeletePending},
		{"drop slot", testDropSlot},
		{"buffers", testBuffers},
		{"context", testContext},
		{"concurrent", testConcurrent},
		{"drive", testDrive},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			test.run(&suite{t, open(t), ctx})
		})
	}
}

// Blob makes an id that sorts by n.
func Blob(n uint64) (b storagenode.BlobID) {
	binary.BigEndian.PutUint64(b[:8], n)
	binary.BigEndian.PutUint64(b[8:], xxhash.Sum64(b[:8]))
	return b
}

// Payload makes bytes that follow from the id, so that any shard's are known.
func Payload(id storagenode.ShardID, n int) []byte {
	seed := binary.BigEndian.Uint64(id.Blob[8:]) ^ uint64(id.Stripe)<<32
	rng := rand.New(rand.NewPCG(seed, uint64(id.PG)<<8|uint64(id.Slot)))
	p := make([]byte, (n+7)&^7)
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rng.Uint64())
	}
	return p[:n]
}

// NewShard makes a valid shard with Payload's bytes and epoch 1.
func NewShard(id storagenode.ShardID, n int) storagenode.Shard {
	p := Payload(id, n)
	return storagenode.Shard{
		ID: id, K: 4, M: 2, SlotEpoch: 1, StripeLen: uint32(4 * n), StripeHash: xxhash.Sum64(p),
		Payload: p,
	}
}

func shardID(pg, slot int, blob uint64, stripe int) storagenode.ShardID {
	return storagenode.ShardID{
		PG: storagenode.PG(pg), Slot: uint8(slot), Blob: Blob(blob), Stripe: uint32(stripe),
	}
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) want(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("got error %v, want %v", err, want)
	}
}

func (s *suite) store(sh storagenode.Shard) {
	s.Helper()
	t, err := s.Put(s.ctx, sh)
	s.must(err)
	s.must(s.Sync(s.ctx, t))
}

func (s *suite) refused(sh storagenode.Shard, want error) {
	s.Helper()
	_, err := s.Put(s.ctx, sh)
	s.want(err, want)
}

// holds wants the whole payload of a shard to be read.
func (s *suite) holds(id storagenode.ShardID, payload []byte) {
	s.Helper()
	p := make([]byte, len(payload)+1)
	n, err := s.ReadAt(s.ctx, id, 0, p)
	if err != io.EOF || n != len(payload) || !bytes.Equal(p[:n], payload) {
		s.Fatalf("%v: read %d of %d bytes, or other ones: %v", id, n, len(payload), err)
	}
}

// unknown wants a shard to be in neither Stat nor List.
func (s *suite) unknown(id storagenode.ShardID) {
	s.Helper()
	_, err := s.Stat(s.ctx, id)
	s.want(err, storagenode.ErrNotFound)
	if slices.Contains(s.listed(id.PG, int(id.Slot), storagenode.BlobID{}), id) {
		s.Fatalf("%v is listed", id)
	}
}

func (s *suite) listed(pg storagenode.PG, slot int, after storagenode.BlobID) []storagenode.ShardID {
	s.Helper()
	var ids []storagenode.ShardID
	for info, err := range s.List(s.ctx, pg, slot, after) {
		s.must(err)
		ids = append(ids, info.ID)
	}
	return ids
}

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
		s.Fatal(fmt.Sprint("put after Close: ", err))
	}
}
