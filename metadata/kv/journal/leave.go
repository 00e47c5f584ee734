package journal

import (
	"slices"
	"time"

	"kintsugi/storagenode"
)

// A drive that is to be taken out keeps its member until another drive has
// joined (join.go), and its state until another one is built: nothing is ever
// short of a copy for it.

// SetLeaving says whether a drive is to be taken out. Status.Left has it once it
// may be; where no other drive can take its place, never.
func (s *Store) SetLeaving(id storagenode.DriveID, leaving bool) {
	s.control(func(c *committer) {
		if d := c.drive(id); d != nil && d.leaving != leaving {
			d.leaving = leaving
			c.publish()
		}
	})
}

// staying counts the members on drives that are not to be taken out.
func (c *committer) staying() (n int) {
	for _, m := range c.members {
		if !m.d.leaving {
			n++
		}
	}
	return n
}

// letGo leaves members out whose drives are to be taken out and whose places
// others have taken. A new generation must follow.
func (c *committer) letGo() {
	for i := 0; i < len(c.members) && len(c.members) > c.cfg.Tolerance+1; {
		m := c.members[i]
		if !m.d.leaving {
			i++
			continue
		}
		c.cfg.Logger.Info("journal leaves a drive", "drive", m.d.id.String(), "why", "it is to be taken out")
		m.stop()
		c.members = slices.Delete(slices.Clone(c.members), i, i+1)
	}
}

// moveState builds a state elsewhere where its drive is to be taken out. Reads
// go on in the old one; commits wait.
func (c *committer) moveState(now time.Time) {
	if c.state == nil || !c.state.drive.leaving || !c.lastMove.IsZero() && now.Sub(c.lastMove) < 10*c.cfg.Tick {
		return
	}
	if to := c.stateDrives(); len(to) == 0 || to[0].leaving {
		return
	}
	c.lastMove = now
	var logs []*memberLog
	for _, m := range c.members {
		logs = append(logs, &memberLog{drive: m.d})
	}
	if err := c.buildState(logs, nil); err != nil {
		c.cfg.Logger.Warn("state was not moved", "from", c.state.drive.id.String(), "err", err)
	}
}

// left gives the drives that are to be taken out and may be: they are no
// members, have no state, and all others know so.
func (c *committer) left() (left []storagenode.DriveID) {
	for _, d := range c.drives {
		if d.usable && !d.leaving && d.record != c.rec.Generation {
			return nil
		}
	}
	for _, d := range c.drives {
		if d.leaving && !c.isMember(d) && d != c.joining && (c.state == nil || c.state.drive != d) {
			left = append(left, d.id)
		}
	}
	return left
}

// stayFirst moves the drives that are to be taken out to the end.
func stayFirst(drives []*drive) []*drive {
	slices.SortStableFunc(drives, func(a, b *drive) int {
		switch {
		case a.leaving == b.leaving:
			return 0
		case a.leaving:
			return 1
		}
		return -1
	})
	return drives
}
