package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"kintsugi/cmd/internal/roles"
	"kintsugi/repair"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/tcp"
)

// repairerConfig is what the command line says.
type repairerConfig struct {
	cluster                          clusterFlags
	address, adminAddress, advertise string
	rate                             sizeFlag
	repair                           repair.Config
}

func newRepairer() *cobra.Command {
	var cfg repairerConfig
	c := &cobra.Command{
		Use:   "repair",
		Short: "Watch a cluster's nodes and repair what is lost",
		Long: `Takes the announcements of storage nodes, notices drives and nodes that are gone,
maps their slots to others, rebuilds what is missing, scrubs, and carries out
deletes. Run two or more: one leads, the others stand by and take over within
seconds. What a former leader does too late is refused.

The leader founds the cluster for the first storage node that comes. Where a node
has drives of one already, its metadata must be elsewhere, and none is founded.
The cluster's secret comes from KINTSUGI_CLUSTER_SECRET (or …_FILE).

Every flag can be set as a variable: --admin-address as KINTSUGI_ADMIN_ADDRESS.
SIGTERM and Ctrl-C finish what is in flight and stop within 10 seconds.`,
		Example: `  kintsugi repair --address 0.0.0.0:9200 --advertise http://r1:9200 --metadata etcd://m1:2379,m2:2379,m3:2379/kintsugi`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg.repair.BytesPerSecond = int64(cfg.rate)
			return runRepairer(c.Context(), cfg, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.address, "address", "127.0.0.1:9200", "address for the other processes of the cluster")
	f.StringVar(&cfg.advertise, "advertise", "", "URL at which they reach this one (default: follows from --address)")
	f.StringVar(&cfg.adminAddress, "admin-address", "127.0.0.1:9201", "address of /live, and of metrics and profiles for who has the cluster's secret")
	f.DurationVar(&cfg.repair.OutAfter, "out-after", 10*time.Minute, "how long a drive may be away before what was on it is rebuilt elsewhere, or be too full for what a slot lacks before that slot moves")
	f.DurationVar(&cfg.repair.Lease, "lease", 10*time.Second, "how long the leader may be silent before another takes over")
	f.Var(&cfg.rate, "repair-rate", "bytes per second that repair writes to one drive at most; 0: no limit")
	cfg.cluster.add(f)
	fromEnvironment(c)
	return c
}

// runRepairer repairs until ctx ends.
func runRepairer(ctx context.Context, cfg repairerConfig, out io.Writer) error {
	tuneHeap(256 << 20)
	inside, err := listen("--address", cfg.address)
	if err != nil {
		return err
	}
	defer inside.Close()
	window, err := listen("--admin-address", cfg.adminAddress)
	if err != nil {
		return err
	}
	defer window.Close()
	if cfg.advertise == "" {
		cfg.advertise = advertised(inside.Addr(), cfg.cluster.tls.on())
	}
	if err := checkAdvertised(cfg.advertise); err != nil {
		return err
	}
	failed := make(chan error, 3)
	door, back := serveAdmin(window, nil, failed)
	defer back.Close()
	door.say("it waits for the metadata")
	peer, err := cfg.cluster.join(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	r, err := roles.OpenRepairer(ctx, roles.RepairerConfig{
		KV: peer.store, Drives: peer.fleet, Scheme: peer.scheme, Address: cfg.advertise,
		Logger: peer.logger, Registerer: peer.registry, Repair: cfg.repair,
	})
	if err != nil {
		return errors.Join(stopped(ctx, err), peer.close())
	}
	front := &http.Server{Handler: tcp.Forsaking(auth.NewGuard(auth.GuardConfig{Key: peer.key}).Wrap(repairerRoutes(r, peer))), TLSConfig: peer.serverTLS}
	rpc.Configure(front)
	door.open(newWindow(peer.secret, promhttp.HandlerFor(peer.registry, promhttp.HandlerOpts{})))
	inside = tcp.Bound(front, inside, tcp.MaxConns())
	go func() {
		if peer.serverTLS != nil {
			failed <- front.ServeTLS(inside, "", "")
			return
		}
		failed <- front.Serve(inside)
	}()
	defer peer.watchCluster(ctx, r.Catalog, failed)()
	fmt.Fprintf(out, "Kintsugi %s: repairer at %s\n", version(), cfg.advertise)
	select {
	case <-ctx.Done():
		peer.logger.Info("stopping")
	case err = <-failed:
	}
	_ = back.Close()

	defer drain(front)()
	r.Close()
	return errors.Join(err, peer.close())
}

// repairerRoutes are all that a repairer answers, to the processes of its
// cluster alone.
func repairerRoutes(r *roles.Repairer, peer *clusterPeer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(rpc.AnnouncePath, rpc.NewMembershipHandler(r))
	mux.HandleFunc("POST "+roles.NoticesPath, roles.TakeNotices(r.Repairer))
	api := &adminAPI{
		repairer: r.Repairer, catalog: r.Catalog, drives: peer.fleet, look: peer.fleet.Look, nodes: peer.fleet.Nodes,
		replace: func(ctx context.Context, place string) error {
			node, dir, ok := strings.Cut(place, ":")
			if !ok {
				return errors.New("name the node, too: kintsugi admin drives replace NODE:DIR")
			}
			return peer.fleet.Replace(ctx, node, dir)
		},
		metadata: peer.metadataStatus(),
	}
	for _, route := range api.routes() {
		mux.HandleFunc(route.Method+" "+route.Path, route.Serve(peer.logger))
	}
	return mux
}
