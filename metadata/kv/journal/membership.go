package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// membership is the record that says which drives hold the log.
type membership struct {
	Format     int                   `json:"format"`
	Cluster    storagenode.UUID      `json:"cluster"`
	Generation uint64                `json:"generation"`
	Members    []storagenode.DriveID `json:"members"`
	// Creating is set until every drive has a record: only then is anything
	// committed, so where it is set on all, a creation may begin anew.
	Creating bool `json:"creating,omitempty"`
	// Commit was the newest when the record was made: a log that ends before
	// it is not whole.
	Commit uint64 `json:"commit"`
	// Created decides between two records of one generation: of two opens, each
	// without the drives that the other's record reached. See leap.
	Created time.Time `json:"created"`
	Sum     string    `json:"sum"` // xxh64 of the record with an empty sum
}

const (
	membershipFormat = 1
	membershipFile   = "membership"
	membershipMax    = 64 << 10
	readChunk        = 1 << 20 // one call on a slow drive should not take too long
)

var (
	errMembership = errors.New("damaged membership record")
	errOutdated   = errors.New("outdated membership record")
	errOther      = errors.New("another drive is in its directory")
)

func (m membership) sum() (string, error) {
	m.Sum = ""
	b, err := json.Marshal(m)
	return fmt.Sprintf("%016x", xxhash.Sum64(b)), err
}

func (m membership) encode() ([]byte, error) {
	var err error
	if m.Sum, err = m.sum(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}

func decodeMembership(b []byte, cluster storagenode.UUID) (membership, error) {
	var m membership
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w: %w", errMembership, err)
	}
	sum, err := m.sum()
	switch {
	case err != nil || sum != m.Sum:
		return m, fmt.Errorf("%w: checksum", errMembership)
	case m.Format != membershipFormat:
		return m, fmt.Errorf("%w: format %d", errMembership, m.Format)
	case m.Cluster != cluster:
		return m, fmt.Errorf("%w: of cluster %s", errMembership, m.Cluster)
	case m.Generation == 0 || len(m.Members) == 0:
		return m, fmt.Errorf("%w: empty", errMembership)
	}
	return m, nil
}

// newer orders records.
func (m membership) newer(o membership) bool {
	if m.Generation != o.Generation {
		return m.Generation > o.Generation
	}
	return m.Created.After(o.Created)
}

// openMedium opens a file to be read as it lies on the medium. The page cache may
// hold what a sync failed to write, or what has gone bad beneath it since.
func openMedium(fs vfs.FS, path string) (vfs.File, error) {
	f, err := fs.OpenFile(path, os.O_RDONLY)
	if err == nil {
		_ = f.DontNeed(0, 0) // a hint
	}
	return f, err
}

// readSmall reads a whole file of at most limit bytes.
func readSmall(fs vfs.FS, path string, limit int64) ([]byte, error) {
	return readFrom(fs, path, 0, limit)
}

// readFrom is readSmall for what lies from an offset on; zeros stand for what is before.
func readFrom(fs vfs.FS, path string, from, limit int64) ([]byte, error) {
	return readWhole(fs, path, limit, func(f vfs.File, b []byte) error {
		at := min(from, int64(len(b)))
		return readInto(f, b[at:], at)
	})
}

// readWhole has read fill in as many bytes as the file says that it has, and adds what
// lies behind them.
func readWhole(fs vfs.FS, path string, limit int64, read func(f vfs.File, b []byte) error) (b []byte, err error) {
	f, err := openMedium(fs, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes", path, st.Size)
	}
	b = make([]byte, st.Size)
	if err := read(f, b); err != nil {
		return nil, err
	}
	return readOn(f, b, limit)
}

// readOn reads what lies behind b as well: the size that was told may be stale, as over a
// network file system.
func readOn(f vfs.File, b []byte, limit int64) ([]byte, error) {
	for next := groupAlign; ; next = readChunk {
		p := make([]byte, next)
		n, err := f.ReadAt(p, int64(len(b)))
		b = append(b, p[:n]...)
		switch {
		case int64(len(b)) > limit:
			return nil, fmt.Errorf("%s has more than %d bytes", f.Name(), limit)
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return nil, err
		}
	}
}

// readRange reads exactly n bytes.
func readRange(f vfs.File, off, n int64) ([]byte, error) {
	b := make([]byte, n)
	return b, readInto(f, b, off)
}

func readInto(f vfs.File, b []byte, off int64) error {
	for done := 0; done < len(b); {
		k, err := f.ReadAt(b[done:min(len(b), done+readChunk)], off+int64(done))
		done += k
		if err != nil && done < len(b) {
			return err
		}
	}
	return nil
}

// readMembership reads the drive's record.
func (d *drive) readMembership(cluster storagenode.UUID) (membership, error) {
	b, err := readSmall(d.fs, d.path(membershipFile), membershipMax)
	if err != nil {
		return membership{}, err
	}
	return decodeMembership(b, cluster)
}

// writeMembership puts a record in the place of the drive's, but never an
// older one.
func (d *drive) writeMembership(generation uint64, b []byte) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if generation < d.tried {
		return errOutdated
	}
	d.tried = generation
	if err := d.makeDir(); err != nil {
		return err
	}
	tmp := d.path(membershipFile + ".new")
	if err := writeWhole(d.fs, tmp, b); err != nil {
		return err
	}
	if err := d.fs.Rename(tmp, d.path(membershipFile)); err != nil {
		return err
	}
	return d.fs.SyncDir(d.journalDir())
}

// writeWhole writes a file and syncs it.
func writeWhole(fs vfs.FS, path string, b []byte) error {
	f, err := fs.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// needed is the number of drives a membership must be synced on: together with
// the number that must be readable to open (all but tolerance) more than all,
// so that no open misses it; but no more than are left when tolerance drives
// are lost.
func needed(drives, tolerance int) int {
	return max(1, min(tolerance+1, drives-tolerance))
}

// leap is how far an open that cannot read every drive's record counts on, before
// it serves anything. A generation that was tried before a crash and reached too
// few drives to be in force may be on those that are away; when they come back, it
// must not be the newest. Nobody tries so many in one life.
const leap = 1_000_000_000

// drive is one of the node's drives. The committer alone touches it, but for
// fs, id and dir, which never change.
type drive struct {
	id     storagenode.DriveID
	dir    string
	fs     *guard
	usable bool
	// leaving: it is to be taken out.
	leaving bool
	// displaced: another drive is in its directory, and nobody has said where it is.
	displaced bool
	// failure is why the drive was left out; it may join again after retry.
	failure error
	retry   time.Time
	// record is the generation known to be on the drive; known says that
	// recover could read one, maybe an older.
	record uint64
	known  bool
	// unwritten is why it is not the newest, where it should be.
	unwritten error
	// writing is held while a record is written; tried is the newest of those.
	writing sync.Mutex
	tried   uint64
	// wiping is held while it is wiped, or trimmed by a join; claims counts the wishes to.
	wiping sync.Mutex
	claims atomic.Uint64
	// vain is where the first of the joins began that have failed since its log was whole
	// last; 0: none.
	vain uint64
	// whose is Config.Whose.
	whose  func(fs vfs.FS, dir string) (storagenode.DriveID, error)
	member *member // the last one on this drive, maybe still stuck in a call
	state  *guard  // of the last state on this drive, maybe still stuck as well
}

// hangs says that a call to the drive, for its log or for a state on it, has not
// come back: asking it again would only cost a read's limit.
func (d *drive) hangs() bool {
	return d.fs.isStuck() || d.state != nil && d.state.isStuck()
}

// there checks that the drive is in its directory: an emptied or unmounted one is
// not ours to fill, and one where another disk is not ours to touch.
func (d *drive) there() error { return d.thereBy(d.fs) }

// thereBy is there for who minds the time of fs itself.
func (d *drive) thereBy(fs vfs.FS) error {
	id, err := d.id, error(nil)
	if d.whose != nil {
		id, err = d.whose(fs, d.dir)
	} else {
		_, err = fs.Stat(d.dir)
	}
	if err == nil && id != d.id {
		err = fmt.Errorf("%w: %s is drive %s", errOther, d.dir, id)
	}
	if err != nil {
		return fmt.Errorf("drive %s: %w", d.id, err)
	}
	return nil
}

func (d *drive) journalDir() string      { return filepath.Join(d.dir, "journal") }
func (d *drive) path(name string) string { return filepath.Join(d.dir, "journal", name) }

// makeDir makes the journal's directory, durably, where it is not there.
func (d *drive) makeDir() error {
	if err := d.there(); err != nil {
		return err
	}
	if _, err := d.fs.Stat(d.journalDir()); !errors.Is(err, vfs.ErrNotExist) {
		return err
	}
	if err := d.fs.Mkdir(d.journalDir()); err != nil && !errors.Is(err, vfs.ErrExist) {
		return err
	}
	return d.fs.SyncDir(d.dir)
}

// eachDrive runs f for the drives side by side and gives the errors in order.
func eachDrive(drives []*drive, f func(i int, d *drive) error) []error {
	errs := make([]error, len(drives))
	var wg sync.WaitGroup
	for i, d := range drives {
		wg.Go(func() { errs[i] = f(i, d) })
	}
	wg.Wait()
	return errs
}

func (d *drive) stateDir() string { return filepath.Join(d.dir, "state") }

// open says whether the drive may be used for something new: no member is on
// it and nothing is wrong with it.
func (d *drive) open() bool {
	if d.member != nil {
		select {
		case <-d.member.ended:
		default:
			return false
		}
	}
	return d.usable && d.failure == nil && !d.fs.isStuck()
}
