package etcd

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// login keeps the token that etcd's authentication gives. Many requests may be
// refused at once when a token ends; one of them fetches the next.
type login struct {
	user, password string
	token          atomic.Pointer[string]
	turn           sync.Mutex // guards made, and that one fetches at a time
	made           time.Time
}

// GetRequestMetadata implements credentials.PerRPCCredentials. A member that knows
// of no leader – it is cut off from the others, or there is an election – is to
// refuse a request at once: it would keep it until its time is up.
func (l *login) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	m := map[string]string{rpctypes.MetadataRequireLeaderKey: rpctypes.MetadataHasLeader}
	if t := l.token.Load(); t != nil && *t != "" {
		m[rpctypes.TokenFieldNameGRPC] = *t
	}
	return m, nil
}

// lacksToken says that there is a user to log in as, but no token of theirs yet:
// a member then takes the name in the certificate for the user.
func (l *login) lacksToken() bool {
	t := l.token.Load()
	return l.user != "" && (t == nil || *t == "")
}

// RequireTransportSecurity implements credentials.PerRPCCredentials. Without
// TLS the token is readable on the wire, as is everything else.
func (l *login) RequireTransportSecurity() bool { return false }

// youth is how long a token may take to reach every member: one that refuses a
// token younger than that may not have heard of it yet.
const youth = 500 * time.Millisecond

// renew fetches a token, unless another request did so meanwhile, or the last
// one is so young that waiting a little will do.
func (l *login) renew(ctx context.Context, s *Store) error {
	had := l.token.Load()
	l.turn.Lock()
	defer l.turn.Unlock()
	if l.token.Load() != had {
		return nil
	}
	if time.Since(l.made) < youth {
		if !sleep(ctx, youth/10) {
			return ctx.Err()
		}
		return nil
	}
	if l.user == "" {
		return nil // a certificate's name is the user: nothing to fetch
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	r, err := s.authRPC.Authenticate(ctx, &pb.AuthenticateRequest{Name: l.user, Password: l.password})
	token := ""
	switch {
	case err == nil:
		token = r.Token
	case rpctypes.Error(err) != rpctypes.ErrAuthNotEnabled:
		return err
	}
	l.token.Store(&token)
	l.made = time.Now()
	return nil
}
