package journal

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode/vfs"
)

// A drive joins in steps, each on the committer but for the slow work between:
//
//  1. what it has of the log is removed;
//  2. a member is started on it that gets every group from then on;
//  3. a snapshot of the state, taken after that, is written to it and read
//     back: with the groups it is a whole log;
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
	claim := d.claim()
	go func() {
		err := d.wipeLog(claim)
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
	st := c.state
	go func() {
		defer st.release()
		size, err := c.copyState(st, d)
		c.s.control(func(c *committer) {
			if c.joiner != m {
				return
			}
			if err != nil {
				c.abortJoin(err)
				return
			}
			c.snapSize = max(c.snapSize, size)
			m.ready = true
		})
	}()
}

// copyState is step 3. It runs beside the committer and reads of it only what
// never changes.
func (c *committer) copyState(st *state, d *drive) (int64, error) {
	snap, err := st.snapshot()
	if err != nil {
		return 0, err
	}
	defer func() { _ = snap.Close() }()
	_, size, err := c.saveSnapshot(snap, d)
	return size, err
}

// saveSnapshot writes a snapshot and reads it back.
func (c *committer) saveSnapshot(snap *pebble.Snapshot, d *drive) (commit uint64, size int64, err error) {
	commit, size, err = writeSnapshot(d, c.cfg.Cluster, snap)
	if err != nil {
		return 0, 0, err
	}
	ref, err := openSnapshot(d, c.cfg.Cluster, commit)
	if err == nil {
		err = readSnapshot(d, c.cfg.Cluster, ref, func(_, _ []byte) error { return nil })
	}
	return commit, size, err
}

// begin writes a snapshot of all there is to a drive that is to be a member from
// there on. What it has of the log is removed before. But where that is whole, since
// the drive was a member before its disk moved, it may be the only one: it stays
// until it has been begun anew after the snapshot, and may be trimmed then.
func (c *committer) begin(d *drive, snap *pebble.Snapshot) (whole bool, err error) {
	claim := d.claim()
	switch log := c.readLog(d, false); {
	case log.err == nil && c.hasServed(log):
		whole = true
	case log.err != nil && !errors.Is(log.err, errLog) && !errors.Is(log.err, vfs.ErrNotExist):
		return false, log.err // nobody knows
	default:
		if err := d.wipeLog(claim); err != nil {
			return false, err
		}
	}
	_, _, err = c.saveSnapshot(snap, d)
	return whole, err
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

// claim comes before wipeLog. It makes every earlier one void: what a drive has
// since it became a member stays, however late a wipe that was given up goes on.
func (d *drive) claim() uint64 { return d.claims.Add(1) }

// wipeLog removes logs and snapshots from a drive that is no member.
func (d *drive) wipeLog(claim uint64) error {
	d.wiping.Lock()
	defer d.wiping.Unlock()
	if d.claims.Load() != claim {
		return errAbandoned
	}
	if err := d.makeDir(); err != nil {
		return err
	}
	names, err := d.fs.List(d.journalDir())
	if err != nil {
		return err
	}
	for _, n := range names {
		if n == membershipFile {
			continue
		}
		if err := d.fs.Remove(d.path(n)); err != nil {
			return err
		}
	}
	return d.fs.SyncDir(d.journalDir())
}

// trim removes from a member what a snapshot at commit makes superfluous.
func (d *drive) trim(commit uint64) error {
	if err := d.there(); err != nil {
		return err
	}
	names, err := d.fs.List(d.journalDir())
	if err != nil {
		return err
	}
	var logs []uint64 // ascending, as names are
	for _, n := range names {
		if c, ok := numbered(n, logPrefix); ok {
			logs = append(logs, c)
		}
		if c, ok := numbered(n, snapPrefix); ok && c < commit {
			if err := d.fs.Remove(d.path(n)); err != nil {
				return err
			}
		}
	}
	for i := 0; i+1 < len(logs) && logs[i+1] <= commit+1; i++ {
		if err := d.fs.Remove(d.path(numberedName(logPrefix, logs[i]))); err != nil {
			return err
		}
	}
	return d.fs.SyncDir(d.journalDir())
}
