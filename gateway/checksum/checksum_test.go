package checksum

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// The check values of the CRC catalogue for "123456789", and known digests.
func TestKnownValues(t *testing.T) {
	for a, want := range map[Algorithm][]byte{
		CRC32:     {0xcb, 0xf4, 0x39, 0x26},
		CRC32C:    {0xe3, 0x06, 0x92, 0x83},
		CRC64NVME: {0xae, 0x8b, 0x14, 0x86, 0x0a, 0x79, 0x98, 0x88},
	} {
		if got := a.Of([]byte("123456789")).Append(nil); !bytes.Equal(got, want) {
			t.Errorf("%v: %x, want %x", a, got, want)
		}
	}
	if got := SHA256.Of(nil).String(); got != "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" {
		t.Errorf("SHA256 of nothing: %s", got)
	}
	if got := SHA1.Of(nil).String(); got != "2jmj7l5rSw0yVb/vlWAYkK/YBwk=" {
		t.Errorf("SHA1 of nothing: %s", got)
	}
	// From the S3 API Reference's example of a trailer.
	if got := CRC32C.Of([]byte(strings.Repeat("a", 66560))).String(); got != "sOO8/Q==" {
		t.Errorf("CRC32C of the example: %s", got)
	}
	if got := None.Of([]byte("x")); !got.IsZero() || got.String() != "" || got.Type() != Unspecified {
		t.Errorf("None: %v", got)
	}
}

func TestNamesRoundTrip(t *testing.T) {
	for _, a := range Algorithms() {
		for _, name := range []string{a.String(), strings.ToLower(a.String()), strings.TrimPrefix(a.Header(), "x-amz-checksum-")} {
			if got, err := ParseAlgorithm(name); err != nil || got != a {
				t.Errorf("%q: %v, %v", name, got, err)
			}
		}
		if a.New().Size() != a.Size() {
			t.Errorf("%v: size", a)
		}
	}
	for _, name := range []string{"", "MD5", "CRC64", "CRC32 "} {
		if _, err := ParseAlgorithm(name); !errors.Is(err, ErrUnknownAlgorithm) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, typ := range []Type{Unspecified, FullObject, Composite} {
		if got, err := ParseType(typ.String()); err != nil || got != typ {
			t.Errorf("%v: %v, %v", typ, got, err)
		}
	}
	if _, err := ParseType("full_object"); !errors.Is(err, ErrUnknownType) {
		t.Errorf("ParseType: %v", err)
	}
	if None.Header() != "" || None.New() != nil || Algorithm(77).Size() != 0 {
		t.Error("None is not nothing")
	}
}

func TestSumsRoundTrip(t *testing.T) {
	r := seeded(t)
	for _, a := range Algorithms() {
		for _, parts := range []int{0, 1, 9, 10000} {
			raw := randomBytes(r, a.Size())
			s, err := NewSum(a, raw, parts)
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParseSum(a, s.String())
			if err != nil || again != s || again.Parts() != parts || again.Algorithm() != a || !bytes.Equal(again.Append(nil), raw) {
				t.Errorf("%v %d: %v, %v", a, parts, again, err)
			}
			if want := map[bool]Type{true: FullObject, false: Composite}[parts == 0]; s.Type() != want {
				t.Errorf("%v %d: type %v", a, parts, s.Type())
			}
		}
	}
}

func TestInvalidValues(t *testing.T) {
	for _, text := range []string{
		"", "AAAAAA", "AAAAAA=", "AAAAAB==", "AAAAAA== ", " AAAAAA==", "AAAA", "AAAAAAA=", "AAAAAAAA", "!!!!!!==",
		"AAAAAA==-", "AAAAAA==-0", "AAAAAA==-01", "AAAAAA==-10001", "AAAAAA==--1", "AAAAAA==-+1", "AAAAAA==-1-1", "AAA\nAA==",
	} {
		if s, err := ParseSum(CRC32, text); !errors.Is(err, ErrInvalidValue) {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
	if _, err := ParseSum(None, "AAAAAA=="); !errors.Is(err, ErrUnknownAlgorithm) {
		t.Errorf("None: %v", err)
	}
	if _, err := NewSum(SHA1, make([]byte, 4), 0); !errors.Is(err, ErrInvalidValue) {
		t.Errorf("short: %v", err)
	}
	if _, err := NewSum(SHA1, make([]byte, 20), 10001); !errors.Is(err, ErrInvalidValue) {
		t.Errorf("too many parts: %v", err)
	}
}

func TestMultipartTypes(t *testing.T) {
	for _, c := range []struct {
		a     Algorithm
		asked Type
		want  Type
	}{
		{CRC32, Unspecified, Composite}, {CRC32, Composite, Composite}, {CRC32, FullObject, FullObject},
		{CRC32C, Unspecified, Composite}, {CRC32C, Composite, Composite}, {CRC32C, FullObject, FullObject},
		{CRC64NVME, Unspecified, FullObject}, {CRC64NVME, FullObject, FullObject}, {CRC64NVME, Composite, Unspecified},
		{SHA1, Unspecified, Composite}, {SHA1, Composite, Composite}, {SHA1, FullObject, Unspecified},
		{SHA256, Unspecified, Composite}, {SHA256, Composite, Composite}, {SHA256, FullObject, Unspecified},
	} {
		got, err := MultipartType(c.a, c.asked)
		if got != c.want || (c.want == Unspecified) != errors.Is(err, ErrTypeNotAllowed) {
			t.Errorf("%v %v: %v, %v", c.a, c.asked, got, err)
		}
	}
	if _, err := MultipartType(None, Composite); !errors.Is(err, ErrUnknownAlgorithm) {
		t.Errorf("None: %v", err)
	}
}

// Over random splits, also with empty parts: combining the parts' CRCs gives
// the CRC of the whole, composing gives the hash of the hashes.
func TestParts(t *testing.T) {
	r := seeded(t)
	for range 200 {
		data := randomBytes(r, r.IntN(5000))
		for _, a := range Algorithms() {
			var parts []Part
			var sums []byte
			for rest, last := data, false; !last; {
				n := r.IntN(len(rest) + 1)
				if last = len(parts) == r.IntN(8); last {
					n = len(rest)
				}
				parts = append(parts, Part{Sum: a.Of(rest[:n]), Size: int64(n)})
				sums = parts[len(parts)-1].Sum.Append(sums)
				rest = rest[n:]
				last = last || len(parts) > 20 && len(rest) == 0
			}
			if composite, err := Compose(a, parts); err != nil || composite.Parts() != len(parts) ||
				!bytes.Equal(composite.Append(nil), a.Of(sums).Append(nil)) {
				t.Fatalf("Compose %v: %v, %v", a, composite, err)
			}
			whole, err := Combine(a, parts)
			if a == SHA1 || a == SHA256 {
				if !errors.Is(err, ErrTypeNotAllowed) {
					t.Fatalf("Combine %v: %v", a, err)
				}
			} else if err != nil || whole != a.Of(data) {
				t.Fatalf("Combine %v of %d parts, %d bytes: %v, %v, want %v", a, len(parts), len(data), whole, err, a.Of(data))
			}
		}
	}
}

// Sizes beyond 4 GiB, against the same thing done in two steps.
func TestCombineLarge(t *testing.T) {
	for _, a := range []Algorithm{CRC32, CRC32C, CRC64NVME} {
		f, _ := fieldOf(a)
		x, y := int64(5<<30+12345), int64(7<<40+3)
		if f.multiply(f.shift(x), f.shift(y)) != f.shift(x+y) {
			t.Errorf("%v: shifts do not add up", a)
		}
		zeros := Part{Sum: a.Of(make([]byte, 1<<20)), Size: 1 << 20}
		parts := []Part{{Sum: a.Of([]byte("x")), Size: 1}}
		for range 64 {
			parts = append(parts, zeros)
		}
		got, err := Combine(a, parts)
		if want := a.Of(append([]byte("x"), make([]byte, 64<<20)...)); err != nil || got != want {
			t.Errorf("%v: %v, %v, want %v", a, got, err, want)
		}
	}
}

func TestPartsRefused(t *testing.T) {
	good := Part{Sum: CRC32.Of([]byte("a")), Size: 1}
	composite, err := Compose(CRC32, []Part{good})
	if err != nil {
		t.Fatal(err)
	}
	for name, parts := range map[string][]Part{
		"none":      nil,
		"many":      make([]Part, maxParts+1),
		"no sum":    {good, {Size: 1}},
		"other":     {good, {Sum: CRC32C.Of(nil)}},
		"composite": {good, {Sum: composite, Size: 1}},
		"negative":  {good, {Sum: good.Sum, Size: -1}},
	} {
		if _, err := Combine(CRC32, parts); !errors.Is(err, ErrParts) {
			t.Errorf("Combine %s: %v", name, err)
		}
		if _, err := Compose(CRC32, parts); !errors.Is(err, ErrParts) {
			t.Errorf("Compose %s: %v", name, err)
		}
	}
}

func TestFromHeader(t *testing.T) {
	abc := CRC32.Of([]byte("abc")).String()
	for _, c := range []struct {
		name string
		h    http.Header
		want Request
		err  *Error
	}{
		{"nothing", http.Header{}, Request{}, nil},
		{"value", http.Header{"X-Amz-Checksum-Crc32": {abc}}, Request{Algorithm: CRC32, Sum: CRC32.Of([]byte("abc"))}, nil},
		{"value and sdk", http.Header{"X-Amz-Checksum-Crc32": {abc}, "X-Amz-Sdk-Checksum-Algorithm": {"CRC32"}}, Request{Algorithm: CRC32, Sum: CRC32.Of([]byte("abc"))}, nil},
		{"trailer", http.Header{"X-Amz-Trailer": {"x-amz-checksum-crc64nvme"}, "X-Amz-Sdk-Checksum-Algorithm": {"crc64nvme"}}, Request{Algorithm: CRC64NVME, Trailer: true}, nil},
		{"multipart headers", http.Header{"X-Amz-Checksum-Algorithm": {"SHA1"}, "X-Amz-Checksum-Type": {"COMPOSITE"}, "X-Amz-Checksum-Mode": {"ENABLED"}}, Request{}, nil},
		{"two", http.Header{"X-Amz-Checksum-Crc32": {abc}, "X-Amz-Checksum-Crc32c": {abc}}, Request{}, ErrSeveral},
		{"twice", http.Header{"X-Amz-Checksum-Crc32": {abc, abc}}, Request{}, ErrSeveral},
		{"value and trailer", http.Header{"X-Amz-Checksum-Crc32": {abc}, "X-Amz-Trailer": {"x-amz-checksum-crc32"}}, Request{}, ErrSeveral},
		{"two trailers", http.Header{"X-Amz-Trailer": {"x-amz-checksum-crc32, x-amz-checksum-sha1"}}, Request{}, ErrSeveral},
		{"unknown", http.Header{"X-Amz-Checksum-Md4": {abc}}, Request{}, ErrUnknownHeader},
		{"unknown trailer", http.Header{"X-Amz-Trailer": {"x-amz-checksum-md4"}}, Request{}, ErrUnknownTrailer},
		{"no checksum trailer", http.Header{"X-Amz-Trailer": {"x-amz-meta-a"}}, Request{}, ErrUnknownTrailer},
		{"bad value", http.Header{"X-Amz-Checksum-Sha256": {abc}}, Request{}, ErrInvalidValue},
		{"composite value", http.Header{"X-Amz-Checksum-Crc32": {abc + "-2"}}, Request{}, ErrInvalidValue},
		{"empty value", http.Header{"X-Amz-Checksum-Crc32": {""}}, Request{}, ErrInvalidValue},
		{"sdk differs", http.Header{"X-Amz-Checksum-Crc32": {abc}, "X-Amz-Sdk-Checksum-Algorithm": {"SHA1"}}, Request{}, ErrSDKAlgorithm},
		{"sdk unknown", http.Header{"X-Amz-Checksum-Crc32": {abc}, "X-Amz-Sdk-Checksum-Algorithm": {"x"}}, Request{}, ErrSDKAlgorithm},
		{"sdk alone", http.Header{"X-Amz-Sdk-Checksum-Algorithm": {"SHA1"}}, Request{}, ErrMissing},
	} {
		got, err := FromHeader(c.h)
		if c.err == nil && err != nil || c.err != nil && !errors.Is(err, c.err) || got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func TestCheck(t *testing.T) {
	abc, abd := CRC32.Of([]byte("abc")), CRC32.Of([]byte("abd"))
	for _, c := range []struct {
		name    string
		q       Request
		trailer string
		err     error
	}{
		{"none", Request{}, "", nil},
		{"right", Request{Algorithm: CRC32, Sum: abc}, "", nil},
		{"wrong", Request{Algorithm: CRC32, Sum: abd}, "", ErrMismatch},
		{"right trailer", Request{Algorithm: CRC32, Trailer: true}, abc.String(), nil},
		{"wrong trailer", Request{Algorithm: CRC32, Trailer: true}, abd.String(), ErrMismatch},
		{"no trailer", Request{Algorithm: CRC32, Trailer: true}, "", ErrInvalidValue},
		{"composite trailer", Request{Algorithm: CRC32, Trailer: true}, abc.String() + "-1", ErrMismatch},
	} {
		if err := c.q.Check(abc, c.trailer); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if got := Mismatch(SHA256).Error(); got != "The SHA256 you specified did not match the calculated checksum." {
		t.Error(got)
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

// A stream in random pieces, some of them beside the caller, and on reused
// hashers, gives what one call over all of it gives.
func TestHasher(t *testing.T) {
	r := seeded(t)
	var hs Hashers
	for round := range 100 {
		a := append([]Algorithm{None, Algorithm(99)}, CRC32, CRC32C, CRC64NVME, SHA1, SHA256)[round%7]
		data := randomBytes(r, r.IntN(10000))
		h := hs.New(a)
		for rest := data; len(rest) > 0; {
			n := 1 + r.IntN(len(rest))
			if r.IntN(2) == 0 {
				h.Start(rest[:n])
			} else if _, err := h.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if h.MD5() != md5.Sum(data) || h.Size() != int64(len(data)) || h.Sum() != a.Of(data) {
			t.Fatalf("%v of %d bytes: %x, %v", a, len(data), h.MD5(), h.Sum())
		}
		if a == CRC32 {
			h.Start(data) // Close waits
		}
		h.Close()
	}
}

func FuzzParseSum(f *testing.F) {
	for _, a := range Algorithms() {
		f.Add(byte(a), a.Of([]byte("x")).String())
		f.Add(byte(a), a.Of([]byte("x")).String()+"-17")
	}
	f.Fuzz(func(t *testing.T, algorithm byte, text string) {
		s, err := ParseSum(Algorithm(algorithm), text)
		if err != nil {
			if !s.IsZero() {
				t.Fatalf("%v with %v", s, err)
			}
			return
		}
		if s.String() != text || !strings.HasPrefix(text, base64.StdEncoding.EncodeToString(s.Append(nil))) {
			t.Fatalf("%q became %q", text, s)
		}
	})
}

func BenchmarkCombine10000Parts(b *testing.B) {
	for _, a := range []Algorithm{CRC32, CRC64NVME} {
		b.Run(a.String(), func(b *testing.B) {
			parts := make([]Part, maxParts)
			for i := range parts {
				parts[i] = Part{Sum: a.Of([]byte{byte(i)}), Size: 5<<20 + int64(i)}
			}
			for b.Loop() {
				if _, err := Combine(a, parts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHasher(b *testing.B) {
	var hs Hashers
	data := make([]byte, 4<<20)
	for _, a := range []Algorithm{None, CRC32, CRC32C, CRC64NVME, SHA1, SHA256} {
		for _, size := range []int{4 << 10, 4 << 20} {
			b.Run(a.String()+"/"+map[bool]string{true: "4KiB", false: "4MiB"}[size == 4<<10], func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					h := hs.New(a)
					h.Write(data[:size])
					h.MD5()
					h.Sum()
					h.Close()
				}
			})
		}
	}
}
