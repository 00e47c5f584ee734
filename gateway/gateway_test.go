package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/gateway/checksum"
	"kintsugi/gateway/sigv4"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

func TestErrorsAreComplete(t *testing.T) {
	for _, e := range sigv4.Errors() {
		if f, known := faultOf(e); !known || f.code != e.Code() {
			t.Errorf("sigv4 %s: %v", e.Code(), f)
		}
	}
	for _, e := range checksum.Errors() {
		if f, known := faultOf(e); !known || f.code != e.Code() {
			t.Errorf("checksum %s: %v", e.Code(), f)
		}
	}
	for _, row := range foreign {
		if f, _ := faultOf(fmt.Errorf("doing: %w", row.err)); f != row.fault {
			t.Errorf("%v: %v", row.err, f)
		}
	}
	if f, known := faultOf(errors.New("secret path")); known || f != errInternal || strings.Contains(f.message, "secret") {
		t.Errorf("unknown: %v", f)
	}
}

// hooked lets a test stand in for one call of the namespace or the blobs.
type hooked struct {
	metadata.Objects
	Blobs
	object func(context.Context, metadata.BucketID, string) (*metadata.Object, error)
	read   func() error
}

func (h *hooked) Object(ctx context.Context, b metadata.BucketID, key string) (*metadata.Object, error) {
	if h.object != nil {
		return h.object(ctx, b, key)
	}
	return h.Objects.Object(ctx, b, key)
}

func (h *hooked) Find(ctx context.Context, bucket, key string) (metadata.Bucket, *metadata.Object, error) {
	b, o, err := h.Objects.Find(ctx, bucket, key)
	if h.object != nil && !errors.Is(err, metadata.ErrNoSuchBucket) {
		o, err = h.object(ctx, b.ID, key)
	}
	return b, o, err
}

func (h *hooked) Read(ctx context.Context, g erasure.Group, b erasure.Blob, off, n int64, w io.Writer) error {
	if h.read != nil {
		if err := h.read(); err != nil {
			return err
		}
	}
	return h.Blobs.Read(ctx, g, b, off, n, w)
}

func hookedSite(t *testing.T, more ...func(*Config)) (*site, *hooked) {
	h := &hooked{}
	s := newSite(t, append([]func(*Config){func(c *Config) {
		h.Objects, h.Blobs = c.Objects, c.Blobs
		c.Objects, c.Blobs = h, h
	}}, more...)...)
	s.bucket("bkt")
	s.put("/bkt/k", "value")
	return s, h
}

func TestPanicIsAnError(t *testing.T) {
	s, h := hookedSite(t)
	h.object = func(context.Context, metadata.BucketID, string) (*metadata.Object, error) { panic("hidden cause") }
	a := s.do(call{method: "GET", target: "/bkt/k"})
	if a.status != 500 || a.code() != "InternalError" || strings.Contains(a.body, "hidden") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if !strings.Contains(s.logs.String(), "hidden cause") || !strings.Contains(s.logs.String(), a.header.Get("X-Amz-Request-Id")) {
		t.Errorf("log: %s", s.logs)
	}
	h.object = func(context.Context, metadata.BucketID, string) (*metadata.Object, error) {
		return nil, errors.New("hidden text")
	}
	if a = s.do(call{method: "GET", target: "/bkt/k"}); a.status != 500 || strings.Contains(a.body, "hidden") || !strings.Contains(s.logs.String(), "hidden text") {
		t.Errorf("%d %s", a.status, a.body)
	}
	h.object = nil
	if a = s.must(call{method: "GET", target: "/bkt/k"}); a.body != "value" {
		t.Errorf("after the panic: %q", a.body)
	}
}

// TestReplacedWhileRead: the bytes of an object go because it was overwritten
// between look-up and read.
func TestReplacedWhileRead(t *testing.T) {
	s, h := hookedSite(t)
	var once sync.Once
	h.read = func() (err error) {
		once.Do(func() {
			s.put("/bkt/k", "newer value")
			err = fmt.Errorf("read: %w", stripe.ErrUnreadable)
		})
		return err
	}
	if a := s.must(call{method: "GET", target: "/bkt/k"}); a.body != "newer value" || a.header.Get("Content-Length") != "11" {
		t.Errorf("%q %v", a.body, a.header)
	}
	once = sync.Once{}
	h.read = func() (err error) {
		once.Do(func() {
			s.must(call{method: "DELETE", target: "/bkt/k"})
			err = storagenode.ErrNotFound
		})
		return err
	}
	if a := s.do(call{method: "GET", target: "/bkt/k"}); a.code() != "NoSuchKey" {
		t.Errorf("%d %s", a.status, a.body)
	}
	s.put("/bkt/k", "x")
	h.read = func() error { return stripe.ErrUnreadable }
	if a := s.do(call{method: "GET", target: "/bkt/k"}); a.status != 503 {
		t.Errorf("unreadable is not absent: %d %s", a.status, a.body)
	}
	// The operator is told why, of an outage, not of each request.
	for range 49 {
		s.do(call{method: "GET", target: "/bkt/k"})
	}
	if n := strings.Count(s.logs.String(), stripe.ErrUnreadable.Error()); n == 0 || n > 40 {
		t.Errorf("%d lines about 50 unreadable answers:\n%s", n, s.logs)
	}
}

func TestOverload(t *testing.T) {
	hold, held := make(chan struct{}), make(chan struct{}, 10)
	s, h := hookedSite(t, func(c *Config) { c.MaxRequests = 2 })
	h.read = func() error {
		held <- struct{}{}
		<-hold
		return nil
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { s.do(call{method: "GET", target: "/bkt/k"}) })
		<-held
	}
	a := s.do(call{method: "GET", target: "/bkt/k"})
	if a.status != 503 || a.code() != "SlowDown" || a.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	close(hold)
	wg.Wait()
	if a = s.must(call{method: "GET", target: "/bkt/k"}); a.body != "value" {
		t.Errorf("after: %d", a.status)
	}
}

// crowdedBlobs say whether somebody waits for memory.
type crowdedBlobs struct {
	Blobs
	crowded atomic.Bool
}

func (b *crowdedBlobs) Crowded() bool { return b.crowded.Load() }

// TestSlowClients: who sends nothing, or takes nothing, is cut off.
func TestSlowClients(t *testing.T) {
	var blobs *crowdedBlobs
	s := newSite(t, func(c *Config) {
		blobs = &crowdedBlobs{Blobs: c.Blobs}
		c.Blobs, c.BodyTimeout = blobs, time.Second
	})
	s.bucket("bkt")
	s.put("/bkt/large", random(24<<20, 1))
	dial := func(raw string) net.Conn {
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, raw)
		return conn
	}
	conn := dial(call{method: "PUT", target: "/bkt/k", body: "part", length: 100}.raw(s.address))
	text, err := io.ReadAll(conn)
	if err != nil || !bytes.Contains(text, []byte("<Code>RequestTimeout</Code>")) {
		t.Errorf("%v: %s", err, text)
	}
	// Nobody signed it, so nobody reads its body.
	for _, key := range []string{"k", strings.Repeat("k", 1024)} { // a long answer is sent at once
		conn = dial("PUT /bkt/" + key + " HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\npart")
		text, err = io.ReadAll(conn)
		if err != nil || !bytes.Contains(text, []byte("<Code>AccessDenied</Code>")) {
			t.Errorf("%v: %s", err, text)
		}
	}
	for _, crowded := range []bool{true, false} {
		blobs.crowded.Store(crowded)
		conn = dial(strings.Replace(call{method: "GET", target: "/bkt/large"}.raw(s.address), "\r\n", "\r\nConnection: close\r\n", 1))
		time.Sleep(3 * time.Second)
		got, err := io.ReadAll(conn)
		if whole := err == nil && len(got) >= 24<<20; whole == crowded {
			t.Errorf("took nothing for long, others wait for memory: %v, and got %d bytes, %v", crowded, len(got), err)
		}
	}
	// Slow, but not idle: no bound on the whole.
	raw := call{method: "PUT", target: "/bkt/slow", body: "12345678"}.raw(s.address)
	conn = dial(raw[:len(raw)-8])
	for i := range 8 {
		time.Sleep(150 * time.Millisecond)
		_, _ = io.WriteString(conn, raw[len(raw)-8+i:len(raw)-7+i])
	}
	head := make([]byte, 15)
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 200 OK" {
		t.Errorf("%v: %s", err, head)
	}
}

// TestStalledOverTLS: a client that takes nothing for a while gets the same time
// where the connection is encrypted.
func TestStalledOverTLS(t *testing.T) {
	var blobs *crowdedBlobs
	s := newSite(t, func(c *Config) {
		blobs = &crowdedBlobs{Blobs: c.Blobs}
		c.Blobs, c.BodyTimeout = blobs, 400*time.Millisecond
	})
	s.bucket("bkt")
	s.put("/bkt/large", random(24<<20, 1))
	secure := httptest.NewUnstartedServer(s.server.Handler)
	Configure(secure.Config)
	secure.StartTLS()
	defer secure.Close()
	address := secure.Listener.Addr().String()
	for _, crowded := range []bool{true, false} {
		blobs.crowded.Store(crowded)
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, strings.Replace(call{method: "GET", target: "/bkt/large"}.raw(address), "\r\n", "\r\nConnection: close\r\n", 1))
		time.Sleep(1200 * time.Millisecond)
		got, err := io.ReadAll(conn)
		if whole := err == nil && len(got) >= 24<<20; whole == crowded {
			t.Errorf("took nothing for long, others wait for memory: %v, and got %d bytes, %v", crowded, len(got), err)
		}
		_ = conn.Close()
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := newSite(t, func(c *Config) { c.Registerer = reg })
	s.bucket("bkt")
	s.put("/bkt/k", "value")
	s.must(call{method: "GET", target: "/bkt/k"})
	s.do(call{method: "GET", target: "/bkt/missing"})
	s.do(call{method: "PATCH", target: "/bkt/missing"})
	gathered := func() string {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, f := range families {
			text.WriteString(f.String() + "\n")
		}
		return text.String()
	}
	for _, want := range []string{"GetObject", "PutObject", "CreateBucket", "Unknown", `"404"`, `"405"`, "kintsugi_s3_received_bytes_total", "kintsugi_s3_requests_in_flight"} {
		// The last request is counted behind its answer.
		until(t, want+" among the metrics", func() bool { return strings.Contains(gathered(), want) })
	}
}

func TestNoGoroutineStays(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.put("/bkt/large", random(20<<20, 1))
	time.Sleep(50 * time.Millisecond)
	before := runtime.NumGoroutine()
	for range 20 {
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, call{method: "GET", target: "/bkt/large"}.raw(s.address))
		_, _ = io.ReadFull(conn, make([]byte, 1000))
		_ = conn.Close()
		conn, err = net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, call{method: "PUT", target: "/bkt/copy", header: headers("x-amz-copy-source", "/bkt/large")}.raw(s.address))
		_ = conn.Close()
	}
	s.do(call{method: "PUT", target: "/bkt/k", body: "x", header: headers("Content-MD5", md5Header("y"))})
	settled(t, before+2)
}

func TestVirtualHost(t *testing.T) {
	s := newSite(t)
	s.must(call{method: "PUT", target: "/", host: "bkt.s3.test"})
	s.must(call{method: "PUT", target: "/a/b", host: "BKT.S3.test:9000", body: "x"})
	if a := s.must(call{method: "GET", target: "/bkt/a/b", host: "s3.test"}); a.body != "x" {
		t.Errorf("%q", a.body)
	}
	if a := s.must(call{method: "GET", target: "/?list-type=2", host: "bkt.s3.test"}); between(a.body, "<Key>", "<") != "a/b" {
		t.Errorf("%s", a.body)
	}
	if a := s.must(call{method: "GET", target: "/", host: "s3.test"}); between(a.body, "<Name>", "<") != "bkt" || between(a.body, "<CreationDate>", "<") == "" {
		t.Errorf("%s", a.body)
	}
	if a := s.do(call{method: "GET", target: "/a/b", host: "other.bkt.s3.test"}); a.status != 404 && a.status != 400 {
		t.Errorf("bucket with a dot: %d", a.status)
	}
}

func TestBuckets(t *testing.T) {
	s := newSite(t)
	for i := range 5 {
		s.bucket(fmt.Sprintf("bkt%d", i))
	}
	a := s.must(call{method: "GET", target: "/?max-buckets=2&prefix=bkt"})
	names := elements(a.body, "Name")
	a = s.must(call{method: "GET", target: "/?max-buckets=10&continuation-token=" + between(a.body, "<ContinuationToken>", "<")})
	if names = append(names, elements(a.body, "Name")...); strings.Join(names, " ") != "bkt0 bkt1 bkt2 bkt3 bkt4" {
		t.Errorf("%q", names)
	}
	for region, want := range map[string]int{"us-east-1": 5, "eu-west-1": 0} {
		if a = s.must(call{method: "GET", target: "/?bucket-region=" + region}); len(elements(a.body, "Name")) != want {
			t.Errorf("buckets of %s: %s", region, a.body)
		}
	}
	s.must(call{method: "PUT", target: "/located", body: "<CreateBucketConfiguration><LocationConstraint>us-east-1</LocationConstraint></CreateBucketConfiguration>"})
	if a = s.must(call{method: "GET", target: "/located?location"}); !strings.Contains(a.body, "/\"></LocationConstraint>") {
		t.Errorf("%s", a.body)
	}
	if a = s.must(call{method: "HEAD", target: "/located"}); a.header.Get("X-Amz-Bucket-Region") != "us-east-1" {
		t.Errorf("%v", a.header)
	}
	for _, q := range []string{"versioning", "acl", "notification", "logging", "accelerate", "requestPayment", "ownershipControls"} {
		s.must(call{method: "GET", target: "/located?" + q})
	}
	s.put("/located/k", "x")
	for _, q := range []string{"acl", "tagging"} {
		s.must(call{method: "GET", target: "/located/k?" + q})
	}
	owner := between(s.must(call{method: "GET", target: "/"}).body, "<ID>", "<")
	s.must(call{method: "GET", target: "/located/k", header: headers("x-amz-expected-bucket-owner", owner)})
	s.must(call{method: "DELETE", target: "/located/k"})
	s.must(call{method: "DELETE", target: "/located"})
	if a = s.do(call{method: "HEAD", target: "/located"}); a.status != http.StatusNotFound {
		t.Errorf("%d", a.status)
	}
	s.clean()
}

func TestDeletedNotice(t *testing.T) {
	var calls atomic.Int64
	s := newSite(t, func(c *Config) { c.Deleted = func() { calls.Add(1) } })
	s.bucket("bkt")
	start := time.Now()
	for i := range 30 {
		s.put(fmt.Sprintf("/bkt/k%d", i%3), "x")
	}
	until(t, "a notice", func() bool { return calls.Load() > 0 })
	time.Sleep(3 * deletedDelay) // for those that come too often
	n := calls.Load()
	if n > int64(time.Since(start)/deletedDelay)+1 {
		t.Errorf("%d notices for 30 writes", n)
	}
	s.must(call{method: "DELETE", target: "/bkt/k0"})
	until(t, "a notice of the delete", func() bool { return calls.Load() > n })
}
