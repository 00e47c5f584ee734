package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"kintsugi/storagenode"
)

// member is one node of a Fleet.
type member struct {
	fleet   *Fleet
	address string
	client  *Client // of its drives; how its calls end moves the breaker
	poller  *Client // of polls, which move it themselves
	breaker breaker
	under   underway      // calls of client
	kick    chan struct{} // asks for a poll now
	doubted atomic.Int64  // by the fleet's count; when a call without an answer asked for one last
	polling sync.Mutex    // one poll at a time, so that no older answer comes after a newer one
	cancel  context.CancelFunc

	polledOnce chan struct{} // closed after the first poll
	// remotes is written by the node's polls under the Fleet's mu, which also
	// guards whoever else reads it.
	remotes map[storagenode.DriveID]*remote

	mu        sync.Mutex
	name      string
	heard     time.Time // zero: never
	since     time.Time // when it was last heard of, or opened its breaker
	roundTrip time.Duration
}

func newMember(f *Fleet, address string) (*member, error) {
	cfg := Config{Address: address, Transport: f.cfg.Transport, Clock: f.cfg.Clock, OpTime: f.cfg.OpTime, Calls: f.cfg.Calls}
	client, err := NewClient(cfg)
	if err != nil {
		return nil, err
	}
	cfg.OpTime = f.cfg.PollTime
	poller, err := NewClient(cfg)
	if err != nil {
		return nil, err
	}
	m := &member{
		fleet: f, address: address, client: client, poller: poller, breaker: breaker{strikes: f.cfg.Strikes},
		kick: make(chan struct{}, 1), polledOnce: make(chan struct{}), since: f.cfg.Clock.Now(),
		remotes: map[storagenode.DriveID]*remote{},
	}
	client.watch = watch{
		allow: m.breaker.allow, began: m.under.began, answered: m.breaker.answered, failed: m.failed,
		silent: m.silent, otherLife: func(*Drive) { m.pollNow() },
	}
	return m, nil
}

// silent has the node polled: whether it answers says more than one call without
// an answer, which may be a drive's fault. Many such calls make few polls.
func (m *member) silent() {
	now, last := m.fleet.count.Now(), m.doubted.Load()
	if (last == 0 || now-last >= int64(silence)) && m.doubted.CompareAndSwap(last, now) {
		m.pollNow()
	}
}

// pollNow has the node polled at once.
func (m *member) pollNow() {
	select {
	case m.kick <- struct{}{}:
	default: // it is about to be
	}
}

// failed takes a call's failure to the breaker, and has the node polled.
func (m *member) failed(err error) {
	m.strike(err)
	m.pollNow()
}

// strike takes a failure to the breaker.
func (m *member) strike(err error) {
	if m.breaker.failed(err) {
		m.opened(err)
	}
}

// unanswered takes a poll's failure to the breaker.
func (m *member) unanswered(err error, since uint64) {
	if !errors.Is(err, errSilent) {
		m.strike(err)
	} else if m.breaker.unanswered(err, since) {
		m.opened(err)
	}
}

// opened follows from the breaker having opened: calls under way would wait for
// as long as they may, and the polls to come try what was left idle, one connection
// after another, though nobody may be at their other ends any more.
func (m *member) opened(err error) {
	m.mu.Lock()
	m.since = m.fleet.cfg.Clock.Now()
	what := "node does not answer"
	if m.heard.IsZero() {
		what = "node has not answered yet at the address that it announced (--advertise)"
	}
	m.mu.Unlock()
	m.fleet.cfg.Logger.Warn(what, "node", m.address, "err", err)
	m.fleet.mu.Lock()
	m.fleet.publish() // another node may have its drives
	m.fleet.mu.Unlock()
	m.client.cfg.Transport.CloseIdle(m.client.base)
	m.under.giveUp()
}

// failingPolls is by how much polls come faster while the node does not
// answer.
const failingPolls = 8

// loop polls until ctx ends.
func (m *member) loop(ctx context.Context) {
	for ctx.Err() == nil {
		wait, answers := m.fleet.cfg.Poll, m.breaker.answers.Load()
		if err := m.poll(ctx, false); err != nil {
			wait /= failingPolls
			if ctx.Err() == nil {
				m.unanswered(err, answers)
			}
		}
		select {
		case <-m.polledOnce:
		default:
			close(m.polledOnce)
		}
		select {
		case <-ctx.Done():
		case <-m.fleet.cfg.Clock.After(wait):
		case <-m.kick:
		}
	}
}

// poll asks the node for its drives, which it looks at anew where look says so,
// and takes over what it says.
func (m *member) poll(ctx context.Context, look bool) error {
	m.polling.Lock()
	defer m.polling.Unlock()
	cfg := &m.fleet.cfg
	began := cfg.Clock.Now()
	got, err := m.poller.Reports(ctx, look)
	if err != nil {
		return err
	}
	if ours := *m.fleet.cluster.Load(); !ours.IsZero() && got.Cluster != ours {
		return fmt.Errorf("node is of cluster %s: %w: %w", got.Cluster, storagenode.ErrOtherCluster, storagenode.ErrUnavailable)
	}
	// The drives first: once the breaker is closed they are asked.
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	changed := m.take(got)
	now := cfg.Clock.Now()
	m.mu.Lock()
	m.name, m.heard, m.since, m.roundTrip = got.Name, now, now, now.Sub(began)
	m.mu.Unlock()
	back := m.breaker.polled()
	if back {
		cfg.Logger.Info("node answers again", "node", m.address)
	}
	if changed || back {
		m.fleet.publish()
	}
	return nil
}

// take renews what is known of the node's drives, and says whether the table
// has to be made anew. The Fleet's mu is held.
func (m *member) take(got NodeReports) (changed bool) {
	said := map[storagenode.DriveID]bool{}
	for _, rep := range got.Drives {
		said[rep.ID] = true
		r := m.remotes[rep.ID]
		if r == nil {
			r = &remote{node: m}
			m.remotes[rep.ID] = r
			changed = true
		}
		r.report.Store(&rep)
		life, open := got.Lives[rep.ID]
		d := r.drive.Load()
		switch {
		case !open && d != nil:
			r.drive.Store(nil)
			changed = true
		case open && (d == nil || d.life != life):
			r.drive.Store(m.client.Drive(rep.ID, life))
			changed = true
		}
	}
	for id := range m.remotes {
		if !said[id] {
			delete(m.remotes, id)
			changed = true
		}
	}
	return changed
}

// state is the node's now, why, and since when.
func (m *member) state(now time.Time) (storagenode.DriveState, string, time.Time) {
	m.mu.Lock()
	heard, since := m.heard, m.since
	m.mu.Unlock()
	if err := m.breaker.allow(); err != nil {
		return storagenode.DriveDown, err.Error(), since
	}
	switch silent := now.Sub(heard); {
	case heard.IsZero(), silent >= m.fleet.cfg.DownAfter:
		return storagenode.DriveDown, "node was not heard of", since
	case silent >= m.fleet.cfg.SuspectAfter:
		return storagenode.DriveSuspect, "node was not heard of", since
	}
	return storagenode.DriveActive, "", since
}

func (m *member) called() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.name
}

func (m *member) lastHeard() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard
}

// describe gives the node for operators. The Fleet's mu is held.
func (m *member) describe(now time.Time) NodeState {
	state, why, _ := m.state(now)
	m.mu.Lock()
	defer m.mu.Unlock()
	return NodeState{
		Name: m.name, Address: m.address, State: state, Reason: why, Heard: m.heard, RoundTrip: m.roundTrip, Drives: len(m.remotes),
	}
}
