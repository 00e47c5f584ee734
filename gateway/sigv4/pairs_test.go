package sigv4

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"testing/iotest"
)

// TestPairs reads chunked bodies of all shapes with room for two chunks and
// without: bytes and verdict are the same, for good bodies, and for ones with a
// byte changed, cut off or added anywhere.
func TestPairs(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	v := exampleVerifier(exampleTime())
	good, bad := 0, 0
	for range 300 {
		var sizes []int
		total := 0
		for range rng.IntN(6) {
			size := []int{minChunk, minChunk, minChunk + 77, 2 * minChunk}[rng.IntN(4)]
			sizes = append(sizes, size)
			total += size
		}
		last := rng.IntN(minChunk)
		sizes = append(sizes, last)
		total += last
		r := signedRequest(t, signedChunks, map[string]string{"X-Amz-Decoded-Content-Length": strconv.Itoa(total)}, "")
		_, payload, err := v.Verify(r)
		if err != nil {
			t.Fatal(err)
		}
		s := newChunkSigner(payload)
		data := make([]byte, total)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		rest := data
		for _, size := range sizes {
			if size > 0 {
				s.chunk(string(rest[:size]))
				rest = rest[size:]
			}
		}
		s.chunk("")
		body := bytes.Clone(s.out.Bytes())
		switch at := rng.IntN(len(body)); rng.IntN(4) {
		case 0:
			body[at] ^= 1 << rng.IntN(8)
		case 1:
			body = body[:at]
		case 2:
			body = append(body, "\r\nx"...)
		}
		read := func(room int) ([]byte, error) {
			src := io.Reader(bytes.NewReader(body))
			if rng.IntN(2) == 0 {
				src = iotest.HalfReader(src)
			}
			b := v.Body(&http.Request{Body: io.NopCloser(src)}, payload)
			var got []byte
			p := make([]byte, room)
			for {
				n, err := b.Read(p)
				got = append(got, p[:n]...)
				if err != nil {
					return got, err
				}
			}
		}
		one, oneErr := read(minChunk)
		two, twoErr := read(4 * minChunk)
		if !errors.Is(twoErr, oneErr) {
			t.Fatalf("chunks of %v: verdict %v in pairs, %v one by one", sizes, twoErr, oneErr)
		}
		if oneErr == io.EOF {
			good++
			if !bytes.Equal(one, data) || !bytes.Equal(two, data) {
				t.Fatalf("chunks of %v: other bytes", sizes)
			}
			continue
		}
		bad++
		if n := min(len(one), len(two)); !bytes.Equal(two[:n], one[:n]) {
			t.Fatalf("chunks of %v: other bytes before %v", sizes, oneErr)
		}
		if total > 0 && max(len(one), len(two)) >= total {
			t.Fatalf("chunks of %v: all %d bytes before %v", sizes, total, oneErr)
		}
	}
	if good < 50 || bad < 50 {
		t.Fatalf("%d good bodies, %d bad", good, bad)
	}
}
