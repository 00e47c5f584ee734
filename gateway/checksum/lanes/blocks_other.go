//go:build !amd64

package lanes

func available() bool { return false }

func blocks8(*[4][width]uint32, *[width]*byte, int) { panic("lanes: not on this processor") }
