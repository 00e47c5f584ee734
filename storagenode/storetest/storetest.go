package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
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
