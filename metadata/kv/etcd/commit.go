package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"

	"kintsugi/metadata/kv"
)

const (
	// maxCompares is what an etcd takes that was not told otherwise, of
	// comparisons and of operations, in a transaction and those in it together.
	maxCompares = 128
	// maxGroup bounds the commits in one request; each of them may have
	// maxCompares less that many comparisons and operations.
	maxGroup = 32
	// maxRequest leaves room for what members add to a request of 1.5 MiB.
	maxRequest = 3<<19 - 64<<10
	// maxResends bounds how often a commit that was certainly not done is sent
	// again.
	maxResends = 16
)

// commit is a transaction on its way.
type commit struct {
	ctx    context.Context // of the caller, for its values alone
	reads  []read
	writes []write
	size   int        // of its part of a request, about
	done   chan error // gets the outcome, once

	mu sync.Mutex // guards what follows
	// sent says that a request with it may be under way, which asserted that
	// revision of the fence.
	sent     bool
	asserted int64
	left     bool // nobody waits any more: it must not be sent
}

// commit sends a transaction, together with others, and waits for its outcome.
func (s *Store) commit(ctx context.Context, c *commit) error {
	if err := s.outlast(ctx); err != nil {
		return err
	}
	s.commits.Add(c)
	late := time.NewTimer(s.cfg.Timeout)
	defer late.Stop()
	for {
		select {
		case err := <-c.done:
			return err
		case <-ctx.Done():
			return s.leave(c, ctx.Err())
		case <-late.C:
			c.mu.Lock()
			sent := c.sent
			c.left = c.left || !sent
			c.mu.Unlock()
			if !sent {
				return fmt.Errorf("%w: it could not be sent within %v", kv.ErrUnavailable, s.cfg.Timeout)
			}
			// What was sent has a time of its own.
		}
	}
}

// leave ends the wait for a commit. Where it may be under way its outcome is
// unknown, and what comes later than the next commit of this Store is fenced.
func (s *Store) leave(c *commit, why error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case err := <-c.done:
		return err
	default:
	}
	c.left = true
	if !c.sent {
		return why
	}
	s.tear(c.asserted)
	return fmt.Errorf("%w: %w", kv.ErrUnknown, why)
}

// board marks those of a group as sent that still wait, and gives them.
func board(group []*commit, asserted int64) []*commit {
	on := group[:0]
	for _, c := range group {
		c.mu.Lock()
		if !c.left {
			c.sent, c.asserted = true, asserted
			on = append(on, c)
		}
		c.mu.Unlock()
	}
	return on
}

// unboard marks them as certainly not under way.
func unboard(group []*commit) {
	for _, c := range group {
		c.mu.Lock()
		c.sent = false
		c.mu.Unlock()
	}
}

// finish tells all of a group the same outcome.
func finish(group []*commit, err error) {
	for _, c := range group {
		c.done <- err
	}
}

// takeCommits takes those that may share a request. etcd judges the comparisons
// of all by the state before the whole and then writes, so what one writes no
// other may read or write: two that would conflict one after the other would
// both be done. Those that only delete go apart, since members that are full do
// them still. Which has waited longest is always taken.
func takeCommits(waiting []*commit) (group, rest []*commit) {
	read, written, size := make(map[string]bool), make(map[string]bool), 0
	rest = waiting[:0]
	for _, c := range waiting {
		if len(group) > 0 && (len(group) == maxGroup || !c.sharable() || !group[0].sharable() ||
			size+c.size > maxRequest || takesSpace(c.writes) != takesSpace(group[0].writes) || c.meets(read, written)) {
			rest = append(rest, c)
			continue
		}
		group = append(group, c)
		size += c.size
		for i := range c.reads {
			read[string(c.reads[i].key)] = true
		}
		for i := range c.writes {
			written[string(c.writes[i].key)] = true
		}
	}
	clear(waiting[len(rest):])
	return group, rest
}

// sharable says that a commit is small enough to be one of many.
func (c *commit) sharable() bool {
	return max(len(c.reads), len(c.writes)) <= maxCompares-maxGroup
}

// meets says that a commit writes what others read or write, or reads what they
// write.
func (c *commit) meets(read, written map[string]bool) bool {
	for i := range c.reads {
		if written[string(c.reads[i].key)] {
			return true
		}
	}
	for i := range c.writes {
		if k := c.writes[i].key; written[string(k)] || read[string(k)] {
			return true
		}
	}
	return false
}

// sendCommits sends a group until its outcome is known, or unknown for good.
func (s *Store) sendCommits(group []*commit) {
	ctx := context.WithoutCancel(group[0].ctx)
	end := time.Now().Add(s.cfg.Timeout)
	for pause, n := 20*time.Millisecond, 0; ; pause, n = min(2*pause, maxPause), n+1 {
		err := s.usable(ctx)
		asserted := int64(0)
		if err == nil {
			asserted, err = s.current(ctx)
		}
		if err != nil {
			finish(group, err)
			return
		}
		if group = board(group, asserted); len(group) == 0 {
			return
		}
		again, err := s.sendOnce(ctx, group, asserted)
		switch {
		case err == nil:
			return
		case again && n < maxResends && time.Until(end) > pause:
			unboard(group)
			_ = sleep(ctx, pause)
			continue
		case again:
			err = fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
		case errors.Is(err, errSplit):
			unboard(group)
			for i := range group {
				s.sendCommits(group[i : i+1])
			}
			return
		}
		finish(group, err)
		return
	}
}

// errSplit: a group was refused as a whole; each goes alone.
var errSplit = errors.New("refused together")

// sendOnce sends a group once and, where that succeeds, tells each its outcome.
// again: it was certainly not done, and may be sent anew.
func (s *Store) sendOnce(ctx context.Context, group []*commit, asserted int64) (again bool, err error) {
	req := s.request(group, asserted)
	start, since := time.Now(), s.count.Now()
	var p peer.Peer
	attempt, cancel := context.WithDeadline(ctx, start.Add(s.cfg.Timeout))
	resp, err := s.txn(attempt, req, grpc.Peer(&p))
	cancel()
	if err == nil {
		s.answered()
		return s.outcomes(group, asserted, resp)
	}
	switch classify(err, p.Addr != nil) {
	case refused:
		if is, ok := rpctypes.Error(err).(rpctypes.EtcdError); ok && is.Code() == codes.InvalidArgument && len(group) > 1 {
			return false, errSplit
		}
		return false, unavailable(err)
	case noSpace:
		s.fullUntil.Store(s.count.Now() + int64(fullFor))
		return false, fmt.Errorf("%w: %s", kv.ErrUnknown, noSpaceText)
	case undone:
		again, err = s.judge(ctx, err)
		return again, err
	}
	s.tear(asserted)
	if time.Since(start) >= s.cfg.Timeout {
		silent(p.Addr, since)
	}
	return false, fmt.Errorf("%w: %w", kv.ErrUnknown, err)
}

// outcomes reads an answer: the fence was not where it was left, so that none
// was done, or each has an outcome of its own.
func (s *Store) outcomes(group []*commit, asserted int64, resp *pb.TxnResponse) (again bool, err error) {
	if len(group) == 1 {
		switch {
		case resp.Succeeded:
			group[0].done <- nil
			return false, nil
		case fenceOf(resp) == asserted:
			group[0].done <- kv.ErrConflict
			return false, nil
		}
	}
	if !resp.Succeeded {
		s.tear(asserted)
		return true, errors.New("the fence was raised meanwhile")
	}
	if len(resp.Responses) != len(group) {
		s.tear(asserted)
		return false, fmt.Errorf("%w: %d answers to %d transactions", kv.ErrUnknown, len(resp.Responses), len(group))
	}
	for i, c := range group {
		switch r := resp.Responses[i].GetResponseTxn(); {
		case r == nil:
			s.tear(asserted)
			c.done <- fmt.Errorf("%w: an answer to something else", kv.ErrUnknown)
		case r.Succeeded:
			c.done <- nil
		default:
			c.done <- kv.ErrConflict
		}
	}
	return false, nil
}

// request makes the etcd transaction of a group: the fence is asserted once for
// all, and what each asserts and writes is a transaction in it. One alone is
// plain; where it fails it reads the fence, which tells a conflict from a fence
// that was raised meanwhile.
func (s *Store) request(group []*commit, asserted int64) *pb.TxnRequest {
	fence := read{key: s.fence.key, mod: asserted}
	if len(group) == 1 {
		c := group[0]
		return &pb.TxnRequest{
			Compare: compares(append(c.reads[:len(c.reads):len(c.reads)], fence)),
			Success: operations(c.writes), Failure: []*pb.RequestOp{lookAt(s.fence.key)},
		}
	}
	req := &pb.TxnRequest{Compare: compares([]read{fence}), Success: make([]*pb.RequestOp, len(group))}
	for i, c := range group {
		req.Success[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
			Compare: compares(c.reads), Success: operations(c.writes),
		}}}
	}
	return req
}

// compares asserts the mod revisions of what was read.
func compares(reads []read) []*pb.Compare {
	all, mods, list := make([]pb.Compare, len(reads)), make([]pb.Compare_ModRevision, len(reads)), make([]*pb.Compare, len(reads))
	for i := range all {
		mods[i].ModRevision = reads[i].mod
		all[i] = pb.Compare{Result: pb.Compare_EQUAL, Target: pb.Compare_MOD, Key: reads[i].key, TargetUnion: &mods[i]}
		list[i] = &all[i]
	}
	return list
}

func operations(writes []write) []*pb.RequestOp {
	ops, list := make([]pb.RequestOp, len(writes)), make([]*pb.RequestOp, len(writes))
	for i, w := range writes {
		if w.value == nil {
			ops[i].Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: w.key}}
		} else {
			ops[i].Request = &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: w.key, Value: w.value}}
		}
		list[i] = &ops[i]
	}
	return list
}

func lookAt(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key, KeysOnly: true}}}
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
