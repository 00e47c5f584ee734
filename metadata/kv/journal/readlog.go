package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// A log file, log-<first commit>, starts with groupAlign bytes, little endian:
//
//	 0 magic, 8 bytes    8 version u16, 6 bytes of zero
//	16 first commit u64 24 chain of the group before u64
//	32 zeros            56 xxh64 bound to the cluster of bytes 0 to 55, zeros
//
// Groups follow. The rest may be zeros, written ahead.
const (
	logMagic  = "KJLOG1\n\x00"
	logPrefix = "log-"
	logMax    = 1 << 30 // no log file is larger
)

var (
	errLog   = errors.New("damaged log")
	errNoLog = fmt.Errorf("%w: there is none", errLog)
	// errUnread: what could not be read may be as it should be.
	errUnread = errors.New("not readable")
)

func logHeader(cluster storagenode.UUID, first, prev uint64) []byte {
	h := make([]byte, groupAlign)
	copy(h, logMagic)
	binary.LittleEndian.PutUint16(h[8:], 1)
	binary.LittleEndian.PutUint64(h[16:], first)
	binary.LittleEndian.PutUint64(h[24:], prev)
	binary.LittleEndian.PutUint64(h[56:], boundSum(cluster, h[:56]))
	return h
}

func parseLogHeader(b []byte, cluster storagenode.UUID) (first, prev uint64, err error) {
	le := binary.LittleEndian
	if len(b) < groupAlign || string(b[:8]) != logMagic || le.Uint16(b[8:]) != 1 ||
		le.Uint64(b[56:]) != boundSum(cluster, b[:56]) {
		return 0, 0, fmt.Errorf("%w: header", errLog)
	}
	return le.Uint64(b[16:]), le.Uint64(b[24:]), nil
}

// memberLog is what a member holds, after all of it was verified.
type memberLog struct {
	drive *drive
	snap  snapRef
	files []uint64 // first commits, ascending
	// from is where the groups begin in the first file, behind damage that a state
	// makes up for; 0: behind its header.
	from int
	// before is the commit before the first group, chains[i] the chain of
	// commit before+i: chains[0] is that of before itself.
	before uint64
	chains []uint64
	beyond int64 // bytes of groups that the snapshot does not cover
	err    error // why the member cannot be used
}

func (l *memberLog) last() uint64 { return l.before + uint64(len(l.chains)) - 1 }

// chain gives the chain of a commit; false where the log does not reach it.
func (l *memberLog) chain(commit uint64) (uint64, bool) {
	if len(l.chains) == 0 || commit < l.before || commit > l.last() {
		return 0, false
	}
	return l.chains[commit-l.before], true
}

// prefixOf says that o continues l (or is equal).
func (l *memberLog) prefixOf(o *memberLog) bool {
	mine, ok := l.chain(l.last())
	theirs, ok2 := o.chain(l.last())
	return ok && ok2 && mine == theirs
}

// readLog verifies all the drive holds of the log.
func readLog(d *drive, cluster storagenode.UUID) *memberLog {
	l := &memberLog{drive: d}
	var snaps []uint64
	if l.files, snaps, l.err = d.files(); l.err != nil {
		return l
	}
	var unread error
	for len(snaps) > 0 && l.snap.commit == 0 {
		switch ref, err := openSnapshot(d, cluster, snaps[len(snaps)-1]); {
		case err == nil:
			l.snap = ref
		case !errors.Is(err, errSnapshot):
			unread = errors.Join(unread, err)
		}
		snaps = snaps[:len(snaps)-1]
	}
	// What the snapshot made superfluous may be there in part, where a trim was
	// cut short. But the file before a last one without a header, where the power
	// went before it was written, is the log's end.
	for len(l.files) > 1 && l.files[1] <= l.snap.commit+1 && (len(l.files) > 2 || l.headed(cluster, l.files[1])) {
		l.files = l.files[1:]
	}
	if l.err = l.walk(cluster); l.err == nil {
		l.err = l.checkSnapshot(cluster)
	}
	if unread != nil && errors.Is(l.err, errLog) {
		l.err = unread // with that snapshot it may be whole
	}
	return l
}

// files gives the commits that log files begin with, and those of snapshots, ascending.
func (d *drive) files() (logs, snaps []uint64, err error) {
	names, err := d.fs.List(d.journalDir())
	for _, n := range names {
		if c, ok := numbered(n, logPrefix); ok {
			logs = append(logs, c)
		}
		if c, ok := numbered(n, snapPrefix); ok {
			snaps = append(snaps, c)
		}
	}
	slices.Sort(logs)
	slices.Sort(snaps)
	return logs, snaps, err
}

// headed says whether a file has a header.
func (l *memberLog) headed(cluster storagenode.UUID, first uint64) bool {
	f, err := l.drive.fs.OpenFile(l.drive.path(numberedName(logPrefix, first)), os.O_RDONLY)
	if err != nil {
		return true // walk says what is wrong
	}
	h, err := readRange(f, 0, groupAlign)
	if err == nil {
		_, _, err = parseLogHeader(h, cluster)
	}
	return f.Close() == nil && err == nil
}

// checkSnapshot: log and snapshot must meet.
func (l *memberLog) checkSnapshot(cluster storagenode.UUID) error {
	if l.snap.commit == 0 {
		l.snap.chain = genesis(cluster)
	}
	chain, ok := l.chain(l.snap.commit)
	if !ok || chain != l.snap.chain {
		return fmt.Errorf("%w: it has commits %d to %d, which do not meet the snapshot at %d",
			errLog, l.before+1, l.last(), l.snap.commit)
	}
	return nil
}

// walk reads the files one after another.
func (l *memberLog) walk(cluster storagenode.UUID) error {
	for i := 0; i < len(l.files); i++ {
		first := l.files[i]
		b, err := l.read(i)
		if err != nil {
			return err
		}
		if i == 0 && l.from > 0 {
			if err := l.groups(b, cluster, l.from, i); err != nil {
				return err
			}
			continue
		}
		got, prev, err := parseLogHeader(b, cluster)
		if err != nil && i > 0 && i == len(l.files)-1 && !groupWithin(b, cluster, first) {
			l.files = l.files[:i] // made, but the power went before it was written
			return nil
		}
		if err != nil || got != first {
			return fmt.Errorf("%w: header of file %d", errLog, first)
		}
		if i == 0 {
			l.before, l.chains = first-1, []uint64{prev}
		}
		if first != l.last()+1 || prev != l.chains[len(l.chains)-1] {
			return fmt.Errorf("%w: file %d does not continue commit %d", errLog, first, l.last())
		}
		if err := l.groups(b, cluster, groupAlign, i); err != nil {
			return err
		}
	}
	if len(l.files) == 0 {
		return errNoLog
	}
	return nil
}

// read reads file i, of the first one what counts.
func (l *memberLog) read(i int) ([]byte, error) {
	from := 0
	if i == 0 {
		from = l.from
	}
	return readFrom(l.drive.fs, l.drive.path(numberedName(logPrefix, l.files[i])), int64(from), logMax)
}

// groups walks the groups of file i that continue the chain, from off on. In the last
// one nothing may follow them but a torn end.
func (l *memberLog) groups(b []byte, cluster storagenode.UUID, off, i int) error {
	for off < len(b) {
		g, n, err := parseGroup(b[off:], cluster)
		if err != nil || g.commit != l.last()+1 || g.prev != l.chains[len(l.chains)-1] {
			break
		}
		l.chains = append(l.chains, g.chain)
		if g.commit > l.snap.commit {
			l.beyond += int64(n)
		}
		off += n
	}
	if more, err := l.goesOn(i); more || err != nil {
		return err
	}
	if groupWithin(b[min(off, len(b)):], cluster, l.last()+1) {
		return fmt.Errorf("%w: after commit %d", errLog, l.last())
	}
	return nil
}

// goesOn says whether a file follows file i, after whose last group the log ends so far.
// One that was not listed, but is there, is added: it would be begun anew, and what is in
// it lost.
func (l *memberLog) goesOn(i int) (bool, error) {
	next, listed := l.last()+1, i+1 < len(l.files)
	if next == l.files[i] || listed && l.files[i+1] == next {
		return listed, nil
	}
	_, err := l.drive.fs.Stat(l.drive.path(numberedName(logPrefix, next)))
	if errors.Is(err, vfs.ErrNotExist) {
		return listed, nil
	}
	l.files = slices.Insert(l.files, i+1, next)
	return true, err
}

// groupWithin looks for a valid group from commit on anywhere in b: a torn end
// has none after it, damage in the midst of a log has.
func groupWithin(b []byte, cluster storagenode.UUID, commit uint64) bool {
	for off := 0; off < len(b); off += groupAlign {
		if g, _, err := parseGroup(b[off:], cluster); err == nil && g.commit >= commit {
			return true
		}
	}
	return false
}

// each calls f for the groups after a commit, in order. raw is the record as it
// lies in the log. Slices are the caller's to keep.
func (l *memberLog) each(cluster storagenode.UUID, after uint64, f func(g group, raw []byte) error) error {
	for i, first := range l.files {
		if first > l.last() {
			break // no group is in it, and its member may be cutting it just now
		}
		if i+1 < len(l.files) && l.files[i+1] <= after+1 {
			continue
		}
		b, err := l.read(i)
		if err != nil {
			return fmt.Errorf("%w: %w", errUnread, err)
		}
		off, next := groupAlign, first
		if i == 0 && l.from > 0 {
			off, next = l.from, l.before+1
		}
		for ; off < len(b); next++ {
			g, n, err := parseGroup(b[off:], cluster)
			want, known := l.chain(next)
			if !known {
				break
			}
			if err != nil || g.commit != next || g.chain != want {
				break // checked below: the next file starts where this ends
			}
			if g.commit > after {
				if after+1 != g.commit {
					return fmt.Errorf("%w: commit %d follows %d", errLog, g.commit, after)
				}
				after = g.commit
				if err := f(g, b[off:off+n]); err != nil {
					return err
				}
			}
			off += n
		}
	}
	if after < l.last() {
		return fmt.Errorf("%w: it ends at commit %d instead of %d", errLog, after, l.last())
	}
	return nil
}
