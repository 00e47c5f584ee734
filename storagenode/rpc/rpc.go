// Package rpc is storagenode's contracts over HTTP/1.1: a Server in front of a
// process's drives, a Client of one such process, whose drives are ShardStores
// like local ones, and a Fleet, the drives of many of them with a circuit
// breaker for each process. Announcements to the repairers travel in the same
// way (membership.go).
//
// A call is a POST whose body begins with a head of the call's own binary form
// (wire.go); a shard's payload follows as it is. Package auth signs head and
// answer, and lets nothing through that was not.
//
// Sums travel end to end. A shard's head carries the sums of its blocks, made
// by whoever made the shard, and the server verifies the payload against them
// before the drive gets it; the drive stores those very sums. A read's answer
// carries sums of the bytes it sends, made from what the drive has verified
// that moment, and the client verifies what has arrived in its own memory. A
// bit that flips on the network or in buffers makes a call fail with
// ErrUnavailable; it is never taken for damage on the drive.
//
// Errors keep their identity: an answer names every sentinel of the contract
// that its error wraps. What fails on the way is ErrUnavailable: unreachable is
// not absent.
//
// Lives. A token says that a drive has accepted something into its memory, so
// it is void once the drive was opened anew. The server gives each store it
// sees a life, a random number; a Drive is bound to the life it was made for
// and says it with each Put and Sync. After a restart both are refused, until
// the Fleet has made a Drive for the new life. So a blob whose stripes went to
// two lives never passes for durable.
package rpc

import (
	"crypto/tls"
	"errors"
	"net/http"
	"time"

	"kintsugi/storagenode/clock"
)

// Times and sizes that both sides know.
const (
	// opTime bounds an operation on the server, whatever its client says.
	opTime = 60 * time.Second
	// moveTime is how long a payload may take to arrive.
	moveTime = 30 * time.Second
	// pieceSize is how much of a long read is sent at a time.
	pieceSize = 512 << 10
	// joinMax is the payload up to which the last shard of a blob is synced in
	// the request that puts it.
	joinMax = 128 << 10
	// pageShards is how many shards an answer lists.
	pageShards = 1024
	// beatEvery is how often a scrub says that it still goes on.
	beatEvery = 2 * time.Second
)

// Configure sets what a server for other processes of the cluster needs:
// bounds of headers and times. Bodies have bounds of their own.
func Configure(s *http.Server) {
	s.ReadHeaderTimeout = 10 * time.Second
	s.IdleTimeout = 5 * time.Minute
	s.MaxHeaderBytes = 16 << 10
	s.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){} // HTTP/1.1 only
}

var errNotMine = errors.New("this node does not serve the drive")

func systemClock(c clock.Clock) clock.Clock {
	if c == nil {
		return clock.System{}
	}
	return c
}
