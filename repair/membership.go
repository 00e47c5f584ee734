package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// Bounds of an announcement.
const (
	maxNodes      = 4096 // remembered at once
	maxNodeDrives = 256
	maxNodeName   = 255  // bytes, of the zone and the version as well
	maxNodeURL    = 1024 // bytes
)

// membership knows the nodes by what they announce. The leader stores what
// changed; whoever waits remembers when it heard of whom, to know it when it
// takes over.
type membership struct {
	cfg    *Config
	leader *leadership
	fleet  *fleet // what the detector knows

	storing sync.Mutex // one announcement at a time is stored

	mu      sync.Mutex
	bereft  string                         // a node that announced drives of a cluster while metadata knew of none, with these; guarded by mu
	cluster storagenode.UUID               // zero: not known yet; guarded by mu, as all below
	members map[string]member              // by name
	stored  map[string]metadata.NodeRecord // as of term
	drives  map[storagenode.DriveID]bool   // known to be in metadata, as of term
	term    uint64
}

// member is what a node last said of itself.
type member struct {
	address string
	heard   time.Time // by this process's clock
	assumed bool      // heard is when the term began: this process has yet to hear of it
	drives  []storagenode.DriveReport
}

func newMembership(cfg *Config, l *leadership, f *fleet) *membership {
	return &membership{cfg: cfg, leader: l, fleet: f, members: map[string]member{}}
}

// Announce implements storagenode.Membership. A node of another cluster is
// refused (storagenode.ErrOtherCluster), and so is a name that a node at
// another address bore within NodeTimeout (storagenode.ErrNameTaken).
func (r *Repairer) Announce(ctx context.Context, a storagenode.Announcement) (storagenode.Welcome, error) {
	w, err := r.members.announce(ctx, a)
	if err == nil && w.Leads {
		r.NotifyAll(a.Damaged)
	}
	return w, err
}

var _ storagenode.Membership = (*Repairer)(nil)

func (m *membership) announce(ctx context.Context, a storagenode.Announcement) (storagenode.Welcome, error) {
	if err := checkAnnouncement(a); err != nil {
		return storagenode.Welcome{}, err
	}
	led, done, err := m.leader.enter(ctx)
	leads := err == nil
	if leads {
		defer done()
	} else if !errors.Is(err, metadata.ErrNotLeader) {
		return storagenode.Welcome{}, err
	}
	var cluster storagenode.UUID
	if leads {
		cluster, err = m.foundFor(led, a)
	} else {
		cluster, err = m.known(ctx)
	}
	if err != nil {
		return storagenode.Welcome{}, err
	}
	if !a.Cluster.IsZero() && !cluster.IsZero() && a.Cluster != cluster {
		return storagenode.Welcome{}, fmt.Errorf("node %q at %s: its drives are of cluster %s, this is %s: %w",
			a.Name, a.Address, a.Cluster, cluster, storagenode.ErrOtherCluster)
	}
	if leads {
		err = m.take(led, a)
		if errors.Is(err, metadata.ErrStaleTerm) {
			m.leader.overtaken(led, err)
			leads, err = false, nil
		}
	} else {
		err = m.hear(a)
	}
	if err != nil {
		return storagenode.Welcome{}, err
	}
	w := storagenode.Welcome{Cluster: cluster, Leads: leads}
	if a.Cluster.IsZero() && !cluster.IsZero() {
		w.Drives, err = m.drivesOf(ctx, a.Name)
	}
	return w, err
}

// drivesOf gives the drives that metadata knows of a node, but for those that
// are done with. The file systems they were on are known where this process has
// seen a report of them.
func (m *membership) drivesOf(ctx context.Context, name string) ([]storagenode.KnownDrive, error) {
	records, err := m.cfg.Records.ListDrives(ctx)
	if err != nil {
		return nil, fmt.Errorf("drives of node %q: %w", name, err)
	}
	var all []storagenode.KnownDrive
	for _, r := range records {
		if r.Node != name || r.State == storagenode.DriveRetired || r.State == storagenode.DriveDrained {
			continue
		}
		seen, _ := m.fleet.drive(r.ID)
		all = append(all, storagenode.KnownDrive{Drive: r.ID, Dir: r.Address, Device: seen.report.Device, Total: seen.report.Total})
	}
	return all, nil
}

func checkAnnouncement(a storagenode.Announcement) error {
	for _, s := range []string{a.Name, a.Zone, a.Version, a.Address} {
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return fmt.Errorf("node %q: control characters", a.Name)
		}
	}
	switch {
	case a.Name == "" || a.Address == "":
		return fmt.Errorf("node %q at %q: a name and an address are required", a.Name, a.Address)
	case len(a.Name) > maxNodeName || len(a.Zone) > maxNodeName || len(a.Version) > maxNodeName || len(a.Address) > maxNodeURL:
		return fmt.Errorf("node %.32q: name, zone, version or address are too long", a.Name)
	case len(a.Drives) > maxNodeDrives:
		return fmt.Errorf("node %q: %d drives, at most %d", a.Name, len(a.Drives), maxNodeDrives)
	case len(a.Damaged) > storagenode.MaxClaims:
		return fmt.Errorf("node %q: %d damaged shards, at most %d at a time", a.Name, len(a.Damaged), storagenode.MaxClaims)
	}
	return nil
}

// known gives the cluster's UUID, zero where it was not founded yet.
func (m *membership) known(ctx context.Context) (storagenode.UUID, error) {
	m.mu.Lock()
	id := m.cluster
	m.mu.Unlock()
	if !id.IsZero() {
		return id, nil
	}
	id, err := m.cfg.Foundation.Cluster(ctx)
	if err != nil {
		return id, err
	}
	return id, m.keep(id)
}

// foundOwn founds the cluster of a process that has its drives itself. Another one
// waits for a node.
func (m *membership) foundOwn(ctx context.Context) error {
	if m.cfg.Cluster.IsZero() {
		return nil
	}
	if _, err := m.found(ctx); err != nil {
		return fmt.Errorf("found cluster: %w", err)
	}
	return nil
}

// foundFor is found for a node that announces itself. Where metadata knows of no
// cluster and a node has drives of one, that metadata was lost, or is elsewhere:
// a new cluster in its place would say of every object that it does not exist. So
// this process founds none any more.
func (m *membership) foundFor(ctx context.Context, a storagenode.Announcement) (storagenode.UUID, error) {
	id, err := m.known(ctx)
	if err != nil || !id.IsZero() {
		return id, err
	}
	m.mu.Lock()
	told := m.bereft != ""
	if !told && !a.Cluster.IsZero() {
		m.bereft = fmt.Sprintf("node %q at %s has drives of cluster %s", a.Name, a.Address, a.Cluster)
	}
	why := m.bereft
	m.mu.Unlock()
	if why == "" {
		return m.found(ctx)
	}
	err = fmt.Errorf("%s, but the metadata knows of no cluster: is the disk of a metadata member not mounted, or does --metadata name another prefix than before? If the metadata is lost, stop all processes, start members with empty directories, load a snapshot (kintsugi admin metadata load), then start the rest. If a new cluster is wanted, empty the directories of that node and start the repairers anew: %w", why, storagenode.ErrOtherCluster)
	if !told {
		m.cfg.Logger.Error("no cluster is founded", "err", err)
	}
	return storagenode.UUID{}, err
}

// found is known for the leader, which founds the cluster where nobody did.
func (m *membership) found(ctx context.Context) (storagenode.UUID, error) {
	if id, err := m.known(ctx); err != nil || !id.IsZero() {
		return id, err
	}
	id := m.cfg.Cluster
	if id.IsZero() {
		id = storagenode.NewUUID()
	}
	id, err := m.cfg.Foundation.Found(ctx, id)
	if err != nil {
		return id, err
	}
	m.cfg.Logger.Info("cluster founded", "cluster", id.String())
	return id, m.keep(id)
}

// keep remembers the cluster's UUID, which never changes.
func (m *membership) keep(id storagenode.UUID) error {
	if !id.IsZero() && !m.cfg.Cluster.IsZero() && id != m.cfg.Cluster {
		return fmt.Errorf("metadata is of cluster %s, the drives are of %s: %w", id, m.cfg.Cluster, storagenode.ErrOtherCluster)
	}
	m.mu.Lock()
	m.cluster = id
	m.mu.Unlock()
	return nil
}

// hear takes note of an announcement, unless another living node bears its
// name.
func (m *membership) hear(a storagenode.Announcement) error {
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	was, known := m.members[a.Name]
	if known && was.address != a.Address && now.Sub(was.heard) < m.cfg.NodeTimeout {
		heard := fmt.Sprintf("last heard of %s ago", now.Sub(was.heard).Truncate(time.Second))
		if was.assumed {
			heard = fmt.Sprintf("which a former leader may have heard of a moment ago; it is free %s from now", (m.cfg.NodeTimeout - now.Sub(was.heard)).Truncate(time.Second))
		}
		return fmt.Errorf("node %q at %s: the name is borne by the node at %s, %s: %w",
			a.Name, a.Address, was.address, heard, storagenode.ErrNameTaken)
	}
	if !known && len(m.members) >= maxNodes {
		return fmt.Errorf("node %q: there are %d nodes already", a.Name, maxNodes)
	}
	drives := slices.Clone(a.Drives)
	for i := range drives {
		drives[i].Node, drives[i].Zone = a.Name, a.Zone
	}
	m.members[a.Name] = member{address: a.Address, heard: now, drives: drives}
	return nil
}

// take is hear for the leader: it stores what is new.
func (m *membership) take(ctx context.Context, a storagenode.Announcement) error {
	m.storing.Lock()
	defer m.storing.Unlock()
	if err := m.load(ctx); err != nil {
		return err
	}
	if err := m.hear(a); err != nil {
		return err
	}
	if err := m.record(ctx, a); err != nil {
		return err
	}
	m.mu.Lock()
	was, known := m.stored[a.Name]
	m.mu.Unlock()
	next := metadata.NodeRecord{Name: a.Name, Zone: a.Zone, Address: a.Address, Version: a.Version, Added: was.Added, Changed: was.Changed}
	if known && next == was {
		return nil
	}
	next.Changed = m.cfg.Clock.Now().Truncate(time.Millisecond).UTC()
	if !known {
		next.Added = next.Changed
	}
	if err := m.cfg.Nodes.PutNode(ctx, next); err != nil {
		return fmt.Errorf("store node %q: %w", a.Name, err)
	}
	m.mu.Lock()
	m.stored[a.Name] = next
	m.mu.Unlock()
	m.cfg.Logger.Info("node announced itself", "node", a.Name, "zone", a.Zone, "address", a.Address, "version", a.Version)
	return nil
}

// record stores the drives of an announcement that metadata does not know, as
// DOWN until they are reached. It comes before the node is stored, by whose
// record writers learn of its drives: one that is lost right after its first
// blob is known to have been in its directory.
func (m *membership) record(ctx context.Context, a storagenode.Announcement) error {
	for _, rep := range a.Drives {
		m.mu.Lock()
		known := m.drives[rep.ID]
		m.mu.Unlock()
		if known {
			continue
		}
		err := m.cfg.Records.EditDrive(ctx, rep.ID, func(r *metadata.DriveRecord) bool {
			if !r.Added.IsZero() {
				return false
			}
			*r = metadata.DriveRecord{
				ID: rep.ID, Node: a.Name, Zone: a.Zone, Address: rep.Dir, State: storagenode.DriveDown,
				Replaces: rep.Replaces, Added: m.cfg.Clock.Now().UTC(),
			}
			return true
		})
		if err != nil {
			return fmt.Errorf("store drive %s of node %q: %w", rep.ID, a.Name, err)
		}
		m.mu.Lock()
		m.drives[rep.ID] = true
		m.mu.Unlock()
	}
	return nil
}

// load reads the nodes at the begin of a term. What former leaders took in
// counts: each is taken to have been heard of just now, unless this process
// heard of it itself.
func (m *membership) load(ctx context.Context) error {
	term, _ := metadata.TermOf(ctx)
	m.mu.Lock()
	loaded := m.stored != nil && m.term == term.Number
	m.mu.Unlock()
	if loaded {
		return nil
	}
	nodes, err := m.cfg.Nodes.ListNodes(ctx)
	if err != nil {
		return err
	}
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stored, m.term = make(map[string]metadata.NodeRecord, len(nodes)), term.Number
	m.drives = map[storagenode.DriveID]bool{}
	for _, n := range nodes {
		m.stored[n.Name] = n
		if v, ok := m.members[n.Name]; !ok || v.address != n.Address {
			m.members[n.Name] = member{address: n.Address, heard: now, assumed: true}
		}
	}
	return nil
}

// announced gives the drives that living nodes announced.
func (m *membership) announced() []storagenode.DriveReport {
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []storagenode.DriveReport
	for _, v := range m.members {
		if now.Sub(v.heard) < m.cfg.NodeTimeout {
			all = append(all, v.drives...)
		}
	}
	return all
}

// NodeStatus is a node as this repairer knows it by its announcements.
type NodeStatus struct {
	Name    string    `json:"name"`
	Zone    string    `json:"zone,omitempty"`
	Address string    `json:"address"`
	Version string    `json:"version,omitempty"`
	Heard   time.Time `json:"heard,omitzero"` // zero: not yet, by this process
	Living  bool      `json:"living"`         // heard of within NodeTimeout, or may have been by a former leader
	Drives  int       `json:"drives"`
}

func (m *membership) status() []NodeStatus {
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]NodeStatus, 0, len(m.members))
	for name, v := range m.members {
		n := m.stored[name]
		st := NodeStatus{Name: name, Zone: n.Zone, Address: v.address, Version: n.Version, Living: now.Sub(v.heard) < m.cfg.NodeTimeout, Drives: len(v.drives)}
		if !v.assumed {
			st.Heard = v.heard
		}
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b NodeStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}
