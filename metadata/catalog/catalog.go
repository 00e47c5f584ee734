// Package catalog is Kintsugi's namespace over a key-value engine: it gives
// the interfaces of package metadata their meaning in keys, records and
// transactions.
//
// Start with keys.go, which lists every family of keys, and records.go, what
// stands in them. Then each family has a file of its own. What one mutation
// changes, it changes in one transaction; what would not fit in one (the
// blobs of an object of 10,000 parts) is named by one row and moved in
// bounded steps afterwards (owed.go). Check, in check.go, says what must hold
// between the families at any time.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// Drives is what the catalog asks of the drives: which there are and which
// can be written to now.
type Drives interface {
	Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState)
	Reports() []storagenode.DriveReport
}

// Config is what a Catalog needs.
type Config struct {
	KV     kv.Store // required; stays the caller's to close
	Drives Drives   // nil: no group can be opened
	// Scheme of new groups, where the drives allow it; zero: by the failure
	// domains there are (metadata.DefaultScheme).
	Scheme erasure.Scheme
	Clock  clock.Clock  // nil: the system's
	Logger *slog.Logger // nil: discards
	// OpenGroups is how many groups take new blobs at a time; 0: as many as
	// there are drives, at least 1.
	OpenGroups int
	// A group is sealed at about SealBlobs blobs (0: 1,000,000) or SealBytes
	// bytes (0: 1 TiB).
	SealBlobs, SealBytes int64
	// GroupAge is how old a group may be that RecentGroup gives, and a bucket
	// that RecentBucket does; 0: they are read anew each time, which costs little
	// where the engine is in the process.
	GroupAge time.Duration
	// Deleted is told of each blob that a transaction is about to take away from
	// its object; the transaction may still fail. Nil: nobody.
	Deleted func(storagenode.BlobID)
	// Below is told of the horizon where a blob was refused for being below it:
	// who makes ids must make them above it, whatever the clocks say. Nil: nobody.
	Below func(horizon storagenode.BlobID)
}

// Catalog implements every interface of package metadata. Safe for concurrent
// use.
type Catalog struct {
	*Buckets
	*Objects
	*Uploads
	*Groups
	*Blobs
	*DriveRecords
	*HorizonMark
	*NodeRecords
	*Leases
	*Foundation
	*Switches
	*Rounds
	e *engine
}

var (
	_ metadata.Buckets      = (*Catalog)(nil)
	_ metadata.Objects      = (*Catalog)(nil)
	_ metadata.Uploads      = (*Catalog)(nil)
	_ metadata.Placement    = (*Catalog)(nil)
	_ metadata.Blobs        = (*Catalog)(nil)
	_ metadata.Groups       = (*Catalog)(nil)
	_ metadata.DriveRecords = (*Catalog)(nil)
	_ metadata.Horizon      = (*Catalog)(nil)
	_ metadata.Nodes        = (*Catalog)(nil)
	_ metadata.Leaders      = (*Catalog)(nil)
	_ metadata.Foundation   = (*Catalog)(nil)
	_ metadata.Switches     = (*Catalog)(nil)
	_ metadata.Rounds       = (*Catalog)(nil)
)

// Open reads the groups and makes a Catalog. It writes nothing.
func Open(ctx context.Context, cfg Config) (*Catalog, error) {
	if cfg.KV == nil || cfg.Scheme.K < 1 && cfg.Scheme.M > 0 || cfg.Scheme.N() > storagenode.MaxSlots {
		return nil, fmt.Errorf("open catalog: a key-value engine and a possible scheme are required (scheme %s)", cfg.Scheme)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.SealBlobs <= 0 {
		cfg.SealBlobs = 1_000_000
	}
	if cfg.SealBytes <= 0 {
		cfg.SealBytes = 1 << 40
	}
	e := newEngine(cfg)
	if v, err := e.get(ctx, "open catalog", kv.LoadMark); err != nil || v != nil {
		return nil, errors.Join(err, fmt.Errorf("%w: it is being loaded from a dump and not whole: finish `kintsugi admin metadata load`", metadata.ErrUnavailable))
	}
	groups := newGroups(e, cfg)
	if err := groups.load(ctx); err != nil {
		return nil, err
	}
	blobs := &Blobs{e: e, groups: groups, deleted: cfg.Deleted, below: cfg.Below}
	if blobs.deleted == nil {
		blobs.deleted = func(storagenode.BlobID) {}
	}
	if blobs.below == nil {
		blobs.below = func(storagenode.BlobID) {}
	}
	c := &Catalog{
		Buckets:      &Buckets{e: e, recent: recent{age: cfg.GroupAge, born: e.clock.Now()}},
		Objects:      &Objects{e: e, blobs: blobs},
		Groups:       groups,
		Blobs:        blobs,
		DriveRecords: &DriveRecords{e: e},
		HorizonMark:  &HorizonMark{e: e},
		NodeRecords:  &NodeRecords{e: e},
		Leases:       &Leases{e: e},
		Foundation:   &Foundation{e: e},
		Switches:     &Switches{e: e},
		Rounds:       &Rounds{e: e},
		e:            e,
	}
	c.Objects.buckets = c.Buckets
	c.Uploads = &Uploads{e: e, blobs: blobs, buckets: c.Buckets}
	return c, nil
}

// Bounds of the work spent on one mutation.
const (
	// maxAttempts is how often a transaction is begun anew after conflicts.
	maxAttempts = 16
	// maxUnknown is how often an unknown outcome is looked into.
	maxUnknown = 4
	// resolveTime bounds looking into it, whatever became of the request.
	resolveTime = 5 * time.Second
)

// engine is what the families share: the store and the habits of using it.
type engine struct {
	kv    kv.Store
	clock clock.Clock
	log   *slog.Logger
	seed  maphash.Seed
	// turns are taken by a mutation that met a conflict, by its key, so that
	// writers of one key in this process queue up instead of repeating their
	// work against each other.
	turns [256]chan struct{}
}

func newEngine(cfg Config) *engine {
	e := &engine{kv: cfg.KV, clock: cfg.Clock, log: cfg.Logger, seed: maphash.MakeSeed()}
	for i := range e.turns {
		e.turns[i] = make(chan struct{}, 1)
	}
	return e
}

// now is the time in the precision records have.
func (e *engine) now() time.Time { return e.clock.Now().Truncate(time.Millisecond).UTC() }

// turn waits for the turn of a key; the function it returns ends the turn.
func (e *engine) turn(ctx context.Context, key []byte) (end func(), err error) {
	c := e.turns[maphash.Bytes(e.seed, key)%uint64(len(e.turns))]
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// unavailable gives an error of the engine the word metadata has for it.
func unavailable(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kv.ErrConflict):
		return fmt.Errorf("%s: %w: too many writers at once", op, metadata.ErrUnavailable)
	case errors.Is(err, kv.ErrUnavailable), errors.Is(err, kv.ErrUnknown):
		return fmt.Errorf("%s: %w: %w", op, metadata.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

// txn is a transaction with the memory of its keys and values.
type txn struct {
	kv.Txn
	arena
	// maybe says that an earlier attempt at the same mutation may have been
	// committed.
	maybe bool
}

// begin starts a transaction. Whatever it does is done under the term that ctx
// carries: what was read of the lease is asserted with everything else.
func (e *engine) begin(ctx context.Context) (*txn, error) {
	inner, err := e.kv.Begin(ctx)
	if err != nil {
		return nil, err
	}
	t := &txn{Txn: inner}
	if term, ok := metadata.TermOf(ctx); ok {
		v, err := t.Get(ctx, t.leaseKey(famLease, term.Role))
		if err != nil {
			return nil, err
		}
		if err := checkTerm(term, v); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// update runs f until it commits. f may run several times, also after a
// commit whose outcome is unknown: it must find out by what it reads whether
// its work is done already, and then write nothing.
func (e *engine) update(ctx context.Context, op string, f func(*txn) error) error {
	return unavailable(op, e.commit(ctx, f))
}

// commit is update with the engine's own errors.
func (e *engine) commit(ctx context.Context, f func(*txn) error) error {
	unknown := 0
	for attempt := 0; ; attempt++ {
		t, err := e.begin(ctx)
		if err == nil {
			t.maybe = unknown > 0
			if err = f(t); err == nil {
				err = t.Commit(ctx)
			}
		}
		switch {
		case errors.Is(err, kv.ErrConflict) && attempt < maxAttempts:
		case errors.Is(err, kv.ErrUnknown) && unknown < maxUnknown:
			unknown++
		default:
			return err
		}
		if ctx.Err() != nil {
			return err
		}
	}
}

// get reads one value of the newest state.
func (e *engine) get(ctx context.Context, op string, key []byte) ([]byte, error) {
	v, err := e.kv.Get(ctx, key)
	if err != nil {
		return nil, unavailable(op, err)
	}
	return v, nil
}

// page copies up to limit pairs from ≤ key < to and gives where the next page
// starts, nil at the end. No iterator of the engine is held between pages.
func (e *engine) page(ctx context.Context, r kv.Reader, from, to []byte, limit int) (pairs []kv.Pair, next []byte, err error) {
	for p, err := range kv.Page(ctx, r, from, to, limit) {
		if err != nil {
			return nil, nil, unavailable("scan", err)
		}
		both := make([]byte, 0, len(p.Key)+len(p.Value))
		both = append(append(both, p.Key...), p.Value...)
		pairs = append(pairs, kv.Pair{Key: both[:len(p.Key):len(p.Key)], Value: both[len(p.Key):]})
		if len(pairs) == limit {
			next = append(append(make([]byte, 0, len(p.Key)+1), p.Key...), 0)
			return pairs, next, nil
		}
	}
	return pairs, nil, nil
}
