package stripe

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// hot keeps pieces of blobs that were read or written, and small blobs whole,
// within what transfers leave of the memory: reading one again from the page cache
// costs as much as all else of the read, and asking a node for it several times as
// much. So what a node gave is kept at once while there is room, and everything
// else when it is read again. What was written is kept in memory that it is in
// already: drives are written to past the page cache, and who stores something
// often reads it next. Blobs of several stripes are kept only where there is room
// that nobody needs: whoever uploads much reads little of it soon, and memory that
// is not used again at once costs 7% more CPU. A blob's bytes never change and its
// id is never used twice, so that no piece can be out of date; whether the blob is
// still anybody's is what metadata says before. Pieces were verified when they were
// read, and are verified again whenever they are used.
type hot struct {
	memory *memory
	limit  int64 // bytes
	remote bool  // pieces come from nodes
	// unwritten, set by tests, keeps only what was read.
	unwritten bool

	mu     sync.Mutex
	pieces map[hotKey]*hotPiece
	used   hotList // what was read, the one used last first
	unread hotList // what nobody read yet, the one written last first
	asked  int64   // how often a piece was asked for
	bytes  int64
	missed uint64 // how often there was no room
	// blobs has the chain of each blob's buffers.
	blobs map[storagenode.BlobID]*hotBuffer
	// debt is how many bytes of large blobs are still not to be kept, since
	// transfers had to have pieces given up for memory.
	debt int64

	// seen has a mark of what was read once, lately.
	seen  [1 << hotMarks]atomic.Uint64
	reads atomic.Int64
}

const (
	// hotShare is the part of the memory, so many sixteenths, that pieces may
	// take at most while nobody else needs it.
	hotShare = 15
	// hotLarge is the part that blobs of several stripes are kept up to: what is
	// left is for those that are written after them.
	hotLarge = 13
	// hotUses is up to how many uses are counted, so that what is no longer used
	// gives way soon, however often it was.
	hotUses = 7
	// hotIdle is after how many pieces asked for, for each that is kept, one that
	// was not among them is nobody's: what is read now has moved on.
	hotIdle = 4
	// hotMarks is the number of marks, as a power of two: of some GiB.
	hotMarks    = 14
	hotTurnover = 8
)

type hotKey struct {
	blob storagenode.BlobID
	at   int64 // in the blob
}

// hotPiece is verified bytes that nobody writes to any more. Nothing of it changes.
type hotPiece struct {
	key  hotKey
	of   *hotBuffer
	mem  []byte   // of the buffer
	sums []uint64 // of its blocks
}

// hotBuffer is a buffer that is held until it is forgotten, with all pieces in it:
// one that was read, or all of a stripe.
type hotBuffer struct {
	*buffer
	pieces     []*hotPiece
	asked      int64 // hot.asked when one of them was last
	uses       int   // lately; guarded by hot.mu, as is what follows
	list       *hotList
	prev, next *hotBuffer
	left       *hotBuffer // of the same blob, as is right
	right      *hotBuffer
}

// hotList is buffers in the order in which they are given up, the last first.
type hotList struct{ first, last *hotBuffer }

func newHot(m *memory, limit int64, remote bool) *hot {
	h := &hot{memory: m, limit: min(limit, m.total/16*hotShare), remote: remote,
		pieces: map[hotKey]*hotPiece{}, blobs: map[storagenode.BlobID]*hotBuffer{}}
	m.yield = h.yield
	return h
}

// get gives a piece and a reference to its buffer; nil where it is not there.
func (h *hot) get(key hotKey) *hotPiece {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pieces[key]
	if h.asked++; p != nil {
		b := p.of
		b.asked = h.asked
		b.retain(1)
		b.uses = min(b.uses+1, hotUses)
		b.unlink()
		h.used.link(b)
	}
	return p
}

func (h *hot) has(key hotKey) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pieces[key] != nil
}

// wants says that a piece of n bytes which is being read should be kept, and
// notes that it was read. Where there is no room, it takes the place of one that
// is nobody's any more or that nobody read yet, or else of the one that was used
// least lately if that has not been used since it last stood there: where more is
// read again and again than there is room for, keeping the one instead of the other
// gains nothing. On this machine's drives only one in hotTurnover may then: to be
// kept a piece is read wholly, however little of it is asked for.
func (h *hot) wants(key hotKey, n int) bool {
	again := h.again(key)
	if !again && !h.remote {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pieces[key] != nil {
		return false
	}
	if h.bytes+int64(n) <= h.limit {
		return true
	}
	if b := h.spare(); b != nil && (again || b.list == &h.unread) {
		h.forget(b)
		return true
	}
	b := h.used.last
	if !again || b == nil {
		return false
	}
	if h.missed++; !h.remote && h.missed%hotTurnover != 0 {
		return false
	}
	if b.uses /= 2; b.uses == 0 {
		h.forget(b)
		return true
	}
	b.unlink()
	h.used.link(b)
	return false
}

// spare is what can be given up for any other, nil where there is nothing. mu is
// held.
func (h *hot) spare() *hotBuffer {
	if b := h.used.last; b != nil && h.asked-b.asked > int64(hotIdle*len(h.pieces)) {
		return b
	}
	return h.unread.last
}

// again says that a piece was read before, not long ago, and notes that it was.
func (h *hot) again(key hotKey) bool {
	mark := (binary.LittleEndian.Uint64(key.blob[8:]) ^ uint64(key.at)) * 0x9E3779B97F4A7C15
	return h.seen[mark>>(64-hotMarks)].Swap(mark) == mark
}

// widens says that of a piece of which some is read the rest should be, too: it
// was read before, and there is room for it.
func (h *hot) widens(key hotKey, n int) bool {
	return h.again(key) && h.size()+int64(n) <= h.limit
}

// put keeps n verified bytes of buf, which nobody writes to from now on. It is
// refused where buf would be mostly empty, or others wait for memory.
func (h *hot) put(key hotKey, buf *buffer, n int) bool {
	if n < len(buf.mem)/2 {
		return false
	}
	b := &hotBuffer{buffer: buf}
	b.add(key, 0, n, nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.memory.waiting.Load() > 0 || h.pieces[key] != nil {
		return false
	}
	h.add(b, &h.used)
	for h.bytes > h.limit {
		h.forget(h.last())
	}
	return true
}

// add makes a piece of some of the buffer; nil sums are computed.
func (b *hotBuffer) add(key hotKey, from, to int, sums []uint64) {
	mem := b.mem[from:to:to]
	if sums == nil {
		sums = storagenode.AppendSums(make([]uint64, 0, storagenode.SumCount(len(mem))), mem)
	}
	b.pieces = append(b.pieces, &hotPiece{key: key, of: b, mem: mem, sums: sums})
}

// written keeps a stripe that was written, of whose memory only the data is held,
// or a copy where that would be mostly empty. One that is the whole of its blob
// takes the place of others that were written and that nobody read; what was read
// gives way only when it is no longer.
func (h *hot) written(s erasure.Scheme, blob storagenode.BlobID, st part) {
	whole := st.stripe == 0 && st.last
	if h.limit == 0 || h.unwritten || st.n < classSize(0)/2 || !whole && !h.spacious(st.n) {
		return
	}
	b := &hotBuffer{buffer: st.data}
	if st.n < len(b.mem)/2 {
		if b.buffer = h.memory.spare(st.n); b.buffer == nil {
			return
		}
		defer b.release()
		copy(b.mem, st.data.mem[:st.n])
	}
	size := s.ShardSize(st.n)
	for from := 0; from < st.n; {
		_, to := pieceAt(size, st.n, from)
		b.add(hotKey{blob, int64(st.stripe)*erasure.StripeSize + int64(from)}, from, to, st.pieceSums(size, from, to))
		from = to
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.bytes+int64(len(b.mem)) > h.limit {
		old := h.spare()
		if old == nil || !whole {
			return
		}
		h.forget(old)
	}
	if h.memory.waiting.Load() == 0 {
		h.add(b, &h.unread)
	}
}

// spacious says that n bytes of a large blob have room.
func (h *hot) spacious(n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.debt > 0 {
		h.debt -= int64(n)
		return false
	}
	return h.bytes+int64(n) <= h.limit/hotShare*hotLarge
}

// lose forgets all pieces of a blob.
func (h *hot) lose(blob storagenode.BlobID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for b := h.blobs[blob]; b != nil; b = h.blobs[blob] {
		h.forget(b)
	}
}

// pieceSums gives the sums of a piece out of those of the shards, of size bytes,
// that it lies in; nil where its blocks are not theirs.
func (st *part) pieceSums(size, from, to int) []uint64 {
	if len(st.sums) == 0 || size < turnBytes && size%storagenode.SumBlock != 0 {
		return nil
	}
	first := from/size*storagenode.SumCount(size) + from%size/storagenode.SumBlock
	sums := slices.Clone(st.sums[first : first+storagenode.SumCount(to-from)])
	if short := (to - from) % storagenode.SumBlock; short > 0 { // the shard's has its padding, too
		sums[len(sums)-1] = storagenode.BlockSum(st.data.mem[to-short : to])
	}
	return sums
}

// last is what is given up first where something must be. mu is held.
func (h *hot) last() *hotBuffer {
	if b := h.spare(); b != nil {
		return b
	}
	return h.used.last
}

// drop forgets a piece that is not what it was.
func (h *hot) drop(p *hotPiece) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pieces[p.key] == p {
		h.forget(p.of)
	}
}

// yield forgets pieces until n bytes of the memory are nobody's and not asked for, or
// none is left.
func (h *hot) yield(n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for b := h.last(); b != nil && h.memory.total-h.memory.claims.Load() < n; b = h.last() {
		h.forget(b)
		h.debt = h.limit
	}
}

// size is the memory that pieces take.
func (h *hot) size() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bytes
}

// add, forget, link and unlink: mu is held.
func (h *hot) add(b *hotBuffer, to *hotList) {
	b.retain(1)
	b.asked = h.asked
	for _, p := range b.pieces {
		h.pieces[p.key] = p
	}
	to.link(b)
	h.bytes += int64(len(b.mem))
	blob := b.pieces[0].key.blob
	if b.right = h.blobs[blob]; b.right != nil {
		b.right.left = b
	}
	h.blobs[blob] = b
}

func (h *hot) forget(b *hotBuffer) {
	b.unlink()
	for _, p := range b.pieces {
		delete(h.pieces, p.key)
	}
	h.bytes -= int64(len(b.mem))
	if b.right != nil {
		b.right.left = b.left
	}
	switch blob := b.pieces[0].key.blob; {
	case b.left != nil:
		b.left.right = b.right
	case b.right != nil:
		h.blobs[blob] = b.right
	default:
		delete(h.blobs, blob)
	}
	b.release()
}

func (l *hotList) link(b *hotBuffer) {
	b.list, b.prev, b.next = l, nil, l.first
	if l.first != nil {
		l.first.prev = b
	} else {
		l.last = b
	}
	l.first = b
}

func (b *hotBuffer) unlink() {
	if b.prev != nil {
		b.prev.next = b.next
	} else {
		b.list.first = b.next
	}
	if b.next != nil {
		b.next.prev = b.prev
	} else {
		b.list.last = b.prev
	}
}

// block is a piece's i-th run under one sum.
func (p *hotPiece) block(i int) []byte {
	return p.mem[i*storagenode.SumBlock : min(len(p.mem), (i+1)*storagenode.SumBlock)]
}

// verified gives the bytes from and to, nil where they are not there or not what
// they were.
func (p *hotPiece) verified(from, to int) []byte {
	if to > len(p.mem) {
		return nil
	}
	for i := from / storagenode.SumBlock; i*storagenode.SumBlock < to; i++ {
		if storagenode.BlockSum(p.block(i)) != p.sums[i] {
			return nil
		}
	}
	return p.mem[from:to]
}

// take gives bytes of a piece that is kept, verified, with a reference to its
// buffer; nil where there is none.
func (h *hot) take(key hotKey, from, to int) ([]byte, *buffer) {
	p := h.get(key)
	if p == nil {
		return nil, nil
	}
	b := p.verified(from, to)
	if b == nil {
		h.drop(p)
		p.of.release()
		return nil, nil
	}
	h.reads.Add(1)
	return b, p.of.buffer
}

// keep keeps verified bytes of buf, which nobody writes to from now on, if they
// are wanted and memory is free: the buffer itself where they are most of it,
// otherwise a copy.
func (h *hot) keep(key hotKey, buf *buffer, from, to int) {
	if !h.wants(key, to-from) || from == 0 && h.put(key, buf, to) {
		return
	}
	if own := h.memory.spare(to - from); own != nil {
		h.put(key, own, copy(own.mem, buf.mem[from:to]))
		own.release()
	}
}
