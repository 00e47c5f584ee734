package member

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Snapshots are in the form that etcd's own tools restore: the database, then
// its SHA-256. A file gets its name after it was synced and read back.
const (
	backupPrefix = "metadata-"
	backupSuffix = ".snapshot"
)

// keepBackups writes snapshots until the member ends. A directory that does not
// take them is told of at once, not when the first is due. None is written at the
// start: it would be the newest one where a member begins anew, with nothing.
func (m *Member) keepBackups() {
	if err := tryBackups(m.cfg.BackupDir); err != nil {
		m.cfg.Logger.Error("snapshots of the metadata cannot be written: see to the directory, and that this process may write there", "dir", m.cfg.BackupDir, "err", err)
	}
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(m.cfg.BackupEvery):
		}
		if _, err := m.Backup(time.Now()); err != nil {
			m.cfg.Logger.Error("snapshot of the metadata failed", "dir", m.cfg.BackupDir, "err", err)
		}
	}
}

// tryBackups makes sure that files can be made in a directory.
func tryBackups(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, ".snapshot.try"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// Backup writes a snapshot now, deletes those beyond the number to keep, and
// gives its name.
func (m *Member) Backup(now time.Time) (string, error) {
	dir := m.cfg.BackupDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	name := filepath.Join(dir, backupPrefix+now.UTC().Format("20060102T150405.000Z")+backupSuffix)
	tmp := filepath.Join(dir, ".snapshot.new")
	if err := m.writeBackup(tmp); err != nil {
		return "", errors.Join(err, os.Remove(tmp))
	}
	if err := VerifyBackup(tmp); err != nil {
		return "", errors.Join(fmt.Errorf("read back: %w", err), os.Remove(tmp))
	}
	if err := os.Rename(tmp, name); err != nil {
		return "", err
	}
	return name, errors.Join(syncDir(dir), m.prune(filepath.Base(name)))
}

func (m *Member) writeBackup(path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	snap := m.server.Server.Backend().Snapshot()
	defer func() { err = errors.Join(err, snap.Close()) }()
	sum := sha256.New()
	if _, err := snap.WriteTo(io.MultiWriter(f, sum)); err != nil {
		return err
	}
	if _, err := f.Write(sum.Sum(nil)); err != nil {
		return err
	}
	return f.Sync()
}

// VerifyBackup reads a snapshot and compares its sum.
func VerifyBackup(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() <= sha256.Size {
		return fmt.Errorf("a snapshot of %d bytes", st.Size())
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, st.Size()-sha256.Size); err != nil {
		return err
	}
	want, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, sum.Sum(nil)) {
		return errors.New("the sum is wrong")
	}
	return nil
}

// prune deletes the oldest snapshots beyond the number to keep. Those that seem to
// be newer than the one just written are of a clock that was ahead, and older.
func (m *Member) prune(newest string) error {
	entries, err := os.ReadDir(m.cfg.BackupDir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), backupPrefix) && strings.HasSuffix(e.Name(), backupSuffix) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names) // by time
	ahead := slices.Index(names, newest) + 1
	names = append(slices.Clone(names[ahead:]), names[:ahead]...)
	for len(names) > m.cfg.BackupKeep {
		if err := os.Remove(filepath.Join(m.cfg.BackupDir, names[0])); err != nil {
			return err
		}
		names = names[1:]
	}
	return syncDir(m.cfg.BackupDir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
