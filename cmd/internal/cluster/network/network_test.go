package network

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"
)

// serve starts an echo server and gives a client from another host.
func serve(t *testing.T, n *Network) (*Host, *http.Client) {
	t.Helper()
	h := n.Host("server")
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := io.ReadAll(r.Body)
		_, _ = w.Write(p)
	})}
	l := h.Listen()
	go func() { _ = s.Serve(l) }()
	client := n.Host("client")
	tr := &http.Transport{DialContext: client.DialContext}
	t.Cleanup(func() { tr.CloseIdleConnections(); _ = s.Close() })
	return h, &http.Client{Transport: tr}
}

func post(ctx context.Context, c *http.Client, p []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://server:80/", bytes.NewReader(p))
	if err != nil {
		return err
	}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && !bytes.Equal(got, p) {
		err = errors.New("other bytes came back")
	}
	return err
}

func TestHTTP(t *testing.T) {
	_, c := serve(t, New(time.Second, 0))
	for _, size := range []int{0, 1, 100, 100 << 10, 5 << 20} {
		p := bytes.Repeat([]byte("kintsugi"), size/8+1)[:size]
		if err := post(t.Context(), c, p); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
	}
}

// TestNothingIsLostOnALink: what a link held back arrives when it passes again.
func TestNothingIsLostOnALink(t *testing.T) {
	for _, mode := range []Mode{Lose, Silent} {
		for _, from := range []string{"client", "server"} {
			n := New(time.Minute, 0)
			_, c := serve(t, n)
			if err := post(t.Context(), c, []byte("x")); err != nil {
				t.Fatal(err)
			}
			to := map[string]string{"client": "server", "server": "client"}[from]
			n.Set(from, to, mode)
			done := make(chan error, 1)
			go func() { done <- post(t.Context(), c, make([]byte, 1<<20)) }()
			select {
			case err := <-done:
				t.Fatalf("mode %d from %s: passed, %v", mode, from, err)
			case <-time.After(50 * time.Millisecond):
			}
			n.Set(from, to, Pass)
			if err := <-done; err != nil {
				t.Fatalf("mode %d from %s: %v", mode, from, err)
			}
		}
	}
}

func TestConnecting(t *testing.T) {
	n := New(30*time.Millisecond, 0)
	h, _ := serve(t, n)
	from := n.Host("other")
	dial := func(ctx context.Context) error {
		c, err := from.DialContext(ctx, "tcp", "server:80")
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	n.Set("other", "server", Refuse)
	if err := dial(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("refusing: %v", err)
	}
	n.Set("other", "server", Pass)
	n.Set("server", "other", Lose)
	if err := dial(t.Context()); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("losing the answers: %v", err)
	}
	n.Set("server", "other", Silent)
	if err := dial(t.Context()); err != nil {
		t.Errorf("silent: %v", err)
	}
	n.Heal()
	h.Die()
	if err := dial(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	from.Die()
	if err := dial(t.Context()); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("from a dead host: %v", err)
	}
}

// TestDeathResets: a peer learns of a death when the link lets it, and Cut
// resets what there is.
func TestDeathResets(t *testing.T) {
	n := New(time.Second, 0)
	server := n.Host("server")
	l := server.Listen()
	client := n.Host("client")
	connect := func() (mine, theirs net.Conn) {
		mine, err := client.DialContext(t.Context(), "tcp", "server")
		if err != nil {
			t.Fatal(err)
		}
		if theirs, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		return mine, theirs
	}
	mine, _ := connect()
	n.Cut("server", "client")
	if _, err := mine.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("cut: %v", err)
	}
	mine, theirs := connect()
	n.Set("server", "client", Lose)
	server.Die()
	if _, err := theirs.Write([]byte("x")); err == nil {
		t.Error("the dead write")
	}
	_ = mine.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := mine.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a death behind a link that loses: %v", err)
	}
	_ = mine.SetReadDeadline(time.Time{})
	n.Heal()
	if _, err := mine.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a death: %v", err)
	}
}

func TestDelay(t *testing.T) {
	n := New(time.Second, 0)
	_, c := serve(t, n)
	n.Delay("client", "server", 30*time.Millisecond)
	n.Delay("server", "client", 30*time.Millisecond)
	began := time.Now()
	if err := post(t.Context(), c, []byte("x")); err != nil || time.Since(began) < 60*time.Millisecond {
		t.Fatalf("after %s: %v", time.Since(began), err)
	}
}
