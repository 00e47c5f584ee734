package sigv4

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// The credentials and the time of the examples in the S3 API Reference.
const (
	exampleKey    = "AKIAIOSFODNN7EXAMPLE"
	exampleSecret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

func exampleTime() time.Time { return time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC) }

func exampleVerifier(now time.Time) *Verifier {
	return New(Config{
		Lookup: func(accessKey string) (string, bool) { return exampleSecret, accessKey == exampleKey },
		Now:    func() time.Time { return now },
	})
}

// received parses raw text as a server does.
func received(t testing.TB, raw string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		t.Fatalf("request %q: %v", raw, err)
	}
	return r
}

// overTheWire turns a client's request into the server's.
func overTheWire(t testing.TB, r *http.Request) *http.Request {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	return received(t, b.String())
}

func lines(l ...string) string { return strings.Join(l, "\r\n") + "\r\n\r\n" }

const exampleScope = exampleKey + "/20130524/us-east-1/s3/aws4_request"

func exampleGet() string {
	return lines("GET /test.txt HTTP/1.1", "Host: examplebucket.s3.amazonaws.com", "Range: bytes=0-9",
		"x-amz-date: 20130524T000000Z", "x-amz-content-sha256: "+emptySHA256,
		"Authorization: AWS4-HMAC-SHA256 Credential="+exampleScope+",SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
}

func examplePresigned() string {
	return lines("GET /test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404 HTTP/1.1",
		"Host: examplebucket.s3.amazonaws.com")
}

// The examples of the S3 API Reference, "Signature Calculations for the
// Authorization Header" and "Authenticating Requests: Using Query Parameters".
func TestExamples(t *testing.T) {
	signature := func(headers, hex string) string {
		return "Authorization: AWS4-HMAC-SHA256 Credential=" + exampleScope + ",SignedHeaders=" + headers + ",Signature=" + hex
	}
	const host, date = "Host: examplebucket.s3.amazonaws.com", "x-amz-date: 20130524T000000Z"
	for name, raw := range map[string]string{
		"get object": exampleGet(),
		"put object": lines("PUT /test%24file.text HTTP/1.1", host, "Date: Fri, 24 May 2013 00:00:00 GMT", date,
			"x-amz-storage-class: REDUCED_REDUNDANCY", "Content-Length: 21",
			"x-amz-content-sha256: 44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
			signature("date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class", "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd")) + "Welcome to Amazon S3.",
		"get lifecycle": lines("GET /?lifecycle HTTP/1.1", host, date, "x-amz-content-sha256: "+emptySHA256,
			signature("host;x-amz-content-sha256;x-amz-date", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")),
		"list": lines("GET /?max-keys=2&prefix=J HTTP/1.1", host, date, "x-amz-content-sha256: "+emptySHA256,
			signature("host;x-amz-content-sha256;x-amz-date", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")),
		"presigned": examplePresigned(),
	} {
		t.Run(name, func(t *testing.T) {
			v := exampleVerifier(exampleTime())
			for range 2 { // the second time the key comes from the cache
				r := received(t, raw)
				id, p, err := v.Verify(r)
				if err != nil || id.AccessKey != exampleKey || id.Presigned != (name == "presigned") {
					t.Fatalf("Verify: %+v, %v", id, err)
				}
				body, err := io.ReadAll(v.Body(r, p))
				if err != nil || name == "put object" && string(body) != "Welcome to Amazon S3." {
					t.Fatalf("body %q, %v", body, err)
				}
			}
		})
	}
}

// chunkedExample is the request of "Signature Calculations for the
// Authorization Header: Transferring Payload in Multiple Chunks".
func chunkedExample() string {
	return lines("PUT /examplebucket/chunkObject.txt HTTP/1.1", "Host: s3.amazonaws.com", "x-amz-date: 20130524T000000Z",
		"x-amz-storage-class: REDUCED_REDUNDANCY",
		"Authorization: AWS4-HMAC-SHA256 Credential="+exampleScope+",SignedHeaders=content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class,Signature=4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
		"x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "Content-Encoding: aws-chunked",
		"x-amz-decoded-content-length: 66560", "Content-Length: 66824") +
		"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n" + strings.Repeat("a", 65536) + "\r\n" +
		"400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n" + strings.Repeat("a", 1024) + "\r\n" +
		"0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n"
}

// trailerExample is the request of "… Multiple Chunks, with trailing headers".
func trailerExample() string {
	body := "10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n" + strings.Repeat("a", 65536) + "\r\n" +
		"400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n" + strings.Repeat("a", 1024) + "\r\n" +
		"0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n" +
		"x-amz-checksum-crc32c:sOO8/Q==\n\r\n" +
		"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
	return lines("PUT /examplebucket/chunkObject.txt HTTP/1.1", "Host: s3.amazonaws.com", "x-amz-date: 20130524T000000Z",
		"x-amz-storage-class: REDUCED_REDUNDANCY",
		"Authorization: AWS4-HMAC-SHA256 Credential="+exampleScope+",SignedHeaders=content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer,Signature=106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
		"x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", "Content-Encoding: aws-chunked",
		"x-amz-decoded-content-length: 66560", "x-amz-trailer: x-amz-checksum-crc32c",
		fmt.Sprintf("Content-Length: %d", len(body))) + body
}

func TestChunkedExamples(t *testing.T) {
	for name, raw := range map[string]string{"plain": chunkedExample(), "trailer": trailerExample()} {
		for _, slow := range []string{"", "one byte", "half"} {
			t.Run(name+" "+slow, func(t *testing.T) {
				v := exampleVerifier(exampleTime())
				r := received(t, raw)
				_, p, err := v.Verify(r)
				if err != nil || p.Size != 66560 || !p.Chunked() {
					t.Fatalf("Verify: %+v, %v", p, err)
				}
				switch slow {
				case "one byte":
					r.Body = io.NopCloser(iotest.OneByteReader(r.Body))
				case "half":
					r.Body = io.NopCloser(iotest.HalfReader(r.Body))
				}
				b := v.Body(r, p)
				body, err := io.ReadAll(b)
				if err != nil || string(body) != strings.Repeat("a", 66560) || b.Total() != 66560 {
					t.Fatalf("%d bytes, %v", len(body), err)
				}
				trailerName, value := b.Trailer()
				if want := name == "trailer"; want != (trailerName == "x-amz-checksum-crc32c" && value == "sOO8/Q==") {
					t.Fatalf("trailer %q: %q", trailerName, value)
				}
			})
		}
	}
}

// Whatever single byte of a signed chunked body is changed, reading fails
// before the end; so does every prefix of it.
func TestChunkedTampered(t *testing.T) {
	v := exampleVerifier(exampleTime())
	for name, raw := range map[string]string{"plain": chunkedExample(), "trailer": trailerExample()} {
		head, body, _ := strings.Cut(raw, "\r\n\r\n")
		r := received(t, head+"\r\n\r\n")
		_, p, err := v.Verify(r)
		if err != nil {
			t.Fatal(err)
		}
		read := func(b []byte) (int, error) {
			r.Body = io.NopCloser(bytes.NewReader(b))
			got, err := io.ReadAll(v.Body(r, p))
			return len(got), err
		}
		if _, err := read([]byte(body)); err != nil {
			t.Fatalf("%s untouched: %v", name, err)
		}
		for i := 0; i < len(body); i++ {
			if i > 100 && i < 65600 { // the first chunk's data: samples
				i += 4099
			}
			b := []byte(body)
			b[i] ^= 0x20 // turns a-f into A-F, CR into '-', digits into controls
			if n, err := read(b); err == nil && !sameMeaning(body, b) {
				t.Errorf("%s: byte %d (%q) changed: %d bytes read without an error", name, i, body[i], n)
			}
			if n, err := read([]byte(body)[:i]); err == nil && len(strings.TrimRight(body[i:], "\r\n")) > 0 {
				t.Errorf("%s: cut at %d: %d bytes read without an error", name, i, n)
			}
		}
	}
}

// sameMeaning allows the case of a trailer's name to change.
func sameMeaning(was string, is []byte) bool {
	return strings.EqualFold(was, string(is)) && strings.Contains(strings.ToLower(string(is)), "x-amz-checksum-crc32c:") &&
		was[strings.LastIndex(was, "chunk-signature"):][:81] == string(is[strings.LastIndex(was, "chunk-signature"):][:81])
}

// minio-go's signer and this package agree, over strange paths and queries.
func TestAgainstMinioSigner(t *testing.T) {
	v := exampleVerifier(time.Now())
	for _, target := range []string{
		"http://h:9000/", "http://h/b/k", "http://h/b//a///b/", "http://h/b/../../etc/passwd", "http://h/b/%2e%2e/x",
		"http://h/b/a%2Fb", "http://h/b/a%20b+c", "http://h/b/%C3%A4%F0%9F%98%80", "http://h/b/a%25b", "http://h/b/!$&'()*,:;=@[]",
		"http://h/b/%00%01%5C%22", "http://h/b?list-type=2&prefix=a%2Fb%20c&delimiter=%2F&marker=", "http://h/b?b=2&a=2&ab=0&a-=3",
		"http://h/b?uploads", "http://h/b/k?versionId=null&x=%C3%A4&y=a+b", "http://h/b?continuation-token=ab%2Bc%3D%3D",
	} {
		t.Run(target, func(t *testing.T) {
			request := func() *http.Request {
				r, err := http.NewRequest("PUT", target, strings.NewReader("hello"))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("X-Amz-Meta-A", "  two  spaces   inside ")
				r.Header["X-Amz-Meta-B"] = []string{"1", " 2"}
				r.Header.Set("X-Amz-Content-Sha256", UnsignedPayload)
				return r
			}
			check := func(r *http.Request) {
				t.Helper()
				r = overTheWire(t, r)
				_, p, err := v.Verify(r)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(v.Body(r, p)); err != nil || string(b) != "hello" {
					t.Fatalf("body %q, %v", b, err)
				}
			}
			check(signer.SignV4(*request(), exampleKey, exampleSecret, "", "us-east-1"))
			r := request()
			r.Header = http.Header{}
			check(signer.PreSignV4(*r, exampleKey, exampleSecret, "", "us-east-1", 60))
			r = request()
			Sign(r, exampleKey, exampleSecret, "us-east-1", "s3", time.Now(), sum256("hello"))
			check(r)
			r = request()
			Presign(r, exampleKey, exampleSecret, "us-east-1", "s3", time.Now(), time.Minute)
			check(r)
		})
	}
}

func sum256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// A path signed as the client escaped it is accepted as well.
func TestPathSignedAsSent(t *testing.T) {
	for _, path := range []string{"/b/a%2Fb", "/b/(x)!", "/b/%7Eq", "/b/a+b"} {
		r := received(t, lines("GET "+path+" HTTP/1.1", "Host: h"))
		c := newClaim(exampleKey, "us-east-1", "s3", exampleTime())
		c.signedHeaders = "host;x-amz-content-sha256;x-amz-date"
		r.Header.Set("X-Amz-Date", c.dateTime)
		r.Header.Set("X-Amz-Content-Sha256", emptySHA256)
		key := deriveKey(exampleSecret, c.date, c.region, c.service)
		var s scratch
		sig, err := s.signature(r, &c, emptySHA256, path, false, &key)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", algorithm+" Credential="+exampleScope+", SignedHeaders="+c.signedHeaders+", Signature="+string(sig[:]))
		if _, _, err := exampleVerifier(exampleTime()).Verify(r); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// minio-go's chunked uploads, with and without trailers, of many sizes.
func TestMinioChunkedUploads(t *testing.T) {
	v := exampleVerifier(time.Now())
	for _, size := range []int{1, 8191, 65536, 65537, 200000} {
		data := bytes.Repeat([]byte("kintsugi"), size/8+1)[:size]
		for _, kind := range []string{"signed", "signed trailer", "unsigned trailer"} {
			t.Run(fmt.Sprint(kind, size), func(t *testing.T) {
				r, _ := http.NewRequest("PUT", "http://h/b/k", bytes.NewReader(data))
				trailer := http.Header{"X-Amz-Checksum-Crc32": {"AAAAAA=="}}
				switch kind {
				case "signed trailer":
					r.Trailer = trailer
					fallthrough
				case "signed":
					r = signer.StreamingSignV4(r, exampleKey, exampleSecret, "", "us-east-1", int64(size), time.Now().UTC(), newSum256())
				default:
					r.Header.Set("X-Amz-Content-Sha256", unsignedChunksTrailer)
					r = signer.SignV4Trailer(*r, exampleKey, exampleSecret, "", "us-east-1", trailer)
				}
				r.Trailer = nil
				r = overTheWire(t, r)
				_, p, err := v.Verify(r)
				if err != nil {
					t.Fatal(err)
				}
				b := v.Body(r, p)
				got, err := io.ReadAll(b)
				if err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				if name, value := b.Trailer(); (name == "x-amz-checksum-crc32" && value == "AAAAAA==") == (kind == "signed") {
					t.Fatalf("trailer %q: %q", name, value)
				}
				if ContentEncoding(r.Header.Get("Content-Encoding")) != "" {
					t.Fatalf("content encoding %q", r.Header.Get("Content-Encoding"))
				}
			})
		}
	}
}

func TestErrorsAreDistinct(t *testing.T) {
	for i, e := range Errors() {
		if e.Code() == "" || e.Error() == "" {
			t.Errorf("error %d has no code or message", i)
		}
		for j, other := range Errors() {
			if errors.Is(e.saying("more"), other) != (i == j) {
				t.Errorf("errors %d and %d", i, j)
			}
		}
	}
}
