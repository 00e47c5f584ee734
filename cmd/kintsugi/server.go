package main

import (
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kintsugi/erasure"
	"kintsugi/storagenode/node"
)

// serverConfig is what the command line and the environment say.
type serverConfig struct {
	address, adminAddress string
	scheme                erasure.Scheme
	domains               []string
	region                string
	credentials           credentials
	credentialsFile       string // where they came from, "" for the environment
	credentialsMade       bool
	anew                  bool // a new store is wanted, whatever was here before
	dirs                  []string
	logger                *slog.Logger
	memory, kept          int64 // bytes for transfers, and what of them may hold what was read or written
	warnings              []string
	https                 httpsFlags
}

func newServer() *cobra.Command {
	var cfg serverConfig
	var scheme, logLevel string
	var domains []string
	memory := newMemoryFlags()
	c := &cobra.Command{
		Use:   "server [flags] DIR...",
		Short: "Serve S3 from drive directories of this machine",
		Long: `Serves S3 from 1 to 32 drive directories, all in one process.

Empty directories are formatted when a cluster is created. Later, a directory
that was emptied is taken as a replaced drive, and everything that was on it is
rebuilt, if it lies on the same file system as before. A directory that holds
anything else, or belongs to another cluster, is refused.

The scheme k+m says how many of k+m shards may be lost: any m. Without --scheme
it follows from the number of directories: 1: 1+0, 2: 1+1, 3: 2+1, 4: 2+2,
5: 3+2, 6 and 7: 4+2, 8 to 11: 5+3, 12 and more: 8+4. It holds for what is
written from now on; what is there keeps the scheme it was written with.

The root credentials come from KINTSUGI_ROOT_ACCESS_KEY and
KINTSUGI_ROOT_SECRET_KEY (or …_FILE, naming files that hold them). Without them
the first start makes random ones in a file beside the first directory.

Every flag can be set as a variable: --admin-address as KINTSUGI_ADMIN_ADDRESS.
SIGTERM and Ctrl-C finish what is in flight and stop within 10 seconds.`,
		Example: `  kintsugi server data/d1 data/d2 data/d3 data/d4 data/d5 data/d6
  kintsugi server --scheme 8+4 --address 0.0.0.0:9000 /mnt/disk*/kintsugi`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > node.MaxDrives {
				return fmt.Errorf("name 1 to %d drive directories, such as: kintsugi server data/d1 data/d2 data/d3 (got %d)", node.MaxDrives, len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			cfg.dirs, cfg.domains, cfg.memory = args, domains, int64(memory.transfer)
			cfg.kept = memory.keeps(c)
			if err := cfg.complete(scheme, logLevel); err != nil {
				return err
			}
			return serve(c.Context(), cfg, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.address, "address", "127.0.0.1:9000", "address of S3")
	f.StringVar(&cfg.adminAddress, "admin-address", "127.0.0.1:9001", "address of the admin API and the metrics")
	f.StringVar(&scheme, "scheme", "", "erasure scheme k+m (default: by the number of directories)")
	f.StringSliceVar(&domains, "domain", nil, "domain whose subdomains are buckets (virtual-host style); may be given several times")
	f.StringVar(&cfg.region, "region", "us-east-1", "region that clients sign for")
	f.StringVar(&cfg.credentialsFile, "credentials-file", "", "where the first start keeps random credentials (default: kintsugi-credentials.json beside the first directory)")
	f.BoolVar(&cfg.anew, "new", false, "make a new store of empty directories although there are credentials of an earlier one")
	memory.add(f)
	cfg.https.add(f)
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	fromEnvironment(c)
	return c
}

// complete checks the flags and reads the credentials.
func (cfg *serverConfig) complete(scheme, logLevel string) error {
	var err error
	if cfg.logger, err = newLogger(logLevel); err != nil {
		return err
	}
	if cfg.memory < 32<<20 {
		return fmt.Errorf("--transfer-memory %s: want at least 32 MiB", formatSize(cfg.memory))
	}
	if err := cfg.chooseScheme(scheme); err != nil {
		return err
	}
	return cfg.findCredentials()
}

func (cfg *serverConfig) chooseScheme(text string) (err error) {
	n := len(cfg.dirs)
	cfg.scheme = erasure.DefaultScheme(n)
	if text != "" {
		if cfg.scheme, err = erasure.ParseScheme(text); err != nil {
			return err
		}
		if cfg.scheme.N() > n {
			return fmt.Errorf("scheme %s needs %d drive directories, %d are named", cfg.scheme, cfg.scheme.N(), n)
		}
	}
	if cfg.scheme.M == 0 {
		cfg.warnings = append(cfg.warnings, fmt.Sprintf("scheme %s: NO REDUNDANCY. The loss of one drive loses objects. Use at least two drive directories.", cfg.scheme))
	}
	return nil
}

func (cfg *serverConfig) findCredentials() (err error) {
	cfg.credentials, err = credentialsFromEnv()
	if err != errNoCredentials {
		cfg.credentialsFile = ""
		return err
	}
	if cfg.credentialsFile == "" {
		first, err := filepath.Abs(cfg.dirs[0])
		if err != nil {
			return err
		}
		cfg.credentialsFile = filepath.Join(filepath.Dir(first), credentialsName)
	}
	cfg.credentials, cfg.credentialsMade, err = loadCredentials(cfg.credentialsFile)
	return err
}

// founding is an error where empty directories are no new store: their disks may
// not be mounted, and a store without the objects would answer.
func (cfg *serverConfig) founding() error {
	if cfg.anew || cfg.credentialsMade || cfg.credentialsFile == "" {
		return nil
	}
	return fmt.Errorf("%w: all directories are empty, but %s is of an earlier start: mount their disks, or say --new for a new store in them", node.ErrRefused, cfg.credentialsFile)
}

// local is where a client on this machine finds what listens at a.
func local(a net.Addr) string {
	if t, ok := a.(*net.TCPAddr); ok && t.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(t.Port))
	}
	return a.String()
}

// greeting tells the user where everything is, which directories have no usable
// drive, and a line to paste.
func (cfg *serverConfig) greeting(s3At, adminAt net.Addr, unusable []string) string {
	s3, admin := cfg.https.scheme()+"://"+local(s3At), cfg.https.scheme()+"://"+local(adminAt)
	var b strings.Builder
	fmt.Fprintf(&b, "\nKintsugi %s\n\n", version())
	fmt.Fprintf(&b, "  S3 endpoint   %s\n", s3)
	fmt.Fprintf(&b, "  admin API     %s\n", admin)
	// Objects of an earlier start may have another scheme.
	loss := fmt.Sprintf("the loss of any %d", cfg.scheme.M)
	if cfg.scheme.M == 0 {
		loss = "no loss"
	}
	fmt.Fprintf(&b, "  drives        %d, scheme %s: new objects survive %s\n", len(cfg.dirs), cfg.scheme, loss)
	for _, u := range unusable {
		fmt.Fprintf(&b, "  WARNING       cannot be used now: %s\n", u)
	}
	for _, w := range cfg.warnings {
		fmt.Fprintf(&b, "\n  WARNING: %s\n", w)
	}
	if cfg.credentialsFile == "" {
		fmt.Fprintf(&b, "  credentials   from the environment (access key %s)\n\n", cfg.credentials.AccessKey)
		return b.String()
	}
	made := ""
	if cfg.credentialsMade {
		made = ", made just now"
	}
	fmt.Fprintf(&b, "  credentials   %s (readable by you alone%s)\n", cfg.credentialsFile, made)
	fmt.Fprintf(&b, "    access key  %s\n    secret key  %s\n\n", cfg.credentials.AccessKey, cfg.credentials.SecretKey)
	fmt.Fprintf(&b, "Paste this into another terminal to store and list a first object:\n\n")
	fmt.Fprintf(&b, "  export AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s AWS_DEFAULT_REGION=%s AWS_ENDPOINT_URL=%s; aws s3 mb s3://first; aws s3 cp %s s3://first/ && aws s3 ls s3://first\n\n",
		cfg.credentials.AccessKey, cfg.credentials.SecretKey, cfg.region, s3, "README.md")
	fmt.Fprintf(&b, "(An aws CLI older than 1.29 or 2.13 does not know AWS_ENDPOINT_URL: give it --endpoint-url %s.)\n\n", s3)
	fmt.Fprintf(&b, "For kintsugi admin and kintsugi bench:\n\n  export %s=%s %s=%s KINTSUGI_ADMIN_URL=%s\n\n",
		envAccessKey, cfg.credentials.AccessKey, envSecretKey, cfg.credentials.SecretKey, admin)
	return b.String()
}
