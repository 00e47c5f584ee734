package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"kintsugi/metadata/kv"
)

const (
	connectTimeout   = 3 * time.Second
	keepaliveTime    = 10 * time.Second // as often as members allow and gRPC can
	keepaliveTimeout = 3 * time.Second
	// firstAttempt is how long a read waits for one member before it asks
	// another; each further attempt waits twice as long.
	firstAttempt = time.Second
	maxPause     = 250 * time.Millisecond
	// maxAnswer bounds an answer in memory; a page that is larger is asked
	// for again in smaller pieces.
	maxAnswer = 8 << 20
)

// What call makes of some answers.
var (
	errCompacted = errors.New("the history of this revision was compacted away")
	errFuture    = errors.New("the member has not got this revision yet")
	errTooBig    = errors.New("answer too large")
	errClosed    = fmt.Errorf("%w: the store is closed", kv.ErrUnavailable)
)

// answerLimit lets answers in that are larger than gRPC's own bound.
var answerLimit = grpc.MaxCallRecvMsgSize(maxAnswer)

// repeat performs a request that may be performed several times until it
// succeeds, fails for good, or its time is up. The error wraps
// kv.ErrUnavailable, or is the context's or one of those above.
func (s *Store) repeat(ctx context.Context, timeout time.Duration, f func(context.Context, grpc.CallOption) error) error {
	if err := s.outlast(ctx); err != nil {
		return err
	}
	begun := s.count.Now()
	end, wait, pause := time.Now().Add(timeout), firstAttempt, 20*time.Millisecond
	for {
		if err := s.usable(ctx); err != nil {
			return err
		}
		again, err := s.attempt(ctx, min(wait, time.Until(end)), f)
		if !again {
			return err
		}
		if wait *= 2; time.Until(end) <= pause {
			s.unanswered(begun)
			return fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
		pause = min(2*pause, maxPause)
	}
}

// attempt performs a request once and says whether it is worth another time. A
// member that said nothing for as long as a first attempt may take is left, and the
// only one after more than that: what else is under way there gets an unknown outcome.
func (s *Store) attempt(ctx context.Context, limit time.Duration, f func(context.Context, grpc.CallOption) error) (again bool, err error) {
	start, since := time.Now(), s.count.Now()
	var p peer.Peer
	once, cancel := context.WithDeadline(ctx, start.Add(limit))
	err = f(once, grpc.Peer(&p))
	cancel()
	if err == nil {
		s.answered()
		return false, nil
	}
	again, err = s.judge(ctx, err)
	patience := firstAttempt
	if len(s.cfg.Endpoints) == 1 {
		patience = keepaliveTimeout
	}
	if again && time.Since(start) >= max(limit, patience) {
		silent(p.Addr, since)
	}
	return again, err
}

// judge says whether a request that failed and may be repeated is worth it,
// and gives the error its meaning.
func (s *Store) judge(ctx context.Context, err error) (again bool, meaning error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	switch is := rpctypes.Error(err); {
	case is == rpctypes.ErrCompacted:
		return false, errCompacted
	case is == rpctypes.ErrFutureRev:
		return false, errFuture
	case is == rpctypes.ErrUserEmpty && s.auth.user == "":
		return false, unavailable(err)
	case tokenRefused(is), is == rpctypes.ErrPermissionDenied && s.auth.lacksToken():
		if aerr := s.auth.renew(ctx, s); aerr != nil {
			return status.Code(aerr) == codes.Unavailable || status.Code(aerr) == codes.DeadlineExceeded, unavailable(aerr)
		}
		return true, err
	case errors.Is(err, rpctypes.ErrGRPCNotSupportedForLearner), is == rpctypes.ErrTooManyRequests:
		return true, err
	}
	switch status.Code(err) {
	case codes.ResourceExhausted:
		if strings.Contains(status.Convert(err).Message(), "larger than max") {
			return false, errTooBig
		}
		return false, unavailable(err)
	case codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.NotFound,
		codes.Unauthenticated, codes.Unimplemented, codes.DataLoss, codes.OutOfRange:
		return false, unavailable(err)
	}
	return true, err
}

// tokenRefused says that a member wants a newer token. Nothing was done.
func tokenRefused(err error) bool {
	return err == rpctypes.ErrInvalidAuthToken || err == rpctypes.ErrAuthOldRevision || err == rpctypes.ErrUserEmpty
}

const noSpaceText = "the etcd members are full (alarm NOSPACE): nothing can be written until space is made; a member run by `kintsugi metadata` compacts, defragments and lifts the alarm by itself where that frees enough, otherwise raise its --quota; on another etcd: etcdctl compact, defrag, then alarm disarm"

// unavailable wraps an error of a member, with what to do where that is known.
func unavailable(err error) error {
	switch rpctypes.Error(err) {
	case rpctypes.ErrNoSpace:
		return fmt.Errorf("%w: %s", kv.ErrUnavailable, noSpaceText)
	case rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrPermissionDenied:
		return fmt.Errorf("%w: the etcd members refuse this user; is the cluster secret theirs, or KINTSUGI_METADATA_USER and its password right? %w", kv.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
}

// outcome is what is known of a commit that got an error.
type outcome int

const (
	unknown outcome = iota
	refused         // certainly not done, and would not be another time
	undone          // certainly not done; another time it might be
	noSpace         // done or not, but nothing of it is still to come
)

// classify says what is known of a transaction that failed. sent is false
// where no member was found to send it to.
func classify(err error, sent bool) outcome {
	if !sent {
		return undone
	}
	st := status.Convert(err)
	switch {
	case tokenRefused(rpctypes.Error(err)), st.Message() == "raft proposal dropped",
		rpctypes.Error(err) == rpctypes.ErrNoLeader, // which members say before they look at what it is
		errors.Is(err, rpctypes.ErrGRPCNotSupportedForLearner), rpctypes.Error(err) == rpctypes.ErrTooManyRequests:
		return undone
	case !strings.HasPrefix(st.Message(), "etcdserver: "):
		return unknown
	}
	switch {
	case rpctypes.Error(err) == rpctypes.ErrNoSpace:
		// A member refuses what does not fit before it is proposed; but what the
		// database grows full under meanwhile is applied and gets the same error.
		return noSpace
	case slices.Contains([]codes.Code{codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange,
		codes.PermissionDenied, codes.Unauthenticated, codes.ResourceExhausted}, st.Code()):
		return refused
	}
	return unknown
}

// fullFor is for how long nothing that takes space is sent after an answer that
// there is none: each such request costs the members a proposal.
const fullFor = 250 * time.Millisecond

// full says why a transaction that takes space need not be sent now.
func (s *Store) full() error {
	if s.count.Now() < s.fullUntil.Load() {
		return unavailable(rpctypes.ErrGRPCNoSpace)
	}
	return nil
}

// ask performs a range request within timeout.
func (s *Store) ask(ctx context.Context, timeout time.Duration, r *pb.RangeRequest) (resp *pb.RangeResponse, err error) {
	err = s.repeat(ctx, timeout, func(ctx context.Context, o grpc.CallOption) error {
		var err error
		resp, err = s.get(ctx, r, answerLimit, o)
		return err
	})
	if err == errFuture && r.Serializable {
		r.Serializable = false // the others have got it
		return s.ask(ctx, timeout, r)
	}
	return resp, err
}

// usable says whether a request may be made at all.
func (s *Store) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.closed.Load() {
		return errClosed
	}
	return nil
}

// sleep is false where the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
