package gateway

import (
	"bufio"
	"crypto/md5"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"kintsugi/gateway/checksum"
	"kintsugi/storagenode"
)

func random(n int, seed uint64) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 7}).Read(b)
	return string(b)
}

func TestObjectRoundTrip(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	for _, size := range []int{0, 1, 4096, 64 << 10, 64<<10 + 1, 1 << 20, 4<<20 + 1, 9 << 20} {
		body := random(size, uint64(size))
		target := fmt.Sprintf("/bkt/o%d", size)
		a := s.must(call{method: "PUT", target: target, body: body, header: headers("Content-Type", "text/plain; x=y",
			"x-amz-meta-Colour", "gold", "Cache-Control", "no-store", "Content-Encoding", "aws-chunked,gzip", "Content-MD5", md5Header(body))})
		etag := fmt.Sprintf(`"%x"`, md5.Sum([]byte(body)))
		if got := a.header.Get("ETag"); got != etag {
			t.Errorf("%d: ETag %s, want %s", size, got, etag)
		}
		for _, method := range []string{"GET", "HEAD"} {
			a = s.must(call{method: method, target: target})
			want := body
			if method == "HEAD" {
				want = ""
			}
			if a.body != want {
				t.Fatalf("%s %d: other bytes", method, size)
			}
			for k, v := range map[string]string{
				"Content-Length": fmt.Sprint(size), "Content-Type": "text/plain; x=y", "X-Amz-Meta-Colour": "gold",
				"Cache-Control": "no-store", "Content-Encoding": "gzip", "Etag": etag, "Accept-Ranges": "bytes",
			} {
				if a.header.Get(k) != v {
					t.Errorf("%s %d: %s is %q, want %q", method, size, k, a.header.Get(k), v)
				}
			}
			if _, err := http.ParseTime(a.header.Get("Last-Modified")); err != nil {
				t.Error(err)
			}
		}
	}
	s.clean()
}

// TestForeignMetadata: what is not ASCII comes back as encoded words, also of a
// copy, and what came as encoded words as it came.
func TestForeignMetadata(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	long := strings.Repeat("käse ", 40)
	for value, want := range map[string]string{
		"gold, =3D ?":           "gold, =3D ?",
		"=?UTF-8?Q?k=C3=A4se?=": "=?UTF-8?Q?k=C3=A4se?=",
		"käse":                  "=?UTF-8?B?a8Okc2U=?=",
		"日本 語":                  "=?UTF-8?B?5pel5pysIOiqng==?=",
		"k\xe4se":               "=?UTF-8?B?a8Okc2U=?=",
		strings.TrimSpace(long): "",
		"a\tb":                  "a\tb",
	} {
		s.must(call{method: "PUT", target: "/bkt/k", body: "x", header: headers("x-amz-meta-colour", value)})
		s.must(call{method: "PUT", target: "/bkt/copy", header: headers("x-amz-copy-source", "/bkt/k")})
		for _, c := range []call{{method: "GET", target: "/bkt/k"}, {method: "HEAD", target: "/bkt/k"}, {method: "GET", target: "/bkt/copy"}} {
			got := s.must(c).header.Get("x-amz-meta-colour")
			if want != "" && got != want {
				t.Errorf("%s %s: %q came back as %q, want %q", c.method, c.target, value, got, want)
			}
			read, err := new(mime.WordDecoder).DecodeHeader(got)
			if want == "" && (err != nil || read != value || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' })) {
				t.Errorf("%s %s: %q came back as %q, which reads %q, %v", c.method, c.target, value, got, read, err)
			}
		}
	}
}

func TestRanges(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	body := random(9<<20, 3)
	s.put("/bkt/big", body)
	size := len(body)
	for _, r := range []struct {
		header      string
		off, length int
	}{
		{"bytes=0-0", 0, 1}, {"bytes=5-9", 5, 5}, {"bytes=4194300-4194310", 4194300, 11},
		{"bytes=-7", size - 7, 7}, {"bytes=9437180-", 9437180, 4}, {"bytes=100-99999999", 100, size - 100},
		{"bytes=-99999999", 0, size}, {"bytes=0-99999999999999999999999", 0, size},
		{"bytes=nonsense", 0, -1}, {"bytes=5-2", 0, -1}, {"lines=0-5", 0, -1}, {"bytes=0-1,5-6", 0, -1},
	} {
		a := s.must(call{method: "GET", target: "/bkt/big", header: headers("Range", r.header)})
		if r.length < 0 { // not followed
			if a.status != 200 || a.body != body {
				t.Errorf("%s: %d with %d bytes", r.header, a.status, len(a.body))
			}
			continue
		}
		want := fmt.Sprintf("bytes %d-%d/%d", r.off, r.off+r.length-1, size)
		if a.status != 206 || a.body != body[r.off:r.off+r.length] || a.header.Get("Content-Range") != want {
			t.Errorf("%s: %d %s with %d bytes", r.header, a.status, a.header.Get("Content-Range"), len(a.body))
		}
	}
	a := s.do(call{method: "GET", target: "/bkt/big", header: headers("Range", "bytes=9437184-")})
	if a.status != 416 || a.header.Get("Content-Range") != "bytes */9437184" {
		t.Errorf("unsatisfiable: %d %v", a.status, a.header)
	}
	a = s.must(call{method: "GET", target: "/bkt/big", header: headers("Range", "bytes=0-4", "If-Range", `"other"`)})
	if a.status != 200 || len(a.body) != size {
		t.Errorf("If-Range: %d with %d bytes", a.status, len(a.body))
	}
	a = s.must(call{method: "GET", target: "/bkt/big?partNumber=1"})
	if a.status != 206 || a.body != body {
		t.Errorf("part 1: %d with %d bytes", a.status, len(a.body))
	}
}

func TestConditionsThatHold(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	etag := s.put("/bkt/k", "one").header.Get("Etag")
	past, future := "Mon, 02 Jan 2006 15:04:05 GMT", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	for _, h := range []map[string]string{
		headers("If-Match", etag), headers("If-Match", "*"), headers("If-Match", `"x", `+etag),
		headers("If-Match", etag, "If-Unmodified-Since", past),
		headers("If-None-Match", `"x"`), headers("If-Modified-Since", past), headers("If-Unmodified-Since", future),
		headers("If-None-Match", `"x"`, "If-Modified-Since", future),
	} {
		if a := s.do(call{method: "GET", target: "/bkt/k", header: h}); a.status != 200 {
			t.Errorf("%v: %d", h, a.status)
		}
	}
	a := s.do(call{method: "GET", target: "/bkt/k", header: headers("If-None-Match", etag)})
	if a.status != 304 || a.header.Get("Etag") != etag || a.header.Get("Last-Modified") == "" || a.body != "" {
		t.Errorf("not modified: %d %v", a.status, a.header)
	}
	s.must(call{method: "PUT", target: "/bkt/new", body: "x", header: headers("If-None-Match", "*")})
	etag = s.must(call{method: "PUT", target: "/bkt/k", body: "two", header: headers("If-Match", etag)}).header.Get("Etag")
	for _, none := range []string{`""`, `W/""`} { // no object has such a tag
		for _, method := range []string{"PUT", "DELETE"} {
			if a := s.do(call{method: method, target: "/bkt/k", body: "x", header: headers("If-Match", none)}); a.status != 412 {
				t.Errorf("%s where the tag is %s: %d", method, none, a.status)
			}
		}
	}
	a = s.deletes("<Object><Key>k</Key><ETag>&quot;&quot;</ETag></Object>")
	if between(a.body, "<Code>", "<") != "PreconditionFailed" {
		t.Errorf("delete of several where the tag is empty: %s", a.body)
	}
	s.must(call{method: "DELETE", target: "/bkt/k", header: headers("If-Match", etag, "x-amz-if-match-size", "3")})
	if a := s.do(call{method: "GET", target: "/bkt/k"}); a.status != 404 {
		t.Errorf("after the delete: %d", a.status)
	}
	// Deletes of nothing are no errors, also by size or time.
	s.must(call{method: "DELETE", target: "/bkt/k"})
	s.must(call{method: "DELETE", target: "/bkt/k", header: headers("x-amz-if-match-size", "3")})
	s.must(call{method: "DELETE", target: "/bkt/k", header: headers("x-amz-if-match-last-modified-time", past)})
	a = s.deletes("<Object><Key>k</Key><Size>3</Size></Object>")
	if !strings.Contains(a.body, "<Deleted><Key>k</Key></Deleted>") {
		t.Errorf("deletes of nothing: %s", a.body)
	}
	s.clean()
}

// nasty are keys that must come back as they are.
var nasty = []string{
	"..", ".", "../up", "a/../b", "a//b", "/lead", "//", "trail/", "a%2Fb", "a%b", "a b", "a+b", "back\\slash",
	"käse", "日本語", "😀", "tab\there", "line\nfeed", "\x01\x1f", "\x7f", "quote\"'", "<tag>&amp;", "?query", "#hash",
	"a=b&c=d", "~tilde", "*star", "semi;colon", "co:lon", "\u2028", "\uFFFE", "e\u0301", strings.Repeat("k", 1024),
}

func TestNastyKeys(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.bucket("copies")
	for i, k := range nasty {
		// As a client may escape it: everything, and as little as it can.
		full := "/bkt/" + escapeAll(k, false)
		lean := "/bkt/" + string(appendPercent(nil, k))
		body := fmt.Sprint("body of ", i)
		s.put(full, body)
		for _, target := range []string{full, lean} {
			if a := s.must(call{method: "GET", target: target}); a.body != body {
				t.Errorf("%q: got %q", k, a.body)
			}
		}
		s.must(call{method: "PUT", target: "/copies/" + escapeAll(k, true), header: headers("x-amz-copy-source", full)})
		if a := s.must(call{method: "GET", target: "/copies/" + escapeAll(k, false)}); a.body != body {
			t.Errorf("copy of %q: got %q", k, a.body)
		}
	}
	want := slices.Sorted(slices.Values(nasty))
	for _, b := range []string{"bkt", "copies"} {
		if got := s.keys(b); !slices.Equal(got, want) {
			t.Errorf("list of %s:\n%q, want\n%q", b, got, want)
		}
	}
	// The host names the bucket: the whole path is the key.
	for _, k := range nasty {
		a := s.must(call{method: "GET", target: "/" + escapeAll(k, false), host: "bkt.s3.test:9000"})
		if !strings.HasPrefix(a.body, "body of ") {
			t.Errorf("virtual host %q: %q", k, a.body)
		}
		s.must(call{method: "DELETE", target: "/bkt/" + escapeAll(k, false)})
	}
	if got := s.keys("bkt"); len(got) != 0 {
		t.Errorf("left after the deletes: %q", got)
	}
	s.clean()
}

// escapeAll escapes every byte, slashes only where told.
func escapeAll(k string, slashes bool) string {
	var b strings.Builder
	for i := range len(k) {
		if k[i] == '/' && !slashes {
			b.WriteByte('/')
		} else {
			fmt.Fprintf(&b, "%%%02X", k[i])
		}
	}
	return b.String()
}

func TestOverrides(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.put("/bkt/k", "x")
	a := s.must(call{method: "GET", target: "/bkt/k?response-content-type=text%2Fhtml&response-content-disposition=attachment%0D%0AX-Evil:1", presign: time.Minute})
	if a.header.Get("Content-Type") != "text/html" || a.header.Get("X-Evil") != "" || !strings.HasPrefix(a.header.Get("Content-Disposition"), "attachment") {
		t.Errorf("%v", a.header)
	}
	// Parameters of a presigned request stand for headers.
	s.must(call{method: "PUT", target: "/bkt/p?x-amz-meta-a=b", body: "x", presign: time.Minute})
	if a := s.must(call{method: "HEAD", target: "/bkt/p"}); a.header.Get("X-Amz-Meta-A") != "b" {
		t.Errorf("%v", a.header)
	}
	if a := s.do(call{method: "PUT", target: "/bkt/q?x-amz-acl=public-read", body: "x", presign: time.Minute}); a.status != 501 {
		t.Errorf("acl in the query: %d", a.status)
	}
}

func TestLostDrives(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	small, large := random(4096, 1), random(9<<20, 2)
	s.put("/bkt/small", small)
	s.put("/bkt/large", large)
	s.drives.set(storagenode.DriveDown, 0, 3)
	for k, body := range map[string]string{"small": small, "large": large} {
		if a := s.must(call{method: "GET", target: "/bkt/" + k}); a.body != body {
			t.Errorf("%s with two drives lost: other bytes", k)
		}
	}
	s.drives.set(storagenode.DriveDown, 0, 1, 2, 3, 4, 5)
	for _, k := range []string{"small", "large"} {
		a := s.do(call{method: "GET", target: "/bkt/" + k})
		if a.status != 503 || a.code() != "ServiceUnavailable" || a.header.Get("Retry-After") == "" || a.header.Get("Etag") != "" || a.header.Get("Content-Range") != "" {
			t.Errorf("%s with all drives lost: %d %v", k, a.status, a.header)
		}
	}
	if a := s.do(call{method: "PUT", target: "/bkt/new", body: "x"}); a.status != 503 {
		t.Errorf("put with all drives lost: %d %s", a.status, a.body)
	}
	if a := s.do(call{method: "GET", target: "/bkt/nothing"}); a.status != 404 {
		t.Errorf("metadata knows what is not there: %d", a.status)
	}
	s.drives.set(storagenode.DriveActive, 0, 1, 2, 3, 4, 5)
	if a := s.must(call{method: "GET", target: "/bkt/large"}); a.body != large {
		t.Error("with the drives back: other bytes")
	}
	s.clean()
}

// TestCutNotShort loses the drives while an object is being sent: the client
// must notice.
func TestCutNotShort(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	body := random(40<<20, 9)
	s.put("/bkt/large", body)
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, call{method: "GET", target: "/bkt/large"}.raw(s.address))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1<<20)
	if _, err := io.ReadFull(res.Body, first); err != nil {
		t.Fatal(err)
	}
	s.drives.set(storagenode.DriveDown, 0, 1, 2, 3, 4, 5)
	rest, err := io.ReadAll(res.Body)
	if err == nil {
		t.Fatalf("no error after %d of %d bytes", len(rest)+len(first), len(body))
	}
	if got := string(first) + string(rest); got != body[:len(got)] {
		t.Error("wrong bytes before the cut")
	}
}

func TestKeepAliveAfterErrors(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.put("/bkt/k", "value")
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(conn)
	// Pipelined: an error with a body that nobody reads, then a good request.
	bad := call{method: "PUT", target: "/nowhere/k", body: strings.Repeat("x", 100<<10)}
	good := call{method: "GET", target: "/bkt/k"}
	missing := call{method: "HEAD", target: "/bkt/missing"}
	go func() {
		_, _ = io.WriteString(conn, bad.raw(s.address)+good.raw(s.address)+missing.raw(s.address)+good.raw(s.address))
	}()
	for i, want := range []struct {
		status int
		method string
	}{{404, "PUT"}, {200, "GET"}, {404, "HEAD"}, {200, "GET"}} {
		a := readAnswer(t, r, want.method)
		if a.status != want.status || want.status == 200 && a.body != "value" {
			t.Errorf("answer %d: %d %s", i, a.status, a.body)
		}
	}
	// A body too large to be drained: the connection is closed, and said so.
	big := call{method: "PUT", target: "/nowhere/k", length: 1 << 30}
	conn2, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn2.Close()
	_ = conn2.SetDeadline(time.Now().Add(10 * time.Second))
	go func() {
		_, _ = io.WriteString(conn2, big.raw(s.address))
		_, _ = conn2.Write(make([]byte, 1<<20))
	}()
	if a := readAnswer(t, bufio.NewReader(conn2), "PUT"); a.status != 404 || !a.closed {
		t.Errorf("%d, closed %v", a.status, a.closed)
	}
}

func TestExpectContinue(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	try := func(target string) (*bufio.Reader, net.Conn, string) {
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		raw := call{method: "PUT", target: target, body: "body", header: headers("Expect", "100-continue")}.raw(s.address)
		_, _ = io.WriteString(conn, strings.TrimSuffix(raw, "body"))
		r := bufio.NewReader(conn)
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return r, conn, line
	}
	if _, _, line := try("/nowhere/k"); !strings.HasPrefix(line, "HTTP/1.1 404") {
		t.Errorf("no bucket: %s", line)
	}
	r, conn, line := try("/bkt/k")
	if !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("got %s", line)
	}
	_, _ = r.ReadString('\n')
	_, _ = io.WriteString(conn, "body")
	if a := readAnswer(t, r, "PUT"); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if got := s.keys("bkt"); !slices.Equal(got, []string{"k"}) {
		t.Errorf("%q", got)
	}
}

// TestExpectContinueOfNothing: who waits for 100 Continue gets it before an empty
// body, too, and the answer after it.
func TestExpectContinueOfNothing(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(conn)
	for range 2 {
		_, _ = io.WriteString(conn, call{method: "PUT", target: "/bkt/k", header: headers("Expect", "100-continue", "Content-Length", "0")}.raw(s.address))
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
			t.Fatalf("%q %v", line, err)
		}
		_, _ = r.ReadString('\n')
		if a := readAnswer(t, r, "PUT"); a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}

func TestClientLeaves(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.put("/bkt/k", "old")
	for _, n := range []int{10, 100 << 10, 5 << 20} {
		conn, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, call{method: "PUT", target: "/bkt/k", body: strings.Repeat("n", n), length: 6 << 20}.raw(s.address))
		_ = conn.Close()
	}
	time.Sleep(100 * time.Millisecond)
	if a := s.must(call{method: "GET", target: "/bkt/k"}); a.body != "old" {
		t.Errorf("got %d bytes of an upload that was not finished", len(a.body))
	}
	s.clean()
}

func TestListings(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	var want []string
	for i := range 25 {
		k := fmt.Sprintf("dir%d/file %02d&", i%5, i)
		want = append(want, k)
		s.put("/bkt/"+string(appendPercent(nil, k)), "x")
	}
	slices.Sort(want)
	// Page by page, both versions.
	for _, version := range []string{"", "list-type=2&"} {
		var got []string
		next := ""
		for range 20 {
			a := s.must(call{method: "GET", target: "/bkt?" + version + "max-keys=4" + next})
			keys := elements(a.body, "Key")
			got = append(got, keys...)
			if between(a.body, "<IsTruncated>", "<") == "false" {
				break
			}
			if version == "" {
				next = "&marker=" + url.QueryEscape(keys[len(keys)-1])
			} else {
				next = "&continuation-token=" + url.QueryEscape(between(a.body, "<NextContinuationToken>", "<"))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q", version, got)
		}
	}
	a := s.must(call{method: "GET", target: "/bkt?list-type=2&delimiter=%2F"})
	if got := elements(a.body, "Prefix"); !slices.Equal(got, []string{"", "dir0/", "dir1/", "dir2/", "dir3/", "dir4/"}) ||
		between(a.body, "<KeyCount>", "<") != "5" || strings.Contains(a.body, "<Contents>") {
		t.Errorf("delimiter: %q %s", got, a.body)
	}
	a = s.must(call{method: "GET", target: "/bkt?prefix=dir3%2F&delimiter=%2F&max-keys=2&encoding-type=url"})
	if got := elements(a.body, "Key"); !slices.Equal(got, []string{"dir3/file%2003%26", "dir3/file%2008%26"}) ||
		between(a.body, "<NextMarker>", "<") != "dir3/file%2008%26" || !strings.Contains(a.body, "<Owner><ID>") {
		t.Errorf("page: %s", a.body)
	}
	if a = s.must(call{method: "GET", target: "/bkt?list-type=2&max-keys=0"}); between(a.body, "<IsTruncated>", "<") != "false" || strings.Contains(a.body, "<Contents>") {
		t.Errorf("max-keys 0: %s", a.body)
	}
	if a = s.must(call{method: "GET", target: "/bkt?list-type=2&start-after=dir4%2Ffile+19%26&fetch-owner=true&max-keys=5000"}); len(elements(a.body, "Key")) != 1 ||
		!strings.Contains(a.body, "<Owner>") || between(a.body, "<MaxKeys>", "<") != "1000" {
		t.Errorf("start-after: %s", a.body)
	}
	if a = s.must(call{method: "GET", target: "/bkt?versions&prefix=dir1"}); len(elements(a.body, "Version")) != 5 || !strings.Contains(a.body, "<VersionId>null<") {
		t.Errorf("versions: %s", a.body)
	}
}

// elements gives the texts of all elements of a name, unescaped.
func elements(doc, name string) (list []string) {
	for {
		_, rest, ok := strings.Cut(doc, "<"+name+">")
		if !ok {
			return list
		}
		text, after, _ := strings.Cut(rest, "</"+name+">")
		list = append(list, strings.NewReplacer("&amp;", "&", "&lt;", "<", "&gt;", ">", "&quot;", `"`).Replace(text))
		doc = after
	}
}

func TestDeleteObjects(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	for i := range 40 {
		s.put(fmt.Sprintf("/bkt/k%02d", i), "x")
	}
	var b strings.Builder
	b.WriteString(`<?xml version="1.0"?><Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">`)
	for i := range 30 {
		fmt.Fprintf(&b, "<Object><Key>k%02d</Key></Object>", i)
	}
	b.WriteString("<Object><Key>missing</Key></Object><Object><Key>k30</Key><VersionId>abc</VersionId></Object>" +
		"<Object><Key>k31</Key><ETag>wrong</ETag></Object><Object><Key>k32</Key><VersionId>null</VersionId></Object></Delete>")
	a := s.must(call{method: "POST", target: "/bkt?delete", body: b.String(), header: headers("Content-MD5", md5Header(b.String()))})
	if n := len(elements(a.body, "Deleted")); n != 32 {
		t.Errorf("%d deleted: %s", n, a.body)
	}
	if got := elements(a.body, "Code"); !slices.Equal(got, []string{"NoSuchVersion", "PreconditionFailed"}) {
		t.Errorf("errors: %q", got)
	}
	if got := s.keys("bkt"); len(got) != 9 || got[0] != "k30" || got[1] != "k31" || got[2] != "k33" {
		t.Errorf("left: %q", got)
	}
	if a = s.deletes("<Quiet>true</Quiet><Object><Key>k33</Key></Object>"); strings.Contains(a.body, "Deleted") {
		t.Errorf("quiet: %s", a.body)
	}
	// What else vouches for the list.
	body := "<Delete><Object><Key>none</Key></Object></Delete>"
	for _, h := range []map[string]string{nil, headers(checksum.CRC32.Header(), checksum.CRC32.Of([]byte(body)).String())} {
		payload := ""
		if h == nil {
			payload = sha256Hex(body)
		}
		s.must(call{method: "POST", target: "/bkt?delete", body: body, header: h, payload: payload})
	}
	s.clean()
}

// deletes sends a DeleteObjects with its Content-MD5.
func (s *site) deletes(inner string) answer {
	s.t.Helper()
	body := "<Delete>" + inner + "</Delete>"
	return s.must(call{method: "POST", target: "/bkt/?delete", body: body, header: headers("Content-MD5", md5Header(body))})
}
