package segment

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// Sizes of the format, in bytes.
const (
	superSize   = 4096
	headerSize  = 96
	recordAlign = 64
	maxRecord   = headerSize + storagenode.MaxAttrs + 8*(storagenode.MaxPayload/storagenode.SumBlock) + storagenode.MaxPayload + recordAlign
)

const (
	superMagic   = "KINTSEG1"
	recordMagic  = 0x4e49_544b // "KTIN", little endian
	formatLevel  = 1
	headerLevel  = 1
	sumBlockBits = 16
)

// recordType says what a record states.
type recordType uint8

const (
	typeShard     recordType = 1
	typeTombstone recordType = 2 // the blob is gone from the slot, whatever the order of records
	typeSlotEpoch recordType = 3 // the slot's fence
	typeSlotDrop  recordType = 4 // shards up to an epoch and before this record are gone
	typeSkip      recordType = 5 // stripeLen bytes that hold no record: the rest of a block, a write that failed
)

const flagLast = 1 // the blob's last stripe

var (
	errNoRecord   = errors.New("no record")
	errBadBody    = errors.New("attributes or sums do not match their checksum")
	errBadPayload = errors.New("payload does not match its block sums")
)

// binding ties a record to its place, so that bytes of another record, another
// segment or another drive never pass for it.
type binding struct {
	drive   storagenode.DriveID
	segment uint64
}

// header is the fixed part of a record.
//
//	0 magic u32 | 4 level u8 | 5 type u8 | 6 flags u8 | 7 k u8 | 8 m u8 | 9 slot u8
//	10 block shift u8 | 11 zero | 12 pg u32 | 16 seq u64 | 24 blob 16 B
//	40 stripe u32 | 44 slot epoch u32 | 48 attr_len u32 | 52 payload_len u32
//	56 stripe_len u32 | 60 synced u32 | 64 stripe_hash u64 | 72 time i64
//	80 xxh64 of attributes and sums | 88 xxh64 of 0..87, drive, segment, offset
type header struct {
	typ, flags, k, m, slot uint8
	pg                     uint32
	seq                    uint64
	blob                   storagenode.BlobID
	stripe, epoch          uint32
	attrLen, payloadLen    uint32
	stripeLen              uint32
	// synced is how much of the segment was durable when the record was
	// written, in units of 64 B: what is invalid below it is damage, not a
	// torn tail.
	synced     uint32
	stripeHash uint64
	timeMS     int64 // when it was written, by the drive's clock
	bodyHash   uint64
}

// layout is where the parts of a record lie, from its start.
type layout struct {
	sums, payload, total int64
}

func layoutOf(attrLen, payloadLen int) layout {
	sums := int64(headerSize + attrLen)
	payload := sums + 8*int64(storagenode.SumCount(payloadLen))
	return layout{sums, payload, alignUp(payload + int64(payloadLen))}
}

func alignUp(n int64) int64 { return (n + recordAlign - 1) &^ (recordAlign - 1) }

// size is the record's length with its padding.
func (h *header) size() int64 {
	if recordType(h.typ) == typeSkip {
		return int64(h.stripeLen)
	}
	return layoutOf(int(h.attrLen), int(h.payloadLen)).total
}

func (h *header) shardID() storagenode.ShardID {
	return storagenode.ShardID{PG: storagenode.PG(h.pg), Slot: h.slot, Blob: h.blob, Stripe: h.stripe}
}

// encode writes the header for the place (b, off) into p[:headerSize].
func (h *header) encode(p []byte, b binding, off int64) {
	_ = p[headerSize-1]
	le := binary.LittleEndian
	le.PutUint32(p, recordMagic)
	p[4], p[5], p[6], p[7] = headerLevel, h.typ, h.flags, h.k
	p[8], p[9], p[10], p[11] = h.m, h.slot, sumBlockBits, 0
	le.PutUint32(p[12:], h.pg)
	le.PutUint64(p[16:], h.seq)
	copy(p[24:40], h.blob[:])
	le.PutUint32(p[40:], h.stripe)
	le.PutUint32(p[44:], h.epoch)
	le.PutUint32(p[48:], h.attrLen)
	le.PutUint32(p[52:], h.payloadLen)
	le.PutUint32(p[56:], h.stripeLen)
	le.PutUint32(p[60:], h.synced)
	le.PutUint64(p[64:], h.stripeHash)
	le.PutUint64(p[72:], uint64(h.timeMS))
	le.PutUint64(p[80:], h.bodyHash)
	le.PutUint64(p[88:], headerHash(p, b, off))
}

// decode reads a header at the place (b, off): errNoRecord where there is none.
func (h *header) decode(p []byte, b binding, off int64) error {
	le := binary.LittleEndian
	if len(p) < headerSize || le.Uint32(p) != recordMagic || le.Uint64(p[88:]) != headerHash(p, b, off) {
		return errNoRecord
	}
	if p[4] != headerLevel || p[10] != sumBlockBits {
		return fmt.Errorf("%w: header level %d, block shift %d", errNoRecord, p[4], p[10])
	}
	*h = header{
		typ: p[5], flags: p[6], k: p[7], m: p[8], slot: p[9],
		pg: le.Uint32(p[12:]), seq: le.Uint64(p[16:]),
		blob:   storagenode.BlobID(p[24:40]),
		stripe: le.Uint32(p[40:]), epoch: le.Uint32(p[44:]),
		attrLen: le.Uint32(p[48:]), payloadLen: le.Uint32(p[52:]),
		stripeLen: le.Uint32(p[56:]), synced: le.Uint32(p[60:]),
		stripeHash: le.Uint64(p[64:]), timeMS: int64(le.Uint64(p[72:])),
		bodyHash: le.Uint64(p[80:]),
	}
	return h.check()
}

// check refuses lengths no writer of this level makes.
func (h *header) check() error {
	switch t := recordType(h.typ); {
	case t < typeShard || t > typeSkip,
		h.attrLen > storagenode.MaxAttrs,
		h.payloadLen > storagenode.MaxPayload,
		t != typeShard && (h.attrLen != 0 || h.payloadLen != 0),
		t == typeSkip && (h.stripeLen < headerSize || h.stripeLen > maxRecord || h.stripeLen%recordAlign != 0):
		return fmt.Errorf("%w: type %d, lengths %d, %d, %d", errNoRecord, h.typ, h.attrLen, h.payloadLen, h.stripeLen)
	}
	return nil
}

func headerHash(p []byte, b binding, off int64) uint64 {
	var buf [88 + 16 + 8 + 8]byte
	copy(buf[:88], p)
	copy(buf[88:], b.drive[:])
	binary.LittleEndian.PutUint64(buf[104:], b.segment)
	binary.LittleEndian.PutUint64(buf[112:], uint64(off))
	return xxhash.Sum64(buf[:])
}

// verifyBody checks attributes and sums; body begins after the header.
func (h *header) verifyBody(body []byte) error {
	l := layoutOf(int(h.attrLen), int(h.payloadLen))
	if int64(len(body)) < l.payload-headerSize || xxhash.Sum64(body[:l.payload-headerSize]) != h.bodyHash {
		return errBadBody
	}
	return nil
}

// verifyPayload checks every block; body begins after the header.
func (h *header) verifyPayload(body []byte) error {
	l := layoutOf(int(h.attrLen), int(h.payloadLen))
	end := l.payload + int64(h.payloadLen) - headerSize
	if int64(len(body)) < end {
		return errBadPayload
	}
	sums, payload := body[l.sums-headerSize:], body[l.payload-headerSize:end]
	for i := 0; len(payload) > 0; i++ {
		n := min(storagenode.SumBlock, len(payload))
		if storagenode.BlockSum(payload[:n]) != binary.LittleEndian.Uint64(sums[8*i:]) {
			return fmt.Errorf("block %d: %w", i, errBadPayload)
		}
		payload = payload[n:]
	}
	return nil
}

// superblock opens a segment file.
//
//	0 magic 8 B | 8 format u16 | 10 min_reader u16 | 12 zero u32 | 16 cluster 16 B
//	32 drive 16 B | 48 segment id u64 | 56 created i64 (ms) | 4088 xxh64 of 0..4087
type superblock struct {
	cluster   storagenode.UUID
	drive     storagenode.DriveID
	segment   uint64
	createdMS int64
}

func (s *superblock) encode() []byte {
	p := vfs.AlignedBuffer(superSize)
	le := binary.LittleEndian
	copy(p, superMagic)
	le.PutUint16(p[8:], formatLevel)
	le.PutUint16(p[10:], formatLevel)
	copy(p[16:], s.cluster[:])
	copy(p[32:], s.drive[:])
	le.PutUint64(p[48:], s.segment)
	le.PutUint64(p[56:], uint64(s.createdMS))
	le.PutUint64(p[4088:], xxhash.Sum64(p[:4088]))
	return p
}

func (s *superblock) decode(p []byte) error {
	le := binary.LittleEndian
	if len(p) < superSize || string(p[:8]) != superMagic || le.Uint64(p[4088:]) != xxhash.Sum64(p[:4088]) {
		return errors.New("no valid superblock")
	}
	if r := le.Uint16(p[10:]); r > formatLevel {
		return fmt.Errorf("segment needs a reader of format %d, this is %d", r, formatLevel)
	}
	s.cluster = storagenode.UUID(p[16:32])
	s.drive = storagenode.DriveID(p[32:48])
	s.segment = le.Uint64(p[48:])
	s.createdMS = int64(le.Uint64(p[56:]))
	return nil
}
