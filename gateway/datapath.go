package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/gateway/checksum"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// bounded gives the next left bytes of src. At the end of the last blob it
// asks src for its end too, where a body's signature and trailer are judged.
type bounded struct {
	src   io.Reader
	left  int64
	last  bool
	ended bool
	probe [1]byte
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left == 0 {
		if !b.last || b.ended {
			return 0, io.EOF
		}
		n, err := b.src.Read(b.probe[:])
		switch {
		case n > 0:
			return 0, errIncompleteBody
		case err == io.EOF:
			b.ended = true
		case err == nil:
			err = io.ErrNoProgress
		}
		return 0, err
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.src.Read(p)
	b.left -= int64(n)
	if err == io.EOF {
		if b.left > 0 {
			return n, errIncompleteBody
		}
		b.ended = true
		if !b.last { // the source may have ended, but this blob only is full
			err = nil
		}
	}
	return n, err
}

// stored is what the data path wrote.
type stored struct {
	blobs []metadata.Written
	size  int64
	etag  string
	md5   [16]byte
	sum   checksum.Sum

	room [1]metadata.Written
}

// announceSize is the size of a body, in bytes, whose MD5 others wait for.
const announceSize = 128 << 10

// store writes size bytes of src as blobs, each of them durable when store
// returns. Nothing is committed: the caller judges the digests first, and abandons
// what was stored where they are wrong. After an error store has done so itself.
func (g *gateway) store(ctx context.Context, src io.Reader, size int64, a checksum.Algorithm, attrs *Attrs, out *stored) error {
	err := g.write(ctx, src, size, a, attrs, out)
	if err != nil {
		g.abandon(out.blobs)
	}
	return err
}

// write is store, but leaves what it has written where it fails.
func (g *gateway) write(ctx context.Context, src io.Reader, size int64, a checksum.Algorithm, attrs *Attrs, out *stored) error {
	h := g.hashers.New(a)
	defer h.Close()
	if size >= announceSize {
		h.Announce()
	}
	out.blobs = out.room[:0]
	in := bounded{src: src}
	for first := true; first || out.size < size; first = false {
		n := min(size-out.size, erasure.BlobMax)
		in.left, in.last = n, out.size+n == size
		group, err := g.placement.OpenGroup(ctx, n)
		if err != nil {
			return err
		}
		attrs.Offset = out.size
		id := g.ids.Next()
		res, err := g.blobs.Put(ctx, group, id, &in, n, stripe.PutOptions{
			Observer: h,
			Attrs: func(blobSize int64) []byte {
				attrs.Size = blobSize
				if in.last {
					out.md5 = h.MD5()
					out.etag = hexMD5(out.md5)
					attrs.ETag = out.etag
				}
				return attrs.Append(make([]byte, 0, attrs.length()))
			},
		})
		if err != nil {
			if errors.Is(err, stripe.ErrQuorum) {
				// Slots may have moved: what comes next is to know where to.
				_, _ = g.placement.Group(ctx, group.PG)
				for i := range out.blobs { // drives that lack one of an earlier blob may be away
					out.blobs[i].Blob.Slots &^= out.blobs[i].Blob.Missing
				}
			}
			if res.Blob.Size = n; res.Blob.Slots != 0 {
				out.blobs = append(out.blobs, metadata.Written{Group: group, Blob: res.Blob})
			}
			return err
		}
		out.blobs = append(out.blobs, metadata.Written{Group: group, Blob: res.Blob})
		if res.Blob.Size != n {
			return errIncompleteBody
		}
		out.size += n
		attrs.Fields = nil
	}
	if out.etag == "" {
		out.md5 = h.MD5()
		out.etag = hexMD5(out.md5)
	}
	out.sum = h.Sum()
	return nil
}

// lazyBody sends the head with the first bytes of the body, so that an error
// before them can still be answered.
type lazyBody struct {
	x      *exchange
	status int
	size   int64 // of the body
	err    error // of the client's connection
}

// smallAnswer fits into the connection's buffers: it needs no deadline.
const smallAnswer = 16 << 10

// Write implements io.Writer.
func (b *lazyBody) Write(p []byte) (int, error) {
	// Every write gets its own time: one of a whole stripe is as slow as the
	// client takes it, so it is cut into pieces.
	const piece = 1 << 20
	for done := 0; done < len(p); {
		next := [1][]byte{p[done:min(len(p), done+piece)]}
		if err := b.WritePieces(next[:]); err != nil {
			return done, err
		}
		done += len(next[0])
	}
	return len(p), nil
}

// WritePieces implements stripe.PiecesWriter.
func (b *lazyBody) WritePieces(pieces [][]byte) error {
	if !b.x.begun {
		b.x.WriteHeader(b.status)
	}
	if c := b.x.packets(pieces); c != nil {
		b.err = b.x.writePacket(c, pieces)
		return b.err
	}
	if b.size > smallAnswer {
		defer b.x.keepTaking()()
	}
	b.err = b.x.writeEach(pieces)
	return b.err
}

// send streams the bytes [off, off+n) of an object. Headers are set by the
// caller and go out with the first verified bytes.
func (x *exchange) send(o *metadata.Object, off, n int64, status int) error {
	if n == 0 {
		x.WriteHeader(status)
		return nil
	}
	out := lazyBody{x: x, status: status, size: n}
	err := x.g.copyOut(x.r.Context(), o, off, n, &out)
	if err == nil {
		if n > smallAnswer {
			x.setWriteDeadline() // of what net/http holds back until the handler returns
		}
		return nil
	}
	if out.err != nil {
		panic(http.ErrAbortHandler) // the client is gone, and knows why
	}
	return err
}

// copyOut writes the verified bytes [off, off+n) of an object to w.
func (g *gateway) copyOut(ctx context.Context, o *metadata.Object, off, n int64, w io.Writer) error {
	if len(o.Manifest) == 0 && len(o.Blobs) == 1 {
		return g.copyExtent(ctx, metadata.Extent{Located: o.Blobs[0], Offset: off, Length: n}, w)
	}
	// A layout at a time: an object of 10,000 parts is not held in memory.
	const step = 64 << 30
	for n > 0 {
		now := min(n, step)
		extents, err := g.objects.Layout(ctx, o, off, now)
		if err != nil {
			return err
		}
		for _, e := range extents {
			if err := g.copyExtent(ctx, e, w); err != nil {
				return err
			}
			off, n, now = off+e.Length, n-e.Length, now-e.Length
		}
		if now != 0 {
			return errors.New("layout does not cover the object")
		}
	}
	return nil
}

// copyExtent writes the bytes of an extent to w. Where they cannot be had by the
// group as it was known, for slots were mapped to other drives since, it goes on
// by the group as it is.
func (g *gateway) copyExtent(ctx context.Context, e metadata.Extent, w io.Writer) error {
	group, err := g.placement.RecentGroup(ctx, e.PG)
	if err != nil {
		return err
	}
	out := counted{w: w}
	err = g.blobs.Read(ctx, group, e.Blob, e.Offset, e.Length, &out)
	if err == nil || !gone(err) {
		return err
	}
	now, lookup := g.placement.Group(ctx, e.PG)
	if lookup != nil || slices.Equal(now.Slots, group.Slots) {
		return err
	}
	return g.blobs.Read(ctx, now, e.Blob, e.Offset+out.n, e.Length-out.n, w)
}

// counted counts what was written through it.
type counted struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// WritePieces implements stripe.PiecesWriter.
func (c *counted) WritePieces(pieces [][]byte) error {
	err := stripe.WritePieces(c.w, pieces)
	for _, p := range pieces {
		c.n += int64(len(p))
	}
	return err
}

// gone says that an error may come from the object having been replaced while
// it was being read. ErrNoSuchKey is of its part lists.
func gone(err error) bool {
	return errors.Is(err, stripe.ErrUnreadable) || errors.Is(err, storagenode.ErrNotFound) ||
		errors.Is(err, storagenode.ErrDeleted) || errors.Is(err, metadata.ErrNoSuchBlob) ||
		errors.Is(err, metadata.ErrNoSuchKey)
}

// present is the error for an object that is there but cannot be read: never that
// there is none.
func present(err error) error {
	if errors.Is(err, metadata.ErrNoSuchKey) {
		return fmt.Errorf("%w: part lists are gone: %s", metadata.ErrUnavailable, err.Error())
	}
	return err
}

// replaced says whether two look-ups of a key found different bytes.
func replaced(a, b *metadata.Object) bool {
	if len(a.Blobs) != len(b.Blobs) || len(a.Blobs) == 0 {
		return a.ETag != b.ETag || !a.Modified.Equal(b.Modified) || string(a.Manifest) != string(b.Manifest)
	}
	return a.Blobs[0].Blob.ID != b.Blobs[0].Blob.ID
}

// pipe makes a reader of an object's bytes. Close it: that waits for the
// goroutine behind it, which ctx ends too.
func (g *gateway) pipe(ctx context.Context, o *metadata.Object, off, n int64) *objectReader {
	if n == 0 {
		return &objectReader{Reader: http.NoBody}
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	p := &objectReader{Reader: r, cancel: cancel, pipe: r, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer func() {
			if c := recover(); c != nil {
				_ = w.CloseWithError(panicked(c))
			}
		}()
		err := g.copyOut(ctx, o, off, n, w)
		_ = w.CloseWithError(err) // nil becomes io.EOF
	}()
	return p
}

// panicked is an error that says what a panic off the request's goroutine was
// about, with the place.
func panicked(cause any) error {
	return fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
}

type objectReader struct {
	io.Reader
	cancel context.CancelFunc
	pipe   *io.PipeReader
	done   chan struct{}
}

func (p *objectReader) close() {
	if p.pipe == nil {
		return
	}
	p.cancel()
	_ = p.pipe.Close()
	<-p.done
}
