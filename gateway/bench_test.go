package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"kintsugi/gateway/sigv4"
	"kintsugi/metadata"
)

// quiet is a ResponseWriter that keeps nothing.
type quiet struct{ h http.Header }

func (q *quiet) Header() http.Header         { return q.h }
func (q *quiet) WriteHeader(int)             {}
func (q *quiet) Write(p []byte) (int, error) { return len(p), nil }

func benchRequest(method, target string, body string) *http.Request {
	u, _ := url.ParseRequestURI(target)
	r := &http.Request{Method: method, URL: u, Host: "h", Header: http.Header{}, ContentLength: int64(len(body)), Proto: "HTTP/1.1"}
	sigv4.Sign(r, testKey, testSecret, testRegion, "s3", time.Now(), sigv4.UnsignedPayload)
	r.Header["Content-Length"] = []string{fmt.Sprint(len(body))}
	return r
}

// BenchmarkHandler measures requests without HTTP: all of the gateway, the
// catalog and the blobs in memory.
func BenchmarkHandler(b *testing.B) {
	s := newSite(b)
	s.bucket("bkt")
	body := random(4096, 1)
	s.put("/bkt/k", body)
	for i := range 1000 {
		s.put(fmt.Sprintf("/bkt/some/usual/key/%06d.txt", i), "")
	}
	for _, c := range []struct{ name, method, target, body string }{
		{"GET 4KiB", "GET", "/bkt/k", ""}, {"HEAD", "HEAD", "/bkt/k", ""}, {"PUT 4KiB", "PUT", "/bkt/p", body},
		{"LIST 1000", "GET", "/bkt?list-type=2&prefix=some%2F", ""}, {"GET missing", "GET", "/bkt/missing", ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := benchRequest(c.method, c.target, c.body)
			w := &quiet{h: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				r.Body = http.NoBody
				if c.body != "" {
					r.Body = io.NopCloser(strings.NewReader(c.body))
				}
				clear(w.h)
				s.server.Handler.ServeHTTP(w, r)
			}
		})
	}
}

// still gives the same page, so that only the writing is measured.
type still struct {
	metadata.Objects
	page   metadata.ListPage
	object *metadata.Object
}

func (s *still) ListObjects(context.Context, metadata.BucketID, metadata.ListQuery) (metadata.ListPage, error) {
	return s.page, nil
}

func (s *still) Object(context.Context, metadata.BucketID, string) (*metadata.Object, error) {
	return s.object, nil
}

func (s *still) Find(context.Context, string, string) (metadata.Bucket, *metadata.Object, error) {
	return metadata.Bucket{}, s.object, nil
}

func BenchmarkWritePage(b *testing.B) {
	st := &still{}
	for i := range 1000 {
		st.page.Objects = append(st.page.Objects, metadata.Object{Key: fmt.Sprintf("some/usual/key/%06d.txt", i), Size: int64(i), ETag: strings.Repeat("a", 32), Modified: time.Now()})
	}
	s := newSite(b, func(c *Config) { st.Objects, c.Objects = c.Objects, st })
	s.bucket("bkt")
	r := benchRequest("GET", "/bkt?list-type=2", "")
	w := &quiet{h: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		s.server.Handler.ServeHTTP(w, r)
	}
}

// BenchmarkOverhead measures the gateway alone: routing, signature, headers.
func BenchmarkOverhead(b *testing.B) {
	st := &still{object: &metadata.Object{Key: "k", Size: 4096, ETag: strings.Repeat("a", 32), Modified: time.Now(), Fields: []metadata.Field{{Name: "content-type", Value: "text/plain"}}}}
	s := newSite(b, func(c *Config) { st.Objects, c.Objects = c.Objects, st })
	s.bucket("bkt")
	r := benchRequest("HEAD", "/bkt/k", "")
	w := &quiet{h: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		s.server.Handler.ServeHTTP(w, r)
	}
}

// BenchmarkSocket measures GET over a loopback socket, client included, with
// and without Configure and Listen's one packet.
func BenchmarkSocket(b *testing.B) {
	for _, corked := range []bool{false, true} {
		b.Run(fmt.Sprint("corked ", corked), func(b *testing.B) {
			s := newSite(b)
			if !corked {
				s.server.ConnContext = nil
			}
			s.bucket("bkt")
			s.put("/bkt/k", random(4096, 1))
			raw := []byte(call{method: "GET", target: "/bkt/k"}.raw(s.address))
			conn, err := net.Dial("tcp", s.address)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			r := bufio.NewReaderSize(conn, 16<<10)
			var before, after syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			n := 0
			for b.Loop() {
				n++
				if _, err := conn.Write(raw); err != nil {
					b.Fatal(err)
				}
				res, err := http.ReadResponse(r, nil)
				if err != nil {
					b.Fatal(err)
				}
				if got, err := io.Copy(io.Discard, res.Body); err != nil || got != 4096 {
					b.Fatal(got, err)
				}
			}
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/float64(n), "cpu-ns/op")
		})
	}
}
