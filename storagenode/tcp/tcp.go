// Package tcp keeps connections within one machine from being paced, has TLS
// connections send what is long in few system calls, and bounds how many a server
// has and how long a client may keep one busy that nobody knows.
//
// Where the system's administrator chose congestion control by pacing, which is
// what BBR does, a timer goes off for each 64 KiB: over the loopback interface,
// where nothing is ever congested, it costs more than to copy them. Connections
// between machines stay as the system wants them.
package tcp

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unpaced is the congestion control that every Linux has and allows everybody.
const unpaced = "reno"

// Unpaced wraps a listener. It has to be asked of the listener: a connection that
// was BBR's once stays paced. What it accepts are connections of the listener's
// own type.
func Unpaced(l net.Listener) net.Listener {
	t, ok := l.(*net.TCPListener)
	if !ok {
		return l
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return l
	}
	var former string
	_ = raw.Control(func(fd uintptr) {
		if former, err = congestion(fd); err == nil {
			err = setCongestion(fd, unpaced)
		}
	})
	if err != nil || former == unpaced {
		return l
	}
	return &listener{Listener: l, former: former}
}

type listener struct {
	net.Listener
	former string // what connections to other machines are set back to
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if t, ok := c.(*net.TCPConn); ok && !loopback(t.RemoteAddr().String()) {
		if raw, err := t.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = setCongestion(fd, l.former) }) // else it stays unpaced
		}
	}
	return c, err
}

// Control is for net.Dialer: connections to this machine are not paced.
func Control(_, address string, c syscall.RawConn) error {
	if !loopback(address) {
		return nil
	}
	return c.Control(func(fd uintptr) { _ = setCongestion(fd, unpaced) }) // else it is paced
}

func congestion(fd uintptr) (string, error) {
	return unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
}

func setCongestion(fd uintptr, name string) error {
	return unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
}

// loopback says whether an address, host:port, is of this machine.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && net.ParseIP(host).IsLoopback()
}
