package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
)

// Groups keeps the placement groups (famGroup) and, in open.go, picks those
// that take new blobs.
//
// It remembers the groups as it last read or wrote them; other processes change
// them too. What is remembered is only ever acted on where a commit asserts it
// (the slots of a written blob), where it cannot change (the scheme), or where
// being late does no harm: which groups to write to, and, within Config.GroupAge,
// where a reader looks first.
type Groups struct {
	e      *engine
	cfg    Config
	drives Drives

	known atomic.Pointer[map[storagenode.PG]*groupEntry] // replaced, never changed
	mu    sync.Mutex                                     // guards replacing known

	// last is the newest PG number that was given away when known was read.
	last atomic.Uint64
	// all are the drives as metadata remembers them, for the failure domains.
	all atomic.Pointer[[]metadata.Candidate]
	// unfit are those that the repairers take every slot away from, however well
	// they look: retired ones that came back, and drained ones.
	unfit atomic.Pointer[map[storagenode.DriveID]bool]

	open    atomic.Pointer[openSet]
	stale   atomic.Bool  // known is to be read anew before groups are chosen
	given   atomic.Int64 // bytes that open groups were picked for
	born    time.Time
	opening sync.Mutex // one at a time looks for groups and makes them
	scanned time.Time  // guarded by opening
	made    time.Time  // when groups were made last, guarded by opening
	saved   time.Time  // guarded by opening
}

// groupEntry is a group as of one value of its record.
type groupEntry struct {
	raw  []byte
	rec  *metadata.GroupRecord // shared, read-only
	fill *fill                 // the same for every value of a group
	read atomic.Int64          // when the newest state had this value, by Groups.since; 0: not known
}

// fill counts what was committed to a group, roughly: what a process counted
// after it last saved is lost with it, and what was deleted still counts. Every
// process adds its own to what is stored.
type fill struct {
	blobs, bytes       atomic.Int64 // of all processes, as far as known
	newBlobs, newBytes atomic.Int64 // of this one, not saved yet
}

// stored takes note of what all processes together have saved.
func (f *fill) stored(blobs, bytes int64) {
	if more := blobs + f.newBlobs.Load() - f.blobs.Load(); more > 0 {
		f.blobs.Add(more)
	}
	if more := bytes + f.newBytes.Load() - f.bytes.Load(); more > 0 {
		f.bytes.Add(more)
	}
}

func newGroups(e *engine, cfg Config) *Groups {
	s := &Groups{e: e, cfg: cfg, drives: cfg.Drives}
	s.known.Store(&map[storagenode.PG]*groupEntry{})
	s.all.Store(&[]metadata.Candidate{})
	s.unfit.Store(&map[storagenode.DriveID]bool{})
	s.born = e.clock.Now()
	return s
}

// since is the time since the start, never 0.
func (s *Groups) since() int64 { return max(1, int64(s.e.clock.Now().Sub(s.born))) }

// load reads all groups anew, what they hold, and the drives.
func (s *Groups) load(ctx context.Context) error {
	// The counter first: whoever makes a group asserts it, and so finds out
	// about groups that were made after this scan.
	v, err := s.e.get(ctx, "load groups", new(arena).formatKey(fmtGroups))
	if err != nil {
		return err
	}
	last, err := decodeNumber(v)
	if err != nil {
		return fmt.Errorf("group counter: %w", err)
	}
	if err := s.loadGroups(ctx); err != nil {
		return err
	}
	s.last.Store(last)
	if err := s.loadFill(ctx); err != nil {
		return err
	}
	drives, err := (&DriveRecords{e: s.e}).ListDrives(ctx)
	if err != nil {
		return err
	}
	all := make([]metadata.Candidate, 0, len(drives))
	unfit := make(map[storagenode.DriveID]bool)
	for _, d := range drives {
		gone := d.State == storagenode.DriveRetired || d.State == storagenode.DriveDrained
		if !gone {
			all = append(all, metadata.Candidate{Drive: d.ID, Zone: d.Zone, Node: d.Node})
		}
		if gone || d.State == storagenode.DriveDraining {
			unfit[d.ID] = true
		}
	}
	s.all.Store(&all)
	s.unfit.Store(&unfit)
	return nil
}

func (s *Groups) loadGroups(ctx context.Context) error {
	began := s.since()
	var changed []*groupEntry
	for p, err := range s.e.kv.Scan(ctx, []byte{famGroup}, []byte{famGroup + 1}) {
		if err != nil {
			return unavailable("load groups", err)
		}
		pg, ok := splitGroupKey(p.Key)
		if !ok {
			return fmt.Errorf("group key %x: %w", p.Key, errRecord)
		}
		if e := (*s.known.Load())[pg]; e != nil && bytes.Equal(e.raw, p.Value) {
			e.read.Store(began)
			continue
		}
		rec, err := decodeGroup(pg, p.Value)
		if err != nil {
			return fmt.Errorf("group %d: %w", pg, err)
		}
		e := &groupEntry{raw: bytes.Clone(p.Value), rec: rec}
		e.read.Store(began)
		changed = append(changed, e)
	}
	s.keep(changed...)
	return nil
}

func (s *Groups) loadFill(ctx context.Context) error {
	for p, err := range s.e.kv.Scan(ctx, []byte{famFill}, []byte{famFill + 1}) {
		if err != nil {
			return unavailable("load groups", err)
		}
		pg, ok := splitGroupKey(p.Key)
		if !ok {
			return fmt.Errorf("group key %x: %w", p.Key, errRecord)
		}
		blobs, size, err := decodeFill(p.Value)
		if err != nil {
			return fmt.Errorf("fill of group %d: %w", pg, err)
		}
		if e := (*s.known.Load())[pg]; e != nil {
			e.fill.stored(blobs, size)
		}
	}
	return nil
}

func splitGroupKey(key []byte) (storagenode.PG, bool) {
	if len(key) != 5 {
		return 0, false
	}
	return storagenode.PG(uint32(key[1])<<24 | uint32(key[2])<<16 | uint32(key[3])<<8 | uint32(key[4])), true
}

// remember parses a group's record and keeps it.
func (s *Groups) remember(pg storagenode.PG, raw []byte) (*groupEntry, error) {
	rec, err := decodeGroup(pg, raw)
	if err != nil {
		return nil, fmt.Errorf("group %d: %w", pg, err)
	}
	entry := &groupEntry{raw: raw, rec: rec}
	s.keep(entry)
	return entry, nil
}

// keep puts entries in the place of those known before. Where a slot moved, all
// groups are read and those to write to are chosen anew at once: a write by the
// old ones would go without that slot, or fail, and slots seldom move alone.
func (s *Groups) keep(entries ...*groupEntry) {
	if len(entries) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := maps.Clone(*s.known.Load())
	moved := false
	for _, e := range entries {
		if old := now[e.rec.PG]; old != nil {
			e.fill = old.fill
			moved = moved || !slices.Equal(old.rec.Slots, e.rec.Slots)
		} else {
			e.fill = new(fill)
		}
		now[e.rec.PG] = e
	}
	s.known.Store(&now)
	if moved {
		s.stale.Store(true)
		s.open.Store(nil)
	}
}

// parsed gives the group of a record that a transaction just read; nil values
// are a group that does not exist. The result is read-only.
func (s *Groups) parsed(pg storagenode.PG, value []byte) (*metadata.GroupRecord, error) {
	if value == nil {
		return nil, fmt.Errorf("group %d is not there: %w", pg, metadata.ErrStalePlacement)
	}
	if e := (*s.known.Load())[pg]; e != nil && bytes.Equal(e.raw, value) {
		return e.rec, nil
	}
	e, err := s.remember(pg, value)
	if err != nil {
		return nil, err
	}
	return e.rec, nil
}

// scheme gives a group's scheme, which never changes.
func (s *Groups) scheme(ctx context.Context, pg storagenode.PG) (erasure.Scheme, error) {
	if e := (*s.known.Load())[pg]; e != nil {
		return e.rec.Scheme, nil
	}
	g, err := s.Group(ctx, pg)
	return g.Scheme, err
}

// filled counts committed blobs.
func (s *Groups) filled(blobs []metadata.Written) {
	known := *s.known.Load()
	for i := range blobs {
		if e := known[blobs[i].Group.PG]; e != nil {
			e.fill.newBlobs.Add(1)
			e.fill.newBytes.Add(blobs[i].Blob.Size)
			e.fill.blobs.Add(1)
			e.fill.bytes.Add(blobs[i].Blob.Size)
		}
	}
}

// Group implements metadata.Placement. The slots are shared: not to be
// changed.
func (s *Groups) Group(ctx context.Context, pg storagenode.PG) (erasure.Group, error) {
	var key [5]byte
	k := arena{free: key[:]}
	began := int64(0)
	if s.cfg.GroupAge > 0 {
		began = s.since()
	}
	v, err := s.e.get(ctx, "group", k.groupKey(pg))
	if err != nil {
		return erasure.Group{}, err
	}
	rec, err := s.parsed(pg, v)
	if err != nil {
		return erasure.Group{}, err
	}
	if began > 0 {
		if e := (*s.known.Load())[pg]; e != nil && e.rec == rec {
			e.read.Store(began)
		}
	}
	return rec.Group, nil
}

// RecentGroup implements metadata.Placement: a group as it was at most
// Config.GroupAge ago.
func (s *Groups) RecentGroup(ctx context.Context, pg storagenode.PG) (erasure.Group, error) {
	if s.cfg.GroupAge > 0 {
		if e := (*s.known.Load())[pg]; e != nil {
			if read := e.read.Load(); read > 0 && s.since()-read < int64(s.cfg.GroupAge) {
				return e.rec.Group, nil
			}
		}
	}
	return s.Group(ctx, pg)
}

// ListGroups implements metadata.Groups, in order of the PGs.
func (s *Groups) ListGroups(ctx context.Context) ([]metadata.GroupRecord, error) {
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	known := *s.known.Load()
	list := make([]metadata.GroupRecord, 0, len(known))
	for _, e := range known {
		g := *e.rec
		g.Slots = slices.Clone(g.Slots)
		g.Blobs, g.Bytes = e.fill.blobs.Load(), e.fill.bytes.Load()
		list = append(list, g)
	}
	slices.SortFunc(list, func(a, b metadata.GroupRecord) int { return int(int64(a.PG) - int64(b.PG)) })
	return list, nil
}

// edit changes a group's record in a transaction and remembers it. f says
// whether there is something to write; it gets a copy.
func (s *Groups) edit(ctx context.Context, op string, pg storagenode.PG, f func(t *txn, g *metadata.GroupRecord) (bool, error)) (erasure.Group, error) {
	var raw []byte
	err := s.e.update(ctx, op, func(t *txn) error {
		key := t.groupKey(pg)
		v, err := t.Get(ctx, key)
		if err != nil {
			return err
		}
		if v == nil {
			return fmt.Errorf("group %d is not there: %w", pg, metadata.ErrStalePlacement)
		}
		g, err := decodeGroup(pg, v)
		if err != nil {
			return fmt.Errorf("group %d: %w", pg, err)
		}
		raw = v
		write, err := f(t, g)
		if write && err == nil {
			raw = encodeGroup(nil, g)
			t.Put(key, raw)
		}
		return err
	})
	if err != nil {
		return erasure.Group{}, err
	}
	entry, err := s.remember(pg, raw)
	if err != nil {
		return erasure.Group{}, err
	}
	s.open.Store(nil)
	return entry.rec.Group, nil
}

// Remap implements metadata.Groups.
func (s *Groups) Remap(ctx context.Context, pg storagenode.PG, slot int, epoch uint32, to storagenode.DriveID) (erasure.Group, error) {
	return s.edit(ctx, "remap", pg, func(t *txn, g *metadata.GroupRecord) (bool, error) {
		if slot < 0 || slot >= len(g.Slots) {
			return false, fmt.Errorf("group %d has no slot %d", pg, slot)
		}
		at := &g.Slots[slot]
		if t.maybe && at.Epoch == epoch+1 && at.Drive == to && at.State == storagenode.SlotRebuilding {
			return false, nil
		}
		if at.Epoch != epoch {
			return false, fmt.Errorf("slot %d of group %d has epoch %d, not %d: %w", slot, pg, at.Epoch, epoch, metadata.ErrStalePlacement)
		}
		for i := range g.Slots {
			if i != slot && g.Slots[i].Drive == to {
				return false, fmt.Errorf("drive %s has slot %d of group %d already", to, i, pg)
			}
		}
		from := at.Drive
		if at.State == storagenode.SlotRebuilding && !at.From.IsZero() {
			from = at.From // it has more than what a rebuild got done so far
		}
		if from == to {
			from = storagenode.DriveID{}
		}
		*at = storagenode.Slot{Drive: to, Epoch: epoch + 1, State: storagenode.SlotRebuilding, From: from}
		return true, nil
	})
}

// MarkClean implements metadata.Groups.
func (s *Groups) MarkClean(ctx context.Context, pg storagenode.PG, slot int, epoch uint32) error {
	_, err := s.edit(ctx, "mark clean", pg, func(_ *txn, g *metadata.GroupRecord) (bool, error) {
		if slot < 0 || slot >= len(g.Slots) {
			return false, fmt.Errorf("group %d has no slot %d", pg, slot)
		}
		at := &g.Slots[slot]
		if at.Epoch != epoch {
			return false, fmt.Errorf("slot %d of group %d has epoch %d, not %d: %w", slot, pg, at.Epoch, epoch, metadata.ErrStalePlacement)
		}
		was := *at
		at.State, at.From = storagenode.SlotClean, storagenode.DriveID{}
		return *at != was, nil
	})
	return err
}

// Seal implements metadata.Groups.
func (s *Groups) Seal(ctx context.Context, pg storagenode.PG) error {
	_, err := s.edit(ctx, "seal", pg, func(_ *txn, g *metadata.GroupRecord) (bool, error) {
		was := g.Sealed
		g.Sealed = true
		return !was, nil
	})
	return err
}

// errRaced: another process made a group since the groups were read.
var errRaced = errors.New("another process made a group")

// create makes a group, asserting that after is the newest there is: processes
// that find at once that groups are lacking must not each make them all.
func (s *Groups) create(ctx context.Context, placed metadata.Placed, after uint64) (*groupEntry, error) {
	if after >= 1<<32-1 {
		return nil, errors.New("group numbers are used up")
	}
	g := &metadata.GroupRecord{Group: erasure.Group{PG: storagenode.PG(after + 1), Scheme: placed.Scheme}}
	for i := range placed.Drives {
		g.Slots = append(g.Slots, storagenode.Slot{Drive: placed.Drives[i], Epoch: 1})
	}
	raw := encodeGroup(nil, g)
	err := s.e.update(ctx, "create group", func(t *txn) error {
		counter, key := t.formatKey(fmtGroups), t.groupKey(g.PG)
		v, err := t.Get(ctx, counter)
		if err != nil {
			return err
		}
		last, err := decodeNumber(v)
		if err != nil {
			return err
		}
		if last != after {
			if t.maybe { // an attempt with an unknown outcome may have made it
				if v, err = t.Get(ctx, key); err != nil || bytes.Equal(v, raw) {
					return err
				}
			}
			return errRaced
		}
		t.Put(counter, encodeNumber(t.room(12), after+1))
		t.Put(key, raw)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.last.CompareAndSwap(after, after+1)
	return s.remember(g.PG, raw)
}

// save adds what this process committed to what is stored of the groups; it may
// fail.
func (s *Groups) save(ctx context.Context) {
	var changed []*groupEntry
	for _, e := range *s.known.Load() {
		if e.fill.newBlobs.Load() != 0 {
			changed = append(changed, e)
		}
	}
	for some := range slices.Chunk(changed, kv.MaxTxnOps) {
		adds := make([][2]int64, len(some))
		for i, e := range some {
			adds[i] = [2]int64{e.fill.newBlobs.Load(), e.fill.newBytes.Load()}
		}
		sums := make([][2]int64, len(some))
		err := s.e.update(ctx, "save fill", func(t *txn) error {
			for i, e := range some {
				key := t.fillKey(e.rec.PG)
				v, err := t.Get(ctx, key)
				if err != nil {
					return err
				}
				sums[i] = adds[i]
				if v != nil {
					blobs, size, err := decodeFill(v)
					if err != nil {
						return fmt.Errorf("fill of group %d: %w", e.rec.PG, err)
					}
					sums[i][0], sums[i][1] = sums[i][0]+blobs, sums[i][1]+size
				}
				t.Put(key, encodeFill(t.room(24), sums[i][0], sums[i][1]))
			}
			return nil
		})
		if err != nil {
			s.e.log.Debug("what the groups hold is not saved", "err", err)
			return
		}
		for i, e := range some {
			e.fill.newBlobs.Add(-adds[i][0])
			e.fill.newBytes.Add(-adds[i][1])
			e.fill.stored(sums[i][0], sums[i][1])
		}
	}
}
