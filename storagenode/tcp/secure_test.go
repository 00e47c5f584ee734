package tcp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// counted counts the writes to a connection, and fails them where broken.
type counted struct {
	net.Conn
	writes atomic.Int64
	broken atomic.Bool
}

var errBroken = errors.New("broken")

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	if c.broken.Load() {
		return 0, errBroken
	}
	return c.Conn.Write(p)
}

func configs(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"here"}}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	known := x509.NewCertPool()
	known.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: known, ServerName: "here", DynamicRecordSizingDisabled: true}
}

// secure is a TLS connection, its client's writes, and the far side.
func secure(t *testing.T) (near *Secure, under *counted, far net.Conn) {
	t.Helper()
	server, client := configs(t)
	dialled, far := pair(t, Listen(listen(t), server), net.Dialer{})
	under = &counted{Conn: dialled}
	near = Client(under, client)
	met := make(chan error, 1)
	go func() { met <- far.(*Secure).Handshake() }() // ends with the handshake
	if err := errors.Join(near.Handshake(), <-met); err != nil {
		t.Fatal(err)
	}
	return near, under, far
}

// TestLongWritesLeaveTogether: what is sent arrives as it was, in fewer calls
// than it has records; and nothing waits for a later write.
func TestLongWritesLeaveTogether(t *testing.T) {
	near, under, far := secure(t)
	for _, size := range []int{1, recordSize, recordSize + 1, 3*recordSize + 7, 256 << 10, 1 << 20} {
		sent := make([]byte, size)
		_, _ = rand.Read(sent) // never fails
		got := make(chan []byte, 1)
		go func() { // ends with the bytes, or the connection
			p := make([]byte, size)
			_, _ = io.ReadFull(far, p)
			got <- p
		}()
		before := under.writes.Load()
		if n, err := near.Write(sent); n != size || err != nil {
			t.Fatalf("%d bytes: %d, %v", size, n, err)
		}
		if !bytes.Equal(<-got, sent) {
			t.Fatalf("%d bytes arrive changed", size)
		}
		if n, most := under.writes.Load()-before, int64(size/together+1); n > most {
			t.Errorf("%d bytes left in %d writes, want %d at most", size, n, most)
		}
	}
	before := under.writes.Load()
	if n, err := near.WriteAll(net.Buffers{[]byte("head"), []byte("and body")}); n != 12 || err != nil {
		t.Fatalf("WriteAll: %d, %v", n, err)
	}
	p := make([]byte, 12)
	if _, err := io.ReadFull(far, p); err != nil || string(p) != "headand body" {
		t.Errorf("%q, %v", p, err)
	}
	if n := under.writes.Load() - before; n != 1 {
		t.Errorf("two runs of bytes left in %d writes", n)
	}
	if near.out.kept != nil || near.out.holds != 0 {
		t.Error("memory is held after the writes")
	}
}

// TestFailedWriteIsTold: what was gathered and could not be sent is no success,
// and nothing is sent after it.
func TestFailedWriteIsTold(t *testing.T) {
	near, under, _ := secure(t)
	under.broken.Store(true)
	if n, err := near.Write(make([]byte, recordSize+1)); n != 0 || !errors.Is(err, errBroken) {
		t.Errorf("a long write gives %d, %v", n, err)
	}
	under.broken.Store(false)
	before := under.writes.Load()
	if _, err := near.WriteAll(net.Buffers{{1}, {2}}); !errors.Is(err, errBroken) {
		t.Errorf("two runs after it: %v", err)
	}
	for _, size := range []int{1, 256 << 10} {
		if _, err := near.Write(make([]byte, size)); !errors.Is(err, errBroken) {
			t.Errorf("%d bytes after it: %v", size, err)
		}
	}
	if under.writes.Load() != before {
		t.Error("something was sent behind what is missing")
	}
}
