package catalog

import (
	"bytes"
	"encoding/hex"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

var update = flag.Bool("update", false, "write the golden files anew")

// records are one of each kind, as bytes.
func records() map[string][]byte {
	at := time.UnixMilli(1_700_000_000_123).UTC()
	id := storagenode.BlobID{1, 2, 3, 15: 16}
	drive := storagenode.DriveID{0xd1, 15: 1}
	blob := erasure.Blob{ID: id, Size: 1 << 20, Mode: erasure.Encoded, Slots: 63, Missing: 5}
	l := metadata.Located{PG: 7, Blob: blob}
	crc := metadata.Checksum{Algorithm: "CRC64NVME", Value: "AAECAwQFBgc="}
	fields := []metadata.Field{{Name: "content-type", Value: "text/plain"}, {Name: "x-amz-meta-colour", Value: "gold"}}
	e := encoder{}
	e.manifest(manifest{upload: "up", chunks: []chunkRef{{1, 0}, {257, 1 << 31}}})
	o := &metadata.Object{Size: 1 << 20, ETag: "d41d8cd98f00b204e9800998ecf8427e-3", Modified: at, Fields: fields,
		Checksum: crc, PartCount: 3, Manifest: e.p}
	a := new(arena)
	return map[string][]byte{
		"object":         encodeObject(nil, o, []metadata.Located{l}),
		"manifest":       e.p,
		"blob-object":    encodeBlob(nil, blob, &owner{kind: metadata.OwnedByObject, bucket: 3, key: "key"}),
		"blob-part":      encodeBlob(nil, blob, &owner{kind: metadata.OwnedByUpload, bucket: 3, key: "key", upload: "up", part: 9}),
		"owed":           encodeOwed(nil, metadata.Owed{Located: l, Since: at, Pending: 3}),
		"owed-layout":    encodeOwedLayout(nil, owedLayout{since: at, chunks: 40, chunk: 2, index: 17}),
		"bucket":         encodeBucket(nil, &bucketRecord{Bucket: metadata.Bucket{ID: 3, Owner: "root", Region: "eu", Created: at}, state: 1, turn: 2}),
		"upload":         encodeUpload(nil, &uploadRecord{Upload: metadata.Upload{Initiated: at, Owner: "root", Fields: fields, Checksum: metadata.Checksum{Algorithm: "SHA256", Composite: true}}, state: 1, attempt: 2}),
		"part":           encodePart(nil, &partRecord{Part: metadata.Part{Size: 5, ETag: "text", Modified: at, Checksum: crc}, blobs: []metadata.Located{l}}),
		"part-list":      encodeListedPart([]byte{recordV1}, &listedPart{number: 4, size: 5, checksum: metadata.Checksum{Algorithm: "NEW", Value: "x"}, blobs: []metadata.Located{l}}),
		"group":          encodeGroup(nil, &metadata.GroupRecord{Sealed: true, Group: erasure.Group{Scheme: erasure.Scheme{K: 1, M: 1}, Slots: []storagenode.Slot{{Drive: drive, Epoch: 300}, {Drive: drive, Epoch: 1, State: storagenode.SlotRebuilding, From: drive}}}}),
		"fill":           encodeFill(nil, 300, 1<<40),
		"drive":          encodeDrive(nil, &metadata.DriveRecord{Node: "n", Zone: "z", Address: "/d", State: storagenode.DriveOut, Replaces: drive, Added: at}),
		"node":           encodeNode(nil, &metadata.NodeRecord{Zone: "z", Address: "http://n:1", Version: "v1", Added: at, Changed: at}),
		"lease":          encodeLease(nil, &metadata.Lease{Term: 300, Holder: "h", Address: "http://a", Since: at}),
		"cluster":        encodeCluster(nil, drive),
		"sighting":       encodeSighting(nil, &metadata.Sighting{Waited: 300 * time.Millisecond, Passes: 2, Seen: at, Agreed: true}),
		"moment":         encodeMoment(nil, at),
		"number":         encodeNumber(nil, 300),
		"horizon":        encodeHorizon(nil, id),
		"key-bucket":     a.bucketKey("name"),
		"key-object":     a.objectKey(3, "a\x00b"),
		"key-upload":     a.uploadKey(3, "a\x00b", "up"),
		"key-part":       a.partKey("up", 258),
		"key-part-list":  a.chunkKey("up", 3),
		"key-group":      a.groupKey(7),
		"key-blob":       a.blobKey(7, id),
		"key-damage":     a.damageKey(-1, 7, id),
		"key-owed":       a.owedKey(7, id),
		"key-owed-list":  a.owedUploadKey(owedList, "up"),
		"key-owed-parts": a.owedUploadKey(owedParts, "up"),
		"key-horizon":    a.formatKey(fmtHorizon),
		"key-cluster":    a.formatKey(fmtCluster),
		"key-orphan":     a.orphanKey(7, 3, id),
		"key-scrub":      a.scrubKey(drive),
		"key-paused":     a.formatKey(fmtPaused),
		"key-drive":      a.driveKey(drive),
		"key-node":       a.nodeKey("name"),
		"key-lease":      a.leaseKey(famLease, "role"),
		"key-beat":       a.leaseKey(famBeat, "role"),
		"key-fill":       a.fillKey(7),
	}
}

// TestGolden fixes the bytes: what is stored today must be readable for ever.
func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "records.golden")
	got := records()
	if *update {
		var text strings.Builder
		for _, name := range sortedNames(got) {
			text.WriteString(name + " " + hex.EncodeToString(got[name]) + "\n")
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != len(got) {
		t.Errorf("%d golden records, %d encoded", len(lines), len(got))
	}
	for _, line := range lines {
		name, want, _ := strings.Cut(line, " ")
		if hex.EncodeToString(got[name]) != want {
			t.Errorf("%s is %x\nwant %s", name, got[name], want)
		}
	}
}

func sortedNames(m map[string][]byte) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	for i := range names {
		for j := i; j > 0 && names[j] < names[j-1]; j-- {
			names[j], names[j-1] = names[j-1], names[j]
		}
	}
	return names
}

func TestRecordsRoundTrip(t *testing.T) {
	r := records()
	id := storagenode.BlobID{1, 2, 3, 15: 16}
	o, err := decodeObject("k", r["object"])
	if err != nil || !bytes.Equal(encodeObject(nil, o, o.Blobs), r["object"]) || len(o.Fields) != 2 || o.Checksum.Value != "AAECAwQFBgc=" {
		t.Errorf("object %+v %v", o, err)
	}
	if len(o.Blobs) != 1 || o.Blobs[0].Blob.Missing != 0 {
		t.Errorf("blobs %+v", o.Blobs)
	}
	m, err := decodeManifest(r["manifest"])
	if err != nil || m.upload != "up" || m.chunks[1] != (chunkRef{257, 1 << 31}) {
		t.Errorf("manifest %+v %v", m, err)
	}
	var own owner
	b, err := decodeBlob(r["blob-part"], id, &own)
	if err != nil || !bytes.Equal(encodeBlob(nil, b, &own), r["blob-part"]) || own.upload != "up" || own.key != "key" || b.Missing != 5 {
		t.Errorf("blob %+v %+v %v", b, own, err)
	}
	u, err := decodeUpload("k", "up", r["upload"])
	if err != nil || !bytes.Equal(encodeUpload(nil, u), r["upload"]) || !u.Checksum.Composite {
		t.Errorf("upload %+v %v", u, err)
	}
	p, err := decodePart(3, r["part"])
	if err != nil || !bytes.Equal(encodePart(nil, &p), r["part"]) {
		t.Errorf("part %+v %v", p, err)
	}
	g, err := decodeGroup(7, r["group"])
	if err != nil || !bytes.Equal(encodeGroup(nil, g), r["group"]) || !g.Sealed {
		t.Errorf("group %+v %v", g, err)
	}
	list, err := decodeChunk(r["part-list"])
	if err != nil || len(list) != 1 || list[0].checksum.Algorithm != "NEW" || list[0].blobs[0].Blob.Size != 1<<20 {
		t.Errorf("part list %+v %v", list, err)
	}
}

// TestTruncated: every record that is cut anywhere is refused, or – a list
// that just ends – reads as less.
func TestTruncated(t *testing.T) {
	for name, v := range records() {
		if strings.HasPrefix(name, "key-") {
			continue
		}
		for n := range len(v) {
			decodeAll(v[:n])
		}
	}
	if _, err := decodeObject("k", []byte{2, 0}); err == nil {
		t.Error("a record of another format was read")
	}
}

func decodeAll(v []byte) {
	var own owner
	_, _ = decodeObject("k", v)
	_, _ = decodeCurrent(v)
	_, _ = decodeManifest(v)
	_, _ = decodeBlob(v, storagenode.BlobID{}, &own)
	_, _ = decodeOwed(1, storagenode.BlobID{}, v)
	_, _ = decodeOwedLayout(v)
	_, _ = decodeBucket("b", v)
	_, _, _ = bucketHead(v)
	_, _ = decodeUpload("k", "u", v)
	_, _ = uploadState(v)
	_, _ = decodePart(1, v)
	_, _ = decodeChunk(v)
	_, _ = decodeGroup(1, v)
	_, _, _ = decodeFill(v)
	_, _ = decodeDrive(storagenode.DriveID{}, v)
	_, _ = decodeNode("n", v)
	_, _ = decodeLease("r", v)
	_, _ = decodeCluster(v)
	_, _ = decodeSighting(storagenode.BlobID{}, v)
	_, _ = decodeMoment(v)
	_, _ = decodeNumber(v)
	_, _ = decodeHorizon(v)
	_ = new(listBuffer).add([]byte("k"), v)
	_, _, _ = splitUploadKey(v)
	_, _, _ = splitID(v)
	_, _, _ = splitObjectKey(v)
	_, _, _ = splitBlobKey(v)
	_, _, _ = splitOwedKey(v)
	_, _ = splitGroupKey(v)
	_ = partNumber(v)
}

// FuzzDecode: no bytes make a decoder panic or take much memory.
func FuzzDecode(f *testing.F) {
	for _, v := range records() {
		f.Add(v)
	}
	f.Fuzz(func(_ *testing.T, v []byte) { decodeAll(v) })
}

// FuzzObject: what decodes encodes to the same object again.
func FuzzObject(f *testing.F) {
	f.Add(records()["object"])
	f.Fuzz(func(t *testing.T, v []byte) {
		o, err := decodeObject("k", v)
		if err != nil {
			return
		}
		again, err := decodeObject("k", encodeObject(nil, o, o.Blobs))
		if err != nil || !reflect.DeepEqual(o, again) {
			t.Fatalf("%+v\n%+v\n%v", o, again, err)
		}
	})
}

func TestEscapedOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	word := func() string {
		p := make([]byte, rng.IntN(5))
		for i := range p {
			p[i] = []byte{0, 1, 2, 0xfe, 0xff}[rng.IntN(5)]
		}
		return string(p)
	}
	a := new(arena)
	for range 20_000 {
		x, y := word(), word()
		kx, ky := a.uploadKey(1, x, "i"), a.uploadKey(1, y, "i")
		if strings.Compare(x, y) != bytes.Compare(kx, ky) {
			t.Fatalf("%q and %q are ordered otherwise as %x and %x", x, y, kx, ky)
		}
		if key, id, ok := splitUploadKey(kx); !ok || key != x || id != "i" {
			t.Fatalf("%q reads back as %q %q", x, key, id)
		}
	}
}
