package auth

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// testClock stands still until it is set. After fires at once.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *testClock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *testClock) set(t time.Time) {
	c.mu.Lock()
	c.now = t
	c.mu.Unlock()
}
func (c *testClock) After(time.Duration) <-chan time.Time {
	ch := make(chan time.Time, 1)
	ch <- c.Now()
	return ch
}
func (c *testClock) Sleep(ctx context.Context, _ time.Duration) error { return ctx.Err() }

func key(t testing.TB, secret string) *Key {
	t.Helper()
	k, err := NewKey([]byte(strings.Repeat(secret, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// echo answers with what it got, and counts.
type echo struct {
	mu    sync.Mutex
	calls int
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.calls++
	e.mu.Unlock()
	in := r.Body.(*Incoming)
	bulk, err := io.ReadAll(in.Bulk)
	if err != nil || int64(len(bulk)) != in.BulkSize {
		http.Error(w, "bulk", http.StatusBadRequest)
		return
	}
	_ = w.(*Writer).Answer(in.Head, bulk, true)
}

// tap is a RoundTripper that may change what passes.
type tap struct {
	request func(*http.Request)
	answer  func([]byte) []byte
	header  func(http.Header)
	last    *http.Request
	body    []byte
}

func (p *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	p.last, p.body = r, body
	r.Body = io.NopCloser(bytes.NewReader(body))
	if p.request != nil {
		r = r.Clone(r.Context())
		p.request(r)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if p.header != nil {
		p.header(resp.Header)
	}
	if p.answer != nil {
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(p.answer(text)))
	}
	return resp, nil
}

// again sends what was sent last once more, unchanged.
func (p *tap) again(t *testing.T) int {
	t.Helper()
	r := p.last.Clone(t.Context())
	r.Body = io.NopCloser(bytes.NewReader(p.body))
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

type rig struct {
	t      *testing.T
	clock  *testClock // of the server
	echo   echo
	tap    tap
	guard  *Guard
	server *httptest.Server
	client *Transport
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, clock: &testClock{now: time.Now()}}
	r.restart()
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.guard.Wrap(&r.echo).ServeHTTP(w, q)
	}))
	t.Cleanup(r.server.Close)
	r.client = NewTransport(key(t, "s"), &r.tap, nil)
	return r
}

// restart begins another life of the server.
func (r *rig) restart() { r.guard = NewGuard(GuardConfig{Key: key(r.t, "s"), Clock: r.clock}) }

func (r *rig) send(method, head, bulk string) (string, string, error) {
	r.t.Helper()
	q, err := http.NewRequestWithContext(r.t.Context(), method, r.server.URL+"/a/b?c=d", NewBody([]byte(head), []byte(bulk)))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := r.client.RoundTrip(q)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	a := resp.Body.(*Answer)
	payload, raw, err := a.Next()
	if err != nil {
		return "", "", err
	}
	p := make([]byte, raw)
	err = a.Raw(p)
	return string(payload), string(p), err
}

func TestRequestAndAnswer(t *testing.T) {
	r := newRig(t)
	for range 3 {
		head, bulk, err := r.send("POST", "head", "bulk")
		if err != nil || head != "head" || bulk != "bulk" {
			t.Fatalf("%q, %q, %v", head, bulk, err)
		}
	}
	if r.echo.calls != 3 {
		t.Fatalf("%d calls", r.echo.calls)
	}
}

func TestPlainHandlersAndBodies(t *testing.T) {
	text := strings.Repeat("0123456789", 30_000) // several frames
	guard := NewGuard(GuardConfig{Key: key(t, "s")})
	server := httptest.NewServer(guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := io.ReadAll(r.Body)
		if err != nil || string(got) != "question" {
			t.Errorf("%q, %v", got, err)
		}
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, text)
	})))
	defer server.Close()
	client := http.Client{Transport: NewTransport(key(t, "s"), http.DefaultTransport, nil)}
	resp, err := client.Post(server.URL, "", strings.NewReader("question"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != text || resp.StatusCode != http.StatusTeapot {
		t.Fatalf("%d, %d bytes, %v", resp.StatusCode, len(got), err)
	}
}

// TestFlush: a handler that streams is heard while it goes on, and its answer is
// as authentic as any.
func TestFlush(t *testing.T) {
	heard := make(chan struct{})
	guard := NewGuard(GuardConfig{Key: key(t, "s")})
	server := httptest.NewServer(guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c := http.NewResponseController(w)
		if err := c.Flush(); err != nil { // nothing to send yet
			t.Error(err)
		}
		_, _ = io.WriteString(w, "first\n")
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
		<-heard
		_, _ = io.WriteString(w, "second\n")
	})))
	defer server.Close()
	client := http.Client{Transport: NewTransport(key(t, "s"), http.DefaultTransport, nil)}
	resp, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 6)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first\n" {
		t.Fatalf("%q, %v", first, err)
	}
	close(heard)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "second\n" {
		t.Fatalf("%q, %v", rest, err)
	}
}

func TestAnotherSecretIsRefused(t *testing.T) {
	r := newRig(t)
	r.client = NewTransport(key(t, "x"), &r.tap, nil)
	if _, _, err := r.send("POST", "head", ""); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "cluster secret") || r.echo.calls != 0 {
		t.Fatalf("%v after %d calls", err, r.echo.calls)
	}
	if _, err := NewKey(make([]byte, MinSecret-1)); err == nil {
		t.Fatal("a short secret is taken")
	}
}

// TestImpostor: who does not have the secret cannot answer, whatever it says.
func TestImpostor(t *testing.T) {
	impostor := NewGuard(GuardConfig{Key: key(t, "x")})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k, _ := parseTicket(r.Header.Get("Authorization"))
		out := &Writer{w: w, key: impostor.cfg.Key, request: k.mac, server: impostor.life}
		_ = out.Answer([]byte("done"), nil, true)
	}))
	defer server.Close()
	r := newRig(t)
	r.server.URL = server.URL
	if _, _, err := r.send("POST", "head", ""); !errors.Is(err, ErrRefused) {
		t.Fatal(err)
	}
}

// TestNothingSignedCanBeChanged changes each thing a signature covers.
func TestNothingSignedCanBeChanged(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"nothing":   nil,
		"method":    func(r *http.Request) { r.Method = "PUT" },
		"path":      func(r *http.Request) { r.URL.Path = "/a/c" },
		"query":     func(r *http.Request) { r.URL.RawQuery = "c=e" },
		"no query":  func(r *http.Request) { r.URL.RawQuery = "" },
		"head":      func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("hexdbulk")) },
		"more bulk": func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("headbulks")), 9 },
		"less bulk": func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("headbul")), 7 },
		"no ticket": func(r *http.Request) { r.Header.Del("Authorization") },
		"chunked":   func(r *http.Request) { r.ContentLength = -1 },
	} {
		r := newRig(t)
		if _, _, err := r.send("POST", "head", "bulk"); err != nil { // learns the server's life
			t.Fatal(err)
		}
		r.tap.request = change
		_, _, err := r.send("POST", "head", "bulk")
		if change == nil && err != nil || change != nil && (err == nil || r.echo.calls != 1) {
			t.Errorf("%s: %v, %d calls", name, err, r.echo.calls)
		}
	}
}

// TestEveryBitOfATicketCounts flips each bit of the Authorization header.
func TestEveryBitOfATicketCounts(t *testing.T) {
	r := newRig(t)
	if _, _, err := r.send("POST", "head", ""); err != nil {
		t.Fatal(err)
	}
	text := r.tap.last.Header.Get("Authorization")
	for i := range len(text) * 8 {
		bad := []byte(text)
		bad[i/8] ^= 1 << (i % 8)
		q := httptest.NewRequest("POST", "/a/b?c=d", strings.NewReader("head"))
		q.Header.Set("Authorization", string(bad))
		w := httptest.NewRecorder()
		r.guard.Wrap(&r.echo).ServeHTTP(w, q)
		if w.Code != http.StatusUnauthorized {
			t.Fatalf("bit %d: status %d", i, w.Code)
		}
	}
	if r.echo.calls != 1 {
		t.Fatalf("%d calls", r.echo.calls)
	}
}

// TestEveryBitOfAnAnswerCounts flips each bit of an answer, and cuts it short
// at each byte. Raw bytes are not covered: there are none here.
func TestEveryBitOfAnAnswerCounts(t *testing.T) {
	r := newRig(t)
	n := 0
	r.tap.answer = func(text []byte) []byte { n = len(text); return text }
	if _, _, err := r.send("POST", "head", ""); err != nil {
		t.Fatal(err)
	}
	for i := range n * 8 {
		r.tap.answer = func(text []byte) []byte { text[i/8] ^= 1 << (i % 8); return text }
		if head, _, err := r.send("POST", "head", ""); err == nil {
			t.Fatalf("bit %d of an answer flipped: %q passes", i, head)
		}
	}
	for i := range n {
		r.tap.answer = func(text []byte) []byte { return text[:i] }
		if head, _, err := r.send("POST", "head", ""); err == nil {
			t.Fatalf("answer cut to %d bytes: %q passes", i, head)
		}
	}
	r.tap.answer = nil
	r.tap.header = func(h http.Header) { h.Set(serverHeader, hex.EncodeToString(make([]byte, 16))) }
	if _, _, err := r.send("POST", "head", ""); err == nil {
		t.Fatal("another server's name passes")
	}
	// An answer to another question, from the same server.
	var old []byte
	r.tap.header = nil
	r.tap.answer = func(text []byte) []byte { old = bytes.Clone(text); return text }
	if _, _, err := r.send("POST", "head", ""); err != nil {
		t.Fatal(err)
	}
	r.tap.answer = func([]byte) []byte { return old }
	if _, _, err := r.send("POST", "head", ""); !errors.Is(err, ErrRefused) {
		t.Fatalf("an answer to an earlier request passes: %v", err)
	}
}

func TestReplays(t *testing.T) {
	r := newRig(t)
	if _, _, err := r.send("POST", "head", "bulk"); err != nil {
		t.Fatal(err)
	}
	calls := r.echo.calls
	for range 3 {
		if code := r.tap.again(t); code != http.StatusForbidden {
			t.Fatalf("a replay is answered %d", code)
		}
	}
	r.restart() // what was seen is forgotten, and what was sent is void
	if code := r.tap.again(t); code != http.StatusForbidden {
		t.Fatalf("a replay to the next life is answered %d", code)
	}
	if r.echo.calls != calls {
		t.Fatalf("%d calls, want %d", r.echo.calls, calls)
	}
	if _, _, err := r.send("POST", "head", "bulk"); err != nil { // goes on by itself
		t.Fatal(err)
	}
	if _, _, err := r.send("GET", "", ""); err != nil {
		t.Fatal(err)
	}
	if code := r.tap.again(t); code != http.StatusForbidden {
		t.Fatalf("a replayed GET is answered %d", code)
	}
}

func TestSkew(t *testing.T) {
	for apart, ok := range map[time.Duration]bool{
		0: true, time.Hour: true, -time.Hour: true, MaxSkew - time.Minute: true,
		MaxSkew + time.Minute: false, -MaxSkew - time.Minute: false, 1000 * time.Hour: false,
	} {
		r := newRig(t)
		r.clock.set(time.Now().Add(apart))
		_, _, err := r.send("POST", "head", "")
		if ok && err != nil || !ok && !errors.Is(err, ErrRefused) {
			t.Errorf("clocks %s apart: %v", apart, err)
		}
		if !ok && !strings.Contains(err.Error(), "clocks") {
			t.Errorf("the error does not say why: %v", err)
		}
	}
}

func TestBusy(t *testing.T) {
	inside, release := make(chan bool), make(chan bool)
	guard := NewGuard(GuardConfig{Key: key(t, "s"), Requests: 1, Wait: time.Millisecond})
	server := httptest.NewServer(guard.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		inside <- true
		<-release
	})))
	defer server.Close()
	client := NewTransport(key(t, "s"), http.DefaultTransport, nil)
	get := func() error {
		q, _ := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
		resp, err := client.RoundTrip(q)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	first := make(chan error)
	go func() { first <- get() }()
	<-inside
	if err := get(); !errors.Is(err, ErrBusy) {
		t.Errorf("a second request: %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// TestRelease: once Release returned, a transport that still sends does not
// see what the caller does with the buffer.
func TestRelease(t *testing.T) {
	bulk := bytes.Repeat([]byte("a"), 1<<20)
	b := NewBody([]byte("head"), bulk)
	r := &reading{b: b}
	p := make([]byte, 1000)
	if n, err := r.Read(p); err != nil || !strings.HasPrefix(string(p[:n]), "headaaaa") {
		t.Fatal(n, err)
	}
	b.Release()
	if n, err := r.Read(p); n != 0 || !errors.Is(err, errReleased) {
		t.Fatal(n, err)
	}
}

func TestGolden(t *testing.T) {
	k := key(t, "s")
	q := httptest.NewRequest("POST", "/v1/x?y=z", nil)
	tk := ticket{sender: life{1, 15: 2}, counter: 0x0102030405060708, timeMS: 1_700_000_000_123, server: life{3, 15: 4}, head: 4}
	tk.mac = tk.sign(k, q, 8, []byte("head"))
	rec := httptest.NewRecorder()
	w := &Writer{w: rec, key: k, request: tk.mac, server: life{3, 15: 4}}
	for i, last := range []bool{false, true} {
		if err := w.Answer([]byte("payload"), []byte("raw")[:3*i], last); err != nil {
			t.Fatal(err)
		}
	}
	for name, got := range map[string][]byte{"request.hex": []byte(tk.header()), "answer.hex": rec.Body.Bytes()} {
		path := filepath.Join("testdata", name)
		text := []byte(hex.Dump(got))
		if *update {
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, want) {
			t.Errorf("%s: the format on the wire changed:\n%s", name, text)
		}
	}
	if back, ok := parseTicket(tk.header()); !ok || back != tk {
		t.Errorf("read back: %+v", back)
	}
}

func FuzzTicket(f *testing.F) {
	f.Add((&ticket{counter: 7, head: 9}).header())
	f.Add("Kintsugi1 ")
	f.Fuzz(func(t *testing.T, s string) {
		if k, ok := parseTicket(s); ok && k.header() != s {
			t.Fatalf("%q is read as %q", s, k.header())
		}
	})
}

// FuzzAnswer: whatever comes, what was not signed does not pass.
func FuzzAnswer(f *testing.F) {
	k := key(f, "s")
	rec := httptest.NewRecorder()
	w := &Writer{w: rec, key: k}
	_ = w.Answer([]byte("one"), []byte("raw"), false)
	_ = w.Answer([]byte("two"), nil, true)
	good := rec.Body.Bytes()
	f.Add(good)
	f.Add(good[:20])
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, text []byte) {
		a := &Answer{body: io.NopCloser(bytes.NewReader(text)), key: k, status: 200}
		for i := 0; ; i++ {
			payload, raw, err := a.Next()
			if err == io.EOF && i != 2 {
				t.Fatalf("a complete answer of %d frames", i)
			}
			if err != nil {
				return
			}
			if want := []string{"one", "two"}[i]; string(payload) != want {
				t.Fatalf("frame %d: %q", i, payload)
			}
			if a.Raw(make([]byte, raw)) != nil {
				return
			}
		}
	})
}
