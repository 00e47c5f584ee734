package journal

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
	"kintsugi/storagenode/lane"
)

// yields is how often goroutines go first before a group is taken: where the
// processors are busy, those about to commit join it, which costs one sync for
// all. With 16 writers on two processors it makes 0.8 syncs of a PUT out of 3.4.
const yields = 4

// committer is the one goroutine that changes the namespace. Everything in it
// belongs to that goroutine (to Open's, before it starts).
type committer struct {
	s       *Store
	cfg     Config
	drives  []*drive
	rec     membership // in force, or tried last
	inForce uint64     // the newest generation known to be in force
	tried   uint64     // the newest generation that may have been written anywhere
	sawAll  bool       // every drive's record was read when they were last
	members []*member
	joiner  *member // takes part in appends, counts for nothing
	joining *drive  // being prepared, or joiner's
	results chan result
	state   *state
	// stateSeq numbers states; it never goes back while the process lives.
	stateSeq uint64

	commit, chain uint64 // of the newest group that is durable
	logBytes      int64  // appended since the last snapshot
	snapSize      int64  // of the last snapshot
	snapWanted    bool   // however little the log has grown: one is to take the place of damage
	snapshotting  bool
	checkpointing bool

	lastTick, lastProbe, lastCheckpoint, lastRecover, lastSalvage, lastMove time.Time

	snapshotDue time.Time // not before: there was no room for one

	check        checks
	checkpointed uint64
	downErr      error

	records  sync.Pool
	work     []waiting
	accepted []waiting
}

func newCommitter(s *Store) *committer {
	c := &committer{s: s, cfg: s.cfg, results: make(chan result, 64)}
	c.records.New = func() any { return &record{pool: &c.records} }
	for _, m := range c.cfg.Drives {
		c.drives = append(c.drives, c.newDrive(m))
	}
	for _, d := range c.drives {
		d.usable = !slices.Contains(c.cfg.Unusable, d.id)
	}
	c.publish()
	return c
}

func (c *committer) newDrive(m Member) *drive {
	return &drive{id: m.ID, dir: m.Dir, usable: true, whose: c.cfg.Whose,
		fs: newGuard(c.cfg.FS, c.cfg.Clock, c.cfg.StateTimeout, 5*c.cfg.StateTimeout, nil)}
}

// run serves until Close.
func (c *committer) run() {
	defer close(c.s.stopped)
	defer c.shutdown()
	for {
		controls, closed := c.next()
		for _, f := range controls {
			f(c)
		}
		c.upkeep()
		if closed {
			c.fail(c.work, errClosed)
			return
		}
		if c.downErr != nil {
			c.fail(c.work, fmt.Errorf("%w: %w", kv.ErrUnavailable, c.downErr))
			continue
		}
		if len(c.work) > 0 {
			c.round()
		}
	}
}

func (c *committer) fail(work []waiting, err error) {
	for _, w := range work {
		w.ch <- err
	}
}

// next waits for something to do, at most for a tick, and leaves the
// transactions to commit in c.work.
func (c *committer) next() (controls []func(*committer), closed bool) {
	for waited := false; ; waited = true {
		lane.LetOthersRun(yields, false)
		c.s.mu.Lock()
		c.take()
		controls, closed = c.s.controls, c.s.closed
		c.s.controls = nil
		c.s.mu.Unlock()
		if waited || len(c.work) > 0 || len(controls) > 0 || closed {
			return controls, closed
		}
		select {
		case <-c.s.kick:
		case r := <-c.results:
			c.note(r)
		case <-c.cfg.Clock.After(c.cfg.Tick):
		}
	}
}

// take moves what fits into one group from the store's queue to c.work. The
// caller holds s.mu. When closed all is taken, to be refused.
func (c *committer) take() {
	size, n := 0, 0
	for n < len(c.s.pending) && (size < groupFill || c.s.closed) {
		size += len(c.s.pending[n].t.ops)
		n++
	}
	c.work = append(c.work[:0], c.s.pending[:n]...)
	rest := copy(c.s.pending, c.s.pending[n:])
	clear(c.s.pending[rest:])
	c.s.pending = c.s.pending[:rest]
}

// round commits one group.
func (c *committer) round() {
	commit, prev := c.commit+1, c.chain
	applied := make(chan struct{})
	defer close(applied)
	c.s.round.Store(&applied)
	rec := c.records.Get().(*record)
	buf := append(rec.raw[:0], make([]byte, groupHeader)...)
	c.accepted = c.accepted[:0]
	for _, w := range c.work {
		if !c.s.window.holds(w.t.reads) {
			w.ch <- kv.ErrConflict
			continue
		}
		c.s.window.wrote(w.t.hashes, commit)
		buf = append(buf, w.t.ops...)
		c.accepted = append(c.accepted, w)
	}
	clear(c.work)
	if len(c.accepted) == 0 {
		rec.raw = buf
		c.records.Put(rec)
		return
	}
	c.s.started.Store(commit)
	payload := len(buf) - groupHeader
	var chain uint64
	rec.raw, chain = seal(buf, c.cfg.Cluster, commit, prev, len(c.accepted))
	rec.refs.Store(1)
	defer rec.release()
	if err := c.append(rec, commit, prev); err != nil {
		c.goDown(err)
		// The cause is not wrapped: it may say "unavailable", which would
		// promise that nothing was written.
		c.fail(c.accepted, fmt.Errorf("%w: %v", kv.ErrUnknown, err))
		clear(c.accepted)
		return
	}
	c.commit, c.chain = commit, chain
	c.logBytes += int64(len(rec.raw))
	c.applyGroup(rec.raw[groupHeader:groupHeader+payload], commit, chain)
	for _, w := range c.accepted {
		w.ch <- nil
	}
	clear(c.accepted)
}

// applyGroup makes a durable group readable. Where that fails the state is
// built anew from the log, the group included.
func (c *committer) applyGroup(payload []byte, commit, chain uint64) {
	if c.state != nil {
		for _, w := range c.accepted {
			c.state.values.announce(w.t.hashes)
		}
		b, err := c.state.batch(payload, commit, chain)
		if err == nil {
			err = c.state.apply(b)
		}
		if err == nil {
			c.state.values.applied(payload)
			c.s.applied.Store(commit)
			return
		}
		c.state.behind.Store(true)
		c.state.fail(fmt.Errorf("apply commit %d: %w", commit, err))
	}
	c.rebuildState()
	c.s.applied.Store(commit)
}

// append makes a group durable on every member, changing the membership where
// that is what it takes. After an error nobody knows whether it is.
func (c *committer) append(rec *record, commit, prev uint64) error {
	c.offer(rec, commit, prev)
	c.await(commit)
	for c.anyFailed() {
		if err := c.reconfigure(); err != nil {
			return err
		}
		if behind := slices.ContainsFunc(c.members, func(m *member) bool { return m.synced < commit }); behind {
			c.offer(rec, commit, prev) // the members are new ones
			c.await(commit)
		}
	}
	return nil
}

// offer sends the group to the members that lack it, and to the joiner.
func (c *committer) offer(rec *record, commit, prev uint64) {
	all := c.members
	if c.joiner != nil {
		all = append(slices.Clip(all), c.joiner)
	}
	for _, m := range all {
		if m.err != nil || m.synced >= commit {
			continue
		}
		rec.refs.Add(1)
		if !m.send(job{rec, commit, prev}) {
			rec.release()
			m.err = errBehind
		}
	}
}

// await waits until every member has the commit or has failed. One that is
// slower than the others by EvictAfter has failed; all together may take
// StallAfter.
func (c *committer) await(commit uint64) {
	var timer <-chan time.Time
	waited := time.Duration(0)
	step := c.cfg.EvictAfter
	for {
		if late, _ := c.late(commit); len(late) == 0 {
			return
		}
		if timer == nil {
			timer = c.cfg.Clock.After(step)
		}
		select {
		case r := <-c.results:
			c.note(r)
			continue
		case <-timer:
			waited += step
			step = c.cfg.EvictAfter / 4
			timer = nil
		}
		// What is there already counts: where the process itself stood still, the time
		// is up for who has answered, too.
		c.noteAll()
		late, done := c.late(commit)
		if done || waited >= c.cfg.StallAfter {
			for _, m := range late {
				m.err = errHung
			}
		}
	}
}

// late gives the members without the commit, and the joiner where it is far
// behind; done says that a member has it.
func (c *committer) late(commit uint64) (late []*member, done bool) {
	for _, m := range c.members {
		switch {
		case m.err != nil:
		case m.synced >= commit && m.alive:
			done = true
		default:
			late = append(late, m)
		}
	}
	if j := c.joiner; j != nil && j.err == nil && commit > j.synced+memberJobs/2 {
		late = append(late, j) // or its queue would overflow
	}
	return late, done
}

// note takes in what a member reports.
func (c *committer) note(r result) {
	m := r.m
	m.alive = true
	m.synced = max(m.synced, r.commit)
	if r.err != nil && m.err == nil {
		m.err = r.err
	}
}

// noteAll takes in what members have reported.
func (c *committer) noteAll() {
	for {
		select {
		case r := <-c.results:
			c.note(r)
		default:
			return
		}
	}
}

func (c *committer) anyFailed() bool {
	for _, m := range c.members {
		if m.err != nil {
			return true
		}
	}
	return false
}

// goDown stops commits until recover succeeds. Reads go on where they can.
func (c *committer) goDown(err error) {
	c.cfg.Logger.Error("journal unavailable", "err", err)
	c.downErr = err
	c.stopMembers()
	c.s.mu.Lock()
	c.s.down = err
	c.s.mu.Unlock()
	c.lastRecover = c.cfg.Clock.Now()
	c.publish()
}

func (c *committer) stopMembers() {
	for _, m := range c.members {
		m.stop()
	}
	c.members = nil
	c.abortJoin(nil)
}

// shutdown ends everything, within bounds.
func (c *committer) shutdown() {
	stopped := c.members
	c.stopMembers()
	limit := c.cfg.Clock.After(c.cfg.StallAfter)
	for _, m := range stopped {
		select {
		case <-m.ended:
		case <-limit:
		}
	}
	st := c.state
	c.s.setState(nil)
	c.state = nil
	if st == nil {
		return
	}
	if !st.hasFailed() {
		st.checkpoint(limit)
	}
	st.drop()
	select {
	case <-st.ended:
	case <-st.failed:
	case <-limit:
	}
}

// publish renews the status.
func (c *committer) publish() {
	s := &Status{Generation: c.rec.Generation, Commit: c.commit, LogBytes: c.logBytes}
	for _, m := range c.members {
		s.Members = append(s.Members, m.d.id)
	}
	if c.joining != nil {
		s.Joining = []storagenode.DriveID{c.joining.id}
	}
	if c.joiner != nil && c.joiner.synced < c.commit {
		s.Lag = c.commit - c.joiner.synced
	}
	if c.state != nil {
		s.StateDrive = c.state.drive.id
	}
	s.Left = c.left()
	switch {
	case c.downErr != nil:
		s.Degraded = "unavailable: " + c.downErr.Error()
		if n := c.givenUp(); n > 0 {
			s.Degraded += fmt.Sprintf("; %d drives failed a write or a sync and are not tried again: see to their disks, then start this process anew", n)
		}
	case c.state == nil:
		s.Degraded = "the state is being rebuilt"
	case len(c.members) < c.cfg.Tolerance+1:
		s.Degraded = fmt.Sprintf("%d members of %d", len(c.members), c.cfg.Tolerance+1)
	}
	c.s.status.Store(s)
}

// givenUp is how many drives failed in a way that does not pass by itself.
func (c *committer) givenUp() (n int) {
	for _, d := range c.drives {
		if d.usable && d.failure != nil && d.retry.IsZero() {
			n++
		}
	}
	return n
}

var errNoDrives = fmt.Errorf("%w: too few drives are usable", kv.ErrUnavailable)
