package twin

import "github.com/klauspost/cpuid/v2"

// available says whether the processor has what blocks2 is made of.
var available = cpuid.CPU.Supports(cpuid.SHA, cpuid.SSSE3, cpuid.SSE4)

// blocks2 adds blocks of 64 bytes from a and from b to the two states.
//
//go:noescape
func blocks2(states *[2]state, a, b *byte, blocks int)
