package checksum

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/minio/crc64nvme"
)

// Part is a part of a multipart upload.
type Part struct {
	// Sum of the part's bytes, a full-object value.
	Sum Sum
	// Size of the part in bytes.
	Size int64
}

// Compose makes the composite value: the checksum of the parts' checksums.
func Compose(a Algorithm, parts []Part) (Sum, error) {
	if err := checkParts(a, parts); err != nil {
		return Sum{}, err
	}
	h := a.New()
	var raw [maxSize]byte
	for _, p := range parts {
		h.Write(p.Sum.Append(raw[:0]))
	}
	return NewSum(a, h.Sum(raw[:0]), len(parts))
}

// Combine computes the full-object value from the parts' values, without their
// bytes. Only CRCs can be combined.
func Combine(a Algorithm, parts []Part) (Sum, error) {
	f, ok := fieldOf(a)
	if !ok {
		_, err := MultipartType(a, FullObject)
		return Sum{}, err
	}
	if err := checkParts(a, parts); err != nil {
		return Sum{}, err
	}
	var crc, shift uint64
	size := int64(-1)
	for _, p := range parts {
		if p.Size != size { // mostly all parts but the last are of one size
			size, shift = p.Size, f.shift(p.Size)
		}
		crc = f.multiply(shift, crc) ^ p.Sum.crc()
	}
	s := Sum{algorithm: a}
	if f.bits == 32 {
		binary.BigEndian.PutUint32(s.raw[:], uint32(crc))
	} else {
		binary.BigEndian.PutUint64(s.raw[:], crc)
	}
	return s, nil
}

func checkParts(a Algorithm, parts []Part) error {
	if a.Size() == 0 {
		return ErrUnknownAlgorithm
	}
	if len(parts) == 0 || len(parts) > maxParts {
		return ErrParts
	}
	for _, p := range parts {
		if p.Sum.algorithm != a || p.Sum.parts != 0 || p.Size < 0 {
			return ErrParts
		}
	}
	return nil
}

// crc is the value of a CRC as a number.
func (s Sum) crc() uint64 {
	if s.algorithm == CRC64NVME {
		return binary.BigEndian.Uint64(s.raw[:])
	}
	return uint64(binary.BigEndian.Uint32(s.raw[:]))
}

// field is the ring of polynomials over GF(2) modulo a CRC's polynomial, in
// reflected form: the highest of bits is the coefficient of x^0.
//
// Appending n bytes to a message multiplies its CRC by x^(8n); what the two
// inversions of these CRCs (before and after) add cancels out. Therefore
// crc(AB) = crc(A)·x^(8·len(B)) + crc(B).
type field struct {
	poly uint64 // without its highest term, reflected
	bits uint
}

func fieldOf(a Algorithm) (field, bool) {
	switch a {
	case CRC32:
		return field{crc32.IEEE, 32}, true
	case CRC32C:
		return field{crc32.Castagnoli, 32}, true
	case CRC64NVME:
		return field{crc64nvme.NVME, 64}, true
	}
	return field{}, false
}

// multiply gives a·b.
func (f field) multiply(a, b uint64) (product uint64) {
	for term := uint64(1) << (f.bits - 1); term != 0 && a != 0; term >>= 1 {
		if a&term != 0 {
			product ^= b
			a ^= term
		}
		carry := b & 1
		b >>= 1
		b ^= f.poly & -carry
	}
	return product
}

// shift gives x^(8·size).
func (f field) shift(size int64) uint64 {
	power := uint64(1) << (f.bits - 1 - 8) // x^8
	result := uint64(1) << (f.bits - 1)    // 1
	for n := uint64(size); n != 0; n >>= 1 {
		if n&1 != 0 {
			result = f.multiply(power, result)
		}
		power = f.multiply(power, power)
	}
	return result
}
