package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/gateway/sigv4"
	"kintsugi/metadata/catalog"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

const (
	testKey    = "testkey"
	testSecret = "testsecret"
	testRegion = "us-east-1"
)

// drives are six in memory whose states a test sets.
type drives struct {
	mu     sync.Mutex
	ids    []storagenode.DriveID
	stores []*storetest.Memory
	states []storagenode.DriveState
}

func newDrives(n int) *drives {
	d := &drives{}
	for range n {
		d.ids = append(d.ids, storagenode.NewUUID())
		d.stores = append(d.stores, storetest.NewMemory())
		d.states = append(d.states, storagenode.DriveActive)
	}
	return d
}

func (d *drives) Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.ids {
		if d.ids[i] == id {
			if d.states[i] == storagenode.DriveDown {
				return nil, storagenode.DriveDown
			}
			return d.stores[i], d.states[i]
		}
	}
	return nil, storagenode.DriveDown
}

func (d *drives) Reports() []storagenode.DriveReport {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []storagenode.DriveReport
	for i := range d.ids {
		list = append(list, storagenode.DriveReport{ID: d.ids[i], Node: "n", Dir: strconv.Itoa(i), State: d.states[i], Space: d.stores[i].Space(), Heard: time.Now()})
	}
	return list
}

func (d *drives) set(state storagenode.DriveState, which ...int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, i := range which {
		d.states[i] = state
	}
}

// site is a gateway on a loopback socket, over a real catalog and real blobs.
type site struct {
	t       testing.TB
	drives  *drives
	catalog *catalog.Catalog
	address string
	server  *http.Server
	logs    *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newSite(t testing.TB, change ...func(*Config)) *site {
	t.Helper()
	s := &site{t: t, drives: newDrives(6), logs: &syncBuffer{}}
	store := memory.New()
	var err error
	s.catalog, err = catalog.Open(context.Background(), catalog.Config{KV: store, Drives: s.drives, Scheme: erasure.Scheme{K: 4, M: 2}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Buckets: s.catalog, Objects: s.catalog, Uploads: s.catalog, Placement: s.catalog,
		Blobs: stripe.New(stripe.Config{Drives: s.drives}),
		Verifier: sigv4.New(sigv4.Config{Region: testRegion, Lookup: func(k string) (string, bool) {
			return testSecret, k == testKey
		}}),
		Domains:    []string{"s3.test"},
		Logger:     slog.New(slog.NewTextHandler(s.logs, nil)),
		Registerer: prometheus.NewRegistry(),
	}
	for _, f := range change {
		f(&cfg)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.server = &http.Server{Handler: New(cfg), ErrorLog: slog.NewLogLogger(slog.NewTextHandler(s.logs, nil), slog.LevelError)}
	Configure(s.server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.server.Serve(Listen(l))
	}()
	t.Cleanup(func() {
		_ = s.server.Close()
		<-done
		_ = store.Close()
	})
	return s
}

// call is a request as a test describes it.
type call struct {
	method, target string // target is the request line's, as it is sent
	header         map[string]string
	body           string
	host           string
	payload        string // x-amz-content-sha256; "" is UNSIGNED-PAYLOAD

	anonymous bool
	noLength  bool // send neither Content-Length nor Transfer-Encoding
	chunked   bool // send HTTP chunks
	length    int  // announce this instead, when above 0
	key       string
	at        time.Duration // sign for this much later
	mangle    func(raw string) string
	presign   time.Duration
}

type answer struct {
	status int
	header http.Header
	body   string
	closed bool // the connection is to be closed
}

// code is the code of an error's document.
func (a answer) code() string {
	var e struct{ Code string }
	_ = xml.Unmarshal([]byte(a.body), &e)
	return e.Code
}

// raw renders the request, signed.
func (c call) raw(address string) string {
	host := c.host
	if host == "" {
		host = address
	}
	u, err := url.ParseRequestURI(c.target)
	if err != nil {
		u = &url.URL{Path: "/"}
	}
	r := &http.Request{Method: c.method, URL: u, Host: host, Header: http.Header{}}
	for k, v := range c.header {
		r.Header[http.CanonicalHeaderKey(k)] = []string{v}
	}
	access := testKey
	if c.key != "" {
		access = c.key
	}
	target := c.target
	switch {
	case c.presign != 0:
		sigv4.Presign(r, access, testSecret, testRegion, "s3", time.Now().Add(c.at), c.presign)
		path, _, _ := strings.Cut(c.target, "?")
		target = path + "?" + r.URL.RawQuery
	case !c.anonymous:
		payload := c.payload
		if payload == "" {
			payload = sigv4.UnsignedPayload
		}
		sigv4.Sign(r, access, testSecret, testRegion, "s3", time.Now().Add(c.at), payload)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", c.method, target, host)
	for k, v := range r.Header {
		fmt.Fprintf(&b, "%s: %s\r\n", k, v[0])
	}
	body := c.body
	switch {
	case c.chunked:
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	case c.noLength:
		b.WriteString("\r\n")
	case c.length > 0:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", c.length)
	case c.method == "GET" || c.method == "HEAD" || c.method == "DELETE" && body == "":
		b.WriteString("\r\n")
	default:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", len(body))
	}
	b.WriteString(body)
	if c.mangle != nil {
		return c.mangle(b.String())
	}
	return b.String()
}

// do sends one request on a connection of its own.
func (s *site) do(c call) answer {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, c.raw(s.address)); err != nil {
		s.t.Fatal(err)
	}
	if c.length > 0 {
		_ = conn.(*net.TCPConn).CloseWrite()
	}
	return readAnswer(s.t, bufio.NewReader(conn), c.method)
}

func readAnswer(t testing.TB, r *bufio.Reader, method string) answer {
	t.Helper()
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: no answer: %v", method, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: body of the answer: %v", method, err)
	}
	return answer{status: res.StatusCode, header: res.Header, body: string(body), closed: res.Close}
}

// must is do for a request that has to succeed.
func (s *site) must(c call) answer {
	s.t.Helper()
	a := s.do(c)
	if a.status/100 != 2 {
		s.t.Fatalf("%s %s: %d %s", c.method, c.target, a.status, a.body)
	}
	return a
}

func (s *site) bucket(name string) {
	s.t.Helper()
	s.must(call{method: "PUT", target: "/" + name})
}

func (s *site) put(target, body string) answer {
	s.t.Helper()
	return s.must(call{method: "PUT", target: target, body: body})
}

// keys lists a bucket.
func (s *site) keys(bucket string) []string {
	s.t.Helper()
	a := s.must(call{method: "GET", target: "/" + bucket + "?list-type=2&encoding-type=url"})
	var page struct {
		Contents []struct{ Key string }
	}
	if err := xml.Unmarshal([]byte(a.body), &page); err != nil {
		s.t.Fatalf("list: %v in %s", err, a.body)
	}
	var keys []string
	for _, c := range page.Contents {
		k, err := url.PathUnescape(c.Key)
		if err != nil {
			s.t.Fatal(err)
		}
		keys = append(keys, k)
	}
	return keys
}

// clean checks metadata against itself.
func (s *site) clean() {
	s.t.Helper()
	bad, err := s.catalog.Check(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, b := range bad {
		s.t.Errorf("inconsistent: %x %s", b.Key, b.What)
	}
}

// until waits for what is about to be so; a busy machine takes its time.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// settled waits until there are no more goroutines than before.
func settled(t *testing.T, before int) {
	t.Helper()
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}
