package lanes

import "golang.org/x/sys/cpu"

// available says whether the processor has what blocks8 is made of.
func available() bool { return hasAVX512() || hasAVX2() }

func hasAVX512() bool { return cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL }

func hasAVX2() bool { return cpu.X86.HasAVX2 }

// blocks8 adds blocks of 64 bytes from each of data to the eight states beside
// each other: state[word][lane].
func blocks8(state *[4][width]uint32, data *[width]*byte, blocks int) {
	if hasAVX512() {
		blocks8AVX512(state, data, blocks)
		return
	}
	blocks8AVX2(state, data, blocks)
}

//go:noescape
func blocks8AVX512(state *[4][width]uint32, data *[width]*byte, blocks int)

//go:noescape
func blocks8AVX2(state *[4][width]uint32, data *[width]*byte, blocks int)
