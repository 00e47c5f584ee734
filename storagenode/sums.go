package storagenode

import "github.com/cespare/xxhash/v2"

// SumCount is the number of block sums of a payload of n bytes.
func SumCount(n int) int { return (n + SumBlock - 1) / SumBlock }

// BlockSum is the checksum of one block: xxh64, seed 0.
func BlockSum(p []byte) uint64 { return xxhash.Sum64(p) }

// AppendSums appends the block sums of payload to dst.
func AppendSums(dst []uint64, payload []byte) []uint64 {
	for len(payload) > 0 {
		n := min(SumBlock, len(payload))
		dst = append(dst, BlockSum(payload[:n]))
		payload = payload[n:]
	}
	return dst
}
