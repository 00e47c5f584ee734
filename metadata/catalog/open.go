package catalog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// How long things are believed.
const (
	openTTL  = 500 * time.Millisecond // which groups to write to
	scanTTL  = 5 * time.Second        // that no other process made groups
	saveTTL  = 30 * time.Second       // between saves of what groups hold
	stickFor = 200 * time.Millisecond // on one group, so that small blobs share its syncs
	// stickBytes is how much new blobs bring to a group before the next one's turn,
	// each of them stickLeast at least: large ones are spread, and small ones,
	// which in another group would each be synced apart, are not.
	stickBytes = 4 << 20
	stickLeast = 4 << 10
	// refreshTime is how long those that want a group wait for what is known to be
	// read anew, or saved; being late with either does no harm.
	refreshTime = time.Second
	// makeTTL is how long those that were made have to do, but for drives that are
	// in none: where drives are full but for moments, each at another time, every
	// set of those that are not would get groups of its own, which stay for ever.
	makeTTL = time.Minute
)

// openSet is the groups that take new blobs, as of a moment. It is never
// changed.
type openSet struct {
	groups []erasure.Group
	until  time.Time
	// degraded: no group is such that all its drives can be written to.
	degraded bool
}

// OpenGroup implements metadata.Placement. Consecutive calls for small blobs get
// the same group for a little while. The slots are shared: not to be changed.
func (s *Groups) OpenGroup(ctx context.Context, size int64) (erasure.Group, error) {
	now := s.e.clock.Now()
	set := s.open.Load()
	if set == nil || now.After(set.until) {
		var err error
		if set, err = s.reopen(ctx, now, set); err != nil {
			return erasure.Group{}, err
		}
	}
	given := s.given.Add(min(max(size, stickLeast), stickBytes))
	g := set.pick(now, given)
	if set.degraded || s.writable(g) {
		return *g, nil
	}
	// A drive failed since: do not wait for the set to grow old.
	set, err := s.reopen(ctx, now, set)
	if err != nil {
		return erasure.Group{}, err
	}
	return *set.pick(now, given), nil
}

func (o *openSet) pick(now time.Time, given int64) *erasure.Group {
	turn := uint64(given/stickBytes) + uint64(now.UnixMilli()/stickFor.Milliseconds())
	return &o.groups[turn%uint64(len(o.groups))]
}

// writable says whether all drives of a group take writes now.
func (s *Groups) writable(g *erasure.Group) bool {
	for i := range g.Slots {
		if store, state := s.drives.Drive(g.Slots[i].Drive); store == nil || state != storagenode.DriveActive {
			return false
		}
	}
	return true
}

// reopen looks for the groups to write to, and makes them where there are too
// few. One caller does it; the others find the result, and while it is under
// way those that have a set which was good a moment ago keep it.
func (s *Groups) reopen(ctx context.Context, now time.Time, old *openSet) (*openSet, error) {
	if old != nil && now.Sub(old.until) < openTTL && now.After(old.until) {
		if !s.opening.TryLock() {
			return old, nil
		}
	} else {
		s.opening.Lock()
	}
	defer s.opening.Unlock()
	if set := s.open.Load(); set != nil && set != old {
		return set, nil
	}
	if s.drives == nil {
		return nil, fmt.Errorf("open group: %w", metadata.ErrNoPlacement)
	}
	if s.stale.Load() || s.scanned.IsZero() || now.Sub(s.scanned) >= scanTTL {
		if err := s.refresh(ctx, old != nil); err != nil {
			return nil, err
		}
		s.scanned = now
		s.stale.Store(false)
	}
	set, err := s.choose(ctx)
	if err != nil {
		return nil, err
	}
	set.until = now.Add(openTTL)
	if old != nil && old.degraded != set.degraded {
		s.e.log.Info("placement of new blobs changed", "degraded", set.degraded, "scheme", set.groups[0].Scheme, "groups", len(set.groups))
	}
	s.open.Store(set)
	if now.Sub(s.saved) >= saveTTL {
		s.saved = now
		timed, cancel := context.WithTimeout(ctx, refreshTime)
		defer cancel()
		s.save(timed)
	}
	return set, nil
}

// refresh reads the groups anew. Where there are some to write to, that may fail,
// and takes no longer than refreshTime.
func (s *Groups) refresh(ctx context.Context, have bool) error {
	if !have {
		return s.load(ctx)
	}
	timed, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	if err := s.load(timed); err != nil {
		s.e.log.Warn("groups are not read anew", "err", err)
	}
	return nil
}

// choose finds the groups to write to. The caller holds opening.
func (s *Groups) choose(ctx context.Context) (*openSet, error) {
	for attempt := 0; ; attempt++ {
		set, err := s.tryChoose(ctx, attempt < maxAttempts)
		if !errors.Is(err, errRaced) {
			return set, err
		}
		if err := s.load(ctx); err != nil {
			return nil, err
		}
	}
}

// tryChoose gives errRaced, where retry allows it, when another process made
// groups meanwhile.
func (s *Groups) tryChoose(ctx context.Context, retry bool) (*openSet, error) {
	last := s.last.Load() // before known is looked at
	cands := s.candidates()
	want := s.cfg.OpenGroups
	if want <= 0 {
		want = max(1, len(cands))
	}
	domains, scheme := s.domains()
	placed, ok := metadata.Place(cands, domains, scheme)
	if !ok {
		return s.leftOver(cands)
	}
	usable := s.usable(cands, placed)
	if n := s.paced(lacking(usable, cands, want), usable, cands); n > 0 {
		if placed.Relaxed {
			s.e.log.Warn("groups are not spread over failure domains", "scheme", placed.Scheme, "drives", len(cands))
		}
		made, err := s.fillUp(ctx, cands, n, last)
		usable = append(usable, made...)
		if len(made) > 0 {
			s.made = s.e.clock.Now()
		}
		if errors.Is(err, errRaced) && retry {
			return nil, err
		}
		if err != nil && len(usable) == 0 {
			if set, lerr := s.leftOver(cands); lerr == nil {
				s.e.log.Warn("no group could be made", "err", err)
				return set, nil
			}
			return nil, err
		}
	}
	return &openSet{groups: evenly(usable, cands, want)}, nil
}

// domains gives the failure domains of the cluster, also those away, and the
// scheme of new groups.
func (s *Groups) domains() (metadata.Domains, erasure.Scheme) {
	all := slices.Clone(*s.all.Load())
	known := make(map[storagenode.DriveID]bool, len(all))
	for i := range all {
		known[all[i].Drive] = true
	}
	unfit := *s.unfit.Load()
	for _, r := range s.drives.Reports() {
		if !known[r.ID] && !unfit[r.ID] {
			all = append(all, metadata.Candidate{Drive: r.ID, Zone: r.Zone, Node: r.Node})
		}
	}
	if s.cfg.Scheme.K > 0 {
		return metadata.DomainsOf(all), s.cfg.Scheme
	}
	return metadata.DomainsOf(all), metadata.DefaultScheme(all)
}

// lacking is how many groups are to be made: up to want where fewer than half
// of that are usable, and want where a drive is in none of them – a new node –
// so that it gets its share of what is written at once, without any old data
// being moved.
func lacking(usable []erasure.Group, cands []metadata.Candidate, want int) int {
	if len(usable) == 0 || len(usable) < want/2 {
		return want - len(usable)
	}
	if want*len(usable[0].Slots) < len(cands) {
		return 0 // so few groups cannot have them all
	}
	in := members(usable)
	for i := range cands {
		if in[cands[i].Drive] == 0 {
			return want
		}
	}
	return 0
}

// paced is how many groups of n that are lacking are made: so shortly after
// others only one, and that where there is none to write to, unless a drive is in
// no group at all.
func (s *Groups) paced(n int, usable []erasure.Group, cands []metadata.Candidate) int {
	since := s.e.clock.Now().Sub(s.made)
	if s.made.IsZero() || since < 0 || since >= makeTTL {
		return n
	}
	if slices.ContainsFunc(cands, func(c metadata.Candidate) bool { return c.Load == 0 }) {
		return n
	}
	if len(usable) > 0 {
		return 0
	}
	return min(n, 1)
}

// members counts in how many groups a drive is.
func members(groups []erasure.Group) map[storagenode.DriveID]int {
	in := make(map[storagenode.DriveID]int)
	for i := range groups {
		for _, slot := range groups[i].Slots {
			in[slot.Drive]++
		}
	}
	return in
}

// evenly takes want groups, in order of their numbers, such that each drive is
// in about as many of them.
func evenly(groups []erasure.Group, cands []metadata.Candidate, want int) []erasure.Group {
	byPG := func(a, b erasure.Group) int { return cmp.Compare(a.PG, b.PG) }
	slices.SortFunc(groups, byPG)
	if len(groups) <= want {
		return groups
	}
	in := make(map[storagenode.DriveID]int, len(cands))
	taken := make([]bool, len(groups))
	chosen := make([]erasure.Group, 0, want)
	for len(chosen) < want {
		best, least := -1, 0
		for i := range groups {
			load := 0
			for _, slot := range groups[i].Slots {
				load += 2*in[slot.Drive] + 1
			}
			if !taken[i] && (best < 0 || load < least) {
				best, least = i, load
			}
		}
		taken[best] = true
		chosen = append(chosen, groups[best])
		for _, slot := range groups[best].Slots {
			in[slot.Drive]++
		}
	}
	slices.SortFunc(chosen, byPG)
	return chosen
}

// candidates are the drives that take new blobs, in order of their ids.
func (s *Groups) candidates() []metadata.Candidate {
	load := make(map[storagenode.DriveID]int)
	for _, e := range *s.known.Load() {
		if !e.rec.Sealed {
			for i := range e.rec.Slots {
				load[e.rec.Slots[i].Drive]++
			}
		}
	}
	unfit := *s.unfit.Load()
	var cands []metadata.Candidate
	for _, r := range s.drives.Reports() {
		if r.State != storagenode.DriveActive || r.Space.ReadOnly || unfit[r.ID] {
			continue
		}
		if store, state := s.drives.Drive(r.ID); store == nil || state != storagenode.DriveActive {
			continue
		}
		cands = append(cands, metadata.Candidate{Drive: r.ID, Zone: r.Zone, Node: r.Node, Load: load[r.ID]})
	}
	slices.SortFunc(cands, func(a, b metadata.Candidate) int { return bytes.Compare(a.Drive[:], b.Drive[:]) })
	return cands
}

// usable are the groups that are as good as one that would be made now: of its
// scheme, on candidates alone and on as many nodes, and not full.
func (s *Groups) usable(cands []metadata.Candidate, placed metadata.Placed) []erasure.Group {
	node := make(map[storagenode.DriveID]string, len(cands))
	for i := range cands {
		node[cands[i].Drive] = cands[i].Node
	}
	least := map[string]bool{}
	for _, d := range placed.Drives {
		least[node[d]] = true
	}
	var list []erasure.Group
next:
	for _, e := range *s.known.Load() {
		if e.rec.Sealed || e.rec.Scheme != placed.Scheme || s.full(e) {
			continue
		}
		on := map[string]bool{}
		for i := range e.rec.Slots {
			n, good := node[e.rec.Slots[i].Drive]
			if !good {
				continue next
			}
			on[n] = true
		}
		if len(on) >= len(least) {
			list = append(list, e.rec.Group)
		}
	}
	return list
}

func (s *Groups) full(e *groupEntry) bool {
	return e.fill.blobs.Load() >= s.cfg.SealBlobs || e.fill.bytes.Load() >= s.cfg.SealBytes
}

// fillUp makes n groups after the one numbered last, each with its slots in
// another order, so that data and parity fall on all drives alike. Full groups
// are sealed on the way.
func (s *Groups) fillUp(ctx context.Context, cands []metadata.Candidate, n int, last uint64) ([]erasure.Group, error) {
	for pg, e := range *s.known.Load() {
		if !e.rec.Sealed && s.full(e) {
			if err := s.Seal(ctx, pg); err != nil {
				return nil, err
			}
		}
	}
	var made []erasure.Group
	at := make(map[storagenode.DriveID]int, len(cands))
	for i := range cands {
		at[cands[i].Drive] = i
	}
	domains, scheme := s.domains()
	for i := range n {
		placed, ok := metadata.Place(cands, domains, scheme)
		if !ok {
			return made, fmt.Errorf("create group: %w", metadata.ErrNoPlacement)
		}
		drives := placed.Drives
		slices.SortFunc(drives, func(a, b storagenode.DriveID) int { return bytes.Compare(a[:], b[:]) })
		turn := i % len(drives)
		placed.Drives = append(slices.Clone(drives[turn:]), drives[:turn]...)
		e, err := s.create(ctx, placed, last+uint64(i))
		if err != nil {
			return made, err
		}
		s.e.log.Info("group made", "pg", e.rec.PG, "scheme", placed.Scheme)
		for _, d := range drives {
			cands[at[d]].Load++
		}
		made = append(made, e.rec.Group)
	}
	return made, nil
}

// leftOver chooses where no new group can be made: the group that survives
// the most further losses, if its least quorum can be written to.
func (s *Groups) leftOver(cands []metadata.Candidate) (*openSet, error) {
	good := make(map[storagenode.DriveID]bool, len(cands))
	for i := range cands {
		good[cands[i].Drive] = true
	}
	var best *metadata.GroupRecord
	bestMargin := -1
	for _, e := range *s.known.Load() {
		live := 0
		for i := range e.rec.Slots {
			if good[e.rec.Slots[i].Drive] {
				live++
			}
		}
		margin := live - int(e.rec.Scheme.K)
		if e.rec.Sealed || live < e.rec.Scheme.MinShards() || live < e.rec.Scheme.MinReplicas() {
			continue
		}
		if margin > bestMargin || margin == bestMargin && e.rec.PG < best.PG {
			best, bestMargin = e.rec, margin
		}
	}
	if best == nil {
		return nil, fmt.Errorf("open group: %d drives can be written to: %w", len(cands), metadata.ErrNoPlacement)
	}
	return &openSet{groups: []erasure.Group{best.Group}, degraded: true}, nil
}
