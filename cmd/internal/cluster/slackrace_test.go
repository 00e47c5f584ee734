//go:build race

package cluster

// slack stretches the limits of time under the race detector.
const slack = 6

// raceDetector says whether it is on.
const raceDetector = true
