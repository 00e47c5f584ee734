package gateway

import (
	"bytes"
	"net"
	"strconv"
)

// Listen wraps a listener, so that requests which the HTTP server refuses
// before any handler sees them – a request line that cannot be parsed, too
// large headers – get an answer of S3's form too. Without it they get the
// server's plain text.
func Listen(l net.Listener) net.Listener { return &listener{l} }

type listener struct{ net.Listener }

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return &plainConn{tcp}, err
	}
	return c, err
}

// plainConn is a connection on which the server's own refusals are rewritten.
// All else of the TCP connection stays.
type plainConn struct{ *net.TCPConn }

// What net/http writes, in one piece, when it refuses a request itself. The
// gateway's answers never look like this: they are XML below 500, and have
// other headers before their type.
const (
	refusalStart = "HTTP/1.1 4"
	refusalHead  = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
)

// Write implements net.Conn.
func (c *plainConn) Write(p []byte) (int, error) {
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
