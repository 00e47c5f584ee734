package tcp

import (
	"net"
	"testing"
)

func of(t *testing.T, c net.Conn) (name string) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { name, err = congestion(fd) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return name
}

// pair is both ends of a connection over loopback.
func pair(t *testing.T, l net.Listener, d net.Dialer) (dialled, accepted net.Conn) {
	t.Helper()
	t.Cleanup(func() { _ = l.Close() })
	dialled, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialled.Close() })
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	return dialled, accepted
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestConnectionsOfThisMachineAreNotPaced, and others are as the system wants.
func TestConnectionsOfThisMachineAreNotPaced(t *testing.T) {
	plain, _ := pair(t, listen(t), net.Dialer{})
	systems := of(t, plain)
	dialled, accepted := pair(t, Unpaced(listen(t)), net.Dialer{Control: Control})
	if a, b := of(t, dialled), of(t, accepted); a != unpaced || b != unpaced {
		t.Errorf("congestion control of the ends: %s, %s", a, b)
	}
	if l, ok := Unpaced(listen(t)).(*listener); ok && l.former != systems {
		t.Errorf("others are set back to %q, the system's is %q", l.former, systems)
	}
	for address, want := range map[string]bool{
		"127.0.0.1:80": true, "127.3.2.1:1": true, "[::1]:80": true, "10.0.0.1:80": false, "[2001:db8::1]:80": false, "name:80": false, "": false,
	} {
		if got := loopback(address); got != want {
			t.Errorf("%s is of this machine: %v", address, got)
		}
	}
}
