package roles

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/metadata/catalog"
	"kintsugi/metadata/kv"
	"kintsugi/repair"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// RepairerConfig is what a Repairer needs. KV and Drives must be set.
type RepairerConfig struct {
	KV     kv.Store
	Drives storagenode.Reporter
	Scheme erasure.Scheme // of groups; zero: by the number of failure domains
	// Address is where gateways find this process when it leads.
	Address string

	Clock          clock.Clock           // nil: the system's
	Logger         *slog.Logger          // nil: discards
	Registerer     prometheus.Registerer // nil: no metrics
	TransferMemory int64                 // bytes; 0: 256 MiB
	// Repair is taken over but for what this package sets itself.
	Repair repair.Config
}

// Repairer is a repairing process: it competes for the lease, and leads or
// stands by. It is the storagenode.Membership of the cluster.
type Repairer struct {
	*repair.Repairer
	Catalog *catalog.Catalog
	Stripes *stripe.Set
	cancel  context.CancelFunc
	done    chan struct{}
}

// OpenRepairer puts a repairer together and starts it. Close ends it.
func OpenRepairer(ctx context.Context, cfg RepairerConfig) (r *Repairer, err error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r = &Repairer{done: make(chan struct{})}
	r.Catalog, err = catalog.Open(ctx, catalog.Config{KV: cfg.KV, Drives: cfg.Drives, Scheme: cfg.Scheme, Clock: cfg.Clock, Logger: cfg.Logger})
	if err != nil {
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	r.Stripes = stripe.New(stripe.Config{
		Drives: cfg.Drives, Remote: true, Clock: cfg.Clock, Logger: cfg.Logger, Registerer: cfg.Registerer,
		MemoryBytes: cfg.TransferMemory,
		Damaged:     func(d stripe.Damage) { r.Notify(d) }, // nobody reads before it is there
	})
	rc := cfg.Repair
	rc.Blobs, rc.Groups, rc.Lookup, rc.Records, rc.Horizon, rc.Leaders = r.Catalog, r.Catalog, r.Catalog, r.Catalog, r.Catalog, r.Catalog
	rc.Nodes, rc.Foundation, rc.Switches, rc.Rounds = r.Catalog, r.Catalog, r.Catalog, r.Catalog
	rc.Stripes, rc.Drives, rc.AdminAddress = r.Stripes, cfg.Drives, cfg.Address
	rc.Clock, rc.Logger, rc.Registerer = cfg.Clock, cfg.Logger, cfg.Registerer
	if r.Repairer, err = repair.New(rc); err != nil {
		return nil, fmt.Errorf("open repairer: %w", err)
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	go func() {
		defer close(r.done)
		_ = r.Run(running) // ends with its context only
	}()
	return r, nil
}

// Close ends what is under way, gives the lease back and returns when all of
// it has ended.
func (r *Repairer) Close() {
	r.cancel()
	<-r.done
}
