package rpc

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"kintsugi/storagenode/tcp"
)

const (
	dialTime      = 3 * time.Second
	handshakeTime = 5 * time.Second
	// idleTime is less than the server's, so that it is not the server who ends
	// connections.
	idleTime = time.Minute
	idleHost = 256 // connections to one host that may be idle; more are closed
	readSize = 16 << 10
	maxHead  = 64 << 10 // of an answer, in bytes
)

// Connections is the http.RoundTripper of a process: HTTP/1.1 over connections
// that are kept for later calls, to other processes of the cluster, under an
// auth.Transport. A call is made by the goroutine that makes it; net/http's
// Transport has two more for each connection, and every call wakes both. What
// bounds the connections to one node are the calls to its drives
// (Config.Calls), and what bounds their time is their context. Safe for
// concurrent use.
type Connections struct {
	// Dial opens connections; NewTransport sets TCP's, another is set before the
	// first call.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	secure *tls.Config
	heads  buffers // of requests

	mu     sync.Mutex
	idle   map[string][]*connection // by scheme and host; the one used last comes last
	reaper bool                     // reap is due
}

// connection is used by one call at a time.
type connection struct {
	net.Conn
	key    string
	r      *bufio.Reader
	since  time.Time // idle since then
	reused bool
	head   bool // what comes is the head of an answer
	room   int  // how much of it may come still
}

var errEndlessHead = errors.New("the head of the answer is too long")

// Read implements net.Conn. Nothing of a head is authentic before it has ended.
func (c *connection) Read(p []byte) (int, error) {
	if !c.head {
		return c.Conn.Read(p)
	}
	if c.room <= 0 {
		return 0, errEndlessHead
	}
	n, err := c.Conn.Read(p)
	c.room -= n
	return n, err
}

// NewTransport makes the connections of a process, to be wrapped in an
// auth.Transport and shared by all its clients. A nil secure is for addresses of
// plain HTTP.
func NewTransport(secure *tls.Config) *Connections {
	d := net.Dialer{Timeout: dialTime, KeepAlive: 15 * time.Second, Control: tcp.Control}
	return &Connections{Dial: d.DialContext, secure: secure, idle: map[string][]*connection{}}
}

// RoundTrip implements http.RoundTripper. A request that went out on a
// connection which had been idle, and of whose answer not a byte came, is sent
// again on a new one if its body can be: the server had closed the connection,
// in all likelihood. Should the request have been seen all the same, its ticket
// has it refused.
func (c *Connections) RoundTrip(q *http.Request) (*http.Response, error) {
	ctx := q.Context()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key := hostKey(q.URL)
	conn := c.take(key)
	if conn != nil {
		resp, err := c.call(q, conn)
		if !errors.Is(err, errNoAnswer) || ctx.Err() != nil || q.Body != nil && q.Body != http.NoBody && q.GetBody == nil {
			return resp, err
		}
		again := *q
		if q.GetBody != nil {
			if again.Body, err = q.GetBody(); err != nil {
				return nil, err
			}
		}
		q = &again
	}
	conn, err := c.dial(ctx, key, q.URL)
	if err != nil {
		return nil, err
	}
	return c.call(q, conn)
}

func (c *Connections) dial(ctx context.Context, key string, u *url.URL) (*connection, error) {
	address, port := u.Host, map[bool]string{false: "80", true: "443"}[u.Scheme == "https"]
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), port)
	}
	conn, err := c.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "https" {
		cfg := &tls.Config{MinVersion: tls.VersionTLS13}
		if c.secure != nil {
			cfg = c.secure.Clone()
		}
		if cfg.ServerName == "" {
			cfg.ServerName = u.Hostname()
		}
		timed, cancel := context.WithTimeout(ctx, handshakeTime)
		defer cancel()
		secure := tcp.Client(conn, cfg)
		if err := secure.HandshakeContext(timed); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("TLS handshake with %s: %w", u.Host, err)
		}
		conn = secure
	}
	made := &connection{Conn: conn, key: key}
	made.r = bufio.NewReaderSize(made, readSize)
	return made, nil
}

// Close implements net.Conn. TLS alone would say good-bye first, and wait 5 s for
// one who does not listen.
func (c *connection) Close() error {
	if secure, ok := c.Conn.(*tcp.Secure); ok {
		return secure.NetConn().Close()
	}
	return c.Conn.Close()
}

// take gives the connection to a host that was used last; nil where none is
// idle.
func (c *Connections) take(key string) *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.idle[key]
	if len(all) == 0 {
		return nil
	}
	conn := all[len(all)-1]
	all[len(all)-1] = nil
	c.idle[key] = all[:len(all)-1]
	conn.reused = true
	return conn
}

// give keeps a connection on which nothing is under way.
func (c *Connections) give(conn *connection) {
	if conn.r.Buffered() > 0 { // more than was asked for
		_ = conn.Close()
		return
	}
	conn.since = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	all := append(c.idle[conn.key], conn)
	if len(all) > idleHost {
		_ = all[0].Close()
		all = append(all[:0], all[1:]...)
	}
	c.idle[conn.key] = all
	if !c.reaper {
		c.reaper = true
		time.AfterFunc(idleTime, c.reap)
	}
}

// reap closes what was idle for long.
func (c *Connections) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeBefore(time.Now().Add(-idleTime))
	if c.reaper = len(c.idle) > 0; c.reaper {
		time.AfterFunc(idleTime/2, c.reap)
	}
}

// CloseIdleConnections closes those that no call is using.
func (c *Connections) CloseIdleConnections() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeBefore(time.Now().Add(time.Hour))
}

// CloseIdle closes those to the host of a URL that no call is using: what they lead
// to is away, and the way to the host may be another by now.
func (c *Connections) CloseIdle(u *url.URL) {
	key := hostKey(u)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.idle[key] {
		_ = conn.Close()
	}
	delete(c.idle, key)
}

// hostKey is what connections are kept by.
func hostKey(u *url.URL) string { return u.Scheme + "://" + u.Host }

// closeBefore: mu is held. Those idle longest come first.
func (c *Connections) closeBefore(t time.Time) {
	for key, all := range c.idle {
		n := 0
		for n < len(all) && all[n].since.Before(t) {
			_ = all[n].Close()
			n++
		}
		if n == len(all) {
			delete(c.idle, key)
			continue
		}
		c.idle[key] = append([]*connection(nil), all[n:]...)
	}
}
