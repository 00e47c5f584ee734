package member

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"

	"kintsugi/metadata/kv/etcd"
)

// startChores starts what goes on beside serving.
func (m *Member) startChores() {
	m.chores.Go(m.grow)
	m.chores.Go(m.lead)
	if m.cfg.BackupDir != "" {
		m.chores.Go(m.keepBackups)
	}
}

// lead looks after the cluster while this member leads it. A new leader waits
// a whole interval first, so that what the last one began has ended.
func (m *Member) lead() {
	s := m.server.Server
	since := time.Time{} // leading since, or the last look
	var tried attempts
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(m.cfg.Watch):
		}
		if s.Leader() != s.MemberID() {
			since = time.Time{}
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		if full(s.Alarms()) {
			if err := m.makeSpace(&tried); err != nil {
				m.cfg.Logger.Error("the metadata is full", "quota", m.cfg.Quota, "err", err)
			}
			continue
		}
		if m.cfg.Defragment > 0 && time.Since(since) >= m.cfg.Defragment {
			since = time.Now()
			if err := m.tidy(m.ctx, m.worthwhile); err != nil {
				m.cfg.Logger.Warn("defragmenting the metadata", "err", err)
			}
		}
	}
}

func full(alarms []*pb.AlarmMember) bool {
	for _, a := range alarms {
		if a.Alarm == pb.AlarmType_NOSPACE {
			return true
		}
	}
	return false
}

// worthwhile says that defragmenting a member gains something.
func (m *Member) worthwhile(o etcd.Member) bool {
	gain := o.DBSize - o.InUse
	return gain >= m.cfg.DefragmentFrom && gain >= o.DBSize/4
}

// tidy defragments one member after another while this one leads, itself last:
// among several it hands leadership over instead and is tidied by the next
// leader.
func (m *Member) tidy(ctx context.Context, which func(etcd.Member) bool) error {
	s := m.server.Server
	c, all, err := m.everybody(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	own := false
	for _, o := range all {
		if uint64(o.ID) == uint64(s.MemberID()) {
			own = which(o)
			continue
		}
		if !which(o) {
			continue
		}
		if s.Leader() != s.MemberID() {
			return nil // another leads, and goes on
		}
		if err := m.defragment(ctx, c, o); err != nil {
			return err
		}
	}
	switch {
	case !own || s.Leader() != s.MemberID():
		return nil
	case len(all) > 1:
		return s.TryTransferLeadershipOnShutdown()
	}
	return s.Backend().Defrag()
}

// everybody lists the members, all of whom answer, with the client that asked
// them, to be closed.
func (m *Member) everybody(ctx context.Context) (*etcd.Store, []etcd.Member, error) {
	cfg, err := m.clients(m.cfg.Advertise)
	if err != nil {
		return nil, nil, err
	}
	c, err := etcd.Open(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	all, err := c.Members(ctx)
	for _, o := range all {
		if err == nil && !o.Healthy && len(o.Errors) > 0 && o.DBSize == 0 {
			err = fmt.Errorf("member %s does not answer: not while one is missing", o.Name)
		}
	}
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, all, nil
}

func (m *Member) defragment(ctx context.Context, c *etcd.Store, o etcd.Member) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	begun := time.Now()
	err := c.Defragment(ctx, o)
	m.cfg.Logger.Info("defragmented a member", "member", o.Name, "held", o.DBSize, "in_use", o.InUse, "took", time.Since(begun).String(), "err", err)
	return err
}

// forget compacts all history away and waits until that is done on this
// member.
func (m *Member) forget(ctx context.Context) error {
	s := m.server.Server
	rev := s.KV().Rev()
	if rev <= s.KV().FirstRev() {
		return nil
	}
	done := make(chan error, 1)
	go func() {
		// It waits for the work on the disk, whatever its context says.
		_, err := s.Compact(ctx, &pb.CompactionRequest{Revision: rev, Physical: true})
		done <- err
	}()
	select {
	case err := <-done:
		if errors.Is(err, mvcc.ErrCompacted) {
			return nil
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempts counts those at making space in one state of the metadata.
type attempts struct {
	rev  int64
	made int
}

// mostAttempts in one state: a member may compact later than the one that leads.
// More would gain nothing before something is deleted, and each holds up reads.
const mostAttempts = 5

// makeSpace compacts all history away, defragments every member that is too
// large, and lifts the alarm where all of them have room then. Nothing is written
// meanwhile: the alarm stands. How much of a file is in use does not count: it is
// told as of the last commits, and there are none.
func (m *Member) makeSpace(tried *attempts) error {
	s := m.server.Server
	ctx, cancel := context.WithTimeout(m.ctx, 2*time.Minute)
	defer cancel()
	if rev := s.KV().Rev(); rev != tried.rev {
		*tried = attempts{rev: rev}
	}
	room := m.cfg.Quota * 9 / 10
	if tried.made++; tried.made <= mostAttempts {
		if err := m.shrink(ctx, room); err != nil {
			return err
		}
	}
	most, err := m.largest(ctx)
	if err != nil {
		return err
	}
	if most > room {
		return fmt.Errorf("%d bytes are in use: start all members with a larger --quota, then the alarm is lifted", most)
	}
	for _, a := range s.Alarms() {
		if a.Alarm != pb.AlarmType_NOSPACE {
			continue
		}
		if _, err := s.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: a.MemberID, Alarm: a.Alarm}); err != nil {
			return fmt.Errorf("lift the alarm: %w", err)
		}
	}
	*tried = attempts{}
	m.cfg.Logger.Warn("the metadata was full; space was made and it can be written to again", "size", s.Backend().Size(), "quota", m.cfg.Quota)
	return nil
}

// shrink forgets all history and defragments the members that are larger than
// room, this one last: nobody can write, so nothing is gained by handing over.
func (m *Member) shrink(ctx context.Context, room int64) error {
	s := m.server.Server
	if err := m.forget(ctx); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	err := m.tidy(ctx, func(o etcd.Member) bool { return uint64(o.ID) != uint64(s.MemberID()) && o.DBSize > room })
	if err != nil || s.Backend().Size() <= room {
		return err
	}
	return s.Backend().Defrag()
}

// largest is the size of the largest member's database, in bytes.
func (m *Member) largest(ctx context.Context) (most int64, err error) {
	c, all, err := m.everybody(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for _, o := range all {
		most = max(most, o.DBSize)
	}
	return most, nil
}
