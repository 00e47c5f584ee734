package catalog

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// recordV1 is the first byte of every value: the format of the rest.
const recordV1 = 1

// errRecord says that a stored value cannot be read.
var errRecord = errors.New("metadata record cannot be read")

// encoder appends the fields of a record: varints, strings with their length.
type encoder struct{ p []byte }

func (e *encoder) byte(b byte)      { e.p = append(e.p, b) }
func (e *encoder) uvarint(v uint64) { e.p = binary.AppendUvarint(e.p, v) }
func (e *encoder) raw(p []byte)     { e.p = append(e.p, p...) }

func (e *encoder) string(s string) {
	e.uvarint(uint64(len(s)))
	e.p = append(e.p, s...)
}

// time stores milliseconds; the zero time is 0.
func (e *encoder) time(t time.Time) {
	if t.IsZero() {
		e.uvarint(0)
		return
	}
	e.uvarint(uint64(max(0, t.UnixMilli())))
}

func (e *encoder) bool(b bool) {
	if b {
		e.byte(1)
	} else {
		e.byte(0)
	}
}

// decoder reads what encoder wrote. After the first field that is not there
// every further one reads as zero and bad is set.
type decoder struct {
	p   []byte
	bad bool
}

// newDecoder checks the format byte.
func newDecoder(value []byte) decoder {
	if len(value) == 0 || value[0] != recordV1 {
		return decoder{bad: true}
	}
	return decoder{p: value[1:]}
}

func (d *decoder) fail() {
	d.p, d.bad = nil, true
}

func (d *decoder) err() error {
	if d.bad {
		return errRecord
	}
	return nil
}

func (d *decoder) byte() byte {
	if len(d.p) == 0 {
		d.fail()
		return 0
	}
	b := d.p[0]
	d.p = d.p[1:]
	return b
}

func (d *decoder) uvarint() uint64 {
	if len(d.p) > 0 && d.p[0] < 0x80 {
		v := d.p[0]
		d.p = d.p[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.p)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.p = d.p[n:]
	return v
}

// int reads a number that must lie in 0..most.
func (d *decoder) int(most int64) int64 {
	v := d.uvarint()
	if v > uint64(most) {
		d.fail()
		return 0
	}
	return int64(v)
}

// take gives the next n bytes, not a copy.
func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.p) {
		d.fail()
		return nil
	}
	p := d.p[:n:n]
	d.p = d.p[n:]
	return p
}

func (d *decoder) bytes() []byte {
	return d.take(int(d.int(int64(len(d.p)))))
}

func (d *decoder) string() string  { return string(d.bytes()) }
func (d *decoder) time() time.Time { return unixMilli(d.int(maxMilli)) }
func (d *decoder) bool() bool      { return d.byte() != 0 }

func (d *decoder) uuid() (u storagenode.UUID) {
	copy(u[:], d.take(16))
	return u
}

const (
	maxSize  = int64(1) << 62
	maxMilli = int64(1) << 50
)

func unixMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// etag: where it is the hexadecimal form of an MD5, alone or with "-parts",
// 16 bytes and the number; else the text.
func (e *encoder) etag(s string) {
	raw, n, ok := splitETag(s)
	e.bool(ok)
	if !ok {
		e.string(s)
		return
	}
	e.raw(raw[:])
	e.uvarint(uint64(n))
}

func splitETag(s string) (raw [16]byte, n int, ok bool) {
	if len(s) < 32 {
		return raw, 0, false
	}
	for i := range 32 {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return raw, 0, false
		}
	}
	if len(s) > 32 {
		if n, ok = splitCount(s[32:]); !ok {
			return raw, 0, false
		}
	}
	_, err := hex.Decode(raw[:], []byte(s[:32]))
	return raw, n, err == nil
}

// splitCount reads "-N" with N in 1..10,000 and no leading zero.
func splitCount(s string) (int, bool) {
	if len(s) < 2 || len(s) > 6 || s[0] != '-' || s[1] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[1:], 10, 16)
	return int(n), err == nil && n <= 10000
}

// appendETag appends the text of a stored etag to dst.
func (d *decoder) appendETag(dst []byte) []byte {
	if !d.bool() {
		return append(dst, d.bytes()...)
	}
	dst = hex.AppendEncode(dst, d.take(16))
	if n := d.int(10000); n > 0 {
		dst = strconv.AppendInt(append(dst, '-'), n, 10)
	}
	return dst
}

func (d *decoder) etag() string {
	var buf [48]byte
	return string(d.appendETag(buf[:0]))
}

// The checksum algorithms by their stored number; the order is part of the
// format.
const checksumOther = 15

func checksumCode(algorithm string) byte {
	switch algorithm {
	case "":
		return 0
	case "CRC32":
		return 1
	case "CRC32C":
		return 2
	case "CRC64NVME":
		return 3
	case "SHA1":
		return 4
	case "SHA256":
		return 5
	}
	return checksumOther
}

func checksumName(code byte) (string, bool) {
	switch code {
	case 1:
		return "CRC32", true
	case 2:
		return "CRC32C", true
	case 3:
		return "CRC64NVME", true
	case 4:
		return "SHA1", true
	case 5:
		return "SHA256", true
	}
	return "", false
}

const (
	checksumComposite = 0x10 // in the byte of the algorithm
	checksumRaw       = 0x20 // the value is stored decoded, with its "-N" apart
)

func (e *encoder) checksum(c metadata.Checksum) {
	code := checksumCode(c.Algorithm)
	if code == 0 {
		e.byte(0)
		return
	}
	if c.Composite {
		code |= checksumComposite
	}
	text, n := c.Value, 0
	for i := len(text) - 1; i >= 0; i-- {
		if text[i] == '-' {
			if k, ok := splitCount(text[i:]); ok {
				text, n = text[:i], k
			}
			break
		}
	}
	var buf [64]byte
	raw, err := base64.StdEncoding.AppendDecode(buf[:0], []byte(text))
	isRaw := err == nil && base64.StdEncoding.EncodedLen(len(raw)) == len(text) &&
		base64.StdEncoding.EncodeToString(raw) == text
	if isRaw {
		code |= checksumRaw
	}
	e.byte(code)
	if code&0x0f == checksumOther {
		e.string(c.Algorithm)
	}
	if !isRaw {
		e.string(c.Value)
		return
	}
	e.uvarint(uint64(len(raw)))
	e.raw(raw)
	e.uvarint(uint64(n))
}

func (d *decoder) checksum() (c metadata.Checksum) {
	code := d.byte()
	if code == 0 {
		return c
	}
	c.Composite = code&checksumComposite != 0
	if code&0x0f == checksumOther {
		c.Algorithm = d.string()
	} else {
		var ok bool
		if c.Algorithm, ok = checksumName(code & 0x0f); !ok {
			d.fail()
			return metadata.Checksum{}
		}
	}
	if code&checksumRaw == 0 {
		c.Value = d.string()
		return c
	}
	raw := d.bytes()
	n := d.int(10000)
	c.Value = base64.StdEncoding.EncodeToString(raw)
	if n > 0 {
		c.Value += "-" + strconv.FormatInt(n, 10)
	}
	return c
}

// blobSize bounds the encoded length of a blob.
const blobSize = 5 + 16 + 9 + 1 + 5

// located stores a blob as an object or a part names it. What is missing of
// it is only in its own record (famBlob).
func (e *encoder) located(l metadata.Located) {
	e.uvarint(uint64(l.PG))
	e.raw(l.Blob.ID[:])
	e.uvarint(uint64(l.Blob.Size))
	e.byte(byte(l.Blob.Mode))
	e.uvarint(uint64(l.Blob.Slots))
}

func (d *decoder) located() (l metadata.Located) {
	l.PG = storagenode.PG(d.int(1<<32 - 1))
	copy(l.Blob.ID[:], d.take(16))
	l.Blob.Size = d.int(maxSize)
	l.Blob.Mode = erasure.Mode(d.byte())
	l.Blob.Slots = erasure.SlotMask(d.int(1<<32 - 1))
	return l
}

func (e *encoder) blobs(blobs []metadata.Located) {
	e.uvarint(uint64(len(blobs)))
	for i := range blobs {
		e.located(blobs[i])
	}
}

// blobs reads a list of at least 20 bytes for each entry, so that a damaged
// count cannot make it allocate more than the record is long.
func (d *decoder) blobs() []metadata.Located {
	n := int(d.int(int64(len(d.p) / 20)))
	if n == 0 {
		return nil
	}
	blobs := make([]metadata.Located, n)
	for i := range blobs {
		blobs[i] = d.located()
	}
	if d.bad {
		return nil
	}
	return blobs
}

// fields: the names most objects carry are stored as a number. The order of
// the table is part of the format; append only.
func fieldName(code int) (string, bool) {
	switch code {
	case 0:
		return "content-type", true
	case 1:
		return "content-encoding", true
	case 2:
		return "content-disposition", true
	case 3:
		return "content-language", true
	case 4:
		return "cache-control", true
	case 5:
		return "expires", true
	}
	return "", false
}

// fieldCodes is how many numbers are set apart for names; a name that is not
// in the table is stored as its length above them.
const fieldCodes = 32

func fieldCode(name string) (int, bool) {
	for i := range fieldCodes {
		known, ok := fieldName(i)
		if !ok {
			return 0, false
		}
		if known == name {
			return i, true
		}
	}
	return 0, false
}

func (e *encoder) fields(fields []metadata.Field) {
	e.uvarint(uint64(len(fields)))
	for i := range fields {
		if code, ok := fieldCode(fields[i].Name); ok {
			e.uvarint(uint64(code))
		} else {
			e.uvarint(uint64(fieldCodes + len(fields[i].Name)))
			e.p = append(e.p, fields[i].Name...)
		}
		e.string(fields[i].Value)
	}
}

func (d *decoder) fields() []metadata.Field {
	n := int(d.int(int64(len(d.p) / 2)))
	if n == 0 {
		return nil
	}
	fields := make([]metadata.Field, n)
	for i := range fields {
		code := d.int(maxSize)
		if code >= fieldCodes {
			fields[i].Name = string(d.take(int(min(code-fieldCodes, 1<<30))))
		} else if name, ok := fieldName(int(code)); ok {
			fields[i].Name = name
		} else {
			d.fail()
		}
		fields[i].Value = d.string()
	}
	if d.bad {
		return nil
	}
	return fields
}

func fieldsSize(fields []metadata.Field) int {
	n := 4
	for i := range fields {
		n += len(fields[i].Name) + len(fields[i].Value) + 6
	}
	return n
}
