package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
)

// What a state holds was durable in the log of every member, and may have been
// acknowledged. So a log that ends before a state, or is damaged in the midst, has lost
// something. Where the last commit of the state is found in it, by its chain, all that
// came before is in the state, and the log need be good from there on only.

// reach gives the log to go on with, best where no state has more than it. It fails,
// with cause where there is no best, rather than drop what only a state has.
func (c *committer) reach(top membership, logs []*memberLog, best *memberLog, cause error) (*memberLog, error) {
	var ahead []string
	fits := false
	for _, d := range c.drives {
		at, dir, err := c.peekState(d)
		if err != nil || at.commit == 0 {
			continue // there is none, or recoverState says what is wrong
		}
		if best != nil && at.commit <= best.last() {
			chain, ok := best.chain(at.commit)
			fits = fits || ok && chain == at.chain
			continue
		}
		for i, l := range logs {
			if l.err != nil && !errors.Is(l.err, errLog) {
				continue // nobody knows what it has
			}
			if rest := readRest(l.drive, c.cfg.Cluster, at); rest.err == nil && rest.last() >= top.Commit {
				c.cfg.Logger.Error("the metadata's log is damaged; the state has what is missing, and a snapshot of it takes the place",
					"drive", l.drive.id.String(), "state", dir, "commit", at.commit, "last", rest.last())
				logs[i] = rest
				return rest, nil
			}
		}
		ahead = append(ahead, fmt.Sprintf("%s (commit %d)", dir, at.commit))
	}
	if best == nil || fits || len(ahead) == 0 {
		return best, cause
	}
	return nil, fmt.Errorf("%w: the journal ends at commit %d, but commits after it were acknowledged: they are in %s. Its end is damaged, or these members are not the newest: bring back the drives that are away. To go on without those commits, which are lost then, move that directory away",
		kv.ErrUnavailable, best.last(), strings.Join(ahead, ", "))
}

// peekState says which commit the newest state on a drive covers, and where it is.
func (c *committer) peekState(d *drive) (at snapRef, dir string, err error) {
	if !d.usable || d.failure != nil {
		return at, "", errUnusable
	}
	if err := d.there(); err != nil {
		return at, "", err
	}
	names, err := d.stateNames()
	if err != nil || len(names) == 0 {
		return at, "", err
	}
	name := names[len(names)-1]
	st, err := openState(c.cfg, d, name, c.s.wake)
	if err != nil {
		return at, "", err
	}
	at.commit, at.chain, err = covered(st.db)
	st.drop()
	select {
	case <-st.ended:
	case <-st.failed:
	}
	return at, filepath.Join(d.stateDir(), name), err
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
		b, err := readSmall(d.fs, d.path(numberedName(logPrefix, first)), logMax)
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
