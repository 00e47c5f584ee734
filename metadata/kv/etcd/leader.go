package etcd

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

const (
	// lookEvery is the least time between two looks for the leader, lookTime how
	// long one member may take to say who leads.
	lookEvery = 500 * time.Millisecond
	lookTime  = time.Second
	// leaderSilence is how long the leader may leave a request unanswered before
	// others go to all members again.
	leaderSilence = 500 * time.Millisecond
)

// leaders knows the member that leads. Commits and small reads go there: any
// other member has to ask it, and to wait until it has heard of the outcome. That
// is all it is for: wherever a request goes it is answered alike, so that a
// leader which is not one any more costs time, and nothing else.
type leaders struct {
	now     atomic.Pointer[leader] // nil: not known
	looking atomic.Bool
	next    atomic.Int64 // no look before, by the store's count

	mu     sync.Mutex
	conns  map[string]*grpc.ClientConn // by endpoint; guarded by mu, nil once closed
	closed bool                        // guarded by mu
}

// leader is a member that said it leads.
type leader struct {
	pb.KVClient
	term uint64
}

// txn sends a transaction to the leader, or to any member where none is known
// that answers.
func (s *Store) txn(ctx context.Context, r *pb.TxnRequest, opts ...grpc.CallOption) (resp *pb.TxnResponse, err error) {
	err = s.toLeader(func(rpc pb.KVClient) (*pb.ResponseHeader, error) {
		resp, err = rpc.Txn(ctx, r, opts...)
		return resp.GetHeader(), err
	})
	return resp, err
}

// get is txn for a range; what all members can tell alike, and what may be much,
// is asked of any of them.
func (s *Store) get(ctx context.Context, r *pb.RangeRequest, opts ...grpc.CallOption) (resp *pb.RangeResponse, err error) {
	if r.Serializable || len(r.RangeEnd) > 0 {
		return s.rpc.Range(ctx, r, opts...)
	}
	err = s.toLeader(func(rpc pb.KVClient) (*pb.ResponseHeader, error) {
		resp, err = rpc.Range(ctx, r, opts...)
		return resp.GetHeader(), err
	})
	return resp, err
}

// toLeader makes a call, and learns from it whether the leader still is one.
func (s *Store) toLeader(call func(pb.KVClient) (*pb.ResponseHeader, error)) error {
	l := s.leads()
	if l == nil {
		_, err := call(s.rpc)
		return err
	}
	late := time.AfterFunc(leaderSilence, func() {
		s.leaders.now.CompareAndSwap(l, nil)
		s.leaders.next.Store(0)
		s.lookForLeader()
	})
	defer late.Stop()
	header, err := call(l)
	switch {
	case err != nil:
		s.leaders.now.CompareAndSwap(l, nil)
	case header.GetRaftTerm() != l.term:
		s.lookForLeader() // meanwhile this one passes requests on
	}
	return err
}

// leads gives the leader; nil where none is known.
func (s *Store) leads() *leader {
	if len(s.cfg.Endpoints) < 2 {
		return nil
	}
	l := s.leaders.now.Load()
	if l == nil {
		s.lookForLeader()
	}
	return l
}

// lookForLeader asks the members who leads, in the background and not too often.
func (s *Store) lookForLeader() {
	ls := &s.leaders
	if s.count.Now() < ls.next.Load() || !ls.looking.CompareAndSwap(false, true) {
		return
	}
	go func() { // ends by itself, after lookTime for each member at most
		defer ls.looking.Store(false)
		ls.next.Store(s.count.Now() + int64(lookEvery))
		for i := range s.cfg.Endpoints {
			if s.isLeader(s.client.Endpoints()[i]) {
				break
			}
		}
		ls.next.Store(s.count.Now() + int64(lookEvery))
	}()
}

// isLeader asks a member whether it leads, and if so sends what comes to it. One
// that says nothing is given up, with all that waits for it.
func (s *Store) isLeader(endpoint string) bool {
	conn := s.leaders.conn(endpoint, s.client.Dial)
	if conn == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(s.client.Ctx(), lookTime)
	defer cancel()
	var p peer.Peer
	begun, since := time.Now(), s.count.Now()
	st, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{}, grpc.Peer(&p))
	if time.Since(begun) >= lookTime {
		silent(p.Addr, since)
	}
	if err != nil || st.Leader == 0 || st.Leader != st.Header.MemberId {
		return false
	}
	s.leaders.now.Store(&leader{KVClient: pb.NewKVClient(conn), term: st.RaftTerm})
	return true
}

// conn gives the connection to one member, kept until close: nil after it, or
// where there can be none.
func (ls *leaders) conn(endpoint string, dial func(string) (*grpc.ClientConn, error)) *grpc.ClientConn {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	c := ls.conns[endpoint]
	if c != nil || ls.closed {
		return c
	}
	c, err := dial(endpoint) // waits for nothing
	if err != nil {
		return nil
	}
	if ls.conns == nil {
		ls.conns = map[string]*grpc.ClientConn{}
	}
	ls.conns[endpoint] = c
	return c
}

func (ls *leaders) close() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, c := range ls.conns {
		_ = c.Close() // nothing is to be saved there
	}
	ls.conns, ls.closed = nil, true
}
