package auth

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// serverHeader names the life of the server that answers.
const serverHeader = "Kintsugi-Server"

// A frame of an answer, little endian:
//
//	0  length of the payload u32, 4: length of the raw bytes u32, 8: flags u8
//	9  payload, its MAC (32 bytes), raw bytes
//
// The MAC covers the request's MAC, status, server, the frame's number, its
// first 9 bytes and its payload, but not the raw bytes: the payload has to
// bind those.
const frameHead = 9

const (
	flagLast      = 1 << iota // no frame follows
	flagRefused               // the guard did not let the request in
	flagOtherLife             // and that is why: it named another life
)

func parseLife(s string) (l life, ok bool) {
	n, err := hex.Decode(l[:], []byte(s[:min(len(s), 2*len(l))]))
	return l, err == nil && n == len(l) && len(s) == 2*len(l)
}

// frameMAC signs one frame of an answer.
func frameMAC(k *Key, request mac, status int, server life, number uint32, head, payload []byte) mac {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], uint32(status))
	binary.LittleEndian.PutUint32(b[4:], number)
	return k.answers.sum(request[:], b[:], server[:], head, payload)
}

// Answer is the body of a response: frames, each verified before it is given
// out. One goroutine at a time.
type Answer struct {
	body    io.ReadCloser
	key     *Key
	request mac
	status  int
	server  life

	number  uint32
	flags   byte
	buf     []byte
	payload []byte // of the frame that was read last, what Read left of it
	raw     int    // its raw bytes not yet read
	peeked  bool   // the frame is still to be given out
	err     error
}

// Next gives the payload of the next frame, valid until the next call, and how
// many raw bytes come with it; they are read with Raw, and what the payload
// says of them is the caller's to verify. io.EOF after the last frame. Any
// other error says that what came is not an answer to the request.
func (a *Answer) Next() (payload []byte, raw int, err error) {
	if a.peeked {
		a.peeked = false
		return a.payload, a.raw, nil
	}
	if a.err == nil {
		a.err = a.read()
	}
	return a.payload, a.raw, a.err
}

// peek reads a frame that Next will give out.
func (a *Answer) peek() error {
	_, _, err := a.Next()
	a.peeked = err == nil
	return err
}

func (a *Answer) read() error {
	a.payload = nil
	if a.raw > 0 {
		return errors.New("raw bytes of an answer were not read")
	}
	if a.flags&flagLast != 0 {
		return io.EOF
	}
	var head [frameHead]byte
	if _, err := io.ReadFull(a.body, head[:]); err != nil {
		return cut(err)
	}
	size, raw := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
	if size > MaxPayload || raw > MaxRaw {
		return fmt.Errorf("%w: frame of %d and %d bytes", ErrRefused, size, raw)
	}
	a.buf = slices.Grow(a.buf[:0], int(size)+len(mac{}))[:int(size)+len(mac{})]
	if _, err := io.ReadFull(a.body, a.buf); err != nil {
		return cut(err)
	}
	payload := a.buf[:size]
	if !frameMAC(a.key, a.request, a.status, a.server, a.number, head[:], payload).equal(mac(a.buf[size:])) {
		return fmt.Errorf("%w: the answer's signature does not match", ErrRefused)
	}
	a.number++
	a.flags, a.payload, a.raw = head[8], payload, int(raw)
	if a.flags&flagLast != 0 && raw == 0 {
		a.drain()
	}
	return nil
}

// cut makes of an end in the midst of an answer what it is.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("answer cut short: %w", err)
}

// Raw fills p from the raw bytes behind the payload; they must be as many.
func (a *Answer) Raw(p []byte) error {
	if a.peeked || len(p) > a.raw {
		return fmt.Errorf("%d raw bytes asked for, %d are there", len(p), a.raw)
	}
	if _, err := io.ReadFull(a.body, p); err != nil {
		a.err = cut(err)
		return a.err
	}
	a.raw -= len(p)
	if a.flags&flagLast != 0 && a.raw == 0 {
		a.drain()
	}
	return nil
}

// drain reads the end of the body, so that the connection can be used again.
func (a *Answer) drain() {
	var one [1]byte
	_, _ = a.body.Read(one[:]) // the answer is complete, whatever this gives
}

// Read implements io.Reader over the payloads of an answer without raw bytes.
func (a *Answer) Read(p []byte) (int, error) {
	for len(a.payload) == 0 || a.peeked {
		if _, _, err := a.Next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, a.payload)
	a.payload = a.payload[n:]
	return n, nil
}

// Close ends the answer; where it was not read to its end, the connection is
// given up, and the server notices.
func (a *Answer) Close() error { return a.body.Close() }

// frameTime is how long a frame may take to leave.
const frameTime = 30 * time.Second

// patient gives what is written next its time. A deadline stays with its
// connection, also for later requests.
func patient(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(frameTime)) // a test's recorder has none
}

// pageSize is how much a handler that only writes gets into one frame.
const pageSize = 64 << 10

// Writer is the http.ResponseWriter that a Guard's handler gets: what is
// written leaves in signed frames. One goroutine at a time.
type Writer struct {
	w       http.ResponseWriter
	key     *Key
	request mac
	server  life
	status  int
	number  uint32
	page    []byte
	ended   bool
	out     []byte
}

// Header implements http.ResponseWriter. Headers are not signed.
func (w *Writer) Header() http.Header { return w.w.Header() }

// Unwrap lets http.ResponseController reach the connection.
func (w *Writer) Unwrap() http.ResponseWriter { return w.w }

// WriteHeader implements http.ResponseWriter; the first call counts.
func (w *Writer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *Writer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(w.page) == pageSize {
			if err := w.Answer(w.page, nil, false); err != nil {
				return 0, err
			}
			w.page = w.page[:0]
		}
		c := min(len(p), pageSize-len(w.page))
		w.page = append(w.page, p[:c]...)
		p = p[c:]
	}
	return n, nil
}

// FlushError sends what Write holds in a frame of its own; it is what
// http.ResponseController calls.
func (w *Writer) FlushError() error {
	if len(w.page) == 0 {
		return nil
	}
	err := w.Answer(w.page, nil, false)
	w.page = w.page[:0]
	return err
}

// Answer sends one frame at once: a payload of at most MaxPayload bytes, which
// is signed, and raw bytes, which the payload has to bind. last says that it
// is the last. A handler uses either this or Write.
func (w *Writer) Answer(payload, raw []byte, last bool) error {
	var flags byte
	if last {
		flags = flagLast
	}
	return w.frame(payload, raw, flags)
}

func (w *Writer) frame(payload, raw []byte, flags byte) error {
	if w.ended || len(payload) > MaxPayload || len(raw) > MaxRaw {
		return fmt.Errorf("frame %d of %d and %d bytes does not fit its answer", w.number, len(payload), len(raw))
	}
	w.WriteHeader(http.StatusOK)
	patient(w.w)
	size := frameHead + len(payload) + len(mac{}) + len(raw)
	if w.number == 0 {
		h := w.w.Header()
		h.Set(serverHeader, hex.EncodeToString(w.server[:]))
		h.Set("Content-Type", "application/octet-stream")
		h.Del("Content-Length")
		if flags&flagLast != 0 {
			h.Set("Content-Length", strconv.Itoa(size))
		}
		w.w.WriteHeader(w.status)
	}
	w.out = binary.LittleEndian.AppendUint32(w.out[:0], uint32(len(payload)))
	w.out = binary.LittleEndian.AppendUint32(w.out, uint32(len(raw)))
	w.out = append(w.out, flags)
	m := frameMAC(w.key, w.request, w.status, w.server, w.number, w.out, payload)
	w.out = append(append(w.out, payload...), m[:]...)
	w.number++
	w.ended = flags&flagLast != 0
	_, err := w.w.Write(w.out)
	if err == nil && len(raw) > 0 {
		_, err = w.w.Write(raw)
	}
	if err == nil && !w.ended {
		err = http.NewResponseController(w.w).Flush()
	}
	return err
}

// end sends what Write holds as the last frame.
func (w *Writer) end() {
	if !w.ended {
		_ = w.frame(w.page, nil, flagLast) // the connection is gone: nobody to tell
	}
}
