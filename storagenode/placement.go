package storagenode

import (
	"context"
	"fmt"
)

// SlotState says what a drive holds of its slot.
type SlotState uint8

const (
	// SlotClean: the drive holds all the slot should, but for marked damage.
	SlotClean SlotState = iota
	// SlotRebuilding: newly mapped; older blobs are still being copied in.
	// From names the drive that may still have them (zero: none).
	SlotRebuilding
)

// Slot is one position of a PG and the drive it is mapped to.
type Slot struct {
	Drive DriveID
	Epoch uint32
	State SlotState
	From  DriveID
}

// DriveState is what the detector thinks of a drive.
type DriveState uint8

// The states of a drive, in the order a failing one passes through them.
const (
	DriveActive   DriveState = iota
	DriveSuspect             // no new PGs
	DriveDown                // reads skip it, writes go without it
	DriveBroken              // unfit for good: slots are remapped at once
	DriveOut                 // away too long: slots are remapped
	DriveDraining            // by command: slots move away, reads go on
	DriveDrained
	DriveRetired // for good: it discharges what it was owed
)

var driveStates = [...]string{"ACTIVE", "SUSPECT", "DOWN", "BROKEN", "OUT", "DRAINING", "DRAINED", "RETIRED"}

// String gives the name as operators see it.
func (s DriveState) String() string {
	if int(s) < len(driveStates) {
		return driveStates[s]
	}
	return "UNKNOWN"
}

// MarshalText implements encoding.TextMarshaler.
func (s DriveState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *DriveState) UnmarshalText(text []byte) error {
	for i, name := range driveStates {
		if name == string(text) {
			*s = DriveState(i)
			return nil
		}
	}
	return fmt.Errorf("drive state %q is not known", text)
}

// Readable says whether asking the drive for shards makes sense.
func (s DriveState) Readable() bool {
	return s == DriveActive || s == DriveSuspect || s == DriveDraining || s == DriveDrained
}

// Writable says whether a write must wait for the drive. A drive that is
// merely slow is writable.
func (s DriveState) Writable() bool { return s == DriveActive || s == DriveDraining }

// Drives resolves a drive to its store and state; (nil, DriveDown) where it
// cannot be reached.
type Drives interface {
	Drive(id DriveID) (ShardStore, DriveState)
}

// Finder is implemented by Drives that learn of drives as they come.
type Finder interface {
	// Find looks at once for those drives that are not known yet, and says
	// whether one was found.
	Find(ctx context.Context, ids ...DriveID) bool
}
