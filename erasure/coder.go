package erasure

import (
	"errors"
	"fmt"

	"github.com/klauspost/reedsolomon"

	"kintsugi/storagenode"
)

// ErrTooFew: fewer good shards than the scheme needs to decode.
var ErrTooFew = errors.New("too few shards to decode")

// Coder computes parity and lost shards of one scheme. It is safe for
// concurrent use and starts no goroutines. Making one builds its matrix: keep
// it, one for each scheme.
//
// Schemes 1+m hold copies and k+0 hold no parity; both do without arithmetic.
type Coder struct {
	scheme Scheme
	rs     reedsolomon.Encoder // nil where K is 1 or M is 0
}

// NewCoder makes the coder of a scheme.
func NewCoder(s Scheme) (*Coder, error) {
	if s.K < 1 {
		return nil, fmt.Errorf("scheme %s: no data shards", s)
	}
	c := &Coder{scheme: s}
	if s.K == 1 || s.M == 0 {
		return c, nil
	}
	rs, err := reedsolomon.New(int(s.K), int(s.M), reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		return nil, fmt.Errorf("scheme %s: %w", s, err)
	}
	c.rs = rs
	return c, nil
}

// Scheme is what the coder was made for.
func (c *Coder) Scheme() Scheme { return c.scheme }

// Split cuts the memory of a stripe into its shards of Scheme.ShardSize(n)
// bytes, appends them to dst, and zeroes the padding behind the n data bytes.
// It panics where memory is too short: data must hold k such shards, parity m.
func (c *Coder) Split(dst [][]byte, data, parity []byte, n int) [][]byte {
	size := c.scheme.ShardSize(n)
	clear(data[n : size*int(c.scheme.K)])
	return cut(cut(dst, data, size, c.scheme.K), parity, size, c.scheme.M)
}

// cut appends the first n runs of size bytes to dst.
func cut(dst [][]byte, mem []byte, size int, n uint8) [][]byte {
	for i := range int(n) {
		dst = append(dst, mem[i*size:(i+1)*size:(i+1)*size])
	}
	return dst
}

// Encode fills the m parity shards from the k data shards. shards has k+m
// entries of one length.
func (c *Coder) Encode(shards [][]byte) error {
	if err := c.check(shards); err != nil {
		return err
	}
	switch {
	case c.scheme.M == 0:
		return nil
	case c.scheme.K == 1:
		for _, p := range shards[1:] {
			copy(p, shards[0])
		}
		return nil
	}
	return c.rs.Encode(shards)
}

// Reconstruct computes the shards in want from those in have, which must be k
// or more; what is in both is left alone. shards has k+m entries; those in
// have are read, those in want are written, all of one length; others may be
// nil. Whoever calls has verified what is in have.
func (c *Coder) Reconstruct(shards [][]byte, have, want SlotMask) error {
	want &^= have
	if want == 0 {
		return nil
	}
	n := c.scheme.N()
	if len(shards) != n {
		return fmt.Errorf("reconstruct %s: %d shards", c.scheme, len(shards))
	}
	if have&AllSlots(n) != have || want&AllSlots(n) != want {
		return fmt.Errorf("reconstruct %s: slots out of range", c.scheme)
	}
	if have.Count() < int(c.scheme.K) {
		return fmt.Errorf("reconstruct %s from %d: %w", c.scheme, have.Count(), ErrTooFew)
	}
	size := -1
	for i, p := range shards {
		if have.Has(i) || want.Has(i) {
			if size >= 0 && len(p) != size {
				return fmt.Errorf("reconstruct %s: shards of %d and %d bytes", c.scheme, size, len(p))
			}
			size = len(p)
		}
	}
	if size == 0 {
		return nil
	}
	if c.rs == nil {
		return c.copies(shards, have, want)
	}
	return c.solve(shards, have, want)
}

// copies serves 1+m; k+0 never gets here, since it cannot lose a shard.
func (c *Coder) copies(shards [][]byte, have, want SlotMask) error {
	from := have.First()
	for i := range shards {
		if want.Has(i) {
			copy(shards[i], shards[from])
		}
	}
	return nil
}

func (c *Coder) solve(shards [][]byte, have, want SlotMask) error {
	k, n := int(c.scheme.K), c.scheme.N()
	// The library takes the length for presence and fills up to the capacity.
	var hold [storagenode.MaxSlots][]byte
	work := append(hold[:0], shards...)
	for i := range work {
		switch {
		case have.Has(i):
		case want.Has(i):
			work[i] = shards[i][:0:len(shards[i])]
		default:
			work[i] = nil
		}
	}
	if want&AllSlots(k) == want {
		var required [storagenode.MaxSlots]bool
		for i := range n {
			required[i] = want.Has(i)
		}
		return c.rs.ReconstructSome(work, required[:k])
	}
	return c.rs.Reconstruct(work)
}

func (c *Coder) check(shards [][]byte) error {
	if len(shards) != c.scheme.N() {
		return fmt.Errorf("encode %s: %d shards", c.scheme, len(shards))
	}
	for _, p := range shards {
		if len(p) != len(shards[0]) {
			return fmt.Errorf("encode %s: shards of %d and %d bytes", c.scheme, len(shards[0]), len(p))
		}
	}
	return nil
}
