package segment

import (
	"errors"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/vfs"
)

// Config is what Open needs. FS, Dir, Cluster and Drive must be set; the zero
// value of the rest is usable.
type Config struct {
	FS  vfs.FS // pinned to Dir where disks may move
	Dir string // of the drive; segments and index are made in it when absent
	// Cluster and Drive are the identity, checked by the owner; records are
	// bound to the drive.
	Cluster storagenode.UUID
	Drive   storagenode.DriveID

	Clock  clock.Clock  // nil: the system's
	Logger *slog.Logger // nil: discards
	// Cache is the index's block cache, to be shared between drives. Nil: one
	// of 8 MiB of its own.
	Cache *pebble.Cache
	// SegmentSize in bytes. 0: 512 MiB, less on a file system below 32 GiB. A
	// record that does not fit gets a larger segment of its own.
	SegmentSize int64
	// ReserveRatio of the file system is kept free. 0: 0.05. The reserve is at
	// least two segments and room for the index.
	ReserveRatio float64
	// Grace is how long a deleted blob stays readable, and half of how long its
	// tombstone is kept at least. 0: 1 h; below 0: none.
	Grace time.Duration
	// Stuck is the age at which an operation makes the drive suspect. 0: 10 s.
	Stuck time.Duration
	// CompactionRate bounds compaction in bytes read per second. 0: 64 MiB;
	// below 0: unlimited. It does not hold where space is tight.
	CompactionRate int64
	// TrustSums takes the sums given to Put as they are. Otherwise the payload
	// is verified against them.
	TrustSums bool
	// Damaged is told of each shard found damaged outside of a caller's read
	// (at open, by compaction). Nil: nobody. It must not call the store.
	Damaged func(storagenode.ShardID, error)
}

const (
	defaultSegmentSize = 512 << 20
	minAutoSegment     = 4 << 20
)

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.FS == nil, c.Dir == "":
		return c, errors.New("segment store: FS and Dir must be set")
	case c.Drive.IsZero(), c.Cluster.IsZero():
		return c, errors.New("segment store: cluster and drive must be set")
	case c.SegmentSize != 0 && (c.SegmentSize < 2*superSize || c.SegmentSize > 64<<30):
		return c, errors.New("segment store: SegmentSize must be within 8 KiB and 64 GiB")
	case c.ReserveRatio < 0 || c.ReserveRatio > 0.9:
		return c, errors.New("segment store: ReserveRatio must be within 0 and 0.9")
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.ReserveRatio == 0 {
		c.ReserveRatio = 0.05
	}
	switch {
	case c.Grace == 0:
		c.Grace = time.Hour
	case c.Grace < 0:
		c.Grace = 0
	}
	if c.Stuck <= 0 {
		c.Stuck = 10 * time.Second
	}
	if c.CompactionRate == 0 {
		c.CompactionRate = 64 << 20
	}
	if c.Damaged == nil {
		c.Damaged = func(storagenode.ShardID, error) {}
	}
	return c, nil
}

// segmentSizeFor picks the segment size for a file system of total bytes (0:
// not known): a 64th of it, a power of two, within 4 and 512 MiB.
func segmentSizeFor(total int64) int64 {
	if total <= 0 {
		return defaultSegmentSize
	}
	size := int64(minAutoSegment)
	for size < defaultSegmentSize && size*2 <= total/64 {
		size *= 2
	}
	return size
}
