package gateway

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"kintsugi/storagenode/tcp"
)

// Listen wraps a listener, so that requests which the HTTP server refuses
// before any handler sees them – a request line that cannot be parsed, too
// large headers – get an answer of S3's form too. Without it they get the
// server's plain text. On a server set up by Configure, small answers also
// leave in one packet instead of two.
//
// Clients on the same machine are not paced.
func Listen(l net.Listener) net.Listener { return &listener{Listener: tcp.Unpaced(l)} }

type listener struct {
	net.Listener
	held sync.Pool // *packet
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if t, ok := c.(*net.TCPConn); ok {
		if raw, err := t.SyscallConn(); err == nil {
			return &plainConn{TCPConn: t, raw: raw, pool: &l.held}, nil
		}
	}
	return c, err
}

// plainConn is a connection on which the server's own refusals are rewritten.
// All else of the TCP connection stays.
type plainConn struct {
	*net.TCPConn
	raw  syscall.RawConn
	pool *sync.Pool
	// Only the connection's goroutine touches the following.
	//
	// held collects what is written between cork and uncork; nil outside.
	held *packet
	// answering: a handler has the request, or what it wrote is still on its way.
	// What is written then may be any object's bytes, and is left alone.
	answering bool
}

// packet is what leaves at once. Short runs, which come from the buffers of
// net/http, are copied, others are the caller's.
type packet struct {
	short  []byte
	pieces []unix.Iovec
}

// copied is the length of what is copied into a packet, at most: what net/http
// keeps in its buffer of a connection.
const copied = 4 << 10

func (k *packet) add(p []byte) {
	if len(p) <= copied {
		k.short = append(k.short, p...)
		p = k.short[len(k.short)-len(p):]
	}
	if len(p) > 0 {
		v := unix.Iovec{Base: unsafe.SliceData(p)}
		v.SetLen(len(p))
		k.pieces = append(k.pieces, v)
	}
}

// connKey finds the connection in a request's context.
type connKey struct{}

func connContext(ctx context.Context, c net.Conn) context.Context {
	if p, ok := c.(*plainConn); ok {
		return context.WithValue(ctx, connKey{}, p)
	}
	return ctx
}

// connState hears of the end of each answer.
func connState(c net.Conn, state http.ConnState) {
	if p, ok := c.(*plainConn); ok && state == http.StateIdle {
		p.answering = false
	}
}

// answers says that a request has come to the handler.
func answers(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*plainConn); ok {
		c.answering = true
	}
}

// cork holds back what is written from now on, until uncork. What is written
// must not change before.
func (c *plainConn) cork() {
	var ok bool
	if c.held, ok = c.pool.Get().(*packet); !ok {
		c.held = &packet{short: make([]byte, 0, 2*copied)}
	}
}

// uncork sends what was held back. limit is how long the client may take nothing;
// more, where set, then says again and again whether it may go on so.
func (c *plainConn) uncork(limit time.Duration, more func() bool) error {
	k := c.held
	c.held = nil
	err := c.writev(k.pieces, limit, more)
	clear(k.pieces)
	k.short, k.pieces = k.short[:0], k.pieces[:0]
	c.pool.Put(k)
	return err
}

// writev sends all of v, which it changes. The runtime does not hear of the
// system calls: as long as the one copies 1 MiB, it would hand the processor to
// another thread, which the machine does not have one for, and take it back. A
// socket of the runtime's does not block, so a call takes no longer than to copy.
// Only who has to wait for the client needs a deadline.
func (c *plainConn) writev(v []unix.Iovec, limit time.Duration, more func() bool) error {
	var failed error
	waits := false
	send := func(fd uintptr) bool {
		for len(v) > 0 {
			n, _, errno := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v[0])), uintptr(min(len(v), maxPieces)))
			switch errno {
			case 0:
				v = sent(v, int(n))
			case syscall.EINTR:
			case syscall.EAGAIN:
				if !waits {
					waits = true
					_ = c.SetWriteDeadline(time.Now().Add(limit)) // fails where the write does
				}
				return false
			default:
				failed = os.NewSyscallError("writev", errno)
				return true
			}
		}
		return true
	}
	err := c.raw.Write(send)
	for errors.Is(err, os.ErrDeadlineExceeded) && more != nil && more() {
		_ = c.SetWriteDeadline(time.Now().Add(limit / stallSteps)) // fails where the write does
		err = c.raw.Write(send)
	}
	if waits {
		_ = c.SetWriteDeadline(time.Time{}) // what is read next may take longer
	}
	if err == nil {
		err = failed
	}
	return err
}

// maxPieces is what one writev takes (UIO_MAXIOV).
const maxPieces = 1024

// sent takes the first n bytes off v.
func sent(v []unix.Iovec, n int) []unix.Iovec {
	for n > 0 && n >= int(v[0].Len) {
		n -= int(v[0].Len)
		v = v[1:]
	}
	if n > 0 {
		v[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(v[0].Base), n))
		v[0].SetLen(int(v[0].Len) - n)
	}
	return v
}

// packets gives the connection to send pieces of an answer by, with its head if
// that is not out yet, in one system call each time; nil where that cannot be, or
// is not worth it. net/http would send the head, with as much of the body as
// fills 4 KiB, by itself, and then each piece: the client is woken for each.
func (x *exchange) packets(pieces [][]byte) *plainConn {
	c, _ := x.r.Context().Value(connKey{}).(*plainConn)
	if c == nil || len(pieces) == 1 && len(pieces[0]) < copied/2 {
		return nil
	}
	if _, ok := x.w.(http.Flusher); !ok {
		return nil
	}
	return c
}

// writePacket sends pieces by a connection that packets gave.
func (x *exchange) writePacket(c *plainConn, pieces [][]byte) (err error) {
	c.cork()
	if err = x.writeEach(pieces); err == nil {
		x.w.(http.Flusher).Flush()
	}
	if e := c.uncork(x.g.timeout, x.stalled()); err == nil {
		err = e
	}
	return err
}

// stalls is how many times the gateway's timeout a client may take nothing of an
// answer: a film is paused, a program works on what it has got, and S3 waits for
// minutes.
const (
	stalls     = 10
	stallSteps = 10 // how often in that time it is asked whether it may
)

// stalled gives what says whether a client that takes nothing may go on doing so:
// a while, as long as nobody waits for the memory that its answer holds.
func (x *exchange) stalled() func() bool {
	left := (stalls - 1) * stallSteps
	return func() bool {
		left--
		return left >= 0 && !x.g.blobs.Crowded()
	}
}

// keepTaking gives the client its time for what is written before end is called,
// on a connection where a write that ran into its deadline cannot go on, as with
// TLS: it gets its deadline only when the time is over.
func (x *exchange) keepTaking() (end func()) {
	d, ok := x.w.(interface{ SetWriteDeadline(time.Time) error })
	if !ok {
		return func() {}
	}
	var mu sync.Mutex
	ended, may := false, x.stalled()
	mu.Lock()
	defer mu.Unlock()
	var late *time.Timer
	late = time.AfterFunc(x.g.timeout, func() {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case ended:
		case may():
			late.Reset(x.g.timeout / stallSteps)
		default:
			_ = d.SetWriteDeadline(time.Now()) // fails where the write does
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		late.Stop()
		_ = d.SetWriteDeadline(time.Time{}) // what is read next may take longer
	}
}

func (x *exchange) writeEach(pieces [][]byte) error {
	for _, p := range pieces {
		if _, err := x.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// What net/http writes, in one piece, when it refuses a request itself, which no
// handler sees then. An object may hold the very same, and a piece of its body
// begin with it.
const (
	refusalStart = "HTTP/1.1 4"
	refusalHead  = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
)

// Write implements net.Conn.
func (c *plainConn) Write(p []byte) (int, error) {
	if c.held != nil {
		c.held.add(p)
		return len(p), nil
	}
	if !c.answering && len(p) > len(refusalStart) && string(p[:len(refusalStart)]) == refusalStart {
		if end := bytes.IndexByte(p, '\r'); end > 0 && bytes.HasPrefix(p[end:], []byte(refusalHead)) {
			if _, err := c.TCPConn.Write(refusal(string(p[len("HTTP/1.1 "):end]))); err != nil {
				return 0, err
			}
			return len(p), nil
		}
	}
	return c.TCPConn.Write(p)
}

// refusal is S3's form of a status line.
func refusal(status string) []byte {
	f := &fault{"BadRequest", 400, "An error occurred when parsing the HTTP request."}
	switch {
	case status == "400 Bad Request":
		f = errInvalidURI // a request line that cannot be parsed, in all likelihood
	case len(status) > 3 && status[:3] == "431":
		f = &fault{"RequestHeaderSectionTooLarge", 400, "Your request header section exceeds the maximum allowed request header size."}
	}
	o := output{b: []byte(xmlHead)}
	o.open("Error").text("Code", f.code).text("Message", f.message).text("RequestId", "0000000000000000").close("Error")
	b := append([]byte(nil), "HTTP/1.1 400 Bad Request\r\nServer: Kintsugi\r\nX-Amz-Request-Id: 0000000000000000\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: "...)
	b = append(strconv.AppendInt(b, int64(len(o.b)), 10), "\r\n\r\n"...)
	return append(b, o.b...)
}
