package rpc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/storetest"
)

// echo answers with what it gets, and counts its connections.
func echo(t *testing.T, secure bool) (s *httptest.Server, opened *atomic.Int32) {
	t.Helper()
	opened = &atomic.Int32{}
	s = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := io.ReadAll(r.Body) // a short one is found by who asked
		if r.URL.Query().Has("chunked") {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = w.Write(p)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s, opened
}

func ask(ctx context.Context, c *Connections, url string, body []byte) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.RoundTrip(q)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// rests says that a connection to a host is idle.
func (c *Connections) rests(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.idle[key]) > 0
}

// TestConnectionsAreUsedAgain for answers of known and of unknown length, plain
// and over TLS, while none fails; as many are open as calls at once.
func TestConnectionsAreUsedAgain(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s, opened := echo(t, secure)
		c := NewTransport(nil)
		if secure {
			c = NewTransport(s.Client().Transport.(*http.Transport).TLSClientConfig)
		}
		defer c.CloseIdleConnections()
		for i, size := range []int{0, 1, 5000, besides, besides + 1, 3 << 20} {
			for _, query := range []string{"", "?chunked"} {
				want := bytes.Repeat([]byte{byte(i), 7}, size)
				if got, err := ask(t.Context(), c, s.URL+"/a"+query, want); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes%s: %d bytes, %v", size, query, len(got), err)
				}
				for !c.rests(s.URL) { // the goroutine that sent may end last
					time.Sleep(time.Millisecond)
				}
			}
		}
		if n := opened.Load(); n != 1 {
			t.Errorf("%d connections for one call at a time", n)
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 50 {
					if _, err := ask(t.Context(), c, s.URL, []byte("x")); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if n := opened.Load(); n > 8 {
			t.Errorf("%d connections for four calls at a time", n)
		}
	}
}

// TestClosedConnectionIsReplaced: calls to a server that has closed what was
// idle, or was started anew, do not fail; where nobody listens, they say so.
func TestClosedConnectionIsReplaced(t *testing.T) {
	s, opened := echo(t, false)
	c := NewTransport(nil)
	defer c.CloseIdleConnections()
	for i := range 5 {
		got, err := ask(t.Context(), c, s.URL, []byte("hello"))
		if err != nil || string(got) != "hello" {
			t.Fatalf("call %d: %q, %v", i, got, err)
		}
		s.CloseClientConnections()
	}
	if n := opened.Load(); n != 5 {
		t.Errorf("%d connections, want 5", n)
	}
	s.Close()
	if _, err := ask(t.Context(), c, s.URL, nil); !nobodyListens(err) {
		t.Errorf("of a server that is gone: %v", err)
	}
}

// raw is a server whose connections are handled by f, one after another.
func raw(t *testing.T, f func(c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer c.Close(); f(c, bufio.NewReader(c)) })
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return "http://" + l.Addr().String()
}

// TestAnswersThatAreNone: what is cut short, is no HTTP or more than was asked
// for fails, or is let go with its connection; nothing of it reaches a later
// call.
func TestAnswersThatAreNone(t *testing.T) {
	for name, say := range map[string]string{
		"nothing": "", "no HTTP": "hello\r\n\r\n", "half a head": "HTTP/1.1 200 OK\r\nContent-Le",
		"half a body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "continue": "HTTP/1.1 100 Continue\r\n\r\n",
		"half a chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf",
	} {
		var calls atomic.Int32
		url := raw(t, func(c net.Conn, r *bufio.Reader) {
			if q, err := http.ReadRequest(r); err == nil {
				_, _ = io.Copy(io.Discard, q.Body)
				calls.Add(1)
				_, _ = io.WriteString(c, say)
			}
		})
		c := NewTransport(nil)
		if got, err := ask(t.Context(), c, url, []byte("x")); err == nil {
			t.Errorf("%s: %q", name, got)
		}
		if n := calls.Load(); n != 1 {
			t.Errorf("%s: sent %d times on a new connection", name, n)
		}
		c.CloseIdleConnections()
	}
	var n atomic.Int32
	url := raw(t, func(c net.Conn, r *bufio.Reader) {
		for {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, q.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%dHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nX", n.Add(1))
		}
	})
	c := NewTransport(nil)
	defer c.CloseIdleConnections()
	for i := range 3 {
		if got, err := ask(t.Context(), c, url, nil); err != nil || string(got) != fmt.Sprint(i+1) {
			t.Errorf("after more than was asked for: %q, %v", got, err)
		}
	}
}

// TestCallsEnd with their context, in whatever they wait for, and leave nothing
// behind that a later call could get.
func TestCallsEnd(t *testing.T) {
	for name, say := range map[string]string{
		"a head": "", "a body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
	} {
		for _, size := range []int{1, 8 << 20} {
			done := make(chan struct{})
			url := raw(t, func(c net.Conn, r *bufio.Reader) {
				if _, err := http.ReadRequest(r); err == nil { // nobody reads the body
					_, _ = io.WriteString(c, say)
					<-done
				}
			})
			c := NewTransport(nil)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			_, err := ask(ctx, c, url, make([]byte, size))
			if cancel(); err == nil || say == "" && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("waiting for %s, %d bytes: %v", name, size, err)
			}
			close(done)
			if len(c.idle) > 0 {
				t.Errorf("waiting for %s: the connection is kept", name)
			}
		}
	}
}

// TestGivenUpAtOnce: a call over TLS to one who has stopped listening takes no
// longer than its context, though nothing can be sent any more.
func TestGivenUpAtOnce(t *testing.T) {
	s, _ := echo(t, true) // for its certificate
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{1, 1 << 20} {
			near, far := net.Pipe() // without buffers: who writes waits for who reads
			defer far.Close()
			go func() {
				c := tls.Server(far, s.TLS)
				if c.Handshake() == nil && size == 1 {
					_, _ = c.Read(make([]byte, 4096)) // the request, without an answer
				}
			}()
			c := NewTransport(s.Client().Transport.(*http.Transport).TLSClientConfig)
			c.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			_, err := ask(ctx, c, s.URL, make([]byte, size))
			if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
				t.Errorf("%d bytes: %v after %s", size, err, took)
			}
			cancel()
		}
	})
}

// TestReleasedBodyIsNotRead: however a call with a large payload ends, nobody
// reads the payload after Release.
func TestReleasedBodyIsNotRead(t *testing.T) {
	key := testKey(t)
	refuse := make(chan bool, 1)
	url := raw(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil && <-refuse {
			_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
	})
	for _, early := range []bool{false, true} {
		c := NewTransport(nil)
		client, err := NewClient(Config{Address: url, Transport: auth.NewTransport(key, c, nil), OpTime: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		refuse <- early
		sh := storetest.NewShard(shardID(1, 0), 4<<20)
		if _, err = client.Drive(testDrive, 1).Put(t.Context(), sh); err == nil {
			t.Error("a put without an answer")
		}
		clear(sh.Payload) // the race detector would see a reader
		c.CloseIdleConnections()
	}
}

// TestIdleConnectionsAreBounded in number and in time.
func TestIdleConnectionsAreBounded(t *testing.T) {
	s, _ := echo(t, false)
	c := NewTransport(nil)
	defer c.CloseIdleConnections()
	key := strings.TrimSuffix(s.URL, "/")
	for range idleHost + 10 {
		a, b := net.Pipe()
		t.Cleanup(func() { b.Close() })
		c.give(&connection{Conn: a, key: key, r: bufio.NewReader(a)})
	}
	if n := len(c.idle[key]); n != idleHost {
		t.Errorf("%d are idle", n)
	}
	for _, conn := range c.idle[key][:100] {
		conn.since = time.Now().Add(-2 * idleTime)
	}
	c.reap()
	if n := len(c.idle[key]); n != idleHost-100 {
		t.Errorf("%d are left", n)
	}
	c.CloseIdleConnections()
	if len(c.idle) > 0 {
		t.Error("some are left")
	}
}

// TestEndlessHead: who answers with a head that does not end fills no memory.
func TestEndlessHead(t *testing.T) {
	for _, piece := range []string{"X: " + strings.Repeat("y", 1000) + "\r\n", strings.Repeat("y", 1000)} {
		client, server := net.Pipe()
		c := NewTransport(nil)
		c.Dial = func(context.Context, string, string) (net.Conn, error) { return client, nil }
		sent := make(chan int, 1)
		go func() {
			defer server.Close()
			q, err := http.ReadRequest(bufio.NewReader(server))
			if err == nil {
				_, _ = io.Copy(io.Discard, q.Body)
			}
			n, _ := io.WriteString(server, "HTTP/1.1 200 OK\r\n")
			for err == nil && n < 16<<20 {
				var m int
				m, err = io.WriteString(server, piece)
				n += m
			}
			sent <- n
		}()
		_, err := ask(t.Context(), c, "http://node", nil)
		if n := <-sent; err == nil || n > 1<<20 {
			t.Fatalf("%d bytes of a head were taken: %v", n, err)
		}
	}
}
