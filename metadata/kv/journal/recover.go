package journal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// errEnded is what recover ends with when stop was closed.
var errEnded = fmt.Errorf("%w: opening was ended", kv.ErrUnavailable)

// recover brings the namespace into service from what is on the drives: at
// open, and after all members were lost. Nothing is served before every group
// found is durable on every member.
func (c *committer) recover(stop <-chan struct{}, format bool) error {
	top, err := c.newestRecord(format)
	if err != nil {
		return err
	}
	if top.Generation == 0 {
		if top, err = c.format(); err != nil {
			return err
		}
	} else if c.inForce == 0 && !c.sawAll {
		c.tried = max(c.tried, top.Generation+leap)
	}
	c.rec = top
	logs, best, err := c.readLogs(top)
	if c.inForce == 0 {
		best, err = c.reach(top, logs, best, err)
	}
	if err != nil {
		return err
	}
	if ended(stop) {
		return errEnded
	}
	if err := c.recoverMembers(logs, best); err != nil {
		c.stopMembers()
		return err
	}
	served, servedChain := c.commit, c.chain
	c.commit = best.last()
	c.chain, _ = best.chain(c.commit)
	c.snapSize = best.snap.size
	c.logBytes = best.beyond
	c.snapWanted = best.from > 0
	if err := c.settleMembership(top); err != nil {
		c.stopMembers()
		c.commit, c.chain = served, servedChain // more must not be read yet
		return err
	}
	c.s.window.reset(c.commit)
	c.s.started.Store(c.commit)
	if err := c.recoverState(best, stop); err != nil {
		c.stopMembers()
		return err
	}
	c.s.applied.Store(c.commit)
	c.downErr = nil
	c.s.mu.Lock()
	c.s.down = nil
	c.s.mu.Unlock()
	c.publish()
	return nil
}

func ended(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// newestRecord reads the membership of every drive. Generation 0 says that the
// namespace may be created.
func (c *committer) newestRecord(format bool) (top membership, err error) {
	recs := make([]membership, len(c.drives))
	errs := eachDrive(c.drives, func(i int, d *drive) (err error) {
		if !d.usable {
			return errors.New("not usable")
		}
		_ = c.again(func() error {
			if recs[i], err = c.readRecord(d); errors.Is(err, vfs.ErrNotExist) || errors.Is(err, errAway) {
				return nil // it is not there
			}
			return err
		})
		return err
	})
	readable, blank, created := 0, 0, 0
	var missing []string
	for i, d := range c.drives {
		d.record, d.known = 0, errs[i] == nil
		switch {
		case errs[i] == nil:
			readable++
			d.record = recs[i].Generation
			d.writing.Lock()
			d.tried = 0
			d.writing.Unlock()
			if recs[i].newer(top) {
				top = recs[i]
			}
			if !recs[i].Creating {
				created++
			}
			continue
		case errors.Is(errs[i], vfs.ErrNotExist):
			blank++
		}
		missing = append(missing, fmt.Sprintf("%s (%s): %v", d.id, d.dir, errs[i]))
	}
	c.sawAll = readable == len(c.drives)
	for i, d := range c.drives {
		if errs[i] == nil && (recs[i].Generation != top.Generation || !recs[i].Created.Equal(top.Created)) {
			d.record = 0 // to be written again
		}
	}
	if format && blank > 0 && blank+readable == len(c.drives) && created == 0 && c.neverUsed() {
		return membership{}, nil
	}
	if !c.sureOf(top, readable) {
		return top, fmt.Errorf("%w: the journal's membership can be read on %d of %d drives, all but %d are needed; missing: %s",
			kv.ErrUnavailable, readable, len(c.drives), c.cfg.Tolerance, strings.Join(missing, "; "))
	}
	return top, nil
}

// sureOf says that no generation newer than top was ever in force: so many
// records were read that it would have been among them, or top is as new as the
// last one this process put in force, and nobody else could.
func (c *committer) sureOf(top membership, readable int) bool {
	if c.inForce > 0 && top.Generation >= c.inForce && readable >= needed(len(c.drives), c.cfg.Tolerance) {
		return true
	}
	return readable > 0 && readable >= len(c.drives)-c.cfg.Tolerance
}

// errAway stands for fs.ErrNotExist: a drive that is away is not a blank one.
var errAway = errors.New("away")

// readRecord reads a drive's record of the membership.
func (c *committer) readRecord(d *drive) (membership, error) {
	err := d.there()
	if errors.Is(err, vfs.ErrNotExist) || errors.Is(err, errOther) {
		err = fmt.Errorf("%w: %s", errAway, err.Error())
	}
	if err != nil {
		return membership{}, err
	}
	return d.readMembership(c.cfg.Cluster)
}

// neverUsed says that no drive's log has a group: the namespace was being
// created when the power went.
func (c *committer) neverUsed() bool {
	used := eachDrive(c.drives, func(_ int, d *drive) error {
		names, err := d.fs.List(d.journalDir())
		if errors.Is(err, vfs.ErrNotExist) {
			return nil
		}
		for _, n := range names {
			if _, ok := numbered(n, snapPrefix); ok {
				return errLog
			}
			if _, ok := numbered(n, logPrefix); !ok {
				continue
			}
			b, err := readSmall(d.fs, d.path(n), logMax)
			if err != nil || groupWithin(b, c.cfg.Cluster, 1) {
				return errLog
			}
		}
		return err
	})
	return errors.Join(used...) == nil
}

// format creates an empty namespace. The logs come first, so that a member
// without any log is known to be damaged.
func (c *committer) format() (membership, error) {
	picked := c.candidates()
	picked = picked[:min(len(picked), c.cfg.Tolerance+1)]
	if len(picked) == 0 {
		return membership{}, fmt.Errorf("%w: create the journal: %w", kv.ErrUnavailable, errNoDrives)
	}
	c.commit, c.chain = 0, genesis(c.cfg.Cluster)
	for i, err := range eachDrive(picked, func(_ int, d *drive) error { return d.wipeLog(d.claim(), 0, 0) }) {
		if err != nil {
			return membership{}, fmt.Errorf("create the journal on drive %s: %w", picked[i].id, err)
		}
		c.members = append(c.members, startMember(c.cfg, picked[i], c.results, 1, c.chain))
	}
	c.await(0)
	for _, m := range c.members {
		if m.err != nil {
			err := m.err
			c.stopMembers()
			return membership{}, fmt.Errorf("create the journal: %w", err)
		}
	}
	c.rec = membership{Creating: true}
	err := c.writeGeneration()
	for _, d := range c.drives {
		if err == nil && d.record != c.rec.Generation {
			err = fmt.Errorf("%w: drive %s has no membership", kv.ErrUnavailable, d.id)
		}
	}
	if err != nil {
		c.stopMembers()
		return membership{}, fmt.Errorf("create the journal: %w", err)
	}
	members := c.members
	c.stopMembers()
	for _, m := range members {
		<-m.ended
	}
	return c.rec, nil
}

// readLogs verifies the members' logs, syncs what was found, and picks the
// longest. A group that only a member has which cannot be synced was never
// acknowledged: that takes all members.
func (c *committer) readLogs(top membership) (logs []*memberLog, best *memberLog, err error) {
	var drives []*drive
	var missing []string
	for _, id := range top.Members {
		d := c.drive(id)
		if d != nil && d.open() && d.known {
			drives = append(drives, d)
		} else {
			missing = append(missing, id.String()+": away")
		}
	}
	logs = make([]*memberLog, len(drives))
	eachDrive(drives, func(i int, d *drive) error {
		logs[i] = c.readLog(d, true)
		return nil
	})
	for _, l := range logs {
		switch {
		case l.err != nil:
		case l.last() < top.Commit:
			l.err = fmt.Errorf("%w: it ends at commit %d, before its membership's %d", errLog, l.last(), top.Commit)
		case c.inForce > 0 && !c.hasServed(l):
			l.err = fmt.Errorf("%w: it lacks commit %d, which was readable", errLog, c.commit)
		case best == nil || l.last() > best.last():
			best = l
		}
		if l.err != nil {
			missing = append(missing, fmt.Sprintf("%s (%s): %v", l.drive.id, l.drive.dir, l.err))
			c.cfg.Logger.Warn("journal member unreadable", "drive", l.drive.id.String(), "err", l.err)
		}
	}
	if best == nil {
		return logs, nil, fmt.Errorf("%w: no member of the journal's generation %d is whole: bring one of them back as it was, or load a dump of the metadata into new drives: %s",
			kv.ErrUnavailable, top.Generation, strings.Join(missing, "; "))
	}
	return logs, best, nil
}

// hasServed says whether the log has all that was readable in this process.
func (c *committer) hasServed(l *memberLog) bool {
	chain, ok := l.chain(c.commit)
	return ok && chain == c.chain
}

// recoverMembers starts the members and brings those that lack the end up to
// it. A member that diverges is left for a new copy.
func (c *committer) recoverMembers(logs []*memberLog, best *memberLog) error {
	shortest := best.last()
	c.members = nil
	for _, l := range logs {
		if l.err == nil && !l.prefixOf(best) {
			l.err = fmt.Errorf("%w: it diverges", errLog)
		}
		if l.err != nil {
			c.cfg.Logger.Warn("journal member left out", "drive", l.drive.id.String(), "err", l.err)
			continue
		}
		chain, _ := l.chain(l.last())
		m := startMember(c.cfg, l.drive, c.results, l.last()+1, chain)
		m.synced = l.last()
		c.members = append(c.members, m)
		shortest = min(shortest, l.last())
	}
	prev, _ := best.chain(shortest)
	err := best.each(c.cfg.Cluster, shortest, func(g group, raw []byte) error {
		c.offer(&record{raw: raw}, g.commit, prev)
		prev = g.chain
		c.await(g.commit)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
	}
	c.await(best.last())
	c.members = slices.DeleteFunc(c.members, func(m *member) bool {
		if m.err != nil {
			c.cfg.Logger.Warn("journal member left out", "drive", m.d.id.String(), "err", m.err)
			c.exclude(m.d, m.err)
			m.stop()
		}
		return m.err != nil
	})
	if len(c.members) == 0 {
		return fmt.Errorf("%w: no member of the journal can be written", kv.ErrUnavailable)
	}
	return nil
}

// syncTail makes durable what was read: the process may have been killed
// before its own sync.
func (l *memberLog) syncTail() error {
	d := l.drive
	f, err := d.fs.OpenFile(d.path(numberedName(logPrefix, l.files[len(l.files)-1])), os.O_RDWR)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close(), d.fs.SyncDir(d.journalDir())); err != nil {
		return fmt.Errorf("%w: %w", errSync, err)
	}
	return nil
}

// settleMembership puts a new generation in force where the members differ
// from the record, the record is on too few drives, a later one was tried or may
// have been, which drives that are away would have, or the namespace is new.
func (c *committer) settleMembership(top membership) error {
	var ids []storagenode.DriveID
	for _, m := range c.members {
		ids = append(ids, m.d.id)
	}
	have := 0
	for _, d := range c.drives {
		if d.record == top.Generation {
			have++
		}
	}
	if !top.Creating && slices.Equal(ids, top.Members) && c.tried <= top.Generation &&
		have >= needed(len(c.drives), c.cfg.Tolerance) {
		c.inForce = top.Generation
		c.publish()
		return nil
	}
	c.rec.Creating = false
	if err := c.writeGeneration(); err != nil {
		return fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
	}
	return nil
}
