package tcp

import (
	"crypto/tls"
	"net"
	"sync"
)

const (
	// recordSize is how much goes into one record of TLS.
	recordSize = 16 << 10
	// together is how much of a long write leaves in one system call.
	together = 4 * (recordSize + 256)
)

// Secure is a TLS connection whose long writes leave several records at a time.
// crypto/tls makes a system call for each, of 16 KiB, and wakes the other side
// as often.
type Secure struct {
	*tls.Conn
	out *gathering
}

// Client begins TLS on a connection that was dialled.
func Client(c net.Conn, cfg *tls.Config) *Secure {
	g := &gathering{Conn: c}
	return &Secure{tls.Client(g, cfg), g}
}

// Listen gives what l accepts as TLS connections of this package. The first Read
// or Write does the handshake.
func Listen(l net.Listener, cfg *tls.Config) net.Listener { return &secureListener{l, cfg} }

type secureListener struct {
	net.Listener
	cfg *tls.Config
}

// Accept implements net.Listener.
func (l *secureListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &gathering{Conn: c}
	return &Secure{tls.Server(g, l.cfg), g}, nil
}

// Write implements net.Conn. When it returns without an error, all was given to
// the system.
func (c *Secure) Write(p []byte) (int, error) {
	if len(p) <= recordSize {
		return c.Conn.Write(p)
	}
	n, err := c.WriteAll(net.Buffers{p})
	return int(n), err
}

// WriteAll writes what net.Buffers would, as if it were one Write.
func (c *Secure) WriteAll(all net.Buffers) (sent int64, err error) {
	c.out.hold()
	for _, p := range all {
		var n int
		n, err = c.Conn.Write(p)
		if sent += int64(n); err != nil {
			break
		}
	}
	if late := c.out.release(); err == nil && late != nil {
		return 0, late
	}
	return sent, err
}

// gathering is what a tls.Conn writes to.
type gathering struct {
	net.Conn

	mu    sync.Mutex // guards what follows
	holds int        // Writes under way that gather
	kept  *[]byte    // what they have gathered; nil where none is
	err   error      // of the first write that failed; nothing is sent after it
}

var rooms = sync.Pool{New: func() any { b := make([]byte, 0, together); return &b }}

// hold gathers what is written, until release.
func (g *gathering) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holds++; g.kept == nil {
		g.kept = rooms.Get().(*[]byte)
	}
}

// release sends what was gathered.
func (g *gathering) release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flush()
	if g.holds--; g.holds == 0 {
		rooms.Put(g.kept)
		g.kept = nil
	}
	return g.err
}

// flush: mu is held.
func (g *gathering) flush() {
	if g.err == nil && len(*g.kept) > 0 {
		_, g.err = g.Conn.Write(*g.kept)
	}
	*g.kept = (*g.kept)[:0]
}

// Write implements net.Conn. Records leave in the order in which they come.
func (g *gathering) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.kept == nil {
		if g.err != nil {
			return 0, g.err
		}
		n, err := g.Conn.Write(p)
		g.err = err
		return n, err
	}
	if len(*g.kept)+len(p) > together {
		g.flush()
	}
	if g.err != nil {
		return 0, g.err
	}
	*g.kept = append(*g.kept, p...)
	return len(p), nil
}
