package lanes

import "golang.org/x/sys/cpu"

// available says whether the processor has what blocks8 is made of.
func available() bool { return cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL }

// blocks8 adds blocks of 64 bytes from each of data to the eight states beside
// each other: state[word][lane].
//
//go:noescape
func blocks8(state *[4][width]uint32, data *[width]*byte, blocks int)
