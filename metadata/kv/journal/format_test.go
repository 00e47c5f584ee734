package journal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"kintsugi/storagenode"
)

var updateGolden = flag.Bool("update", false, "write the golden files anew")

func goldenGroup() []byte {
	buf := make([]byte, groupHeader)
	buf = append(buf, opTxn, opPut)
	buf = appendBytes(appendBytes(buf, []byte("c|bucket|key")), []byte("value"))
	buf = append(buf, opTxn, opDelete)
	buf = appendBytes(buf, []byte{0, 'x'})
	raw, _ := seal(buf, storagenode.UUID{1, 2, 3}, 42, 0x1122334455667788, 2)
	return raw
}

func goldenMembership(t testing.TB) []byte {
	b, err := membership{
		Format: 1, Cluster: storagenode.UUID{1, 2, 3}, Generation: 7, Commit: 42,
		Members: []storagenode.DriveID{{1}, {2}}, Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}.encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGolden holds the formats still: what is on drives must stay readable.
func TestGolden(t *testing.T) {
	for name, got := range map[string][]byte{
		"group.hex":       []byte(hex.Dump(goldenGroup())),
		"log.hex":         []byte(hex.Dump(logHeader(storagenode.UUID{1, 2, 3}, 42, 7))),
		"membership.json": goldenMembership(t),
	} {
		path := "testdata/" + name
		if *updateGolden {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the format changed:\n%s", name, got)
		}
	}
}

// TestGroupBits flips every bit of a record that has a meaning: none passes.
func TestGroupBits(t *testing.T) {
	cluster := storagenode.UUID{1, 2, 3}
	raw := goldenGroup()
	g, n, err := parseGroup(raw, cluster)
	if err != nil || n != len(raw) || g.commit != 42 || g.prev != 0x1122334455667788 || g.txns != 2 {
		t.Fatalf("%+v, %d, %v", g, n, err)
	}
	var ops []string
	if err := eachOp(g.payload, func(k, v []byte) error {
		ops = append(ops, string(k)+"="+string(v))
		return nil
	}); err != nil || strings.Join(ops, " ") != "c|bucket|key=value \x00x=" {
		t.Fatalf("%q, %v", ops, err)
	}
	for bit := range 8 * (groupHeader + len(g.payload)) {
		raw[bit/8] ^= 1 << (bit % 8)
		if _, _, err := parseGroup(raw, cluster); !errors.Is(err, errNoGroup) {
			t.Fatalf("bit %d flipped: %v", bit, err)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
	if _, _, err := parseGroup(raw, storagenode.UUID{9}); !errors.Is(err, errNoGroup) {
		t.Fatalf("a group of another cluster: %v", err)
	}
	for cut := range groupHeader + len(g.payload) {
		if _, _, err := parseGroup(raw[:cut], cluster); !errors.Is(err, errNoGroup) {
			t.Fatalf("cut to %d bytes: %v", cut, err)
		}
	}
}

func TestMembershipBits(t *testing.T) {
	cluster := storagenode.UUID{1, 2, 3}
	b := goldenMembership(t)
	want, err := decodeMembership(b, cluster)
	if err != nil || want.Generation != 7 {
		t.Fatal(want, err)
	}
	for bit := range 8 * len(b) {
		b[bit/8] ^= 1 << (bit % 8)
		// White space and the case of field names may change unharmed.
		if m, err := decodeMembership(b, cluster); err == nil && (m.Generation != 7 || m.Commit != 42 || len(m.Members) != 2) {
			t.Fatalf("bit %d flipped gives %+v", bit, m)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
}

func TestNeeded(t *testing.T) {
	for drives := 1; drives <= 32; drives++ {
		for tolerance := 0; tolerance < drives; tolerance++ {
			n := needed(drives, tolerance)
			if n < 1 || n > drives-tolerance {
				t.Errorf("needed(%d, %d) = %d: losing the tolerance stops commits", drives, tolerance, n)
			}
			// An open reads drives-tolerance records and must meet one of them.
			if drives > 2*tolerance && n+drives-tolerance <= drives {
				t.Errorf("needed(%d, %d) = %d: an open may miss it", drives, tolerance, n)
			}
		}
	}
}

// FuzzParseGroup: whatever lies in a log, parsing it neither panics nor goes on
// for ever.
func FuzzParseGroup(f *testing.F) {
	f.Add(goldenGroup())
	f.Fuzz(func(t *testing.T, b []byte) {
		cluster := storagenode.UUID{1, 2, 3}
		if g, n, err := parseGroup(b, cluster); err == nil {
			if n < groupHeader || n > len(b) {
				t.Fatalf("takes %d of %d bytes", n, len(b))
			}
			_ = eachOp(g.payload, func(_, _ []byte) error { return nil })
		}
		_ = eachOp(b, func(k, v []byte) error {
			if len(k) == 0 || v != nil && len(v) == 0 {
				t.Fatal("an empty key or value")
			}
			return nil
		})
		// The same bytes as a payload that is valid otherwise.
		if len(b) < maxPayload {
			raw, chain := seal(append(make([]byte, groupHeader), b...), cluster, 1, 2, 3)
			g, _, err := parseGroup(raw, cluster)
			if err != nil || g.chain != chain || !bytes.Equal(g.payload, b) {
				t.Fatalf("sealed and parsed: %v", err)
			}
		}
	})
}

// FuzzParseSnapshot is the same for snapshots.
func FuzzParseSnapshot(f *testing.F) {
	f.Add([]byte("\x05key-1\x01v"), uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, pairs uint32) {
		_ = eachPair(b, pairs, func(k, _ []byte) error {
			if len(k) == 0 {
				t.Fatal("an empty key")
			}
			return nil
		})
		_ = parseSnapshot(bytes.NewReader(b), storagenode.UUID{1}, snapRef{}, func(_, _ []byte) error { return nil })
		_, _ = decodeMembership(b, storagenode.UUID{1})
	})
}
