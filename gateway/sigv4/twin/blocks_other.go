//go:build !amd64

package twin

const available = false

func blocks2(*[2]state, *byte, *byte, int) { panic("twin: not on this processor") }
