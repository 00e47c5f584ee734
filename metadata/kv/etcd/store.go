package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"kintsugi/metadata/kv"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/lane"
)

// Store is the engine. It implements kv.Store.
type Store struct {
	cfg     Config
	client  *clientv3.Client
	rpc     pb.KVClient
	authRPC pb.AuthClient
	auth    *login
	fence   fence
	looks   lane.Lane[*look]
	commits lane.Lane[*commit]
	leaders leaders
	density density
	sights  sights
	data    []byte // what all keys of pairs start with
	end     []byte // the least key above them
	closed  atomic.Bool
	count   clock.Count
	// fullUntil, by count: see full.
	fullUntil atomic.Int64
	heard     atomic.Int64           // when a member answered last, by count
	outage    atomic.Pointer[outage] // nil: none is known of
}

var _ kv.Store = (*Store)(nil)

// Open connects to the members and reads once, so that a wrong address, user
// or certificate is told at once. Where no majority answers within the
// timeout, the error wraps kv.ErrUnavailable.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("etcd: no endpoints")
	}
	if len(cfg.Prefix) > maxPrefix {
		return nil, fmt.Errorf("etcd: prefix of %d bytes, at most %d", len(cfg.Prefix), maxPrefix)
	}
	s := &Store{
		cfg: cfg, count: clock.NewCount(cfg.Clock), auth: &login{user: cfg.User, password: cfg.Password},
	}
	s.data, s.end = DataRange(cfg.Prefix)
	s.fence.init(append([]byte(cfg.Prefix+"f/"), rand.Text()...))
	s.looks.Take, s.looks.Send, s.looks.Gather = takeLooks, s.sendLooks, true
	s.commits.Take, s.commits.Send, s.commits.Patient = takeCommits, s.sendCommits, true
	scheme := "http://"
	if cfg.TLS != nil {
		scheme = "https://"
	}
	var endpoints []string
	for _, e := range cfg.Endpoints {
		endpoints = append(endpoints, scheme+e)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: cfg.TLS, Context: context.WithoutCancel(ctx),
		DialKeepAliveTime: keepaliveTime, DialKeepAliveTimeout: keepaliveTimeout,
		MaxUnaryRetries: 1, // this package repeats what may be repeated, and nothing else
		Logger:          zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(s.dial), grpc.WithPerRPCCredentials(s.auth), grpc.WithDisableRetry(),
			// Windows that stay as they are: gRPC otherwise sends a ping with each
			// answer, to learn how large they should be.
			grpc.WithStaticStreamWindowSize(maxAnswer), grpc.WithStaticConnWindowSize(maxAnswer),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	s.client, s.rpc, s.authRPC = client, clientv3.RetryKVClient(client), clientv3.RetryAuthClient(client)
	s.heard.Store(math.MaxInt64) // no outage before it was ever there
	if _, err := s.revision(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("etcd %v: %w", cfg.Endpoints, err), s.Close())
	}
	return s, nil
}

// Close ends the engine: what follows fails with kv.ErrUnavailable.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.leaders.close()
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// key gives a pair's key as etcd knows it.
func (s *Store) key(key []byte) []byte {
	return append(append(make([]byte, 0, len(s.data)+len(key)), s.data...), key...)
}

// Get implements kv.Reader.
func (s *Store) Get(ctx context.Context, key []byte) ([]byte, error) {
	if len(key) == 0 {
		return nil, s.usable(ctx)
	}
	kvs, _, err := s.look(ctx, 0, s.key(key))
	if err != nil || kvs[0] == nil {
		return nil, err
	}
	return kvs[0].Value, nil
}

// GetAll implements kv.AllGetter: the values are of one state.
func (s *Store) GetAll(ctx context.Context, keys ...[]byte) ([][]byte, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	values, full := make([][]byte, len(keys)), make([][]byte, len(keys))
	for i, k := range keys {
		full[i] = s.key(k)
	}
	most := maxLooks
	for rev, i := int64(0), 0; i < len(full); {
		n := min(most, len(full)-i)
		kvs, at, err := s.look(ctx, rev, full[i:i+n]...)
		if err == errTooBig && n > 1 {
			most = 1
			continue
		}
		if err != nil {
			return nil, ended(err)
		}
		for j := range kvs {
			if kvs[j] != nil {
				values[i+j] = kvs[j].Value
			}
		}
		if i += n; rev == 0 {
			rev = at // of the first; later answers tell what was the newest then
		}
	}
	return values, nil
}

// revision is the newest: every write acknowledged before, by any process, is
// in it.
func (s *Store) revision(ctx context.Context) (int64, error) {
	resp, err := s.ask(ctx, s.cfg.Timeout, &pb.RangeRequest{Key: s.fence.key, KeysOnly: true})
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

// Snapshot implements kv.Store. It holds nothing at the members: it ends when
// they compact the history of its revision away (`kintsugi metadata` keeps ten
// minutes), with kv.ErrUnavailable.
func (s *Store) Snapshot(ctx context.Context) (kv.Snapshot, error) {
	rev, err := s.revision(ctx)
	if err != nil {
		return nil, err
	}
	return &snapshot{s, rev}, nil
}

type snapshot struct {
	s   *Store
	rev int64
}

// Get implements kv.Reader.
func (v *snapshot) Get(ctx context.Context, key []byte) ([]byte, error) {
	if len(key) == 0 {
		return nil, v.s.usable(ctx)
	}
	kvs, _, err := v.s.look(ctx, v.rev, v.s.key(key))
	if err != nil || kvs[0] == nil {
		return nil, ended(err)
	}
	return kvs[0].Value, nil
}

// Close implements kv.Snapshot.
func (v *snapshot) Close() {}

// ended gives an error of a read at a fixed revision its meaning.
func ended(err error) error {
	if err == errCompacted || err == errFuture {
		return fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
	}
	return err
}

// Begin implements kv.Store. It asks nobody: the first Get chooses the state.
func (s *Store) Begin(ctx context.Context) (kv.Txn, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	return &txn{s: s}, nil
}
