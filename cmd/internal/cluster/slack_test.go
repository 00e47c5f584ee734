//go:build !race

package cluster

// slack stretches the limits of time: a machine may be busy.
const slack = 2

// raceDetector says whether it is on.
const raceDetector = false
