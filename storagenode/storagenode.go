// Package storagenode holds the words of Kintsugi's storage layer: drives,
// placement groups, slots, blobs, stripes and shards, and ShardStore, the one
// contract every drive fulfils, local or remote.
//
// Start here: a blob is cut into stripes, a stripe is encoded into k+m shards,
// and each shard is handed to the ShardStore of the drive its slot is mapped
// to. Package segment implements ShardStore on a directory, package storetest
// says what every implementation must do.
//
// The package imports nothing but the standard library and xxh3, knows no
// HTTP and no metadata engine.
package storagenode

import (
	"context"
	"iter"
)

// PG identifies a placement group: k+m slots on different drives.
type PG uint32

// ShardID names one shard: a slot's piece of one stripe of a blob. For a
// replicated blob the stripe is 0 and each slot holds a whole copy.
type ShardID struct {
	PG     PG
	Slot   uint8
	Blob   BlobID
	Stripe uint32
}

// Shard is what Put stores: a payload and what must be known to verify and to
// use it.
type Shard struct {
	ID ShardID
	// K and M are the scheme of the stripe. A replica has K == 1.
	K, M uint8
	// SlotEpoch fences writers: a store refuses a shard whose epoch is below
	// the one it knows for (PG, Slot), with ErrStaleEpoch.
	SlotEpoch uint32
	// StripeLen is the length in bytes of the original stripe, before padding.
	StripeLen uint32
	// StripeHash is BlockSum of the original stripe. After a decode it tells
	// shards of two generations apart.
	StripeHash uint64
	// Last marks the last stripe of its blob. Only such shards carry Attrs.
	Last bool
	// Attrs is opaque to the store, at most MaxAttrs bytes.
	Attrs []byte
	// Sums holds BlockSum of every SumBlock bytes of Payload (the last block
	// may be short); len(Sums) == SumCount(len(Payload)). Nil asks the store
	// to compute them. A store that got Sums over a network verifies them.
	Sums []uint64
	// Payload is the shard's bytes, at most MaxPayload. It may be empty.
	Payload []byte
}

// ShardInfo describes a stored shard without its payload.
type ShardInfo struct {
	ID         ShardID
	K, M       uint8
	SlotEpoch  uint32
	StripeLen  uint32
	StripeHash uint64
	Last       bool
	Attrs      []byte // nil when listed; filled by Stat
	Size       int64  // bytes of payload
}

// Token is a point in a store's log. Tokens of one store are ordered; Sync up
// to a token covers every smaller one.
type Token uint64

// Limits of a record.
const (
	// SumBlock is the number of payload bytes one block sum covers.
	SumBlock = 64 << 10
	// MaxPayload bounds a shard's payload: a whole stripe (scheme 1+m).
	MaxPayload = 4 << 20
	// MaxAttrs bounds the attributes of a shard.
	MaxAttrs = 64 << 10
	// MaxSlots bounds k+m.
	MaxSlots = 32
)

// ShardStore is one drive as its users see it; local and remote drives look
// the same. Implementations are safe for concurrent use. Every method honours
// the deadline of its context.
//
// Buffers belong to the caller: nothing passed in is retained after return.
type ShardStore interface {
	// Put accepts a shard; it is not durable before Sync(token) returned nil,
	// and it is not readable before then either. A shard that already exists
	// with the same ID is replaced by the later Put. Errors: ErrStaleEpoch,
	// ErrReadOnly, ErrBroken, ErrTooLarge, ErrDeleted (the blob was deleted
	// here before).
	Put(ctx context.Context, s Shard) (Token, error)
	// Sync returns nil once everything up to t is on the medium and visible.
	// After any fsync error the store is broken for good: ErrBroken. Where
	// something accepted could not be written for want of space, Sync of its
	// token is ErrReadOnly or ErrUnavailable, and so it is of every token given
	// before that was found out.
	Sync(ctx context.Context, t Token) error
	// ReadAt fills p from the payload at off. Every block touched has been
	// verified. It returns io.EOF where fewer than len(p) bytes are left,
	// ErrNotFound, or ErrCorrupt where a check failed.
	ReadAt(ctx context.Context, id ShardID, off int64, p []byte) (int, error)
	// Stat describes one shard with its attributes; header and attributes are
	// verified. ErrNotFound, ErrCorrupt.
	Stat(ctx context.Context, id ShardID) (ShardInfo, error)
	// List yields the shards of a slot in order of (blob, stripe), those with
	// Blob > after. Deleted blobs are not listed. Ends after an error.
	List(ctx context.Context, pg PG, slot int, after BlobID) iter.Seq2[ShardInfo, error]
	// Delete removes a blob from a slot durably: when it returns nil, the
	// tombstone is on the medium, also where the blob was never known. The
	// payload may stay readable for a grace.
	Delete(ctx context.Context, pg PG, slot int, blob BlobID) error
	// SetSlotEpoch durably raises the fence of a slot. Lowering it is
	// ErrStaleEpoch; the same epoch again is no error.
	SetSlotEpoch(ctx context.Context, pg PG, slot int, epoch uint32) error
	// DropSlot durably forgets all shards of a slot with an epoch up to epoch,
	// where no higher fence is set; ErrStaleEpoch otherwise.
	DropSlot(ctx context.Context, pg PG, slot int, epoch uint32) error
}

// Stager is what a ShardStore may offer beside: Put and Sync of a small shard in
// one, which costs its caller neither a wait nor a goroutine.
type Stager interface {
	// Stage takes a shard as Put does, and has done called once, by another
	// goroutine, with what Sync would have returned: nil once the shard is
	// durable and visible. done must not block. It is false, and nothing
	// happened, where the store would have to wait or to refuse, or does not do
	// so with shards of this size: Put does it, or says why not.
	Stage(s Shard, done func(error)) bool
}

// Space is a drive's capacity in bytes. Free already excludes the reserve.
type Space struct {
	Total int64 `json:"total"`
	Used  int64 `json:"used"`
	Free  int64 `json:"free"`
	// Dead counts bytes of records that compaction can win back.
	Dead int64 `json:"dead"`
	// ReadOnly says that the reserve is reached: writes get ErrReadOnly,
	// deletes and compaction go on.
	ReadOnly bool `json:"readOnly"`
}

// ScrubReport is what one pass over a drive's records found.
type ScrubReport struct {
	Records, Bytes int64
	Corrupt        []ShardID
}

// Drive is a ShardStore with what its owner needs to manage it.
type Drive interface {
	ShardStore
	// Space reports the capacity as of the last few seconds.
	Space() Space
	// Health returns nil, or why the drive is unfit: an error that wraps
	// ErrBroken (for good) or ErrSuspect (an operation is stuck).
	Health() error
	// Scrub reads and verifies every live record at up to bytesPerSecond (0:
	// unlimited), calling damaged for each shard that fails, and reports
	// progress through the report's counters.
	Scrub(ctx context.Context, bytesPerSecond int64, damaged func(ShardID, error)) (ScrubReport, error)
	// Close makes everything accepted durable and releases the drive. ErrSuspect
	// where that hangs: it may still write, until another Close answers otherwise.
	Close() error
}
