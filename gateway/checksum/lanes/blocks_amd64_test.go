package lanes

import (
	"math/rand/v2"
	"testing"
)

// TestBothWays: where the processor has both, AVX2 gives what AVX-512 gives,
// which TestBlocks compares with crypto/md5.
func TestBothWays(t *testing.T) {
	if !hasAVX512() || !hasAVX2() {
		t.Skip("one way here: TestBlocks has it")
	}
	for _, blocks := range []int{0, 1, 2, 65} {
		r := rand.New(rand.NewPCG(uint64(blocks), 1))
		var one, other [4][width]uint32
		for i := range one {
			for lane := range one[i] {
				one[i][lane] = r.Uint32()
			}
		}
		other = one
		var data [width]*byte
		for lane := range data {
			data[lane] = &noise(64*blocks+9, uint64(lane))[lane]
		}
		blocks8AVX512(&one, &data, blocks)
		blocks8AVX2(&other, &data, blocks)
		if one != other {
			t.Fatalf("%d blocks: AVX2 gives %x, AVX-512 %x", blocks, other, one)
		}
	}
}
