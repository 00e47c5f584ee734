// Package etcd is the engine of package kv for a cluster: an etcd of three or
// five members, Kintsugi's own (`kintsugi metadata`) or another.
//
// # Reads
//
// A Get of the newest state is one linearizable read; the members share one
// round of agreement among all reads that wait. The first Get of a transaction
// or the first page of a scan tells the revision that the rest is read at;
// later ones may be answered by any member that has that revision. A history
// compacted away meanwhile is a conflict to a transaction and the end of a
// scan. See store.go, scan.go, call.go.
//
// # Commits
//
// A commit is one etcd transaction: it asserts the mod revision of every key
// read (0 where there was none) and writes. It is sent once: a request whose
// answer is lost is never sent again, so our own success cannot come back as a
// conflict. What certainly did not take place is told apart from what is
// unknown; see txn.go and call.go.
//
// # The fence
//
// kv promises that a commit of unknown outcome cannot take place any more once
// a later transaction wrote one of its keys. Its request may still be on some
// wire, so every commit asserts the mod revision of a key of this Store, the
// fence. After an unknown outcome the fence is written before anything else is
// sent, and what is still on its way fails. See fence.go.
//
// # Keys
//
// Below the prefix of the configuration:
//
//	k/<key>  the pairs       f/<store>  fences, which end by themselves after a day
package etcd
