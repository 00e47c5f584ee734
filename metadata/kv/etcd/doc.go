// Package etcd is the engine of package kv for a cluster: an etcd of three or
// five members, Kintsugi's own (`kintsugi metadata`) or another.
//
// # Reads
//
// Gets that wait while a read is under way share the next request, whichever
// state each of them wants: one linearizable transaction of ranges, made after
// all of them were called (package lane, look.go). It waits a moment, at most 1 ms and
// half of what the last one took, for those who were answered last and are about to ask
// again, so that clients in step make one request instead of two halves; who is alone
// waits for nobody (lane.Lane.Gather, lane/company.go). The first Get of a transaction,
// or the first page of a scan, tells the revision that the rest is read at. A
// transaction that says beforehand what it will read (Prefetch) asks once. A
// history compacted away meanwhile is a conflict to a transaction and the end
// of a scan. See store.go, scan.go, call.go.
//
// # Commits
//
// A commit asserts the mod revision of every key read (0 where there was none)
// and writes. Commits that wait while one is under way share the next request:
// one etcd transaction whose operations are transactions, each with assertions
// and an outcome of its own. etcd judges the assertions of all by the state
// before the whole, so that what one of a group writes no other of it may read
// or write (takeCommits). A request is sent once: if its answer is lost it is
// never sent again, so our own success cannot come back as a conflict. What
// certainly did not take place is told apart from what is unknown, and is so
// for each of a group; see commit.go, txn.go, call.go.
//
// # The leader
//
// Commits and small reads are sent to the member that leads, once one has said
// so: any other would have to ask it. Where it fails or says nothing they go to
// whichever member answers. Large reads are spread over all. See leader.go.
//
// # The fence
//
// kv promises that a commit of unknown outcome cannot take place any more once
// a later transaction wrote one of its keys. Its request may still be on some
// wire, so every request with commits asserts the mod revision of a key of this
// Store, the fence. After an unknown outcome the fence is written before anything else is
// sent, and what is still on its way fails. See fence.go.
//
// # Keys
//
// Below the prefix of the configuration:
//
//	k/<key>  the pairs       f/<store>  fences, which end by themselves after a day
package etcd
