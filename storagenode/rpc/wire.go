package rpc

import (
	"encoding/binary"
	"fmt"
	"slices"

	"kintsugi/storagenode"
)

// What is on the wire, all integers little endian. Heads of requests, by their
// path below /v1/drives/DRIVE/:
//
//	put    life u64, flags u8 (1: last stripe, 2: sync), k, m, slot u8, pg u32,
//	       blob 16, stripe, epoch, stripe length u32, stripe hash u64, payload
//	       length, attribute length u32, attributes, sums u64 of each block; then
//	       the payload as bulk
//	puts   count u16; of each the length u32 of what put has, and that; then
//	       the payloads as bulk. All are synced
//	sync   life u64, token u64
//	read   shard, offset i64, length u32
//	stat   shard
//	list   pg u32, slot i32, after 16, from u8, stripe u32
//	delete pg u32, slot i32, blob 16
//	epoch  pg u32, slot i32, epoch u32    drop the same
//	scrub  bytes per second i64
//
// A shard is pg u32, slot u8, blob 16, stripe u32. Answers are frames (package
// auth) that begin with a status (errors.go):
//
//	put    token u64, synced u8
//	puts   a status for each
//	read   sums u64 of each 64 KiB of the raw bytes; several frames
//	stat   description, attribute length u32, attributes
//	list   more u8, count u32, descriptions
//	scrub  kind u8 (0 goes on, 1 damage: shard, 2 end), records, bytes i64;
//	       several frames
//
// A description is blob 16, stripe u32, flags u8 (1: last stripe), k, m u8,
// epoch, stripe length u32, stripe hash u64, size i64.
var le = binary.LittleEndian

const (
	flagLast = 1
	flagSync = 2
)

// wireReader takes a message apart; the first thing missing makes err, and all
// that follows zero.
type wireReader struct {
	b   []byte
	err error
}

func (r *wireReader) bytes(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		if r.err == nil {
			r.err = fmt.Errorf("message is too short: %w", storagenode.ErrUnavailable)
		}
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *wireReader) u8() uint8 {
	if p := r.bytes(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *wireReader) u16() uint16 {
	if p := r.bytes(2); p != nil {
		return le.Uint16(p)
	}
	return 0
}

func (r *wireReader) u32() uint32 {
	if p := r.bytes(4); p != nil {
		return le.Uint32(p)
	}
	return 0
}

func (r *wireReader) u64() uint64 {
	if p := r.bytes(8); p != nil {
		return le.Uint64(p)
	}
	return 0
}

func (r *wireReader) i64() int64 { return int64(r.u64()) }

func (r *wireReader) blob() (b storagenode.BlobID) {
	copy(b[:], r.bytes(len(b)))
	return b
}

// end wants nothing to be left.
func (r *wireReader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = fmt.Errorf("message is too long by %d bytes: %w", len(r.b), storagenode.ErrUnavailable)
	}
	return r.err
}

func appendShardID(b []byte, id storagenode.ShardID) []byte {
	b = le.AppendUint32(b, uint32(id.PG))
	b = append(b, id.Slot)
	b = append(b, id.Blob[:]...)
	return le.AppendUint32(b, id.Stripe)
}

func (r *wireReader) shardID() storagenode.ShardID {
	return storagenode.ShardID{PG: storagenode.PG(r.u32()), Slot: r.u8(), Blob: r.blob(), Stripe: r.u32()}
}

// putHead is the head of a put. Its slices alias the message.
type putHead struct {
	life    uint64
	sync    bool
	shard   storagenode.Shard // without the payload
	payload uint32            // its length
}

func appendPut(b []byte, h *putHead) []byte {
	flags := uint8(0)
	if h.shard.Last {
		flags |= flagLast
	}
	if h.sync {
		flags |= flagSync
	}
	s := &h.shard
	b = le.AppendUint64(b, h.life)
	b = append(b, flags, s.K, s.M, s.ID.Slot)
	b = le.AppendUint32(b, uint32(s.ID.PG))
	b = append(b, s.ID.Blob[:]...)
	b = le.AppendUint32(b, s.ID.Stripe)
	b = le.AppendUint32(b, s.SlotEpoch)
	b = le.AppendUint32(b, s.StripeLen)
	b = le.AppendUint64(b, s.StripeHash)
	b = le.AppendUint32(b, h.payload)
	b = le.AppendUint32(b, uint32(len(s.Attrs)))
	b = append(b, s.Attrs...)
	return appendSums(b, s.Sums)
}

func (r *wireReader) put(h *putHead) error {
	h.life = r.u64()
	flags := r.u8()
	s := &h.shard
	s.K, s.M, s.ID.Slot = r.u8(), r.u8(), r.u8()
	s.ID.PG, s.ID.Blob, s.ID.Stripe = storagenode.PG(r.u32()), r.blob(), r.u32()
	s.SlotEpoch, s.StripeLen, s.StripeHash = r.u32(), r.u32(), r.u64()
	s.Last, h.sync = flags&flagLast != 0, flags&flagSync != 0
	h.payload = r.u32()
	n := r.u32()
	if h.payload > storagenode.MaxPayload || n > storagenode.MaxAttrs {
		return fmt.Errorf("payload of %d, attributes of %d bytes: %w", h.payload, n, storagenode.ErrTooLarge)
	}
	s.Attrs = r.bytes(int(n))
	s.Sums = r.sums(storagenode.SumCount(int(h.payload)))
	return r.end()
}

// puts reads the heads of several, whose payloads have total bytes together.
func (r *wireReader) puts() (heads []putHead, total int, err error) {
	n := int(r.u16())
	if n > groupShards {
		return nil, 0, fmt.Errorf("%d shards at once, at most %d: %w", n, groupShards, storagenode.ErrTooLarge)
	}
	heads = make([]putHead, n)
	for i := range heads {
		one := wireReader{b: r.bytes(int(r.u32()))}
		if r.err != nil {
			return nil, 0, r.err
		}
		if err := one.put(&heads[i]); err != nil {
			return nil, 0, err
		}
		total += int(heads[i].payload)
	}
	if total > groupBytes {
		return nil, 0, fmt.Errorf("%d bytes at once, at most %d: %w", total, groupBytes, storagenode.ErrTooLarge)
	}
	return heads, total, r.end()
}

func appendSums(b []byte, sums []uint64) []byte {
	for _, s := range sums {
		b = le.AppendUint64(b, s)
	}
	return b
}

func (r *wireReader) sums(n int) []uint64 {
	p := r.bytes(8 * n)
	if p == nil {
		return nil
	}
	sums := make([]uint64, n)
	for i := range sums {
		sums[i] = le.Uint64(p[8*i:])
	}
	return sums
}

// verify compares bytes with their sums, one for each block.
func verify(p []byte, sums []uint64) error {
	if len(sums) != storagenode.SumCount(len(p)) {
		return fmt.Errorf("%d sums for %d bytes: %w", len(sums), len(p), storagenode.ErrUnavailable)
	}
	for i := 0; len(p) > 0; i++ {
		n := min(storagenode.SumBlock, len(p))
		if storagenode.BlockSum(p[:n]) != sums[i] {
			return fmt.Errorf("block %d was damaged on its way: %w", i, storagenode.ErrUnavailable)
		}
		p = p[n:]
	}
	return nil
}

// slotHead begins the heads of calls that name a slot.
type slotHead struct {
	pg   storagenode.PG
	slot int
}

func appendSlot(b []byte, pg storagenode.PG, slot int) []byte {
	b = le.AppendUint32(b, uint32(pg))
	return le.AppendUint32(b, uint32(int32(max(-1, min(slot, 1<<20)))))
}

func (r *wireReader) slot() slotHead {
	return slotHead{pg: storagenode.PG(r.u32()), slot: int(int32(r.u32()))}
}

// cursor is where a list goes on: at the blobs above after, or, where from is
// set, at the stripes of after above stripe.
type cursor struct {
	after  storagenode.BlobID
	from   bool
	stripe uint32
}

func (c cursor) append(b []byte) []byte {
	b = append(b, c.after[:]...)
	if c.from {
		return le.AppendUint32(append(b, 1), c.stripe)
	}
	return le.AppendUint32(append(b, 0), 0)
}

func (r *wireReader) cursor() cursor {
	return cursor{after: r.blob(), from: r.u8() == 1, stripe: r.u32()}
}

// before is what to ask a store for: its list goes by whole blobs.
func (c cursor) before() storagenode.BlobID {
	b := c.after
	if c.from && b != (storagenode.BlobID{}) {
		for i := len(b) - 1; i >= 0; i-- {
			if b[i]--; b[i] != 0xff {
				break
			}
		}
	}
	return b
}

// passed says that a shard was listed before.
func (c cursor) passed(id storagenode.ShardID) bool {
	return c.from && id.Blob == c.after && id.Stripe <= c.stripe
}

// infoSize is the length of a description.
const infoSize = 16 + 4 + 3 + 4 + 4 + 8 + 8

func appendInfo(b []byte, i *storagenode.ShardInfo) []byte {
	flags := uint8(0)
	if i.Last {
		flags = flagLast
	}
	b = append(b, i.ID.Blob[:]...)
	b = le.AppendUint32(b, i.ID.Stripe)
	b = append(b, flags, i.K, i.M)
	b = le.AppendUint32(b, i.SlotEpoch)
	b = le.AppendUint32(b, i.StripeLen)
	b = le.AppendUint64(b, i.StripeHash)
	return le.AppendUint64(b, uint64(i.Size))
}

func (r *wireReader) info(pg storagenode.PG, slot uint8) storagenode.ShardInfo {
	i := storagenode.ShardInfo{ID: storagenode.ShardID{PG: pg, Slot: slot, Blob: r.blob(), Stripe: r.u32()}}
	flags := r.u8()
	i.Last = flags&flagLast != 0
	i.K, i.M = r.u8(), r.u8()
	i.SlotEpoch, i.StripeLen, i.StripeHash, i.Size = r.u32(), r.u32(), r.u64(), r.i64()
	return i
}

// page reads a page of a list.
func (r *wireReader) page(pg storagenode.PG, slot uint8) (infos []storagenode.ShardInfo, more bool, err error) {
	more = r.u8() == 1
	n := int(r.u32())
	if n > len(r.b)/infoSize {
		return nil, false, fmt.Errorf("page of %d shards: %w", n, storagenode.ErrUnavailable)
	}
	infos = slices.Grow(infos, n)
	for range n {
		infos = append(infos, r.info(pg, slot))
	}
	return infos, more, r.end()
}

// The kinds of a scrub's frames.
const (
	scrubBeat = iota
	scrubDamage
	scrubEnd
)

// scrubFrame is what a scrub says. Its error is the status before it.
type scrubFrame struct {
	kind           uint8
	shard          storagenode.ShardID
	records, bytes int64
}

func (f *scrubFrame) append(b []byte) []byte {
	b = append(b, f.kind)
	if f.kind == scrubDamage {
		b = appendShardID(b, f.shard)
	}
	b = le.AppendUint64(b, uint64(f.records))
	return le.AppendUint64(b, uint64(f.bytes))
}

func (r *wireReader) scrub() (f scrubFrame, err error) {
	f.kind = r.u8()
	if f.kind == scrubDamage {
		f.shard = r.shardID()
	}
	f.records, f.bytes = r.i64(), r.i64()
	return f, r.end()
}
