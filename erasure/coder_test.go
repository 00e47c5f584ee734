package erasure

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

var schemes = []Scheme{{4, 2}, {2, 2}, {2, 1}, {1, 1}, {8, 4}, {1, 2}, {3, 0}, {1, 0}, {3, 2}}

// TestEveryLossPattern decodes after each loss of up to m shards, and refuses
// each loss of more.
func TestEveryLossPattern(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, s := range schemes {
		c, err := NewCoder(s)
		if err != nil {
			t.Fatal(err)
		}
		length := 1 + rng.IntN(5000)
		size := s.ShardSize(length)
		mem := make([]byte, size*s.N())
		for i := range mem {
			mem[i] = byte(rng.Uint32()) // also where padding will be
		}
		shards := c.Split(nil, mem[:size*int(s.K)], mem[size*int(s.K):], length)
		if err := c.Encode(shards); err != nil {
			t.Fatal(err)
		}
		for have := SlotMask(0); have <= AllSlots(s.N()); have++ {
			lost := AllSlots(s.N()) &^ have
			for _, want := range []SlotMask{lost, lost & AllSlots(int(s.K)), lost &^ AllSlots(int(s.K))} {
				got := make([][]byte, s.N())
				for i := range got {
					if have.Has(i) {
						got[i] = bytes.Clone(shards[i])
					} else if want.Has(i) {
						got[i] = bytes.Repeat([]byte{0xEE}, size)
					}
				}
				err := c.Reconstruct(got, have, want)
				if want != 0 && have.Count() < int(s.K) {
					if !errors.Is(err, ErrTooFew) {
						t.Fatalf("%s have %b want %b: %v", s, have, want, err)
					}
					continue
				}
				if err != nil {
					t.Fatalf("%s have %b want %b: %v", s, have, want, err)
				}
				for i := range got {
					if (have | want).Has(i) && !bytes.Equal(got[i], shards[i]) {
						t.Fatalf("%s have %b want %b: shard %d differs", s, have, want, i)
					}
				}
			}
		}
	}
}

func TestPaddingIsZero(t *testing.T) {
	c, err := NewCoder(Scheme{4, 2})
	if err != nil {
		t.Fatal(err)
	}
	mem := bytes.Repeat([]byte{7}, 6*64)
	shards := c.Split(nil, mem[:4*64], mem[4*64:], 70)
	if want := append(bytes.Repeat([]byte{7}, 6), make([]byte, 58)...); !bytes.Equal(shards[1], want) {
		t.Fatalf("second shard %v", shards[1])
	}
	if !bytes.Equal(shards[2], make([]byte, 64)) || !bytes.Equal(shards[3], make([]byte, 64)) {
		t.Fatal("padding is not zero")
	}
}

func TestCoderRefusesNonsense(t *testing.T) {
	if _, err := NewCoder(Scheme{0, 2}); err == nil {
		t.Fatal("0+2 accepted")
	}
	c, err := NewCoder(Scheme{2, 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Encode(make([][]byte, 2)); err == nil {
		t.Fatal("two shards accepted")
	}
	if err := c.Encode([][]byte{{1}, {2, 3}, {4}}); err == nil {
		t.Fatal("shards of two lengths accepted")
	}
	if err := c.Reconstruct([][]byte{{1}, {2, 3}, {4}}, 0b011, 0b100); err == nil {
		t.Fatal("shards of two lengths accepted")
	}
	if err := c.Reconstruct([][]byte{{1}, {2}, {4}}, 0b1011, 0b100); err == nil {
		t.Fatal("slot out of range accepted")
	}
}

func BenchmarkEncode4MiB(b *testing.B) {
	s := Scheme{4, 2}
	c, err := NewCoder(s)
	if err != nil {
		b.Fatal(err)
	}
	size := s.ShardSize(StripeSize)
	shards := c.Split(nil, make([]byte, size*int(s.K)), make([]byte, size*int(s.M)), StripeSize)
	b.SetBytes(StripeSize)
	for b.Loop() {
		if err := c.Encode(shards); err != nil {
			b.Fatal(err)
		}
	}
}
