package catalog

import (
	"strings"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// manifest says where the part lists of an object are that was uploaded in
// parts: under the id of its upload, in pieces, each known by the number of
// its first part and where that starts within the object.
type manifest struct {
	upload string
	chunks []chunkRef
}

type chunkRef struct {
	part  int
	start int64
}

func (e *encoder) manifest(m manifest) {
	e.string(m.upload)
	e.uvarint(uint64(len(m.chunks)))
	for _, c := range m.chunks {
		e.uvarint(uint64(c.part))
		e.uvarint(uint64(c.start))
	}
}

func decodeManifest(p []byte) (m manifest, err error) {
	d := decoder{p: p}
	m.upload = d.string()
	m.chunks = make([]chunkRef, d.int(int64(len(d.p)/2)))
	for i := range m.chunks {
		m.chunks[i] = chunkRef{part: int(d.int(1 << 16)), start: d.int(maxSize)}
	}
	return m, d.err()
}

// head is the part of an object's record that listings and conditions need.
type head struct {
	size      int64
	modified  time.Time
	etag      string
	checksum  metadata.Checksum
	partCount int
}

func objectRecordSize(o *metadata.Object, blobs int) int {
	return 96 + len(o.ETag) + len(o.Checksum.Value) + blobs*blobSize + len(o.Manifest) + fieldsSize(o.Fields)
}

// encodeObject writes the record: what listings need, then where the bytes
// are, then the fields.
func encodeObject(dst []byte, o *metadata.Object, blobs []metadata.Located) []byte {
	e := encoder{append(dst, recordV1)}
	e.uvarint(uint64(o.Size))
	e.time(o.Modified)
	e.etag(o.ETag)
	e.checksum(o.Checksum)
	e.uvarint(uint64(o.PartCount))
	e.blobs(blobs)
	e.uvarint(uint64(len(o.Manifest)))
	e.raw(o.Manifest)
	e.fields(o.Fields)
	return e.p
}

func (d *decoder) head() (h head) {
	h.size = d.int(maxSize)
	h.modified = d.time()
	h.etag = d.etag()
	h.checksum = d.checksum()
	h.partCount = int(d.int(1 << 16))
	return h
}

// current is what a write needs to know of the version it replaces.
type current struct {
	head
	blobs    []metadata.Located
	manifest []byte
}

// decodeCurrent reads a record but for its fields; nil of nil.
func decodeCurrent(value []byte) (*current, error) {
	if value == nil {
		return nil, nil
	}
	d := newDecoder(value)
	c := &current{head: d.head(), blobs: d.blobs(), manifest: d.bytes()}
	return c, d.err()
}

func decodeObject(key string, value []byte) (*metadata.Object, error) {
	d := newDecoder(value)
	h := d.head()
	o := &metadata.Object{
		Key: key, Version: nullVersion, Size: h.size, ETag: h.etag, Modified: h.modified,
		Checksum: h.checksum, PartCount: h.partCount,
	}
	o.Blobs = d.blobs()
	if m := d.bytes(); len(m) > 0 {
		o.Manifest = m
	}
	o.Fields = d.fields()
	return o, d.err()
}

// owner says what a blob belongs to.
type owner struct {
	kind   metadata.OwnerKind
	bucket metadata.BucketID
	key    string
	upload string
	part   int
}

func blobRecordSize(o *owner) int { return 40 + len(o.key) + len(o.upload) }

func encodeBlob(dst []byte, b erasure.Blob, o *owner) []byte {
	e := encoder{append(dst, recordV1)}
	e.byte(byte(b.Mode))
	e.uvarint(uint64(b.Size))
	e.uvarint(uint64(b.Slots))
	e.uvarint(uint64(b.Missing))
	e.byte(byte(o.kind))
	e.uvarint(uint64(o.bucket))
	if o.kind == metadata.OwnedByUpload {
		e.uvarint(uint64(o.part))
		e.string(o.upload)
	}
	e.raw([]byte(o.key))
	return e.p
}

// decodeBlob reads what a blob's slots should hold, and its owner only where
// own is set.
func decodeBlob(value []byte, id storagenode.BlobID, own *owner) (b erasure.Blob, err error) {
	d := newDecoder(value)
	b = erasure.Blob{ID: id, Mode: erasure.Mode(d.byte()), Size: d.int(maxSize),
		Slots: erasure.SlotMask(d.int(1<<32 - 1)), Missing: erasure.SlotMask(d.int(1<<32 - 1))}
	if own == nil {
		return b, d.err()
	}
	own.kind = metadata.OwnerKind(d.byte())
	own.bucket = metadata.BucketID(d.int(1<<32 - 1))
	if own.kind == metadata.OwnedByUpload {
		own.part = int(d.int(1 << 16))
		own.upload = d.string()
	}
	own.key = string(d.p)
	return b, d.err()
}

func encodeOwed(dst []byte, o metadata.Owed) []byte {
	e := encoder{append(dst, recordV1)}
	e.byte(byte(o.Blob.Mode))
	e.uvarint(uint64(o.Blob.Size))
	e.uvarint(uint64(o.Blob.Slots))
	e.uvarint(uint64(o.Pending))
	e.time(o.Since)
	return e.p
}

const owedRecordSize = 40

func decodeOwed(pg storagenode.PG, id storagenode.BlobID, value []byte) (o metadata.Owed, err error) {
	d := newDecoder(value)
	o.PG, o.Blob.ID = pg, id
	o.Blob.Mode = erasure.Mode(d.byte())
	o.Blob.Size = d.int(maxSize)
	o.Blob.Slots = erasure.SlotMask(d.int(1<<32 - 1))
	o.Pending = erasure.SlotMask(d.int(1<<32 - 1))
	o.Since = d.time()
	return o, d.err()
}

// owedLayout is the row of a part list whose blobs are owed (owedList), with
// how far they were moved to rows of their own, or of an ended upload whose
// parts are to be cleared (owedParts), with the number of part list pieces
// that stay.
type owedLayout struct {
	since  time.Time
	chunks int
	chunk  int // the piece being moved
	index  int // the part in it that is next
}

func encodeOwedLayout(dst []byte, o owedLayout) []byte {
	e := encoder{append(dst, recordV1)}
	e.time(o.since)
	e.uvarint(uint64(o.chunks))
	e.uvarint(uint64(o.chunk))
	e.uvarint(uint64(o.index))
	return e.p
}

func decodeOwedLayout(value []byte) (o owedLayout, err error) {
	d := newDecoder(value)
	o.since = d.time()
	o.chunks, o.chunk, o.index = int(d.int(1<<16)), int(d.int(1<<16)), int(d.int(1<<16))
	return o, d.err()
}

// The states of a bucket.
const (
	bucketActive byte = iota
	bucketDeleting
)

// bucketRecord is a bucket with its state; turn counts the changes of state,
// so that a deletion notices that it was overtaken.
type bucketRecord struct {
	metadata.Bucket
	state byte
	turn  uint64
}

func bucketRecordSize(b *bucketRecord) int { return 48 + len(b.Owner) + len(b.Region) }

func encodeBucket(dst []byte, b *bucketRecord) []byte {
	e := encoder{append(dst, recordV1)}
	e.byte(b.state)
	e.uvarint(uint64(b.ID))
	e.uvarint(b.turn)
	e.time(b.Created)
	e.string(b.Owner)
	e.string(b.Region)
	return e.p
}

// bucketHead reads what a commit asserts of a bucket.
func bucketHead(value []byte) (id metadata.BucketID, state byte, err error) {
	d := newDecoder(value)
	state = d.byte()
	id = metadata.BucketID(d.int(1<<32 - 1))
	return id, state, d.err()
}

func decodeBucket(name string, value []byte) (b bucketRecord, err error) {
	d := newDecoder(value)
	b.state = d.byte()
	b.ID, b.turn = metadata.BucketID(d.int(1<<32-1)), d.uvarint()
	b.Name, b.Created, b.Owner, b.Region = name, d.time(), d.string(), d.string()
	return b, d.err()
}

// The states of an upload. An ended one has no record.
const (
	uploadOpen byte = iota
	uploadCompleting
)

// uploadRecord is an upload with its state. attempt counts completions begun:
// each step of one asserts its own number, so that a later one fences it.
type uploadRecord struct {
	metadata.Upload
	state   byte
	attempt uint64
}

func uploadRecordSize(u *metadata.Upload) int {
	return 64 + len(u.Owner) + len(u.Checksum.Value) + fieldsSize(u.Fields)
}

func encodeUpload(dst []byte, u *uploadRecord) []byte {
	e := encoder{append(dst, recordV1)}
	e.byte(u.state)
	e.uvarint(u.attempt)
	e.time(u.Initiated)
	e.string(u.Owner)
	e.checksum(u.Checksum)
	e.fields(u.Fields)
	return e.p
}

func uploadState(value []byte) (byte, error) {
	d := newDecoder(value)
	s := d.byte()
	return s, d.err()
}

func decodeUpload(key, id string, value []byte) (u *uploadRecord, err error) {
	d := newDecoder(value)
	u = &uploadRecord{state: d.byte(), attempt: d.uvarint()}
	u.ID, u.Key, u.Initiated, u.Owner = id, key, d.time(), d.string()
	u.Checksum = d.checksum()
	u.Fields = d.fields()
	return u, d.err()
}

// partRecord is a part with its blobs.
type partRecord struct {
	metadata.Part
	blobs []metadata.Located
}

func encodePart(dst []byte, p *partRecord) []byte {
	e := encoder{append(dst, recordV1)}
	e.uvarint(uint64(p.Size))
	e.time(p.Modified)
	e.etag(p.ETag)
	e.checksum(p.Checksum)
	e.blobs(p.blobs)
	return e.p
}

func decodePart(number int, value []byte) (p partRecord, err error) {
	d := newDecoder(value)
	p.Number = number
	p.Size, p.Modified, p.ETag, p.Checksum = d.int(maxSize), d.time(), d.etag(), d.checksum()
	p.blobs = d.blobs()
	return p, d.err()
}

// listedPart is a part as a part list of a finished object holds it.
type listedPart struct {
	number   int
	size     int64
	checksum metadata.Checksum
	blobs    []metadata.Located
}

func encodeListedPart(dst []byte, p *listedPart) []byte {
	e := encoder{dst}
	e.uvarint(uint64(p.number))
	e.uvarint(uint64(p.size))
	e.checksum(p.checksum)
	e.blobs(p.blobs)
	return e.p
}

// decodeChunk reads a piece of a part list: parts one after another.
func decodeChunk(value []byte) ([]listedPart, error) {
	d := newDecoder(value)
	var parts []listedPart
	for len(d.p) > 0 {
		parts = append(parts, listedPart{number: int(d.int(1 << 16)), size: d.int(maxSize),
			checksum: d.checksum(), blobs: d.blobs()})
	}
	return parts, d.err()
}

func encodeGroup(dst []byte, g *metadata.GroupRecord) []byte {
	e := encoder{append(dst, recordV1)}
	e.byte(g.Scheme.K)
	e.byte(g.Scheme.M)
	e.bool(g.Sealed)
	for _, s := range g.Slots {
		e.raw(s.Drive[:])
		e.uvarint(uint64(s.Epoch))
		e.byte(byte(s.State))
		e.bool(!s.From.IsZero())
		if !s.From.IsZero() {
			e.raw(s.From[:])
		}
	}
	return e.p
}

func decodeGroup(pg storagenode.PG, value []byte) (*metadata.GroupRecord, error) {
	d := newDecoder(value)
	g := &metadata.GroupRecord{Group: erasure.Group{PG: pg, Scheme: erasure.Scheme{K: d.byte(), M: d.byte()}}, Sealed: d.bool()}
	if d.bad || g.Scheme.K < 1 || g.Scheme.N() > storagenode.MaxSlots {
		return nil, errRecord
	}
	g.Slots = make([]storagenode.Slot, g.Scheme.N())
	for i := range g.Slots {
		s := &g.Slots[i]
		s.Drive, s.Epoch, s.State = d.uuid(), uint32(d.int(1<<32-1)), storagenode.SlotState(d.byte())
		if d.bool() {
			s.From = d.uuid()
		}
	}
	return g, d.err()
}

func encodeFill(dst []byte, blobs, bytes int64) []byte {
	e := encoder{append(dst, recordV1)}
	e.uvarint(uint64(max(0, blobs)))
	e.uvarint(uint64(max(0, bytes)))
	return e.p
}

func decodeFill(value []byte) (blobs, bytes int64, err error) {
	d := newDecoder(value)
	blobs, bytes = d.int(maxSize), d.int(maxSize)
	return blobs, bytes, d.err()
}

func encodeDrive(dst []byte, r *metadata.DriveRecord) []byte {
	e := encoder{append(dst, recordV1)}
	e.string(r.Node)
	e.string(r.Zone)
	e.string(r.Address)
	e.byte(byte(r.State))
	e.raw(r.Replaces[:])
	e.time(r.Added)
	return e.p
}

func decodeDrive(id storagenode.DriveID, value []byte) (r metadata.DriveRecord, err error) {
	d := newDecoder(value)
	r = metadata.DriveRecord{ID: id, Node: d.string(), Zone: d.string(), Address: d.string(),
		State: storagenode.DriveState(d.byte()), Replaces: d.uuid(), Added: d.time()}
	return r, d.err()
}

func encodeNode(dst []byte, n *metadata.NodeRecord) []byte {
	e := encoder{append(dst, recordV1)}
	e.string(n.Zone)
	e.string(n.Address)
	e.string(n.Version)
	e.time(n.Added)
	e.time(n.Changed)
	return e.p
}

func decodeNode(name string, value []byte) (n metadata.NodeRecord, err error) {
	d := newDecoder(value)
	n = metadata.NodeRecord{Name: name, Zone: d.string(), Address: d.string(), Version: d.string(), Added: d.time(), Changed: d.time()}
	return n, d.err()
}

func encodeLease(dst []byte, l *metadata.Lease) []byte {
	e := encoder{append(dst, recordV1)}
	e.uvarint(l.Term)
	e.string(l.Holder)
	e.string(l.Address)
	e.time(l.Since)
	return e.p
}

// decodeLease reads all but the beat; nil is a lease that nobody ever held.
func decodeLease(role string, value []byte) (l metadata.Lease, err error) {
	l.Role = role
	if value == nil {
		return l, nil
	}
	d := newDecoder(value)
	l.Term, l.Holder, l.Address, l.Since = d.uvarint(), d.string(), d.string(), d.time()
	return l, d.err()
}

func encodeNumber(dst []byte, n uint64) []byte {
	e := encoder{append(dst, recordV1)}
	e.uvarint(n)
	return e.p
}

// decodeNumber reads a counter; 0 where there is none yet.
func decodeNumber(value []byte) (uint64, error) {
	if value == nil {
		return 0, nil
	}
	d := newDecoder(value)
	n := d.uvarint()
	return n, d.err()
}

func encodeCluster(dst []byte, id storagenode.UUID) []byte {
	return append(append(dst, recordV1), id[:]...)
}

// decodeCluster reads the cluster's UUID; zero where there is none yet.
func decodeCluster(value []byte) (id storagenode.UUID, err error) {
	if value == nil {
		return id, nil
	}
	d := newDecoder(value)
	id = d.uuid()
	return id, d.err()
}

func encodeHorizon(dst []byte, h storagenode.BlobID) []byte {
	return append(append(dst, recordV1), h[:]...)
}

func decodeHorizon(value []byte) (h storagenode.BlobID, err error) {
	if value == nil {
		return h, nil
	}
	d := newDecoder(value)
	copy(h[:], d.take(16))
	return h, d.err()
}

// nullVersion is the version id of an object in a bucket without versioning.
const nullVersion = "null"

// trimQuotes takes the quotes off an ETag as clients may send it.
func trimQuotes(etag string) string {
	return strings.TrimSuffix(strings.TrimPrefix(etag, `"`), `"`)
}
