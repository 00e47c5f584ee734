package node

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// Held is a formatted drive directory that is kept from other processes.
type Held struct {
	Dir string
	Identity
}

// Hold takes the locks of formatted drive directories, for work on what is
// beside the shards; it formats and changes nothing. A directory that another
// process serves, that is not a drive, or that belongs to another cluster than
// the first: ErrRefused. release gives the locks back.
func Hold(fsys vfs.FS, dirs []string) (held []Held, release func() error, err error) {
	var locks []io.Closer
	release = func() error {
		var errs []error
		for _, l := range locks {
			errs = append(errs, l.Close())
		}
		locks = nil
		return errors.Join(errs...)
	}
	seen := map[storagenode.DriveID]string{}
	for _, dir := range dirs {
		id, ierr := readIdentity(fsys, dir)
		other, twice := seen[id.Drive]
		switch {
		case ierr != nil:
			err = fmt.Errorf("%w: %s: %w", ErrRefused, dir, ierr)
		case twice:
			err = fmt.Errorf("%w: %s and %s are the same drive", ErrRefused, other, dir)
		case len(held) > 0 && id.Cluster != held[0].Cluster:
			err = fmt.Errorf("%w: %s belongs to another cluster than %s", ErrRefused, dir, held[0].Dir)
		}
		if err == nil {
			var l io.Closer
			if l, err = fsys.Lock(filepath.Join(dir, lockName)); err != nil {
				err = fmt.Errorf("%w: %s is in use by another process: stop the server first (%w)", ErrRefused, dir, err)
			} else {
				locks = append(locks, l)
			}
		}
		if err != nil {
			return nil, nil, errors.Join(err, release())
		}
		seen[id.Drive] = dir
		held = append(held, Held{dir, id})
	}
	return held, release, nil
}
