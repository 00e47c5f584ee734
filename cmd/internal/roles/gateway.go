package roles

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/gateway"
	"kintsugi/gateway/sigv4"
	"kintsugi/metadata/catalog"
	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// groupAge is how old a placement group may be by which a read begins: without
// it each read would ask the engine for one, over the network. A reader that
// finds slots moved asks at once.
const groupAge = time.Second

// GatewayConfig is what a Gateway needs. KV, Drives and the credentials must be
// set.
type GatewayConfig struct {
	KV     kv.Store
	Drives storagenode.Reporter
	// Scheme of new groups; zero: by the number of failure domains.
	Scheme erasure.Scheme

	AccessKey, SecretKey string // the root credentials
	Region               string
	Domains              []string // for virtual-host style

	// Damaged is told of shards that readers found missing or corrupt, Deleted
	// that deletes are owed; nil: nobody.
	Damaged func(stripe.Damage)
	Deleted func()

	Clock          clock.Clock           // nil: the system's
	Logger         *slog.Logger          // nil: discards
	Registerer     prometheus.Registerer // nil: no metrics
	TransferMemory int64                 // bytes; 0: 256 MiB
	KeptMemory     int64                 // what of it may hold what was read or written lately; 0: nothing
}

// Gateway is the S3 front of a cluster. It keeps nothing that counts: any
// request may go to any gateway.
type Gateway struct {
	Catalog *catalog.Catalog
	Stripes *stripe.Set
	// Handler is the S3 front.
	Handler gateway.Front
}

// OpenGateway puts a gateway together. Nothing of it needs to be closed but
// what it was given.
func OpenGateway(ctx context.Context, cfg GatewayConfig) (g *Gateway, err error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g = &Gateway{}
	g.Stripes = stripe.New(stripe.Config{
		Drives: cfg.Drives, Remote: true, Clock: cfg.Clock, Logger: cfg.Logger, Registerer: cfg.Registerer,
		MemoryBytes: cfg.TransferMemory, KeptBytes: cfg.KeptMemory, Damaged: cfg.Damaged,
	})
	ids := storagenode.NewBlobIDs(cfg.Clock.Now)
	g.Catalog, err = catalog.Open(ctx, catalog.Config{
		KV: cfg.KV, Drives: cfg.Drives, Scheme: cfg.Scheme, Clock: cfg.Clock, Logger: cfg.Logger, GroupAge: groupAge,
		Deleted: g.Stripes.Forget, Below: ids.Above,
	})
	if err != nil {
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	lookup := func(key string) (string, bool) { return cfg.SecretKey, key == cfg.AccessKey && key != "" }
	g.Handler = gateway.New(gateway.Config{
		Buckets: g.Catalog, Objects: g.Catalog, Uploads: g.Catalog, Placement: g.Catalog, Blobs: g.Stripes,
		Verifier: sigv4.New(sigv4.Config{Lookup: lookup, Region: cfg.Region, Now: cfg.Clock.Now}),
		BlobIDs:  ids,
		Domains:  cfg.Domains, Clock: cfg.Clock, Logger: cfg.Logger, Registerer: cfg.Registerer,
		Deleted: cfg.Deleted,
	})
	return g, nil
}
