package segment

import (
	"context"

	"kintsugi/storagenode/vfs"
)

// A segment is written past the page cache in whole blocks, and no block twice:
// what is durable is never written over, and large shards cost no copy into the
// cache and no page of it. Small records of a group share blocks; a larger one
// begins a block. What is left of the last block is a skip record.
const blockSize = vfs.BlockSize

// blockSlack is what padding before and after a record may take.
const blockSlack = 3 * blockSize

// padOf is the padding from off to the end of a block: 0, or enough for a skip
// record.
func padOf(off int64) int64 {
	n := -off & (blockSize - 1)
	if n > 0 && n < headerSizeAligned {
		n += blockSize
	}
	return n
}

// closeBlock pads what was staged last, so that the log goes on with a new
// block. mu is held.
func (s *Store) closeBlock(g *segFile) {
	if pad := padOf(g.tail); pad > 0 {
		s.queue[len(s.queue)-1].pad = pad // none but a staged record ends within a block
		g.tail += pad
		g.filled = max(g.filled, g.tail)
	}
}

// blockWriter writes a run of records to a segment, through one buffer.
type blockWriter struct {
	buf []byte // aligned; made at the first use
	n   int    // bytes in it
	seg *segFile
	off int64 // where it goes
}

// The buffers of a drive: the committer's, and those of large records, each
// for one shard of 1 MiB with its head. They are all the memory that writes
// take, whatever the number of writers.
const (
	groupBuffer  = 512 << 10
	recordBuffer = 1<<20 + 4*blockSize
	recordWrites = 4 // large records that are written at a time
)

// begin makes a writer ready for what follows off.
func (b *blockWriter) begin(g *segFile, off int64, size int) {
	if b.buf == nil {
		b.buf = vfs.AlignedBuffer(size)
	}
	b.seg, b.off, b.n = g, off, 0
}

func (b *blockWriter) add(p []byte) error {
	for len(p) > 0 {
		c := copy(b.buf[b.n:], p)
		b.n += c
		p = p[c:]
		if b.n == len(b.buf) {
			if err := b.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// pad adds a skip record of n bytes.
func (b *blockWriter) pad(n int64) error {
	if n == 0 {
		return nil
	}
	var zeros [2 * blockSize]byte
	skipHeader(zeros[:], b.seg, b.off+int64(b.n), n)
	return b.add(zeros[:n])
}

// flush writes what is there: whole blocks.
func (b *blockWriter) flush() error {
	if b.n == 0 {
		return nil
	}
	_, err := b.seg.f.WriteAt(b.buf[:b.n], b.off)
	b.off += int64(b.n)
	b.n = 0
	return err
}

func skipHeader(p []byte, g *segFile, off, n int64) {
	h := header{typ: uint8(typeSkip), stripeLen: uint32(n)}
	h.encode(p, g.bind, off)
}

// takeWriter waits for one of the writers of large records.
func (s *Store) takeWriter(ctx context.Context) (*blockWriter, error) {
	select {
	case b := <-s.large:
		return b, nil
	default:
	}
	select {
	case b := <-s.large:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// runEnd is the end of the run of records from batch[i] on that follow one
// another in a segment and are in the same state.
func runEnd(batch []pending, i int) int {
	for i++; i < len(batch); i++ {
		p, before := &batch[i], &batch[i-1]
		if p.state != before.state || p.seg != before.seg || p.off != before.end() {
			break
		}
	}
	return i
}

// maxSkip bounds a skip record, in whole blocks.
const maxSkip = 1 << 20

// skip marks the blocks of a failed write, so that a later open does not take
// them for damage. Where that fails as well, it will.
func (s *Store) skip(g *segFile, off, end int64) {
	block := vfs.AlignedBuffer(blockSize)
	for ; off < end; off += maxSkip {
		skipHeader(block, g, off, min(maxSkip, end-off))
		if _, err := g.f.WriteAt(block, off); err != nil {
			s.cfg.Logger.Warn("failed write not marked", "segment", g.id, "off", off, "err", err)
			return
		}
	}
}
