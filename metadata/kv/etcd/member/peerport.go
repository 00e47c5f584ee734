package member

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/etcdserver/api/etcdhttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"

	"kintsugi/storagenode/tcp"
)

// handshake is how long another member may take for a handshake, or the head of a
// request.
const handshake = 10 * time.Second

// listenForPeers takes the peer address. etcd's own listener there gives up for good
// at the first accept that fails, for want of a file, say, and nothing says so: the
// member would be cut off from the others until a restart.
func (m *Member) listenForPeers(files transport.TLSInfo) (net.Listener, error) {
	serving, err := files.ServerConfig()
	if err != nil {
		return nil, fmt.Errorf("certificate for members: %w", err)
	}
	serving.NextProtos = nil // members speak HTTP/1.1
	l, err := net.Listen("tcp", m.cfg.PeerAddress)
	if err != nil {
		return nil, fmt.Errorf("peer address: %w", err)
	}
	return tls.NewListener(peerListener{l}, serving), nil
}

// servePeers has the running server answer the other members at l, as etcd would.
// Whatever comes there, half of the files that the process may open are for others.
func (m *Member) servePeers(l net.Listener) {
	m.peers = &http.Server{
		Handler:           etcdhttp.NewPeerHandler(m.server.GetLogger(), m.server.Server),
		ReadHeaderTimeout: handshake, // a snapshot takes as long as it takes, see peerListener
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	l = tcp.Bound(m.peers, l, tcp.MaxConns())
	go func() { _ = m.peers.Serve(l) }() // ends with Close
}

// peerListener gives connections on which no read and no write takes longer than
// members allow each other.
type peerListener struct{ net.Listener }

// Accept implements net.Listener.
func (l peerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &peerConn{Conn: c}, nil
}

type peerConn struct {
	net.Conn
	until atomic.Int64 // the deadline for reads that the server has set, in ns since 1970; 0: none
}

// SetReadDeadline implements net.Conn.
func (c *peerConn) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		c.until.Store(0)
	} else {
		c.until.Store(t.UnixNano())
	}
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *peerConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.Conn.SetWriteDeadline(t))
}

// Read implements net.Conn. The server's deadline holds where it is the earlier one.
func (c *peerConn) Read(p []byte) (int, error) {
	end := time.Now().Add(rafthttp.ConnReadTimeout)
	if until := c.until.Load(); until == 0 || end.UnixNano() < until {
		if err := c.Conn.SetReadDeadline(end); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c *peerConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(rafthttp.ConnWriteTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
