package member

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/auth"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kintsugi/metadata/kv/etcd"
)

// gate stands before every call of a client.
type gate struct {
	secret bool // clients log in with what follows from the cluster's secret
	server atomic.Pointer[etcdserver.EtcdServer]
	open   atomic.Bool
	once   sync.Once
	opened chan struct{}
}

func (g *gate) ready() chan struct{} {
	g.once.Do(func() { g.opened = make(chan struct{}) })
	return g.opened
}

// openGate lets calls through and gives what is to be closed to say so.
func (g *gate) openGate() chan struct{} {
	g.open.Store(true)
	return g.ready()
}

// free names the calls that need no login: logging in, and asking whether the
// member is well.
func free(method string) bool {
	return method == "/etcdserverpb.Auth/Authenticate" || method == "/grpc.health.v1.Health/Check"
}

// check lets a call through or says why not. Without a secret, TLS has asked
// for a certificate of the cluster's authority already.
func (g *gate) check(ctx context.Context, method string) error {
	if !g.open.Load() {
		return status.Error(codes.Unavailable, "etcdserver: not ready")
	}
	if !g.secret || free(method) {
		return nil
	}
	s := g.server.Load()
	if !s.AuthStore().IsAuthEnabled() { // somebody turned it off: closed, not open
		return status.Error(codes.Unavailable, "etcdserver: authentication is off")
	}
	switch who, err := s.AuthInfoFromCtx(ctx); {
	case errors.Is(err, auth.ErrAuthOldRevision):
		return rpctypes.ErrGRPCAuthOldRevision
	case err != nil:
		return rpctypes.ErrGRPCInvalidAuthToken
	case who == nil:
		return rpctypes.ErrGRPCUserEmpty
	}
	return nil
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := g.check(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (g *gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := g.check(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	return next(srv, ss)
}

// protect turns authentication on, unless another member did, and makes sure
// that the cluster knows this member's secret. All first members do so at
// once; each step may have been done by another.
func (m *Member) protect() error {
	if !m.gate.secret {
		return nil
	}
	s := m.server.Server
	for {
		if s.AuthStore().IsAuthEnabled() {
			_, err := s.AuthStore().CheckPassword(etcd.RootUser, m.password)
			if err == nil {
				return nil
			}
			if errors.Is(err, auth.ErrAuthFailed) {
				return errors.New("this metadata cluster was made with another cluster secret")
			}
		} else if !s.IsLearner() && len(m.cfg.Join) == 0 {
			if err := m.enable(); err != nil {
				m.cfg.Logger.Debug("turning authentication on", "err", err)
			}
		}
		select {
		case <-m.ctx.Done():
			return m.ctx.Err()
		case <-s.StopNotify():
			return errors.New("etcd stopped")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// enable makes the user root and turns authentication on.
func (m *Member) enable() error {
	ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
	defer cancel()
	s := m.server.Server
	done := func(err error, already ...error) error {
		for _, a := range already {
			if errors.Is(err, a) {
				return nil
			}
		}
		return err
	}
	_, err := s.UserAdd(ctx, &pb.AuthUserAddRequest{Name: etcd.RootUser, Password: m.password, Options: &authpb.UserAddOptions{}})
	if err = done(err, auth.ErrUserAlreadyExist); err != nil {
		return fmt.Errorf("make user root: %w", err)
	}
	_, err = s.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "root"})
	if err = done(err, auth.ErrRoleAlreadyExist); err != nil {
		return fmt.Errorf("make role root: %w", err)
	}
	if _, err = s.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: etcd.RootUser, Role: "root"}); err != nil {
		return fmt.Errorf("grant role root: %w", err)
	}
	if _, err = s.AuthEnable(ctx, &pb.AuthEnableRequest{}); err != nil {
		return fmt.Errorf("enable: %w", err)
	}
	return nil
}
