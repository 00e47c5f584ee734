package network

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how many bytes may be under way in one direction.
const window = 256 << 10

// half is one direction of a connection.
type half struct {
	link    *link
	latency time.Duration // at most
	mu      sync.Mutex
	cond    sync.Cond

	buf     []byte    // sent and not received; guarded by mu, as all below
	at      int       // of buf, what was received
	due     time.Time // when it is there
	ended   bool      // the sender has closed
	broken  error     // what the receiver gets when the link lets it know
	refused bool      // the receiver is gone: the sender must stop
	gone    bool      // the receiver's own end is closed

	readBy, writeBy deadline
}

// deadline is when a call has to end; its timer wakes who waits.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func newHalf(l *link, latency time.Duration) *half {
	h := &half{link: l, latency: latency}
	h.cond.L = &h.mu
	return h
}

func (h *half) wake() {
	h.mu.Lock()
	h.cond.Broadcast()
	h.mu.Unlock()
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// set moves a deadline. h.mu is held.
func (h *half) set(d *deadline, at time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = at
	if wait := time.Until(at); !at.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, h.wake)
	}
	h.cond.Broadcast()
}

// fail breaks the direction for both ends.
func (h *half) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken == nil {
		h.broken = err
	}
	h.refused = true
	h.cond.Broadcast()
}

// read waits for bytes that the link lets through.
func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.gone:
			return 0, net.ErrClosed
		case h.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		}
		if h.link.passes() {
			switch {
			case h.broken != nil:
				return 0, h.broken
			case h.at < len(h.buf):
				wait := time.Until(h.due)
				if wait <= 0 {
					n := copy(p, h.buf[h.at:])
					if h.at += n; h.at == len(h.buf) {
						h.buf, h.at = h.buf[:0], 0
					}
					h.cond.Broadcast()
					return n, nil
				}
				time.AfterFunc(wait, h.wake)
			case h.ended:
				return 0, io.EOF
			}
		}
		h.cond.Wait()
	}
}

// write takes bytes while the window lets it.
func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n < len(p) {
		room := window - (len(h.buf) - h.at)
		switch {
		case h.ended:
			return n, net.ErrClosed
		case h.refused && h.link.passes():
			return n, syscall.EPIPE
		case h.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case room <= 0:
			h.cond.Wait()
			continue
		}
		if h.at > 0 && len(h.buf)+room > cap(h.buf) {
			h.buf, h.at = append(h.buf[:0], h.buf[h.at:]...), 0
		}
		if h.at == len(h.buf) {
			d := time.Duration(h.link.delay.Load())
			if h.latency > 0 {
				d += rand.N(h.latency)
			}
			h.due = time.Now().Add(d)
		}
		some := p[n:min(len(p), n+room)]
		h.buf = append(h.buf, some...)
		n += len(some)
		h.cond.Broadcast()
	}
	return n, nil
}

// Conn is one end of a connection.
type Conn struct {
	net           *Network
	host          *Host // whose end it is
	local, remote string
	in, out       *half
}

var _ net.Conn = (*Conn)(nil)

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.end(nil)
	return nil
}

// die is Close of a process that was killed: the peer's connection is reset.
func (c *Conn) die() { c.end(syscall.ECONNRESET) }

func (c *Conn) end(reset error) {
	c.in.mu.Lock()
	c.in.gone, c.in.refused = true, true
	c.in.set(&c.in.readBy, time.Time{})
	c.in.mu.Unlock()
	c.out.mu.Lock()
	c.out.ended = true
	if reset != nil {
		c.out.broken = reset
	}
	c.out.set(&c.out.writeBy, time.Time{})
	c.out.mu.Unlock()
	c.net.forget(c)
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return address(c.local + ":1") }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return address(c.remote + ":1") }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.set(&c.in.readBy, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.set(&c.out.writeBy, t)
	return nil
}
