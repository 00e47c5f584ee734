// Package kv is the contract of the metadata engines: an ordered key-value
// store with optimistic transactions whose outcome is committed, conflict or
// unknown. Package kvtest is its conformance suite, kv/journal the embedded
// engine, kv/etcd the one of a cluster.
//
// Keys are 1 to MaxKey bytes, values 1 to MaxValue bytes: an empty value is
// refused, since not every engine can tell it from an absent one.
package kv

import (
	"context"
	"errors"
	"iter"
)

// Limits, the same for every engine; beyond them ErrTooLarge, never a split.
const (
	MaxKey      = 4 << 10
	MaxValue    = 256 << 10
	MaxTxnOps   = 64        // writes
	MaxTxnBytes = 512 << 10 // keys and values of the writes
)

// What the engines answer with.
var (
	// ErrConflict: something the transaction read was changed; nothing was
	// written. Begin anew.
	ErrConflict = errors.New("transaction conflict")
	// ErrUnknown: the transaction may or may not have been committed, and may
	// yet be until a later transaction that writes one of the same keys is.
	ErrUnknown = errors.New("transaction outcome unknown")
	// ErrUnavailable: the engine cannot serve now; nothing was written.
	ErrUnavailable = errors.New("metadata unavailable")
	ErrTooLarge    = errors.New("transaction too large")
	ErrEmptyValue  = errors.New("empty value")
	ErrEmptyKey    = errors.New("empty key")
)

// LoadMark is a key that a store holds while it is being loaded from a dump:
// what it holds is not whole, and nobody may use it. No other key begins with
// a zero byte.
var LoadMark = []byte("\x00load")

// Pair is a key and its value. Both are the receiver's to keep.
type Pair struct{ Key, Value []byte }

// Reader reads one consistent state.
type Reader interface {
	// Get returns the value, or nil where there is none. The value is the
	// caller's to keep and must not be changed.
	Get(ctx context.Context, key []byte) ([]byte, error)
	// Scan yields the pairs with from ≤ key < to in order; a nil to means the
	// end. It ends after an error. Slices yielded by Scan are valid only until
	// the next step: copy what you keep.
	Scan(ctx context.Context, from, to []byte) iter.Seq2[Pair, error]
}

// Snapshot is a Reader at one commit; Close it soon.
type Snapshot interface {
	Reader
	Close()
}

// Txn is an optimistic transaction. What Get returned (also absence) is
// asserted at commit. Txn has no scan: design keys so that none is needed.
// Not safe for concurrent use.
//
// What the Gets of one transaction return belongs to one state: an engine that
// cannot keep that promise any more answers ErrConflict from Get already. Get
// sees the transaction's own writes.
type Txn interface {
	Get(ctx context.Context, key []byte) ([]byte, error)
	Put(key, value []byte)
	Delete(key []byte)
	// Commit returns nil once the writes are durable and readable, or
	// ErrConflict, ErrUnknown, ErrUnavailable, ErrTooLarge, ErrEmptyValue,
	// ErrEmptyKey, or the context's error where it had ended before. A
	// context that ends while the commit is under way gives ErrUnknown.
	// Without writes it only checks the assertions.
	Commit(ctx context.Context) error
}

// Store is a metadata engine. Safe for concurrent use.
type Store interface {
	Reader // Get and Scan of the newest committed state
	Snapshot(ctx context.Context) (Snapshot, error)
	Begin(ctx context.Context) (Txn, error)
	Close() error
}

// Prefetcher is a Txn that reads several keys at the cost of one, for engines to
// which each Get is a request.
type Prefetcher interface {
	// Prefetch reads keys that the transaction is about to Get, in its state.
	// What is never got is not asserted. Errors are those of Get.
	Prefetch(ctx context.Context, keys ...[]byte) error
}

// Prefetch has t read keys ahead where its engine gains something by it.
func Prefetch(ctx context.Context, t Txn, keys ...[]byte) error {
	if p, ok := t.(Prefetcher); ok {
		return p.Prefetch(ctx, keys...)
	}
	return nil
}

// Guesser is a Txn that can do without reading what hardly ever changes.
type Guesser interface {
	// Guess has Gets of the known keys give what the store saw of them last, and
	// Gets of the absent keys nothing, without asking anybody. Commit answers
	// ErrConflict where anything got so is otherwise: until it succeeds nothing
	// that follows from it is certain, errors that the caller makes of it
	// included. Where a known key was not seen yet it is false, and nothing was
	// done; what is read of the key from now on is remembered.
	Guess(known, absent [][]byte) bool
}

// Guess has t guess where its engine gains something by it.
func Guess(t Txn, known, absent [][]byte) bool {
	g, ok := t.(Guesser)
	return ok && g.Guess(known, absent)
}

// AllGetter is a Store that reads several keys at the cost of one.
type AllGetter interface {
	// GetAll is Get of several keys in one state, the newest.
	GetAll(ctx context.Context, keys ...[]byte) ([][]byte, error)
}

// GetAll gets keys of the newest state: at once where the engine can, else one
// after another in their order, each of the state that is the newest then.
func GetAll(ctx context.Context, s Store, keys ...[]byte) ([][]byte, error) {
	if a, ok := s.(AllGetter); ok {
		return a.GetAll(ctx, keys...)
	}
	values := make([][]byte, len(keys))
	for i, k := range keys {
		var err error
		if values[i], err = s.Get(ctx, k); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// Pager is a Reader whose scans cost less when it knows how long they will be.
type Pager interface {
	// Page is Scan for a caller who is about to take n pairs; more may be taken.
	Page(ctx context.Context, from, to []byte, n int) iter.Seq2[Pair, error]
}

// Page scans r for about n pairs.
func Page(ctx context.Context, r Reader, from, to []byte, n int) iter.Seq2[Pair, error] {
	if p, ok := r.(Pager); ok {
		return p.Page(ctx, from, to, n)
	}
	return r.Scan(ctx, from, to)
}

// Update runs f in transactions until one commits, at most attempts times
// while there are conflicts, then returns ErrConflict. f may run several
// times; an error of f ends it with nothing written. ErrUnknown is returned,
// not retried: only the caller can tell whether its write took place.
func Update(ctx context.Context, s Store, attempts int, f func(Txn) error) error {
	for range attempts {
		t, err := s.Begin(ctx)
		if err != nil {
			return err
		}
		if err = f(t); err == nil {
			err = t.Commit(ctx)
		}
		if err == nil || !errors.Is(err, ErrConflict) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return ErrConflict
}
