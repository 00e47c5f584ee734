package gateway

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// dialled gives both ends of a connection through Listen.
func dialled(t *testing.T) (server *plainConn, client net.Conn) {
	t.Helper()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listen(plain)
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*plainConn), client
}

// TestPacketKeepsTheOrder of what is copied and what is not, with buffers that
// are used again as those of net/http are.
func TestPacketKeepsTheOrder(t *testing.T) {
	server, client := dialled(t)
	var want []byte
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(client)
		got <- b
	}()
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	reused := make([]byte, copied)
	for range 50 {
		server.cork()
		for range rng.IntN(8) {
			p := reused[:rng.IntN(copied+1)]
			if rng.IntN(2) == 0 {
				p = make([]byte, copied+1+rng.IntN(100_000))
			}
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			want = append(want, p...)
			if n, err := server.Write(p); n != len(p) || err != nil {
				t.Fatalf("%d of %d bytes, %v", n, len(p), err)
			}
		}
		if err := server.uncork(); err != nil {
			t.Fatal(err)
		}
	}
	server.Close()
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("seed %d: %d bytes arrived, want these %d", seed, len(b), len(want))
	}
}

func congestionOf(t *testing.T, c *net.TCPConn) (name string) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) {
		name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	}); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return name
}

// TestConnectionsOfThisMachineAreNotPaced, and others are as the system wants.
func TestConnectionsOfThisMachineAreNotPaced(t *testing.T) {
	server, client := dialled(t)
	if name := congestionOf(t, server.TCPConn); name != unpaced {
		t.Errorf("congestion control is %s", name)
	}
	systems := congestionOf(t, client.(*net.TCPConn))
	setCongestion(server.TCPConn, systems)
	if name := congestionOf(t, server.TCPConn); name != systems {
		t.Errorf("congestion control is %s, the system's is %s", name, systems)
	}
	for address, want := range map[string]bool{"127.0.0.1": true, "127.3.2.1": true, "::1": true, "10.0.0.1": false, "2001:db8::1": false} {
		if got := loopback(&net.TCPAddr{IP: net.ParseIP(address)}); got != want {
			t.Errorf("%s is of this machine: %v", address, got)
		}
	}
}
