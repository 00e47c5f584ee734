// Package segment is a ShardStore on a directory of a drive.
//
// The truth is a log: segment files that are only ever appended to, each a
// superblock and a run of self-describing, checksummed records (format.go).
// Beside it lies an index, a Pebble database that maps shards to places in the
// log. The index is a cache: it is written without a log of its own, stores in
// every batch how far into each segment it covers, and is rebuilt from the
// segments when it is lost or damaged.
//
// How a write travels. Put reserves a place, a sequence number and a ticket
// under a short lock. A small record is staged in memory (stage.go), and where its
// caller likes, without a wait: Stage is Put and Sync in one. A larger one is
// written into the page cache outside of the lock (put.go). Sync joins a group;
// one committer goroutine writes what is staged of it, makes the group durable
// with one fdatasync, applies its records to the index in one batch and wakes
// the group (commit.go). The batching window is the fdatasync that runs: there
// are no timers. Nothing is visible before it is durable. Where staged records
// find no space, their group is refused and the incarnation in tokens changes,
// so that no token of a refused record ever passes for durable.
//
// How a read travels. Reads run on the caller's goroutine: look the shard up,
// read header and touched blocks, verify all of it, copy it out (read.go). Each
// operation occupies one of a fixed number of places (gate.go). A call the
// kernel never answers keeps its place; where all are stuck, callers get
// ErrSuspect at once. A caller that must not wait for a sick drive runs reads
// and puts in a goroutine of its own, as package stripe does; Sync always
// honours its context.
//
// Open replays what the index has not covered (recover.go); compaction copies
// what lives out of segments that are mostly dead (compact.go). A broken drive
// refuses writes for good, but goes on reading where it can: what it reads is
// verified.
//
// Locks, in the order they may be taken: applyMu (the index's writers, and the
// accounting of dead bytes), then mu (the tail of the log, fences, queues).
package segment
