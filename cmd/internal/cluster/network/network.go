// Package network joins hosts inside one process by connections that can be
// made to fail as real ones do. Hosts have names; what goes from one to another
// passes a link of its own in each direction, which passes, refuses new
// connections, loses what is sent, or takes connections and is silent. What a
// link does not pass stays where it is, as TCP's retransmissions have it: when
// the link passes again, it arrives.
//
// A Host is one life of a process. After Die everything of it is refused,
// within it at once, and its peers see their connections reset as soon as the
// links let them. Conn is a net.Conn with deadlines, so that net/http runs on
// it as on TCP; no socket is used.
package network

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Mode is what a link does to what is sent over it.
type Mode int32

// The modes. New connections need both directions; bytes need theirs.
const (
	Pass   Mode = iota
	Refuse      // new connections are refused, old ones go on
	Lose        // nothing passes; who connects waits in vain
	Silent      // connections are taken, then nothing passes
)

// link is one direction between two hosts.
type link struct {
	mode  atomic.Int32
	delay atomic.Int64 // ns
}

func (l *link) passes() bool { m := Mode(l.mode.Load()); return m == Pass || m == Refuse }

type pair struct{ from, to string }

// Network is a set of hosts. Safe for concurrent use.
type Network struct {
	// dialTime is how long who connects over a link that loses waits; what is
	// sent takes up to latency, beside its link's delay.
	dialTime, latency time.Duration

	mu    sync.Mutex
	hosts map[string]*Host // by name, the life that listens; guarded by mu, as all below
	links map[pair]*link
	conns map[*Conn]struct{} // each end
	moved chan struct{}      // closed and made anew when a link changes
}

// New makes a network without hosts. Connecting over a link that loses takes
// dialTime and fails; what is sent takes up to latency.
func New(dialTime, latency time.Duration) *Network {
	return &Network{dialTime: dialTime, latency: latency, hosts: map[string]*Host{}, links: map[pair]*link{}, conns: map[*Conn]struct{}{}, moved: make(chan struct{})}
}

// link gives a direction. mu is held.
func (n *Network) link(from, to string) *link {
	l := n.links[pair{from, to}]
	if l == nil {
		l = &link{}
		n.links[pair{from, to}] = l
	}
	return l
}

// Set makes a link do what mode says, in one direction.
func (n *Network) Set(from, to string, mode Mode) {
	n.change(func() { n.link(from, to).mode.Store(int32(mode)) })
}

// Delay makes everything over a link come later.
func (n *Network) Delay(from, to string, d time.Duration) {
	n.change(func() { n.link(from, to).delay.Store(int64(d)) })
}

// Heal has every link pass at once.
func (n *Network) Heal() {
	n.change(func() {
		for _, l := range n.links {
			l.mode.Store(int32(Pass))
			l.delay.Store(0)
		}
	})
}

// Cut resets the connections between two hosts.
func (n *Network) Cut(a, b string) {
	n.mu.Lock()
	var all []*Conn
	for c := range n.conns {
		if p := (pair{c.local, c.remote}); p == (pair{a, b}) || p == (pair{b, a}) {
			all = append(all, c)
		}
	}
	n.mu.Unlock()
	for _, c := range all {
		c.in.fail(syscall.ECONNRESET)
		c.out.fail(syscall.ECONNRESET)
	}
}

// change changes links, and wakes who waits for them.
func (n *Network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.moved)
	n.moved = make(chan struct{})
	for c := range n.conns {
		c.in.wake()
		c.out.wake()
	}
}

// Host is one life of a process on the network.
type Host struct {
	net      *Network
	name     string
	dead     atomic.Bool
	accepted chan *Conn
	closed   chan struct{} // the listener is
	once     sync.Once
}

// Host begins a life of the process with a name; the one before should be
// dead. It can connect at once, and is connected to once it listens.
func (n *Network) Host(name string) *Host {
	return &Host{net: n, name: name, accepted: make(chan *Conn, 256), closed: make(chan struct{})}
}

// Name gives the name.
func (h *Host) Name() string { return h.name }

// Die ends the life: nothing is sent or heard by it any more.
func (h *Host) Die() {
	h.dead.Store(true)
	_ = h.Close()
	n := h.net
	n.mu.Lock()
	var mine []*Conn
	for c := range n.conns {
		if c.host == h {
			mine = append(mine, c)
		}
	}
	close(n.moved)
	n.moved = make(chan struct{})
	n.mu.Unlock()
	for _, c := range mine {
		c.die()
	}
}

// Listen has the host take connections.
func (h *Host) Listen() net.Listener {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.net.hosts[h.name] = h
	return h
}

// Accept implements net.Listener.
func (h *Host) Accept() (net.Conn, error) {
	select {
	case c := <-h.accepted:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *Host) Close() error {
	h.once.Do(func() { close(h.closed) })
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.net.hosts[h.name] == h {
		delete(h.net.hosts, h.name)
	}
	return nil
}

// Addr implements net.Listener.
func (h *Host) Addr() net.Addr { return address(h.name) }

type address string

func (a address) Network() string { return "memory" }
func (a address) String() string  { return string(a) }

// DialContext connects to a host by its name; a port means nothing. It is made
// for http.Transport.
func (h *Host) DialContext(ctx context.Context, _, to string) (net.Conn, error) {
	if name, _, err := net.SplitHostPort(to); err == nil {
		to = name
	}
	timer := time.NewTimer(h.net.dialTime)
	defer timer.Stop()
	for {
		c, moved, err := h.net.connect(h, to)
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: "memory", Addr: address(to), Err: err}
		}
		if c != nil {
			return c, nil
		}
		select {
		case <-moved:
		case <-timer.C:
			return nil, &net.OpError{Op: "dial", Net: "memory", Addr: address(to), Err: os.ErrDeadlineExceeded}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// connect makes a connection; nil where one has to wait until moved.
func (n *Network) connect(h *Host, to string) (*Conn, <-chan struct{}, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.dead.Load() {
		return nil, nil, syscall.ENETUNREACH
	}
	there, back := n.link(h.name, to), n.link(to, h.name)
	switch t, b := Mode(there.mode.Load()), Mode(back.mode.Load()); {
	case t == Lose || b == Lose:
		return nil, n.moved, nil
	case t == Refuse || b == Refuse:
		return nil, nil, syscall.ECONNREFUSED
	}
	peer := n.hosts[to]
	if peer == nil {
		return nil, nil, syscall.ECONNREFUSED
	}
	out, in := newHalf(there, n.latency), newHalf(back, n.latency)
	mine := &Conn{net: n, host: h, local: h.name, remote: to, in: in, out: out}
	theirs := &Conn{net: n, host: peer, local: to, remote: h.name, in: out, out: in}
	select {
	case peer.accepted <- theirs:
	default:
		return nil, nil, fmt.Errorf("%s does not accept: %w", to, syscall.ECONNREFUSED)
	}
	n.conns[mine], n.conns[theirs] = struct{}{}, struct{}{}
	return mine, nil, nil
}

func (n *Network) forget(c *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}
