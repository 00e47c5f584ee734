package storagenode

import "errors"

// The closed set of errors a ShardStore answers with, wrapped with what was
// being done; they keep their identity over a network.
var (
	ErrNotFound   = errors.New("shard not found")
	ErrCorrupt    = errors.New("shard corrupt")
	ErrStaleEpoch = errors.New("stale slot epoch")
	ErrReadOnly   = errors.New("drive is read-only: its reserve is reached")
	ErrTooLarge   = errors.New("shard too large")
	ErrDeleted    = errors.New("blob was deleted")
	// ErrBroken: the drive is unfit for good (a failed fsync, repeated I/O
	// errors, its directory was emptied or replaced).
	ErrBroken = errors.New("drive is broken")
	// ErrSuspect: an operation on the drive is stuck.
	ErrSuspect = errors.New("drive does not answer")
	// ErrUnavailable: the drive cannot be asked now. Unreachable is not absent.
	ErrUnavailable = errors.New("drive unavailable")
)
