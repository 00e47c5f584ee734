package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kintsugi/cmd/internal/embedded"
	"kintsugi/gateway"
	"kintsugi/gateway/console"
	"kintsugi/gateway/sigv4"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/vfs"
)

const (
	// drainTime is how long requests in flight may go on after SIGTERM.
	drainTime = 7 * time.Second
	// settleTime is how long what was cut off then may take to end.
	settleTime = time.Second
	// stopTime is when the process ends although something does not.
	stopTime = 10 * time.Second
)

// serve runs the store until ctx ends, then stops within stopTime.
func serve(ctx context.Context, cfg serverConfig, out io.Writer) error {
	tuneHeap(cfg.memory)
	tuneScheduler(len(cfg.dirs))
	secure, err := cfg.https.load(ctx, cfg.logger)
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

	failed := make(chan error, 2)
	front, users := serveS3(s3, secure, failed)
	defer users.Close()
	back, operators := serveAdmin(admin, secure, failed)
	defer operators.Close()
	front.say("the drives are being opened")
	back.say("the drives are being opened")

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	host, _ := os.Hostname() // a name for reports; none is fine
	store, err := embedded.Open(ctx, embedded.Config{
		FS: vfs.OS(), Dirs: cfg.dirs, Name: host, Scheme: cfg.scheme,
		AccessKey: cfg.credentials.AccessKey, SecretKey: cfg.credentials.SecretKey,
		Region: cfg.region, Domains: cfg.domains,
		Logger: cfg.logger, Registerer: registry, TransferMemory: cfg.memory, KeptMemory: cfg.kept, Founding: cfg.founding(),
	})
	if err != nil {
		return err
	}
	if cfg.credentialsMade { // not before: a start that is refused leaves nothing behind
		if err := cfg.credentials.keep(cfg.credentialsFile); err != nil {
			return errors.Join(err, store.Close())
		}
	}
	registry.MustRegister(rpc.DriveGauges(store.Node))
	front.open(store.Handler)
	back.open(newAdminAPI(cfg, store, registry))
	_, _ = io.WriteString(out, cfg.greeting(s3.Addr(), admin.Addr(), store.Node.Unusable()))

	select {
	case <-ctx.Done():
		cfg.logger.Info("stopping", "drain", drainTime.String())
	case err = <-failed:
	}
	return errors.Join(err, shutdown(users, operators, store))
}

// shutdown lets requests in flight end, then closes the store.
func shutdown(front, back *http.Server, store *embedded.Store) error {
	late := time.AfterFunc(stopTime, func() {
		exit("a drive does not let go; stopping all the same. Nothing acknowledged is lost.", 1)
	})
	defer late.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	_ = back.Close()
	if err := front.Shutdown(ctx); err != nil {
		_ = front.Close() // their clients see a cut connection
	}
	settle(store.Handler)
	return store.Close()
}

// settle gives what was cut off a moment to say what it leaves on drives.
func settle(front gateway.Front) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	front.Settle(ctx)
}

// tuneScheduler keeps drives from holding up the processors. The runtime counts
// a goroutine in an fdatasync as one that runs, until its monitor finds out, and
// with as few processors as a small machine has, nothing else runs meanwhile.
func tuneScheduler(drives int) {
	if n := runtime.GOMAXPROCS(0); os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(n + min(n, drives))
	}
}

func newAdminAPI(cfg serverConfig, store *embedded.Store, registry *prometheus.Registry) http.Handler {
	lookup := func(key string) (string, bool) { return cfg.credentials.SecretKey, key == cfg.credentials.AccessKey }
	return console.New(console.Config{
		Verifier: sigv4.New(sigv4.Config{Lookup: lookup, Service: console.Service, Region: cfg.region}),
		Lookup:   lookup,
		Metrics:  promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
		Routes:   append(embeddedAPI(store).routes(), console.Route{Method: "GET", Path: "/admin/v1/ready", Answer: placement(store.Catalog, store.Catalog, store.Node, cfg.scheme)}),
		Logger:   cfg.logger,
	})
}
