package journal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
)

// A group record, little endian, at a multiple of groupAlign in a log file:
//
//	 0 magic u32        4 version u16   6 flags u16
//	 8 commit u64      16 chain of the group before u64
//	24 payload length u32              28 transactions u32
//	32 xxh64 of the payload u64        40 reserved, 16 bytes of zero
//	56 chain u64: xxh64 of the cluster's UUID and bytes 0 to 55
//	64 payload, then zeros up to groupAlign
//
// The chain covers the payload through its sum, the predecessor through its
// chain, and binds the record to the cluster. The alignment keeps a torn write
// of one group away from the sectors of the one before.
//
// The payload is a row of operations: opTxn starts a transaction; opPut with
// key and value, opDelete with a key, each preceded by its length (uvarint).
const (
	groupMagic   = 0x31474a4b // "KJG1"
	groupVersion = 1
	groupHeader  = 64
	groupAlign   = 512
	// maxPayload bounds a group: the committer stops filling one at
	// groupFill, and one transaction more fits.
	groupFill  = 4 << 20
	maxPayload = groupFill + 2*kv.MaxTxnBytes
)

const (
	opPut    = 1
	opDelete = 2
	opTxn    = 3
)

var (
	errNoGroup = errors.New("no valid group record")
	errPayload = errors.New("malformed group payload")
)

// group is a parsed record. payload points into the buffer parsed.
type group struct {
	commit, prev, chain uint64
	txns                uint32
	payload             []byte
}

// genesis is the chain before the first group.
func genesis(cluster storagenode.UUID) uint64 { return xxhash.Sum64(cluster[:]) }

// sealedSize is the room a group with such a payload takes in the log.
func sealedSize(payload int) int {
	return (groupHeader + payload + groupAlign - 1) / groupAlign * groupAlign
}

// seal fills in the header of buf, which is groupHeader bytes of room and the
// payload, pads it, and returns it with its chain.
func seal(buf []byte, cluster storagenode.UUID, commit, prev uint64, txns int) ([]byte, uint64) {
	n := len(buf) - groupHeader
	le := binary.LittleEndian
	clear(buf[:groupHeader])
	le.PutUint32(buf, groupMagic)
	le.PutUint16(buf[4:], groupVersion)
	le.PutUint64(buf[8:], commit)
	le.PutUint64(buf[16:], prev)
	le.PutUint32(buf[24:], uint32(n))
	le.PutUint32(buf[28:], uint32(txns))
	le.PutUint64(buf[32:], xxhash.Sum64(buf[groupHeader:]))
	chain := boundSum(cluster, buf[:56])
	le.PutUint64(buf[56:], chain)
	for pad := sealedSize(n) - len(buf); pad > 0; pad -= len(zeros) {
		buf = append(buf, zeros[:min(pad, len(zeros))]...)
	}
	return buf, chain
}

var zeros [groupAlign]byte // read only

// boundSum is xxh64 of the cluster's UUID followed by p (at most 64 bytes).
func boundSum(cluster storagenode.UUID, p []byte) uint64 {
	var b [16 + 64]byte
	copy(b[:], cluster[:])
	return xxhash.Sum64(b[:16+copy(b[16:], p)])
}

// parseGroup reads the record at the start of b and returns it with the room
// it takes. It checks everything but the predecessor. Of one whose payload alone is bad
// or cut off it returns what the header says, with the error.
func parseGroup(b []byte, cluster storagenode.UUID) (group, int, error) {
	le := binary.LittleEndian
	if len(b) < groupHeader || le.Uint32(b) != groupMagic {
		return group{}, 0, errNoGroup
	}
	if le.Uint64(b[56:]) != boundSum(cluster, b[:56]) {
		return group{}, 0, fmt.Errorf("%w: header sum", errNoGroup)
	}
	if v := le.Uint16(b[4:]); v != groupVersion {
		return group{}, 0, fmt.Errorf("%w: version %d", errNoGroup, v)
	}
	n := int(le.Uint32(b[24:]))
	g := group{
		commit: le.Uint64(b[8:]), prev: le.Uint64(b[16:]), chain: le.Uint64(b[56:]), txns: le.Uint32(b[28:]),
	}
	size := min(sealedSize(n), len(b))
	if n > maxPayload || groupHeader+n > len(b) {
		return g, size, fmt.Errorf("%w: length %d", errNoGroup, n)
	}
	g.payload = b[groupHeader : groupHeader+n]
	if xxhash.Sum64(g.payload) != le.Uint64(b[32:]) {
		return g, size, fmt.Errorf("%w: payload sum", errNoGroup)
	}
	return g, size, nil
}

// eachOp calls f for every write of a payload; a nil value is a delete.
func eachOp(payload []byte, f func(key, value []byte) error) error {
	for len(payload) > 0 {
		op := payload[0]
		payload = payload[1:]
		if op == opTxn {
			continue
		}
		if op != opPut && op != opDelete {
			return fmt.Errorf("%w: operation %d", errPayload, op)
		}
		key, rest, ok := cutBytes(payload)
		if !ok || len(key) == 0 || len(key) > kv.MaxKey {
			return fmt.Errorf("%w: key", errPayload)
		}
		var value []byte
		if op == opPut {
			if value, rest, ok = cutBytes(rest); !ok || len(value) == 0 || len(value) > kv.MaxValue {
				return fmt.Errorf("%w: value", errPayload)
			}
		}
		if err := f(key, value); err != nil {
			return err
		}
		payload = rest
	}
	return nil
}

// cutBytes takes a run of bytes preceded by its length.
func cutBytes(p []byte) (run, rest []byte, ok bool) {
	n, w := binary.Uvarint(p)
	if w <= 0 || n > uint64(len(p)-w) {
		return nil, nil, false
	}
	return p[w : w+int(n) : w+int(n)], p[w+int(n):], true
}

func appendBytes(p, run []byte) []byte {
	return append(binary.AppendUvarint(p, uint64(len(run))), run...)
}
