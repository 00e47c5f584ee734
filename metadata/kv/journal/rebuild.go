package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"kintsugi/metadata/kv"
)

const statePrefix = "db-"

// loadBatch is the size of the batches a state is built with.
const loadBatch = 1 << 20

var (
	errState  = errors.New("the state is of another log")
	errEnough = errors.New("what follows was never readable")
	errRotten = errors.New("the copy of the journal is damaged")
	errRoom   = errors.New("no drive answers and has room for one")
)

// recoverState finds a state that belongs to the log, or builds one, of another
// member's log where this one's snapshot is damaged, and brings it up to the log's
// end.
func (c *committer) recoverState(log *memberLog, stop <-chan struct{}) error {
	if st := c.state; st != nil && !st.hasFailed() {
		if c.replay(st, log) == nil {
			return nil
		}
		st.behind.Store(true)
		st.fail(errState)
	}
	old := c.keepReadable()
	for _, d := range c.drives {
		for _, name := range c.stateNames(d) {
			if c.state != old || d.hangs() {
				break
			}
			st, err := openState(c.cfg, d, name, c.s.wake)
			if err == nil {
				if err = c.replay(st, log); err == nil {
					c.setState(st)
					break
				}
				if errors.Is(err, errState) {
					st.leave()
				} else {
					st.fail(err)
					st.drop()
				}
			}
			c.cfg.Logger.Warn("state not used", "drive", d.id.String(), "err", err)
		}
	}
	if c.state != old {
		c.cleanStates()
		return nil
	}
	logs := []*memberLog{log}
	for _, m := range c.members {
		if m.d != log.drive {
			logs = append(logs, &memberLog{drive: m.d})
		}
	}
	return c.buildState(logs, stop)
}

// rebuildState replaces a state that has failed. Where that cannot be done the
// engine is down.
func (c *committer) rebuildState() {
	if c.state != nil {
		c.cfg.Logger.Warn("state lost", "drive", c.state.drive.id.String(), "err", c.state.cause)
	}
	c.keepReadable()
	c.publish()
	var logs []*memberLog
	for _, m := range c.members {
		if m.err == nil {
			logs = append(logs, &memberLog{drive: m.d})
		}
	}
	if err := c.buildState(logs, nil); err != nil {
		c.goDown(err)
	}
}

// salvageState builds a state to read from while nothing can be committed: of
// any drive whose log has all that was readable, member or not, which its chain
// proves. What goes beyond may not be durable and is left out.
func (c *committer) salvageState(now time.Time) {
	if c.inForce == 0 || !c.lastSalvage.IsZero() && now.Sub(c.lastSalvage) < 10*c.cfg.Tick {
		return
	}
	if c.state != nil {
		c.cfg.Logger.Warn("state lost", "drive", c.state.drive.id.String(), "err", c.state.cause)
	}
	c.keepReadable()
	var members, others []*memberLog
	for _, d := range c.drives {
		switch l := (&memberLog{drive: d}); {
		case !d.usable || d.hangs() || d.there() != nil:
		case slices.Contains(c.rec.Members, d.id):
			members = append(members, l)
		default:
			others = append(others, l)
		}
	}
	if err := c.buildState(append(members, others...), nil); err != nil {
		c.cfg.Logger.Warn("nothing can be read", "err", err)
	} else {
		c.s.applied.Store(c.commit)
	}
	c.lastSalvage = c.cfg.Clock.Now()
	c.publish()
}

// keepReadable drops the state, unless reads can go on in it until setState
// puts another one in its place.
func (c *committer) keepReadable() *state {
	if c.state != nil && !c.state.readable() {
		c.dropState()
	}
	return c.state
}

func (c *committer) dropState() {
	st := c.state
	c.s.setState(nil)
	c.state = nil
	if st != nil {
		st.drop()
	}
}

func (c *committer) setState(st *state) {
	old := c.state
	c.state = st
	c.s.setState(st)
	if old != nil {
		old.drop()
	}
}

// buildState makes a new state of the first of the logs that is whole. A log
// with nothing but its drive is read first.
func (c *committer) buildState(logs []*memberLog, stop <-chan struct{}) error {
	var errs []error
	for _, log := range logs {
		if log.chains == nil {
			log = c.readLog(log.drive, false)
		}
		if log.err == nil && !c.hasServed(log) {
			log.err = fmt.Errorf("%w: it ends at commit %d, or diverges, of %d", errLog, log.last(), c.commit)
		}
		if log.err != nil {
			errs = append(errs, log.err)
			continue
		}
		for _, d := range c.stateDrives() {
			st, err := c.buildFrom(log, d, stop)
			if err == nil {
				c.setState(st)
				c.cleanStates()
				c.cfg.Logger.Info("state built", "drive", d.id.String(), "commit", c.commit)
				return nil
			}
			if ended(stop) {
				return errEnded
			}
			c.cfg.Logger.Warn("state not built", "drive", d.id.String(), "err", err)
			errs = append(errs, err)
			if errors.Is(err, errSnapshot) || errors.Is(err, errLog) {
				// A copy is to take its place.
				c.driveLost(log.drive, fmt.Errorf("%w: %w", errRotten, err))
			}
			if ofLog(err) {
				break // nor can it be built elsewhere of that
			}
		}
	}
	if len(errs) == 0 {
		errs = append(errs, errRoom)
	}
	return fmt.Errorf("%w: no state can be built: %w", kv.ErrUnavailable, errors.Join(errs...))
}

// buildFrom is buildOn, again where the log cannot be read or seems damaged.
func (c *committer) buildFrom(log *memberLog, d *drive, stop <-chan struct{}) (st *state, err error) {
	_ = c.again(func() error {
		if ended(stop) {
			err = errEnded
			return nil
		}
		if st, err = c.buildOn(d, log); ofLog(err) {
			return err
		}
		return nil
	})
	return st, err
}

// ofLog says that it is for its log that a state cannot be built.
func ofLog(err error) bool {
	return errors.Is(err, errUnread) || errors.Is(err, errSnapshot) || errors.Is(err, errLog)
}

// stateDrives are where a state may be, best first: one failure should not
// take a member and the state, and what is to be taken out comes last.
func (c *committer) stateDrives() []*drive {
	var free, members []*drive
	for _, d := range c.drives {
		if !d.usable || d.failure != nil || d.hangs() || d.there() != nil {
			continue
		}
		if u, err := d.fs.Usage(d.dir); err != nil || u.Free < 2*c.snapSize+c.cfg.LogSize {
			continue
		}
		if slices.Contains(c.rec.Members, d.id) {
			members = append(members, d)
		} else {
			free = append(free, d)
		}
	}
	return stayFirst(append(free, members...))
}

// stateNames gives the drive's states, the newest last.
func (d *drive) stateNames() ([]string, error) {
	names, err := d.fs.List(d.stateDir())
	return slices.DeleteFunc(names, func(n string) bool {
		_, ok := numbered(n, statePrefix)
		return !ok
	}), err
}

// stateNames gives the states of a drive that can be used, the newest first. Where that
// was not finished, or cannot be opened, one before it may have all there is; but not
// while this process may have left a call behind in it.
func (c *committer) stateNames(d *drive) []string {
	if !d.usable || d.failure != nil || d.hangs() || d.there() != nil {
		return nil
	}
	names, err := d.stateNames()
	if err != nil {
		return nil
	}
	slices.Reverse(names)
	if c.downErr != nil {
		names = names[:min(len(names), 1)]
	}
	return names
}

func (c *committer) buildOn(d *drive, log *memberLog) (*state, error) {
	if err := d.there(); err != nil {
		return nil, err
	}
	c.stateSeq = max(c.stateSeq+1, uint64(c.cfg.Clock.Now().UnixNano()))
	st, err := openState(c.cfg, d, numberedName(statePrefix, c.stateSeq), c.s.wake)
	if err != nil {
		return nil, err
	}
	if err = c.load(st, log); err == nil {
		err = c.replay(st, log)
	}
	if err == nil && st.hasFailed() {
		err = st.cause
	}
	if err != nil {
		st.fail(err)
		st.drop()
		go func() { _ = d.fs.RemoveAll(filepath.Join(d.stateDir(), st.name)) }() // else found again at an open
		return nil, err
	}
	return st, nil
}

// load fills an empty state from the log's snapshot. The position comes last:
// a state that was not finished has none.
func (c *committer) load(st *state, log *memberLog) error {
	b := st.db.NewBatch()
	flush := func() error {
		err := st.apply(b)
		b = st.db.NewBatch()
		return err
	}
	if log.snap.commit > 0 {
		err := readSnapshot(log.drive, c.cfg.Cluster, log.snap, func(k, v []byte) error {
			if err := b.Set(stored(k), v, nil); err != nil || b.Len() < loadBatch {
				return err
			}
			return flush()
		})
		if err != nil {
			return err
		}
	}
	if err := b.Set(appliedKey, position(log.snap.commit, log.snap.chain), nil); err != nil {
		return err
	}
	return flush()
}

// replay brings a state that belongs to the log up to c.commit.
func (c *committer) replay(st *state, log *memberLog) error {
	commit, chain, err := covered(st.db)
	if err != nil {
		return err
	}
	if want, ok := log.chain(commit); !ok || want != chain {
		return fmt.Errorf("%w: it covers commit %d, the log %d to %d", errState, commit, log.before, log.last())
	}
	st.values.forget()
	err = log.each(c.cfg.Cluster, commit, func(g group, _ []byte) error {
		if g.commit > c.commit {
			return errEnough
		}
		b, err := st.batch(g.payload, g.commit, g.chain)
		if err != nil {
			return err
		}
		return st.apply(b)
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	st.values.forget()
	return nil
}

// cleanStates removes all states but the one in use. Names are never used
// twice, so the removal may take its time.
func (c *committer) cleanStates() {
	st := c.state
	var open []*drive
	for _, d := range c.drives {
		if d.usable && !d.hangs() {
			open = append(open, d)
		}
	}
	names := make([][]string, len(open))
	eachDrive(open, func(i int, d *drive) (err error) {
		if err = d.there(); err != nil {
			return err
		}
		names[i], err = d.stateNames()
		return err // nothing there, nothing to remove
	})
	for i, d := range open {
		go func() {
			for _, n := range names[i] {
				if d != st.drive || n != st.name {
					_ = d.fs.RemoveAll(filepath.Join(d.stateDir(), n)) // found again at the next open
				}
			}
		}()
	}
}
