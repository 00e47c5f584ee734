package gateway

import (
	"crypto/md5"
	"encoding/base64"
	"strings"

	"kintsugi/gateway/checksum"
	"kintsugi/gateway/sigv4"
	"kintsugi/metadata"
)

// announcement is what a request says about its body's digests.
type announcement struct {
	md5    [md5.Size]byte
	hasMD5 bool
	sum    checksum.Request
}

// announced reads Content-MD5 and the checksum headers.
func (x *exchange) announced() (a announcement, err error) {
	if values := x.r.Header["Content-Md5"]; len(values) > 0 {
		var raw [md5.Size + 2]byte
		text := strings.TrimSpace(values[0])
		if len(text) != base64.StdEncoding.EncodedLen(md5.Size) {
			return a, errInvalidDigest
		}
		n, err := base64.StdEncoding.Decode(raw[:], []byte(text))
		if err != nil || n != md5.Size {
			return a, errInvalidDigest
		}
		a.md5, a.hasMD5 = [md5.Size]byte(raw[:md5.Size]), true
	}
	a.sum, err = checksum.FromHeader(x.r.Header)
	return a, err
}

// vouched says that a digest vouches for the body: S3 deletes no list of keys that
// may have been changed on the way. It takes Content-MD5 or a checksum; here a
// signature of the body will do as well.
func (x *exchange) vouched() bool {
	a, err := x.announced()
	if err != nil {
		return false
	}
	signed := x.payload.Kind != sigv4.Unsigned && x.payload.Kind != sigv4.UnsignedChunksTrailer
	return signed || a.hasMD5 || a.sum.Algorithm != checksum.None
}

// check compares with what came. trailer is the value that followed the body.
func (a *announcement) check(sum [md5.Size]byte, computed checksum.Sum, trailer string) error {
	if a.hasMD5 && a.md5 != sum {
		return errBadDigest
	}
	return a.sum.Check(computed, trailer)
}

// storedSum is a checksum as metadata keeps it.
func storedSum(s checksum.Sum) metadata.Checksum {
	if s.IsZero() {
		return metadata.Checksum{}
	}
	return metadata.Checksum{Algorithm: s.Algorithm().String(), Composite: s.Parts() > 0, Value: s.String()}
}

// checksumType is the name of a stored checksum's type.
func checksumType(c metadata.Checksum) string {
	switch {
	case c.Algorithm == "":
		return ""
	case c.Composite:
		return checksum.Composite.String()
	}
	return checksum.FullObject.String()
}

// sumHeader is the header that carries a checksum, in canonical form.
func sumHeader(algorithm string) string {
	switch algorithm {
	case "CRC32":
		return "X-Amz-Checksum-Crc32"
	case "CRC32C":
		return "X-Amz-Checksum-Crc32c"
	case "CRC64NVME":
		return "X-Amz-Checksum-Crc64nvme"
	case "SHA1":
		return "X-Amz-Checksum-Sha1"
	case "SHA256":
		return "X-Amz-Checksum-Sha256"
	}
	return ""
}

// showChecksum sets the headers of a checksum.
func (x *exchange) showChecksum(c metadata.Checksum) {
	if c.Value == "" {
		return
	}
	h := x.w.Header()
	h[sumHeader(c.Algorithm)] = []string{c.Value}
	h["X-Amz-Checksum-Type"] = []string{checksumType(c)}
}

// checksum writes the element of a checksum's value, such as ChecksumCRC32.
func (o *output) checksum(c metadata.Checksum) *output {
	if c.Value == "" {
		return o
	}
	name := "Checksum" + c.Algorithm
	return o.text(name, c.Value)
}
