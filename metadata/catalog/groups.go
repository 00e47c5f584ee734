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

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
)

// Groups keeps the placement groups (famGroup) and, in open.go, picks those
// that take new blobs.
//
// It remembers the groups as it last read or wrote them. What is remembered
// is only ever acted on where a commit asserts it (the slots of a written
// blob), where it cannot change (the scheme), or where being late does no
// harm (which groups to write to).
type Groups struct {
	e      *engine
	cfg    Config
	drives Drives

	known atomic.Pointer[map[storagenode.PG]*groupEntry] // replaced, never changed
	mu    sync.Mutex                                     // guards replacing known

	open    atomic.Pointer[openSet]
	calls   atomic.Uint64
	opening sync.Mutex // one at a time looks for groups and makes them
	scanned int64      // ms; guarded by opening
	saved   int64      // ms; guarded by opening
}

// groupEntry is a group as of one value of its record.
type groupEntry struct {
	raw  []byte
	rec  *metadata.GroupRecord // shared, read-only
	fill *fill                 // the same for every value of a group
}

// fill counts what was committed to a group, roughly: what the last process
// counted after it last saved is lost, and what was deleted still counts.
type fill struct {
	blobs, bytes atomic.Int64
	saved        atomic.Int64 // blobs, when last saved
}

func newGroups(e *engine, cfg Config) *Groups {
	s := &Groups{e: e, cfg: cfg, drives: cfg.Drives}
	s.known.Store(&map[storagenode.PG]*groupEntry{})
	return s
}

// load reads all groups anew, and what they hold where it is not known yet.
func (s *Groups) load(ctx context.Context) error {
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
			continue
		}
		rec, err := decodeGroup(pg, p.Value)
		if err != nil {
			return fmt.Errorf("group %d: %w", pg, err)
		}
		changed = append(changed, &groupEntry{raw: bytes.Clone(p.Value), rec: rec})
	}
	s.keep(changed...)
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
		if e := (*s.known.Load())[pg]; e != nil && e.fill.blobs.Load() < blobs {
			e.fill.blobs.Store(blobs)
			e.fill.bytes.Store(size)
			e.fill.saved.Store(blobs)
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

// keep puts entries in the place of those known before.
func (s *Groups) keep(entries ...*groupEntry) {
	if len(entries) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := maps.Clone(*s.known.Load())
	for _, e := range entries {
		if old := now[e.rec.PG]; old != nil {
			e.fill = old.fill
		} else {
			e.fill = new(fill)
		}
		now[e.rec.PG] = e
	}
	s.known.Store(&now)
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
	v, err := s.e.get(ctx, "group", k.groupKey(pg))
	if err != nil {
		return erasure.Group{}, err
	}
	rec, err := s.parsed(pg, v)
	if err != nil {
		return erasure.Group{}, err
	}
	return rec.Group, nil
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

// create makes a group.
func (s *Groups) create(ctx context.Context, scheme erasure.Scheme, drives []storagenode.DriveID) (*groupEntry, error) {
	g := &metadata.GroupRecord{Group: erasure.Group{Scheme: scheme}}
	for i := range drives {
		g.Slots = append(g.Slots, storagenode.Slot{Drive: drives[i], Epoch: 1})
	}
	var raw []byte
	err := s.e.update(ctx, "create group", func(t *txn) error {
		counter := t.formatKey(fmtGroups)
		v, err := t.Get(ctx, counter)
		if err != nil {
			return err
		}
		last, err := decodeNumber(v)
		if err != nil {
			return err
		}
		if last >= 1<<32-1 {
			return errors.New("group numbers are used up")
		}
		// An attempt with an unknown outcome may have made one already; a group
		// more does no harm.
		g.PG = storagenode.PG(last + 1)
		raw = encodeGroup(nil, g)
		t.Put(counter, encodeNumber(t.room(12), last+1))
		t.Put(t.groupKey(g.PG), raw)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.remember(g.PG, raw)
}

// save stores what the groups hold, where that changed; it may fail.
func (s *Groups) save(ctx context.Context) {
	var changed []*groupEntry
	for _, e := range *s.known.Load() {
		if e.fill.blobs.Load() != e.fill.saved.Load() {
			changed = append(changed, e)
		}
	}
	for some := range slices.Chunk(changed, kv.MaxTxnOps) {
		counts := make([]int64, len(some))
		err := s.e.update(ctx, "save fill", func(t *txn) error {
			for i, e := range some {
				counts[i] = e.fill.blobs.Load()
				t.Put(t.fillKey(e.rec.PG), encodeFill(t.room(24), counts[i], e.fill.bytes.Load()))
			}
			return nil
		})
		if err != nil {
			s.e.log.Debug("what the groups hold is not saved", "err", err)
			return
		}
		for i, e := range some {
			e.fill.saved.Store(counts[i])
		}
	}
}
