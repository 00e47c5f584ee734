// Package dump keeps a whole consistent state of a kv.Store in a file, and
// loads it into an empty one, of whatever engine: the way from one engine to
// another, and back from a lost one.
//
// Write and Read know the bytes, in format.go; Dump writes what a store holds;
// Load, in load.go, fills a store, resumes a load that was cut off, and proves
// by reading everything again that the store holds what the file holds.
//
// A dump, little endian:
//
//	 0 magic "KINTDUMP"     8 version u16     10 least version of a reader u16
//	12 zero u32            16 id of the dump, 16 random bytes
//	32 time, ms since 1970 i64               40 16 bytes of zero
//	56 xxh64 of bytes 0 to 55
//	64 blocks: length u32, pairs u32, number u32 (from 0), zero u32,
//	   xxh64 of the dump's id, these 16 bytes and the contents; the contents:
//	   pairs in order, key and value each after its length (uvarint)
//	   the last block has pairs 0xffffffff; its contents: number of families
//	   u16, for each family (the first byte of its keys) the byte, the number
//	   of pairs u64 and the bytes of keys and values u64; then SHA-256 of all
//	   pairs, each as in a block
//
// and nothing behind it.
package dump

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"kintsugi/metadata/kv"
)

const (
	magic      = "KINTDUMP"
	version    = 1
	headerSize = 64
	blockHead  = 24
	blockSize  = 256 << 10
	lastBlock  = 0xffffffff
	maxPair    = kv.MaxKey + kv.MaxValue + 2*binary.MaxVarintLen32
)

// What Read and Load answer with.
var (
	// ErrDamaged: the file is not a whole, unchanged dump. Its text says where.
	ErrDamaged = errors.New("damaged dump")
	// ErrVersion: the file was written by a newer Kintsugi.
	ErrVersion = errors.New("dump of a newer version")
)

// ID is a dump's own.
type ID [16]byte

// Family counts the pairs whose keys begin with one byte.
type Family struct {
	Family byte
	Pairs  uint64
	Bytes  uint64 // of keys and values
}

// Summary says what a state holds. Two states with equal sums hold the same.
type Summary struct {
	Families []Family // in order
	Sum      [sha256.Size]byte
}

// Pairs is the number of all pairs.
func (s Summary) Pairs() (n uint64) {
	for _, f := range s.Families {
		n += f.Pairs
	}
	return n
}

// Bytes is the size of all keys and values.
func (s Summary) Bytes() (n uint64) {
	for _, f := range s.Families {
		n += f.Bytes
	}
	return n
}

// Equal says that two states are the same.
func (s Summary) Equal(o Summary) bool { return s.Sum == o.Sum && slices.Equal(s.Families, o.Families) }

// summer makes a Summary of pairs that come in order.
type summer struct {
	families []Family
	sum      hash.Hash
	scratch  []byte
	last     []byte
}

func newSummer() *summer { return &summer{sum: sha256.New()} }

// add takes in a pair, checks order and limits, and gives it as blocks hold
// it, until the next call.
func (s *summer) add(p kv.Pair) ([]byte, error) {
	switch {
	case len(p.Key) == 0 || len(p.Key) > kv.MaxKey || len(p.Value) == 0 || len(p.Value) > kv.MaxValue:
		return nil, fmt.Errorf("a key of %d and a value of %d bytes", len(p.Key), len(p.Value))
	case s.last != nil && bytes.Compare(p.Key, s.last) <= 0:
		return nil, errors.New("keys out of order")
	}
	s.last = append(s.last[:0], p.Key...)
	if n := len(s.families); n == 0 || s.families[n-1].Family != p.Key[0] {
		s.families = append(s.families, Family{Family: p.Key[0]})
	}
	f := &s.families[len(s.families)-1]
	f.Pairs++
	f.Bytes += uint64(len(p.Key) + len(p.Value))
	b := binary.AppendUvarint(s.scratch[:0], uint64(len(p.Key)))
	b = append(b, p.Key...)
	b = binary.AppendUvarint(b, uint64(len(p.Value)))
	s.scratch = append(b, p.Value...)
	_, _ = s.sum.Write(s.scratch) // never fails
	return s.scratch, nil
}

func (s *summer) summary() Summary {
	out := Summary{Families: s.families}
	s.sum.Sum(out.Sum[:0])
	return out
}

// Write writes a dump of the pairs, which must be in order.
func Write(w io.Writer, id ID, now time.Time, pairs iter.Seq2[kv.Pair, error]) (Summary, error) {
	le := binary.LittleEndian
	h := make([]byte, headerSize)
	copy(h, magic)
	le.PutUint16(h[8:], version)
	le.PutUint16(h[10:], version)
	copy(h[16:], id[:])
	le.PutUint64(h[32:], uint64(now.UnixMilli()))
	le.PutUint64(h[56:], xxhash.Sum64(h[:56]))
	if _, err := w.Write(h); err != nil {
		return Summary{}, err
	}
	s := newSummer()
	out := &blocks{w: w, id: id, buf: make([]byte, blockHead, blockSize+blockHead+maxPair)}
	for p, err := range pairs {
		if err != nil {
			return Summary{}, err
		}
		text, err := s.add(p)
		if err != nil {
			return Summary{}, fmt.Errorf("key %q: %w", p.Key, err)
		}
		out.buf = append(out.buf, text...)
		if out.pairs++; len(out.buf) >= blockSize {
			if err := out.flush(); err != nil {
				return Summary{}, err
			}
		}
	}
	if out.pairs > 0 {
		if err := out.flush(); err != nil {
			return Summary{}, err
		}
	}
	total := s.summary()
	out.buf = le.AppendUint16(out.buf, uint16(len(total.Families)))
	for _, f := range total.Families {
		out.buf = append(out.buf, f.Family)
		out.buf = le.AppendUint64(le.AppendUint64(out.buf, f.Pairs), f.Bytes)
	}
	out.buf = append(out.buf, total.Sum[:]...)
	out.pairs = lastBlock
	return total, out.flush()
}

// blocks writes one block after another.
type blocks struct {
	w      io.Writer
	id     ID
	buf    []byte // room for the head, then the contents
	pairs  uint32
	number uint32
}

func (b *blocks) flush() error {
	le := binary.LittleEndian
	clear(b.buf[:blockHead])
	le.PutUint32(b.buf, uint32(len(b.buf)-blockHead))
	le.PutUint32(b.buf[4:], b.pairs)
	le.PutUint32(b.buf[8:], b.number)
	le.PutUint64(b.buf[16:], blockSum(b.id, b.buf[:16], b.buf[blockHead:]))
	_, err := b.w.Write(b.buf)
	b.buf, b.pairs = b.buf[:blockHead], 0
	b.number++
	return err
}

func blockSum(id ID, head, contents []byte) uint64 {
	d := xxhash.New()
	_, _ = d.Write(id[:]) // never fails
	_, _ = d.Write(head)
	_, _ = d.Write(contents)
	return d.Sum64()
}

// Head is what a dump says of itself at its start.
type Head struct {
	ID   ID
	Time time.Time
}

// Read reads a dump and calls f for every pair, in order; slices are valid for
// the call. That all is well, and the summary, are known only at the end: an
// error means that what f was given must not be used. Errors wrap ErrDamaged
// or ErrVersion, or are those of r and f.
func Read(r io.Reader, f func(kv.Pair) error) (Head, Summary, error) {
	in := bufio.NewReaderSize(r, 1<<20)
	head, err := readHead(in)
	if err != nil {
		return head, Summary{}, err
	}
	s := newSummer()
	var body []byte
	for number := uint32(0); ; number++ {
		pairs, contents, err := readBlock(in, head.ID, number, body)
		if err != nil {
			return head, Summary{}, fmt.Errorf("%w: block %d: %w", ErrDamaged, number, err)
		}
		if pairs == lastBlock {
			total := s.summary()
			if want, err := parseSummary(contents); err != nil || !want.Equal(total) {
				return head, Summary{}, fmt.Errorf("%w: the whole is not what its end says", ErrDamaged)
			}
			if _, err := in.ReadByte(); err != io.EOF {
				return head, Summary{}, fmt.Errorf("%w: something follows its end", ErrDamaged)
			}
			return head, total, nil
		}
		for rest := contents; pairs > 0 || len(rest) > 0; pairs-- {
			var p kv.Pair
			var ok bool
			if p.Key, rest, ok = cut(rest); ok && pairs > 0 {
				p.Value, rest, ok = cut(rest)
			}
			if !ok || pairs == 0 {
				return head, Summary{}, fmt.Errorf("%w: block %d: a pair", ErrDamaged, number)
			}
			if _, err := s.add(p); err != nil {
				return head, Summary{}, fmt.Errorf("%w: block %d: %w", ErrDamaged, number, err)
			}
			if err := f(p); err != nil {
				return head, Summary{}, err
			}
		}
		body = contents
	}
}

func readHead(in io.Reader) (Head, error) {
	le := binary.LittleEndian
	h := make([]byte, headerSize)
	if _, err := io.ReadFull(in, h); err != nil {
		return Head{}, fmt.Errorf("%w: no whole header", ErrDamaged)
	}
	if string(h[:8]) != magic || le.Uint64(h[56:]) != xxhash.Sum64(h[:56]) {
		return Head{}, fmt.Errorf("%w: header", ErrDamaged)
	}
	if le.Uint16(h[10:]) > version {
		return Head{}, fmt.Errorf("%w: %d, this one reads up to %d", ErrVersion, le.Uint16(h[10:]), version)
	}
	return Head{ID: ID(h[16:32]), Time: time.UnixMilli(int64(le.Uint64(h[32:])))}, nil
}

// readBlock reads the next block into body's room.
func readBlock(in io.Reader, id ID, number uint32, body []byte) (pairs uint32, contents []byte, err error) {
	le := binary.LittleEndian
	var head [blockHead]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	size := le.Uint32(head[:])
	if size > blockSize+maxPair {
		return 0, nil, fmt.Errorf("%d bytes", size)
	}
	if cap(body) < int(size) {
		body = make([]byte, size)
	}
	body = body[:size]
	if _, err := io.ReadFull(in, body); err != nil {
		return 0, nil, err
	}
	if le.Uint64(head[16:]) != blockSum(id, head[:16], body) || le.Uint32(head[8:]) != number {
		return 0, nil, errors.New("its sum is wrong")
	}
	return le.Uint32(head[4:]), body, nil
}

// cut takes a length and that many bytes off b.
func cut(b []byte) (part, rest []byte, ok bool) {
	n, l := binary.Uvarint(b)
	if l <= 0 || n > uint64(len(b)-l) {
		return nil, nil, false
	}
	return b[l : l+int(n)], b[l+int(n):], true
}

func parseSummary(b []byte) (Summary, error) {
	le := binary.LittleEndian
	if len(b) < 2 || len(b) != 2+17*int(le.Uint16(b))+sha256.Size {
		return Summary{}, errors.New("end")
	}
	var s Summary
	n := int(le.Uint16(b))
	for b = b[2:]; n > 0; n-- {
		s.Families = append(s.Families, Family{b[0], le.Uint64(b[1:]), le.Uint64(b[9:])})
		b = b[17:]
	}
	copy(s.Sum[:], b)
	return s, nil
}
