package etcd

import (
	"context"
	"fmt"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"kintsugi/metadata/kv"
)

// fenceSeconds is how long a fence stays. It must outlive every request that
// is still on a wire; a store that lives longer raises it anew when needed.
const fenceSeconds = 24 * 60 * 60

// fence is the key whose mod revision every commit of a Store asserts.
type fence struct {
	key  []byte
	turn chan struct{} // holds one token; the holder may use what follows
	rev  int64         // the mod revision to assert; 0: the key was never written
	// torn is one more than the highest revision that a request of unknown
	// outcome asserted: where rev is below it, the fence is raised before
	// anything else is sent. 0: none.
	torn atomic.Int64
}

func (f *fence) init(key []byte) {
	f.key, f.turn = key, make(chan struct{}, 1)
	f.turn <- struct{}{}
}

// current gives the revision to assert, after raising the fence where that is
// due. An error means that nothing may be sent.
func (s *Store) current(ctx context.Context) (int64, error) {
	f := &s.fence
	wait, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	select {
	case <-f.turn:
		defer func() { f.turn <- struct{}{} }()
	case <-wait.Done():
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, fmt.Errorf("%w: the fence after a commit of unknown outcome is not raised yet", kv.ErrUnavailable)
	}
	if f.rev >= f.torn.Load() {
		return f.rev, nil
	}
	rev, err := s.raise(ctx)
	if err != nil {
		return 0, fmt.Errorf("raise the fence after a commit of unknown outcome: %w", err)
	}
	f.rev = rev
	return rev, nil
}

// raise writes the fence and gives its new mod revision. To write it more
// often than asked does no harm.
func (s *Store) raise(ctx context.Context) (rev int64, err error) {
	var lease int64
	err = s.repeat(ctx, s.cfg.Timeout, func(ctx context.Context, o grpc.CallOption) error {
		r, err := clientv3.RetryLeaseClient(s.client).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: fenceSeconds}, o)
		if err == nil {
			lease = r.ID
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	err = s.repeat(ctx, s.cfg.Timeout, func(ctx context.Context, o grpc.CallOption) error {
		r, err := s.rpc.Put(ctx, &pb.PutRequest{Key: s.fence.key, Value: []byte{1}, Lease: lease}, o)
		if err == nil {
			rev = r.Header.Revision
		}
		return err
	})
	return rev, err
}

// tear notes that the outcome of a commit that asserted rev is unknown, or
// that the fence is not where it was left. It does not wait.
func (s *Store) tear(rev int64) {
	for {
		old := s.fence.torn.Load()
		if old > rev || s.fence.torn.CompareAndSwap(old, rev+1) {
			return
		}
	}
}
