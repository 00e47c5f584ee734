package main

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kintsugi/metadata/kv/etcd"
	"kintsugi/metadata/kv/etcd/member"
)

func newMetadata() *cobra.Command {
	var cfg member.Config
	var adminAddress, logLevel, secretFile string
	quota := sizeFlag(8 << 30)
	c := &cobra.Command{
		Use:   "metadata",
		Short: "Run a member of the metadata cluster (etcd)",
		Long: `Runs one of the three or five members that hold the metadata of a cluster: an
etcd server that answers nobody without the cluster's secret.

Start all first members with the same --initial-cluster and the same secret in
KINTSUGI_CLUSTER_SECRET (or …_FILE); they begin when all of them are there.
Gateways and repairers with that secret then use
--metadata etcd://host1:2379,host2:2379,host3:2379.

To replace a member that is gone for good, remove it with
kintsugi admin metadata members remove ID, then start a new one with an empty
data directory and --join: it is a learner until it has caught up.

Members speak TLS among each other under an authority that follows from the
secret. Clients speak plain TCP with a password that follows from the secret;
where others can listen on the network, name certificates with --ca, --cert and
--key for mutual TLS.

SIGTERM and Ctrl-C hand leadership over and stop within 10 seconds.`,
		Example: `  export KINTSUGI_CLUSTER_SECRET_FILE=/etc/kintsugi/secrets/cluster/secret
  kintsugi metadata --name m1 --data-dir /var/lib/kintsugi-metadata --address 10.0.0.1:2379 --peer-address 10.0.0.1:2380 \
    --initial-cluster m1=10.0.0.1:2380,m2=10.0.0.2:2380,m3=10.0.0.3:2380`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			cfg.Quota = int64(quota)
			if cfg.Logger, err = newLogger(logLevel); err != nil {
				return err
			}
			if cfg.Secret, err = optionalSecret(secretFile); err != nil {
				return err
			}
			return runMember(c.Context(), cfg, adminAddress, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Name, "name", hostname(), "name of this member, unique in the cluster")
	f.StringVar(&cfg.Dir, "data-dir", "", "directory of this member's data (required)")
	f.StringVar(&cfg.Address, "address", "127.0.0.1:2379", "address for clients")
	f.StringVar(&cfg.PeerAddress, "peer-address", "127.0.0.1:2380", "address for the other members")
	f.StringVar(&cfg.Advertise, "advertise", "", "address at which clients reach this member (default: --address)")
	f.StringVar(&cfg.AdvertisePeer, "advertise-peer", "", "address at which members reach this one (default: --peer-address)")
	f.StringVar(&cfg.Cluster, "initial-cluster", "", "all first members with their peer addresses: name=host:port,… (default: this one alone)")
	f.StringSliceVar(&cfg.Join, "join", nil, "client addresses of the cluster that a new member joins, instead of --initial-cluster")
	f.StringVar(&secretFile, "cluster-secret-file", "", "file with the cluster's secret (or KINTSUGI_CLUSTER_SECRET)")
	f.StringVar(&cfg.Files.CA, "ca", "", "certificate authority that clients' certificates must come from, PEM")
	f.StringVar(&cfg.Files.Cert, "cert", "", "certificate for clients, PEM")
	f.StringVar(&cfg.Files.Key, "key", "", "its key, PEM")
	f.StringVar(&cfg.PeerFiles.CA, "peer-ca", "", "certificate authority of the members, PEM (default: one that follows from the secret)")
	f.StringVar(&cfg.PeerFiles.Cert, "peer-cert", "", "certificate for members, PEM")
	f.StringVar(&cfg.PeerFiles.Key, "peer-key", "", "its key, PEM")
	f.Var(&quota, "quota", "how large the database may become")
	f.DurationVar(&cfg.Retention, "retention", 10*time.Minute, "history kept for snapshots and long scans")
	f.DurationVar(&cfg.Defragment, "defragment-every", time.Hour, "how often to look whether defragmenting gains something; below 0: never")
	f.StringVar(&cfg.BackupDir, "snapshot-dir", "", "directory for snapshots, on another disk (default: none are made)")
	f.DurationVar(&cfg.BackupEvery, "snapshot-every", time.Hour, "time between snapshots")
	f.IntVar(&cfg.BackupKeep, "snapshot-keep", 24, "number of snapshots to keep")
	f.StringVar(&adminAddress, "admin-address", "", "address of /live, and of /metrics for who knows the cluster secret as password (default: none)")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	fromEnvironment(c)
	return c
}

// runMember runs a member until ctx ends or it fails.
func runMember(ctx context.Context, cfg member.Config, adminAddress string, out io.Writer) error {
	if cfg.Dir == "" {
		return errors.New("--data-dir: name the directory of this member's data")
	}
	if err := watchCert(ctx, cfg.Files.Cert, cfg.Files.Key, cfg.Logger); err != nil {
		return fmt.Errorf("--cert, --key: %w", err)
	}
	if err := watchCert(ctx, cfg.PeerFiles.Cert, cfg.PeerFiles.Key, cfg.Logger); err != nil {
		return fmt.Errorf("--peer-cert, --peer-key: %w", err)
	}
	admin := newDoor(adminClosed)
	admin.say("it starts, or waits for the other first members")
	if adminAddress != "" {
		l, err := listen("--admin-address", adminAddress)
		if err != nil {
			return err
		}
		back, serve := adminServer(l, memberHealth(admin))
		go func() { _ = serve() }() // ends with Close
		defer back.Close()
	}
	m, err := member.Start(ctx, cfg)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil // stopped while it waited for the others
	case err != nil:
		return err
	}
	admin.open(memberAdmin(m, cfg.Secret))
	select {
	case <-m.Ready():
		fmt.Fprintf(out, "Kintsugi %s: metadata member %s serves at %s\n", version(), cfg.Name, cfg.Address)
		select {
		case <-ctx.Done():
			cfg.Logger.Info("stopping")
		case err = <-m.Failed():
		}
	case <-ctx.Done():
	case err = <-m.Failed():
	}
	late := time.AfterFunc(stopTime, func() {
		exit("etcd does not stop; ending all the same. Nothing acknowledged is lost.", 1)
	})
	defer late.Stop()
	return errors.Join(err, m.Close())
}

// memberHealth answers /live at once, also before there is a member that could.
func memberHealth(d *door) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", d)
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, r *http.Request) {
		if !d.isOpen() {
			http.Error(w, "not live yet: "+d.reason(), http.StatusServiceUnavailable)
			return
		}
		d.ServeHTTP(w, r)
	})
	return mux
}

// memberAdmin answers /live to anybody, and etcd's metrics to who knows the
// cluster secret.
func memberAdmin(m *member.Member, secret string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, r *http.Request) {
		if err := m.Live(); err != nil {
			http.Error(w, "not live: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		live(w, r)
	})
	inside := &httputil.ReverseProxy{Transport: m.Inside(), Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "inside", "inside"
		r.Out.Header.Del("Authorization")
	}}
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		if secret == "" || subtle.ConstantTimeCompare([]byte(secret), []byte(password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="kintsugi"`)
			http.Error(w, "the password is the cluster secret", http.StatusUnauthorized)
			return
		}
		inside.ServeHTTP(w, r)
	})
	return mux
}

// optionalSecret reads the cluster's secret where one is named; certificates may
// stand in for it.
func optionalSecret(file string) (string, error) {
	if file == "" && os.Getenv(envClusterSecret) == "" && os.Getenv(envClusterSecret+"_FILE") == "" {
		return "", nil
	}
	secret, _, err := clusterSecretFrom(file)
	return secret, err
}

// metadataFlags say where the metadata of a cluster is. secretFile is the
// command's own flag.
type metadataFlags struct {
	url, secretFile string
	files           etcd.Files
}

func (f *metadataFlags) add(s *pflag.FlagSet) {
	s.StringVar(&f.url, "metadata", "", "where the metadata is: etcd://host1:2379,host2:2379,host3:2379/prefix")
	s.StringVar(&f.files.CA, "metadata-ca", "", "certificate authority of the metadata members, PEM")
	s.StringVar(&f.files.Cert, "metadata-cert", "", "certificate to show them, PEM")
	s.StringVar(&f.files.Key, "metadata-key", "", "its key, PEM")
}

// open connects. Address and files that no flag names come from the variables that
// gateways read, also for commands that know no others. The login comes from KINTSUGI_METADATA_USER and
// KINTSUGI_METADATA_PASSWORD, or follows from the cluster secret.
func (f *metadataFlags) open(ctx context.Context, log *slog.Logger) (*etcd.Store, error) {
	text := f.url
	if text == "" {
		text = os.Getenv("KINTSUGI_METADATA")
	}
	if text == "" {
		return nil, errors.New("name the metadata members: --metadata etcd://host1:2379,host2:2379,host3:2379")
	}
	files := f.files
	for flag, file := range map[string]*string{"metadata-ca": &files.CA, "metadata-cert": &files.Cert, "metadata-key": &files.Key} {
		*file = cmp.Or(*file, os.Getenv(variable(flag)))
	}
	cfg, err := etcd.ParseURL(text, files)
	if err != nil {
		return nil, err
	}
	cfg.Logger = log
	if cfg.User = os.Getenv("KINTSUGI_METADATA_USER"); cfg.User != "" {
		if cfg.Password, err = secretFromEnv("KINTSUGI_METADATA_PASSWORD"); err != nil {
			return nil, err
		}
		return etcd.Open(ctx, cfg)
	}
	secret, err := optionalSecret(f.secretFile)
	if err != nil {
		return nil, err
	}
	if secret != "" {
		cfg.User = etcd.RootUser
		if cfg.Password, err = etcd.RootPassword(secret); err != nil {
			return nil, err
		}
	}
	return etcd.Open(ctx, cfg)
}
