package gateway

import (
	"net"

	"golang.org/x/sys/unix"
)

// unpaced is the congestion control that every Linux has and allows everybody.
const unpaced = "reno"

// unpace makes the listener's connections leave congestion control by pacing
// aside, which is what BBR does where the system's administrator chose it: over
// the loopback interface, where nothing is ever congested, its timer for each
// 64 KiB costs more than to copy them. It has to be asked of the listener: a
// connection that was BBR's once stays paced. It gives what connections to
// others are to be set back to, "" where nothing was changed.
func unpace(l *net.TCPListener) (former string) {
	raw, err := l.SyscallConn()
	if err != nil {
		return ""
	}
	_ = raw.Control(func(fd uintptr) {
		if former, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION); err == nil {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, unpaced)
		}
	})
	if err != nil || former == unpaced {
		return ""
	}
	return former
}

// setCongestion sets a connection's congestion control; one that cannot be set
// stays unpaced.
func setCongestion(c *net.TCPConn, name string) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
		})
	}
}

func loopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}
