package etcd

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"kintsugi/metadata/kv"
)

const (
	// probePause is the time between two looks whether members answer again.
	probePause = 250 * time.Millisecond
	// remindEvery is the time between two lines of the log about an outage that goes
	// on: what is to be seen to may be another thing by then.
	remindEvery = time.Minute
)

// outage is a time in which no majority of the members is to be had: a request got
// no answer in all its time, nor did any other meanwhile. Requests that come then
// wait a fifth of their time only, since clients have other gateways to go to; one
// at a time finds out when it is over.
type outage struct {
	since int64 // by the store's count
	over  chan struct{}
}

// answered notes that a majority has just answered.
func (s *Store) answered() { s.heard.Store(s.count.Now()) }

// unanswered notes that a request got no answer in its time, which began then, by
// count.
func (s *Store) unanswered(begun int64) {
	if s.heard.Load() >= begun || s.closed.Load() {
		return
	}
	o := &outage{since: begun, over: make(chan struct{})}
	if s.outage.CompareAndSwap(nil, o) {
		s.cfg.Logger.Warn("no majority of the metadata members answers", "members", s.cfg.Endpoints)
		go s.probe(o)
	}
}

// outlast waits a little for the end of an outage, if there is one.
func (s *Store) outlast(ctx context.Context) error {
	o := s.outage.Load()
	if o == nil {
		return nil
	}
	late := time.NewTimer(s.cfg.Timeout / 5)
	defer late.Stop()
	select {
	case <-o.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
		return fmt.Errorf("%w: no majority of the metadata members has answered for %s", kv.ErrUnavailable, s.lasted(o).Round(time.Second))
	}
}

// lasted is for how long there is an outage.
func (s *Store) lasted(o *outage) time.Duration { return time.Duration(s.count.Now() - o.since) }

// probe ends an outage when a member answers, whatever it says, or the store ends.
func (s *Store) probe(o *outage) {
	defer close(o.over)
	defer s.outage.Store(nil)
	ctx := s.client.Ctx()
	told := s.count.Now()
	for again := true; again && s.usable(ctx) == nil; {
		var err error
		again, err = s.attempt(ctx, firstAttempt, func(ctx context.Context, c grpc.CallOption) error {
			_, err := s.get(ctx, &pb.RangeRequest{Key: s.fence.key, KeysOnly: true}, c)
			return err
		})
		if now := s.count.Now(); again && now-told >= int64(remindEvery) {
			told = now
			s.cfg.Logger.Warn("still no majority of the metadata members answers", "for", s.lasted(o).Round(time.Second), "err", err)
		}
		if again {
			sleep(ctx, probePause)
		}
	}
	if !s.closed.Load() {
		s.cfg.Logger.Info("the metadata members answer again", "after", s.lasted(o).Round(time.Millisecond))
	}
}
