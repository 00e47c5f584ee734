package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"kintsugi/cmd/internal/cluster/network"
	"kintsugi/erasure"
	"kintsugi/metadata/catalog"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/rpc/auth"
)

// ManyConfig says how large a cluster of many processes is.
type ManyConfig struct {
	Zones, NodesPerZone int
	Drives              []int // of each node, in turn
	Seed                uint64
	Logger              *slog.Logger
	// Skew is how wrong the clocks of a process are at first, either way.
	Skew func(name string) time.Duration
}

// Many is a cluster of many processes within one: storage nodes, gateways and
// repairers put together by package roles as the binary does it. Real are all
// that they are made of – drives, rpc and its authentication, fleets with
// their breakers, catalog, stripes, S3 front, repairers with their lease.
// Simulated are what lies between and below: the network (package network),
// the file systems (vfs.Mem, which forgets what was not synced, behind
// vfs.Fault), the metadata engine and the lines to it (engine), the clocks, and
// time itself: it is made for a bubble of testing/synctest, where nothing waits
// in earnest and a slow machine is only slow. Clients call a gateway's handler
// without a socket.
type Many struct {
	cfg    ManyConfig
	seed   uint64
	net    *network.Network
	engine *engine
	ledger *ledger
	key    *auth.Key
	gone   sync.WaitGroup // lives that are over

	nodes     []*storageNode
	gateways  []*gatewayProcess
	repairers []*repairerProcess

	mu     sync.Mutex
	lives  int // guarded by mu, as all below
	clocks map[string]*clock.Wrong
}

// manyScheme is that of groups while nothing is away.
var manyScheme = erasure.Scheme{K: 4, M: 2}

const (
	accessKey, secretKey = "access", "secret-of-the-test"
	region               = "us-east-1"
)

// What takes seconds or minutes in earnest, shortened alike.
const (
	pollEvery    = 100 * time.Millisecond // nodes, drives, announcements
	pollTime     = 300 * time.Millisecond
	callTime     = 1500 * time.Millisecond // of a call to a drive
	graceTime    = 1500 * time.Millisecond // of deletes; twice that is more than what the network holds back can be late
	outAfter     = 900 * time.Millisecond
	leaseTime    = 800 * time.Millisecond
	dialTime     = 200 * time.Millisecond
	namedFor     = time.Second // a silent node keeps its name
	operateTime  = 2 * time.Second
	linePatience = time.Second
	// What everything takes at most that goes over the network or to a disk: a
	// kill finds it under way.
	latency = 400 * time.Microsecond
	// What a process does first takes at most, when it goes on.
	wakes = 3 * time.Millisecond
)

func lifeID(name string, n int) string { return fmt.Sprintf("%s:%d", name, n) }

// OpenMany starts a cluster with two gateways and two repairers, and makes the
// bucket.
func OpenMany(ctx context.Context, cfg ManyConfig) (*Many, error) {
	key, err := auth.NewKey([]byte(strings.Repeat("k", auth.MinSecret)))
	if err != nil {
		return nil, err
	}
	if cfg.Skew == nil {
		cfg.Skew = func(string) time.Duration { return 0 }
	}
	c := &Many{cfg: cfg, seed: cfg.Seed, key: key, clocks: map[string]*clock.Wrong{}}
	c.net = network.New(dialTime, latency)
	c.engine = newEngine()
	truth, err := catalog.Open(ctx, catalog.Config{KV: c.engine.store, Scheme: manyScheme})
	if err != nil {
		return nil, err
	}
	c.ledger = newLedger(c, truth)
	c.engine.committed = c.ledger.committed
	for i := range 2 {
		c.repairers = append(c.repairers, &repairerProcess{many: c, name: fmt.Sprintf("r%d", i+1)})
	}
	for z := range cfg.Zones {
		for range cfg.NodesPerZone {
			i := len(c.nodes)
			c.nodes = append(c.nodes, newStorageNode(c, fmt.Sprintf("n%d", i+1), fmt.Sprintf("z%d", z+1), cfg.Drives[i%len(cfg.Drives)]))
		}
	}
	for i := range 2 {
		g := &gatewayProcess{many: c, name: fmt.Sprintf("g%d", i+1)}
		if i == 0 { // through the other one, every read asks the drives
			g.kept = transferMemory
		}
		c.gateways = append(c.gateways, g)
	}
	if err := c.open(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Many) open(ctx context.Context) error {
	for _, r := range c.repairers {
		if err := r.start(ctx); err != nil {
			return err
		}
	}
	errs := make(chan error, len(c.nodes))
	for _, n := range c.nodes {
		go func() { errs <- n.start(ctx) }()
	}
	for range c.nodes {
		if err := <-errs; err != nil {
			return err
		}
	}
	for _, g := range c.gateways {
		if err := g.start(ctx); err != nil {
			return err
		}
	}
	// Until all drives were heard of, groups would be narrow.
	drives := 0
	for _, n := range c.nodes {
		drives += len(n.dirs)
	}
	for _, g := range c.gateways {
		if err := until(ctx, func() error {
			if n := active(g.fleet); n < drives {
				return fmt.Errorf("%s knows %d drives of %d", g.name, n, drives)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return until(ctx, func() error { return newClient(c, 0).MakeBucket(ctx) })
}

func active(f storagenode.Reporter) int {
	n := 0
	for _, d := range f.Reports() {
		if d.State == storagenode.DriveActive {
			n++
		}
	}
	return n
}

// until repeats f until it succeeds or ctx ends; then it gives the last error
// that was not ctx's.
func until(ctx context.Context, f func() error) error {
	var last error
	for {
		err := f()
		if err == nil {
			return nil
		}
		if last == nil || !errors.Is(err, context.DeadlineExceeded) {
			last = err
		}
		if ctx.Err() != nil {
			return last
		}
		time.Sleep(pollEvery)
	}
}

// Close ends everything.
func (c *Many) Close() {
	c.net.Heal()
	for _, g := range c.gateways {
		g.kill()
	}
	for _, r := range c.repairers {
		r.kill()
	}
	for _, n := range c.nodes {
		n.stop()
	}
	c.gone.Wait()
}

// hosts are all names on the network.
func (c *Many) hosts() []string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.name)
	}
	for _, g := range c.gateways {
		all = append(all, g.name)
	}
	for _, r := range c.repairers {
		all = append(all, r.name)
	}
	return all
}

// alone sets all links from and to a host.
func (c *Many) alone(name string, m network.Mode) {
	for _, other := range c.hosts() {
		if other != name {
			c.net.Set(name, other, m)
			c.net.Set(other, name, m)
		}
	}
}

// leader gives the repairer that leads, nil where none does.
func (c *Many) leader() *repairerProcess {
	for _, r := range c.repairers {
		if now := r.now(); now != nil && now.Status().Leader.Leads {
			return r
		}
	}
	return nil
}

// openFleet gives a process the drives that the nodes in metadata have.
func (l *life) openFleet(ctx context.Context) (*rpc.Fleet, *catalog.Catalog, error) {
	cat, err := catalog.Open(ctx, catalog.Config{KV: l.line, Scheme: manyScheme, Clock: l.clock, Logger: l.logger})
	if err != nil {
		return nil, nil, err
	}
	f, err := rpc.OpenFleet(ctx, rpc.FleetConfig{
		Nodes: func(ctx context.Context) ([]string, error) {
			nodes, err := cat.ListNodes(ctx)
			var all []string
			for _, n := range nodes {
				all = append(all, n.Address)
			}
			return all, err
		},
		Transport: l.transport, Clock: l.clock, Logger: l.logger,
		Poll: pollEvery, PollTime: pollTime, Refresh: pollEvery, SuspectAfter: 2 * pollTime, DownAfter: 4 * pollTime, OpTime: callTime,
	})
	return f, cat, err
}
