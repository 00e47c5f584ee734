package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// IdentityName is the file in a drive's directory that says whose it is. A
// directory without it is not a drive.
const IdentityName = "drive.json"

// formatLevel is what this code writes; it reads minReader up to formatLevel.
const formatLevel = 1

// Identity is the content of drive.json. It is written once, when the drive is
// formatted, and never again: a rewrite could give an identity to a directory
// that someone emptied in that moment.
type Identity struct {
	Magic     string              `json:"magic"` // "kintsugi drive"
	Format    int                 `json:"format"`
	MinReader int                 `json:"min_reader"`
	Cluster   storagenode.UUID    `json:"cluster"`
	Drive     storagenode.DriveID `json:"drive"`
	Replaces  storagenode.DriveID `json:"replaces"` // zero: none
	Created   time.Time           `json:"created"`
	// Sum is xxh64 of this object as JSON with Sum 0.
	Sum uint64 `json:"sum"`
}

// Names of the other small files in a drive's directory. Neither makes it a
// drive, and an emptied directory may be left with one.
const (
	// knownName holds a []storagenode.KnownDrive: every drive remembers those of
	// its node.
	knownName = "known.json"
	// foundingName is there from the format of a new cluster until its
	// namespace was made.
	foundingName = "founding"
)

const (
	identityMagic = "kintsugi drive"
	tmpSuffix     = ".tmp"
)

// errNoIdentity says that a directory holds no drive.json.
var errNoIdentity = errors.New("not a drive")

func (id Identity) sum() uint64 {
	id.Sum = 0
	text, _ := json.Marshal(id) // plain fields: cannot fail
	return xxhash.Sum64(text)
}

// readIdentity reads and checks drive.json; errNoIdentity where there is none.
func readIdentity(fsys vfs.FS, dir string) (Identity, error) {
	path := filepath.Join(dir, IdentityName)
	text, err := readFile(fsys, path)
	if errors.Is(err, vfs.ErrNotExist) {
		return Identity{}, errNoIdentity
	}
	if errors.Is(err, fs.ErrPermission) {
		return Identity{}, fmt.Errorf("%w: the directory, with all that is in it, must belong to the user that this process runs as (uid %d)", err, os.Geteuid())
	}
	if err != nil {
		return Identity{}, err
	}
	return parseIdentity(path, text)
}

// Whose reads which drive a directory is; vfs.ErrNotExist where it is none.
func Whose(fsys vfs.FS, dir string) (storagenode.DriveID, error) {
	id, err := readIdentity(fsys, dir)
	if errors.Is(err, errNoIdentity) {
		err = fmt.Errorf("%s is %w: %w", dir, err, vfs.ErrNotExist)
	}
	return id.Drive, err
}

// readFile reads a small file whole.
func readFile(fsys vfs.FS, path string) ([]byte, error) {
	f, err := fsys.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err // it says that it is of opening path
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Size > 1<<20 {
		return nil, fmt.Errorf("%s: %w: %d bytes", path, storagenode.ErrCorrupt, st.Size)
	}
	text := make([]byte, st.Size)
	if n, err := f.ReadAt(text, 0); n < len(text) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}

func parseIdentity(path string, text []byte) (Identity, error) {
	var id Identity
	if err := json.Unmarshal(text, &id); err != nil {
		return Identity{}, fmt.Errorf("%s: %w: %v", path, storagenode.ErrCorrupt, err)
	}
	switch {
	case id.Magic != identityMagic || id.Sum != id.sum():
		return Identity{}, fmt.Errorf("%s: %w: its checksum does not match", path, storagenode.ErrCorrupt)
	case id.MinReader > formatLevel:
		return Identity{}, fmt.Errorf("%s: written by a newer version: needs format level %d, this one reads up to %d", path, id.MinReader, formatLevel)
	}
	return id, nil
}

func writeIdentity(fsys vfs.FS, dir string, id Identity) error {
	id.Magic, id.Format, id.MinReader = identityMagic, formatLevel, 1
	id.Sum = id.sum()
	text, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(fsys, dir, IdentityName, text)
}

// writeFile makes a small file durable: temporary file, sync, rename, sync of
// the directory.
func writeFile(fsys vfs.FS, dir, name string, text []byte) error {
	path := filepath.Join(dir, name)
	tmp := path + tmpSuffix
	f, err := fsys.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY)
	if err != nil {
		return fmt.Errorf("create %s: %w", tmp, err)
	}
	_, err = f.WriteAt(text, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(tmp, path)
	}
	if err == nil {
		err = fsys.SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// makeDir makes a directory and those above it that are not there, durably: a
// drive in a directory that a power cut takes away would be lost as a whole.
func makeDir(fsys vfs.FS, dir string) error {
	var made []string
	for d := dir; d != filepath.Dir(d); d = filepath.Dir(d) {
		if _, err := fsys.Stat(d); err == nil {
			break
		}
		made = append(made, d)
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	for _, d := range made {
		if err := fsys.SyncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

// readKnown gives what a drive remembers of its node's drives; nothing where
// it cannot be read: the other drives remember the same.
func readKnown(fsys vfs.FS, dir string) []storagenode.KnownDrive {
	text, err := readFile(fsys, filepath.Join(dir, knownName))
	if err != nil {
		return nil
	}
	var all []storagenode.KnownDrive
	if json.Unmarshal(text, &all) != nil {
		return nil
	}
	return all
}

func writeKnown(fsys vfs.FS, dir string, all []storagenode.KnownDrive) error {
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(fsys, dir, knownName, text)
}

// rememberPlace renews the record of drives after one was replaced.
func (n *Node) rememberPlace(p *place) error {
	n.remembering.Lock()
	defer n.remembering.Unlock()
	var all []storagenode.KnownDrive
	for _, q := range n.places { // a new drive's own record is empty, another's may be damaged
		g := q.stands()
		if q == p || g == nil {
			continue
		}
		for _, k := range readKnown(g, q.dir) {
			all = replaceKnown(all, k)
		}
	}
	for _, q := range n.places {
		q.mu.Lock()
		k := storagenode.KnownDrive{Drive: q.identity.Drive, Dir: q.dir, Device: q.device, Total: q.total}
		q.mu.Unlock()
		if !k.Drive.IsZero() {
			all = replaceKnown(all, k)
		}
	}
	var errs []error
	for _, q := range n.places {
		if g := q.stands(); g != nil {
			errs = append(errs, writeKnown(g, q.dir, all))
		}
	}
	return errors.Join(errs...)
}

func replaceKnown(all []storagenode.KnownDrive, k storagenode.KnownDrive) []storagenode.KnownDrive {
	for i := range all {
		if all[i].Dir == k.Dir {
			all[i] = k
			return all
		}
	}
	return append(all, k)
}

// fileSystem fingerprints the file system a directory lies on.
func fileSystem(fsys vfs.FS, dir string) (device uint64, total int64, err error) {
	st, err := fsys.Stat(dir)
	if err != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", dir, err)
	}
	use, err := fsys.Usage(dir)
	if err != nil {
		return 0, 0, fmt.Errorf("usage of %s: %w", dir, err)
	}
	return st.Dev, use.Total, nil
}

// remains gives the names in a directory that make it more than empty. What a
// new file system brings along does not count, nor an identity that was never
// finished, nor the caches that can be rebuilt, nor empty directories of ours.
// While the node runs (wiped), a journal without a drive around it is what the
// engine wrote between the loss and its being told of it.
func remains(fsys vfs.FS, dir string, wiped bool) ([]string, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, name := range names {
		switch strings.TrimSuffix(name, tmpSuffix) {
		case IdentityName: // not finished: the caller found none
		case "lost+found", knownName, foundingName, lockName, "index", "state":
		case "segments", "journal":
			if wiped && name == "journal" {
				continue
			}
			inner, err := fsys.List(filepath.Join(dir, name))
			if err != nil {
				return nil, err
			}
			if len(inner) > 0 {
				left = append(left, name)
			}
		default:
			left = append(left, name)
		}
	}
	return left, nil
}

// clearRemains removes what remains let pass, so that a drive is formatted on
// clean ground.
func clearRemains(fsys vfs.FS, dir string) error {
	for _, name := range []string{IdentityName + tmpSuffix, knownName, knownName + tmpSuffix, foundingName, "index", "state", "segments", "journal"} {
		if err := fsys.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("clear %s: %w", dir, err)
		}
	}
	return nil
}
