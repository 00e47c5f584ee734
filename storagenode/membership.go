package storagenode

import (
	"context"
	"errors"
)

// What a Membership refuses an announcement with, wrapped with who stands in
// the way.
var (
	ErrOtherCluster = errors.New("of another cluster")
	ErrNameTaken    = errors.New("name of another living node")
)

// Announcement is what a node tells the repairers of itself at start and every
// few seconds from then on.
type Announcement struct {
	// Cluster is the cluster that the node's drives are formatted for; zero:
	// none is formatted yet, and the node asks which one it is to join.
	Cluster UUID          `json:"cluster"`
	Name    string        `json:"name"`    // unique in the cluster
	Zone    string        `json:"zone"`    // failure domain above the node; may be empty
	Address string        `json:"address"` // base URL where it serves its drives
	Version string        `json:"version"` // of the program
	Drives  []DriveReport `json:"drives"`
	// Damaged are shards that the node has found damaged by itself, at most
	// MaxClaims: when it opened a drive, or wrote a segment anew. They are told
	// until a leader has heard of them.
	Damaged []ShardClaim `json:"damaged,omitempty"`
}

// MaxClaims is how many shards are claimed to be damaged at a time, at most.
const MaxClaims = 256

// ShardClaim says that a shard may be missing or corrupt: a claim to be verified,
// not a verdict.
type ShardClaim struct {
	PG   PG     `json:"pg"`
	Slot int    `json:"slot"`
	Blob string `json:"blob"` // as BlobID.String writes it
}

// Welcome answers an Announcement.
type Welcome struct {
	// Cluster is the cluster the repairer works for.
	Cluster UUID `json:"cluster"`
	// Leads says that the answering repairer leads, so that what was announced
	// counts.
	Leads bool `json:"leads"`
	// Drives are those that metadata knows of the node; told to who asks which
	// cluster to join.
	Drives []KnownDrive `json:"drives,omitempty"`
}

// KnownDrive is a drive that a directory of a node is known to hold, so that an
// empty directory in its place can be told from a disk that is not mounted: only
// the file system the drive was on may take its place.
type KnownDrive struct {
	Drive DriveID `json:"drive"`
	Dir   string  `json:"dir"`
	// Device and Total are st_dev and the size in bytes of the file system; 0:
	// nobody knows.
	Device uint64 `json:"device"`
	Total  int64  `json:"total"`
}

// Membership takes announcements; the repairer implements it. It refuses a
// node of another cluster (ErrOtherCluster), and a name that another living
// node bears (ErrNameTaken).
type Membership interface {
	Announce(ctx context.Context, a Announcement) (Welcome, error)
}
