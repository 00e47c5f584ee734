// Package member is an etcd server in this process, as `kintsugi metadata`
// runs it: etcd's own embedded server behind a guard that answers nobody who
// has not shown who they are, with the chores that an operator of etcd would
// otherwise have.
//
// # Who gets in
//
// Clients show a password that follows from the cluster's secret (user root of
// etcd's authentication), or a certificate of the cluster's authority, or
// both. guard.go refuses every call but logging in and the health check until
// authentication is on, and afterwards every call without a valid login: also
// those that etcd itself would answer (status, list of members, promotion). Its
// HTTP side (metrics, debugging) listens on a socket in the data directory
// alone.
//
// Members speak TLS among each other, with the certificates of the
// configuration or with ones made at each start under an authority that
// follows from the cluster's secret (peers.go): who does not know the secret
// can neither join nor listen.
//
// # Founding
//
// All first members have to be there before the first of them starts (meet.go):
// one that has lost its data must not pass for a new one. Where one is lost for
// good, it is removed, and another joins.
//
// # Chores
//
// The leading member looks after all: it defragments one member at a time,
// where it gains something, itself after handing over; and it makes space and
// lifts the alarm where a member is full (chores.go). Every member writes
// snapshots of its own (backup.go). A member that joins is a learner first and
// is promoted once it has caught up (join.go).
package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc"

	"kintsugi/metadata/kv/etcd"
)

const (
	// streamWorkers is how many calls at once run on goroutines that are kept;
	// more get one of their own each.
	streamWorkers = 32
	// window is how much of one client's requests may be on its way, more than
	// twice the largest.
	window = 4 << 20
)

// Config of a Member. Zero values mean what the comments say.
type Config struct {
	Name string // of the member, unique in the cluster; required
	Dir  string // of its data; required

	Address     string // host:port for clients; required
	PeerAddress string // host:port for the other members; required
	// Advertise and AdvertisePeer are what others reach these at; empty: the
	// addresses themselves.
	Advertise, AdvertisePeer string

	// Cluster names the first members, "name=host:port,…" with their peer
	// addresses; empty: this one alone. It matters at the first start only.
	Cluster string
	// Join names client addresses of a cluster to join at the first start,
	// instead of Cluster.
	Join []string

	// Secret of the cluster, Files for mutual TLS with clients, PeerFiles
	// among members: Secret or all of Files is required, and without Secret
	// PeerFiles as well.
	Secret           string
	Files, PeerFiles etcd.Files

	Quota     int64         // bytes of the database; 0: 8 GiB
	Retention time.Duration // history kept; 0: 10 min

	// Defragment is the time between looks at what defragmenting would gain;
	// 0: 1 h, below 0: never. Watch is that between looks for alarms; 0: 10 s.
	Defragment, Watch time.Duration
	// DefragmentFrom is from how many bytes gained on it is done; 0: 64 MiB,
	// and never less than a quarter of the file.
	DefragmentFrom int64

	// BackupDir is where snapshots go; empty: none. Every BackupEvery (0: 1 h)
	// one is written, BackupKeep of them (0: 24) are kept.
	BackupDir   string
	BackupEvery time.Duration
	BackupKeep  int

	Logger *slog.Logger // nil: discards
}

// Member is a running server.
type Member struct {
	cfg      Config
	server   *embed.Etcd
	peers    *http.Server
	gate     *gate
	password string
	socket   string // directory of the HTTP socket
	ctx      context.Context
	cancel   context.CancelFunc
	chores   sync.WaitGroup
	stopping atomic.Bool // what etcd complains of then is of no interest
	failed   chan error
}

// Start starts the member and returns once it listens; one of several first
// members waits for the others, as long as ctx lets it. Ready tells when it
// serves; Failed gives an error that ended it.
func Start(ctx context.Context, cfg Config) (m *Member, err error) {
	if cfg, err = cfg.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	m = &Member{cfg: cfg, gate: &gate{secret: cfg.Secret != ""}, failed: make(chan error, 1)}
	if cfg.Secret != "" {
		if m.password, err = etcd.RootPassword(cfg.Secret); err != nil {
			return nil, err
		}
	}
	c, err := m.embedConfig()
	if err != nil {
		return nil, err
	}
	if m.first() {
		if err := m.found(ctx, c); err != nil {
			return nil, err
		}
	}
	port, err := m.listenForPeers(c.PeerTLSInfo)
	if err != nil {
		return nil, err
	}
	if m.server, err = embed.StartEtcd(c); err != nil {
		_ = port.Close()
		if strings.Contains(err.Error(), "has already been bootstrapped") {
			err = fmt.Errorf("%w (%w)", errLostData, err)
		}
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	m.servePeers(port)
	m.gate.server.Store(m.server.Server)
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	m.chores.Go(m.serve)
	return m, nil
}

// errNotTaken says that etcd ended before the member took part: the others do
// not know it, or know that it was removed.
var errNotTaken = errors.New("the cluster does not take this member: one that was removed, or that takes a removed one's place, is started with an empty data directory and --join instead of --initial-cluster")

// serve waits until the member takes part, turns authentication on, and
// starts the chores.
func (m *Member) serve() {
	fail := func(err error) {
		select {
		case m.failed <- err:
		default:
		}
	}
	select {
	case <-m.server.Server.ReadyNotify():
	case err := <-m.server.Err():
		fail(fmt.Errorf("%w (etcd: %w)", errNotTaken, err))
		return
	case <-m.server.Server.StopNotify():
		fail(errNotTaken)
		return
	case <-m.ctx.Done():
		return
	}
	if err := m.protect(); err != nil {
		fail(err)
		return
	}
	close(m.gate.openGate())
	m.startChores()
	select {
	case err := <-m.server.Err():
		if err != nil {
			fail(fmt.Errorf("etcd: %w", err))
		}
	case <-m.server.Server.StopNotify():
		if m.ctx.Err() == nil {
			fail(errors.New("etcd stopped: was this member removed from the cluster?"))
		}
	case <-m.ctx.Done():
	}
}

// Ready is closed once the member serves clients.
func (m *Member) Ready() <-chan struct{} { return m.gate.ready() }

// Failed gives the error that ended the member.
func (m *Member) Failed() <-chan error { return m.failed }

// Live returns nil while the member takes part in a cluster with a leader.
func (m *Member) Live() error {
	select {
	case <-m.Ready():
	default:
		return errors.New("not ready")
	}
	if m.server.Server.Leader() == 0 {
		return errors.New("no leader")
	}
	return nil
}

// Close hands leadership over and stops the member, within about 8 s.
func (m *Member) Close() error {
	m.stopping.Store(true)
	m.cancel()
	_ = m.server.Server.TryTransferLeadershipOnShutdown() // without it the others elect by themselves
	m.server.Close()
	_ = m.peers.Close()
	m.chores.Wait()
	return os.RemoveAll(m.socket)
}

// first says that the member was never started.
func (m *Member) first() bool {
	_, err := os.Stat(filepath.Join(m.cfg.Dir, "member", "wal"))
	return errors.Is(err, os.ErrNotExist)
}

// embedConfig makes etcd's configuration.
func (m *Member) embedConfig() (*embed.Config, error) {
	cfg := m.cfg
	c := embed.NewConfig()
	c.Name, c.Dir = cfg.Name, cfg.Dir
	scheme := "http"
	if cfg.Files != (etcd.Files{}) {
		scheme = "https"
		c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = cfg.Files.Cert, cfg.Files.Key
		c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = cfg.Files.CA, true
	}
	c.ListenClientUrls = []url.URL{{Scheme: scheme, Host: cfg.Address}}
	c.AdvertiseClientUrls = []url.URL{{Scheme: scheme, Host: cfg.Advertise}}
	c.ListenPeerUrls = nil // see servePeers
	c.AdvertisePeerUrls = []url.URL{{Scheme: "https", Host: cfg.AdvertisePeer}}
	peers := cfg.PeerFiles
	if peers == (etcd.Files{}) {
		var err error
		if peers, err = makePeerFiles(cfg.Secret, filepath.Join(cfg.Dir, "peers"), cfg.AdvertisePeer); err != nil {
			return nil, fmt.Errorf("certificate for members: %w", err)
		}
	}
	c.PeerTLSInfo.CertFile, c.PeerTLSInfo.KeyFile, c.PeerTLSInfo.TrustedCAFile = peers.Cert, peers.Key, peers.CA
	c.PeerTLSInfo.ClientCertAuth, c.PeerTLSInfo.SkipClientSANVerify = true, true
	if err := m.makeSocket(); err != nil {
		return nil, err
	}
	c.ListenClientHttpUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(m.socket, "http")}}
	c.EnableGRPCGateway = false
	c.GRPCAdditionalServerOptions = []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(m.gate.unary), grpc.ChainStreamInterceptor(m.gate.stream),
		// Calls run on goroutines that have grown their stacks already; and no ping
		// goes back with each request to learn how large the windows should be.
		grpc.NumStreamWorkers(streamWorkers),
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
	}
	c.QuotaBackendBytes = cfg.Quota
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, cfg.Retention.String()
	c.BcryptCost = uint(bcrypt.MinCost)                                      // the password is 256 random bits: slow hashing gains nothing
	c.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration // 0 would log every request
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapTo(cfg.Logger, m.stopping.Load))
	gates := c.ServerFeatureGate.(featuregate.MutableFeatureGate)
	return c, gates.Set("InitialCorruptCheck=true,CompactHashCheck=true")
}

// makeSocket makes the directory of the socket, which nobody else may enter.
func (m *Member) makeSocket() (err error) {
	m.socket = filepath.Join(m.cfg.Dir, "http")
	if len(m.socket) > 90 { // names of sockets are short
		m.socket, err = os.MkdirTemp("", "kintsugi-metadata-")
		return err
	}
	if err := os.MkdirAll(m.socket, 0o700); err != nil {
		return err
	}
	return os.Chmod(m.socket, 0o700)
}

// Inside is a transport to etcd's HTTP side: metrics, version, health.
func (m *Member) Inside() http.RoundTripper {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(m.socket, "http"))
	}}
}

// complete checks the configuration and fills in what has a default.
func (c Config) complete() (Config, error) {
	switch {
	case c.Name == "" || c.Dir == "" || c.Address == "" || c.PeerAddress == "":
		return c, errors.New("a member needs a name, a data directory, an address and a peer address")
	case c.Secret == "" && (c.Files.CA == "" || c.Files.Cert == "" || c.Files.Key == ""):
		return c, errors.New("a member must not be open to anybody: set KINTSUGI_CLUSTER_SECRET (or …_FILE), or --ca, --cert and --key for mutual TLS")
	case c.Secret == "" && (c.PeerFiles.CA == "" || c.PeerFiles.Cert == "" || c.PeerFiles.Key == ""):
		return c, errors.New("without a cluster secret the members need --peer-ca, --peer-cert and --peer-key")
	case len(c.Secret) > 0 && len(c.Secret) < 16:
		return c, errors.New("the cluster secret is too short: use at least 16 characters, random ones")
	case c.Cluster != "" && len(c.Join) > 0:
		return c, errors.New("a member is either one of the first or joins a cluster: --initial-cluster or --join")
	}
	for _, f := range []etcd.Files{c.Files, c.PeerFiles} {
		if f != (etcd.Files{}) && (f.CA == "" || f.Cert == "" || f.Key == "") {
			return c, errors.New("mutual TLS needs a certificate authority, a certificate and a key")
		}
	}
	if c.Advertise == "" {
		c.Advertise = c.Address
	}
	if c.AdvertisePeer == "" {
		c.AdvertisePeer = c.PeerAddress
	}
	for _, a := range []string{c.Address, c.PeerAddress, c.Advertise, c.AdvertisePeer} {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return c, fmt.Errorf("address %q: want host:port", a)
		}
	}
	for _, a := range []string{c.Advertise, c.AdvertisePeer} {
		if host, _, _ := net.SplitHostPort(a); host == "" || net.ParseIP(host).IsUnspecified() {
			return c, fmt.Errorf("others cannot reach this member at %q: name what they can with --advertise and --advertise-peer", a)
		}
	}
	def := func(d *time.Duration, zero time.Duration) {
		if *d == 0 {
			*d = zero
		}
	}
	def(&c.Retention, 10*time.Minute)
	def(&c.Defragment, time.Hour)
	def(&c.Watch, 10*time.Second)
	def(&c.BackupEvery, time.Hour)
	if c.Quota <= 0 {
		c.Quota = 8 << 30
	}
	if c.DefragmentFrom <= 0 {
		c.DefragmentFrom = 64 << 20
	}
	if c.BackupKeep <= 0 {
		c.BackupKeep = 24
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
