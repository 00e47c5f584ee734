package sigv4

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

func BenchmarkVerifyHeader(b *testing.B) {
	benchVerify(b, exampleGet())
}

func BenchmarkVerifyPresigned(b *testing.B) {
	benchVerify(b, examplePresigned())
}

func benchVerify(b *testing.B, raw string) {
	v, r := exampleVerifier(exampleTime()), received(b, raw)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := v.Verify(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBody(b *testing.B) {
	v := exampleVerifier(exampleTime())
	data := strings.Repeat("a", 1<<20)
	p := make([]byte, 1<<20)
	for name, kind := range map[string]string{"unsigned": UnsignedPayload, "hashed": sum256(data), "signed chunks": signedChunks, "unsigned chunks": unsignedChunksTrailer} {
		b.Run(name, func(b *testing.B) {
			r := signedRequest(b, kind, map[string]string{"X-Amz-Decoded-Content-Length": "1048576"}, data)
			_, payload, err := v.Verify(r)
			if err != nil {
				b.Fatal(err)
			}
			body := []byte(data)
			switch payload.Kind {
			case SignedChunks:
				s := newChunkSigner(payload)
				for range 16 {
					s.chunk(data[:1<<16])
				}
				s.chunk("")
				body = s.out.Bytes()
			case UnsignedChunksTrailer:
				body = []byte(strings.Repeat("10000\r\n"+data[:1<<16]+"\r\n", 16) + "0\r\n\r\n")
			}
			b.SetBytes(1 << 20)
			b.ReportAllocs()
			for b.Loop() {
				r := &http.Request{Body: io.NopCloser(bytes.NewReader(body))}
				if _, err := io.ReadFull(v.Body(r, payload), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
