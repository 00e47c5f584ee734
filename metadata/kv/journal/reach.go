package journal

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// What a state holds was durable in the log of every member, and may have been
// acknowledged. So a log that ends before a state, or is damaged in the midst, has lost
// something. Where the last commit of the state is found in it, by its chain, all that
// came before is in the state, and the log need be good, and readable, from there on only.
// So it is with the log's own snapshot, which is there where the state is lost.

// held is a state that was found.
type held struct {
	at        snapRef
	name, dir string
}

// reach gives the log to go on with, best where no state has more than it. It fails,
// with cause where there is no best, rather than drop what only a state has.
func (c *committer) reach(top membership, logs []*memberLog, best *memberLog, cause error) (*memberLog, error) {
	states := c.peekStates()
	goOn := func(i int, at snapRef, state string) {
		l := logs[i]
		if l.err != nil && !errors.Is(l.err, errLog) && !errors.Is(l.err, syscall.EIO) || l.err == nil && l.last() >= at.commit {
			return // nobody knows what it has, or it is good
		}
		rest := readRest(l.drive, c.cfg.Cluster, at)
		if rest.err != nil || rest.last() < top.Commit {
			return
		}
		c.cfg.Logger.Error("the metadata's log is damaged; the state, or its own snapshot, has what is missing, and a new snapshot takes the place",
			"drive", l.drive.id.String(), "state", state, "commit", at.commit, "last", rest.last())
		logs[i] = rest // what one has beyond the others may have been acknowledged
		if best == nil || rest.last() > best.last() {
			best, cause = rest, nil
		}
	}
	if best == nil {
		for i, l := range logs {
			if l.snap.commit > 0 {
				goOn(i, l.snap, "")
			}
		}
	}
	for n, st := range states {
		if best != nil && st.at.commit <= best.last() && (n > 0 || best.from == 0) {
			break // but a log that seemed to end there may have lost more than another
		}
		for i := range logs {
			goOn(i, st.at, st.dir)
		}
	}
	if best == nil {
		return nil, cause
	}
	var ahead []string
	for _, st := range states {
		if st.at.commit > best.last() && !best.goneOn(states, st) {
			ahead = append(ahead, fmt.Sprintf("%s (commit %d)", st.dir, st.at.commit))
		}
	}
	if len(ahead) == 0 {
		return best, nil
	}
	return nil, fmt.Errorf("%w: the journal ends at commit %d, but commits after it were acknowledged: they are in %s. Its end is damaged, or these members are not the newest: bring back the drives that are away. To go on without those commits, which are lost then, move that directory away",
		kv.ErrUnavailable, best.last(), strings.Join(ahead, ", "))
}

// goneOn says that the log was gone on with after st was made, without what it has: a
// state that was made later belongs to the log. One that was left behind earlier says
// nothing.
func (l *memberLog) goneOn(states []held, st held) bool {
	return slices.ContainsFunc(states, func(o held) bool {
		chain, ok := l.chain(o.at.commit)
		return o.name > st.name && ok && chain == o.at.chain
	})
}

// peekStates gives the newest state of each drive, the one that covers most first.
func (c *committer) peekStates() (states []held) {
	for _, d := range c.drives {
		for _, name := range c.stateNames(d) {
			at, err := c.peekState(d, name)
			if err == nil && at.commit > 0 {
				states = append(states, held{at, name, filepath.Join(d.stateDir(), name)})
				break
			} // else it was not finished, or recoverState says what is wrong
		}
	}
	slices.SortStableFunc(states, func(a, b held) int { return cmp.Compare(b.at.commit, a.at.commit) })
	return states
}

// peekState says which commit a state covers.
func (c *committer) peekState(d *drive, name string) (at snapRef, err error) {
	if d.hangs() {
		return at, errHung
	}
	st, err := openState(c.cfg, d, name, c.s.wake)
	if err != nil {
		return at, err
	}
	at.commit, at.chain, err = covered(st.db)
	st.leave()
	return at, err
}

// A file is read around pieces of sectorSize that cannot be read, but not around more than
// maxUnread: a disk takes its time for each.
const (
	sectorSize = 4096
	maxUnread  = 64
)

// readAround reads a whole file of at most limit bytes. Zeros stand for what cannot be read.
func readAround(fs vfs.FS, path string, limit int64) ([]byte, error) {
	return readWhole(fs, path, limit, func(f vfs.File, b []byte) error {
		step, bad := readChunk, 0
		for off := 0; off < len(b); {
			p := b[off:min(len(b), off+step)]
			err := readInto(f, p, int64(off))
			switch {
			case err == nil:
				off += len(p)
			case !errors.Is(err, syscall.EIO) || bad == maxUnread:
				return err
			case step > sectorSize:
				step = sectorSize
				continue
			default:
				clear(p)
				bad++
				off += len(p)
			}
			if off%readChunk == 0 {
				step = readChunk
			}
		}
		return nil
	})
}

// readRest verifies what a drive holds of the log from a commit on. Of that commit's
// group the header is enough, or that of a file that follows it.
func readRest(d *drive, cluster storagenode.UUID, at snapRef) *memberLog {
	l := &memberLog{drive: d, snap: at, before: at.commit, chains: []uint64{at.chain}}
	files, _, err := d.files()
	if err != nil {
		l.err = err
		return l
	}
	for i, first := range files {
		if first > at.commit+1 {
			break
		}
		b, err := readAround(d.fs, d.path(numberedName(logPrefix, first)), logMax)
		if err != nil {
			l.err = err
			return l
		}
		if next, prev, err := parseLogHeader(b, cluster); err == nil && next == at.commit+1 && prev == at.chain {
			l.files, l.from = files[i:], groupAlign
		}
		for off := groupAlign; off < len(b); off += groupAlign {
			if g, n, _ := parseGroup(b[off:], cluster); n > 0 && g.commit == at.commit && g.chain == at.chain {
				l.files, l.from = files[i:], off+n
			}
		}
	}
	if l.from == 0 {
		l.err = fmt.Errorf("%w: commit %d is not in it", errLog, at.commit)
		return l
	}
	if l.err = l.walk(cluster); l.err == nil {
		l.err = l.syncTail()
	}
	return l
}
