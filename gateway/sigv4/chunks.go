package sigv4

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"io"
	"strings"
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
	if b.left > 0 {
		return n, nil
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
	return b.checkSignature("AWS4-HMAC-SHA256-PAYLOAD\n", emptySHA256+"\n", sum, b.signature[:])
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
			if len(line) == 0 || line[len(line)-1] != '\r' {
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
