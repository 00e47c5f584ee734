package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// place is one directory of the command line and the drive in it. Its fields
// are written by Open and then by its own watch alone, under mu; mu is never
// held during I/O.
type place struct {
	node *Node
	dir  string

	mu       sync.Mutex
	identity Identity            // zero while no drive was ever seen here
	lost     storagenode.DriveID // drive recorded for this place that is not here
	state    storagenode.DriveState
	reason   string
	astray   bool // BROKEN for what the directory holds, not for its drive, which may come back
	since    time.Time
	heard    time.Time
	store    storagenode.Drive // nil while closed
	ground   *ground           // of store
	device   uint64            // of the directory's file system
	total    int64
	inode    uint64 // of the directory

	closing  atomic.Int32  // stores that were closed and have not let go
	checking atomic.Int64  // by the node's count, when the running check began; 0: none
	work     chan struct{} // holds one token: one check, replace or close at a time
	opened   chan struct{} // closed when the start's attempt to open the drive has ended
	// remembered is closed when the other drives know of the last replacement
	// here; nil: there was none. It is for who has the token.
	remembered chan struct{}
}

// mayTake says whether this empty directory, pinned, may become the drive of its
// place: when nothing is known of the place, or it lies on the same file
// system as the drive that was here.
func (p *place) mayTake(fsys vfs.Pinned, old storagenode.KnownDrive, known bool) error {
	dev, total, err := fileSystem(fsys, p.dir)
	if err != nil {
		return err
	}
	if known && (dev != old.Device || total != old.Total) {
		return fmt.Errorf("%s is empty and does not lie on the file system that its drive %s was on, so far as is known: mount that disk, or, where it was exchanged, run: kintsugi admin drives replace %s", p.dir, old.Drive, p.dir)
	}
	return nil
}

// pin opens the place's directory, whatever lies there.
func (p *place) pin() (vfs.Pinned, error) {
	fsys, err := p.node.cfg.FS.Pin(p.dir)
	if errors.Is(err, vfs.ErrNotExist) {
		return nil, fmt.Errorf("directory %s does not exist", p.dir)
	}
	return fsys, err
}

// format makes a drive of the empty directory, pinned, in the place of replaces.
func (p *place) format(fsys vfs.Pinned, replaces storagenode.DriveID) error {
	if err := p.letGo(); err != nil {
		return err
	}
	// A drive that was not there a moment ago: this directory has another name
	// (a link, a second mount) and was formatted by that, or by another node.
	switch id, err := readIdentity(fsys, p.dir); {
	case err == nil:
		return fmt.Errorf("%w: %s was empty and now is drive %s: it was named under another name too, or another node took it; name it once", ErrRefused, p.dir, id.Drive)
	case !errors.Is(err, errNoIdentity):
		return err // nobody knows
	}
	switch left, err := remains(fsys, p.dir, true); {
	case err != nil:
		return err
	case len(left) > 0:
		return fmt.Errorf("%w: %s was empty and now holds %s", ErrRefused, p.dir, left[0])
	}
	if err := clearRemains(fsys, p.dir); err != nil {
		return err
	}
	dev, total, err := fileSystem(fsys, p.dir)
	if err != nil {
		return err
	}
	id := Identity{
		Cluster: p.node.cluster, Drive: storagenode.NewUUID(), Replaces: replaces,
		Created: p.node.cfg.Clock.Now().UTC(),
	}
	if p.node.created {
		if err := writeFile(fsys, p.dir, foundingName, nil); err != nil {
			return err
		}
	}
	if err := writeIdentity(fsys, p.dir, id); err != nil {
		return err
	}
	if err := p.node.cfg.FS.SyncDir(filepath.Dir(p.dir)); err != nil {
		return err
	}
	p.mu.Lock()
	p.identity, p.lost, p.device, p.total, p.since = id, storagenode.DriveID{}, dev, total, time.Time{}
	p.mu.Unlock()
	about := []any{"drive", id.Drive.String(), "dir", p.dir}
	if !replaces.IsZero() {
		about = append(about, "replaces", replaces.String())
	}
	p.node.cfg.Logger.Info("drive formatted", about...)
	return nil
}

// watch checks the place again and again. A check that hangs shows in the
// state and holds up nothing else.
func (p *place) watch(ctx context.Context) {
	select {
	case <-p.opened:
	case <-ctx.Done():
		return
	}
	for p.node.cfg.Clock.Sleep(ctx, p.node.cfg.Poll) == nil {
		began := p.checking.Load()
		if began == 0 {
			p.checking.Store(p.node.count.Now())
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer p.checking.Store(0)
				p.check(ctx)
			}()
			select {
			case <-done:
			case <-p.node.cfg.Clock.After(suspectAfter):
			case <-ctx.Done():
				return
			}
			continue
		}
		switch waited := time.Duration(p.node.count.Now() - began); {
		case waited > downAfter:
			p.silent(began, storagenode.DriveDown)
		case waited > suspectAfter:
			p.silent(began, storagenode.DriveSuspect)
		}
	}
}

func (p *place) current() storagenode.Drive {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.store
}

// check proves that the directory is still the drive it was, and asks the
// store how it is.
func (p *place) check(ctx context.Context) {
	p.work <- struct{}{}
	defer func() { <-p.work }()
	if ctx.Err() != nil {
		return
	}
	id, err := readIdentity(p.node.cfg.FS, p.dir)
	st, serr := p.node.cfg.FS.Stat(p.dir)
	switch {
	case p.current() != nil && (vfs.Short(err) || vfs.Short(serr)):
		// Nothing can be looked at just now. The store itself tells how it is.
		p.health()
	case errors.Is(err, errNoIdentity):
		p.missing(ctx)
	case err != nil:
		p.shut()
		p.fail(storagenode.DriveDown, err.Error())
	case serr != nil:
		p.shut()
		p.fail(storagenode.DriveDown, serr.Error())
	case id.Cluster != p.node.cluster:
		p.strays(fmt.Sprintf("%s now belongs to cluster %s", p.dir, id.Cluster))
	case id.Drive != p.drive() || p.current() == nil && p.reopenable():
		p.adopt(ctx, id)
	case p.current() == nil:
		// broken when it was opened: stays so until it is replaced
	case st.Inode != p.inode || st.Dev != p.device:
		p.shut()
		p.adopt(ctx, id)
	default:
		p.health()
	}
}

// reopenable says that the store was closed because the directory was away, or
// held something else.
func (p *place) reopenable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state == storagenode.DriveDown || p.astray
}

// strays closes the store since the directory does not hold its drive any more.
// The drive is as good as it was: it is opened again when it is back.
func (p *place) strays(reason string) {
	p.shut()
	p.fail(storagenode.DriveBroken, reason)
	p.mu.Lock()
	p.astray = true
	p.mu.Unlock()
}

// adopt opens the drive that is in the directory now: the one that was here,
// back again, or another of the cluster.
func (p *place) adopt(ctx context.Context, id Identity) {
	for _, q := range p.node.places {
		if q == p {
			continue
		}
		if q.current() != nil && q.drive() == id.Drive {
			p.strays(fmt.Sprintf("%s holds drive %s, which is served from %s", p.dir, id.Drive, q.dir))
			return
		}
	}
	p.shut()
	p.mu.Lock()
	if old := p.identity.Drive; !old.IsZero() && old != id.Drive {
		p.node.publish(p, old, nil)
	}
	p.identity, p.lost = id, storagenode.DriveID{}
	p.mu.Unlock()
	p.open(ctx)
}

func (p *place) drive() storagenode.DriveID { return p.ident().Drive }

func (p *place) ident() Identity {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.identity
}

// missing handles a directory without drive.json: gone, emptied, unmounted or
// damaged.
func (p *place) missing(ctx context.Context) {
	p.shut()
	fsys, err := p.pin()
	if err != nil {
		p.fail(storagenode.DriveDown, err.Error())
		return
	}
	defer fsys.Close()
	if _, err := readIdentity(fsys, p.dir); !errors.Is(err, errNoIdentity) {
		p.fail(storagenode.DriveDown, fmt.Sprintf("%s: a disk came to lie here a moment ago; it is looked at next", p.dir))
		return
	}
	left, err := remains(fsys, p.dir, !p.drive().IsZero())
	switch {
	case err != nil:
		p.fail(storagenode.DriveDown, err.Error())
		return
	case len(left) > 0:
		p.strays(fmt.Sprintf("%s has lost its %s but still holds %s: restore that file, or empty the directory to have the drive rebuilt", p.dir, IdentityName, strings.Join(left[:min(3, len(left))], ", ")))
		return
	}
	old := storagenode.KnownDrive{Drive: p.drive(), Device: p.device, Total: p.total}
	if old.Drive.IsZero() {
		old.Drive = p.lost
	}
	if err := p.mayTake(fsys, old, old.Device != 0 || !old.Drive.IsZero()); err != nil {
		p.fail(storagenode.DriveDown, err.Error())
		return
	}
	p.takePlace(ctx, fsys, old.Drive)
}

// takePlace formats the directory, pinned, as the replacement of old and opens it.
func (p *place) takePlace(ctx context.Context, fsys vfs.Pinned, old storagenode.DriveID) {
	// Tell first, so that nobody writes here as if the old drive were there.
	p.fail(storagenode.DriveBroken, "emptied; being replaced")
	if err := p.format(fsys, old); err != nil {
		p.fail(storagenode.DriveDown, err.Error())
		return
	}
	if !old.IsZero() {
		p.node.publish(p, old, nil)
	}
	p.open(ctx)
	told := make(chan struct{})
	p.remembered = told
	go func() { // beside the watch: another drive may hang in it
		defer close(told)
		if err := p.node.rememberPlace(p); err != nil {
			p.node.cfg.Logger.Warn("record of drives not renewed", "err", err)
		}
	}()
}

// replace is takePlace by command.
func (p *place) replace(ctx context.Context) error {
	p.work <- struct{}{}
	defer func() { <-p.work }()
	if p.current() != nil {
		return fmt.Errorf("%w: %s is in service as drive %s", ErrRefused, p.dir, p.drive())
	}
	fsys, err := p.pin()
	if err != nil {
		return err
	}
	defer fsys.Close()
	if _, err := readIdentity(fsys, p.dir); !errors.Is(err, errNoIdentity) {
		return fmt.Errorf("%w: %s holds a drive; empty the directory first", ErrRefused, p.dir)
	}
	left, err := remains(fsys, p.dir, false)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%w: %s is not empty (it holds %s)", ErrRefused, p.dir, strings.Join(left[:min(3, len(left))], ", "))
	}
	old := p.drive()
	if old.IsZero() {
		old = p.lost
	}
	p.takePlace(ctx, fsys, old)
	if _, state := p.node.Drive(p.drive()); state != storagenode.DriveActive {
		return fmt.Errorf("format %s: see the drive's reason", p.dir)
	}
	return nil
}

// health takes over what the store says of itself.
func (p *place) health() {
	store := p.current()
	now := p.node.cfg.Clock.Now()
	p.mu.Lock()
	p.heard = now
	p.mu.Unlock()
	err := store.Health()
	switch {
	case err == nil:
		p.setState(storagenode.DriveActive, "", store)
	case errors.Is(err, storagenode.ErrSuspect):
		p.mu.Lock()
		long := p.state == storagenode.DriveDown || p.state == storagenode.DriveSuspect && now.Sub(p.since) > downAfter-suspectAfter
		p.mu.Unlock()
		if long {
			p.setState(storagenode.DriveDown, err.Error(), store)
		} else {
			p.setState(storagenode.DriveSuspect, err.Error(), store)
		}
	default:
		p.setState(storagenode.DriveBroken, err.Error(), store)
	}
}

// settle waits for what goes on in the place and takes its token.
func (p *place) settle() error {
	late := p.node.cfg.Clock.After(suspectAfter)
	select {
	case p.work <- struct{}{}:
	case <-late:
		return fmt.Errorf("%s: a check is stuck", p.dir)
	}
	if p.remembered != nil {
		select {
		case <-p.remembered:
		case <-late: // another drive hangs
		}
	}
	return nil
}
