package gateway

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strconv"
	"sync"
)

// Listen wraps a listener, so that requests which the HTTP server refuses
// before any handler sees them – a request line that cannot be parsed, too
// large headers – get an answer of S3's form too. Without it they get the
// server's plain text. On a server set up by Configure, small answers also
// leave in one packet instead of two.
func Listen(l net.Listener) net.Listener { return &listener{Listener: l} }

type listener struct {
	net.Listener
	held sync.Pool // *[]byte
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return &plainConn{TCPConn: tcp, pool: &l.held}, err
	}
	return c, err
}

// plainConn is a connection on which the server's own refusals are rewritten.
// All else of the TCP connection stays.
type plainConn struct {
	*net.TCPConn
	pool *sync.Pool
	// held collects what is written between cork and uncork; nil outside.
	// Only the goroutine of the request being answered touches it.
	held *[]byte
}

// connKey finds the connection in a request's context.
type connKey struct{}

func connContext(ctx context.Context, c net.Conn) context.Context {
	if p, ok := c.(*plainConn); ok {
		return context.WithValue(ctx, connKey{}, p)
	}
	return ctx
}

// cork holds back what is written from now on, until uncork.
func (c *plainConn) cork() {
	var ok bool
	if c.held, ok = c.pool.Get().(*[]byte); !ok {
		p := make([]byte, 0, smallAnswer+4096)
		c.held = &p
	}
}

func (c *plainConn) uncork() error {
	p := c.held
	c.held = nil
	_, err := c.TCPConn.Write(*p)
	*p = (*p)[:0]
	c.pool.Put(p)
	return err
}

// writeWhole sends a whole answer whose head is ready. net/http writes head
// and body through a buffer of 4 KiB, so a body of about that size would cost
// two system calls and wake the client twice.
func (x *exchange) writeWhole(p []byte) (int, error) {
	c, _ := x.r.Context().Value(connKey{}).(*plainConn)
	f, ok := x.w.(http.Flusher)
	if c == nil || !ok || len(p) < 2048 {
		return x.Write(p)
	}
	c.cork()
	n, err := x.Write(p)
	f.Flush()
	if e := c.uncork(); err == nil {
		err = e
	}
	return n, err
}

// What net/http writes, in one piece, when it refuses a request itself. The
// gateway's answers never look like this: they are XML below 500, and have
// other headers before their type.
const (
	refusalStart = "HTTP/1.1 4"
	refusalHead  = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
)

// Write implements net.Conn.
func (c *plainConn) Write(p []byte) (int, error) {
	if c.held != nil {
		*c.held = append(*c.held, p...)
		return len(p), nil
	}
	if len(p) > len(refusalStart) && string(p[:len(refusalStart)]) == refusalStart {
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
