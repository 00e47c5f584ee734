// Package node is one process's set of drives: it formats empty directories,
// proves the identity of formatted ones, opens their stores, and watches them
// while it runs. A directory that was emptied, unmounted, swapped or moved
// away is noticed within seconds, and until then its store goes on on its own
// disk (ground.go); an empty one in a known drive's place, on the same file
// system, becomes that drive's replacement.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/vfs"
)

// MaxDrives is the most directories one node serves.
const MaxDrives = 32

const lockName = "lock"

// Config says what a node serves.
type Config struct {
	FS   vfs.FS
	Dirs []string
	// Name and Zone are what reports carry; "" for Zone means none.
	Name, Zone string
	// Join gives the cluster that the node is to be of, where none of its
	// directories is a drive, and the drives that the cluster knows in them, whose
	// disks may not be mounted; it may wait for as long as ctx lets it. Nil: a new
	// cluster is founded.
	Join func(ctx context.Context) (storagenode.UUID, []storagenode.KnownDrive, error)
	// Open opens the store of a formatted drive. All access to dir goes through fs, which is
	// pinned to the directory that holds the drive, and closed after the store.
	Open func(ctx context.Context, fs vfs.FS, dir string, id Identity) (storagenode.Drive, error)
	// Changed is told of every change of a drive's state, one call at a time, in
	// their order. It must not block for long and must not call the node. Nil: nobody.
	Changed func(storagenode.DriveReport)
	// Spare is how many drives a start does without where they take longer than
	// half a minute to be opened; they are served once they are. 0: it waits for all.
	Spare  int
	Clock  clock.Clock
	Logger *slog.Logger
	// Poll is how often identity and health are checked. 0: 2 s.
	Poll time.Duration
}

// Limits of patience with a drive that does not answer.
const (
	suspectAfter = 10 * time.Second
	downAfter    = 30 * time.Second
)

// ErrRefused: a directory must not be used as it is. Its text says why and
// what to do.
var ErrRefused = errors.New("directory refused")

// Node serves drives. It implements storagenode.Reporter.
type Node struct {
	cfg     Config
	count   clock.Count
	cluster storagenode.UUID
	created bool
	places  []*place

	mu    sync.Mutex // guards publication; never held during I/O
	table atomic.Pointer[map[storagenode.DriveID]*entry]

	// tell is held from a change of a drive's state or store until Changed has heard
	// of it: reports come in the order of the states, and the last is how it is.
	tell        sync.Mutex
	remembering sync.Mutex // one rewrite of the drives' records at a time

	grounds grounds // of all stores

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// entry is what the data path sees of a drive.
type entry struct {
	store storagenode.Drive // nil while it cannot be asked
	state storagenode.DriveState
	place *place // that says so
}

// Open formats what is empty, opens what is a drive, and starts to watch. A
// drive that cannot be opened is reported, not fatal; a directory that holds
// something else or belongs to another cluster is ErrRefused.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if cfg.Poll == 0 {
		cfg.Poll = 2 * time.Second
	}
	n := &Node{cfg: cfg, count: clock.NewCount(cfg.Clock)}
	n.table.Store(&map[storagenode.DriveID]*entry{})
	if err := n.survey(ctx); err != nil {
		return nil, err
	}
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.cancel = cancel
	stop := context.AfterFunc(ctx, cancel)
	n.openAll(watch)
	if !stop() {
		return nil, errors.Join(context.Cause(ctx), n.Close())
	}
	for _, p := range n.places {
		n.done.Go(func() { p.watch(watch) })
	}
	return n, nil
}

// Cluster is the identity that all drives share.
func (n *Node) Cluster() storagenode.UUID { return n.cluster }

// Founding says that the cluster is new: all directories were empty, or an
// earlier start that found them so did not get as far as Founded.
func (n *Node) Founding() bool {
	for _, p := range n.places {
		if p.drive().IsZero() {
			return false
		}
	}
	return n.foundingAll()
}

// foundingAll says that every drive there is carries the mark of a new
// cluster.
func (n *Node) foundingAll() bool {
	for _, p := range n.places {
		if p.drive().IsZero() {
			continue
		}
		if _, err := n.cfg.FS.Stat(filepath.Join(p.dir, foundingName)); err != nil {
			return false
		}
	}
	return true
}

// Founded records on every drive that the cluster's namespace exists, so that
// it is never made again.
func (n *Node) Founded() error {
	var errs []error
	for _, p := range n.places {
		err := n.cfg.FS.Remove(filepath.Join(p.dir, foundingName))
		if err == nil {
			err = n.cfg.FS.SyncDir(p.dir)
		}
		if !errors.Is(err, vfs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// survey reads every directory, decides what each is, and formats the empty
// ones. It fills n.places.
func (n *Node) survey(ctx context.Context) error {
	if len(n.cfg.Dirs) < 1 || len(n.cfg.Dirs) > MaxDrives {
		return fmt.Errorf("%w: want 1 to %d drive directories, got %d", ErrRefused, MaxDrives, len(n.cfg.Dirs))
	}
	seen := map[string]bool{}
	known := map[string]storagenode.KnownDrive{}
	for _, dir := range n.cfg.Dirs {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		if seen[dir] {
			return fmt.Errorf("%w: %s is named twice", ErrRefused, dir)
		}
		for other := range seen {
			if within(dir, other) || within(other, dir) {
				return fmt.Errorf("%w: of %s and %s one lies inside the other: a drive needs a directory of its own", ErrRefused, other, dir)
			}
		}
		seen[dir] = true
		n.places = append(n.places, &place{node: n, dir: dir, work: make(chan struct{}, 1)})
	}
	var empty []*place
	for i, f := range n.look() {
		p := n.places[i]
		switch {
		case f.err == nil:
			if err := n.join(p, f, known); err != nil {
				return err
			}
		case errors.Is(f.err, errNoIdentity):
			empty = append(empty, p)
		default:
			p.fail(storagenode.DriveDown, f.err.Error())
		}
	}
	if err := n.refuseForeign(empty); err != nil {
		return err
	}
	return n.format(ctx, empty, known)
}

// within says whether dir lies inside outer; both are absolute and clean.
func within(dir, outer string) bool {
	return strings.HasPrefix(dir, strings.TrimSuffix(outer, string(filepath.Separator))+string(filepath.Separator))
}

// join accepts a formatted directory into the cluster.
func (n *Node) join(p *place, f found, known map[string]storagenode.KnownDrive) error {
	id := f.id
	if n.cluster.IsZero() {
		n.cluster = id.Cluster
	}
	if id.Cluster != n.cluster {
		return fmt.Errorf("%w: %s belongs to cluster %s, the directories before it to %s; start each cluster with its own directories", ErrRefused, p.dir, id.Cluster, n.cluster)
	}
	for _, q := range n.places {
		if q != p && q.identity.Drive == id.Drive {
			return fmt.Errorf("%w: %s and %s are the same drive %s: two names of one directory, or one is a copy of the other; name only one", ErrRefused, q.dir, p.dir, id.Drive)
		}
	}
	p.identity = id
	for _, k := range f.known {
		known[k.Dir] = k
	}
	return nil
}

// refuseForeign refuses directories that are not drives and not empty.
func (n *Node) refuseForeign(empty []*place) error {
	for _, p := range empty {
		left, err := remains(n.cfg.FS, p.dir, false)
		switch {
		case errors.Is(err, vfs.ErrNotExist):
			continue
		case err != nil:
			p.fail(storagenode.DriveDown, err.Error())
		case len(left) > 0:
			return fmt.Errorf("%w: %s is not a Kintsugi drive and not empty (it holds %s); empty it or name another directory", ErrRefused, p.dir, strings.Join(left[:min(3, len(left))], ", "))
		}
	}
	return nil
}

// remember writes to every drive which drives there are and on which file
// systems, where that changed.
func (n *Node) remember(known map[string]storagenode.KnownDrive) {
	for _, p := range n.places {
		p.mu.Lock()
		id := p.identity.Drive
		p.mu.Unlock()
		if id.IsZero() {
			continue // what was known of this place stays
		}
		k, err := inTime(n, suspectAfter, p.dir, func() (storagenode.KnownDrive, error) {
			dev, total, err := fileSystem(n.cfg.FS, p.dir)
			return storagenode.KnownDrive{Drive: id, Dir: p.dir, Device: dev, Total: total}, err
		})
		if err == nil {
			known[p.dir] = k
		}
	}
	all := slices.SortedFunc(maps.Values(known), func(a, b storagenode.KnownDrive) int { return strings.Compare(a.Dir, b.Dir) })
	for _, p := range n.places {
		if p.identity.Drive.IsZero() {
			continue
		}
		_, err := inTime(n, suspectAfter, p.dir, func() (struct{}, error) { return struct{}{}, p.renew(all) })
		if err != nil {
			n.cfg.Logger.Warn("record of drives not written", "dir", p.dir, "err", err)
		}
	}
}

// renew writes the record of drives to the place's drive, where it has another.
func (p *place) renew(all []storagenode.KnownDrive) error {
	fsys, err := p.pinDrive()
	if err != nil {
		return err
	}
	if !slices.Equal(readKnown(fsys, p.dir), all) {
		err = writeKnown(fsys, p.dir, all)
	}
	return errors.Join(err, fsys.Close())
}

// Drive implements storagenode.Drives.
func (n *Node) Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState) {
	e := (*n.table.Load())[id]
	if e == nil || e.store == nil {
		return nil, storagenode.DriveDown
	}
	return e.store, e.state
}

// Store gives the whole drive, nil where it is not open.
func (n *Node) Store(id storagenode.DriveID) storagenode.Drive {
	if e := (*n.table.Load())[id]; e != nil {
		return e.store
	}
	return nil
}

// publish makes what a place has of a drive visible to the data path: its store and
// state, nil: nothing any more. Disks move: where another place serves the drive by
// now, that it is away from this one is nobody's concern.
func (n *Node) publish(p *place, id storagenode.DriveID, e *entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if (e == nil || e.store == nil) && n.elsewhere(p, id) {
		return
	}
	next := make(map[storagenode.DriveID]*entry, len(n.places)+1)
	for k, v := range *n.table.Load() {
		next[k] = v
	}
	if e == nil {
		delete(next, id)
	} else {
		next[id] = e
	}
	n.table.Store(&next)
}

// elsewhere says that another place than p serves a drive.
func (n *Node) elsewhere(p *place, id storagenode.DriveID) bool {
	e := (*n.table.Load())[id]
	return e != nil && e.store != nil && e.place != p
}

// Reports implements storagenode.Reporter: one report a place whose drive is
// known and is not served from another, in the order of the directories.
func (n *Node) Reports() []storagenode.DriveReport {
	out := make([]storagenode.DriveReport, 0, len(n.places))
	for _, p := range n.places {
		if r, ok := p.report(); ok {
			out = append(out, r)
		}
	}
	return out
}

// Tell has Changed told how every drive is now, in turn with what changes.
func (n *Node) Tell() {
	n.tell.Lock()
	defer n.tell.Unlock()
	for _, p := range n.places {
		p.inform()
	}
}

// Unusable says of each directory that has no drive in service, and why.
func (n *Node) Unusable() []string {
	var out []string
	for _, p := range n.places {
		p.mu.Lock()
		switch {
		case p.store != nil:
		case strings.HasPrefix(p.reason, p.dir+" "):
			out = append(out, p.reason)
		default:
			out = append(out, p.dir+": "+p.reason)
		}
		p.mu.Unlock()
	}
	return out
}

// Replace formats the empty directory of a place that was held back (another
// file system than the one recorded) as the replacement of its drive.
func (n *Node) Replace(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for _, p := range n.places {
		if p.dir == dir {
			return p.replace(ctx)
		}
	}
	return fmt.Errorf("%w: %s is none of this node's drive directories", ErrRefused, dir)
}

// Check looks at every drive now, as the watch does from time to time, and
// returns when it has, or when ctx ends. What it finds is in the reports.
func (n *Node) Check(ctx context.Context) {
	done := make(chan struct{}, len(n.places))
	for _, p := range n.places {
		go func() { // a drive that hangs keeps this goroutine, not the caller
			p.check(context.WithoutCancel(ctx))
			done <- struct{}{}
		}()
	}
	for range n.places {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// Close ends the watch and closes every drive.
func (n *Node) Close() error {
	n.cancel()
	n.done.Wait()
	// A check that just replaced a drive still has the others told of it: all
	// have ended before the first is closed.
	errs := make([]error, len(n.places))
	var all sync.WaitGroup
	for i, p := range n.places {
		all.Go(func() { errs[i] = p.settle() })
	}
	all.Wait()
	for i, p := range n.places {
		if errs[i] == nil {
			p.shut()
			<-p.work
		}
	}
	return errors.Join(errs...)
}
