// Package journal is the embedded engine of package kv: an append-only log of
// commits, the same on several drives, is the truth; a Pebble database on one
// of the drives is a cache of it, in order, that is never trusted for
// durability and can always be rebuilt.
//
// # A commit
//
// One goroutine, the committer, takes all transactions that wait, validates
// them one after another against a bounded window of recently written keys,
// and appends those that hold as one group to the log of every member, in
// parallel. When all members have synced it, the group is applied to the state
// in one batch and the waiters are woken. The batching window is the sync that
// is running. See store.go, committer.go, group.go.
//
// # Members
//
// Tolerance+1 drives are members. The membership is a record {generation,
// members} kept on every drive. A member that fails or hangs is left out by a
// next generation, which is synced on enough drives (see needed) before
// anything is acknowledged without it; another drive joins: it takes part in
// every append from then on, gets a snapshot of the state beside, and becomes
// a member by a further generation. So every member of the newest generation
// has every acknowledged commit. A drive that is to be taken out is left once
// another one has joined. See membership.go, member.go, join.go, leave.go.
//
// # Opening
//
// The newest generation among the readable records names the members; all but
// Tolerance of the drives must be readable, or a newer generation might be
// missed (where Tolerance is less than half of them). Where not all are, the
// generation leaps, so that none which was only tried can be newer. Of the members the one with the longest valid chain is taken; groups
// found on only some of them are kept, since they may have been acknowledged,
// and synced everywhere before anything is served. See recover.go. Where all logs are
// damaged, a state that is proved to have what is missing makes up for it; where it has
// more than they, but that is not proved, nothing is opened. See reach.go.
//
// On a drive, in Dir:
//
//	journal/membership        the membership record (JSON with a checksum)
//	journal/log-<commit>      groups, chained by hash, from that commit on
//	journal/snap-<commit>     the whole state at that commit
//	state/                    Pebble; on one drive only
package journal
