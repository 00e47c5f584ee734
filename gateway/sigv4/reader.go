package sigv4

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"
)

// Reader is the decoded, checked body of a request.
//
// What it promises: io.EOF, and also the last byte of a body of announced
// size, comes only after everything about the body was verified: length,
// SHA-256, every chunk's signature, the last chunk and the trailer. Bytes
// before that are released as they arrive (a chunk's last bytes only after
// its signature was checked), so they may be worked on, but nothing may be
// committed before the end. For a body of size 0 that means one call of Read.
//
// An error is final: every later Read returns it again. Errors are those of
// this package, or the body's own, wrapped. A Reader is for one goroutine.
type Reader struct {
	src   io.Reader
	kind  Kind
	left  int64 // announced bytes still to come; -1: not announced
	total int64
	err   error // sticky; io.EOF after the verified end
	pools *readerPools

	sum  [32]byte  // Hashed: the announced sum
	hash hash.Hash // Hashed: of the body; signed chunks: of the chunk
	chunks
}

// readerPools hold what readers leave behind at their end.
type readerPools struct {
	hashes  sync.Pool // hash.Hash of SHA-256
	windows sync.Pool // *window
}

func (p *readerPools) takeHash() hash.Hash {
	if h, ok := p.hashes.Get().(hash.Hash); ok {
		h.Reset()
		return h
	}
	return sha256.New()
}

func (p *readerPools) takeWindow() *window {
	if w, ok := p.windows.Get().(*window); ok {
		w.from, w.to = 0, 0
		return w
	}
	return &window{}
}

// Body wraps the body of a request that Verify accepted.
func (v *Verifier) Body(r *http.Request, p Payload) *Reader {
	b := &Reader{src: r.Body, kind: p.Kind, left: p.Size, pools: &v.readers}
	if r.Body == nil {
		b.src = http.NoBody
	}
	switch p.Kind {
	case Hashed:
		b.sum = p.sum
		b.hash = v.readers.takeHash()
	case SignedChunks, SignedChunksTrailer:
		b.hash = v.readers.takeHash()
		b.open(p, v.readers.takeWindow())
	case UnsignedChunksTrailer:
		b.open(p, v.readers.takeWindow())
	}
	return b
}

// Total is the number of bytes read so far.
func (b *Reader) Total() int64 { return b.total }

// Trailer is the trailer that followed the body: its name in lower case and
// its value. Both are "" where there is none, and before the end.
func (b *Reader) Trailer() (name, value string) {
	if !errors.Is(b.err, io.EOF) {
		return "", ""
	}
	return b.trailerName, b.trailerValue
}

// Read implements io.Reader.
func (b *Reader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 && b.left != 0 {
		return 0, nil
	}
	var n int
	var err error
	if b.window != nil {
		n, err = b.readChunked(p)
	} else {
		n, err = b.readPlain(p)
	}
	if err != nil {
		b.close(err)
	}
	b.total += int64(n)
	return n, b.err
}

// close keeps the error and gives back the buffers.
func (b *Reader) close(err error) {
	b.err = err
	if b.hash != nil {
		b.pools.hashes.Put(b.hash)
		b.hash = nil
	}
	if b.window != nil {
		b.pools.windows.Put(b.window)
		b.window = nil
	}
}

// readPlain reads a body that is not chunked. At the announced end it does
// not ask the source again.
func (b *Reader) readPlain(p []byte) (int, error) {
	if b.left == 0 {
		return 0, b.checkHash()
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.src.Read(p)
	if b.hash != nil {
		b.hash.Write(p[:n])
	}
	if b.left > 0 {
		b.left -= int64(n)
		if b.left == 0 {
			err = io.EOF
		} else if err == io.EOF {
			return n, ErrIncompleteBody
		}
	}
	if err == io.EOF {
		if err = b.checkHash(); err != io.EOF {
			n = 0
		}
		return n, err
	}
	return n, sourceError(err)
}

// checkHash gives io.EOF for a body that is what was announced.
func (b *Reader) checkHash() error {
	if b.hash == nil {
		return io.EOF
	}
	var got [32]byte
	b.hash.Sum(got[:0])
	if got != b.sum {
		return ErrContentSHA256Mismatch
	}
	return io.EOF
}

// sourceError tells a body that ended early from one that could not be read.
func sourceError(err error) error {
	switch {
	case err == nil:
		return nil
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		return ErrIncompleteBody
	}
	return fmt.Errorf("read request body: %w", err)
}
