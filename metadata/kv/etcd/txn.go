package etcd

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"kintsugi/metadata/kv"
)

// read is a key that was read; keys are as etcd knows them.
type read struct {
	key, value []byte
	mod        int64 // 0: there was none
}

// write is the last write to a key; a nil value deletes.
type write struct{ key, value []byte }

// txn is a transaction: reads at one revision, writes kept until Commit.
type txn struct {
	s      *Store
	rev    int64 // of the first Get; 0: there was none
	reads  []read
	ahead  []read // read ahead of their Gets, and not asserted before those
	writes []write
	count  int // of writes, also of those written over
	size   int // keys and values written
	err    error
}

// Get implements kv.Txn.
func (t *txn) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := t.s.usable(ctx); err != nil || len(key) == 0 {
		return nil, err
	}
	full := t.s.key(key)
	for i := range t.writes {
		if bytes.Equal(t.writes[i].key, full) {
			return bytes.Clone(t.writes[i].value), nil
		}
	}
	for i := range t.reads {
		if bytes.Equal(t.reads[i].key, full) {
			return t.reads[i].value, nil
		}
	}
	for i := range t.ahead {
		if bytes.Equal(t.ahead[i].key, full) {
			t.reads = append(t.reads, t.ahead[i])
			return t.ahead[i].value, nil
		}
	}
	found, err := t.look(ctx, full)
	if err != nil {
		return nil, err
	}
	t.reads = append(t.reads, found...)
	return found[0].value, nil
}

// Prefetch implements kv.Prefetcher.
func (t *txn) Prefetch(ctx context.Context, keys ...[]byte) error {
	var full [][]byte
	for _, k := range keys {
		if len(k) > 0 && len(full) < maxLooks {
			full = append(full, t.s.key(k))
		}
	}
	if len(full) == 0 {
		return nil
	}
	found, err := t.look(ctx, full...)
	if err == errTooBig {
		return nil // each for itself then
	}
	if err == nil {
		t.s.sights.note(found)
	}
	t.ahead = append(t.ahead, found...)
	return err
}

// look reads keys at the transaction's revision; the first look chooses it.
func (t *txn) look(ctx context.Context, full ...[]byte) ([]read, error) {
	kvs, at, err := t.s.look(ctx, t.rev, full...)
	switch {
	case err == errCompacted:
		return nil, fmt.Errorf("%w: %w", kv.ErrConflict, err)
	case err != nil:
		return nil, ended(err)
	}
	if t.rev == 0 {
		t.rev = at
	}
	found := make([]read, len(full))
	for i, p := range kvs {
		found[i].key = full[i]
		if p != nil {
			found[i].value, found[i].mod = p.Value, p.ModRevision
		}
	}
	return found, nil
}

// Put implements kv.Txn.
func (t *txn) Put(key, value []byte) {
	switch {
	case len(value) == 0:
		t.fail(kv.ErrEmptyValue) // etcd could not tell it from none
	case len(value) > kv.MaxValue:
		t.fail(kv.ErrTooLarge)
	default:
		t.write(key, value)
	}
}

// Delete implements kv.Txn.
func (t *txn) Delete(key []byte) { t.write(key, nil) }

// write keeps a copy of a write; etcd refuses two to one key.
func (t *txn) write(key, value []byte) {
	t.size += len(key) + len(value)
	switch {
	case len(key) == 0:
		t.fail(kv.ErrEmptyKey)
	case len(key) > kv.MaxKey || t.count >= kv.MaxTxnOps || t.size > kv.MaxTxnBytes:
		t.fail(kv.ErrTooLarge)
	}
	if t.err != nil {
		return
	}
	t.count++
	w := write{key: t.s.key(key), value: bytes.Clone(value)}
	for i := range t.writes {
		if bytes.Equal(t.writes[i].key, w.key) {
			t.writes[i] = w
			return
		}
	}
	t.writes = append(t.writes, w)
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
	if err := t.s.usable(ctx); err != nil {
		return err
	}
	if len(t.writes) == 0 {
		return t.check(ctx)
	}
	if len(t.reads) >= maxCompares {
		return fmt.Errorf("%w: %d reads to assert, at most %d", kv.ErrTooLarge, len(t.reads), maxCompares-1)
	}
	if takesSpace(t.writes) {
		if err := t.s.full(); err != nil {
			return err
		}
	}
	c := &commit{ctx: ctx, reads: t.reads, writes: t.writes, done: make(chan error, 1)}
	if c.size = c.measure(len(t.s.fence.key)); c.size > maxRequest {
		return fmt.Errorf("%w: %d bytes with the keys to assert, at most %d", kv.ErrTooLarge, c.size, maxRequest)
	}
	return t.s.commit(ctx, c)
}

// measure gives how large a request a commit makes, at most.
func (c *commit) measure(fence int) int {
	const each = 48 // for the tags, lengths and numbers around a key
	n := 4*each + 2*fence
	for i := range c.reads {
		n += each + len(c.reads[i].key)
	}
	for i := range c.writes {
		n += each + len(c.writes[i].key) + len(c.writes[i].value)
	}
	return n
}

// takesSpace says that something is put: members that are full let deletes pass.
func takesSpace(writes []write) bool {
	return slices.ContainsFunc(writes, func(w write) bool { return w.value != nil })
}

// check asserts what was read without writing: a read, which may be repeated.
// It reads the fence, since etcd takes a transaction without operations for one
// that any member may answer from what it has.
func (t *txn) check(ctx context.Context) error {
	look := []*pb.RequestOp{lookAt(t.s.fence.key)}
	for rest := t.reads; len(rest) > 0; {
		n := min(len(rest), maxCompares)
		req := &pb.TxnRequest{Compare: compares(rest[:n]), Success: look}
		var resp *pb.TxnResponse
		err := t.s.repeat(ctx, t.s.cfg.Timeout, func(ctx context.Context, o grpc.CallOption) (err error) {
			resp, err = t.s.rpc.Txn(ctx, req, o)
			return err
		})
		if err != nil {
			return ended(err)
		}
		if !resp.Succeeded {
			return kv.ErrConflict
		}
		rest = rest[n:]
	}
	return nil
}
