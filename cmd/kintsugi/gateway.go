package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"kintsugi/cmd/internal/roles"
	"kintsugi/gateway/console"
	"kintsugi/gateway/sigv4"
	"kintsugi/metadata"
	"kintsugi/storagenode/clock"
)

// gatewayConfig is what the command line says.
type gatewayConfig struct {
	cluster               clusterFlags
	address, adminAddress string
	region                string
	domains               []string
	credentials           credentials
	memory, kept          int64 // bytes
	https                 httpsFlags
}

func newGateway() *cobra.Command {
	var cfg gatewayConfig
	memory := newMemoryFlags()
	c := &cobra.Command{
		Use:   "gateway",
		Short: "Serve S3 in front of a cluster's storage nodes",
		Long: `Serves S3 for a cluster: the metadata is in etcd (kintsugi metadata, or one that
you run), the shards are on storage nodes, which the gateway finds through the
metadata. Run as many as you like; any request may go to any of them, and one
that dies takes nothing with it but what was in flight.

The root credentials come from KINTSUGI_ROOT_ACCESS_KEY and
KINTSUGI_ROOT_SECRET_KEY (or …_FILE), the cluster's secret from
KINTSUGI_CLUSTER_SECRET (or …_FILE): the same for all gateways.
kintsugi secrets makes them.

Every flag can be set as a variable: --admin-address as KINTSUGI_ADMIN_ADDRESS.
SIGTERM and Ctrl-C finish what is in flight and stop within 10 seconds.`,
		Example: `  kintsugi gateway --address 0.0.0.0:9000 --metadata etcd://m1:2379,m2:2379,m3:2379/kintsugi`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if cfg.memory = int64(memory.transfer); cfg.memory < 32<<20 {
				return fmt.Errorf("--transfer-memory %s: want at least 32 MiB", formatSize(cfg.memory))
			}
			cfg.kept = memory.keeps(c)
			if cfg.credentials, err = credentialsFromEnv(); err != nil {
				return err
			}
			return runGateway(c.Context(), cfg, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.address, "address", "127.0.0.1:9000", "address of S3")
	f.StringVar(&cfg.adminAddress, "admin-address", "127.0.0.1:9001", "address of the admin API and the metrics")
	f.StringSliceVar(&cfg.domains, "domain", nil, "domain whose subdomains are buckets (virtual-host style); may be given several times")
	f.StringVar(&cfg.region, "region", "us-east-1", "region that clients sign for")
	memory.add(f)
	cfg.https.add(f)
	cfg.cluster.add(f)
	fromEnvironment(c)
	return c
}

// runGateway serves until ctx ends.
func runGateway(ctx context.Context, cfg gatewayConfig, out io.Writer) error {
	tuneHeap(cfg.memory)
	log, err := newLogger(cfg.cluster.logLevel)
	if err != nil {
		return err
	}
	secure, err := cfg.https.load(ctx, log)
	if err != nil {
		return err
	}
	s3, err := listen("--address", cfg.address)
	if err != nil {
		return err
	}
	defer s3.Close()
	admin, err := listen("--admin-address", cfg.adminAddress)
	if err != nil {
		return err
	}
	defer admin.Close()
	failed := make(chan error, 3)
	front, users := serveS3(s3, secure, failed)
	defer users.Close()
	back, operators := serveAdmin(admin, secure, failed)
	defer operators.Close()
	waits := func(why string) {
		front.say(why)
		back.say(why)
	}

	waits("it waits for the metadata")
	peer, err := cfg.cluster.join(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	leader := &roles.Leader{Clock: clock.System{}}
	notices := roles.NewNotices(leader, peer.transport, peer.logger)
	g, err := roles.OpenGateway(ctx, roles.GatewayConfig{
		KV: peer.store, Drives: peer.fleet, Scheme: peer.scheme,
		AccessKey: cfg.credentials.AccessKey, SecretKey: cfg.credentials.SecretKey, Region: cfg.region, Domains: cfg.domains,
		Damaged: notices.Damaged, Deleted: notices.Deleted,
		Logger: peer.logger, Registerer: peer.registry, TransferMemory: cfg.memory, KeptMemory: cfg.kept,
	})
	if err != nil {
		return errors.Join(stopped(ctx, err), peer.close())
	}
	waits("it waits for a repairer to found the cluster, as it does when the first storage node comes")
	if err := awaitFounding(ctx, g.Catalog, peer.logger); err != nil {
		return errors.Join(stopped(ctx, err), peer.close())
	}
	leader.Leaders = g.Catalog
	telling, stopTelling := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTelling()
	go notices.Run(telling)

	defer peer.watchCluster(ctx, g.Catalog, failed)()
	front.open(g.Handler)
	back.open(cfg.adminAPI(peer, g, leader))
	fmt.Fprintf(out, "Kintsugi %s: gateway serves S3 at %[2]s://%[3]s, the admin API at %[2]s://%[4]s\n", version(), cfg.https.scheme(), s3.Addr(), admin.Addr())
	select {
	case <-ctx.Done():
		peer.logger.Info("stopping", "drain", drainTime.String())
	case err = <-failed:
	}
	_ = operators.Close()
	defer drain(users)()
	settle(g.Handler)
	return errors.Join(err, peer.close())
}

// awaitFounding waits until a repairer has founded the cluster. Before that, or
// under another prefix than that of the other processes, the metadata is empty:
// a gateway that served it would say of every object that it does not exist.
func awaitFounding(ctx context.Context, f metadata.Foundation, log *slog.Logger) error {
	var told reminder
	for {
		id, err := f.Cluster(ctx)
		if err == nil && !id.IsZero() {
			return nil
		}
		if told.due(time.Now(), err) {
			why := []any{}
			if err != nil {
				why = append(why, "err", err)
			}
			log.Warn("waiting for a repairer to found the cluster, as it does when the first storage node comes; if both run already, --metadata names another prefix than it does, or its log says why it founds none", why...)
		}
		select {
		case <-ctx.Done():
			return cmp.Or(err, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// adminAPI answers for placement itself, and takes all else to the leading
// repairer.
func (cfg *gatewayConfig) adminAPI(peer *clusterPeer, g *roles.Gateway, leader *roles.Leader) http.Handler {
	lookup := func(key string) (string, bool) { return cfg.credentials.SecretKey, key == cfg.credentials.AccessKey }
	return console.New(console.Config{
		Verifier: sigv4.New(sigv4.Config{Lookup: lookup, Service: console.Service, Region: cfg.region}),
		Lookup:   lookup,
		Metrics:  promhttp.HandlerFor(peer.registry, promhttp.HandlerOpts{}),
		Routes:   []console.Route{{Method: "GET", Path: "/admin/v1/ready", Answer: placement(g.Catalog, g.Catalog, peer.fleet, peer.scheme)}},
		Forward:  forward(leader, peer.transport, peer.logger),
		Logger:   peer.logger,
	})
}

type targetKey struct{}

// forward takes requests to the leading repairer.
func forward(leader *roles.Leader, transport http.RoundTripper, logger *slog.Logger) http.Handler {
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1, // progress comes line by line
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug), // of clients that go before the end
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(r.In.Context().Value(targetKey{}).(*url.URL))
			r.Out.Header = http.Header{}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			console.Fail(w, &console.Error{Status: http.StatusBadGateway, Message: "the leading repairer does not answer (another takes over within seconds; try again): " + err.Error()})
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		address, err := leader.Address(r.Context())
		if err != nil {
			console.Fail(w, &console.Error{Status: http.StatusServiceUnavailable, Message: err.Error()})
			return
		}
		target, err := url.Parse(address)
		if err != nil {
			console.Fail(w, err)
			return
		}
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), targetKey{}, target)))
	})
}
