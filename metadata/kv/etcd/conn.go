package etcd

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kintsugi/storagenode/clock"
)

// conn is a connection to a member that remembers when the member was last
// heard. A member that accepts and then says nothing (stopped, or cut off)
// would otherwise get its share of all requests until the keepalive notices;
// the first request it leaves unanswered closes the connection, and it gets
// none until it greets again.
type conn struct {
	net.Conn
	count clock.Count
	heard atomic.Int64 // by count
	addr  connAddr
}

// connAddr is the remote address of a conn and leads back to it.
type connAddr struct {
	net.Addr
	conn *conn
}

func (s *Store) dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: connectTimeout, KeepAlive: 15 * time.Second}
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		if rc, err := tcp.SyscallConn(); err == nil {
			_ = rc.Control(func(fd uintptr) { // a kernel without it does without
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(keepaliveTimeout.Milliseconds()))
			})
		}
	}
	c := &conn{Conn: raw, count: s.count}
	c.addr = connAddr{raw.RemoteAddr(), c}
	c.heard.Store(c.count.Now())
	return c, nil
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Store(c.count.Now())
	}
	return n, err
}

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return &c.addr }

// silent closes the connection behind a peer's address if nothing was heard
// there since a request was sent, by the store's count.
func silent(peer net.Addr, since int64) {
	if a, ok := peer.(*connAddr); ok && a.conn.heard.Load() < since {
		_ = a.conn.Close()
	}
}
