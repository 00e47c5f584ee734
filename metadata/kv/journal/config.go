package journal

import (
	"io"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/vfs"
)

// Member is a drive the journal may use: it owns Dir/journal and Dir/state.
type Member struct {
	ID  storagenode.DriveID
	Dir string
}

// Config of a Store. Zero values mean what the comments say.
type Config struct {
	FS      vfs.FS           // required
	Cluster storagenode.UUID // required: binds all records
	Drives  []Member         // required: all drives of the node, also broken ones
	// Tolerance is the number of drives that may be lost: Tolerance+1 drives
	// are members, and all but Tolerance are needed to open.
	Tolerance int
	// Unusable names drives not to touch until SetUsable says otherwise.
	Unusable []storagenode.DriveID
	// Whose reads which drive a directory is: where it is another one than the
	// member's, or none, nothing is written there or removed. Nil: that the
	// directory is there suffices.
	Whose func(fs vfs.FS, dir string) (storagenode.DriveID, error)
	// Format creates the namespace, where no drive has one. Where one exists
	// Format changes nothing.
	Format bool

	Clock  clock.Clock   // nil: the system's
	Logger *slog.Logger  // nil: discard
	Cache  *pebble.Cache // for the state's blocks; nil: 128 MiB of its own, half of it for memtables

	EvictAfter   time.Duration // a member may be slower than the others by that; 0: 2 s
	StallAfter   time.Duration // as long all members may be slow together; 0: 10 s
	StateTimeout time.Duration // a read of the state's files; its writes five times that; 0: 2 s
	Wait         time.Duration // of requests, while the engine recovers; 0: 10 s
	RetryAfter   time.Duration // until a drive that failed may join again; 0: 10 s
	Checkpoint   time.Duration // between flushes of the state; 0: 5 s
	CheckEvery   time.Duration // in which all members' files are read again, or longer where they are large; 0: 1 min

	// Tick is the time between looks at what is due (joins, snapshots,
	// checkpoints); every tenth looks after the drives themselves; 0: 100 ms.
	Tick time.Duration

	// LogSize bounds a log file, in bytes; 0: 16 MiB, less on small drives.
	LogSize int64
	// SnapshotAfter is the size of the log, in bytes, from which on a snapshot
	// is made and the log trimmed (the size of the last snapshot, if that is
	// more); 0: 64 MiB, less on small drives.
	SnapshotAfter int64
	// MaxPending bounds the commits that wait; beyond: kv.ErrUnavailable; 0: 4096.
	MaxPending int
}

func (c Config) withDefaults() Config {
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	durations := []struct {
		d    *time.Duration
		zero time.Duration
	}{
		{&c.EvictAfter, 2 * time.Second}, {&c.StallAfter, 10 * time.Second},
		{&c.StateTimeout, 2 * time.Second}, {&c.Wait, 10 * time.Second},
		{&c.RetryAfter, 10 * time.Second}, {&c.Checkpoint, 5 * time.Second}, {&c.Tick, 100 * time.Millisecond},
		{&c.CheckEvery, time.Minute},
	}
	for _, f := range durations {
		if *f.d <= 0 {
			*f.d = f.zero
		}
	}
	if c.MaxPending <= 0 {
		c.MaxPending = 4096
	}
	total := int64(1) << 40
	for _, d := range c.Drives {
		if u, err := c.FS.Usage(d.Dir); err == nil && u.Total > 0 {
			total = min(total, u.Total)
		}
	}
	if c.LogSize <= 0 {
		c.LogSize = min(16<<20, max(256<<10, total/128))
	}
	if c.SnapshotAfter <= 0 {
		c.SnapshotAfter = min(64<<20, max(1<<20, total/32))
	}
	return c
}

// Status describes the engine to operators.
type Status struct {
	Generation uint64                `json:"generation"`
	Members    []storagenode.DriveID `json:"members"`
	Joining    []storagenode.DriveID `json:"joining,omitempty"` // being copied to
	Commit     uint64                `json:"commit"`            // the newest
	Lag        uint64                `json:"lag"`               // commits a joining drive is behind
	LogBytes   int64                 `json:"logBytes"`          // of log since the last snapshot
	StateDrive storagenode.DriveID   `json:"stateDrive"`        // zero while the state is rebuilt
	// Left are drives that were to be taken out, and may be now.
	Left []storagenode.DriveID `json:"left,omitempty"`
	// Degraded says what is wrong; empty: Tolerance+1 members, all well.
	Degraded string `json:"degraded,omitempty"`
}
