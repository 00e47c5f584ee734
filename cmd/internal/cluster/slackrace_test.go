//go:build race

package cluster

// slack stretches the limits of time under the race detector.
const slack = 6
