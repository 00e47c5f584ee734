package storagenode

import "time"

// DriveReport is a drive as the node that serves it sees it now.
type DriveReport struct {
	ID     DriveID    `json:"id"`
	Node   string     `json:"node"`
	Zone   string     `json:"zone,omitempty"`
	Dir    string     `json:"dir"`
	State  DriveState `json:"state"`
	Reason string     `json:"reason,omitempty"` // why it is not ACTIVE
	Since  time.Time  `json:"since"`            // when State was entered
	Space  Space      `json:"space"`
	Heard  time.Time  `json:"heard"`
	// Device and Total are those of the file system, as in KnownDrive.
	Device uint64 `json:"device,omitempty"`
	Total  int64  `json:"total,omitempty"`
	// Replaces is the drive whose place this one took when it was formatted.
	Replaces DriveID `json:"-"`
}

// Reporter lists the drives that are known to be there, also unfit ones.
type Reporter interface {
	Drives
	Reports() []DriveReport
}
