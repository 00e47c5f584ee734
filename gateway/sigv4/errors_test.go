package sigv4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const goodAuth = "AWS4-HMAC-SHA256 Credential=" + exampleScope + ",SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"

// Each change to the valid example of header authentication, and its error.
func TestHeaderErrors(t *testing.T) {
	drop := func(name string) func(*http.Request) { return func(r *http.Request) { r.Header.Del(name) } }
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	auth := func(old, new string) func(*http.Request) {
		if !strings.Contains(goodAuth, old) {
			t.Fatalf("%q is not in the header", old)
		}
		return set("Authorization", strings.Replace(goodAuth, old, new, 1))
	}
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		want   *Error
		code   string
	}{
		{"anonymous", drop("Authorization"), ErrAnonymous, "AccessDenied"},
		{"empty", set("Authorization", ""), ErrAnonymous, "AccessDenied"},
		{"basic", set("Authorization", "Basic eDp5"), ErrAuthorizationType, "InvalidArgument"},
		{"v2", set("Authorization", "AWS AKIAIOSFODNN7EXAMPLE:frJIUN8DYpKDtOLCwo//yllqDzg="), ErrUnsupportedMechanism, "InvalidRequest"},
		{"v4a", auth("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), ErrUnsupportedMechanism, "InvalidRequest"},
		{"unknown key", auth("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLF"), ErrUnknownAccessKey, "InvalidAccessKeyId"},
		{"signature changed", auth("Signature=f0", "Signature=f1"), ErrSignature, "SignatureDoesNotMatch"},
		{"signature in capitals", auth("bdb41", "BDB41"), ErrSignature, "SignatureDoesNotMatch"},
		{"signature short", auth("bdb41", "bdb4"), ErrSignature, "SignatureDoesNotMatch"},
		{"no signature", auth(",Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41", ""), ErrAuthorizationMalformed, "AuthorizationHeaderMalformed"},
		{"no credential", auth("Credential="+exampleScope+",", ""), ErrAuthorizationMalformed, "AuthorizationHeaderMalformed"},
		{"no signed headers", auth("SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,", ""), ErrAuthorizationMalformed, "AuthorizationHeaderMalformed"},
		{"component twice", auth("Signature=", "Signature=a,Signature="), ErrAuthorizationMalformed, "AuthorizationHeaderMalformed"},
		{"unknown component", auth("Signature=", "X=1,Signature="), ErrAuthorizationMalformed, "AuthorizationHeaderMalformed"},
		{"no equals sign", auth("Signature=", "Signature"), ErrAuthorizationMalformed, "AuthorizationHeaderMalformed"},
		{"nothing else", set("Authorization", "AWS4-HMAC-SHA256"), ErrAuthorizationMalformed, "AuthorizationHeaderMalformed"},
		{"credential short", auth("/aws4_request", ""), ErrCredentialMalformed, "AuthorizationHeaderMalformed"},
		{"credential date", auth("20130524/", "2013-05-24/"), ErrCredentialMalformed, "AuthorizationHeaderMalformed"},
		{"no key", auth("AKIAIOSFODNN7EXAMPLE/", "/"), ErrCredentialMalformed, "AuthorizationHeaderMalformed"},
		{"other date", auth("20130524/", "20130525/"), ErrCredentialDate, "AuthorizationHeaderMalformed"},
		{"other region", auth("us-east-1", "eu-west-1"), ErrRegion, "AuthorizationHeaderMalformed"},
		{"other service", auth("/s3/", "/ec2/"), ErrService, "AuthorizationHeaderMalformed"},
		{"other terminal", auth("aws4_request", "aws3_request"), ErrTerminal, "AuthorizationHeaderMalformed"},
		{"no date", drop("X-Amz-Date"), ErrDate, "AccessDenied"},
		{"bad date", set("X-Amz-Date", "20130532T000000Z"), ErrDate, "AccessDenied"},
		{"before the epoch", set("X-Amz-Date", "19500524T000000Z"), ErrDate, "AccessDenied"},
		{"late", set("X-Amz-Date", "20130524T001501Z"), ErrSkewed, "RequestTimeTooSkewed"},
		{"early", set("X-Amz-Date", "20130523T234459Z"), ErrSkewed, "RequestTimeTooSkewed"},
		{"date changed", set("X-Amz-Date", "20130524T001500Z"), ErrSignature, "SignatureDoesNotMatch"},
		{"host not signed", auth("host;", ""), ErrUnsignedHeaders, "AccessDenied"},
		{"signed headers in capitals", auth("host;range", "Host;range"), ErrSignature, "SignatureDoesNotMatch"},
		{"signed headers too long", auth("host;", "host;"+strings.Repeat("a", maxSigned)), ErrUnsignedHeaders, "AccessDenied"},
		{"header added", set("X-Amz-Acl", "public-read"), ErrUnsignedHeaders, "AccessDenied"},
		{"signed header changed", set("Range", "bytes=0-10"), ErrSignature, "SignatureDoesNotMatch"},
		{"signed header dropped", drop("Range"), ErrSignature, "SignatureDoesNotMatch"},
		{"other host", func(r *http.Request) { r.Host = "evil" }, ErrSignature, "SignatureDoesNotMatch"},
		{"other method", func(r *http.Request) { r.Method = "HEAD" }, ErrSignature, "SignatureDoesNotMatch"},
		{"other path", func(r *http.Request) { r.URL.Path = "/test.tx" }, ErrSignature, "SignatureDoesNotMatch"},
		{"query added", func(r *http.Request) { r.URL.RawQuery = "acl" }, ErrSignature, "SignatureDoesNotMatch"},
		{"broken query", func(r *http.Request) { r.URL.RawQuery = "a=%zz" }, ErrInvalidURI, "InvalidURI"},
		{"cut query", func(r *http.Request) { r.URL.RawQuery = "a=%2" }, ErrInvalidURI, "InvalidURI"},
		{"presigned too", func(r *http.Request) { r.URL.RawQuery = "X-Amz-Algorithm=x" }, ErrSeveralMechanisms, "InvalidArgument"},
		{"presigned v2 too", func(r *http.Request) { r.URL.RawQuery = "Signature=x" }, ErrSeveralMechanisms, "InvalidArgument"},
		{"token", set("X-Amz-Security-Token", "t"), ErrSecurityToken, "InvalidToken"},
		{"no content hash", drop("X-Amz-Content-Sha256"), ErrContentSHA256Missing, "InvalidRequest"},
		{"bad content hash", set("X-Amz-Content-Sha256", "abc"), ErrContentSHA256Invalid, "InvalidArgument"},
		{"content hash not hex", set("X-Amz-Content-Sha256", strings.Repeat("g", 64)), ErrContentSHA256Invalid, "InvalidArgument"},
		{"other content hash", set("X-Amz-Content-Sha256", strings.Repeat("0", 64)), ErrSignature, "SignatureDoesNotMatch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := received(t, exampleGet())
			c.change(r)
			_, _, err := exampleVerifier(exampleTime()).Verify(r)
			var e *Error
			if !errors.Is(err, c.want) || !errors.As(err, &e) || e.Code() != c.code {
				t.Fatalf("%v, want %s: %v", err, c.code, c.want)
			}
		})
	}
}

// Each change to the valid presigned example, and its error.
func TestPresignedErrors(t *testing.T) {
	start := exampleTime()
	for _, c := range []struct {
		name, old, new string
		now            time.Duration
		want           *Error
	}{
		{name: "valid at the end", now: 24 * time.Hour},
		{name: "valid a little early", now: -15 * time.Minute},
		{name: "expired", now: 24*time.Hour + time.Second, want: ErrExpired},
		{name: "not yet valid", now: -15*time.Minute - time.Second, want: ErrNotYetValid},
		{name: "expires longer", old: "=86400", new: "=86401", want: ErrSignature},
		{name: "expires too long", old: "=86400", new: "=604801", want: ErrExpiresTooLong},
		{name: "expires far too long", old: "=86400", new: "=99999999999999999999999", want: ErrExpiresTooLong},
		{name: "expires negative", old: "=86400", new: "=-1", want: ErrExpiresNegative},
		{name: "expires no number", old: "=86400", new: "=1d", want: ErrExpiresNumber},
		{name: "expires nothing but a sign", old: "=86400", new: "=-", want: ErrExpiresNumber},
		{name: "no algorithm", old: "X-Amz-Algorithm=AWS4-HMAC-SHA256&", want: ErrQueryIncomplete},
		{name: "no credential", old: "X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&", want: ErrQueryIncomplete},
		{name: "no date", old: "X-Amz-Date=20130524T000000Z&", want: ErrQueryIncomplete},
		{name: "no expires", old: "X-Amz-Expires=86400&", want: ErrQueryIncomplete},
		{name: "no signed headers", old: "X-Amz-SignedHeaders=host&", want: ErrQueryIncomplete},
		{name: "no signature", old: "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404", want: ErrQueryIncomplete},
		{name: "empty signature", old: "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404", want: ErrQueryIncomplete},
		{name: "other algorithm", old: "HMAC-SHA256", new: "HMAC-SHA1", want: ErrQueryAlgorithm},
		{name: "short credential", old: "%2Faws4_request", want: ErrQueryCredential},
		{name: "other terminal", old: "aws4_request", new: "aws4", want: ErrQueryCredential},
		{name: "other region", old: "us-east-1", new: "us-east-2", want: ErrQueryCredential},
		{name: "other service", old: "%2Fs3%2F", new: "%2Fsts%2F", want: ErrQueryCredential},
		{name: "other day", old: "%2F20130524", new: "%2F20130525", want: ErrQueryCredential},
		{name: "bad date", old: "20130524T000000Z", new: "2013-05-24", want: ErrQueryDate},
		{name: "unknown key", old: "AKIA", new: "BKIA", want: ErrUnknownAccessKey},
		{name: "signature changed", old: "Signature=ae", new: "Signature=af", want: ErrSignature},
		{name: "parameter added", old: "?X", new: "?acl&X", want: ErrSignature},
		{name: "host not signed", old: "SignedHeaders=host", new: "SignedHeaders=range", want: ErrUnsignedHeaders},
		{name: "line end in signed headers", old: "SignedHeaders=host", new: "SignedHeaders=host%0Ahost", want: ErrSignature},
		{name: "header added", old: "HTTP/1.1\r\n", new: "HTTP/1.1\r\nx-amz-acl: private\r\n", want: ErrUnsignedHeaders},
		{name: "token", old: "?X", new: "?X-Amz-Security-Token=a&X", want: ErrSecurityToken},
		{name: "broken escape", old: "=86400", new: "=%6", want: ErrInvalidURI},
		{name: "v2", old: "/test.txt?", new: "/test.txt?AWSAccessKeyId=a&Expires=1&Signature=b&was=", want: ErrQueryIncomplete},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := strings.Replace(examplePresigned(), c.old, c.new, 1)
			_, p, err := exampleVerifier(start.Add(c.now)).Verify(received(t, raw))
			if c.want == nil && (err != nil || p.Kind != Unsigned) || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
		})
	}
	r := received(t, lines("GET /b/k?AWSAccessKeyId=a&Expires=1&Signature=b HTTP/1.1", "Host: h"))
	if _, _, err := exampleVerifier(start).Verify(r); !errors.Is(err, ErrUnsupportedMechanism) {
		t.Fatalf("v2: %v", err)
	}
}

// signedRequest is a request with a valid signature over any headers.
func signedRequest(t testing.TB, content string, headers map[string]string, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequest("PUT", "http://h/b/k", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	Sign(r, exampleKey, exampleSecret, "us-east-1", "s3", exampleTime(), content)
	return overTheWire(t, r)
}

func TestPayloadErrors(t *testing.T) {
	for _, c := range []struct {
		name, content string
		headers       map[string]string
		want          *Error
	}{
		{"no decoded length", signedChunks, nil, ErrDecodedLengthMissing},
		{"negative length", signedChunks, map[string]string{"X-Amz-Decoded-Content-Length": "-1"}, ErrDecodedLengthInvalid},
		{"length no number", unsignedChunksTrailer, map[string]string{"X-Amz-Decoded-Content-Length": "1k"}, ErrDecodedLengthInvalid},
		{"length too large", unsignedChunksTrailer, map[string]string{"X-Amz-Decoded-Content-Length": "9223372036854775808"}, ErrDecodedLengthInvalid},
		{"two trailers", unsignedChunksTrailer, map[string]string{"X-Amz-Decoded-Content-Length": "1", "X-Amz-Trailer": "x-amz-checksum-crc32,x-amz-checksum-sha1"}, ErrSeveralTrailers},
		{"no checksum", unsignedChunksTrailer, map[string]string{"X-Amz-Decoded-Content-Length": "1", "X-Amz-Trailer": "expires"}, ErrUnsupportedTrailer},
		{"trailer of a plain body", UnsignedPayload, map[string]string{"X-Amz-Trailer": "x-amz-checksum-crc32"}, ErrMalformedTrailer},
		{"trailer of chunks without", signedChunks, map[string]string{"X-Amz-Decoded-Content-Length": "1", "X-Amz-Trailer": "x-amz-checksum-crc32"}, ErrMalformedTrailer},
		{"V4A chunks", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", nil, ErrContentSHA256Invalid},
	} {
		_, _, err := exampleVerifier(exampleTime()).Verify(signedRequest(t, c.content, c.headers, ""))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestPlainBodies(t *testing.T) {
	v := exampleVerifier(exampleTime())
	for _, c := range []struct {
		name, content, body, sent string
		want                      error
	}{
		{"hashed", sum256("hello"), "hello", "hello", nil},
		{"hashed, empty", EmptyPayload, "", "", nil},
		{"unsigned", UnsignedPayload, "hello", "hello", nil},
		{"changed", sum256("hello"), "hello", "hallo", ErrContentSHA256Mismatch},
		{"not empty", sum256("hello"), "", "", ErrContentSHA256Mismatch},
		{"short", sum256("hello"), "hello", "hell", ErrIncompleteBody},
		{"short, unsigned", UnsignedPayload, "hello", "hell", ErrIncompleteBody},
	} {
		for _, reader := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader, func(r io.Reader) io.Reader { return r }} {
			r := signedRequest(t, c.content, nil, c.body)
			_, p, err := v.Verify(r)
			if err != nil {
				t.Fatal(err)
			}
			r.Body = io.NopCloser(reader(strings.NewReader(c.sent)))
			b := v.Body(r, p)
			got, err := io.ReadAll(b)
			if !errors.Is(err, c.want) || err == nil && string(got) != c.sent {
				t.Errorf("%s: %q, %v, want %v", c.name, got, err, c.want)
			}
			if _, again := b.Read(make([]byte, 1)); c.want != nil && !errors.Is(again, c.want) {
				t.Errorf("%s: read again: %v", c.name, again)
			}
		}
	}
	// Who reads just the announced size meets the error too.
	r := signedRequest(t, sum256("hello"), nil, "hello")
	_, p, _ := v.Verify(r)
	r.Body = io.NopCloser(strings.NewReader("hallo"))
	if n, err := io.ReadFull(v.Body(r, p), make([]byte, 5)); !errors.Is(err, ErrContentSHA256Mismatch) {
		t.Errorf("ReadFull: %d, %v", n, err)
	}
	r.Body = io.NopCloser(iotest.ErrReader(io.ErrClosedPipe))
	if _, err := io.ReadAll(v.Body(r, p)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("broken source: %v", err)
	}
	r.Body = nil
	if _, err := io.ReadAll(v.Body(r, Payload{})); err != nil {
		t.Errorf("no body: %v", err)
	}
}

// chunkSigner makes bodies with valid signatures.
type chunkSigner struct {
	r   Reader
	out bytes.Buffer
}

func newChunkSigner(p Payload) *chunkSigner {
	s := &chunkSigner{}
	s.r.open(p, &window{})
	return s
}

// link gives the next signature of the chain.
func (s *chunkSigner) link(kind, infix, data string) string {
	t := append([]byte(zeroBlock), kind+s.r.chain.dateTime+"\n"+s.r.chain.scope+"\n"+string(s.r.chain.seed[:])+"\n"+infix+sum256(data)...)
	s.r.chain.seed = macHex(&s.r.chain.key, t)
	return string(s.r.chain.seed[:])
}

func (s *chunkSigner) chunk(data string) {
	sig := s.link("AWS4-HMAC-SHA256-PAYLOAD\n", emptySHA256+"\n", data)
	s.out.WriteString(strconv.FormatInt(int64(len(data)), 16) + ";chunk-signature=" + sig + "\r\n" + data)
	if data != "" {
		s.out.WriteString("\r\n")
	}
}

func TestChunkedErrors(t *testing.T) {
	v := exampleVerifier(exampleTime())
	a, small := strings.Repeat("a", minChunk), strings.Repeat("b", minChunk-1)
	trailer := "x-amz-checksum-crc32:AAAAAA==\n"
	for _, c := range []struct {
		name string
		kind string
		size int
		body func(s *chunkSigner)
		want error
	}{
		{"whole", signedChunks, minChunk + 1, func(s *chunkSigner) { s.chunk(a); s.chunk("x"); s.chunk(""); s.out.WriteString("\r\n") }, nil},
		{"without the last line end", signedChunks, 1, func(s *chunkSigner) { s.chunk("x"); s.chunk("") }, nil},
		{"empty", signedChunks, 0, func(s *chunkSigner) { s.chunk(""); s.out.WriteString("\r\n") }, nil},
		{"nothing at all", signedChunks, 0, func(s *chunkSigner) {}, ErrIncompleteBody},
		{"small chunk", signedChunks, minChunk, func(s *chunkSigner) { s.chunk(small); s.chunk("x"); s.chunk("") }, ErrChunkSize},
		{"announced more", signedChunks, minChunk + 1, func(s *chunkSigner) { s.chunk(a); s.chunk("") }, ErrIncompleteBody},
		{"announced less", signedChunks, minChunk - 1, func(s *chunkSigner) { s.chunk(a); s.chunk("") }, ErrIncompleteBody},
		{"a chunk too many", signedChunks, minChunk, func(s *chunkSigner) { s.chunk(a); s.chunk(a); s.chunk("") }, ErrIncompleteBody},
		{"last chunk missing", signedChunks, minChunk, func(s *chunkSigner) { s.chunk(a) }, ErrIncompleteBody},
		{"something after", signedChunks, 1, func(s *chunkSigner) { s.chunk("x"); s.chunk(""); s.out.WriteString("\r\nmore") }, ErrMalformedTrailer},
		{"chunks swapped", signedChunks, 2 * minChunk, func(s *chunkSigner) {
			s.chunk(a)
			first := s.out.String()
			s.out.Reset()
			s.chunk(strings.Repeat("c", minChunk))
			s.out.WriteString(first)
			s.chunk("")
		}, ErrSignature},
		{"no signature", signedChunks, 1, func(s *chunkSigner) { s.out.WriteString("1\r\nx\r\n0\r\n\r\n") }, ErrMalformedChunk},
		{"no size", signedChunks, 1, func(s *chunkSigner) { s.out.WriteString(";chunk-signature=\r\nx\r\n") }, ErrMalformedChunk},
		{"size no number", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("-1\r\nx\r\n") }, ErrMalformedChunk},
		{"size too long", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1000000000000000\r\nx\r\n") }, ErrMalformedChunk},
		{"head too long", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1;" + small + "\r\nx\r\n") }, ErrMalformedChunk},
		{"LF only", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1\nx\n0\n\n") }, ErrMalformedChunk},
		{"data too long", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1\r\nxy\r\n0\r\n\r\n") }, ErrMalformedChunk},
		{"unsigned", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1\r\nx\r\n0\r\n" + trailer + "\r\n") }, nil},
		{"unsigned, extension", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1;a=b\r\nx\r\n0\r\n" + trailer + "\r\n") }, nil},
		{"unsigned, small chunk", unsignedChunksTrailer, 2, func(s *chunkSigner) { s.out.WriteString("1\r\nx\r\n1\r\ny\r\n0\r\n" + trailer + "\r\n") }, ErrChunkSize},
		{"trailer missing", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1\r\nx\r\n0\r\n\r\n") }, ErrMalformedTrailer},
		{"trailer twice", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1\r\nx\r\n0\r\n" + trailer + trailer + "\r\n") }, ErrMalformedTrailer},
		{"trailer of another", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1\r\nx\r\n0\r\nx-amz-checksum-sha1:AAAA\r\n\r\n") }, ErrMalformedTrailer},
		{"trailer without colon", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1\r\nx\r\n0\r\nx-amz-checksum-crc32\r\n\r\n") }, ErrMalformedTrailer},
		{"trailer cut", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1\r\nx\r\n0\r\n" + trailer[:20]) }, ErrMalformedTrailer},
		{"trailer too long", unsignedChunksTrailer, 1, func(s *chunkSigner) { s.out.WriteString("1\r\nx\r\n0\r\nx-amz-checksum-crc32:" + small + "\r\n\r\n") }, ErrMalformedTrailer},
		{"signature where none is", unsignedChunksTrailer, 1, func(s *chunkSigner) {
			s.out.WriteString("1\r\nx\r\n0\r\n" + trailer + "x-amz-trailer-signature:00\r\n\r\n")
		}, ErrMalformedTrailer},
		{"signed trailer", signedChunksTrailer, 1, func(s *chunkSigner) {
			s.chunk("x")
			s.chunk("")
			s.out.WriteString(trailer + "\r\nx-amz-trailer-signature:" + s.link("AWS4-HMAC-SHA256-TRAILER\n", "", trailer) + "\r\n\r\n")
		}, nil},
		{"trailer not signed", signedChunksTrailer, 1, func(s *chunkSigner) { s.chunk("x"); s.chunk(""); s.out.WriteString(trailer + "\r\n") }, ErrMalformedTrailer},
		{"trailer after its signature", signedChunksTrailer, 1, func(s *chunkSigner) {
			s.chunk("x")
			s.chunk("")
			s.out.WriteString("x-amz-trailer-signature:" + s.link("AWS4-HMAC-SHA256-TRAILER\n", "", trailer) + "\r\n" + trailer + "\r\n")
		}, ErrMalformedTrailer},
		{"trailer changed", signedChunksTrailer, 1, func(s *chunkSigner) {
			s.chunk("x")
			s.chunk("")
			s.out.WriteString("x-amz-checksum-crc32:AAAAAQ==\nx-amz-trailer-signature:" + s.link("AWS4-HMAC-SHA256-TRAILER\n", "", trailer) + "\r\n\r\n")
		}, ErrSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := map[string]string{"X-Amz-Decoded-Content-Length": fmt.Sprint(c.size)}
			if c.kind != signedChunks {
				headers["X-Amz-Trailer"] = "x-amz-checksum-crc32"
			}
			r := signedRequest(t, c.kind, headers, "")
			_, p, err := v.Verify(r)
			if err != nil {
				t.Fatal(err)
			}
			s := newChunkSigner(p)
			c.body(s)
			for _, reader := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.DataErrReader, func(r io.Reader) io.Reader { return r }} {
				r.Body = io.NopCloser(reader(bytes.NewReader(s.out.Bytes())))
				b := v.Body(r, p)
				got, err := io.ReadAll(b)
				if !errors.Is(err, c.want) || err == nil && len(got) != c.size {
					t.Errorf("%d bytes, %v, want %v", len(got), err, c.want)
				}
				name, _ := b.Trailer()
				if (name != "") != (c.want == nil && c.kind != signedChunks) {
					t.Errorf("trailer %q", name)
				}
				if c.want != nil && c.size > 0 { // also for who stops at the size
					r.Body = io.NopCloser(reader(bytes.NewReader(s.out.Bytes())))
					if _, err := io.ReadFull(v.Body(r, p), make([]byte, c.size)); err == nil {
						t.Error("ReadFull got it all")
					}
				}
			}
		})
	}
}

func TestAnonymousPayload(t *testing.T) {
	v := exampleVerifier(exampleTime())
	r := received(t, lines("PUT /b/k HTTP/1.1", "Host: h", "Content-Length: 3")+"abc")
	if _, p, err := v.Verify(r); !errors.Is(err, ErrAnonymous) || p.Kind != Unsigned || p.Size != 3 {
		t.Fatalf("%+v, %v", p, err)
	}
	r.Header.Set("X-Amz-Content-Sha256", unsignedChunksTrailer)
	r.Header.Set("X-Amz-Decoded-Content-Length", "7")
	if _, p, err := v.Verify(r); !errors.Is(err, ErrAnonymous) || p.Kind != UnsignedChunksTrailer || p.Size != 7 {
		t.Fatalf("%+v, %v", p, err)
	}
	r.Header.Set("X-Amz-Content-Sha256", signedChunks)
	if _, _, err := v.Verify(r); !errors.Is(err, ErrContentSHA256Invalid) {
		t.Fatalf("signed chunks by nobody: %v", err)
	}
}

func TestDateHeader(t *testing.T) {
	for _, row := range []struct {
		date string
		want error
	}{
		{"Fri, 24 May 2013 00:00:00 GMT", nil},
		{"Fri, 24 May 2013 00:00:00 -0000", nil}, // as botocore signs it
		{"Fri, 24 May 2013 02:00:00 +0200", nil},
		{"20130524T000000Z", nil},
		{"Fri, 24 May 2013 02:00:00 +0000", ErrSkewed},
		{"20130524T020000Z", ErrSkewed},
		{"yesterday", ErrDate},
		{"", ErrDate},
		{"Tue, 07 Jul 1950 21:53:04 GMT", ErrDate},
	} {
		r := received(t, lines("GET /b/k HTTP/1.1", "Host: h", "Date: "+row.date, "X-Amz-Content-Sha256: "+emptySHA256))
		c := newClaim(exampleKey, "us-east-1", "s3", exampleTime())
		c.signedHeaders = "date;host;x-amz-content-sha256"
		r.Header.Set("Authorization", algorithm+" Credential="+exampleScope+", SignedHeaders="+c.signedHeaders+", Signature="+c.sign(r, exampleSecret, emptySHA256))
		if _, _, err := exampleVerifier(exampleTime()).Verify(r); !errors.Is(err, row.want) {
			t.Errorf("%q: %v, want %v", row.date, err, row.want)
		}
	}
}

func TestOtherServiceAndRegion(t *testing.T) {
	v := New(Config{
		Lookup: func(k string) (string, bool) { return exampleSecret, k == "with/slash" },
		Region: "mars", Service: "kintsugi", Now: exampleTime,
	})
	r, _ := http.NewRequest("GET", "http://127.0.0.1:9001/admin/status?x=%2F+y", nil)
	Sign(r, "with/slash", exampleSecret, "mars", "kintsugi", exampleTime(), EmptyPayload)
	if id, _, err := v.Verify(overTheWire(t, r)); err != nil || id.AccessKey != "with/slash" || v.Region() != "mars" {
		t.Fatalf("%v, %v", id, err)
	}
	if _, _, err := New(Config{Region: "mars", Service: "kintsugi", Now: exampleTime}).Verify(overTheWire(t, r)); !errors.Is(err, ErrUnknownAccessKey) {
		t.Fatalf("no look-up: %v", err)
	}
}

func TestContentEncoding(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "gzip": "gzip", "aws-chunked": "", "aws-chunked,gzip": "gzip", "gzip, aws-chunked": "gzip", "aws-chunked, gzip, br": "gzip,br", "gzip, br": "gzip, br",
	} {
		if got := ContentEncoding(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// The cache stays bounded and right beyond its size.
func TestKeyCache(t *testing.T) {
	var c keyCache
	for i := range 3 * keyCacheSize {
		secret := fmt.Sprint("secret", i)
		if got := c.get(secret, "20130524", "r", "s3"); got != deriveKey(secret, "20130524", "r", "s3") {
			t.Fatal(i)
		}
		if got := c.get("hot", "20130524", "r", "s3"); got != deriveKey("hot", "20130524", "r", "s3") {
			t.Fatal("hot", i)
		}
	}
	if len(c.young) > keyCacheSize || len(c.old) > keyCacheSize {
		t.Fatalf("%d and %d keys", len(c.young), len(c.old))
	}
}
