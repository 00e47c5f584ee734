package roles

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/node"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/segment"
	"kintsugi/storagenode/vfs"
)

const (
	// announceEvery is the time between two announcements to a repairer, where
	// StorageNodeConfig does not say another.
	announceEvery = 3 * time.Second
	// announceTime is how long one may take.
	announceTime = 3 * time.Second
	// cachePerDrive is what each drive adds to the cache that the indexes
	// share; Pebble takes its memtables off it.
	cachePerDrive = 32 << 20
)

// ErrNoRepairers: a node none of whose directories is a drive yet has nobody
// to ask for its cluster.
var ErrNoRepairers = errors.New("no directory is a drive yet, and no repairer is named that would say which cluster to join")

// StorageNodeConfig is what a StorageNode needs. FS, Dirs, Name, Address and
// Key must be set.
type StorageNodeConfig struct {
	FS   vfs.FS
	Dirs []string
	// Name is unique in the cluster; Zone is the failure domain above it, ""
	// for none; Address is the base URL where others reach the Handler.
	Name, Zone, Address string
	Version             string
	Key                 *auth.Key
	// Repairers are told of the node, again and again.
	Repairers []storagenode.Membership

	Clock  clock.Clock  // nil: the system's
	Logger *slog.Logger // nil: discards
	// Registerer gets the metrics; nil: nobody.
	Registerer prometheus.Registerer
	// SegmentSize in bytes; 0: by the size of the drives.
	SegmentSize int64
	// Grace is how long deleted blobs stay readable; 0: 1 h, below 0: not at all.
	Grace time.Duration
	// Poll is how often drives are looked at; 0: 2 s.
	Poll time.Duration
	// Announce is the time between two announcements to a repairer; 0: 3 s.
	Announce time.Duration
	// Memory bounds the payloads in flight, in bytes; 0: 256 MiB.
	Memory int64
}

// StorageNode serves the drives of one process.
type StorageNode struct {
	cfg    StorageNodeConfig
	Node   *node.Node
	cache  *pebble.Cache
	server *rpc.Server
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	claims []storagenode.ShardClaim // guarded by mu: what no leader has heard of
}

// OpenStorageNode opens the drives, formats those that are to be, and begins
// to announce itself. Where none is a drive yet it first asks the repairers for
// the cluster, for as long as ctx lets it. Close ends it. Errors wrap
// node.ErrRefused where a directory must not be used.
func OpenStorageNode(ctx context.Context, cfg StorageNodeConfig) (*StorageNode, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Announce <= 0 {
		cfg.Announce = announceEvery
	}
	s := &StorageNode{cfg: cfg, cache: pebble.NewCache(int64(len(cfg.Dirs)) * cachePerDrive)}
	var err error
	s.Node, err = node.Open(ctx, node.Config{
		FS: cfg.FS, Dirs: cfg.Dirs, Name: cfg.Name, Zone: cfg.Zone, Clock: cfg.Clock, Logger: cfg.Logger, Poll: cfg.Poll,
		Join: s.join, Open: s.openDrive, Spare: len(cfg.Dirs) - 1,
	})
	if err != nil {
		s.cache.Unref()
		return nil, err
	}
	s.server = rpc.NewServer(rpc.ServerConfig{
		Drives: s.Node, Guard: auth.NewGuard(auth.GuardConfig{Key: cfg.Key, Clock: cfg.Clock}),
		Cluster: s.Node.Cluster(), Name: cfg.Name, Look: s.Node.Check, Replace: s.Node.Replace,
		Clock: cfg.Clock, Logger: cfg.Logger, MemoryBytes: cfg.Memory, Registerer: cfg.Registerer,
	})
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	for _, r := range cfg.Repairers {
		s.done.Go(func() { s.announce(run, r) })
	}
	return s, nil
}

// Handler answers for the drives; nothing of it without authentication.
func (s *StorageNode) Handler() http.Handler { return s.server }

// Drain ends what goes on for long, so that an http.Server's Shutdown has an
// end. Other calls go on.
func (s *StorageNode) Drain() { s.server.Close() }

func (s *StorageNode) openDrive(ctx context.Context, fs vfs.FS, dir string, id node.Identity) (storagenode.Drive, error) {
	return segment.Open(ctx, segment.Config{
		FS: fs, Dir: dir, Cluster: id.Cluster, Drive: id.Drive, Clock: s.cfg.Clock, Logger: s.cfg.Logger,
		Cache: s.cache, SegmentSize: s.cfg.SegmentSize, Grace: s.cfg.Grace,
		TrustSums: true, // the server has compared them with what arrived
		Damaged:   func(shard storagenode.ShardID, err error) { s.damaged(id.Drive, shard, err) },
	})
}

// damaged has the leading repairer told of a damaged shard. What is too much is
// left to scrub and inventory.
func (s *StorageNode) damaged(drive storagenode.DriveID, shard storagenode.ShardID, err error) {
	s.cfg.Logger.Warn("shard found damaged", "drive", drive.String(), "blob", shard.Blob.String(), "err", err)
	c := storagenode.ShardClaim{PG: shard.PG, Slot: int(shard.Slot), Blob: shard.Blob.String()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.claims) < storagenode.MaxClaims && !slices.Contains(s.claims, c) {
		s.claims = append(s.claims, c)
	}
}

// claimed are the claims that no leader has heard of.
func (s *StorageNode) claimed() []storagenode.ShardClaim {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.claims)
}

// heard says that a leader has heard of claims.
func (s *StorageNode) heard(claims []storagenode.ShardClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims = slices.DeleteFunc(s.claims, func(c storagenode.ShardClaim) bool { return slices.Contains(claims, c) })
}

// join asks the repairers which cluster this is, and which drives of this node
// it knows, until one does.
func (s *StorageNode) join(ctx context.Context) (storagenode.UUID, []storagenode.KnownDrive, error) {
	if len(s.cfg.Repairers) == 0 {
		return storagenode.UUID{}, nil, ErrNoRepairers
	}
	told := make([]string, len(s.cfg.Repairers))
	for {
		for i, r := range s.cfg.Repairers {
			w, err := s.tell(ctx, r, storagenode.UUID{}, nil, nil)
			if err == nil && !w.Cluster.IsZero() {
				s.cfg.Logger.Info("joining", "cluster", w.Cluster.String(), "known", len(w.Drives))
				return w.Cluster, w.Drives, nil
			}
			if err == nil {
				err = errors.New("the cluster is not founded yet")
			}
			if err.Error() != told[i] && ctx.Err() == nil {
				told[i] = err.Error()
				s.cfg.Logger.Warn("waiting for a repairer to say which cluster to join", "err", err)
			}
		}
		if err := s.cfg.Clock.Sleep(ctx, s.cfg.Announce); err != nil {
			return storagenode.UUID{}, nil, fmt.Errorf("join a cluster: %w", err)
		}
	}
}

// tell makes one announcement.
func (s *StorageNode) tell(ctx context.Context, r storagenode.Membership, cluster storagenode.UUID, drives []storagenode.DriveReport, claims []storagenode.ShardClaim) (storagenode.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, announceTime)
	defer cancel()
	return r.Announce(ctx, storagenode.Announcement{
		Cluster: cluster, Name: s.cfg.Name, Zone: s.cfg.Zone, Address: s.cfg.Address, Version: s.cfg.Version, Drives: drives, Damaged: claims,
	})
}

// announce tells one repairer of the node until ctx ends. Nothing depends on
// it but that others find the node; what changes in its outcome is logged.
func (s *StorageNode) announce(ctx context.Context, r storagenode.Membership) {
	for known, worked := false, false; ; {
		claims := s.claimed()
		w, err := s.tell(ctx, r, s.Node.Cluster(), s.Node.Reports(), claims)
		if ctx.Err() != nil {
			return
		}
		if err == nil && w.Leads {
			s.heard(claims)
		}
		if !known || worked != (err == nil) {
			known, worked = true, err == nil
			if worked {
				s.cfg.Logger.Info("announced", "leads", w.Leads)
			} else {
				s.cfg.Logger.Warn("not announced", "err", err)
			}
		}
		if s.cfg.Clock.Sleep(ctx, s.cfg.Announce) != nil {
			return
		}
	}
}

// Close ends the announcements and closes the drives. What is in flight in
// Handler must have ended.
func (s *StorageNode) Close() error {
	s.cancel()
	s.done.Wait()
	s.server.Close()
	err := s.Node.Close()
	s.cache.Unref()
	return err
}
