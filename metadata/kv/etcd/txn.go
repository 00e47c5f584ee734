package etcd

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"kintsugi/metadata/kv"
)

const (
	// maxCompares is what an etcd takes that was not told otherwise.
	maxCompares = 128
	// maxRequest leaves room for what members add to a request of 1.5 MiB.
	maxRequest = 3<<19 - 64<<10
	// maxResends bounds how often a commit that was certainly not done is sent
	// again.
	maxResends = 16
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
	resp, err := t.s.ask(ctx, t.s.cfg.Timeout, &pb.RangeRequest{Key: full, Revision: t.rev, Serializable: t.rev != 0})
	switch {
	case err == errCompacted:
		return nil, fmt.Errorf("%w: %w", kv.ErrConflict, err)
	case err != nil:
		return nil, ended(err)
	}
	if t.rev == 0 {
		t.rev = resp.Header.Revision
	}
	r := read{key: full}
	if len(resp.Kvs) > 0 {
		r.value, r.mod = resp.Kvs[0].Value, resp.Kvs[0].ModRevision
	}
	t.reads = append(t.reads, r)
	return r.value, nil
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
	if t.takesSpace() {
		if err := t.s.full(); err != nil {
			return err
		}
	}
	req, asserted := t.request()
	if n := req.Size(); n > maxRequest {
		return fmt.Errorf("%w: %d bytes with the keys to assert, at most %d", kv.ErrTooLarge, n, maxRequest)
	}
	end := time.Now().Add(t.s.cfg.Timeout)
	for pause, n := 20*time.Millisecond, 0; ; pause, n = min(2*pause, maxPause), n+1 {
		again, err := t.s.commitOnce(ctx, req, asserted)
		if !again {
			return err
		}
		if n >= maxResends || time.Until(end) <= pause {
			return fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

// takesSpace says that something is put: members that are full let deletes pass.
func (t *txn) takesSpace() bool {
	return slices.ContainsFunc(t.writes, func(w write) bool { return w.value != nil })
}

// check asserts what was read without writing: a read, which may be repeated.
// It reads the fence, since etcd takes a transaction without operations for one
// that any member may answer from what it has.
func (t *txn) check(ctx context.Context) error {
	look := []*pb.RequestOp{lookAt(t.s.fence.key)}
	for rest := t.reads; len(rest) > 0; {
		n := min(len(rest), maxCompares)
		req := &pb.TxnRequest{Compare: compares(rest[:n], nil), Success: look}
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

// compares asserts the mod revisions of what was read, and of the fence last
// where one is given. It returns room to set the fence's revision in.
func compares(reads []read, fence []byte) []*pb.Compare {
	n := len(reads)
	if fence != nil {
		n++
	}
	all, mods, list := make([]pb.Compare, n), make([]pb.Compare_ModRevision, n), make([]*pb.Compare, n)
	for i := range all {
		key := fence
		if i < len(reads) {
			key, mods[i].ModRevision = reads[i].key, reads[i].mod
		}
		all[i] = pb.Compare{Result: pb.Compare_EQUAL, Target: pb.Compare_MOD, Key: key, TargetUnion: &mods[i]}
		list[i] = &all[i]
	}
	return list
}

// request makes the etcd transaction; asserted is where the fence's revision
// goes. A failed one reads the fence, which tells a conflict from a fence that
// was raised meanwhile.
func (t *txn) request() (req *pb.TxnRequest, asserted *int64) {
	list := compares(t.reads, t.s.fence.key)
	ops, success := make([]pb.RequestOp, len(t.writes)), make([]*pb.RequestOp, len(t.writes))
	for i, w := range t.writes {
		if w.value == nil {
			ops[i].Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: w.key}}
		} else {
			ops[i].Request = &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: w.key, Value: w.value}}
		}
		success[i] = &ops[i]
	}
	req = &pb.TxnRequest{Compare: list, Success: success, Failure: []*pb.RequestOp{lookAt(t.s.fence.key)}}
	return req, &list[len(list)-1].TargetUnion.(*pb.Compare_ModRevision).ModRevision
}

func lookAt(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key, KeysOnly: true}}}
}

// commitOnce sends a transaction once. again: it was certainly not done, and
// may be sent anew.
func (s *Store) commitOnce(ctx context.Context, req *pb.TxnRequest, asserted *int64) (again bool, err error) {
	if *asserted, err = s.current(ctx); err != nil {
		return false, err
	}
	start := time.Now()
	var p peer.Peer
	attempt, cancel := context.WithDeadline(ctx, start.Add(s.cfg.Timeout))
	resp, err := s.rpc.Txn(attempt, req, grpc.Peer(&p))
	cancel()
	switch {
	case err == nil && resp.Succeeded:
		return false, nil
	case err == nil:
		if fenceOf(resp) == *asserted {
			return false, kv.ErrConflict
		}
		s.tear(*asserted)
		return true, fmt.Errorf("the fence was raised meanwhile")
	}
	switch classify(err, p.Addr != nil) {
	case refused:
		return false, unavailable(err)
	case noSpace:
		s.fullUntil.Store(time.Now().Add(fullFor).UnixNano())
		return false, fmt.Errorf("%w: %s", kv.ErrUnknown, noSpaceText)
	case undone:
		again, err = s.judge(ctx, err)
		return again, err
	}
	s.tear(*asserted)
	if ctx.Err() == nil && time.Since(start) >= s.cfg.Timeout {
		silent(p.Addr, start)
	}
	return false, fmt.Errorf("%w: %w", kv.ErrUnknown, err)
}

// fenceOf reads the fence's mod revision from a failed transaction's answer.
func fenceOf(resp *pb.TxnResponse) int64 {
	if len(resp.Responses) == 1 {
		if r := resp.Responses[0].GetResponseRange(); r != nil && len(r.Kvs) == 1 {
			return r.Kvs[0].ModRevision
		}
	}
	return 0
}
