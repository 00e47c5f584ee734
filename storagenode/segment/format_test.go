package segment

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/cespare/xxhash/v2"

	"kintsugi/storagenode"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenRecord is a shard record with every field set, at offset 4096.
func goldenRecord(t testing.TB) ([]byte, binding, header) {
	t.Helper()
	b := binding{storagenode.DriveID{0xd0, 15: 0x0d}, 0x0102030405060708}
	h := header{
		typ: uint8(typeShard), flags: flagLast, k: 4, m: 2, slot: 5, pg: 0x01020304, seq: 0x1112131415161718,
		blob: storagenode.BlobID{0xb0, 15: 0x0b}, stripe: 0x21222324, epoch: 0x31323334, attrLen: 5, payloadLen: 70_000,
		stripeLen: 280_000, synced: 0x41424344, stripeHash: 0x5152535455565758, timeMS: 1_700_000_000_123,
	}
	payload := bytes.Repeat([]byte("kintsugi"), 70_000/8)
	var w writer
	if err := w.fill(&storagenode.Shard{Attrs: []byte("attrs"), Payload: payload}, false); err != nil {
		t.Fatal(err)
	}
	h.bodyHash = xxhash.Sum64(w.head[headerSize:])
	h.encode(w.head, b, 4096)
	rec := append(w.head, payload...)
	return append(rec, make([]byte, h.size()-int64(len(rec)))...), b, h
}

func TestGolden(t *testing.T) {
	rec, b, h := goldenRecord(t)
	super := superblock{storagenode.UUID{0xc0}, b.drive, b.segment, 1_700_000_000_456}
	for name, got := range map[string][]byte{
		"record.hex":     rec[:layoutOf(5, 70_000).payload],
		"superblock.hex": append(super.encode()[:64:64], super.encode()[4080:]...),
	} {
		path := filepath.Join("testdata", name)
		text := []byte(hex.Dump(got))
		if *update {
			if err := os.WriteFile(path, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, want) {
			t.Errorf("%s: the format on disk changed:\n%s", name, text)
		}
	}
	var back header
	if err := back.decode(rec, b, 4096); err != nil || back != h {
		t.Fatalf("decoded %+v, %v", back, err)
	}
	if back.verifyBody(rec[headerSize:]) != nil || back.verifyPayload(rec[headerSize:]) != nil {
		t.Fatal("the record does not verify")
	}
	var s2 superblock
	if err := s2.decode(super.encode()); err != nil || s2 != super {
		t.Fatalf("superblock %+v, %v", s2, err)
	}
	p := super.encode()
	for i := range p {
		p[i] ^= 4
		if s2.decode(p) == nil {
			t.Fatalf("a flipped bit at %d of the superblock was not found", i)
		}
		p[i] ^= 4
	}
}

// TestBitFlips flips each bit of header, attributes and sums, and one of every
// byte of the payload; also the place must be right.
func TestBitFlips(t *testing.T) {
	rec, b, h := goldenRecord(t)
	good := func(b binding, off int64) bool {
		var got header
		return got.decode(rec, b, off) == nil && got == h &&
			got.verifyBody(rec[headerSize:]) == nil && got.verifyPayload(rec[headerSize:]) == nil
	}
	if !good(b, 4096) {
		t.Fatal("the record is bad to begin with")
	}
	l := layoutOf(5, 70_000)
	for i := range l.payload + 70_000 {
		bits := 8
		if i >= l.payload {
			bits, i = 1, i+(i-l.payload)%7
		}
		if i >= l.payload+70_000 {
			break
		}
		if i >= l.payload && i%37 != 0 {
			continue
		}
		for bit := range bits {
			rec[i] ^= 1 << bit
			if good(b, 4096) {
				t.Fatalf("bit %d of byte %d flipped, and not found", bit, i)
			}
			rec[i] ^= 1 << bit
		}
	}
	for _, wrong := range []binding{{storagenode.DriveID{1}, b.segment}, {b.drive, b.segment + 1}} {
		if good(wrong, 4096) {
			t.Fatal("a record of another drive or segment passed")
		}
	}
	if good(b, 4096+64) {
		t.Fatal("a record passed at another offset")
	}
}

// FuzzScan: no bytes panic the parser, and none pass for a record that does not
// verify.
func FuzzScan(f *testing.F) {
	rec, b, _ := goldenRecord(f)
	f.Add(rec)
	f.Add(append(make([]byte, 128), rec...))
	f.Add(rec[:1000])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, depth := range []scanDepth{scanHeaders, scanBodies, scanAll} {
			file := append(make([]byte, superSize), p...)
			sc := scanner{f: bytes.NewReader(file), bind: b, off: superSize, size: int64(len(file)), depth: depth}
			for at := int64(superSize); ; {
				r, err := sc.next()
				if err != nil {
					break
				}
				if r.off != at || r.size <= 0 {
					t.Fatalf("step of %d bytes at %d, expected at %d", r.size, r.off, at)
				}
				at += r.size
			}
			if sc.off != sc.size {
				t.Fatalf("the scan ended at %d of %d", sc.off, sc.size)
			}
		}
	})
}

// FuzzHeader: what decodes encodes to the same bytes.
func FuzzHeader(f *testing.F) {
	rec, b, _ := goldenRecord(f)
	f.Add(rec[:headerSize])
	f.Fuzz(func(t *testing.T, p []byte) {
		var h header
		if h.decode(p, b, 4096) != nil {
			return
		}
		var out [headerSize]byte
		h.encode(out[:], b, 4096)
		if h.decode(out[:], b, 4096) != nil {
			t.Fatal("does not decode again")
		}
	})
}
