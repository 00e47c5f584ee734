package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"kintsugi/cmd/internal/roles"
	"kintsugi/storagenode"
	"kintsugi/storagenode/node"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/tcp"
	"kintsugi/storagenode/vfs"
)

// nodeConfig is what the command line and the environment say.
type nodeConfig struct {
	address, adminAddress, advertise string
	name, zone                       string
	secretFile                       string
	join                             []string
	tls                              tlsFlags
	memory                           int64 // bytes for payloads in flight
	dirs                             []string
	logger                           *slog.Logger
}

func newStorageNode() *cobra.Command {
	var cfg nodeConfig
	var logLevel string
	memory := sizeFlag(256 << 20)
	c := &cobra.Command{
		Use:   "storagenode [flags] DIR...",
		Short: "Serve the drives of this machine to a cluster",
		Long: `Serves 1 to 32 drive directories of this machine to the gateways and repairers of
a cluster.

At the first start, with nothing but empty directories, the node asks the
repairers that --join names which cluster it is to join, for as long as it takes
until one knows; then it formats the directories and serves. From then on it
needs nobody to start: the drives say which cluster they are of. It goes on
telling the repairers that it is there, so that gateways find it.

Later, an empty directory is formatted too: in a known drive's place as that
drive's replacement, if it lies on the same file system as before, elsewhere as
a new drive. A directory that holds anything else, or belongs to another
cluster, is refused.

Every process of a cluster needs the cluster's secret (kintsugi secrets makes
one), which signs all traffic. Where others can read the network, use TLS as
well (kintsugi certs).

Every flag can be set as a variable: --admin-address as KINTSUGI_ADMIN_ADDRESS.
SIGTERM and Ctrl-C finish what is in flight and stop within 10 seconds.`,
		Example: `  export KINTSUGI_CLUSTER_SECRET_FILE=/etc/kintsugi/secrets/cluster/secret
  kintsugi storagenode --name n1 --zone rack1 --address 10.0.0.1:9100 \
    --join http://10.0.0.11:9200,http://10.0.0.12:9200 /mnt/disk1/kintsugi /mnt/disk2/kintsugi`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > node.MaxDrives {
				return fmt.Errorf("name 1 to %d drive directories, such as: kintsugi storagenode --join http://repairer:9200 /mnt/disk1/kintsugi (got %d)", node.MaxDrives, len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			cfg.dirs, cfg.memory = args, int64(memory)
			var err error
			if cfg.logger, err = newLogger(logLevel); err != nil {
				return err
			}
			return serveDrives(c.Context(), cfg, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.address, "address", "127.0.0.1:9100", "address where gateways and repairers reach the drives")
	f.StringVar(&cfg.advertise, "advertise", "", "URL that others are told for it (default: follows from --address)")
	f.StringVar(&cfg.name, "name", hostname(), "name of this node, unique in the cluster")
	f.StringVar(&cfg.zone, "zone", "", "failure domain of this node, such as its rack: shards are spread over zones")
	f.StringVar(&cfg.secretFile, "cluster-secret-file", "", "file with the cluster's secret (or KINTSUGI_CLUSTER_SECRET)")
	f.StringSliceVar(&cfg.join, "join", nil, "URLs of the repairers; may be given several times")
	f.StringVar(&cfg.adminAddress, "admin-address", "127.0.0.1:9101", "address of /live, and of metrics and profiles for who knows the cluster's secret as password")
	f.Var(&memory, "transfer-memory", "memory for payloads in flight; requests wait for it, then are refused")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	cfg.tls.add(f)
	fromEnvironment(c)
	return c
}

// serveDrives runs a storage node until ctx ends, then stops within stopTime.
func serveDrives(ctx context.Context, cfg nodeConfig, out io.Writer) error {
	secret, key, err := clusterSecretFrom(cfg.secretFile)
	if err != nil {
		return err
	}
	serving, calling, err := cfg.tls.load(ctx, cfg.logger)
	if err != nil {
		return err
	}
	repairers, err := announceTo(cfg.join, auth.NewTransport(key, rpc.NewTransport(calling), nil))
	if err != nil {
		return err
	}
	if cfg.name == "" {
		return errors.New("--name: this machine has no name; name the node")
	}
	tuneHeap(cfg.memory)
	front, err := listen("--address", cfg.address)
	if err != nil {
		return err
	}
	defer front.Close()
	front = tcp.Unpaced(front)
	if cfg.advertise == "" {
		cfg.advertise = advertised(front.Addr(), serving != nil)
	}
	if err := checkAdvertised(cfg.advertise); err != nil {
		return err
	}
	if onlyHere(cfg.advertise) && slices.ContainsFunc(cfg.join, func(r string) bool { return !onlyHere(r) }) {
		cfg.logger.Warn("others are told to reach this node at an address of this machine alone; set --address or --advertise", "advertise", cfg.advertise)
	}
	back, err := listen("--admin-address", cfg.adminAddress)
	if err != nil {
		return err
	}
	defer back.Close()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	window, serve := adminServer(back, newWindow(secret, promhttp.HandlerFor(registry, promhttp.HandlerOpts{})))
	go func() { _ = serve() }() // ends with Close
	defer window.Close()

	n, err := roles.OpenStorageNode(ctx, roles.StorageNodeConfig{
		FS: vfs.OS(), Dirs: cfg.dirs, Name: cfg.name, Zone: cfg.zone, Address: cfg.advertise, Version: version(),
		Key: key, Repairers: repairers, Logger: cfg.logger, Registerer: registry, Memory: cfg.memory,
	})
	switch {
	case errors.Is(err, roles.ErrNoRepairers):
		return fmt.Errorf("%w: name them with --join", err)
	case err != nil && ctx.Err() != nil:
		return nil // stopped while it waited for a cluster
	case err != nil:
		return err
	}
	server := &http.Server{Handler: tcp.Forsaking(n.Handler()), ErrorLog: slog.NewLogLogger(cfg.logger.Handler(), slog.LevelDebug)}
	rpc.Configure(server)
	if serving != nil {
		front = tcp.Listen(front, serving)
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(tcp.Bound(server, front, tcp.MaxConns())) }()
	fmt.Fprintf(out, "Kintsugi %s: node %s serves %d drives of cluster %s at %s\n", version(), cfg.name, len(cfg.dirs), n.Node.Cluster(), cfg.advertise)
	select {
	case <-ctx.Done():
		cfg.logger.Info("stopping", "drain", drainTime.String())
	case err = <-failed:
	}
	return errors.Join(err, stopNode(server, n))
}

// stopNode lets requests in flight end, then closes the drives.
func stopNode(server *http.Server, n *roles.StorageNode) error {
	n.Drain()
	defer drain(server)()
	return n.Close()
}

// announceTo makes the clients of the repairers.
func announceTo(addresses []string, transport *auth.Transport) ([]storagenode.Membership, error) {
	var all []storagenode.Membership
	for _, a := range addresses {
		c, err := rpc.NewClient(rpc.Config{Address: a, Transport: transport})
		if err != nil {
			return nil, fmt.Errorf("--join: %w", err)
		}
		all = append(all, c.Membership())
	}
	return all, nil
}

// advertised is the URL of a listener as others may reach it: where it listens
// at all addresses, by this machine's name.
func advertised(at net.Addr, secure bool) string {
	host, port, _ := net.SplitHostPort(at.String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = hostname()
	}
	scheme := "http"
	if secure {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// checkAdvertised refuses a URL at which nobody could reach anything.
func checkAdvertised(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || net.ParseIP(u.Hostname()).IsUnspecified() {
		return fmt.Errorf("--advertise %q: want a URL at which others reach this process, such as http://10.0.0.5:9100", address)
	}
	return nil
}

// onlyHere says that a URL is of the machine that uses it.
func onlyHere(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback())
}
