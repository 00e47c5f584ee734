package twin

import (
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

func noise(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// TestSums compares with crypto/sha256, over all lengths around blocks.
func TestSums(t *testing.T) {
	t.Logf("side by side: %v", available)
	sizes := []int{1000, 4096, 8191, 65536, 65537}
	for n := range 300 {
		sizes = append(sizes, n)
	}
	for _, n := range sizes {
		a, b := noise(n+1, uint64(n))[1:], noise(n, uint64(n)+7)
		x, y := Sums(a, b)
		if x != sha256.Sum256(a) || y != sha256.Sum256(b) {
			t.Fatalf("%d bytes: %x, %x", n, x, y)
		}
	}
	x, y := Sums([]byte("abc"), nil)
	if x != sha256.Sum256([]byte("abc")) || y != sha256.Sum256(nil) {
		t.Fatal("inputs of different lengths")
	}
}

func BenchmarkSums(b *testing.B) {
	p, q := noise(64<<10, 1), noise(64<<10, 2)
	b.Run("one after another", func(b *testing.B) {
		b.SetBytes(128 << 10)
		for b.Loop() {
			sha256.Sum256(p)
			sha256.Sum256(q)
		}
	})
	b.Run("side by side", func(b *testing.B) {
		b.SetBytes(128 << 10)
		for b.Loop() {
			Sums(p, q)
		}
	})
}
