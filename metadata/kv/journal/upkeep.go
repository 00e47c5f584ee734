package journal

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"kintsugi/storagenode/vfs"
)

// upkeep does what is due between groups.
func (c *committer) upkeep() {
	now := c.cfg.Clock.Now()
	if c.downErr != nil {
		if now.Sub(c.lastRecover) >= 10*c.cfg.Tick {
			c.revive(now)
		}
		if c.downErr != nil && (c.state == nil || c.state.hasFailed()) {
			c.salvageState(now)
		}
		return
	}
	if c.state == nil || c.state.hasFailed() {
		c.rebuildState()
		c.publish()
	}
	if c.anyFailed() && c.downErr == nil {
		if err := c.reconfigure(); err != nil {
			c.goDown(err)
		}
	}
	if c.downErr != nil || now.Sub(c.lastTick) < c.cfg.Tick {
		return
	}
	c.lastTick = now
	if now.Sub(c.lastProbe) >= 10*c.cfg.Tick {
		c.lastProbe = now
		for _, m := range c.members {
			m.send(job{})
		}
		c.forgive(now)
		c.spreadMissing()
	}
	if err := c.finishJoin(); err != nil {
		c.goDown(err)
		return
	}
	c.startJoin()
	c.moveState(now)
	c.startSnapshot(now)
	c.startCheckpoint(now)
	c.startCheck(now)
	c.publish()
}

// revive tries to open the namespace again.
func (c *committer) revive(now time.Time) {
	c.lastRecover = now
	c.forgive(now)
	if err := c.recover(nil, false); err != nil {
		c.cfg.Logger.Warn("journal still unavailable", "err", err)
		c.downErr = err
		c.publish()
		return
	}
	c.cfg.Logger.Info("journal available again", "commit", c.commit)
}

// forgive lets drives try again whose failure may have passed.
func (c *committer) forgive(now time.Time) {
	for _, d := range c.drives {
		if d.failure != nil && !d.retry.IsZero() && !now.Before(d.retry) {
			d.failure = nil
		}
	}
}

// spreadMissing writes the membership to drives that lack it: they came back.
func (c *committer) spreadMissing() {
	b, err := c.rec.encode()
	if err != nil {
		return
	}
	generation := c.rec.Generation
	for _, d := range c.drives {
		if d.record == generation || !d.usable || d.failure != nil || d.fs.isStuck() {
			continue
		}
		go func() {
			if d.writeMembership(generation, b) == nil {
				c.s.control(func(*committer) { d.record = max(d.record, generation) })
			}
		}()
	}
}

// startSnapshot begins a snapshot on all members when the log has grown.
func (c *committer) startSnapshot(now time.Time) {
	if c.snapshotting || !c.snapWanted && c.logBytes < max(c.cfg.SnapshotAfter, c.snapSize) ||
		now.Before(c.snapshotDue) || !c.state.acquire() {
		return
	}
	c.snapshotting = true
	bytes, wanted, st := c.logBytes, c.snapWanted, c.state
	c.logBytes, c.snapWanted = 0, false
	var drives []*drive
	for _, m := range c.members {
		drives = append(drives, m.d)
	}
	go func() {
		defer st.release()
		commit, size, errs := c.snapshotAll(st, drives)
		c.s.control(func(c *committer) {
			c.snapshotting = false
			if errors.Join(errs...) != nil {
				c.logBytes += bytes
				c.snapWanted = c.snapWanted || wanted
			} else {
				c.snapSize = size
			}
			c.snapshotDone(drives, errs, commit)
		})
	}()
}

// snapshotAll runs beside the committer.
func (c *committer) snapshotAll(st *state, drives []*drive) (commit uint64, size int64, errs []error) {
	errs = make([]error, len(drives))
	snap, err := st.snapshot()
	if err == nil {
		defer func() { _ = snap.Close() }()
		// What the log loses the state should not have to replay.
		st.checkpoint(nil)
	}
	for i, d := range drives {
		if errs[i] = err; err == nil {
			n, bytes, failed := writeSnapshot(d, c.cfg.Cluster, snap)
			if errs[i] = failed; failed == nil {
				commit, size = n, bytes // of all that have it
			}
			if st.hasFailed() {
				err = st.cause
				errs[i] = err
			}
		}
	}
	return commit, size, errs
}

// snapshotDone trims the members that have the snapshot; the others have
// failed, unless it was the state that did. Where no drive has room for one, or the
// process is short, there are no better members: it is put off.
func (c *committer) snapshotDone(drives []*drive, errs []error, commit uint64) {
	var trim []*drive
	some := slices.Contains(errs, nil)
	for i, d := range drives {
		switch {
		case !c.isMember(d) || c.state == nil || c.state.hasFailed():
		case errs[i] != nil && passing(errs[i]) && (!some || vfs.Short(errs[i])):
			c.cfg.Logger.Warn("no room for a snapshot, it is put off", "drive", d.id.String(), "err", errs[i])
			c.snapshotDue = c.cfg.Clock.Now().Add(c.cfg.RetryAfter)
		case errs[i] != nil:
			c.driveLost(d, fmt.Errorf("snapshot: %w", errs[i]))
		default:
			trim = append(trim, d)
		}
	}
	for i, err := range eachDrive(trim, func(_ int, d *drive) error { return d.trim(commit) }) {
		if err != nil && !passing(err) { // else the next one trims
			c.driveLost(trim[i], fmt.Errorf("trim: %w", err))
		}
	}
}

// startCheckpoint flushes the state now and then.
func (c *committer) startCheckpoint(now time.Time) {
	if c.checkpointing || now.Sub(c.lastCheckpoint) < c.cfg.Checkpoint ||
		c.checkpointed == c.commit || !c.state.acquire() {
		return
	}
	c.checkpointing, c.lastCheckpoint, c.checkpointed = true, now, c.commit
	st := c.state
	go func() {
		st.checkpoint(nil)
		st.release()
		c.s.control(func(c *committer) { c.checkpointing = false })
	}()
}
