package gateway

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"

	"net/url"
	"strings"
	"testing"

	"kintsugi/gateway/checksum"
	"kintsugi/metadata"
)

func (s *site) beginUpload(target string, h map[string]string) string {
	s.t.Helper()
	sep := "?"
	return between(s.must(call{method: "POST", target: target + sep + "uploads", header: h}).body, "<UploadId>", "<")
}

// listOf writes the body of a completion.
func listOf(extra func(i int) string, etags ...string) string {
	var b strings.Builder
	b.WriteString(`<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">`)
	for i, e := range etags {
		fmt.Fprintf(&b, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag>%s</Part>", i+1, e, extra(i))
	}
	return b.String() + "</CompleteMultipartUpload>"
}

func nothing(int) string { return "" }

func TestMultipart(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	id := s.beginUpload("/bkt/a%20key", headers("Content-Type", "text/x", "x-amz-meta-a", "b"))
	bodies := []string{random(5<<20, 1), random(6<<20, 2), random(1000, 3)}
	var etags []string
	digests := md5.New()
	for i, body := range bodies {
		target := fmt.Sprintf("/bkt/a%%20key?partNumber=%d&uploadId=%s", i+1, id)
		s.put(target, "replaced")
		e := s.put(target, body).header.Get("Etag")
		etags = append(etags, e)
		raw, _ := hex.DecodeString(strings.Trim(e, `"`))
		digests.Write(raw)
	}
	if a := s.do(call{method: "GET", target: "/bkt/a%20key"}); a.status != 404 {
		t.Errorf("before it is complete: %d", a.status)
	}
	a := s.must(call{method: "GET", target: "/bkt/a%20key?uploadId=" + id + "&max-parts=2"})
	if got := elements(a.body, "PartNumber"); strings.Join(got, "") != "12" || between(a.body, "<IsTruncated>", "<") != "true" ||
		between(a.body, "<NextPartNumberMarker>", "<") != "2" || between(a.body, "<Size>", "<") != fmt.Sprint(5<<20) {
		t.Errorf("parts: %s", a.body)
	}
	a = s.must(call{method: "GET", target: "/bkt/a%20key?uploadId=" + id + "&part-number-marker=2"})
	if got := elements(a.body, "PartNumber"); strings.Join(got, "") != "3" {
		t.Errorf("parts after 2: %s", a.body)
	}
	a = s.must(call{method: "GET", target: "/bkt?uploads"})
	if between(a.body, "<UploadId>", "<") != id || between(a.body, "<Key>", "<") != "a key" {
		t.Errorf("uploads: %s", a.body)
	}
	want := fmt.Sprintf("%x-3", digests.Sum(nil))
	list := listOf(nothing, etags...)
	for range 2 { // a repeated completion answers the same
		a = s.must(call{method: "POST", target: "/bkt/a%20key?uploadId=" + id, body: list})
		if got := between(a.body, "<ETag>&quot;", "&quot;"); got != want {
			t.Errorf("ETag %s, want %s: %s", got, want, a.body)
		}
	}
	for _, others := range [][]string{etags[:2], {etags[0], etags[2], etags[1]}, {etags[0], etags[1], "x"}} {
		if a = s.do(call{method: "POST", target: "/bkt/a%20key?uploadId=" + id, body: listOf(nothing, others...)}); a.code() != "InvalidPart" {
			t.Errorf("completed again with other parts: %d %s", a.status, a.body)
		}
	}
	whole := strings.Join(bodies, "")
	if a = s.must(call{method: "GET", target: "/bkt/a%20key"}); a.body != whole || a.header.Get("Content-Type") != "text/x" || a.header.Get("X-Amz-Meta-A") != "b" {
		t.Errorf("other bytes or fields: %v", a.header)
	}
	a = s.must(call{method: "GET", target: "/bkt/a%20key?partNumber=2"})
	if a.status != 206 || a.body != bodies[1] || a.header.Get("X-Amz-Mp-Parts-Count") != "3" ||
		a.header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", 5<<20, 11<<20-1, len(whole)) {
		t.Errorf("part 2: %d %v", a.status, a.header)
	}
	if a = s.must(call{method: "GET", target: "/bkt/a%20key", header: headers("Range", fmt.Sprintf("bytes=%d-%d", 5<<20-10, 11<<20+9))}); a.body != whole[5<<20-10:11<<20+10] {
		t.Errorf("range over parts: %d bytes", len(a.body))
	}
	if a := s.do(call{method: "GET", target: "/bkt/a%20key?partNumber=4"}); a.status != 416 {
		t.Errorf("part 4: %d", a.status)
	}
	a = s.must(call{method: "GET", target: "/bkt/a%20key?attributes", header: headers("x-amz-object-attributes", "ETag,ObjectSize,ObjectParts,StorageClass,Checksum")})
	if between(a.body, "<ETag>", "<") != want || between(a.body, "<PartsCount>", "<") != "3" || between(a.body, "<ObjectSize>", "<") != fmt.Sprint(len(whole)) {
		t.Errorf("attributes: %s", a.body)
	}
	s.clean()
}

func TestAbort(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	id := s.beginUpload("/bkt/k", nil)
	s.put("/bkt/k?partNumber=1&uploadId="+id, "part")
	if a := s.must(call{method: "DELETE", target: "/bkt/k?uploadId=" + id}); a.status != 204 {
		t.Errorf("%d", a.status)
	}
	if a := s.do(call{method: "PUT", target: "/bkt/k?partNumber=1&uploadId=" + id, body: "late"}); a.code() != "NoSuchUpload" {
		t.Errorf("part after the end: %d %s", a.status, a.code())
	}
	id = s.beginUpload("/bkt/k", nil)
	began := between(s.must(call{method: "GET", target: "/bkt?uploads"}).body, "<Initiated>", "<")
	for range 2 { // a second time there is nothing that could differ
		s.must(call{method: "DELETE", target: "/bkt/k?uploadId=" + id, header: headers("x-amz-if-match-initiated-time", began)})
	}
	if a := s.do(call{method: "GET", target: "/bkt/k?uploadId=" + id}); a.code() != "NoSuchUpload" {
		t.Errorf("after an abort by time: %d %s", a.status, a.code())
	}
	s.must(call{method: "DELETE", target: "/bkt"})
	s.clean()
}

func TestPartCopy(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	body := random(12<<20, 5)
	s.put("/bkt/source", body)
	id := s.beginUpload("/bkt/k", headers("x-amz-checksum-algorithm", "CRC32C"))
	var etags []string
	for i, r := range []string{"bytes=0-6291455", "bytes=6291456-12582911"} {
		a := s.must(call{method: "PUT", target: fmt.Sprintf("/bkt/k?partNumber=%d&uploadId=%s", i+1, id),
			header: headers("x-amz-copy-source", "/bkt/source", "x-amz-copy-source-range", r)})
		if between(a.body, "<ChecksumCRC32C>", "<") == "" {
			t.Errorf("no checksum: %s", a.body)
		}
		etags = append(etags, "&quot;"+between(a.body, "<ETag>&quot;", "&quot;")+"&quot;")
	}
	a := s.must(call{method: "POST", target: "/bkt/k?uploadId=" + id, body: listOf(nothing, etags...)})
	if between(a.body, "<ChecksumType>", "<") != "COMPOSITE" || !strings.HasSuffix(between(a.body, "<ChecksumCRC32C>", "<"), "-2") {
		t.Errorf("%s", a.body)
	}
	if a := s.must(call{method: "GET", target: "/bkt/k"}); a.body != body {
		t.Error("other bytes")
	}
	s.clean()
}

func TestMultipartChecksums(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	bodies := []string{random(5<<20, 11), random(70_000, 12)}
	whole := strings.Join(bodies, "")
	for _, c := range []struct {
		algorithm checksum.Algorithm
		kind      string
	}{
		{checksum.CRC32, "COMPOSITE"}, {checksum.CRC32, "FULL_OBJECT"}, {checksum.CRC32C, "FULL_OBJECT"},
		{checksum.CRC64NVME, "FULL_OBJECT"}, {checksum.SHA1, "COMPOSITE"}, {checksum.SHA256, ""},
	} {
		a, target := c.algorithm, "/bkt/"+c.algorithm.String()+c.kind
		h := headers("x-amz-checksum-algorithm", a.String())
		if c.kind != "" {
			h["x-amz-checksum-type"] = c.kind
		}
		id := s.beginUpload(target, h)
		var etags, values []string
		var parts []checksum.Part
		for i, body := range bodies {
			sum := a.Of([]byte(body))
			parts = append(parts, checksum.Part{Sum: sum, Size: int64(len(body))})
			values = append(values, sum.String())
			h := headers(a.Header(), sum.String())
			if i == 1 {
				h = nil // the server computes it
			}
			r := s.must(call{method: "PUT", target: fmt.Sprintf("%s?partNumber=%d&uploadId=%s", target, i+1, id), body: body, header: h})
			if got := r.header.Get(a.Header()); got != sum.String() {
				t.Errorf("%s part %d: %q", target, i, got)
			}
			etags = append(etags, r.header.Get("Etag"))
		}
		named := func(i int) string {
			return "<Checksum" + a.String() + ">" + values[i] + "</Checksum" + a.String() + ">"
		}
		want := a.Of([]byte(whole))
		if c.kind != "FULL_OBJECT" {
			want, _ = checksum.Compose(a, parts)
		}
		wrong := func(int) string { return named(1) }
		if r := s.do(call{method: "POST", target: target + "?uploadId=" + id, body: listOf(wrong, etags...)}); r.code() != "InvalidPart" {
			t.Errorf("%s with a part's wrong checksum: %d %s", target, r.status, r.body)
		}
		if r := s.do(call{method: "POST", target: target + "?uploadId=" + id, body: listOf(named, etags...), header: headers(a.Header(), values[0])}); r.code() != "BadDigest" {
			t.Errorf("%s with a wrong checksum: %d %s", target, r.status, r.body)
		}
		r := s.must(call{method: "POST", target: target + "?uploadId=" + id, body: listOf(named, etags...), header: headers(a.Header(), want.String())})
		if got := between(r.body, "<Checksum"+a.String()+">", "<"); got != want.String() {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
		r = s.must(call{method: "HEAD", target: target, header: headers("x-amz-checksum-mode", "ENABLED")})
		if r.header.Get(a.Header()) != want.String() || r.header.Get("x-amz-checksum-type") != want.Type().String() {
			t.Errorf("%s: %v", target, r.header)
		}
		r = s.must(call{method: "GET", target: target + "?partNumber=2", header: headers("x-amz-checksum-mode", "ENABLED")})
		if r.header.Get(a.Header()) != values[1] || r.header.Get("x-amz-checksum-type") != want.Type().String() {
			t.Errorf("%s part 2: %v", target, r.header)
		}
		r = s.must(call{method: "GET", target: target + "?attributes", header: headers("x-amz-object-attributes", "ObjectParts, Checksum", "x-amz-max-parts", "1")})
		bare := strings.TrimSuffix(want.String(), "-2") // here S3 leaves the number of parts out
		if got := elements(r.body, "Checksum"+a.String()); len(got) != 2 || got[0] != bare || got[1] != values[0] || between(r.body, "<IsTruncated>", "<") != "true" {
			t.Errorf("%s attributes: %s", target, r.body)
		}
	}
	// A part with another algorithm than the upload's.
	id := s.beginUpload("/bkt/k", headers("x-amz-checksum-algorithm", "CRC32"))
	if r := s.do(call{method: "PUT", target: "/bkt/k?partNumber=1&uploadId=" + id, body: "x", header: headers("x-amz-checksum-sha1", checksum.SHA1.Of([]byte("x")).String())}); r.code() != "InvalidRequest" {
		t.Errorf("%d %s", r.status, r.body)
	}
	s.clean()
}

func TestChecksums(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	for _, size := range []int{0, 100, 1 << 20} {
		body := random(size, 4)
		for _, a := range checksum.Algorithms() {
			target, want := fmt.Sprintf("/bkt/%s-%d", a, size), a.Of([]byte(body)).String()
			r := s.must(call{method: "PUT", target: target, body: body, header: headers(a.Header(), want, "x-amz-sdk-checksum-algorithm", a.String())})
			if r.header.Get(a.Header()) != want || r.header.Get("x-amz-checksum-type") != "FULL_OBJECT" {
				t.Errorf("%s: %v", target, r.header)
			}
			if r = s.must(call{method: "GET", target: target}); r.header.Get(a.Header()) != "" {
				t.Error("a checksum that nobody asked for")
			}
			if r = s.must(call{method: "GET", target: target, header: headers("x-amz-checksum-mode", "ENABLED")}); r.header.Get(a.Header()) != want {
				t.Errorf("%s: %v", target, r.header)
			}
			// A range has it where it is the whole.
			for held, shown := range map[string]string{"bytes=0-": want, "bytes=1-": "", "bytes=0-50": ""} {
				if size == 0 {
					continue
				}
				r = s.must(call{method: "GET", target: target, header: headers("x-amz-checksum-mode", "ENABLED", "Range", held)})
				if r.status != 206 || r.header.Get(a.Header()) != shown {
					t.Errorf("%s %s: %d %v", target, held, r.status, r.header)
				}
			}
			// A copy keeps the algorithm.
			r = s.must(call{method: "PUT", target: target + "c", header: headers("x-amz-copy-source", target)})
			if got := between(r.body, "<Checksum"+a.String()+">", "<"); got != want {
				t.Errorf("copy of %s: %s", target, r.body)
			}
		}
		// With a trailer, as current SDKs send it.

		value := checksum.CRC32.Of([]byte(body)).String()

		framed := ""
		if size > 0 {
			framed = fmt.Sprintf("%x\r\n%s\r\n", size, body)
		}
		for _, c := range []struct{ value, code string }{{value, ""}, {"AAAAAQ==", "BadDigest"}, {"AAAA", "InvalidRequest"}} {
			target := fmt.Sprintf("/bkt/trailer-%d%s", size, c.code)
			r := s.do(call{method: "PUT", target: target, payload: "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
				body: framed + "0\r\nx-amz-checksum-crc32:" + c.value + "\r\n\r\n",
				header: headers("x-amz-trailer", "x-amz-checksum-crc32", "x-amz-decoded-content-length", fmt.Sprint(size),
					"Content-Encoding", "aws-chunked", "x-amz-sdk-checksum-algorithm", "CRC32")})
			if r.code() != c.code || c.code == "" && r.header.Get("x-amz-checksum-crc32") != value {
				t.Errorf("%s: %d %s %v", target, r.status, r.body, r.header)
			}
			if r = s.do(call{method: "GET", target: target}); (r.status == 200) != (c.code == "") || r.status == 200 && (r.body != body || r.header.Get("Content-Encoding") != "") {
				t.Errorf("%s: %d %v", target, r.status, r.header)
			}
		}
	}
	s.clean()
}

func TestCopy(t *testing.T) {
	s := newSite(t)
	s.bucket("one")
	s.bucket("two")
	for _, size := range []int{0, 3000, 9 << 20} {
		body := random(size, 8)
		etag := s.must(call{method: "PUT", target: "/one/a+b%20c%3F", body: body, header: headers("Content-Type", "a/b", "x-amz-meta-x", "y")}).header.Get("Etag")
		a := s.must(call{method: "PUT", target: "/two/kept", header: headers("x-amz-copy-source", "one/a%2Bb%20c%3F?versionId=null", "x-amz-copy-source-if-match", etag)})
		if got := `"` + between(a.body, "<ETag>&quot;", "&quot;") + `"`; got != etag || between(a.body, "<LastModified>", "<") == "" {
			t.Errorf("%s", a.body)
		}
		if a = s.must(call{method: "GET", target: "/two/kept"}); a.body != body || a.header.Get("Content-Type") != "a/b" || a.header.Get("X-Amz-Meta-X") != "y" {
			t.Errorf("%d kept: %v", size, a.header)
		}
		s.must(call{method: "PUT", target: "/one/a+b%20c%3F", header: headers("x-amz-copy-source", "/"+url.PathEscape("one")+"/a%2Bb%20c%3F",
			"x-amz-metadata-directive", "REPLACE", "x-amz-meta-z", "w", "x-amz-checksum-algorithm", "sha256")})
		a = s.must(call{method: "GET", target: "/one/a+b%20c%3F", header: headers("x-amz-checksum-mode", "ENABLED")})
		if a.body != body || a.header.Get("Content-Type") != "binary/octet-stream" || a.header.Get("X-Amz-Meta-X") != "" || a.header.Get("X-Amz-Meta-Z") != "w" ||
			a.header.Get("x-amz-checksum-sha256") != checksum.SHA256.Of([]byte(body)).String() {
			t.Errorf("%d replaced: %v", size, a.header)
		}
		// Naming the storage class makes a copy onto itself legal.
		s.must(call{method: "PUT", target: "/two/kept", header: headers("x-amz-copy-source", "/two/kept", "x-amz-storage-class", "STANDARD")})
		if a = s.must(call{method: "GET", target: "/two/kept"}); a.body != body || a.header.Get("X-Amz-Meta-X") != "y" {
			t.Errorf("%d onto itself: %v", size, a.header)
		}
	}
	if a := s.do(call{method: "PUT", target: "/two/kept", header: headers("x-amz-copy-source", "/one/a%2Bb%20c%3F", "If-None-Match", "*")}); a.status != 412 {
		t.Errorf("copy where there is one: %d", a.status)
	}
	s.clean()
}

// TestTenThousandParts tries the limits of a completion without the parts.
func TestTenThousandParts(t *testing.T) {
	var l completionList
	one := "<Part><PartNumber>%d</PartNumber><ETag>&quot;%x&quot;</ETag><ChecksumCRC32>AAAAAA==</ChecksumCRC32></Part>"
	var b strings.Builder
	b.WriteString("<CompleteMultipartUpload>")
	stored := make([]metadata.Part, 10000)
	digests := md5.New()
	for i := range 10000 {
		sum := md5.Sum([]byte{byte(i), byte(i >> 8)})
		digests.Write(sum[:])
		fmt.Fprintf(&b, one, i+1, sum)
		stored[i] = metadata.Part{Number: i + 1, Size: 5 << 20, ETag: fmt.Sprintf("%x", sum), Checksum: metadata.Checksum{Algorithm: "CRC32", Value: "AAAAAA=="}}
	}
	doc := b.String() + "</CompleteMultipartUpload>"
	if len(doc) > maxCompletion {
		t.Errorf("%d bytes are above the limit", len(doc))
	}
	if err := decodeXML([]byte(doc), &l); err != nil {
		t.Fatal(err)
	}
	parts, err := l.parts()
	if err != nil || len(parts) != 10000 {
		t.Fatal(len(parts), err)
	}
	for _, composite := range []bool{false, true} {
		w := wholeObject{size: 10000 * 5 << 20, upload: metadata.Upload{Checksum: metadata.Checksum{Algorithm: "CRC32", Composite: composite}}}
		etag, sum, err := w.seal(parts, wholeETag(parts))(stored)
		if err != nil || etag != fmt.Sprintf("%x-10000", digests.Sum(nil)) || sum.Composite != composite || strings.HasSuffix(sum.Value, "-10000") != composite {
			t.Errorf("%s %+v %v", etag, sum, err)
		}
	}
	l.Parts = append(l.Parts, l.Parts[9999])
	if _, err := l.parts(); err != errMalformedXML {
		t.Errorf("10,001 parts: %v", err)
	}
}

func TestListUploads(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	var want []string
	for _, k := range []string{"a", "a", "b/1", "b/2", "c"} {
		want = append(want, k+" "+s.beginUpload("/bkt/"+k, nil))
	}
	var got []string
	next := ""
	for range 5 {
		a := s.must(call{method: "GET", target: "/bkt?uploads&max-uploads=2" + next})
		keys, ids := elements(a.body, "Key"), elements(a.body, "UploadId")
		for i := range keys {
			got = append(got, keys[i]+" "+ids[i])
		}
		if between(a.body, "<IsTruncated>", "<") == "false" {
			break
		}
		next = "&key-marker=" + url.QueryEscape(between(a.body, "<NextKeyMarker>", "<")) + "&upload-id-marker=" + between(a.body, "<NextUploadIdMarker>", "<")
	}
	if strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("%q, want %q", got, want)
	}
	a := s.must(call{method: "GET", target: "/bkt?uploads&delimiter=/"})
	if got := elements(a.body, "Key"); strings.Join(got, "") != "aac" || !strings.Contains(a.body, "<CommonPrefixes><Prefix>b/</Prefix>") {
		t.Errorf("%s", a.body)
	}
}
