package journal

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// reconfigure leaves failed members out, by a new generation. What was being
// appended is on all that remain; where none does, new members are made from
// the state and lack it.
func (c *committer) reconfigure() error {
	var ok []*member
	for _, m := range c.members {
		if m.err == nil {
			ok = append(ok, m)
			continue
		}
		c.cfg.Logger.Warn("journal leaves a drive", "drive", m.d.id.String(), "err", m.err)
		c.exclude(m.d, m.err)
		m.stop()
	}
	c.members = ok
	return c.writeGeneration()
}

// errSync: what was written may be lost, also where a later sync succeeds.
var errSync = errors.New("sync failed")

// errUnusable: somebody said so, and may have said otherwise since.
var errUnusable = errors.New("declared unusable")

// exclude notes a drive's failure. After a hang, with a full disk, while the process
// is short of files or memory, when its directory went away or what it had was found
// damaged, it may try again; anything else, a failed sync above all, needs somebody to
// say that it is usable.
func (c *committer) exclude(d *drive, err error) {
	d.failure = err
	d.retry = time.Time{}
	if errors.Is(err, errSync) {
		return // whatever its reason is called
	}
	if errors.Is(err, errHung) || errors.Is(err, errBehind) || passing(err) ||
		errors.Is(err, vfs.ErrNotExist) || errors.Is(err, errOther) || errors.Is(err, errUnlinked) || errors.Is(err, errReplaced) ||
		errors.Is(err, errRotten) || errors.Is(err, errUnusable) {
		d.retry = c.cfg.Clock.Now().Add(c.cfg.RetryAfter)
	}
}

// passing says whether a call failed for want of space, or of files or memory.
func passing(err error) bool {
	return !errors.Is(err, errSync) && (vfs.NoSpace(err) || vfs.Short(err))
}

// emergency makes members where none is left: every acknowledged commit is in
// the state, so a snapshot of it on other drives is a whole log.
func (c *committer) emergency() error {
	c.abortJoin(nil)
	if c.state == nil || c.state.hasFailed() {
		return fmt.Errorf("%w: all members of the journal are lost, and the state", errNoDrives)
	}
	snap, err := c.state.snapshot()
	if err != nil {
		return fmt.Errorf("%w: all members of the journal are lost: %w", errNoDrives, err)
	}
	defer func() { _ = snap.Close() }()
	if commit, chain, err := covered(snap); err != nil || commit != c.commit || chain != c.chain {
		return fmt.Errorf("%w: all members of the journal are lost, and the state is behind", errNoDrives)
	}
	for len(c.members) == 0 {
		picked := c.candidates()
		if len(picked) == 0 {
			return fmt.Errorf("%w: all members of the journal are lost", errNoDrives)
		}
		picked = picked[:min(len(picked), c.cfg.Tolerance+1)]
		errs := eachDrive(picked, func(_ int, d *drive) error { return c.begin(d, snap) })
		for i, d := range picked {
			if errs[i] != nil {
				c.exclude(d, errs[i])
				continue
			}
			c.members = append(c.members, startMember(c.cfg, d, c.results, c.commit+1, c.chain))
			d.vain = 0
		}
		c.await(c.commit)
		for _, m := range c.members {
			if m.err == nil {
				m.err = m.d.trim(c.commit)
			}
		}
		c.members = slices.DeleteFunc(c.members, func(m *member) bool {
			if m.err != nil {
				c.exclude(m.d, m.err)
				m.stop()
			}
			return m.err != nil
		})
	}
	return nil
}

// candidates are the drives that may become members, those that are to be taken
// out last. Those with too little room are left out.
func (c *committer) candidates() []*drive {
	var out []*drive
	for _, d := range c.drives {
		if d == c.joining || !d.open() || d.there() != nil {
			continue
		}
		if u, err := d.fs.Usage(d.dir); err == nil && u.Free > 4*c.cfg.LogSize+2*c.snapSize {
			out = append(out, d)
		}
	}
	return stayFirst(out)
}

// writeGeneration puts the membership {generation+1, c.members} in force. A
// member that cannot write it is left out in turn.
func (c *committer) writeGeneration() error {
	for {
		if len(c.members) == 0 {
			if err := c.emergency(); err != nil {
				return err
			}
		}
		c.rec.Generation = max(c.rec.Generation, c.tried) + 1
		c.tried = c.rec.Generation
		c.rec.Format, c.rec.Cluster = membershipFormat, c.cfg.Cluster
		c.rec.Commit = c.commit
		c.rec.Created = c.cfg.Clock.Now().UTC()
		c.rec.Members = nil
		for _, m := range c.members {
			c.rec.Members = append(c.rec.Members, m.d.id)
		}
		wrote, err := c.spread()
		if err != nil {
			return err
		}
		var ok []*member
		for _, m := range c.members {
			if m.d.record == c.rec.Generation {
				ok = append(ok, m)
			}
		}
		if len(ok) == len(c.members) {
			if n := needed(len(c.drives), c.cfg.Tolerance); wrote < n {
				return fmt.Errorf("%w: the membership is on %d of %d drives", errNoDrives, wrote, n)
			}
			c.inForce = c.rec.Generation
			c.cfg.Logger.Info("journal members", "generation", c.rec.Generation, "members", len(ok))
			c.publish()
			return nil
		}
		for _, m := range c.members {
			if m.d.record != c.rec.Generation {
				c.exclude(m.d, fmt.Errorf("the membership could not be written: %w", m.d.unwritten))
				m.stop()
			}
		}
		c.members = ok
	}
}

// spread writes the record to all usable drives, side by side, and says how
// many have it. It does not wait for slow ones longer than EvictAfter, as long
// as there are enough.
func (c *committer) spread() (int, error) {
	b, err := c.rec.encode()
	if err != nil {
		return 0, err
	}
	type wrote struct {
		d   *drive
		err error
	}
	done := make(chan wrote, len(c.drives))
	n, generation := 0, c.rec.Generation
	for _, d := range c.drives {
		d.unwritten = errHung
		if d.usable && !d.fs.isStuck() {
			n++
			go func() { done <- wrote{d, d.writeMembership(generation, b)} }()
		}
	}
	have := 0
	slow := c.cfg.Clock.After(c.cfg.EvictAfter)
	for ; n > 0; n-- {
		select {
		case w := <-done:
			if w.err == nil {
				w.d.record, w.d.known = c.rec.Generation, true
				have++
			} else {
				w.d.unwritten = w.err
				c.cfg.Logger.Warn("membership not written", "drive", w.d.id.String(), "err", w.err)
			}
			continue
		case <-slow:
			slow = nil
			n++ // nobody came
		}
		if have >= needed(len(c.drives), c.cfg.Tolerance) && c.membersHave() {
			break
		}
	}
	return have, nil
}

func (c *committer) membersHave() bool {
	for _, m := range c.members {
		if m.d.record != c.rec.Generation {
			return false
		}
	}
	return true
}

func (c *committer) drive(id storagenode.DriveID) *drive {
	for _, d := range c.drives {
		if d.id == id {
			return d
		}
	}
	return nil
}

// setUsable is Store.SetUsable.
func (c *committer) setUsable(id storagenode.DriveID, usable bool) {
	d := c.drive(id)
	if d == nil {
		return
	}
	d.usable = usable
	d.failure = nil
	switch {
	case !usable:
		c.driveLost(d, errUnusable)
	case c.downErr == nil:
		c.spreadMissing() // a start counts the drives that have the membership
	}
}

// replace is Store.Replace.
func (c *committer) replace(m Member) {
	known, at := c.drive(m.ID), -1
	for i, d := range c.drives {
		switch {
		case d == known && d.dir == m.Dir:
			d.displaced = false
			continue
		case d != known && d.dir != m.Dir:
		default: // paths of it lead to another drive now, or to none
			d.usable, d.displaced = false, true
			c.driveLost(d, errors.New("replaced"))
		}
		if d == known || known == nil && d.displaced && (at < 0 || d.dir == m.Dir) {
			at = i
		}
	}
	switch {
	case known != nil && known.dir == m.Dir: // it is there already
	case at < 0:
		c.drives = append(c.drives, c.newDrive(m))
	default:
		c.drives[at] = c.newDrive(m)
	}
}

func (c *committer) isMember(d *drive) bool {
	return slices.ContainsFunc(c.members, func(m *member) bool { return m.d == d })
}

// driveLost makes everything on the drive fail; upkeep sees to the rest.
func (c *committer) driveLost(d *drive, err error) {
	for _, m := range c.members {
		if m.d == d && m.err == nil {
			m.err = err
		}
	}
	if c.joining == d {
		c.abortJoin(err)
	}
	if c.state != nil && c.state.drive == d {
		c.state.fail(fmt.Errorf("drive %s: %w", d.id, err))
	}
}
