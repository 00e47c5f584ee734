package main

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"os"

	"github.com/spf13/pflag"

	"kintsugi/storagenode/rpc/auth"
)

const envClusterSecret = "KINTSUGI_CLUSTER_SECRET"

// clusterSecretFrom reads the secret that the processes of a cluster know each
// other by: from the file a flag names, or from the environment. Without one no
// process of a cluster starts.
func clusterSecretFrom(file string) (string, *auth.Key, error) {
	secret, err := "", error(nil)
	switch {
	case file == "":
		secret, err = secretFromEnv(envClusterSecret)
	case os.Getenv(envClusterSecret) != "":
		err = fmt.Errorf("%s and a file with the cluster's secret are both named; name one", envClusterSecret)
	default:
		secret, err = readSecret(file)
	}
	switch {
	case err != nil:
		return "", nil, fmt.Errorf("the cluster's secret: %w", err)
	case secret == "":
		return "", nil, fmt.Errorf("no cluster secret: set --cluster-secret-file, %s or %s_FILE; to make one: kintsugi secrets DIR", envClusterSecret, envClusterSecret)
	}
	key, err := auth.NewKey([]byte(secret))
	return secret, key, err
}

func hostname() string {
	name, _ := os.Hostname() // without one, --name must say it
	return name
}

// tlsFlags name the files of mutual TLS between processes: all of them, or none.
type tlsFlags struct{ cert, key, ca string }

func (t *tlsFlags) add(f *pflag.FlagSet) {
	f.StringVar(&t.cert, "tls-cert", "", "certificate of this process, PEM; with it all traffic between processes is TLS (see kintsugi certs)")
	f.StringVar(&t.key, "tls-key", "", "its key, PEM")
	f.StringVar(&t.ca, "tls-ca", "", "authority that the other processes' certificates must come from, PEM")
}

func (t *tlsFlags) on() bool { return *t != tlsFlags{} }

// load gives the configurations for serving and for calling others; nil
// without TLS. Both sides show certificates, which are looked after until ctx ends.
func (t *tlsFlags) load(ctx context.Context, log *slog.Logger) (server, client *tls.Config, err error) {
	switch {
	case !t.on():
		return nil, nil, nil
	case t.cert == "", t.key == "", t.ca == "":
		return nil, nil, errors.New("--tls-cert, --tls-key and --tls-ca: name all three, or none")
	}
	cert, err := openCert(ctx, t.cert, t.key, log)
	if err != nil {
		return nil, nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	text, err := os.ReadFile(t.ca)
	if err != nil {
		return nil, nil, fmt.Errorf("--tls-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, nil, fmt.Errorf("--tls-ca %s: no certificate in it", t.ca)
	}
	server = &tls.Config{GetCertificate: cert.served, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
	return server, &tls.Config{GetClientCertificate: cert.shown, RootCAs: pool, MinVersion: tls.VersionTLS13}, nil
}

// newWindow is the admin address of a process that has no users: /live for
// anybody; metrics and profiles for whoever has the cluster's secret, as the
// password of HTTP basic authentication.
func newWindow(secret string, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", live)
	for path, h := range map[string]http.HandlerFunc{
		"/metrics": metrics.ServeHTTP, "/debug/pprof/": pprof.Index, "/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/trace": pprof.Trace, "/debug/pprof/cmdline": pprof.Cmdline, "/debug/pprof/symbol": pprof.Symbol,
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			_, password, _ := r.BasicAuth()
			if secret == "" || subtle.ConstantTimeCompare([]byte(secret), []byte(password)) != 1 {
				w.Header().Set("WWW-Authenticate", `Basic realm="kintsugi"`)
				http.Error(w, "the password is the cluster's secret", http.StatusUnauthorized)
				return
			}
			h(w, r)
		})
	}
	return mux
}
