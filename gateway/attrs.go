package gateway

import (
	"encoding/binary"
	"errors"

	"kintsugi/metadata"
)

// Attrs is what the shards of a blob say about whose it is, enough to find an
// object again where all metadata is lost.
type Attrs struct {
	Bucket  string
	Key     string
	Version string
	// Upload and Part are set where the blob is of a part of an upload.
	Upload string
	Part   int
	// Offset is where the blob starts within the object or the part, Size is
	// the blob's own.
	Offset, Size int64
	// ETag is "" where it was not known yet when the last stripe was written.
	ETag string
	// Fields are content type and user metadata; only on an object's first
	// blob.
	Fields []metadata.Field
}

// attrsV1 is the first byte: the format of the rest, all strings with their
// length before them as an unsigned varint, numbers as such varints.
const attrsV1 = 1

// ErrAttrs says that attributes cannot be read.
var ErrAttrs = errors.New("blob attributes cannot be read")

// Append appends the binary form.
func (a *Attrs) Append(b []byte) []byte {
	b = append(b, attrsV1)
	for _, s := range [...]string{a.Bucket, a.Key, a.Version, a.Upload} {
		b = appendText(b, s)
	}
	b = binary.AppendUvarint(b, uint64(a.Part))
	b = binary.AppendUvarint(b, uint64(a.Offset))
	b = binary.AppendUvarint(b, uint64(a.Size))
	b = appendText(b, a.ETag)
	b = binary.AppendUvarint(b, uint64(len(a.Fields)))
	for i := range a.Fields {
		b = appendText(b, a.Fields[i].Name)
		b = appendText(b, a.Fields[i].Value)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// length bounds the binary form.
func (a *Attrs) length() int {
	n := 64 + len(a.Bucket) + len(a.Key) + len(a.Version) + len(a.Upload) + len(a.ETag)
	for i := range a.Fields {
		n += 6 + len(a.Fields[i].Name) + len(a.Fields[i].Value)
	}
	return n
}

// DecodeAttrs reads what Append wrote.
func DecodeAttrs(p []byte) (a Attrs, err error) {
	if len(p) == 0 || p[0] != attrsV1 {
		return a, ErrAttrs
	}
	d := attrsReader{p: p[1:]}
	for _, s := range [...]*string{&a.Bucket, &a.Key, &a.Version, &a.Upload} {
		*s = d.text()
	}
	a.Part, a.Offset, a.Size, a.ETag = int(d.number(1<<31)), d.number(1<<62), d.number(1<<62), d.text()
	count := d.number(int64(len(d.p) / 2))
	for range count {
		a.Fields = append(a.Fields, metadata.Field{Name: d.text(), Value: d.text()})
	}
	if d.bad || len(d.p) > 0 {
		return Attrs{}, ErrAttrs
	}
	return a, nil
}

type attrsReader struct {
	p   []byte
	bad bool
}

func (d *attrsReader) number(most int64) int64 {
	v, n := binary.Uvarint(d.p)
	if n <= 0 || v > uint64(most) {
		d.p, d.bad = nil, true
		return 0
	}
	d.p = d.p[n:]
	return int64(v)
}

func (d *attrsReader) text() string {
	n := d.number(int64(len(d.p)))
	if n > int64(len(d.p)) {
		d.p, d.bad = nil, true
		return ""
	}
	s := string(d.p[:n])
	d.p = d.p[n:]
	return s
}
