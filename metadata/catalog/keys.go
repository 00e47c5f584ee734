package catalog

import (
	"bytes"
	"encoding/binary"

	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// The families of keys. A key is its family's byte and then fixed-width
// fields, so that no two families and no two records share a key; a field of
// free length stands last, is escaped and ended (uploads), or is preceded by
// its length (upload ids, where no order is needed).
const (
	famBucket  = 'B' // name                         a bucket
	famObject  = 'c' // bid4 key                     the current version
	famUpload  = 'u' // bid4 esc(key) end id         an upload open or completing
	famPart    = 'p' // len1 id part2                a part of an upload
	famChunk   = 'M' // len1 id chunk2               a piece of a part list
	famGroup   = 'G' // pg4                          a placement group
	famFill    = 'g' // pg4                          what a group holds, roughly
	famDrive   = 'D' // drive16                      a drive
	famNode    = 'N' // name                         a node
	famOrphan  = 'o' // pg4 slot1 blob16             a shard in quarantine
	famScrub   = 's' // drive16                      when a drive was last scrubbed
	famLease   = 'L' // role                         who leads, and the term
	famBeat    = 'l' // role                         that the leader lives
	famBlob    = 'b' // pg4 blob16                   what the slots should hold
	famDamage  = 'm' // margin1 pg4 blob16           known damage, worst first
	famOwed    = 'x' // 'b' blob16 pg4               deletes owed, by age of the blob
	famFormat  = 'F' // one byte                     counters and the horizon
	owedBlob   = 'b'
	owedList   = 'u' // len1 id: the blobs of a whole part list are owed
	owedParts  = 'c' // len1 id: parts of an ended upload are to be cleared
	fmtBuckets = 'b' // the last bucket id given away
	fmtGroups  = 'g' // the last PG given away
	fmtHorizon = 'h' // the least blob id that may still be committed
	fmtCluster = 'c' // the cluster's UUID
	fmtPaused  = 'p' // there while nothing may be destroyed
	fmtLoaded  = 'r' // there since metadata was loaded from a dump, until an operator agrees that orphans are collected
)

// maxUploadID bounds the length of an upload id: it is stored with one byte
// of length.
const maxUploadID = 255

// An escaped string keeps the order of its bytes and can be followed by more:
// 0x00 becomes 0x00 0xff, and 0x00 0x01 ends it.
const (
	escByte = 0x00
	escZero = 0xff
	escEnd  = 0x01
)

func appendEscaped[S string | []byte](dst []byte, s S) []byte {
	for i := range len(s) {
		dst = append(dst, s[i])
		if s[i] == escByte {
			dst = append(dst, escZero)
		}
	}
	return dst
}

// unescape reads an ended escaped string off p.
func unescape(p []byte) (s, rest []byte, ok bool) {
	for i := 0; i+1 < len(p); i++ {
		if p[i] != escByte {
			s = append(s, p[i])
			continue
		}
		switch p[i+1] {
		case escZero:
			s = append(s, escByte)
			i++
		case escEnd:
			return s, p[i+2:], true
		default:
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// prefixEnd is the least key above all keys with the prefix, nil where there
// is none.
func prefixEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}

// arena hands out the bytes of one transaction's keys and values from few
// allocations. They belong to the transaction from then on, also when its
// outcome is unknown, so an arena is never pooled.
type arena struct{ free []byte }

const arenaChunk = 1 << 10

// room gives an empty slice with capacity n to append to.
func (a *arena) room(n int) []byte {
	if n > len(a.free) {
		if n > arenaChunk/2 {
			return make([]byte, 0, n)
		}
		a.free = make([]byte, arenaChunk)
	}
	p := a.free[:0:n]
	a.free = a.free[n:]
	return p
}

func (a *arena) bucketKey(name string) []byte {
	return append(append(a.room(1+len(name)), famBucket), name...)
}

func appendObjectPrefix(dst []byte, bid metadata.BucketID) []byte {
	return binary.BigEndian.AppendUint32(append(dst, famObject), uint32(bid))
}

func (a *arena) objectKey(bid metadata.BucketID, key string) []byte {
	return append(appendObjectPrefix(a.room(5+len(key)), bid), key...)
}

func appendUploadPrefix(dst []byte, bid metadata.BucketID) []byte {
	return binary.BigEndian.AppendUint32(append(dst, famUpload), uint32(bid))
}

func (a *arena) uploadKey(bid metadata.BucketID, key, id string) []byte {
	k := appendUploadPrefix(a.room(7+2*len(key)+len(id)), bid)
	k = append(appendEscaped(k, key), escByte, escEnd)
	return append(k, id...)
}

func appendIDPrefix(dst []byte, family byte, id string) []byte {
	return append(append(dst, family, byte(len(id))), id...)
}

func (a *arena) partKey(id string, part int) []byte {
	k := appendIDPrefix(a.room(4+len(id)), famPart, id)
	return binary.BigEndian.AppendUint16(k, uint16(part))
}

func (a *arena) chunkKey(id string, chunk int) []byte {
	k := appendIDPrefix(a.room(4+len(id)), famChunk, id)
	return binary.BigEndian.AppendUint16(k, uint16(chunk))
}

func (a *arena) groupKey(pg storagenode.PG) []byte {
	return binary.BigEndian.AppendUint32(append(a.room(5), famGroup), uint32(pg))
}

func (a *arena) fillKey(pg storagenode.PG) []byte {
	return binary.BigEndian.AppendUint32(append(a.room(5), famFill), uint32(pg))
}

func (a *arena) driveKey(id storagenode.DriveID) []byte {
	return append(append(a.room(17), famDrive), id[:]...)
}

func (a *arena) orphanKey(pg storagenode.PG, slot uint8, id storagenode.BlobID) []byte {
	k := append(binary.BigEndian.AppendUint32(append(a.room(22), famOrphan), uint32(pg)), slot)
	return append(k, id[:]...)
}

func (a *arena) scrubKey(id storagenode.DriveID) []byte {
	return append(append(a.room(17), famScrub), id[:]...)
}

func (a *arena) nodeKey(name string) []byte {
	return append(append(a.room(1+len(name)), famNode), name...)
}

// leaseKey is of family famLease or famBeat.
func (a *arena) leaseKey(family byte, role string) []byte {
	return append(append(a.room(1+len(role)), family), role...)
}

func (a *arena) blobKey(pg storagenode.PG, id storagenode.BlobID) []byte {
	k := binary.BigEndian.AppendUint32(append(a.room(21), famBlob), uint32(pg))
	return append(k, id[:]...)
}

// damageKey sorts by margin, which may be negative.
func (a *arena) damageKey(margin int, pg storagenode.PG, id storagenode.BlobID) []byte {
	k := append(a.room(22), famDamage, byte(margin+128))
	return append(binary.BigEndian.AppendUint32(k, uint32(pg)), id[:]...)
}

func (a *arena) owedKey(pg storagenode.PG, id storagenode.BlobID) []byte {
	k := append(append(a.room(22), famOwed, owedBlob), id[:]...)
	return binary.BigEndian.AppendUint32(k, uint32(pg))
}

// owedUploadKey is the row of kind owedList or owedParts for an upload.
func (a *arena) owedUploadKey(kind byte, id string) []byte {
	return append(append(a.room(3+len(id)), famOwed, kind, byte(len(id))), id...)
}

func (a *arena) formatKey(which byte) []byte {
	return append(a.room(2), famFormat, which)
}

// splitBlobKey reads the PG and the blob off the end of a blob or damage key.
func splitBlobKey(key []byte) (pg storagenode.PG, id storagenode.BlobID, ok bool) {
	if len(key) < 21 {
		return 0, id, false
	}
	key = key[len(key)-20:]
	copy(id[:], key[4:])
	return storagenode.PG(binary.BigEndian.Uint32(key)), id, true
}

// splitOwedKey reads an owedKey.
func splitOwedKey(key []byte) (pg storagenode.PG, id storagenode.BlobID, ok bool) {
	if len(key) != 22 {
		return 0, id, false
	}
	copy(id[:], key[2:])
	return storagenode.PG(binary.BigEndian.Uint32(key[18:])), id, true
}
