package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// open opens the formatted drive's store, pinned to the directory that was found to be
// the drive: whatever comes to lie in its place, the store stays on its own disk until
// the watch has closed it.
func (p *place) open(ctx context.Context) {
	g, err := p.hold()
	if err != nil {
		p.fail(storagenode.DriveDown, err.Error())
		return
	}
	st, err := g.Stat(p.dir)
	if err == nil {
		var dev uint64
		var total int64
		dev, total, err = fileSystem(g, p.dir)
		p.mu.Lock()
		p.inode, p.device, p.total = st.Inode, dev, total
		p.mu.Unlock()
	}
	var store storagenode.Drive
	if err == nil {
		store, err = p.node.cfg.Open(ctx, g, p.dir, p.ident())
	}
	if err != nil {
		_ = g.Close()
		state := storagenode.DriveBroken
		if vfs.Short(err) {
			state = storagenode.DriveDown // of this process: it is tried again
		}
		p.fail(state, err.Error())
		return
	}
	p.mu.Lock()
	p.ground, p.heard = g, p.node.cfg.Clock.Now()
	p.mu.Unlock()
	p.setState(storagenode.DriveActive, "", store)
}

// ground is what a store stands on: its directory, pinned, and the lock of it.
type ground struct {
	vfs.Pinned
	lock  io.Closer
	drive storagenode.DriveID
	dir   string // where it was
	of    *grounds
}

// Close gives the directory back.
func (g *ground) Close() error {
	defer g.of.held.CompareAndDelete(g.drive, g.dir)
	return errors.Join(g.lock.Close(), g.Pinned.Close())
}

// grounds are those that the node's stores stand on: where each drive was opened.
type grounds struct {
	held sync.Map // of directories, by DriveID
}

// take locks the directory of the place's drive. It may be this very process that
// has the lock: the disk was in another of its directories, and the store that was
// opened there has not let go.
func (gs *grounds) take(p *place, pin vfs.Pinned) (*ground, error) {
	drive := p.drive()
	was, ours := gs.held.Load(drive)
	lock, err := pin.Lock(filepath.Join(p.dir, lockName))
	if !ours {
		was, ours = gs.held.Load(drive) // by now
	}
	switch {
	case errors.Is(err, vfs.ErrLocked) && ours:
		return nil, fmt.Errorf("%s: drive %s, which lies here now, is opened when the store has let go of it that was opened in %s", p.dir, drive, was)
	case errors.Is(err, vfs.ErrLocked):
		return nil, fmt.Errorf("%s is in use by another process: %w", p.dir, err)
	case err != nil:
		return nil, err
	}
	gs.held.Store(drive, p.dir)
	return &ground{pin, lock, drive, p.dir, gs}, nil
}

// hold pins and locks the place's directory, and makes sure that it is the drive's still.
func (p *place) hold() (*ground, error) {
	if err := p.letGo(); err != nil {
		return nil, err
	}
	pin, err := p.pinDrive()
	if err != nil {
		return nil, err
	}
	g, err := p.node.grounds.take(p, pin)
	if err != nil {
		return nil, errors.Join(err, pin.Close())
	}
	return g, nil
}

// pinDrive pins the place's directory and makes sure that it is the drive's still.
func (p *place) pinDrive() (vfs.Pinned, error) {
	pin, err := p.node.cfg.FS.Pin(p.dir)
	if err != nil {
		return nil, err
	}
	id, err := readIdentity(pin, p.dir)
	if err == nil && id.Drive != p.drive() {
		err = fmt.Errorf("%s holds drive %s by now", p.dir, id.Drive)
	}
	if err != nil {
		return nil, errors.Join(err, pin.Close())
	}
	return pin, nil
}

// stands gives what the place's store stands on; nil while it is closed.
func (p *place) stands() *ground {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ground
}

// letGo says whether all stores of the place have let go of what they stood on: the
// lock of one that hangs in Close does not keep others out of a directory that was
// emptied, and it may still write there.
func (p *place) letGo() error {
	if p.closing.Load() > 0 {
		return fmt.Errorf("%s: the store that was here hangs in closing; the drive is opened when it has let go", p.dir)
	}
	return nil
}

// closeAgain is how long after a store hung in Close it is asked again whether it
// has let go.
const closeAgain = time.Second

// shut withdraws the store and closes it. A store that hangs in Close is left
// to itself, and so is the directory's lock: it may still write there, and nobody
// else must until it has let go.
func (p *place) shut() {
	if store, g := p.withdraw(); store != nil {
		p.closeStore(store, g)
	}
}

func (p *place) closeStore(store storagenode.Drive, g *ground) {
	done := make(chan error, 1)
	p.closing.Add(1)
	go func() {
		err := store.Close()
		if !errors.Is(err, storagenode.ErrSuspect) {
			_ = g.Close()
			p.closing.Add(-1) // before anybody who waited looks
			done <- err
			return
		}
		done <- err
		for errors.Is(err, storagenode.ErrSuspect) {
			<-p.node.cfg.Clock.After(closeAgain)
			err = store.Close()
		}
		_ = g.Close()
		p.closing.Add(-1)
	}()
	select {
	case err := <-done:
		if err != nil {
			p.node.cfg.Logger.Warn("drive closed with an error", "dir", p.dir, "err", err)
		}
	case <-p.node.cfg.Clock.After(suspectAfter):
		p.node.cfg.Logger.Warn("drive does not close", "dir", p.dir)
	}
}
