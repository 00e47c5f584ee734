package auth

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestStrangersHoldNoPlaces: who announces a head and does not send it keeps
// nobody out who has the key.
func TestStrangersHoldNoPlaces(t *testing.T) {
	guard := NewGuard(GuardConfig{Key: key(t, "s"), Requests: 1, Wait: time.Millisecond})
	reached := make(chan struct{}, 1)
	guarded := guard.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached <- struct{}{}
		guarded.ServeHTTP(w, r)
	}))
	defer server.Close()
	stranger := ticket{head: 100}
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /x HTTP/1.1\r\nHost: h\r\nAuthorization: %s\r\nContent-Length: 100\r\n\r\n", stranger.header())
	<-reached
	time.Sleep(50 * time.Millisecond)
	q, _ := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
	resp, err := NewTransport(key(t, "s"), http.DefaultTransport, nil).RoundTrip(q)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

// TestReadHead: heads of any length, and such as break off.
func TestReadHead(t *testing.T) {
	text := bytes.Repeat([]byte("kintsugi "), MaxHead/9+1)
	g := NewGuard(GuardConfig{Key: key(t, "s"), Wait: time.Millisecond})
	from := func(body []byte) *http.Request { return httptest.NewRequest("POST", "/x", bytes.NewReader(body)) }
	for _, n := range []int{1, 4095, 4096, 4097, 8192, 20_000, MaxHead} {
		if got, err := g.readHead(from(text), n); err != nil || !bytes.Equal(got, text[:n]) {
			t.Errorf("%d bytes: %d, %v", n, len(got), err)
		}
		if _, err := g.readHead(from(text[:n-1]), n); err == nil {
			t.Errorf("%d bytes of %d are taken", n-1, n)
		}
	}
	for range longHeads { // strangers, who do not send theirs
		g.long <- struct{}{}
	}
	if _, err := g.readHead(from(text), shortHead+1); !errors.Is(err, ErrBusy) {
		t.Errorf("a long head more than there is room for: %v", err)
	}
	if _, err := g.readHead(from(text), shortHead); err != nil {
		t.Errorf("a short head waits for long ones: %v", err)
	}
}

// TestLongHeadsOfStrangersMakeTheServerBusy: who has the key and finds no room for a
// long head is told so, and not that the secret is another.
func TestLongHeadsOfStrangersMakeTheServerBusy(t *testing.T) {
	guard := NewGuard(GuardConfig{Key: key(t, "s"), Wait: time.Millisecond})
	server := httptest.NewServer(guard.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	defer server.Close()
	for range longHeads { // strangers, who do not send theirs
		guard.long <- struct{}{}
	}
	q, _ := http.NewRequestWithContext(t.Context(), "POST", server.URL, bytes.NewReader(make([]byte, shortHead+1)))
	if _, err := NewTransport(key(t, "s"), http.DefaultTransport, nil).RoundTrip(q); !errors.Is(err, ErrBusy) {
		t.Errorf("a long head more than there is room for: %v", err)
	}
}
