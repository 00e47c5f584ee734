package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
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
