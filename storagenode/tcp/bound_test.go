package tcp

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"
	"testing"
	"time"
)

func request(t *testing.T, address, raw string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_, _ = io.WriteString(c, raw)
	return c
}

// answered says whether an answer comes within a time.
func answered(c net.Conn, within time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(within))
	n, _ := c.Read(make([]byte, 1))
	return n == 1
}

// TestBound: connections beyond the bound wait until others are closed, and a
// server that is full can be stopped.
func TestBound(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan http.ConnState, 100)
	s := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }),
		ConnState: func(_ net.Conn, state http.ConnState) { heard <- state },
	}
	ended := make(chan error, 1)
	bounded := Bound(s, l, 2)
	go func() { ended <- s.Serve(bounded) }()
	const get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"
	address := l.Addr().String()
	first, second := request(t, address, get), request(t, address, get)
	if !answered(first, 5*time.Second) || !answered(second, 5*time.Second) {
		t.Fatal("connections within the bound are not served")
	}
	third := request(t, address, get)
	if answered(third, 200*time.Millisecond) {
		t.Fatal("a third connection is served")
	}
	_ = first.Close()
	if !answered(third, 5*time.Second) {
		t.Fatal("a place that is free again is not taken")
	}
	if <-heard != http.StateNew {
		t.Error("what hears of connections does so no more")
	}
	_ = s.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("a full server does not end")
	}
}

// TestForsaking: who sends a part of a body that nobody reads is answered and cut
// off.
func TestForsaking(t *testing.T) {
	s := httptest.NewServer(Forsaking(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })))
	t.Cleanup(s.Close)
	c := request(t, s.Listener.Addr().String(), "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\na")
	_ = c.SetReadDeadline(time.Now().Add(3 * forsaken))
	if text, err := io.ReadAll(c); err != nil || len(text) == 0 {
		t.Errorf("%q, %v", text, err)
	}
}

func TestMaxConns(t *testing.T) {
	if n := MaxConns(); n < 16 || n > mostConns {
		t.Errorf("%d connections", n)
	}
}

// failing is a listener whose first accepts fail.
type failing struct {
	net.Listener
	errs []error
}

func (f *failing) Accept() (net.Conn, error) {
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	}
	return f.Listener.Accept()
}

// TestAcceptFails: a server outlives that the system had no file, no memory or no
// network for a connection.
func TestAcceptFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.NotFoundHandler()}
	t.Cleanup(func() { _ = s.Close() })
	bounded := Bound(s, &failing{l, []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EPROTO}}, 2)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(bounded) }()
	if !answered(request(t, l.Addr().String(), "GET / HTTP/1.1\r\nHost: h\r\n\r\n"), 5*time.Second) {
		t.Error("not served any more")
	}
	_ = l.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("does not end with its listener")
	}
}
