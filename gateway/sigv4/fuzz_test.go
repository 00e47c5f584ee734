package sigv4

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
)

// FuzzAuthorization: whatever the header says, nothing panics and nothing but
// the valid signature is accepted.
func FuzzAuthorization(f *testing.F) {
	f.Add(goodAuth, "20130524T000000Z")
	f.Add(strings.ReplaceAll(goodAuth, ",", ", "), "20130524T000000Z")
	f.Add("AWS4-HMAC-SHA256 Credential=////,SignedHeaders=;;,Signature=", "")
	f.Add("AWS a:b", "x")
	v := exampleVerifier(exampleTime())
	f.Fuzz(func(t *testing.T, auth, date string) {
		r := received(t, exampleGet())
		r.Header["Authorization"] = []string{auth}
		r.Header["X-Amz-Date"] = []string{date}
		id, _, err := v.Verify(r)
		var e *Error
		if err == nil && (date != "20130524T000000Z" || id.AccessKey != exampleKey || !strings.Contains(auth, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")) {
			t.Fatalf("%q accepted", auth)
		}
		if err != nil && (!errors.As(err, &e) || id.AccessKey != "") {
			t.Fatalf("%v, %v", id, err)
		}
	})
}

// FuzzQuery: any path and query; what Presign signs, Verify accepts.
func FuzzQuery(f *testing.F) {
	f.Add("/test.txt", strings.SplitN(strings.Fields(examplePresigned())[1], "?", 2)[1])
	f.Add("/a b/../%", "prefix=%2F&a&b=&=c&&d=+")
	f.Add("", "X-Amz-Algorithm=%")
	v := exampleVerifier(exampleTime())
	f.Fuzz(func(t *testing.T, path, query string) {
		r := &http.Request{Method: "GET", Host: "h", Header: http.Header{}, URL: &url.URL{Path: path, RawQuery: query}}
		id, _, err := v.Verify(r)
		var e *Error
		if err != nil && (!errors.As(err, &e) || id.AccessKey != "") {
			t.Fatalf("%v, %v", id, err)
		}
		if err == nil {
			t.Fatalf("%q accepted", query) // the example's host is another
		}
		if strings.Contains(query, "X-Amz-") || strings.Contains(query, "Signature=") {
			return
		}
		Presign(r, exampleKey, exampleSecret, "us-east-1", "s3", exampleTime(), MaxExpires)
		if _, _, err := v.Verify(r); err != nil && !errors.Is(err, ErrInvalidURI) {
			t.Fatalf("presigned %q: %v", r.URL.RawQuery, err)
		}
	})
}

// FuzzChunkedBody: the decoder ends, gives no more than was announced, and
// gives the same bytes and error however its source and its caller cut them.
func FuzzChunkedBody(f *testing.F) {
	f.Add(uint8(2), uint32(1), []byte("1\r\nx\r\n0\r\nx-amz-checksum-crc32c:AAAAAA==\r\n\r\n"))
	f.Add(uint8(2), uint32(0), []byte("0\r\n\r\n"))
	f.Add(uint8(2), uint32(9), []byte("ffffffff\r\nx\r\n"))
	f.Add(uint8(2), uint32(9), []byte("7;"+strings.Repeat("x", maxHead)+"\r\nx"))
	v := exampleVerifier(exampleTime())
	_, seed, err := v.Verify(received(f, trailerExample()))
	if err != nil {
		f.Fatal(err)
	}
	signer := newChunkSigner(seed)
	signer.chunk("abc")
	signer.chunk("")
	f.Add(uint8(0), uint32(3), []byte(signer.out.String()+"\r\n"))
	trailer := "x-amz-checksum-crc32c:AAAAAA==\n"
	f.Add(uint8(1), uint32(3), []byte(signer.out.String()+trailer+"x-amz-trailer-signature:"+signer.link("AWS4-HMAC-SHA256-TRAILER\n", "", trailer)+"\r\n\r\n"))
	f.Fuzz(func(t *testing.T, kind uint8, size uint32, body []byte) {
		p := seed
		p.Kind, p.Size = SignedChunks+Kind(kind%3), int64(size)
		if p.Kind == SignedChunks {
			p.Trailer = ""
		}
		read := func(src io.Reader) ([]byte, string, error) {
			b := v.Body(&http.Request{Body: io.NopCloser(src)}, p)
			got, err := io.ReadAll(b)
			_, trailer := b.Trailer()
			return got, trailer, err
		}
		whole, trailer, err := read(bytes.NewReader(body))
		if len(whole) > int(size) || err == nil && len(whole) != int(size) {
			t.Fatalf("%d bytes of %d, %v", len(whole), size, err)
		}
		slow, slowTrailer, slowErr := read(iotest.OneByteReader(bytes.NewReader(body)))
		if !errors.Is(slowErr, err) || trailer != slowTrailer || err == nil && !bytes.Equal(whole, slow) {
			t.Fatalf("%v and %v, %d and %d bytes", err, slowErr, len(whole), len(slow))
		}
	})
}
