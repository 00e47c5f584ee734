package segment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// errSync marks an error of fsync(2) or fdatasync(2), which is final.
var errSync = errors.New("sync failed")

// errClosed is what every method answers after Close.
var errClosed = fmt.Errorf("segment store is closed: %w", storagenode.ErrUnavailable)

// slotKey is a slot of a PG in one word.
type slotKey uint64

func slotKeyOf(pg uint32, slot uint8) slotKey { return slotKey(pg)<<8 | slotKey(slot) }

// blobKey is a blob in a slot.
type blobKey struct {
	slot slotKey
	blob storagenode.BlobID
}

// drop is a DropSlot: records of the slot with a smaller seq and an epoch up
// to epoch are gone.
type drop struct {
	epoch uint32
	seq   uint64
}

type segMap map[uint64]*segFile

type dropMap map[slotKey][]drop

// Store implements storagenode.Drive on a directory. Open makes it.
type Store struct {
	cfg    Config
	segDir string
	idxDir string
	gate   *gate
	report OpenReport

	segSize int64
	spare   int64

	broken    atomic.Pointer[error]
	noReads   atomic.Bool // broken in a way that reads must not go on
	readErrs  atomic.Int32
	readOnly  atomic.Bool
	staged    atomic.Int64 // bytes of records that the committer is to write
	deadBytes atomic.Int64 // as of the last look of compaction
	lookedAt  atomic.Int64 // when the segments were last looked for, in ns since 1970
	shortAt   atomic.Int64 // when the log last said that the process is short, in ns since 1970

	segs  atomic.Pointer[segMap]  // replaced as a whole, under mu
	drops atomic.Pointer[dropMap] // replaced as a whole, under applyMu
	idx   atomic.Pointer[index]
	sums  sumCache

	// deadGen grows whenever tombstones became visible in the index, so that a
	// Put that looked before notices.
	deadGen atomic.Uint64

	closing sync.Once
	down    chan struct{} // closed when shutdown has ended
	downErr error         // what it came to, once down is closed

	mu       sync.Mutex
	cond     sync.Cond // of mu: a write finished, the segment grew, a fill ended
	ending   bool      // Close began: nothing is accepted any more
	closed   bool
	active   *segFile // nil: the next reservation makes one
	growing  bool     // someone makes room in the log
	filling  *segFile // its range from fillFrom is being zero-filled
	fillFrom int64
	nextSeq  uint64
	nextSeg  uint64
	fences   map[slotKey]uint32
	unsaved  map[slotKey]bool // fences whose record could not be written
	dying    map[blobKey]int  // tombstones reserved, not yet in the index
	// deadTo is the greatest blob id that ever got a tombstone.
	deadTo      storagenode.BlobID
	incarnation uint64    // the high bits of tokens given now
	newFrom     uint64    // the first ticket since the last refused group
	queue       []pending // reservations not yet durable, in order
	base        uint64    // the ticket of queue[0]
	bytes       int64     // of queue
	want        uint64    // the highest ticket someone waits for
	next        *group    // joined by those that come now
	running     *group    // its fdatasync runs, nil: none
	runTo       uint64    // the last ticket running covers
	spaceAt     time.Time
	usage       vfs.Usage
	full        bool      // as of spaceAt
	refusedAt   time.Time // when a write last found no space

	keeping   sync.Mutex // one round of upkeep at a time
	unsynced  bool       // a removed segment's name may come back; guarded by keeping
	applyMu   sync.Mutex
	novelty   *novelty
	target    *index // appliers write here while the index is rebuilt, nil: to idx
	logged    int64  // bytes of log applied since the last checkpoint
	checkAt   time.Time
	purgeDue  bool // drops wait to be purged
	lossy     bool // the index names bytes that were not there at the open
	idxFailed atomic.Pointer[error]
	// idxUnmarked: the next open will not take the failed index for complete.
	idxUnmarked atomic.Bool

	kick     chan struct{} // wakes the committer
	fillKick chan struct{} // wakes the filler
	large    chan *blockWriter
	stop     context.CancelFunc
	stopped  <-chan struct{}
	wg       sync.WaitGroup // filler and keeper
	commitWG sync.WaitGroup
	dirInode uint64
}

var _ storagenode.Drive = (*Store)(nil)

// Open opens the store in cfg.Dir, making what is absent, and recovers what
// the index lacks. ctx bounds the opening alone. The caller owns the directory
// and holds its lock.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg:      cfg,
		segDir:   filepath.Join(cfg.Dir, "segments"),
		idxDir:   filepath.Join(cfg.Dir, "index"),
		gate:     newGate(cfg.Clock, cfg.Stuck),
		fences:   map[slotKey]uint32{},
		unsaved:  map[slotKey]bool{},
		dying:    map[blobKey]int{},
		novelty:  newNovelty(),
		base:     1,
		next:     newGroup(),
		down:     make(chan struct{}),
		kick:     make(chan struct{}, 1),
		fillKick: make(chan struct{}, 1),
		large:    make(chan *blockWriter, recordWrites),
	}
	for range recordWrites {
		s.large <- &blockWriter{}
	}
	s.cond.L = &s.mu
	s.segs.Store(&segMap{})
	s.drops.Store(&dropMap{})
	for _, dir := range []string{s.segDir, s.idxDir} {
		if err := cfg.FS.MkdirAll(dir); err != nil {
			return nil, fmt.Errorf("open segment store: %w", err)
		}
	}
	for _, dir := range []string{cfg.Dir, s.segDir} { // the removal of a segment may not be durable yet
		if err := cfg.FS.SyncDir(dir); err != nil {
			return nil, fmt.Errorf("open segment store: %w", err)
		}
	}
	st, err := cfg.FS.Stat(s.segDir)
	if err != nil {
		return nil, fmt.Errorf("open segment store: %w", err)
	}
	s.dirInode = st.Inode
	if err := s.measure(); err != nil {
		return nil, fmt.Errorf("open segment store: %w", err)
	}
	if err := s.recover(ctx); err != nil {
		s.closeFiles()
		return nil, fmt.Errorf("open segment store: %w", err)
	}
	s.start()
	return s, nil
}

// OpenReport says what Open and later rebuilds of the index found.
func (s *Store) OpenReport() OpenReport {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	r := s.report
	r.Damaged, r.Corrupt = slices.Clone(r.Damaged), slices.Clone(r.Corrupt)
	return r
}

func (s *Store) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop, s.stopped = cancel, ctx.Done()
	s.commitWG.Go(s.commitLoop)
	s.wg.Go(s.fillLoop)
	s.wg.Go(func() { s.keepLoop(ctx) })
	s.wg.Go(func() { s.watchLoop(ctx) })
}

// Close makes everything accepted durable and releases the drive. On a drive
// that is stuck it gives up after Config.Stuck and answers ErrSuspect: the drive is
// still written to, until another call answers otherwise.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.ending = true
		s.mu.Unlock()
		go func() {
			defer close(s.down)
			s.downErr = s.shutdown()
		}()
	})
	select {
	case <-s.down:
		return s.downErr
	case <-s.cfg.Clock.After(s.cfg.Stuck):
		return fmt.Errorf("close: %w", storagenode.ErrSuspect)
	}
}

func (s *Store) shutdown() error {
	s.stop()
	err := s.syncAll(context.Background())
	s.wg.Wait()
	s.mu.Lock()
	s.closed = true
	s.cond.Broadcast()
	s.mu.Unlock()
	s.wake(s.kick)
	s.commitWG.Wait()
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if x := s.idx.Load(); x != nil && s.broken.Load() == nil {
		if ferr := x.flush(); ferr != nil {
			s.cfg.Logger.Warn("index not flushed at close, it will be replayed", "err", ferr)
		}
	}
	s.closeFiles()
	return err
}

func (s *Store) closeFiles() {
	if x := s.idx.Swap(nil); x != nil {
		x.release()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range *s.segs.Swap(&segMap{}) {
		g.release()
	}
}

// wake nudges a loop without waiting.
func (s *Store) wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// fail makes the drive broken for good.
func (s *Store) fail(cause error) {
	err := fmt.Errorf("%w: %w", storagenode.ErrBroken, cause)
	s.mu.Lock()
	if s.broken.CompareAndSwap(nil, &err) {
		s.cfg.Logger.Error("drive is broken", "drive", s.cfg.Drive, "err", cause)
	}
	s.cond.Broadcast()
	s.mu.Unlock()
	s.wake(s.kick)
}

func (s *Store) brokenErr() error {
	if e := s.broken.Load(); e != nil {
		return *e
	}
	return nil
}

// maxReadErrors is how many reads may fail before the drive is broken.
const maxReadErrors = 3

// readFailed counts a failed read of the medium and gives it a meaning.
func (s *Store) readFailed(err error) error {
	if short(err) {
		return fmt.Errorf("%w: %w", storagenode.ErrUnavailable, err)
	}
	if errors.Is(err, syscall.EIO) && s.readErrs.Add(1) >= maxReadErrors {
		s.noReads.Store(true)
		s.fail(fmt.Errorf("repeated read errors: %w", err))
	}
	return fmt.Errorf("%w: %w", storagenode.ErrCorrupt, err)
}

// Health implements storagenode.Drive.
func (s *Store) Health() error {
	if err := s.brokenErr(); err != nil {
		return err
	}
	if s.gate.suspect() {
		return fmt.Errorf("an operation is stuck for more than %v: %w", s.cfg.Stuck, storagenode.ErrSuspect)
	}
	return nil
}

// segment finds an open segment and takes a reference; nil where it is gone.
func (s *Store) segment(id uint64) *segFile {
	if g := (*s.segs.Load())[id]; g != nil && g.refs.acquire() {
		return g
	}
	return nil
}

// setSegment adds (or, with nil, removes) a segment. mu is held.
func (s *Store) setSegment(id uint64, g *segFile) {
	m := maps.Clone(*s.segs.Load())
	if g == nil {
		delete(m, id)
	} else {
		m[id] = g
	}
	s.segs.Store(&m)
}

// segments lists the segments by id.
func (s *Store) segments() []*segFile {
	m := *s.segs.Load()
	list := make([]*segFile, 0, len(m))
	for _, id := range slices.Sorted(maps.Keys(m)) {
		list = append(list, m[id])
	}
	return list
}

// index gives the index with a reference, nil after Close.
func (s *Store) index() *index {
	for {
		x := s.idx.Load()
		if x == nil || x.refs.acquire() {
			return x
		}
	}
}

// dropped says whether a DropSlot covers a record.
func (s *Store) dropped(pg uint32, slot uint8, epoch uint32, seq uint64) bool {
	m := *s.drops.Load()
	if len(m) == 0 {
		return false
	}
	for _, d := range m[slotKeyOf(pg, slot)] {
		if epoch <= d.epoch && seq < d.seq {
			return true
		}
	}
	return false
}
