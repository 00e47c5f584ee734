//go:build !race

package stripe

// slack stretches the tests' times where the machine is slower than usual.
const slack = 1
