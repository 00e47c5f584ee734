package etcd

import (
	"context"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"kintsugi/metadata/kv"
)

// maxLooks bounds the keys of one request for several; an etcd that was not
// told otherwise takes 128.
const maxLooks = 96

// look is a caller that wants some keys, of one state.
type look struct {
	ctx  context.Context // of the caller, for its values alone
	keys [][]byte        // as etcd knows them
	rev  int64           // the state; 0: the newest
	done chan struct{}   // closed once the following is set
	at   int64           // the revision they were read at
	kvs  []*mvccpb.KeyValue
	err  error
}

// look reads keys in one state: the newest, which has in it all that was
// acknowledged before, or that of a revision. kvs has nil for what is not
// there. Several callers' keys go in one request; they share what it answers,
// and nobody may change that. The error is that of ask.
func (s *Store) look(ctx context.Context, rev int64, keys ...[]byte) (kvs []*mvccpb.KeyValue, at int64, err error) {
	if err := s.usable(ctx); err != nil {
		return nil, 0, err
	}
	if err := s.outlast(ctx); err != nil {
		return nil, 0, err
	}
	l := &look{ctx: ctx, keys: keys, rev: rev, done: make(chan struct{})}
	s.looks.Add(l)
	late := time.NewTimer(s.cfg.Timeout)
	defer late.Stop()
	select {
	case <-l.done:
		return l.kvs, l.at, l.err
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	case <-late.C:
		return nil, 0, fmt.Errorf("%w: no answer within %v", kv.ErrUnavailable, s.cfg.Timeout)
	}
}

// takeLooks takes as many as fit into one request.
func takeLooks(waiting []*look) (group, rest []*look) {
	n, keys := 0, 0
	for n < len(waiting) && (n == 0 || keys+len(waiting[n].keys) <= maxLooks) {
		keys += len(waiting[n].keys)
		n++
	}
	return slices.Clone(waiting[:n]), slices.Delete(waiting, 0, n)
}

// sendLooks reads for a group. Where the answers are too many for one, or one
// of the revisions was compacted away, each is answered alone.
func (s *Store) sendLooks(group []*look) {
	err := s.readAll(group)
	if len(group) > 1 && (err == errTooBig || err == errCompacted) {
		for _, l := range group {
			l.err = s.readAll([]*look{l})
			close(l.done)
		}
		return
	}
	for _, l := range group {
		l.err = err
		close(l.done)
	}
}

// spot is a key in a state.
type spot struct {
	key string
	rev int64
}

// readAll performs one request for a group; a key that several want is in it
// once.
func (s *Store) readAll(group []*look) error {
	ctx := context.WithoutCancel(group[0].ctx)
	if len(group) == 1 && len(group[0].keys) == 1 {
		l := group[0]
		resp, err := s.ask(ctx, s.cfg.Timeout, &pb.RangeRequest{Key: l.keys[0], Revision: l.rev, Serializable: l.rev != 0})
		if err != nil {
			return err
		}
		l.at, l.kvs = resp.Header.Revision, []*mvccpb.KeyValue{first(resp)}
		return nil
	}
	index := make(map[spot]int, maxLooks)
	req := &pb.TxnRequest{}
	for _, l := range group {
		for _, k := range l.keys {
			at := spot{string(k), l.rev}
			if _, ok := index[at]; !ok {
				index[at] = len(req.Success)
				// None of them is serializable: the whole is linearizable then.
				req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
					RequestRange: &pb.RangeRequest{Key: k, Revision: l.rev}}})
			}
		}
	}
	var resp *pb.TxnResponse
	err := s.repeat(ctx, s.cfg.Timeout, func(ctx context.Context, o grpc.CallOption) (err error) {
		resp, err = s.txn(ctx, req, answerLimit, o)
		return err
	})
	if err != nil {
		return err
	}
	if len(resp.Responses) != len(req.Success) {
		return fmt.Errorf("%w: %d answers to %d questions", kv.ErrUnavailable, len(resp.Responses), len(req.Success))
	}
	for _, l := range group {
		l.at, l.kvs = resp.Header.Revision, make([]*mvccpb.KeyValue, len(l.keys))
		for i, k := range l.keys {
			r := resp.Responses[index[spot{string(k), l.rev}]].GetResponseRange()
			if r == nil {
				return fmt.Errorf("%w: an answer to another question", kv.ErrUnavailable)
			}
			l.kvs[i] = first(r)
		}
	}
	return nil
}

// first gives the pair of a range of one key.
func first(r *pb.RangeResponse) *mvccpb.KeyValue {
	if len(r.Kvs) == 0 {
		return nil
	}
	return r.Kvs[0]
}
