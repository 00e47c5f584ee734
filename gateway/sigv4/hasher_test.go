package sigv4

import (
	"crypto/sha256"
	"hash"

	md5simd "github.com/minio/md5-simd"
)

// sum256Hasher is a SHA-256 in the shape that minio-go's signer wants.
type sum256Hasher struct{ hash.Hash }

func (sum256Hasher) Close() {}

func newSum256() md5simd.Hasher { return sum256Hasher{sha256.New()} }
