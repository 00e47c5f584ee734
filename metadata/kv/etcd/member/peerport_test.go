package member_test

import (
	"crypto/tls"
	"net"
	"syscall"
	"testing"
	"time"
)

// shortOfFiles has a connection come to an address while the process may not open
// another file.
func shortOfFiles(t *testing.T, address string) {
	t.Helper()
	to, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())})
	time.Sleep(100 * time.Millisecond)
	if rerr := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); rerr != nil {
		t.Fatal(rerr)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestPeerPortShortOfFiles: the other members reach one again that could not open
// a file when one of them came.
func TestPeerPortShortOfFiles(t *testing.T) {
	r := newRig(t, 1)
	for _, address := range []string{r.configs[0].PeerAddress, r.configs[0].Address} {
		shortOfFiles(t, address)
		c, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if address == r.configs[0].Address {
			if _, err := c.Read(make([]byte, 1)); err != nil { // HTTP/2: the server speaks
				t.Errorf("the clients' port is dead: %v", err)
			}
			continue
		}
		if err := tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake(); err != nil {
			t.Errorf("the peers' port is dead: %v", err)
		}
	}
}
