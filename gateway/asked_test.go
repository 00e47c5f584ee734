package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRefusedOperationIsNamed: many programs show nothing but the text of an answer,
// and somebody has to find out what they called that is not built.
func TestRefusedOperationIsNamed(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.put("/bkt/k", "x")
	for _, c := range []struct {
		call call
		name string
	}{
		{call{method: "PUT", target: "/bkt?policy", body: "{}"}, "PUT with ?policy"},
		{call{method: "PUT", target: "/bkt?x-id=a&versioning=", body: "x"}, "PUT with ?versioning"},
		{call{method: "GET", target: "/bkt/k?torrent"}, "GET with ?torrent"},
		{call{method: "PUT", target: "/bkt/k?%74agging", body: "x"}, "PUT with ?tagging"},
		{call{method: "POST", target: "/bkt/k?select&select-type=2", body: "x"}, "POST with ?select"},
		{call{method: "POST", target: "/bkt", body: "x"}, "PostObject"},
		{call{method: "POST", target: "/bkt", body: "x", anonymous: true}, "PostObject"},
		{call{method: "PUT", target: "/new", body: "<CreateBucketConfiguration><Tags><Tag><Key>a</Key><Value>b</Value></Tag></Tags></CreateBucketConfiguration>"}, "tags"},
		{call{method: "PUT", target: "/new", body: "<CreateBucketConfiguration><Bucket><Type>Directory</Type></Bucket></CreateBucketConfiguration>"}, "type"},
	} {
		a := s.do(c.call)
		text := between(a.body, "<Message>", "</Message>")
		if a.code() != "NotImplemented" || !strings.Contains(text, ": ") || !strings.HasSuffix(text, c.name) {
			t.Errorf("%s %s: %d %q, want it to name %q", c.call.method, c.call.target, a.status, text, c.name)
		}
	}
}

// TestPresignedParametersMustBeHeaders: what no header can hold cannot be given back in
// one. Clients refuse such an answer, so that the object could not be read any more, or
// it went without.
func TestPresignedParametersMustBeHeaders(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	for _, query := range []string{
		"x-amz-meta-a=%00", "x-amz-meta-a=b%0D%0AX-Evil:1", "x-amz-meta-a=%7F", "x-amz-meta-a%20b=c", "x-amz-meta-a%0D%0AX-Evil=c",
		"x-amz-meta-%C3%BC=c",
	} {
		if a := s.do(call{method: "PUT", target: "/bkt/k?" + query, body: "x", presign: time.Minute}); a.code() != "InvalidArgument" {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
	s.must(call{method: "PUT", target: "/bkt/k?x-amz-meta-a=%C3%BC%09b&x-amz-meta-_b~.c=d", body: "x", presign: time.Minute})
	a := s.must(call{method: "GET", target: "/bkt/k?response-content-disposition=a%01b%7Fc%0Ad%09e%C3%BC", presign: time.Minute})
	if got := a.header.Get("Content-Disposition"); got != "a b c d\teü" || a.header.Get("X-Amz-Meta-_b~.c") != "d" {
		t.Errorf("%q, %v", got, a.header)
	}
}

// TestConditionsOverLines: a list of tags may be split over several lines of a header
// (RFC 9110, 5.3).
func TestConditionsOverLines(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	etag := s.put("/bkt/k", "x").header.Get("Etag")
	for _, c := range []struct {
		name   string
		status int
	}{
		{"If-Match", http.StatusOK}, {"If-None-Match", http.StatusNotModified},
	} {
		if a := s.do(call{method: "GET", target: "/bkt/k", header: headers(c.name, "\"x\"\r\n"+c.name+": "+etag)}); a.status != c.status {
			t.Errorf("%s: %d", c.name, a.status)
		}
	}
}
