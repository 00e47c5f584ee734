package journal

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

var (
	errUnlinked = errors.New("the log file was removed")
	errReplaced = errors.New("the log file is another one now")
	errBehind   = errors.New("too slow to follow")
	errGivenUp  = errors.New("given up")
)

// record is a group on its way to the members, which share its buffer.
type record struct {
	raw  []byte
	refs atomic.Int32
	pool *sync.Pool
}

func (r *record) release() {
	if r.refs.Add(-1) == 0 && r.pool != nil && cap(r.raw) <= 1<<20 {
		r.pool.Put(r)
	}
}

// job is a group to append, or (rec nil) the wish to know how the member is.
type job struct {
	rec          *record
	commit, prev uint64
}

// result says up to which commit a member has synced, or why it failed.
type result struct {
	m      *member
	commit uint64
	err    error
}

// member appends to the log on one drive, on a goroutine of its own.
type member struct {
	d       *drive
	fs      vfs.FS // not the guard: the committer minds the time
	cluster storagenode.UUID
	logSize int64
	jobs    chan job
	results chan<- result
	quit    chan struct{} // closed when the committer does not care any more
	ended   chan struct{} // closed when the goroutine has ended
	// begun is closed when the log was begun, or could not be: beginErr.
	begun    chan struct{}
	beginErr error

	// The committer's.
	synced uint64
	alive  bool  // the first result came
	err    error // why it failed
	ready  bool  // joining: its snapshot is durable

	// The goroutine's.
	file vfs.File
	path string
	ino  uint64
	pos  int64
	// filled: zeros or groups are up to here. An fdatasync into what was written
	// before has no size or extent to make durable, which spares it a second
	// write that waits for the first.
	filled int64
}

const (
	memberJobs = 256
	// A log file is filled ahead by one part in fillShare of a whole one, and by
	// fillLeast bytes at least.
	fillShare = 64
	fillLeast = 4 << 10
)

// startMember begins a log at commit first, which follows prev. The first
// result, for the commit before, says that the file is there.
func startMember(cfg Config, d *drive, results chan<- result, first, prev uint64) *member {
	m := &member{
		d: d, fs: cfg.FS, cluster: cfg.Cluster, logSize: cfg.LogSize,
		jobs: make(chan job, memberJobs), results: results,
		quit: make(chan struct{}), ended: make(chan struct{}), begun: make(chan struct{}),
	}
	d.member = m
	go m.run(first, prev)
	return m
}

// send hands over a job; false: the member is too far behind.
func (m *member) send(j job) bool {
	select {
	case m.jobs <- j:
		return true
	default:
		return false
	}
}

// stop lets the goroutine end; the committer does not wait for it.
func (m *member) stop() {
	close(m.quit)
	close(m.jobs)
}

func (m *member) run(first, prev uint64) {
	defer close(m.ended)
	err := m.roll(first, prev)
	m.beginErr = err
	close(m.begun)
	m.report(first-1, err)
	last := first - 1
	for j := range m.jobs {
		if err == nil && ended(m.quit) { // nothing counts that is written after stop
			err = errGivenUp // another drive may be where its paths lead
		}
		if err != nil {
			continue // stop was or will be called
		}
		if last, err = m.take(j, last); err != nil {
			err = fmt.Errorf("journal on drive %s: %w", m.d.id, err)
		}
		m.report(last, err)
	}
	if m.file != nil {
		_ = m.file.Close() // all that counts was synced
	}
}

func (m *member) report(commit uint64, err error) {
	select {
	case m.results <- result{m, commit, err}:
	case <-m.quit:
	}
}

// take writes the job and all that wait, and syncs them once.
func (m *member) take(j job, last uint64) (uint64, error) {
	for wrote := false; ; {
		if j.rec != nil {
			wrote = true
			if err := m.write(j); err != nil {
				return last, err
			}
			last = j.commit
		}
		select {
		case next, ok := <-m.jobs:
			if ok {
				j = next
				continue
			}
		default:
		}
		if wrote {
			return last, m.sync()
		}
		return last, m.probe()
	}
}

func (m *member) write(j job) error {
	defer j.rec.release()
	if m.pos+int64(len(j.rec.raw)) > m.logSize && m.pos > groupAlign {
		// What was written to the file that ends here must be durable before
		// a group of the next one is.
		if err := m.file.SyncData(); err != nil {
			return fmt.Errorf("%w: %w", errSync, err)
		}
		if err := m.roll(j.commit, j.prev); err != nil {
			return err
		}
	}
	n, err := m.file.WriteAt(j.rec.raw, m.pos)
	m.pos += int64(n)
	if err == nil && m.pos > m.filled {
		m.fillAhead()
	}
	return err
}

// fillAhead writes zeros for groups to come. Where that fails, the file goes on
// without: the groups will say what is wrong, if it matters to them.
func (m *member) fillAhead() {
	to := min(m.pos+max(m.logSize/fillShare, fillLeast), m.logSize)
	m.filled = m.logSize
	if to > m.pos {
		_, err := m.file.WriteAt(make([]byte, to-m.pos), m.pos)
		if err == nil {
			m.filled = to
		}
	}
}

func (m *member) sync() error {
	if err := m.file.SyncData(); err != nil {
		return fmt.Errorf("%w: %w", errSync, err)
	}
	st, err := m.file.Stat()
	if err == nil && st.Links == 0 {
		err = errUnlinked
	}
	return err
}

// probe finds that the directory was emptied or is another one.
func (m *member) probe() error {
	st, err := m.fs.Stat(m.path)
	if err == nil && st.Inode != m.ino {
		err = errReplaced
	}
	return err
}

// roll goes on in a new file. One that has this place already, without a
// group, is used; its header stays, so that the log is never without one.
func (m *member) roll(first, prev uint64) error {
	if err := m.d.thereBy(m.fs); err != nil {
		return err
	}
	path := m.d.path(numberedName(logPrefix, first))
	f, err := m.fs.OpenFile(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	h, err := readRange(f, 0, groupAlign)
	f1, p1, herr := parseLogHeader(h, m.cluster)
	if err != nil || herr != nil || f1 != first || p1 != prev {
		_, err = f.WriteAt(logHeader(m.cluster, first, prev), 0)
	}
	var st vfs.Stat
	if err == nil {
		err = f.Truncate(groupAlign)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		st, err = f.Stat()
	}
	if err == nil {
		err = m.fs.SyncDir(m.d.journalDir())
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if m.file != nil {
		err = m.file.Close()
	}
	m.file, m.path, m.ino, m.pos = f, path, st.Inode, groupAlign
	m.filled = groupAlign
	return err
}
