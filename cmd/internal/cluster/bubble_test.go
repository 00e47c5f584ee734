//go:build bubble

package cluster

import (
	"errors"
	_ "unsafe" // for go:linkname
)

// bubbles: this binary can run seeds in bubbles of testing/synctest.
const bubbles = true

// The runtime's tables of why goroutines wait, and in which of these waits a
// bubble counts them as idle. Their length may be more.
//
//go:linkname waitReasonStrings runtime.waitReasonStrings
var waitReasonStrings [46]string

//go:linkname isIdleInSynctest runtime.isIdleInSynctest
var isIdleInSynctest [46]bool

// letMutexesIdle has a bubble count those as idle who wait for a mutex. As it
// stands it does not, since a mutex may be held outside of the bubble; all
// that matter here are within. But mutexes are held while the one who holds
// them waits for a disk or for the metadata, and then time would stand still.
func letMutexesIdle() error {
	found := 0
	for i, s := range waitReasonStrings {
		if s == "sync.Mutex.Lock" || s == "sync.RWMutex.Lock" || s == "sync.RWMutex.RLock" {
			isIdleInSynctest[i] = true
			found++
		}
	}
	if found != 3 {
		return errors.New("the runtime's tables are not what they were: bring bubble_test.go up to date")
	}
	return nil
}
