package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// format makes drives of the empty places: all of them when no directory is a
// drive yet, otherwise those that may be one. What can be known to stand against
// it is found before the first is formatted: a start that is refused leaves no
// drives behind, which a next one with other directories would stumble over.
func (n *Node) format(ctx context.Context, empty []*place, known map[string]storagenode.KnownDrive) error {
	first := n.cluster.IsZero()
	if first {
		if err := n.begin(ctx, empty, known); err != nil {
			return err
		}
	}
	if len(empty) < len(n.places) {
		n.created = n.foundingAll() // an earlier first start was cut short
	}
	for _, p := range n.places {
		if p.state == storagenode.DriveDown { // could not be read: what was here is known
			old := known[p.dir]
			p.lost, p.device, p.total = old.Drive, old.Device, old.Total
		}
	}
	var ready []*place
	pins := map[*place]vfs.Pinned{}
	defer func() {
		for _, fsys := range pins {
			_ = fsys.Close()
		}
	}()
	for _, p := range empty {
		if p.state == storagenode.DriveDown {
			continue // could not be read
		}
		fsys, err := p.prepare(known, first || n.created)
		if err != nil {
			return err
		}
		if fsys != nil {
			ready, pins[p] = append(ready, p), fsys
		}
	}
	for _, p := range ready {
		err := p.format(pins[p], known[p.dir].Drive)
		if err != nil && (first || n.created) {
			return fmt.Errorf("format %s: %w", p.dir, err)
		}
		if err != nil {
			p.fail(storagenode.DriveDown, fmt.Sprintf("format %s: %v", p.dir, err))
		}
	}
	n.warnOfDisks(ready)
	n.remember(known)
	return nil
}

// begin decides which cluster a node is of whose directories are all empty, and
// adds to known what that cluster knows of them.
func (n *Node) begin(ctx context.Context, empty []*place, known map[string]storagenode.KnownDrive) error {
	var unread []string
	for _, p := range n.places {
		if p.state == storagenode.DriveDown {
			unread = append(unread, p.reason)
		}
	}
	if len(unread) > 0 {
		return fmt.Errorf("%w: no directory could be read as a drive, and some could not be read at all: see to them before the others are formatted:\n  %s", ErrRefused, strings.Join(unread, "\n  "))
	}
	if n.cfg.Join == nil {
		n.cluster, n.created = storagenode.NewUUID(), true
		return nil
	}
	cluster, drives, err := n.cfg.Join(ctx)
	if err != nil {
		return err
	}
	for _, k := range drives {
		known[k.Dir] = k
	}
	if cluster.IsZero() {
		return errors.New("join: a cluster without an identity")
	}
	n.cluster = cluster
	return nil
}

// prepare pins the empty directory where it may become a drive, and proves that it
// can: that it takes a write; nil: it may not. At a first start (first) it is made where it is not
// there, and one that cannot be a drive ends the start; later that is the trouble
// of its place alone. All are made before the first is formatted: should a start
// be cut short, the next finds them, and takes a directory that is not there for a
// lost one.
func (p *place) prepare(known map[string]storagenode.KnownDrive, first bool) (vfs.Pinned, error) {
	if all := p.node.cfg.FS; first {
		if _, serr := all.Stat(p.dir); errors.Is(serr, vfs.ErrNotExist) {
			if err := makeDir(all, p.dir); err != nil {
				return nil, fmt.Errorf("%w: %s is not there and cannot be made: %w; nothing was formatted", ErrRefused, p.dir, err)
			}
			p.node.cfg.Logger.Info("directory made, it was not there", "dir", p.dir)
		}
	}
	old, isKnown := known[p.dir]
	fsys, err := p.pin()
	if err == nil {
		if err = p.mayTake(fsys, old, isKnown); err == nil {
			if err = p.probe(fsys); err == nil {
				return fsys, nil
			}
			if first {
				return nil, errors.Join(fmt.Errorf("%w; nothing was formatted", err), fsys.Close())
			}
		}
		_ = fsys.Close()
	}
	p.fail(storagenode.DriveDown, err.Error())
	p.lost, p.device, p.total = old.Drive, old.Device, old.Total
	return nil, nil
}

// probe proves that the directory takes a durable write, and that it is no other
// place's under a second name.
func (p *place) probe(fsys vfs.Pinned) error {
	st, err := fsys.Stat(p.dir)
	if err != nil {
		return err
	}
	for _, q := range p.node.places {
		other, err := p.node.cfg.FS.Stat(q.dir)
		if q != p && err == nil && other.Dev == st.Dev && other.Inode == st.Inode {
			return fmt.Errorf("%w: %s and %s are two names of one directory: name it once", ErrRefused, q.dir, p.dir)
		}
	}
	path := filepath.Join(p.dir, IdentityName+tmpSuffix) // makes nothing of a directory that is left with it
	f, err := fsys.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY)
	if err == nil {
		_, err = f.WriteAt(make([]byte, vfs.BlockSize), 0)
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close(), fsys.Remove(path))
	}
	if err != nil {
		return fmt.Errorf("%w: %s cannot be written to: %w", ErrRefused, p.dir, err)
	}
	return nil
}

// warnOfDisks tells of new drives that do not lie on disks of their own: the loss
// of a disk is the loss of all drives on it, and one that is not mounted shows as
// a directory of the file system of /.
func (n *Node) warnOfDisks(formatted []*place) {
	root, err := n.cfg.FS.Stat("/")
	var onRoot, shared []string
	for _, p := range formatted {
		switch {
		case err == nil && p.device == root.Dev:
			onRoot = append(onRoot, p.dir)
		default:
			for _, q := range n.places {
				if q != p && q.device == p.device {
					shared = append(shared, p.dir)
					break
				}
			}
		}
	}
	if len(onRoot) > 0 {
		n.cfg.Logger.Warn("new drives lie on the file system of /, not on disks of their own: are their disks mounted?", "dirs", strings.Join(onRoot, " "))
	}
	if len(shared) > 0 {
		n.cfg.Logger.Warn("new drives share a file system with other drives: the loss of that disk is the loss of all of them", "dirs", strings.Join(shared, " "))
	}
}
