package metadata

import (
	"context"
	"time"

	"kintsugi/storagenode"
)

// NodeRecord is a node as metadata remembers it.
type NodeRecord struct {
	Name    string // unique in the cluster
	Zone    string // the failure domain above it, may be empty
	Address string // base URL where it serves its drives
	Version string // of the program it last announced itself with
	// Added and Changed are for people: when it was first taken in, and when
	// one of the fields above last changed.
	Added, Changed time.Time
}

// Nodes keeps the nodes.
type Nodes interface {
	// ListNodes gives all of them in order of their names.
	ListNodes(ctx context.Context) ([]NodeRecord, error)
	// PutNode stores one in the place of what its name had.
	PutNode(ctx context.Context, n NodeRecord) error
	// DeleteNode forgets one; there need not be one.
	DeleteNode(ctx context.Context, name string) error
}

// Term is one holder's time as the leader of a role. Terms of a role are
// numbered: a later holder has a greater number.
type Term struct {
	Role   string
	Number uint64
}

type termKey struct{}

// UnderTerm makes every mutation done with the context one of the term: its
// transaction asserts that the term is still the newest, and is refused with
// ErrStaleTerm once another has begun.
func UnderTerm(ctx context.Context, t Term) context.Context {
	return context.WithValue(ctx, termKey{}, t)
}

// TermOf gives the term that a context acts under.
func TermOf(ctx context.Context) (Term, bool) {
	t, ok := ctx.Value(termKey{}).(Term)
	return t, ok
}

// Lease is the record of who leads a role. It names no time: whoever waits for
// it to lapse watches by its own clock for how long the record stays the same.
type Lease struct {
	Role    string
	Term    uint64 // 0: nobody ever led
	Beat    uint64 // grows with each renewal, and with each change of holder
	Holder  string // the life of the process that leads; "": given back
	Address string // where the holder's admin API is, may be empty
	Since   time.Time
}

// Leaders keeps who leads which role.
type Leaders interface {
	// Lease gives the record as it is now.
	Lease(ctx context.Context, role string) (Lease, error)
	// Acquire begins the next term for holder, asserting that the record still
	// is what was seen: ErrNotLeader where it is not. That seen may be taken is
	// for the caller to know.
	Acquire(ctx context.Context, seen Lease, holder, address string) (Lease, error)
	// Renew shows the others that the holder lives: ErrStaleTerm where another
	// has taken over. Only one renewal at a time.
	Renew(ctx context.Context, held Lease) (Lease, error)
	// Release gives the lease back, so that the next holder need not wait; its
	// term ends with it. Nothing happens where another has taken over.
	Release(ctx context.Context, held Lease) error
	// Prove asserts, of the newest state, the term that ctx acts under; nil
	// where ctx has none. ErrStaleTerm.
	Prove(ctx context.Context) error
}

// Switches keeps what operators switch for all processes of a cluster, whoever
// leads.
type Switches interface {
	// Paused says whether nothing may be destroyed: no tombstones, no dropped
	// slots, no orphans collected.
	Paused(ctx context.Context) (bool, error)
	SetPaused(ctx context.Context, paused bool) error
}

// Sighting is what repairers know of an orphan: a shard in a slot that metadata
// does not know.
type Sighting struct {
	Blob storagenode.BlobID
	// Waited is for how long it was watched, as those who watched counted it.
	Waited time.Duration
	Passes int       // that saw it
	Seen   time.Time // when the last of them did, by its repairer's clock
	Agreed bool      // an operator wants it collected
}

// Rounds keeps how far the slow rounds of the repairers are, so that restarts
// and changes of the leader do not begin them anew.
type Rounds interface {
	// Sightings gives those of a slot, in order of the blobs.
	Sightings(ctx context.Context, pg storagenode.PG, slot uint8) ([]Sighting, error)
	// KeepSightings stores some of a slot and forgets others, in as few
	// transactions as their bounds allow.
	KeepSightings(ctx context.Context, pg storagenode.PG, slot uint8, keep []Sighting, forget []storagenode.BlobID) error
	// Scrubs gives when the last whole scrub of each drive ended.
	Scrubs(ctx context.Context) (map[storagenode.DriveID]time.Time, error)
	PutScrub(ctx context.Context, id storagenode.DriveID, ended time.Time) error
}

// Foundation keeps what is decided once for a cluster.
type Foundation interface {
	// Cluster gives the cluster's UUID, zero where it was not founded yet.
	Cluster(ctx context.Context) (storagenode.UUID, error)
	// Found gives the cluster the UUID id, unless it has one, and returns the
	// one it has then.
	Found(ctx context.Context, id storagenode.UUID) (storagenode.UUID, error)
}
