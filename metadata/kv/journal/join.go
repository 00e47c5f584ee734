package journal

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// A drive joins in steps, each on the committer but for the slow work between:
//
//  1. what it has of a log that went on elsewhere is removed;
//  2. a member is started on it that gets every group from then on;
//  3. a snapshot of the state, taken after that, is written to it and read
//     back: with the groups it is a whole log. What it had before, which may be
//     all that is good of the log, stays until then, and is removed;
//  4. when it has all groups, a new generation counts it in.

// startJoin begins where a member is lacking and a drive is at hand.
func (c *committer) startJoin() {
	if c.joining != nil || c.downErr != nil || c.staying() > c.cfg.Tolerance {
		return
	}
	found := c.candidates()
	if len(found) == 0 || found[0].leaving && len(c.members) > c.cfg.Tolerance {
		return
	}
	d := found[0]
	c.joining = d
	claim, commit, vain := d.claim(), c.commit, d.vain
	go func() {
		err := d.wipeLog(claim, commit, vain)
		c.s.control(func(c *committer) {
			if d.claims.Load() == claim {
				c.joinStarted(d, err)
			}
		})
	}()
}

// joinStarted is step 2.
func (c *committer) joinStarted(d *drive, err error) {
	if c.joining != d || c.joiner != nil || c.downErr != nil {
		return
	}
	if err == nil && (c.state == nil || c.state.hasFailed() || !c.state.acquire()) {
		err = fmt.Errorf("%w: no state to copy", errHung)
	}
	if err != nil {
		c.abortJoin(err)
		return
	}
	m := startMember(c.cfg, d, c.results, c.commit+1, c.chain)
	m.synced = c.commit
	c.joiner = m
	if d.vain == 0 {
		d.vain = c.commit + 1
	}
	st, claim := c.state, d.claims.Load()
	go func() {
		defer st.release()
		size, err := c.copyState(st, m, claim)
		c.s.control(func(c *committer) {
			if c.joiner != m {
				return
			}
			if err != nil {
				c.abortJoin(err)
				return
			}
			c.snapSize = max(c.snapSize, size)
			m.ready, d.vain = true, 0
		})
	}()
}

// copyState is step 3. It runs beside the committer and reads of it only what
// never changes.
func (c *committer) copyState(st *state, m *member, claim uint64) (int64, error) {
	snap, err := st.snapshot()
	if err != nil {
		return 0, err
	}
	defer func() { _ = snap.Close() }()
	commit, size, err := writeSnapshot(m.d, c.cfg.Cluster, snap)
	if err != nil {
		return 0, err
	}
	select {
	case <-m.begun:
	case <-m.quit:
		return 0, errGivenUp
	}
	if m.beginErr != nil {
		return 0, m.beginErr
	}
	m.d.wiping.Lock()
	defer m.d.wiping.Unlock()
	if m.d.claims.Load() != claim {
		return 0, errAbandoned
	}
	return size, m.d.trim(commit)
}

// begin writes a snapshot of all there is to a drive that is to be a member from
// there on. What it has of the log stays until it has been begun anew after the
// snapshot: since the drive was a member before its disk moved, it may be the only
// one, and damaged as it is, with the state it has all there is.
func (c *committer) begin(d *drive, snap *pebble.Snapshot) error {
	if err := d.wipeLog(d.claim(), c.commit, d.vain); err != nil {
		return err
	}
	_, _, err := writeSnapshot(d, c.cfg.Cluster, snap)
	return err
}

// finishJoin is step 4; nothing is being appended.
func (c *committer) finishJoin() error {
	m := c.joiner
	if m == nil {
		return nil
	}
	if m.err != nil {
		c.abortJoin(m.err)
		return nil
	}
	if !m.ready || !m.alive || m.synced < c.commit {
		return nil
	}
	c.members = append(c.members, m)
	c.joiner, c.joining = nil, nil
	c.cfg.Logger.Info("drive joined the journal", "drive", m.d.id.String(), "commit", c.commit)
	c.letGo()
	return c.writeGeneration()
}

// abortJoin ends a join; err (nil: not the drive's fault) keeps the drive out
// for a while.
func (c *committer) abortJoin(err error) {
	if c.joining == nil {
		return
	}
	if err != nil {
		c.cfg.Logger.Warn("drive did not join the journal", "drive", c.joining.id.String(), "err", err)
		c.exclude(c.joining, err)
	}
	if c.joiner != nil {
		c.joiner.stop()
	}
	c.joiner, c.joining = nil, nil
}

// claim comes before wipeLog, and what a join removes. It makes every earlier one void: what a drive has
// since it became a member stays, however late a wipe that was given up goes on.
func (d *drive) claim() uint64 { return d.claims.Add(1) }

// wipeLog removes from a drive that is no member what a log that goes on after commit
// cannot have, nor be the end of: it went on elsewhere. And what joins in vain have left,
// from the commit vain on. What came before is for trim.
func (d *drive) wipeLog(claim, commit, vain uint64) error {
	d.wiping.Lock()
	defer d.wiping.Unlock()
	if d.claims.Load() != claim {
		return errAbandoned
	}
	if err := d.makeDir(); err != nil {
		return err
	}
	logs, snaps, err := d.files()
	if err != nil {
		return err
	}
	for _, n := range logs {
		if n <= commit+1 && (vain == 0 || n < vain) {
			continue // that of commit+1 is begun anew
		}
		if err := d.fs.Remove(d.path(numberedName(logPrefix, n))); err != nil {
			return err
		}
	}
	for _, n := range snaps {
		if n <= commit && (vain == 0 || n < vain) {
			continue
		}
		if err := d.fs.Remove(d.path(numberedName(snapPrefix, n))); err != nil {
			return err
		}
	}
	return d.fs.SyncDir(d.journalDir())
}

// trim removes from a drive with a snapshot at commit what that makes superfluous.
func (d *drive) trim(commit uint64) error {
	if err := d.there(); err != nil {
		return err
	}
	logs, snaps, err := d.files()
	if err != nil {
		return err
	}
	for _, n := range snaps {
		if n >= commit {
			break
		}
		if err := d.fs.Remove(d.path(numberedName(snapPrefix, n))); err != nil {
			return err
		}
	}
	for i := 0; i+1 < len(logs) && logs[i+1] <= commit+1; i++ {
		if err := d.fs.Remove(d.path(numberedName(logPrefix, logs[i]))); err != nil {
			return err
		}
	}
	return d.fs.SyncDir(d.journalDir())
}
