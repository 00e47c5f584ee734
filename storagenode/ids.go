package storagenode

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sync"
	"time"
)

// BlobID identifies a blob: 48 bit of milliseconds since 1970, a 16 bit
// counter, 64 random bits, big endian, so that byte order is order of birth.
type BlobID [16]byte

// String gives the 32 hexadecimal digits.
func (b BlobID) String() string { return hex.EncodeToString(b[:]) }

// Time is the millisecond the id was made, by its maker's clock.
func (b BlobID) Time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[:8]) >> 16)).UTC()
}

// Compare orders ids by their bytes: -1, 0 or 1.
func (b BlobID) Compare(o BlobID) int {
	for i := range b {
		if b[i] != o[i] {
			if b[i] < o[i] {
				return -1
			}
			return 1
		}
	}
	return 0
}

// BlobIDAt is the smallest id made at t; ids made before sort below it.
func BlobIDAt(t time.Time) BlobID {
	var b BlobID
	binary.BigEndian.PutUint64(b[:8], uint64(t.UnixMilli())<<16)
	return b
}

// ParseBlobID reads what String wrote.
func ParseBlobID(s string) (b BlobID, err error) {
	return b, parse(b[:], s)
}

// BlobIDs makes ids that grow strictly within one process, also where the
// clock stands still or goes back. The zero value is not usable: NewBlobIDs.
type BlobIDs struct {
	now  func() time.Time
	mu   sync.Mutex
	last uint64 // milliseconds<<16 | counter
}

// NewBlobIDs takes the clock the ids are made by.
func NewBlobIDs(now func() time.Time) *BlobIDs { return &BlobIDs{now: now} }

// Next makes a new id.
func (g *BlobIDs) Next() BlobID {
	t := uint64(g.now().UnixMilli()) << 16
	g.mu.Lock()
	if t <= g.last {
		t = g.last + 1
	}
	g.last = t
	g.mu.Unlock()
	var b BlobID
	binary.BigEndian.PutUint64(b[:8], t)
	_, _ = rand.Read(b[8:]) // never fails: crypto/rand aborts the process instead
	return b
}

// Above has all ids from now on be greater than b.
func (g *BlobIDs) Above(b BlobID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = max(g.last, binary.BigEndian.Uint64(b[:8]))
}

// UUID identifies a cluster, a drive or a node: 16 random bytes.
type UUID [16]byte

// DriveID is the identity of a drive, made when it is formatted.
type DriveID = UUID

// NewUUID makes a random (version 4) id.
func NewUUID() UUID {
	var u UUID
	_, _ = rand.Read(u[:])
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// IsZero says that no id was set.
func (u UUID) IsZero() bool { return u == UUID{} }

// String gives the form 8-4-4-4-12.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// MarshalText implements encoding.TextMarshaler.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *UUID) UnmarshalText(p []byte) (err error) {
	*u, err = ParseUUID(string(p))
	return err
}

// ParseUUID reads the form of String, with or without dashes.
func ParseUUID(s string) (u UUID, err error) {
	plain := make([]byte, 0, 32)
	for i := range len(s) {
		if s[i] != '-' {
			plain = append(plain, s[i])
		}
	}
	return u, parse(u[:], string(plain))
}

func parse(dst []byte, s string) error {
	if len(s) != 2*len(dst) {
		return fmt.Errorf("id %q: want %d hexadecimal digits", s, 2*len(dst))
	}
	if _, err := hex.Decode(dst, []byte(s)); err != nil {
		return fmt.Errorf("id %q: %w", s, err)
	}
	return nil
}
