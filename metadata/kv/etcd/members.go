package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// MemberID names a member; as text it is hexadecimal.
type MemberID uint64

// String implements fmt.Stringer.
func (id MemberID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// MarshalText implements encoding.TextMarshaler.
func (id MemberID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *MemberID) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 16, 64)
	*id = MemberID(v)
	return err
}

// Member is one of the etcd servers, as it says itself where it answers.
type Member struct {
	ID      MemberID `json:"id"`
	Name    string   `json:"name"` // empty until it was started
	Peers   []string `json:"peer_urls"`
	Clients []string `json:"client_urls"`
	Learner bool     `json:"learner"`
	Leader  bool     `json:"leader"`
	Healthy bool     `json:"healthy"`           // it answers, knows a leader and has no error
	DBSize  int64    `json:"db_size"`           // bytes of its file
	InUse   int64    `json:"db_in_use"`         // bytes of it that hold something
	Quota   int64    `json:"db_quota"`          // bytes the file may have; 0: not told
	Lag     uint64   `json:"lag"`               // entries it has not applied that the first of all has
	Version string   `json:"version,omitempty"` // of etcd
	Errors  []string `json:"errors,omitempty"`
}

// memberTimeout bounds what one member is asked.
const memberTimeout = 5 * time.Second

// admin performs an operator's request until it is answered or the time is up.
func (s *Store) admin(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*memberTimeout)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		again, meaning := s.judge(ctx, err)
		if !again {
			return meaning
		}
		if !sleep(ctx, maxPause) {
			return unavailable(err)
		}
	}
}

// once performs what an operator asks of one member, again only where that member
// did nothing: it refuses the token, or for the moment any change.
func (s *Store) once(ctx context.Context, f func() error) error {
	for range 40 {
		err := f()
		if rpctypes.Error(err) == rpctypes.ErrUnhealthy {
			select {
			case <-ctx.Done():
				return err
			case <-time.After(settling / 40):
			}
			continue
		}
		if !tokenRefused(rpctypes.Error(err)) || s.auth.renew(ctx, s) != nil {
			return err
		}
	}
	return f()
}

// settling is for how long a change of members is asked for again that members refuse
// since they have not been connected to each other for 5 s: one has just ended, and
// they do not know it yet, or they have just begun.
const settling = 10 * time.Second

// Members lists the members and asks each how it is. The error is that of the
// list; a member that does not answer is listed as not healthy.
func (s *Store) Members(ctx context.Context) ([]Member, error) {
	var list *clientv3.MemberListResponse
	err := s.admin(ctx, func(ctx context.Context) (err error) {
		list, err = s.client.MemberList(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make([]Member, len(list.Members))
	applied := make([]uint64, len(out))
	var wg sync.WaitGroup
	for i, m := range list.Members {
		out[i] = Member{ID: MemberID(m.ID), Name: m.Name, Peers: m.PeerURLs, Clients: m.ClientURLs, Learner: m.IsLearner}
		wg.Go(func() { applied[i] = s.inspect(ctx, &out[i]) })
	}
	wg.Wait()
	first := uint64(0)
	for _, a := range applied {
		first = max(first, a)
	}
	for i := range out {
		if applied[i] > 0 {
			out[i].Lag = first - applied[i]
		}
	}
	return out, nil
}

// inspect asks a member itself and gives the last entry it has applied.
func (s *Store) inspect(ctx context.Context, m *Member) (applied uint64) {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	err := errors.New("not started")
	for _, u := range m.Clients {
		var st *clientv3.StatusResponse
		err = s.once(ctx, func() (err error) {
			st, err = s.client.Status(ctx, u)
			return err
		})
		if err != nil {
			continue
		}
		m.Leader, m.DBSize, m.InUse, m.Quota, m.Version = st.Leader == uint64(m.ID), st.DbSize, st.DbSizeInUse, st.DbSizeQuota, st.Version
		m.Errors = st.Errors
		m.Healthy = st.Leader != 0 && len(st.Errors) == 0
		return st.RaftAppliedIndex
	}
	m.Errors = append(m.Errors, err.Error())
	return 0
}

// AddMember lets a server with this peer URL in, as a learner: it counts for
// no majority until it is promoted.
func (s *Store) AddMember(ctx context.Context, peerURL string) (id MemberID, all []Member, err error) {
	var resp *clientv3.MemberAddResponse
	err = s.once(ctx, func() (err error) {
		resp, err = s.client.MemberAddAsLearner(ctx, []string{peerURL})
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("add member %s: %w", peerURL, err)
	}
	return MemberID(resp.Member.ID), plain(resp.Members), nil
}

func plain(list []*pb.Member) (out []Member) {
	for _, m := range list {
		out = append(out, Member{ID: MemberID(m.ID), Name: m.Name, Peers: m.PeerURLs, Clients: m.ClientURLs, Learner: m.IsLearner})
	}
	return out
}

// RemoveMember takes a member out for good.
func (s *Store) RemoveMember(ctx context.Context, id MemberID) error {
	err := s.once(ctx, func() error {
		_, err := s.client.MemberRemove(ctx, uint64(id))
		return err
	})
	if err != nil {
		return fmt.Errorf("remove member %s: %w", id, err)
	}
	return nil
}

// PromoteMember makes a learner a full member. It fails while the learner has
// not caught up.
func (s *Store) PromoteMember(ctx context.Context, id MemberID) error {
	err := s.once(ctx, func() error {
		_, err := s.client.MemberPromote(ctx, uint64(id))
		return err
	})
	if err != nil {
		return fmt.Errorf("promote member %s: %w", id, err)
	}
	return nil
}

// Defragment lets a member rewrite its file without the holes in it. The
// member serves nothing meanwhile.
func (s *Store) Defragment(ctx context.Context, m Member) error {
	err := errors.New("the member names no client URL")
	for _, u := range m.Clients {
		err = s.once(ctx, func() error {
			_, err := s.client.Defragment(ctx, u)
			return err
		})
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("defragment member %s: %w", m.Name, err)
}
