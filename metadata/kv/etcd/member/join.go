package member

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"kintsugi/metadata/kv/etcd"
)

// found prepares a first start: as one of the first members, or as one that
// joins.
func (m *Member) found(ctx context.Context, c *embed.Config) error {
	if len(m.cfg.Join) > 0 {
		return m.join(ctx, c)
	}
	cluster := m.cfg.Cluster
	if cluster == "" {
		cluster = m.cfg.Name + "=" + m.cfg.AdvertisePeer
	}
	var all, others []string
	own := false
	for part := range strings.SplitSeq(cluster, ",") {
		name, address, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" || address == "" {
			return fmt.Errorf("--initial-cluster: %q: want name=host:port,name=host:port,…", part)
		}
		address = strings.TrimPrefix(address, "https://")
		if name == m.cfg.Name && address == m.cfg.AdvertisePeer {
			own = true
		} else {
			others = append(others, address)
		}
		all = append(all, name+"=https://"+address)
	}
	if !own {
		return fmt.Errorf("--initial-cluster must name this member as %s=%s", m.cfg.Name, m.cfg.AdvertisePeer)
	}
	c.InitialCluster = strings.Join(all, ",")
	if len(others) == 0 {
		return nil
	}
	return m.meet(ctx, c.PeerTLSInfo, others)
}

// clients gives the configuration of a client of these addresses.
func (m *Member) clients(addresses ...string) (etcd.Config, error) {
	cfg := etcd.Config{Endpoints: addresses, Logger: m.cfg.Logger, Timeout: 10 * time.Second}
	if m.gate.secret {
		cfg.User, cfg.Password = etcd.RootUser, m.password
	}
	var err error
	cfg.TLS, err = m.cfg.Files.TLS()
	return cfg, err
}

// join adds this member to the cluster as a learner. A start that was cut off
// after that finds itself listed already.
func (m *Member) join(ctx context.Context, c *embed.Config) error {
	cfg, err := m.clients(m.cfg.Join...)
	if err != nil {
		return err
	}
	s, err := etcd.Open(ctx, cfg)
	if err != nil {
		return fmt.Errorf("--join: %w", err)
	}
	defer s.Close()
	all, err := s.Members(ctx)
	if err != nil {
		return fmt.Errorf("--join: %w", err)
	}
	own := "https://" + m.cfg.AdvertisePeer
	listed := false
	for _, other := range all {
		mine := len(other.Peers) == 1 && other.Peers[0] == own
		if mine && other.Name != "" || !mine && other.Name == m.cfg.Name {
			return fmt.Errorf("--join: the cluster has a member %s at %v, and this one has lost its data: remove that member first, kintsugi admin metadata members remove %s", other.Name, other.Peers, other.ID)
		}
		listed = listed || mine
	}
	if !listed {
		if _, all, err = s.AddMember(ctx, own); err != nil {
			return fmt.Errorf("--join: %w", err)
		}
	}
	var parts []string
	for _, other := range all {
		name := other.Name
		for _, peer := range other.Peers {
			if peer == own {
				name = m.cfg.Name
			}
			if name != "" {
				parts = append(parts, name+"="+peer)
			}
		}
	}
	c.InitialCluster, c.ClusterState = strings.Join(parts, ","), embed.ClusterStateFlagExisting
	return nil
}

// grow has the others promote this member once it has caught up.
func (m *Member) grow() {
	for m.server.Server.IsLearner() {
		if err := m.promote(); err != nil {
			m.cfg.Logger.Debug("not promoted yet", "err", err)
		}
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

func (m *Member) promote() error {
	var others []string
	for _, other := range m.server.Server.Cluster().Members() {
		if other.ID != m.server.Server.MemberID() && !other.IsLearner {
			for _, u := range other.ClientURLs {
				_, host, _ := strings.Cut(u, "://")
				others = append(others, host)
			}
		}
	}
	if len(others) == 0 {
		return errors.New("no other member is known")
	}
	cfg, err := m.clients(others...)
	if err != nil {
		return err
	}
	s, err := etcd.Open(m.ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.PromoteMember(m.ctx, etcd.MemberID(m.server.Server.MemberID()))
}
