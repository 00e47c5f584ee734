package sigv4

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"io"
	"strings"

	"kintsugi/gateway/sigv4/twin"
)

const (
	// minChunk is the smallest chunk that may be followed by another.
	minChunk = 8192
	// windowBytes bounds what is read ahead: heads of chunks, and trailers.
	windowBytes = 4096
	// maxHead bounds a chunk's head: size, signature and unknown extensions.
	maxHead = 1024

	signatureExtension = "chunk-signature="
	trailerSignature   = "x-amz-trailer-signature"
)

// window is what was read ahead of the chunk's data.
type window struct {
	from, to int
	text     []byte // of what is signed
	buf      [windowBytes]byte
}

// chunks is the part of a Reader that undoes aws-chunked:
//
//	chunk   = size-hex [";chunk-signature=" hex64] CRLF data CRLF
//	last    = "0" [";chunk-signature=" hex64] CRLF
//	trailer = name ":" value (LF | CRLF)
//	end     = [trailer [CRLF] ["x-amz-trailer-signature:" hex64 CRLF]] CRLF
//
// Data is read straight into the caller's buffer and hashed there.
type chunks struct {
	window    *window
	chain     chain // seed: the signature before this chunk's
	declared  string
	chunkLeft int64
	last      int64    // size of the chunk before, -1 before the first
	signature [64]byte // announced, of this chunk

	trailerName, trailerValue string
}

func (b *Reader) open(p Payload, w *window) {
	b.window, b.chain, b.declared, b.last = w, p.chain, p.Trailer, -1
}

func (b *Reader) signed() bool { return b.kind != UnsignedChunksTrailer }

// readChunked reads at most to the end of a chunk.
func (b *Reader) readChunked(p []byte) (int, error) {
	if b.chunkLeft == 0 {
		if err := b.nextChunk(); err != nil {
			return 0, err
		}
	}
	n, err := b.readChunk(p)
	if err != nil || b.chunkLeft > 0 || b.left > 0 {
		return n, err
	}
	// All that was announced is here: check the end before giving out the
	// last bytes, for readers that stop at the size.
	if err := b.nextChunk(); err != io.EOF {
		if err == nil {
			err = ErrIncompleteBody
		}
		return 0, err
	}
	return n, io.EOF
}

// readChunk reads at most to the end of a chunk, or two whole ones.
func (b *Reader) readChunk(p []byte) (int, error) {
	if b.pairs(len(p)) {
		return b.readPair(p)
	}
	if int64(len(p)) > b.chunkLeft {
		p = p[:b.chunkLeft]
	}
	n, err := b.data(p)
	if b.hash != nil {
		b.hash.Write(p[:n])
	}
	b.chunkLeft -= int64(n)
	b.left -= int64(n)
	if b.chunkLeft > 0 {
		return n, sourceError(err)
	}
	if err := b.endChunk(); err != nil {
		return 0, err
	}
	return n, nil
}

// pairs says whether a chunk begins that is likely to be followed by another of
// its size, and room bytes hold both.
func (b *Reader) pairs(room int) bool {
	return b.signed() && b.chunkLeft == b.last && b.last >= minChunk && 2*b.last <= min(int64(room), b.left)
}

// readPair reads a whole chunk and, if it is of the same size, the next: two
// are hashed in less time than one after another.
func (b *Reader) readPair(p []byte) (int, error) {
	size := b.chunkLeft
	first, second := p[:size], p[size:2*size]
	if err := b.whole(first); err != nil {
		return 0, err
	}
	given := b.signature
	err := b.lineEnd()
	if err == nil {
		err = b.nextChunk()
	}
	if err == nil && b.chunkLeft == size {
		err = b.whole(second)
	} else {
		second = nil // for itself, or not at all
	}
	if err != nil || second == nil {
		if bad := b.checkData(sha256.Sum256(first), given[:]); bad != nil {
			return 0, bad
		}
		if err != nil {
			return 0, err
		}
		return len(first), nil
	}
	x, y := twin.Sums(first, second)
	if err := b.checkData(x, given[:]); err != nil {
		return 0, err
	}
	if err := b.checkData(y, b.signature[:]); err != nil {
		return 0, err
	}
	if err := b.lineEnd(); err != nil {
		return 0, err
	}
	return int(2 * size), nil
}

// whole reads all data of a chunk.
func (b *Reader) whole(p []byte) error {
	for n := 0; n < len(p); {
		c, err := b.data(p[n:])
		n += c
		if err != nil && n < len(p) {
			return sourceError(err)
		}
	}
	b.chunkLeft = 0
	b.left -= int64(len(p))
	return nil
}

// data reads from the window first, then from the source.
func (b *Reader) data(p []byte) (int, error) {
	if w := b.window; w.from < w.to {
		n := copy(p, w.buf[w.from:w.to])
		w.from += n
		return n, nil
	}
	return b.src.Read(p)
}

// nextChunk reads the head of a chunk; after the last one also what follows,
// and then returns io.EOF.
func (b *Reader) nextChunk() error {
	head, err := b.line()
	if err != nil {
		return err
	}
	size, err := b.parseHead(head)
	switch {
	case err != nil:
		return err
	case size == 0:
		if b.left > 0 {
			return ErrIncompleteBody
		}
		return b.finish()
	case b.last >= 0 && b.last < minChunk:
		return ErrChunkSize
	case size > b.left:
		return ErrIncompleteBody
	}
	b.chunkLeft, b.last = size, size
	return nil
}

// parseHead reads a chunk's size and takes its signature.
func (b *Reader) parseHead(head []byte) (size int64, err error) {
	digits, extension, _ := bytes.Cut(head, []byte{';'})
	if len(digits) == 0 || len(digits) > 15 {
		return 0, ErrMalformedChunk
	}
	for _, c := range digits {
		d := unhex(c)
		if d > 15 {
			return 0, ErrMalformedChunk
		}
		size = size<<4 | int64(d)
	}
	if !b.signed() {
		return size, nil
	}
	if len(extension) != len(signatureExtension)+64 || string(extension[:len(signatureExtension)]) != signatureExtension {
		return 0, ErrMalformedChunk
	}
	copy(b.signature[:], extension[len(signatureExtension):])
	return size, nil
}

// endChunk reads the line end after a chunk's data and checks the signature.
func (b *Reader) endChunk() error {
	if err := b.checkChunk(); err != nil {
		return err
	}
	return b.lineEnd()
}

// lineEnd reads the line end after a chunk's data.
func (b *Reader) lineEnd() error {
	end, err := b.line()
	if err != nil {
		return err
	}
	if len(end) != 0 {
		return ErrMalformedChunk
	}
	return nil
}

func (b *Reader) checkChunk() error {
	if !b.signed() {
		return nil
	}
	var sum [32]byte
	b.hash.Sum(sum[:0])
	b.hash.Reset()
	return b.checkData(sum, b.signature[:])
}

// checkData checks the signature of a chunk's data.
func (b *Reader) checkData(sum [32]byte, given []byte) error {
	return b.checkSignature("AWS4-HMAC-SHA256-PAYLOAD\n", emptySHA256+"\n", sum, given)
}

// checkSignature checks one link of the chain and makes it the next seed.
func (b *Reader) checkSignature(kind, infix string, sum [32]byte, given []byte) error {
	t := append(b.window.text[:0], zeroBlock...)
	t = append(t, kind...)
	t = append(t, b.chain.dateTime...)
	t = append(t, '\n')
	t = append(t, b.chain.scope...)
	t = append(t, '\n')
	t = append(t, b.chain.seed[:]...)
	t = append(t, '\n')
	t = append(t, infix...)
	t = hex.AppendEncode(t, sum[:])
	b.window.text = t
	want := macHex(&b.chain.key, t)
	if subtle.ConstantTimeCompare(want[:], given) != 1 {
		return ErrSignature
	}
	b.chain.seed = want
	return nil
}

// line takes the next line, without its CRLF, from window and source. It is
// valid until the next read.
func (b *Reader) line() ([]byte, error) {
	w := b.window
	for scanned := 0; ; {
		if i := bytes.IndexByte(w.buf[w.from+scanned:w.to], '\n'); i >= 0 {
			line := w.buf[w.from : w.from+scanned+i]
			w.from += scanned + i + 1
			if len(line) == 0 || len(line) > maxHead || line[len(line)-1] != '\r' {
				return nil, ErrMalformedChunk
			}
			return line[:len(line)-1], nil
		}
		scanned = w.to - w.from
		if scanned > maxHead {
			return nil, ErrMalformedChunk
		}
		if err := b.fill(); err != nil {
			return nil, sourceError(err)
		}
	}
}

// fill reads more into the window; io.EOF when there is no more. It must not
// be called with a full window.
func (b *Reader) fill() error {
	w := b.window
	if w.from > 0 {
		w.to = copy(w.buf[:], w.buf[w.from:w.to])
		w.from = 0
	}
	for range 100 {
		n, err := b.src.Read(w.buf[w.to:])
		w.to += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// finish checks the last chunk and reads what follows it to the body's end.
func (b *Reader) finish() error {
	if err := b.checkChunk(); err != nil {
		return err
	}
	w := b.window
	for {
		if w.to-w.from == len(w.buf) {
			return ErrMalformedTrailer
		}
		if err := b.fill(); err == io.EOF {
			break
		} else if err != nil {
			return sourceError(err)
		}
	}
	rest := w.buf[w.from:w.to]
	if b.kind == SignedChunks {
		if len(rest) != 0 && string(rest) != "\r\n" {
			return ErrMalformedTrailer
		}
		return io.EOF
	}
	return b.readTrailer(rest)
}

// readTrailer reads the announced trailer and, where chunks are signed, its
// signature. Clients end trailer lines with LF, CRLF or LF CRLF; all three
// are taken.
func (b *Reader) readTrailer(rest []byte) error {
	if len(rest) > 0 && rest[len(rest)-1] != '\n' {
		return ErrMalformedTrailer
	}
	var given []byte
	var name, value string
	for raw := range bytes.SplitSeq(rest, []byte{'\n'}) {
		raw = bytes.TrimSuffix(raw, []byte{'\r'})
		if len(raw) == 0 {
			continue
		}
		key, content, ok := bytes.Cut(raw, []byte{':'})
		if !ok || given != nil {
			return ErrMalformedTrailer
		}
		content = bytes.TrimSpace(content)
		switch found := strings.ToLower(string(key)); {
		case found == trailerSignature && b.signed():
			given = content
		case found == b.declared && name == "":
			name, value = found, string(content)
		default:
			return ErrMalformedTrailer
		}
	}
	if name != b.declared || b.signed() && given == nil {
		return ErrMalformedTrailer
	}
	if b.signed() {
		signedText := name + ":" + value + "\n"
		if name == "" {
			signedText = ""
		}
		if err := b.checkSignature("AWS4-HMAC-SHA256-TRAILER\n", "", sha256.Sum256([]byte(signedText)), given); err != nil {
			return err
		}
	}
	b.trailerName, b.trailerValue = name, value
	return io.EOF
}
