package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/rpc/auth"
)

// FleetConfig is what a Fleet needs. Nodes and Transport must be set; what
// every other field is when it is 0 is said beside it.
type FleetConfig struct {
	// Nodes gives the base URLs of the nodes there are. Where it fails, those
	// known last stay.
	Nodes     func(ctx context.Context) ([]string, error)
	Transport *auth.Transport
	// Cluster is the only one whose nodes count; zero: any.
	Cluster storagenode.UUID
	// Founded gives it where it is not known when the Fleet is opened; asked
	// before the first node is polled. Nil: nobody is asked.
	Founded func(ctx context.Context) (storagenode.UUID, error)
	Clock   clock.Clock  // the system's
	Logger  *slog.Logger // discards
	// Poll is the time between two looks at a node; 2 s. PollTime is how long
	// one may take; 1.5 s. Refresh is the time between two looks at Nodes; 5 s.
	Poll, PollTime, Refresh time.Duration
	// Strikes is how many failures in a row make a node DOWN at once; 3. One poll
	// without an answer is enough where nothing else was answered meanwhile.
	Strikes int
	// SuspectAfter and DownAfter say what a node is that was not heard of for so
	// long, whatever its breaker says; 10 s, 30 s.
	SuspectAfter, DownAfter time.Duration
	// OpTime and Calls are those of Config.
	OpTime time.Duration
	Calls  int
}

func (c *FleetConfig) setDefaults() {
	c.Clock = systemClock(c.Clock)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Strikes <= 0 {
		c.Strikes = 3
	}
	for d, v := range map[*time.Duration]time.Duration{
		&c.Poll: 2 * time.Second, &c.PollTime: 1500 * time.Millisecond, &c.Refresh: 5 * time.Second,
		&c.SuspectAfter: 10 * time.Second, &c.DownAfter: 30 * time.Second,
	} {
		if *d <= 0 {
			*d = v
		}
	}
}

// Fleet is the drives of many nodes, as one process sees them. It implements
// storagenode.Reporter. Each node is polled; by its own clock the Fleet says
// what a node is that does not answer, and by a circuit breaker it says so at
// once, so that neither reads nor writes wait for a node that is gone. A store
// it gives out belongs to one life of its drive: who has one should use it for
// one blob, not keep it.
type Fleet struct {
	cfg    FleetConfig
	count  clock.Count
	run    context.Context // of the polls
	cancel context.CancelFunc
	done   sync.WaitGroup
	// cluster is cfg.Cluster, or what cfg.Founded gave.
	cluster atomic.Pointer[storagenode.UUID]

	listing sync.Mutex // one look at Nodes at a time
	found   int64      // by count; when Find's last look ended. listing guards it

	mu    sync.Mutex // guards nodes and the writing of table
	nodes map[string]*member
	table atomic.Pointer[map[storagenode.DriveID]*remote]
}

var (
	_ storagenode.Reporter = (*Fleet)(nil)
	_ storagenode.Finder   = (*Fleet)(nil)
)

// remote is a drive on a node. The node's poll writes it.
type remote struct {
	node   *member
	drive  atomic.Pointer[Drive] // nil: not open
	report atomic.Pointer[storagenode.DriveReport]
}

// OpenFleet begins to poll, and returns when every node was polled once, or
// did not answer. Close ends it.
func OpenFleet(ctx context.Context, cfg FleetConfig) (*Fleet, error) {
	if cfg.Nodes == nil || cfg.Transport == nil {
		return nil, errors.New("rpc: FleetConfig wants Nodes and Transport")
	}
	cfg.setDefaults()
	f := &Fleet{cfg: cfg, count: clock.NewCount(cfg.Clock), nodes: map[string]*member{}}
	f.cluster.Store(&cfg.Cluster)
	f.table.Store(&map[storagenode.DriveID]*remote{})
	f.run, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	f.refresh(ctx)
	f.done.Go(func() {
		for cfg.Clock.Sleep(f.run, f.patience()) == nil {
			f.refresh(f.run)
		}
	})
	return f, nil
}

// impatience is by how much the looks at Nodes come faster while no drive is
// known: the cluster is being started.
const impatience = 10

// patience is the time until the next look at Nodes.
func (f *Fleet) patience() time.Duration {
	if len(*f.table.Load()) == 0 {
		return f.cfg.Refresh / impatience
	}
	return f.cfg.Refresh
}

// Close ends the polls. Calls under way go on.
func (f *Fleet) Close() error {
	f.cancel()
	f.done.Wait()
	return nil
}

// refresh looks which nodes there are, takes new ones in and lets others go.
// It waits for the first poll of the new ones, or for ctx.
func (f *Fleet) refresh(ctx context.Context) {
	f.listing.Lock()
	defer f.listing.Unlock()
	f.list(ctx)
}

// list is refresh for who holds listing.
func (f *Fleet) list(ctx context.Context) {
	timed, cancel := context.WithTimeout(ctx, f.cfg.PollTime)
	defer cancel()
	addresses, err := f.cfg.Nodes(timed)
	if err == nil && len(addresses) > 0 && f.cluster.Load().IsZero() && f.cfg.Founded != nil {
		var id storagenode.UUID
		if id, err = f.cfg.Founded(timed); err == nil {
			f.cluster.Store(&id)
		}
	}
	if err != nil {
		if f.run.Err() == nil {
			f.cfg.Logger.Warn("the list of nodes cannot be had", "err", err)
		}
		return
	}
	var fresh []*member
	f.mu.Lock()
	gone := maps.Clone(f.nodes)
	for _, a := range addresses {
		delete(gone, a)
		if f.nodes[a] != nil {
			continue
		}
		m, err := newMember(f, a)
		if err != nil {
			f.cfg.Logger.Warn("node left out", "node", a, "err", err)
			continue
		}
		f.nodes[a] = m
		fresh = append(fresh, m)
	}
	for a, m := range gone {
		m.cancel()
		delete(f.nodes, a)
	}
	if len(gone) > 0 {
		f.publish()
	}
	for _, m := range fresh {
		loop, cancel := context.WithCancel(f.run)
		m.cancel = cancel
		f.done.Go(func() { m.loop(loop) })
	}
	f.mu.Unlock()
	for _, m := range fresh {
		select {
		case <-m.polledOnce:
		case <-ctx.Done():
			return
		}
	}
}

// findEvery is the least time between two looks for drives that are not known,
// so that reads of what is lost do not ask the metadata one by one.
const findEvery = 250 * time.Millisecond

// Find implements storagenode.Finder: a drive may be on a node that is new, or
// new on its node.
func (f *Fleet) Find(ctx context.Context, ids ...storagenode.DriveID) bool {
	unknown := func() (n int) {
		table := *f.table.Load()
		for _, id := range ids {
			if table[id] == nil {
				n++
			}
		}
		return n
	}
	before := unknown()
	if before == 0 {
		return false
	}
	f.listing.Lock()
	defer f.listing.Unlock()
	if unknown() == before && (f.found == 0 || f.count.Now()-f.found >= int64(findEvery)) {
		f.list(ctx)
		f.look(ctx, false)
		f.found = f.count.Now() // who waited for this look does not begin another
	}
	return unknown() < before
}

// Look has every node look at its drives and report, and returns when all have,
// or did not answer in time: what Reports and Drive say from then on is no older
// than that.
func (f *Fleet) Look(ctx context.Context) { f.look(ctx, true) }

// look polls every node; anew is that of poll.
func (f *Fleet) look(ctx context.Context, anew bool) {
	f.mu.Lock()
	members := slices.Collect(maps.Values(f.nodes))
	f.mu.Unlock()
	var all sync.WaitGroup
	for _, m := range members {
		all.Go(func() {
			if err := m.poll(ctx, anew); err != nil && ctx.Err() == nil {
				m.strike(err)
			}
		})
	}
	all.Wait()
}

// Replace is Client.Replace on the node of a name, as its reports give it.
func (f *Fleet) Replace(ctx context.Context, node, dir string) error {
	f.mu.Lock()
	var m *member
	for _, v := range f.nodes {
		if v.called() == node {
			m = v
		}
	}
	f.mu.Unlock()
	if m == nil {
		return fmt.Errorf("node %q: none of this name was heard of: %w", node, storagenode.ErrUnavailable)
	}
	defer m.pollNow()
	return m.client.Replace(ctx, dir)
}

// publish makes the table anew. A drive that two nodes speak of – a disk was
// moved – is where it can be used. mu is held.
func (f *Fleet) publish() {
	table := map[storagenode.DriveID]*remote{}
	for _, a := range slices.Sorted(maps.Keys(f.nodes)) {
		for id, r := range f.nodes[a].remotes {
			if was := table[id]; was == nil || !was.usable() && r.usable() {
				table[id] = r
			}
		}
	}
	f.table.Store(&table)
}

// usable says that the node has the drive open, and answers.
func (r *remote) usable() bool { return r.drive.Load() != nil && r.node.breaker.allow() == nil }

// Drive implements storagenode.Drives.
func (f *Fleet) Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState) {
	r := (*f.table.Load())[id]
	if r == nil {
		return nil, storagenode.DriveDown
	}
	state, _, _ := r.state(f.cfg.Clock.Now())
	d := r.drive.Load()
	if d == nil || state == storagenode.DriveDown {
		return nil, storagenode.DriveDown
	}
	return d, state
}

// state is the drive's now, why, and since when, where the node's own word is
// not what counts.
func (r *remote) state(now time.Time) (storagenode.DriveState, string, time.Time) {
	said := r.report.Load().State
	state, why, since := r.node.state(now)
	switch {
	case state == storagenode.DriveActive, said == storagenode.DriveBroken: // for good
		return said, "", time.Time{}
	case state == storagenode.DriveSuspect && said != storagenode.DriveActive:
		return said, "", time.Time{}
	}
	return state, why, since
}

// Reports implements storagenode.Reporter: the drives that nodes spoke of last,
// in the order of their ids.
func (f *Fleet) Reports() []storagenode.DriveReport {
	now := f.cfg.Clock.Now()
	table := *f.table.Load()
	all := make([]storagenode.DriveReport, 0, len(table))
	for _, r := range table {
		rep := *r.report.Load()
		state, why, since := r.state(now)
		if state != rep.State {
			rep.State, rep.Reason, rep.Since = state, why, since
		}
		rep.Heard = r.node.lastHeard()
		all = append(all, rep)
	}
	slices.SortFunc(all, func(a, b storagenode.DriveReport) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return all
}

// NodeState is a node as the Fleet sees it.
type NodeState struct {
	Name    string                 `json:"name"` // "" before it was heard of
	Address string                 `json:"address"`
	State   storagenode.DriveState `json:"state"` // ACTIVE, SUSPECT or DOWN
	Reason  string                 `json:"reason,omitempty"`
	Heard   time.Time              `json:"heard,omitzero"`
	// RoundTrip is what the last poll took.
	RoundTrip time.Duration `json:"round_trip"`
	Drives    int           `json:"drives"`
}

// Nodes gives the nodes in the order of their addresses.
func (f *Fleet) Nodes() []NodeState {
	now := f.cfg.Clock.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]NodeState, 0, len(f.nodes))
	for _, m := range f.nodes {
		all = append(all, m.describe(now))
	}
	slices.SortFunc(all, func(a, b NodeState) int { return cmp.Compare(a.Address, b.Address) })
	return all
}
