package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"kintsugi/storagenode/vfs"
)

// What lies in a member's files is read once, at an open. What goes bad in them
// meanwhile would be found by the next one, perhaps when the other members are
// gone, so they are read again now and then: every CheckEvery, but for no more
// than one part in checkShare of the time, unless that would make one wait for
// longer than checkRest times CheckEvery: a drive that hung for a moment, or a busy
// machine, must not end the looking for hours.
const (
	checkShare = 1000
	checkRest  = 60
	checkTries = 3
	checkPause = 200 * time.Millisecond
)

// checks says what is due; it is the committer's.
type checks struct {
	running bool
	due     time.Time
	next    int // the member whose turn it is
}

// startCheck reads the files of one member after another.
func (c *committer) startCheck(now time.Time) {
	if c.check.due.IsZero() {
		c.check.due = now.Add(c.cfg.CheckEvery)
	}
	if c.check.running || c.snapshotting || c.joining != nil || len(c.members) == 0 || now.Before(c.check.due) {
		return
	}
	c.check.running = true
	c.check.next = (c.check.next + 1) % len(c.members)
	every := c.cfg.CheckEvery / time.Duration(len(c.members))
	c.checkFiles(c.members[c.check.next:c.check.next+1], func(c *committer) {
		c.check.running = false
		now, took := c.cfg.Clock.Now(), c.cfg.Clock.Now().Sub(now)
		c.check.due = now.Add(max(every, min(checkShare*took, checkRest*c.cfg.CheckEvery)))
	})
}

// Check reads what all members hold, and begins to replace what is found bad; Status
// says so when it returns.
func (s *Store) Check(ctx context.Context) {
	done := make(chan struct{})
	s.control(func(c *committer) {
		c.checkFiles(c.members, func(c *committer) {
			c.s.control(func(*committer) { close(done) }) // upkeep comes first
		})
	})
	select {
	case <-done:
	case <-s.stopped:
	case <-ctx.Done():
	}
}

// checkFiles reads members' files and all records of membership, acts on what it
// finds, and then calls end.
func (c *committer) checkFiles(members []*member, end func(*committer)) {
	members = slices.Clone(members)
	synced, holders := make([]uint64, len(members)), make([]*drive, len(members))
	for i, m := range members {
		synced[i], holders[i] = m.synced, m.d
	}
	generation := c.rec.Generation
	var drives []*drive
	for _, d := range c.drives {
		if d.usable && d.failure == nil && d.record == generation && !d.fs.isStuck() {
			drives = append(drives, d)
		}
	}
	go func() {
		records := eachDrive(drives, func(_ int, d *drive) error { return c.checkRecord(d, generation) })
		logs := eachDrive(holders, func(i int, d *drive) error { return c.checkMember(d, synced[i]) })
		c.s.control(func(c *committer) {
			for i, d := range drives {
				if records[i] != nil && d.record == generation && generation == c.rec.Generation {
					c.cfg.Logger.Warn("membership record found bad", "drive", d.id.String(), "err", records[i])
					d.record = 0 // spreadMissing writes it again
				}
			}
			for i, m := range members {
				if logs[i] != nil {
					c.memberBad(m, logs[i])
				}
			}
			c.spreadMissing()
			end(c)
		})
	}()
}

// checkRecord reads a drive's record of the membership, which may be replaced
// meanwhile.
func (c *committer) checkRecord(d *drive, generation uint64) error {
	r, err := d.readMembership(c.cfg.Cluster)
	if err == nil && r.Generation < generation {
		return errOutdated
	}
	return err
}

// checkMember reads what a member holds. It is appended to and trimmed meanwhile,
// so that only what is wrong again and again is wrong.
func (c *committer) checkMember(d *drive, synced uint64) (err error) {
	err = c.again(func() error {
		l := readLog(d, c.cfg.Cluster)
		if l.err == nil && l.last() < synced {
			return fmt.Errorf("%w: it ends at commit %d, and %d was durable", errLog, l.last(), synced)
		}
		if l.err == nil && l.snap.commit > 0 {
			return readSnapshot(d, c.cfg.Cluster, l.snap, func(_, _ []byte) error { return nil })
		}
		return l.err
	})
	if errors.Is(err, errHung) || vfs.Short(err) {
		return nil // who hangs is found by others, and a process that is short says nothing of its drives
	}
	return err
}

// again reads something until it can be read and is good, or was not several times: a
// member is not given up, and its files are not replaced, for a read that failed once.
func (c *committer) again(read func() error) (err error) {
	for try := range checkTries {
		if try > 0 {
			<-c.cfg.Clock.After(checkPause)
		}
		if err = read(); err == nil || errors.Is(err, errHung) || errors.Is(err, errSync) {
			break
		}
	}
	return err
}

// readLog reads a drive's log, again where that does not go well, and makes durable
// what was read where it is to be synced.
func (c *committer) readLog(d *drive, sync bool) (l *memberLog) {
	_ = c.again(func() error {
		if l = readLog(d, c.cfg.Cluster); errors.Is(l.err, vfs.ErrNotExist) || errors.Is(l.err, errNoLog) {
			return nil // no other look is worth its time
		}
		if l.err == nil && sync {
			l.err = l.syncTail()
		}
		return l.err
	})
	return l
}

// memberBad gives up a member whose files hold damage: it is taken in anew. Where
// no other is there, a snapshot of the state takes the place of what went bad.
func (c *committer) memberBad(m *member, err error) {
	if !c.isMember(m.d) || m.err != nil {
		return
	}
	c.cfg.Logger.Error("journal member found bad", "drive", m.d.id.String(), "err", err)
	for _, o := range c.members {
		if o != m && o.err == nil && o.alive {
			m.err = fmt.Errorf("%w: %w", errRotten, err) // the drive may be taken in again
			return
		}
	}
	c.snapWanted = true
}
