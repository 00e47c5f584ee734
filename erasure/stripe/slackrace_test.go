//go:build race

package stripe

// slack stretches the tests' times under the race detector.
const slack = 8
