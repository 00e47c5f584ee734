package stripe

import "io"

// PiecesWriter is a writer that takes several runs of bytes at once. Over a
// network that is a good deal cheaper than one after another: whoever receives
// them is woken once, and not for each.
type PiecesWriter interface {
	// WritePieces writes all pieces, in order, or says why not. It keeps none
	// of them.
	WritePieces(pieces [][]byte) error
}

// WritePieces writes all pieces to w, at once where w can.
func WritePieces(w io.Writer, pieces [][]byte) error {
	if all, ok := w.(PiecesWriter); ok && len(pieces) > 1 {
		return all.WritePieces(pieces)
	}
	for _, p := range pieces {
		if err := writeAll(w, p); err != nil {
			return err
		}
	}
	return nil
}

// batchBytes is about how much is written at once: a client of the loopback
// costs half as much CPU by writes of 1 MiB as by writes of 256 KiB.
const batchBytes = 1 << 20

// batch is verified pieces that are to be written at once, in order, with a
// reference to the buffer of each.
type batch struct {
	pieces [][]byte
	bufs   []*buffer
	n      int // bytes

	pieceRoom [8][]byte
	bufRoom   [8]*buffer
}

// add takes p and the reference to buf.
func (b *batch) add(p []byte, buf *buffer) {
	if b.pieces == nil {
		b.pieces, b.bufs = b.pieceRoom[:0], b.bufRoom[:0]
	}
	b.pieces, b.bufs = append(b.pieces, p), append(b.bufs, buf)
	b.n += len(p)
}

func (b *batch) full() bool { return b.n >= batchBytes || len(b.pieces) == len(b.pieceRoom) }

// write writes what is there, and lets go of it whatever happens.
func (b *batch) write(w io.Writer) error {
	defer b.drop()
	return WritePieces(w, b.pieces)
}

func (b *batch) drop() {
	for _, buf := range b.bufs {
		buf.release()
	}
	b.pieces, b.bufs, b.n = b.pieces[:0], b.bufs[:0], 0
}
