// Package checksum holds the additional checksums of S3: the algorithms, their
// values as they travel in headers and trailers, sums over the parts of a
// multipart upload, and the hashing of a stream.
//
// A value is of one of two types. A full-object value is the checksum of all
// bytes; for the CRCs it can be computed from the parts' values (Combine). A
// composite value is the checksum of the parts' checksums, written with the
// number of parts: "base64-N" (Composite).
//
// Source: "Checking object integrity in Amazon S3", Amazon S3 User Guide.
package checksum

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/minio/crc64nvme"
)

// Algorithm is a checksum algorithm of S3. The numbers are stored; they do not
// change.
type Algorithm uint8

// The algorithms; None is the absence of one.
const (
	None      Algorithm = 0
	CRC32     Algorithm = 1
	CRC32C    Algorithm = 2
	CRC64NVME Algorithm = 3
	SHA1      Algorithm = 4
	SHA256    Algorithm = 5
)

// Algorithms lists all of them, without None.
func Algorithms() [5]Algorithm { return [5]Algorithm{CRC32, CRC32C, CRC64NVME, SHA1, SHA256} }

// maxSize is the size of the longest checksum in bytes.
const maxSize = sha256.Size

// ParseAlgorithm reads a name as in x-amz-checksum-algorithm, in any case.
func ParseAlgorithm(name string) (Algorithm, error) {
	for _, a := range Algorithms() {
		if strings.EqualFold(name, a.String()) {
			return a, nil
		}
	}
	return None, ErrUnknownAlgorithm
}

// String is the name that S3 uses in x-amz-checksum-algorithm and in XML, such
// as "CRC32C"; "" for None.
func (a Algorithm) String() string {
	switch a {
	case CRC32:
		return "CRC32"
	case CRC32C:
		return "CRC32C"
	case CRC64NVME:
		return "CRC64NVME"
	case SHA1:
		return "SHA1"
	case SHA256:
		return "SHA256"
	}
	return ""
}

// Header is the header or trailer that carries the value, in lower case, such
// as "x-amz-checksum-crc32c"; "" for None.
func (a Algorithm) Header() string {
	switch a {
	case CRC32:
		return "x-amz-checksum-crc32"
	case CRC32C:
		return "x-amz-checksum-crc32c"
	case CRC64NVME:
		return "x-amz-checksum-crc64nvme"
	case SHA1:
		return "x-amz-checksum-sha1"
	case SHA256:
		return "x-amz-checksum-sha256"
	}
	return ""
}

// Size of a value in bytes; 0 for None and for numbers that are no algorithm.
func (a Algorithm) Size() int {
	switch a {
	case CRC32, CRC32C:
		return crc32.Size
	case CRC64NVME:
		return crc64nvme.Size
	case SHA1:
		return sha1.Size
	case SHA256:
		return sha256.Size
	}
	return 0
}

// New makes a hash; nil where Size is 0.
func (a Algorithm) New() hash.Hash {
	switch a {
	case CRC32:
		return crc32.NewIEEE()
	case CRC32C:
		return crc32.New(crc32.MakeTable(crc32.Castagnoli))
	case CRC64NVME:
		return crc64nvme.New()
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	}
	return nil
}

// Of is the checksum of some bytes; the zero Sum for None.
func (a Algorithm) Of(p []byte) Sum {
	s := Sum{algorithm: a}
	h := a.New()
	if h == nil {
		return Sum{}
	}
	h.Write(p)
	h.Sum(s.raw[:0])
	return s
}

// Type says what a checksum is over. The numbers are stored.
type Type uint8

// The types. Unspecified asks for the algorithm's default.
const (
	Unspecified Type = 0
	FullObject  Type = 1
	Composite   Type = 2
)

// ParseType reads x-amz-checksum-type; "" is Unspecified.
func ParseType(name string) (Type, error) {
	switch name {
	case "":
		return Unspecified, nil
	case "FULL_OBJECT":
		return FullObject, nil
	case "COMPOSITE":
		return Composite, nil
	}
	return Unspecified, ErrUnknownType
}

// String is the name that S3 uses; "" for Unspecified.
func (t Type) String() string {
	switch t {
	case FullObject:
		return "FULL_OBJECT"
	case Composite:
		return "COMPOSITE"
	}
	return ""
}

// MultipartType settles the type of a multipart upload's checksum: the one
// asked for, or the algorithm's default. SHA-1 and SHA-256 are only composite,
// CRC64NVME only full-object, CRC32 and CRC32C both, composite by default.
// Objects written in one piece are always FullObject.
func MultipartType(a Algorithm, asked Type) (Type, error) {
	switch {
	case a.Size() == 0:
		return Unspecified, ErrUnknownAlgorithm
	case a == CRC64NVME && asked == Composite, (a == SHA1 || a == SHA256) && asked == FullObject:
		return Unspecified, ErrTypeNotAllowed.saying("The " + asked.String() + " checksum type cannot be used with the " +
			strings.ToLower(a.String()) + " checksum algorithm.")
	case asked != Unspecified:
		return asked, nil
	case a == CRC64NVME:
		return FullObject, nil
	}
	return Composite, nil
}

// Sum is a checksum's value. The zero Sum is the absence of one. Sums are
// compared with ==.
type Sum struct {
	algorithm Algorithm
	parts     uint16 // 0: full-object
	raw       [maxSize]byte
}

// maxParts is how many parts an upload may have.
const maxParts = 10000

// NewSum makes a value from its bytes, as New's Sum gives them. parts is the
// number of parts of a composite value, 0 for a full-object one.
func NewSum(a Algorithm, raw []byte, parts int) (Sum, error) {
	if a.Size() == 0 {
		return Sum{}, ErrUnknownAlgorithm
	}
	if len(raw) != a.Size() || parts < 0 || parts > maxParts {
		return Sum{}, a.invalid()
	}
	s := Sum{algorithm: a, parts: uint16(parts)}
	copy(s.raw[:], raw)
	return s, nil
}

// ParseSum reads a value as headers, trailers and XML hold it: base64, for a
// composite value followed by "-N".
func ParseSum(a Algorithm, text string) (Sum, error) {
	if a.Size() == 0 {
		return Sum{}, ErrUnknownAlgorithm
	}
	parts := 0
	if text, count, ok := strings.Cut(text, "-"); ok {
		n, err := strconv.ParseUint(count, 10, 16)
		if err != nil || n == 0 || n > maxParts || count[0] == '0' {
			return Sum{}, a.invalid()
		}
		parts = int(n)
		return parseRaw(a, text, parts)
	}
	return parseRaw(a, text, parts)
}

func parseRaw(a Algorithm, text string, parts int) (Sum, error) {
	if len(text) != base64.StdEncoding.EncodedLen(a.Size()) {
		return Sum{}, a.invalid()
	}
	var raw [base64Room]byte
	n, err := base64.StdEncoding.Strict().Decode(raw[:], []byte(text))
	if err != nil {
		return Sum{}, a.invalid()
	}
	return NewSum(a, raw[:n], parts)
}

// base64Room is what decoding the longest value may write.
const base64Room = (maxSize + 2) / 3 * 3

// Algorithm of the value; None for the zero Sum.
func (s Sum) Algorithm() Algorithm { return s.algorithm }

// IsZero says that there is no value.
func (s Sum) IsZero() bool { return s.algorithm == None }

// Parts is the number of parts of a composite value, 0 for a full-object one.
func (s Sum) Parts() int { return int(s.parts) }

// Type of the value; Unspecified for the zero Sum.
func (s Sum) Type() Type {
	switch {
	case s.IsZero():
		return Unspecified
	case s.parts > 0:
		return Composite
	}
	return FullObject
}

// Append appends the value's bytes.
func (s Sum) Append(b []byte) []byte { return append(b, s.raw[:s.algorithm.Size()]...) }

// String is the value as S3 writes it, "base64" or "base64-N"; "" for none.
func (s Sum) String() string {
	if s.IsZero() {
		return ""
	}
	text := base64.StdEncoding.EncodeToString(s.raw[:s.algorithm.Size()])
	if s.parts > 0 {
		text += "-" + strconv.Itoa(int(s.parts))
	}
	return text
}
