package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/erasure"
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
		if err := server.uncork(time.Minute, nil); err != nil {
			t.Fatal(err)
		}
	}
	server.Close()
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("seed %d: %d bytes arrived, want these %d", seed, len(b), len(want))
	}
}

// TestPacketWaitsForItsClient as long as it may, and the time of one is not that
// of the next.
func TestPacketWaitsForItsClient(t *testing.T) {
	const size, limit = 16 << 20, time.Second
	server, client := dialled(t)
	body := make([]byte, size)
	send := func(limit time.Duration) error {
		server.cork()
		if _, err := server.Write(body); err != nil {
			t.Fatal(err)
		}
		return server.uncork(limit, nil)
	}
	read := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, client, 2*size)
		read <- err
	}()
	if err := send(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := send(limit); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	time.Sleep(limit)
	go func() {
		_, err := io.CopyN(io.Discard, client, size)
		read <- err
	}()
	if err := send(time.Minute); err != nil {
		t.Errorf("after the time of an earlier packet: %v", err)
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	var err error
	for range 8 { // the system keeps some of them for it
		if err = send(limit); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("to a client that reads nothing: %v", err)
	}
}

// TestBodyLikeARefusal: what an object holds is never taken for an answer of the
// server's own.
func TestBodyLikeARefusal(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	tail := "HTTP/1.1 400 Bad Request" + refusalHead + "400 Bad Request"
	for _, size := range []int{1 << 20, 2 << 20, 4 << 20} {
		body := random(size, 3) + tail
		s.put("/bkt/k", body)
		if got := s.must(call{method: "GET", target: "/bkt/k"}).body; got != body {
			t.Errorf("%d bytes, want %d; they end in %q", len(got), len(body), got[max(0, len(got)-len(tail)):])
		}
	}
	// The server's own are still rewritten, also after an answer on the connection.
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	get := call{method: "GET", target: "/bkt/k"}
	if _, err := io.WriteString(conn, get.raw(s.address)+"GET /bkt/% HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	readAnswer(t, r, "GET")
	if a := readAnswer(t, r, "GET"); a.code() != "InvalidURI" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// lateBlobs takes its time with every read but the first.
type lateBlobs struct {
	Blobs
	reads atomic.Int32
	late  time.Duration
}

func (b *lateBlobs) Read(ctx context.Context, g erasure.Group, blob erasure.Blob, off, n int64, w io.Writer) error {
	if b.reads.Add(1) > 1 {
		time.Sleep(b.late)
	}
	return b.Blobs.Read(ctx, g, blob, off, n, w)
}

// TestSmallPieceBeforeALateOne: the time a client has to take a small piece does
// not end while the drives are slow with the next.
func TestSmallPieceBeforeALateOne(t *testing.T) {
	const limit = 300 * time.Millisecond
	var blobs *lateBlobs
	s := newSite(t, func(cfg *Config) {
		blobs = &lateBlobs{Blobs: cfg.Blobs, late: 2 * limit}
		cfg.Blobs, cfg.BodyTimeout = blobs, limit
	})
	s.bucket("bkt")
	id := s.beginUpload("/bkt/k", nil)
	parts := []string{random(5<<20, 1), random(64<<10, 2)}
	var etags []string
	for i, p := range parts {
		etags = append(etags, s.put(fmt.Sprintf("/bkt/k?partNumber=%d&uploadId=%s", i+1, id), p).header.Get("Etag"))
	}
	s.must(call{method: "POST", target: "/bkt/k?uploadId=" + id, body: listOf(nothing, etags...)})
	from := len(parts[0]) - 1000
	a := s.must(call{method: "GET", target: "/bkt/k", header: headers("Range", fmt.Sprintf("bytes=%d-", from))})
	if a.body != (parts[0] + parts[1])[from:] {
		t.Errorf("%d bytes", len(a.body))
	}
}
