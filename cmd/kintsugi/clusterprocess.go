package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/pflag"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/catalog"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/etcd"
	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/rpc/auth"
)

// clusterFlags are common to the processes that use the metadata of a cluster:
// gateways and repairers.
type clusterFlags struct {
	metadata         metadataFlags
	logLevel, scheme string
	tls              tlsFlags
}

func (f *clusterFlags) add(s *pflag.FlagSet) {
	f.metadata.add(s)
	f.tls.add(s)
	s.StringVar(&f.metadata.secretFile, "cluster-secret-file", "", "file with the cluster's secret (or "+envClusterSecret+")")
	s.StringVar(&f.scheme, "scheme", "", "erasure scheme k+m of new objects; the same for all processes (default: by the number of failure domains)")
	s.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
}

// clusterPeer is what such a process has of its cluster.
type clusterPeer struct {
	logger    *slog.Logger
	secret    string
	key       *auth.Key
	serverTLS *tls.Config // nil: plain HTTP
	transport *auth.Transport
	scheme    erasure.Scheme
	registry  *prometheus.Registry
	store     *etcd.Store
	fleet     *rpc.Fleet
}

// join reads the flags, opens the metadata and begins to watch the nodes. It
// waits for the metadata as long as ctx lets it. Close ends it.
func (f *clusterFlags) join(ctx context.Context) (p *clusterPeer, err error) {
	p = &clusterPeer{registry: prometheus.NewRegistry()}
	if p.logger, err = newLogger(f.logLevel); err != nil {
		return nil, err
	}
	if p.secret, p.key, err = clusterSecretFrom(f.metadata.secretFile); err != nil {
		return nil, err
	}
	if f.scheme != "" {
		if p.scheme, err = erasure.ParseScheme(f.scheme); err != nil {
			return nil, err
		}
	}
	var clientTLS *tls.Config
	if p.serverTLS, clientTLS, err = f.tls.load(ctx, p.logger); err != nil {
		return nil, err
	}
	if shown := f.metadata.files; shown.Cert != f.tls.cert { // which is told of already
		if err := watchCert(ctx, shown.Cert, shown.Key, p.logger); err != nil {
			return nil, fmt.Errorf("--metadata-cert, --metadata-key: %w", err)
		}
	}
	p.transport = auth.NewTransport(p.key, rpc.NewTransport(clientTLS), nil)
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if p.store, err = f.metadata.await(ctx, p.logger); err != nil {
		return nil, err
	}
	if err := p.watch(ctx); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// reminder says when the log is to be told of a wait that goes on: at once, each
// minute, and, ten seconds later at the earliest, when it is for another reason.
type reminder struct {
	why  string
	told time.Time
}

func (r *reminder) due(now time.Time, err error) bool {
	why, since := fmt.Sprint(err), now.Sub(r.told)
	if since < 10*time.Second || since < time.Minute && why == r.why {
		return false
	}
	r.why, r.told = why, now
	return true
}

// await opens the metadata, again and again while it cannot be had.
func (f *metadataFlags) await(ctx context.Context, log *slog.Logger) (*etcd.Store, error) {
	var told reminder
	for {
		s, err := f.open(ctx, log)
		if err == nil || !errors.Is(err, kv.ErrUnavailable) {
			return s, err
		}
		if told.due(time.Now(), err) {
			log.Warn("waiting for the metadata", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Second):
		}
	}
}

// watch begins to poll the nodes that metadata knows.
func (p *clusterPeer) watch(ctx context.Context) error {
	var nodes *catalog.Catalog
	var err error
	var told reminder
	for {
		if nodes, err = catalog.Open(ctx, catalog.Config{KV: p.store, Logger: p.logger}); err == nil {
			break
		}
		if told.due(time.Now(), err) {
			p.logger.Warn("waiting for the metadata", "err", err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
	p.fleet, err = rpc.OpenFleet(ctx, rpc.FleetConfig{
		Transport: p.transport, Logger: p.logger, Founded: nodes.Cluster,
		Nodes: func(ctx context.Context) ([]string, error) {
			list, err := nodes.ListNodes(ctx)
			var addresses []string
			for _, n := range list {
				addresses = append(addresses, n.Address)
			}
			return addresses, err
		},
	})
	return err
}

// errMetadataLost: a process that went on would say of every object that it does
// not exist.
var errMetadataLost = errors.New("the metadata is of another cluster than a moment ago, or of none: is the disk of a metadata member not mounted? Until it is, this process does not serve")

// watchCluster returns errMetadataLost once the metadata is not any more of the
// cluster that it was of; nil when ctx ends.
func watchCluster(ctx context.Context, f metadata.Foundation, every time.Duration) error {
	var ours storagenode.UUID
	for {
		id, err := f.Cluster(ctx)
		switch {
		case err != nil: // it does not answer, which is no news
		case ours.IsZero():
			ours = id
		case id != ours:
			return fmt.Errorf("%w (was %s, is %s)", errMetadataLost, ours, id)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}

// watchCluster has failed told when the metadata is not the cluster's any more,
// until stop is called.
func (p *clusterPeer) watchCluster(ctx context.Context, f metadata.Foundation, failed chan<- error) (stop func()) {
	ctx, stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		if err := watchCluster(ctx, f, 2*time.Second); err != nil {
			failed <- err
		}
	}()
	return stop
}

func (p *clusterPeer) close() error {
	var errs []error
	if p.fleet != nil {
		errs = append(errs, p.fleet.Close())
	}
	return errors.Join(append(errs, p.store.Close())...)
}

// metadataStatus says how the members are; it asks them at most every 3 s.
func (p *clusterPeer) metadataStatus() func() metadataStatus {
	var mu sync.Mutex
	var last metadataStatus
	var at time.Time
	return func() metadataStatus {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(at) < 3*time.Second {
			return last
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		members, err := p.store.Members(ctx)
		last, at = describeMembers(members, err), time.Now()
		return last
	}
}

func describeMembers(members []etcd.Member, err error) metadataStatus {
	st := metadataStatus{Engine: "etcd"}
	if err != nil {
		st.Summary, st.Degraded = "members cannot be asked", err.Error()
		return st
	}
	healthy := 0
	for _, m := range members {
		if m.Healthy {
			healthy++
		}
	}
	st.Summary = fmt.Sprintf("%d of %d members healthy", healthy, len(members))
	if healthy < len(members) {
		st.Degraded = fmt.Sprintf("%d of %d metadata members do not answer: kintsugi admin metadata members", len(members)-healthy, len(members))
	}
	return st
}

// stopped is nothing where ctx has ended: a process that is told to stop while it
// waits does so without an error.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// drain ends servers: what is in flight may go on for drainTime, and the
// process ends after stopTime whatever happens.
func drain(servers ...*http.Server) (done func()) {
	late := time.AfterFunc(stopTime, func() {
		exit("something does not let go; stopping all the same. Nothing acknowledged is lost.", 1)
	})
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range servers {
		all.Go(func() {
			if s.Shutdown(ctx) != nil {
				_ = s.Close() // their clients see a cut connection
			}
		})
	}
	all.Wait()
	return func() { late.Stop() }
}
