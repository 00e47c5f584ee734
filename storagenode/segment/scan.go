package segment

import (
	"errors"
	"fmt"
	"io"

	"kintsugi/storagenode"
)

// scanDepth is how much of a record a scan reads and verifies.
type scanDepth uint8

const (
	scanHeaders scanDepth = iota // headers
	scanBodies                   // and attributes and sums
	scanAll                      // and payloads
)

// found is one step of a scan: a record, or bytes that are none.
type found struct {
	off, size int64
	isRecord  bool
	h         header // where isRecord
	err       error  // where isRecord: what its check said
	nonzero   bool   // where not isRecord
	last      bool   // where not isRecord: nothing valid follows
	unread    bool   // where there is no good record: the medium could not be read
}

const (
	scanChunk      = 256 << 10
	scanSmallChunk = 8 << 10
)

// scanner walks the records of [off, size) of a segment and finds its way
// after damage: by the next valid header at a multiple of 64 B.
type scanner struct {
	f     io.ReaderAt
	bind  binding
	depth scanDepth
	off   int64
	size  int64

	buf   []byte
	start int64 // of buf in the file
	bad   bool  // some of buf could not be read, and is zero
}

// window gives n bytes at off, which the file has. They are valid until the
// next call. What the medium cannot read is zero; want of memory is not the medium's.
func (sc *scanner) window(off, n int64) ([]byte, error) {
	if off >= sc.start && off+n <= sc.start+int64(len(sc.buf)) {
		return sc.buf[off-sc.start:][:n], nil
	}
	chunk := int64(scanChunk)
	if sc.depth != scanAll && n < scanSmallChunk && off-sc.start > scanChunk {
		chunk = scanSmallChunk // records are large: their payloads are jumped over
	}
	want := min(max(n, chunk), sc.size-off)
	if int64(cap(sc.buf)) < want {
		sc.buf = make([]byte, want)
	}
	sc.buf, sc.start, sc.bad = sc.buf[:want], off, false
	err := readFull(sc.f, sc.buf, off)
	if err == nil {
		return sc.buf[:n], nil
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		sc.buf = sc.buf[:0]
		return nil, fmt.Errorf("segment shrank during a scan: %w", err)
	}
	for i := int64(0); i < want; i += superSize {
		part := sc.buf[i:min(want, i+superSize)]
		err := readFull(sc.f, part, off+i)
		if short(err) {
			sc.buf = sc.buf[:0]
			return nil, err
		}
		if err != nil {
			clear(part)
			sc.bad = true
		}
	}
	return sc.buf[:n], nil
}

// next gives the next step, io.EOF at the end.
func (sc *scanner) next() (found, error) {
	if sc.off >= sc.size {
		return found{}, io.EOF
	}
	h, ok, err := sc.headerAt(sc.off)
	if err != nil {
		return found{}, err
	}
	if !ok {
		return sc.gap()
	}
	r := found{off: sc.off, size: h.size(), isRecord: true, h: h}
	sc.off += r.size
	if sc.off > sc.size {
		r.err, sc.off = errBadBody, sc.size
		return r, nil
	}
	if sc.depth == scanHeaders || recordType(h.typ) == typeSkip {
		return r, nil
	}
	l := layoutOf(int(h.attrLen), int(h.payloadLen))
	n := l.payload
	if sc.depth == scanAll {
		n = r.size
	}
	p, err := sc.window(r.off, n)
	if err != nil {
		return found{}, err
	}
	if r.err = h.verifyBody(p[headerSize:]); r.err == nil && sc.depth == scanAll {
		r.err = h.verifyPayload(p[headerSize:])
	}
	r.unread = r.err != nil && sc.bad
	return r, nil
}

func (sc *scanner) headerAt(off int64) (h header, ok bool, err error) {
	if off+headerSize > sc.size {
		return h, false, nil
	}
	p, err := sc.window(off, headerSize)
	if err != nil {
		return h, false, err
	}
	return h, h.decode(p, sc.bind, off) == nil, nil
}

// gap runs to the next valid header.
func (sc *scanner) gap() (found, error) {
	g := found{off: sc.off}
	for {
		n := min(recordAlign, sc.size-sc.off)
		p, err := sc.window(sc.off, n)
		if err != nil {
			return found{}, err
		}
		g.unread = g.unread || sc.bad
		g.nonzero = g.nonzero || sc.bad || !allZero(p)
		if sc.off += n; sc.off >= sc.size {
			g.size, g.last = sc.off-g.off, true
			return g, nil
		}
		_, ok, err := sc.headerAt(sc.off)
		if err != nil {
			return found{}, err
		}
		if ok {
			g.size = sc.off - g.off
			return g, nil
		}
	}
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// verifyRecord reads a whole record and checks all of it.
func verifyRecord(g *segFile, off int64, h *header) error {
	b := buffer(h.size())
	defer buffers.Put(b)
	if err := readFull(g.f, *b, off); err != nil {
		return err
	}
	var at header
	if err := at.decode(*b, g.bind, off); err != nil {
		return err
	}
	if at.seq != h.seq || at.shardID() != h.shardID() {
		return errNoRecord
	}
	if err := at.verifyBody((*b)[headerSize:]); err != nil {
		return err
	}
	return at.verifyPayload((*b)[headerSize:])
}

// Damage is a run of bytes in a segment that should hold records and does not.
type Damage struct {
	Segment  uint64
	From, To int64
	Err      error
}

// OpenReport says what a recovery found.
type OpenReport struct {
	Segments int
	Replayed int64 // records read that the index did not cover
	Rebuilt  bool  // the index was made anew
	// Damaged lists what cannot be named, Corrupt the shards that can.
	Damaged []Damage
	Corrupt []storagenode.ShardID
}

// maxReported bounds the lists of a report.
const maxReported = 1000

// reportDamage notes bytes that hold no record. applyMu is held.
func (s *Store) reportDamage(segment uint64, from, to int64, err error) {
	s.cfg.Logger.Error("segment damaged", "segment", segment, "from", from, "to", to, "err", err)
	if len(s.report.Damaged) < maxReported {
		s.report.Damaged = append(s.report.Damaged, Damage{segment, from, to, err})
	}
}

// reportCorrupt notes a shard that fails its check. applyMu is held.
func (s *Store) reportCorrupt(id storagenode.ShardID, err error) {
	s.cfg.Logger.Error("shard corrupt", "pg", id.PG, "slot", id.Slot, "blob", id.Blob, "stripe", id.Stripe, "err", err)
	if len(s.report.Corrupt) < maxReported {
		s.report.Corrupt = append(s.report.Corrupt, id)
	}
	s.cfg.Damaged(id, err)
}
