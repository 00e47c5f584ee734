// Package load is what every fault test puts on a store: concurrent writers
// and readers with self-describing payloads, a journal of every operation, and
// the proof afterwards that nothing acknowledged was lost, no wrong byte was
// read, nothing deleted came back, and each key behaved linearizably.
package load

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
)

// header is magic, id, length, SHA-256 of the rest.
const header = 8 + 8 + 8 + sha256.Size

var magic = [8]byte{'k', 'i', 'n', 't', 'l', 'o', 'a', 'd'}

// Payload makes the bytes of write number id: size bytes, at least a header,
// that say themselves what they should be.
func Payload(id uint64, size int) []byte {
	p := make([]byte, max(size, header))
	body := p[header:]
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], id)
	_, _ = rand.NewChaCha8(seed).Read(body)
	copy(p, magic[:])
	binary.LittleEndian.PutUint64(p[8:], id)
	binary.LittleEndian.PutUint64(p[16:], uint64(len(p)))
	sum := sha256.Sum256(body)
	copy(p[24:], sum[:])
	return p
}

// ErrWrongBytes is what must never be read.
var ErrWrongBytes = errors.New("wrong bytes")

// Identify gives the number of the write that made p, ErrWrongBytes where p
// is not whole.
func Identify(p []byte) (id uint64, err error) {
	if len(p) < header || !bytes.Equal(p[:8], magic[:]) {
		return 0, fmt.Errorf("%w: %d bytes without a header", ErrWrongBytes, len(p))
	}
	id = binary.LittleEndian.Uint64(p[8:])
	if n := binary.LittleEndian.Uint64(p[16:]); n != uint64(len(p)) {
		return id, fmt.Errorf("%w: write %d has %d bytes, got %d", ErrWrongBytes, id, n, len(p))
	}
	if sum := sha256.Sum256(p[header:]); !bytes.Equal(sum[:], p[24:24+sha256.Size]) {
		return id, fmt.Errorf("%w: write %d has another hash", ErrWrongBytes, id)
	}
	return id, nil
}
