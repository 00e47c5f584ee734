// Package embedded puts all roles together in one process: drives, metadata
// journal, catalog, stripes, repairer and S3 front. `kintsugi server` runs it
// on the machine's file system; the fault tests run the same on file systems
// that forget, fail and hang.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/gateway"
	"kintsugi/gateway/sigv4"
	"kintsugi/metadata/catalog"
	"kintsugi/metadata/kv/journal"
	"kintsugi/repair"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/node"
	"kintsugi/storagenode/segment"
	"kintsugi/storagenode/vfs"
)

// Config of a store in one process. FS, Dirs and Scheme are required.
type Config struct {
	FS     vfs.FS
	Dirs   []string
	Name   string // of the node, for reports
	Scheme erasure.Scheme

	AccessKey, SecretKey string // the root credentials
	Region               string
	Domains              []string // for virtual-host style

	Clock      clock.Clock           // nil: the system's
	Logger     *slog.Logger          // nil: discards
	Registerer prometheus.Registerer // nil: no metrics

	// Founding is why directories that are all empty must not become a new store;
	// nil: they may.
	Founding error
	// TransferMemory bounds the buffers of stripes in flight, in bytes; 0: 256 MiB.
	TransferMemory int64
	// KeptMemory is how much of it may hold what was read or written lately, in
	// bytes; 0: none.
	KeptMemory int64
	// SegmentSize in bytes; 0: by the size of the drives.
	SegmentSize int64
	// Grace is how long deleted blobs stay readable for readers in flight;
	// 0: 1 h, below 0: not at all.
	Grace time.Duration
	// Poll is how often drives are looked at; 0: 2 s.
	Poll time.Duration
	// LogSize and SnapshotAfter are the journal's; 0: by the size of the drives.
	LogSize, SnapshotAfter int64
	// Repair is taken over but for what this package sets itself.
	Repair repair.Config
}

// join refuses for a node that there is a cluster to be founded.
func (cfg *Config) join() func(context.Context) (storagenode.UUID, []storagenode.KnownDrive, error) {
	if cfg.Founding == nil {
		return nil
	}
	return func(context.Context) (storagenode.UUID, []storagenode.KnownDrive, error) {
		return storagenode.UUID{}, nil, cfg.Founding
	}
}

// indexCache is the block cache of all indexes and of the metadata, in bytes.
// Pebble takes its memtables off it, up to 80 MiB with six drives; what is left
// fills as blocks are read.
const indexCache = 192 << 20

// Store is a running store.
type Store struct {
	cfg      Config
	Node     *node.Node
	Journal  *journal.Store
	Catalog  *catalog.Catalog
	Stripes  *stripe.Set
	Repairer *repair.Repairer
	// Handler is the S3 front.
	Handler gateway.Front

	ids      *storagenode.BlobIDs
	cache    *pebble.Cache
	engine   atomic.Pointer[journal.Store]   // told of drives' changes
	repairer atomic.Pointer[repair.Repairer] // told of damage
	cancel   context.CancelFunc
	done     chan struct{}
}

// Open opens drives, metadata and front, and starts the repairer. Close ends
// it. Errors wrap node.ErrRefused where a directory must not be used.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: cfg, cache: pebble.NewCache(indexCache), done: make(chan struct{})}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if err := s.openNode(ctx); err != nil {
		return err
	}
	if err := s.openJournal(ctx); err != nil {
		return err
	}
	s.Stripes = stripe.New(stripe.Config{
		Drives: s.Node, Clock: s.cfg.Clock, Logger: s.cfg.Logger, Registerer: s.cfg.Registerer,
		MemoryBytes: s.cfg.TransferMemory, KeptBytes: s.cfg.KeptMemory,
		Damaged: s.notify,
	})
	s.ids = storagenode.NewBlobIDs(s.cfg.Clock.Now)
	s.Catalog, err = catalog.Open(ctx, catalog.Config{
		KV: s.Journal, Drives: s.Node, Scheme: s.cfg.Scheme, Clock: s.cfg.Clock, Logger: s.cfg.Logger,
		Deleted: s.Stripes.Forget, Below: s.ids.Above,
	})
	if err != nil {
		return fmt.Errorf("open catalog: %w", err)
	}
	if err := s.openRepairer(); err != nil {
		return err
	}
	s.openGateway()
	return nil
}

func (s *Store) openNode(ctx context.Context) (err error) {
	s.Node, err = node.Open(ctx, node.Config{
		FS: s.cfg.FS, Dirs: s.cfg.Dirs, Name: s.cfg.Name, Clock: s.cfg.Clock, Logger: s.cfg.Logger, Poll: s.cfg.Poll,
		Changed: s.driveChanged, Join: s.cfg.join(), Spare: int(s.cfg.Scheme.M),
		Open: func(ctx context.Context, fs vfs.FS, dir string, id node.Identity) (storagenode.Drive, error) {
			return segment.Open(ctx, segment.Config{
				FS: fs, Dir: dir, Cluster: id.Cluster, Drive: id.Drive, Clock: s.cfg.Clock, Logger: s.cfg.Logger,
				Cache: s.cache, SegmentSize: s.cfg.SegmentSize, Grace: s.cfg.Grace,
				TrustSums: true, // they were made in this process
				Damaged: func(id storagenode.ShardID, err error) {
					s.notify(stripe.Damage{PG: id.PG, Slot: int(id.Slot), Blob: id.Blob, Err: err})
				},
			})
		},
	})
	return err
}

// driveChanged passes a drive's state on to the journal.
func (s *Store) driveChanged(d storagenode.DriveReport) {
	engine := s.engine.Load()
	if engine == nil {
		return // it is told which drives are unusable when it opens
	}
	switch d.State {
	case storagenode.DriveActive:
		engine.Replace(journal.Member{ID: d.ID, Dir: d.Dir}) // disks move
		engine.SetUsable(d.ID, true)
	case storagenode.DriveDown, storagenode.DriveBroken:
		engine.SetUsable(d.ID, false)
	}
}

// notify passes a claim of damage on to the repairer, once there is one.
func (s *Store) notify(d stripe.Damage) {
	if r := s.repairer.Load(); r != nil {
		r.Notify(d)
	}
}

func (s *Store) openJournal(ctx context.Context) (err error) {
	var drives []journal.Member
	var unusable []storagenode.DriveID
	for _, d := range s.Node.Reports() {
		drives = append(drives, journal.Member{ID: d.ID, Dir: d.Dir})
		if d.State != storagenode.DriveActive {
			unusable = append(unusable, d.ID)
		}
	}
	founding := s.Node.Founding()
	s.Journal, err = journal.Open(ctx, journal.Config{
		FS: s.cfg.FS, Cluster: s.Node.Cluster(), Drives: drives, Unusable: unusable, Tolerance: int(s.cfg.Scheme.M),
		Whose: node.Whose, Format: founding, Clock: s.cfg.Clock, Logger: s.cfg.Logger, Cache: s.cache,
		LogSize: s.cfg.LogSize, SnapshotAfter: s.cfg.SnapshotAfter,
	})
	switch away := strings.Join(s.Node.Unusable(), "\n  "); {
	case err != nil && away != "" && len(unusable) == len(drives):
		return fmt.Errorf("no drive can be used:\n  %s", away)
	case err != nil && away != "":
		return fmt.Errorf("open metadata: %w\nwithout a usable drive are:\n  %s", err, away)
	}
	if err != nil {
		return fmt.Errorf("open metadata: %w", err)
	}
	s.engine.Store(s.Journal)
	s.Node.Tell() // what changed meanwhile
	if founding {
		return s.Node.Founded()
	}
	return nil
}

// tenant is the journal, as the repairer sees it.
type tenant struct{ s *Store }

// Leave implements repair.Tenant.
func (t tenant) Leave(id storagenode.DriveID, leaves bool) bool {
	t.s.Journal.SetLeaving(id, leaves)
	return slices.Contains(t.s.Journal.Status().Left, id)
}

func (s *Store) openRepairer() (err error) {
	cfg := s.cfg.Repair
	cfg.Blobs, cfg.Groups, cfg.Lookup, cfg.Records, cfg.Horizon = s.Catalog, s.Catalog, s.Catalog, s.Catalog, s.Catalog
	cfg.Leaders, cfg.Sole = s.Catalog, true // the journal's drives are locked
	cfg.Nodes, cfg.Foundation, cfg.Switches, cfg.Cluster = s.Catalog, s.Catalog, s.Catalog, s.Node.Cluster()
	cfg.Rounds = s.Catalog
	cfg.Stripes, cfg.Drives, cfg.Tenant = s.Stripes, s.Node, tenant{s}
	cfg.Clock, cfg.Logger, cfg.Registerer = s.cfg.Clock, s.cfg.Logger, s.cfg.Registerer
	if s.Repairer, err = repair.New(cfg); err != nil {
		return fmt.Errorf("open repairer: %w", err)
	}
	s.repairer.Store(s.Repairer)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go func() {
		defer close(s.done)
		_ = s.Repairer.Run(ctx) // ends with ctx only
	}()
	return nil
}

func (s *Store) openGateway() {
	lookup := func(key string) (string, bool) { return s.cfg.SecretKey, key == s.cfg.AccessKey && key != "" }
	s.Handler = gateway.New(gateway.Config{
		Buckets: s.Catalog, Objects: s.Catalog, Uploads: s.Catalog, Placement: s.Catalog, Blobs: s.Stripes,
		Verifier: sigv4.New(sigv4.Config{Lookup: lookup, Region: s.cfg.Region, Now: s.cfg.Clock.Now}),
		BlobIDs:  s.ids,
		Domains:  s.cfg.Domains, Clock: s.cfg.Clock, Logger: s.cfg.Logger, Registerer: s.cfg.Registerer,
		Deleted: s.Repairer.Kick,
	})
}

// Close ends the repairer, then closes metadata and drives. What is in flight
// in Handler must have ended.
func (s *Store) Close() error {
	if s.cancel != nil {
		s.cancel()
		<-s.done
	}
	var errs []error
	if s.Journal != nil {
		s.engine.Store(nil)
		errs = append(errs, s.Journal.Close())
	}
	if s.Node != nil {
		errs = append(errs, s.Node.Close())
	}
	s.cache.Unref()
	return errors.Join(errs...)
}
