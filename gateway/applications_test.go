package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestListedTimes: a listing has the time that a look at the object has. The
// AWS CLI gives it to the files it makes, and with sync --exact-timestamps
// fetches all again that are not of the very same time.
func TestListedTimes(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.put("/bkt/k", "x")
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1300 * time.Millisecond)))
	copied := s.must(call{method: "PUT", target: "/bkt/k", header: headers("x-amz-copy-source", "/bkt/k", "x-amz-metadata-directive", "REPLACE")})
	modified, err := http.ParseTime(s.must(call{method: "HEAD", target: "/bkt/k"}).header.Get("Last-Modified"))
	if err != nil {
		t.Fatal(err)
	}
	want := modified.Format("2006-01-02T15:04:05.000Z")
	if got := between(copied.body, "<LastModified>", "<"); got != want {
		t.Errorf("copied at %s, want %s", got, want)
	}
	for _, q := range []string{"", "?list-type=2", "?versions"} {
		if got := between(s.must(call{method: "GET", target: "/bkt" + q}).body, "<LastModified>", "<"); got != want {
			t.Errorf("listed %q: %s, want %s", q, got, want)
		}
	}
}

// TestPresignedChecksum: a URL for an upload that JavaScript's SDK has signed
// names the checksum of no bytes, for it had none. S3 takes any bytes by it, and
// only what the upload's own headers say is held against them.
func TestPresignedChecksum(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	const query = "x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32"
	s.must(call{method: "PUT", target: "/bkt/k?x-id=PutObject&" + query, body: "hello", presign: time.Minute})
	if a := s.must(call{method: "GET", target: "/bkt/k", header: headers("x-amz-checksum-mode", "ENABLED")}); a.body != "hello" || a.header.Get("X-Amz-Checksum-Crc32") != "" {
		t.Errorf("%q %v", a.body, a.header)
	}
	upload := s.beginUpload("/bkt/up", nil)
	s.must(call{method: "PUT", target: "/bkt/up?partNumber=1&uploadId=" + upload + "&" + query, body: "hello", presign: time.Minute})
	a := s.do(call{method: "PUT", target: "/bkt/k", body: "other", presign: time.Minute, header: headers("x-amz-checksum-crc32", "AAAAAA==")})
	if a.code() != "BadDigest" || s.must(call{method: "GET", target: "/bkt/k"}).body != "hello" {
		t.Errorf("%d %s", a.status, strings.TrimSpace(a.body))
	}
}

// TestCopySourceEncodings: the source of a copy comes percent-encoded, or like a
// form's field, as Java's URLEncoder writes it: with + for a space and %2F for a
// slash. S3 reads both, so a + that is part of a key has to come as %2B.
func TestCopySourceEncodings(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.put("/bkt/a%20b/c", "space")
	s.put("/bkt/a%2Bb/c", "plus")
	upload := s.beginUpload("/bkt/up", nil)
	for source, want := range map[string]string{
		"bkt/a%20b/c": "space", "bkt%2Fa+b%2Fc": "space", "/bkt/a+b/c?versionId=null": "space", "bkt/a b/c": "space",
		"bkt/a%2Bb/c": "plus", "bkt%2Fa%2Bb%2Fc": "plus",
	} {
		s.must(call{method: "PUT", target: "/bkt/copy", header: headers("x-amz-copy-source", source)})
		if got := s.must(call{method: "GET", target: "/bkt/copy"}).body; got != want {
			t.Errorf("%s: %q, want %q", source, got, want)
		}
		s.must(call{method: "PUT", target: "/bkt/up?partNumber=1&uploadId=" + upload, header: headers("x-amz-copy-source", source)})
		if got := elements(s.must(call{method: "GET", target: "/bkt/up?uploadId=" + upload}).body, "Size"); len(got) != 1 || got[0] != fmt.Sprint(len(want)) {
			t.Errorf("%s as a part: %q, want %d bytes", source, got, len(want))
		}
	}
}

// TestRegionIsTold: SDKs that have signed for another region, or ask for a
// bucket's by a HeadBucket without a signature, take it from a header, for the
// answer to a HEAD has no document.
func TestRegionIsTold(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.put("/bkt/k", "x")
	elsewhere := func(raw string) string { return strings.Replace(raw, "/"+testRegion+"/s3/", "/eu-west-1/s3/", 1) }
	for name, c := range map[string]struct {
		call   call
		status int
		region string
	}{
		"HeadBucket elsewhere":            {call{method: "HEAD", target: "/bkt", mangle: elsewhere}, 400, testRegion},
		"HeadObject elsewhere":            {call{method: "HEAD", target: "/bkt/k", mangle: elsewhere}, 400, testRegion},
		"GetObject elsewhere":             {call{method: "GET", target: "/bkt/k", mangle: elsewhere}, 400, testRegion},
		"HeadBucket of nobody":            {call{method: "HEAD", target: "/bkt", anonymous: true}, 403, testRegion},
		"HeadBucket of nobody, no bucket": {call{method: "HEAD", target: "/none", anonymous: true}, 403, testRegion},
		"HeadObject of nobody":            {call{method: "HEAD", target: "/bkt/k", anonymous: true}, 403, ""},
		"ListBuckets elsewhere":           {call{method: "GET", target: "/", mangle: elsewhere}, 400, ""},
	} {
		if a := s.do(c.call); a.status != c.status || a.header.Get("X-Amz-Bucket-Region") != c.region {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
	}
}

// TestVersionsAreNotWritten: a write that names a version replaces nothing.
func TestVersionsAreNotWritten(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.put("/bkt/k", "kept")
	upload := s.beginUpload("/bkt/k", nil)
	etag := s.put("/bkt/k?partNumber=1&uploadId="+upload, "part").header.Get("Etag")
	for name, c := range map[string]call{
		"put":      {method: "PUT", target: "/bkt/k?versionId=null", body: "x"},
		"other":    {method: "PUT", target: "/bkt/k?versionId=abc", body: "x"},
		"copy":     {method: "PUT", target: "/bkt/k?versionId=null", header: headers("x-amz-copy-source", "/bkt/k", "x-amz-metadata-directive", "REPLACE")},
		"complete": {method: "POST", target: "/bkt/k?versionId=null&uploadId=" + upload, body: listOf(nothing, etag)},
	} {
		if a := s.do(c); a.status != http.StatusBadRequest || a.code() != "InvalidArgument" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if a := s.must(call{method: "GET", target: "/bkt/k"}); a.body != "kept" {
			t.Errorf("%s: %q", name, a.body)
		}
	}
}

// TestNoTags: clients that write a list of tags, whatever is in it, send an empty
// header where there is none. That asks for nothing that is not done.
func TestNoTags(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.must(call{method: "PUT", target: "/bkt/k", body: "x", header: headers("x-amz-tagging", "")})
	s.must(call{method: "PUT", target: "/bkt/copy", header: headers("x-amz-copy-source", "/bkt/k", "x-amz-tagging", "", "x-amz-tagging-directive", "REPLACE")})
	s.beginUpload("/bkt/up", headers("x-amz-tagging", ""))
	if a := s.do(call{method: "PUT", target: "/bkt/k", body: "y", header: headers("x-amz-tagging", "a=b")}); a.status != http.StatusNotImplemented {
		t.Errorf("a tag: %d %s", a.status, a.body)
	}
}

// TestSpellingOfETag: names of headers have no case, but clients that compare
// bytes look for ETag, as S3 writes it: Java's SDK 1.7, with which Hadoop 2.7
// and the Sparks built on it store, finds no ETag of what it sent otherwise.
func TestSpellingOfETag(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.put("/bkt/k", "x")
	upload := s.beginUpload("/bkt/up", nil)
	part := "/bkt/up?partNumber=1&uploadId=" + upload
	large := random(100<<10, 5)
	for _, c := range []call{
		{method: "PUT", target: "/bkt/k", body: large},
		{method: "GET", target: "/bkt/k"},
		{method: "GET", target: "/bkt/k", header: headers("Range", "bytes=0-1")},
		{method: "HEAD", target: "/bkt/k"},
		{method: "GET", target: "/bkt/k", header: headers("If-None-Match", "*")},
		{method: "GET", target: "/bkt/k", header: headers("If-Match", "other")},
		{method: "PUT", target: part, body: "x"},
	} {
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, c.raw(s.address))
		var head strings.Builder
		for r := bufio.NewReader(conn); ; {
			line, err := r.ReadString('\n')
			if head.WriteString(line); err != nil || line == "\r\n" {
				break
			}
		}
		_ = conn.Close()
		if strings.Count(head.String(), "\r\nETag: \"") != 1 || strings.Contains(head.String(), "Etag") {
			t.Errorf("%s %s %v: %s", c.method, c.target, c.header, head.String())
		}
	}
}

// TestHeadersOnSeveralLines: a proxy may split a list over several lines of the
// same name. None of them may be lost.
func TestHeadersOnSeveralLines(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.must(call{method: "PUT", target: "/bkt/k", body: "x", mangle: func(r string) string {
		return strings.Replace(r, "\r\n\r\n", "\r\nCache-Control: no-cache\r\nCache-Control: no-store\r\nContent-Language: de\r\nContent-Language: en\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n\r\n", 1)
	}})
	a := s.must(call{method: "GET", target: "/bkt/k"})
	for name, want := range map[string]string{"Cache-Control": "no-cache,no-store", "Content-Language": "de,en", "Content-Type": "a/b"} {
		if got := strings.Join(a.header.Values(name), "|"); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// TestOverridesThatSayNothing: an override without a value leaves the object's
// own, and of two with values the first counts, as of every other parameter.
func TestOverridesThatSayNothing(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.must(call{method: "PUT", target: "/bkt/k", body: "x", header: headers("Content-Type", "text/plain", "Cache-Control", "no-store")})
	for query, want := range map[string]string{
		"response-content-type=":                                   "text/plain",
		"response-content-type":                                    "text/plain",
		"response-content-type=a%2Fb&response-content-type=c%2Fd":  "a/b",
		"response-content-type=&response-content-type=c%2Fd":       "c/d",
		"response-content-type=a%2Fb&response-cache-control=":      "a/b",
		"response-cache-control=&response-content-type=text%2Fcsv": "text/csv",
	} {
		for _, method := range []string{"GET", "HEAD"} {
			a := s.must(call{method: method, target: "/bkt/k?" + query})
			if got := strings.Join(a.header.Values("Content-Type"), "|"); got != want || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s %s: %q, want %q; %v", method, query, got, want, a.header)
			}
		}
	}
}

// TestRefusedHeaderIsNamed: a program that is stopped by a header that is not
// built shows the text of the answer, and the setting to change follows from the
// header's name. Its value, which may be a key, is not told.
func TestRefusedHeaderIsNamed(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	for _, c := range []struct{ method, target, name, value string }{
		{"PUT", "/bkt/k", "x-amz-acl", "public-read"},
		{"PUT", "/bkt/k", "x-amz-storage-class", "STANDARD_IA"},
		{"PUT", "/bkt/k", "x-amz-tagging", "secret=1"},
		{"PUT", "/bkt/k", "x-amz-server-side-encryption-customer-key", "c2VjcmV0"},
		{"POST", "/bkt/k?uploads", "x-amz-server-side-encryption", "aws:kms"},
		{"PUT", "/bkt/k?partNumber=1&uploadId=x", "x-amz-server-side-encryption-customer-key", "c2VjcmV0"},
		{"PUT", "/bkt/k", "if-match", `"a", "b"`},
		{"PUT", "/bkt/k", "if-none-match", `"a", "b"`},
		{"PUT", "/new", "x-amz-grant-read", "id=somebody"},
		{"PUT", "/new", "x-amz-bucket-object-lock-enabled", "true"},
		{"PUT", "/new", "x-amz-object-ownership", "ObjectWriter"},
	} {
		a := s.do(call{method: c.method, target: c.target, header: headers(c.name, c.value)})
		text := between(a.body, "<Message>", "</Message>")
		if a.code() != "NotImplemented" || !strings.Contains(text, ": "+c.name) || strings.Contains(a.body, c.value) {
			t.Errorf("%s %s %s: %d %s", c.method, c.target, c.name, a.status, a.body)
		}
	}
}
