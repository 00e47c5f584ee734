package journal

import (
	"bytes"
	"context"
	"fmt"

	"kintsugi/metadata/kv"
)

// readMark says: this key was not written after that commit.
type readMark struct{ hash, commit uint64 }

// txn is a transaction. Its reads go to the newest state, each marked with the
// commit it was readable at; that all of them still hold is checked by Get
// against the window, and by the committer for good.
type txn struct {
	s      *Store
	first  uint64 // what was applied before the first Get
	reads  []readMark
	hashes []uint64 // of the keys written
	ops    []byte   // in the form of a group's payload
	size   int      // keys and values
	err    error

	readRoom [8]readMark
	hashRoom [8]uint64
}

// Get implements kv.Txn.
func (t *txn) Get(ctx context.Context, key []byte) ([]byte, error) {
	h := keyHash(key)
	for _, w := range t.hashes {
		if w == h {
			if v, ok := t.own(key); ok {
				return v, nil
			}
			break
		}
	}
	if err := t.s.settled(ctx, h); err != nil {
		return nil, err
	}
	applied := t.s.applied.Load()
	v, err := t.s.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if len(t.reads) == 0 {
		t.first = applied
	} else if t.s.started.Load() != t.first && !t.s.window.check(t.reads) {
		return nil, kv.ErrConflict // v may be of another state than what was read before
	}
	t.reads = append(t.reads, readMark{h, applied})
	return v, nil
}

// own is the last write to key within the transaction.
func (t *txn) own(key []byte) (value []byte, ok bool) {
	_ = eachOp(t.ops, func(k, v []byte) error {
		if bytes.Equal(k, key) {
			value, ok = v, true
		}
		return nil
	})
	return bytes.Clone(value), ok
}

// Put implements kv.Txn.
func (t *txn) Put(key, value []byte) {
	switch {
	case len(value) == 0:
		t.fail(kv.ErrEmptyValue)
	case len(value) > kv.MaxValue:
		t.fail(kv.ErrTooLarge)
	case t.admit(key, len(value)):
		t.ops = appendBytes(append(t.ops, opPut), key)
		t.ops = appendBytes(t.ops, value)
	}
}

// Delete implements kv.Txn.
func (t *txn) Delete(key []byte) {
	if t.admit(key, 0) {
		t.ops = appendBytes(append(t.ops, opDelete), key)
	}
}

// admit notes a write to key, unless a limit is passed or another failed.
func (t *txn) admit(key []byte, value int) bool {
	t.size += len(key) + value
	switch {
	case len(key) == 0:
		t.fail(kv.ErrEmptyKey)
	case len(key) > kv.MaxKey || len(t.hashes) >= kv.MaxTxnOps || t.size > kv.MaxTxnBytes:
		t.fail(kv.ErrTooLarge)
	}
	if t.err != nil {
		return false
	}
	if t.ops == nil {
		t.ops = make([]byte, 0, max(1024, 2*(len(key)+value)))
		t.ops = append(t.ops, opTxn)
	}
	t.hashes = append(t.hashes, keyHash(key))
	return true
}

func (t *txn) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// Commit implements kv.Txn. The transaction must not be used afterwards.
func (t *txn) Commit(ctx context.Context) error {
	if t.err != nil {
		return t.err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(t.hashes) == 0 {
		if t.s.isClosed() {
			return errClosed
		}
		if !t.s.window.check(t.reads) {
			return kv.ErrConflict
		}
		return nil
	}
	ch, err := t.s.enqueue(t)
	if err != nil {
		return err
	}
	select {
	case err = <-ch:
		t.s.tickets.Put(ch)
		return err
	case <-ctx.Done():
		// The committer will send to ch; nobody else may use it.
		return fmt.Errorf("%w: %w", kv.ErrUnknown, ctx.Err())
	}
}
