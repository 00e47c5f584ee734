package repair

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// drive is what the detector thinks of one drive.
type drive struct {
	record   metadata.DriveRecord // its State is the drive's
	report   storagenode.DriveReport
	reported bool
	away     time.Time // since when it cannot be asked; zero: it can
	replaced bool      // another drive took its place, and nobody reports it
	held     bool      // it would be OUT, but too much is away at once
	lost     bool      // it is drained, or to be, and was away for so long that it would be OUT
	met      bool      // it could be asked at the last look
	since    time.Time // report.Since when it was last met
}

// dead says that the drive's slots must be mapped elsewhere.
func (d drive) dead() bool {
	s := d.record.State
	return d.lost || s == storagenode.DriveBroken || s == storagenode.DriveOut || s == storagenode.DriveRetired
}

// fleet is the detector's knowledge, for everyone else to read.
type fleet struct {
	mu     sync.RWMutex
	drives map[storagenode.DriveID]drive
	order  []storagenode.DriveID // oldest first
	looked chan struct{}         // closed by the first look: before it no drive is known
}

func newFleet() *fleet {
	return &fleet{drives: map[storagenode.DriveID]drive{}, looked: make(chan struct{})}
}

func (f *fleet) drive(id storagenode.DriveID) (drive, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	d, ok := f.drives[id]
	return d, ok
}

func (f *fleet) all() []drive {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := make([]drive, 0, len(f.order))
	for _, id := range f.order {
		out = append(out, f.drives[id])
	}
	return out
}

// readable says whether what lies on the drive counts as there now.
func (f *fleet) readable(id storagenode.DriveID) bool {
	d, ok := f.drive(id)
	return ok && d.away.IsZero() && !d.dead()
}

func (f *fleet) set(drives map[storagenode.DriveID]drive, order []storagenode.DriveID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drives, f.order = drives, order
	select {
	case <-f.looked:
	default:
		close(f.looked)
	}
}

// drop leaves drives out, until a look finds them again.
func (f *fleet) drop(ids []storagenode.DriveID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	drives := maps.Clone(f.drives)
	for _, id := range ids {
		delete(drives, id)
	}
	f.drives = drives
	f.order = slices.DeleteFunc(slices.Clone(f.order), func(id storagenode.DriveID) bool { return slices.Contains(ids, id) })
}

// detector turns what nodes report and what metadata remembers into states,
// and stores those that changed. One look at a time.
type detector struct {
	cfg       *Config
	fleet     *fleet
	announced func() []storagenode.DriveReport // by nodes that may not be reached
}

// look takes the reports and returns the drives that came back, or that this
// process sees for the first time: their slots deserve an inventory. Changes
// are stored only where that is asked for.
func (d *detector) look(ctx context.Context, groups []metadata.GroupRecord, store bool) ([]storagenode.DriveID, error) {
	drives, order, err := d.gather(ctx, groups)
	if err != nil {
		return nil, err
	}
	now := d.cfg.Clock.Now()
	for id, v := range drives {
		live := storagenode.DriveDown
		if v.reported {
			live = v.report.State
		}
		if live.Readable() {
			v.away = time.Time{}
		} else if v.away.IsZero() {
			v.away = now
		}
		drives[id] = v
	}
	hold := d.holds(drives, groups, now)
	var back []storagenode.DriveID
	for _, id := range order {
		v := drives[id]
		was := v.record
		v.record.State, v.held = d.judge(v, now, hold)
		v.lost = byCommand(v.record.State) && !v.away.IsZero() && now.Sub(v.away) >= d.cfg.OutAfter
		if v.reported {
			v.record.Node, v.record.Zone, v.record.Address = v.report.Node, v.report.Zone, v.report.Dir
		}
		if v.away.IsZero() && v.record.State != storagenode.DriveRetired {
			if !v.met || !v.since.Equal(v.report.Since) {
				back = append(back, id)
			}
			v.met, v.since = true, v.report.Since
		} else {
			v.met = false
		}
		if store && (v.record != was || was.Added.IsZero()) {
			if err := d.store(ctx, &v, was, now); err != nil {
				return nil, err
			}
		}
		drives[id] = v
	}
	d.fleet.set(drives, order)
	return back, nil
}

// gather joins records, reports, the groups' drives (which were in use before
// any repairer looked) and what the last look knew. A drive whose
// place another one took, and that nobody reports, is RETIRED.
func (d *detector) gather(ctx context.Context, groups []metadata.GroupRecord) (map[storagenode.DriveID]drive, []storagenode.DriveID, error) {
	records, err := d.cfg.Records.ListDrives(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list drives: %w", err)
	}
	drives := make(map[storagenode.DriveID]drive, len(records))
	order := make([]storagenode.DriveID, 0, len(records))
	for _, r := range records {
		v, _ := d.fleet.drive(r.ID)
		v.record, v.reported, v.replaced = r, false, false
		drives[r.ID] = v
		order = append(order, r.ID)
	}
	for _, rep := range d.reports() {
		v, known := drives[rep.ID]
		if !known {
			v.record = metadata.DriveRecord{ID: rep.ID, State: rep.State}
			order = append(order, rep.ID)
		}
		v.report, v.reported = rep, true
		if v.record.Added.IsZero() { // later metadata knows better
			v.record.Replaces = rep.Replaces
		}
		drives[rep.ID] = v
	}
	for _, g := range groups {
		for _, s := range g.Slots {
			if _, known := drives[s.Drive]; !known {
				drives[s.Drive] = drive{record: metadata.DriveRecord{ID: s.Drive, State: storagenode.DriveDown}}
				order = append(order, s.Drive)
			}
		}
	}
	for id, v := range drives {
		if v.reported && v.record.Added.IsZero() {
			v.record.Replaces = former(drives, v)
			drives[id] = v
		}
		old, ok := drives[v.record.Replaces]
		switch {
		case !ok || v.record.Replaces == id:
		case !old.reported:
			old.replaced = true
			drives[v.record.Replaces] = old
		case old.report.State.Readable(): // it lives elsewhere: from now on it may be away like any other
			v.record.Replaces = storagenode.DriveID{}
			drives[id] = v
		}
	}
	return drives, order, nil
}

// former is the drive whose place a new one took. Where a place was emptied again
// before anybody looked, or held a drive that had long been given up, the new one
// names a drive that is not known or RETIRED: then it is the one that was known to
// be in this directory and is nowhere now.
func former(drives map[storagenode.DriveID]drive, v drive) storagenode.DriveID {
	named := v.record.Replaces
	old, known := drives[named]
	if named.IsZero() || v.report.Dir == "" || known && old.record.State != storagenode.DriveRetired {
		return named
	}
	for id, o := range drives {
		if !o.reported && o.record.State != storagenode.DriveRetired &&
			o.record.Node == v.report.Node && o.record.Address == v.report.Dir {
			return id
		}
	}
	return named
}

// reports are of the drives that are known to be there, one of each. A drive
// that only its node's announcement speaks of cannot be asked: it is DOWN. Where
// two speak of one – a disk was moved – the one that has it in use counts.
func (d *detector) reports() []storagenode.DriveReport {
	all := d.cfg.Drives.Reports()
	at := make(map[storagenode.DriveID]int, len(all))
	once := all[:0:0]
	for _, rep := range all {
		i, twice := at[rep.ID]
		switch {
		case !twice:
			at[rep.ID] = len(once)
			once = append(once, rep)
		case rep.State.Readable() && !once[i].State.Readable():
			once[i] = rep
		}
	}
	for _, rep := range d.announced() {
		if _, known := at[rep.ID]; known {
			continue
		}
		if rep.State.Readable() {
			rep.State, rep.Reason = storagenode.DriveDown, "announced, but not reached"
		}
		at[rep.ID] = len(once)
		once = append(once, rep)
	}
	return once
}

// store keeps what follows from a look, unless the record was changed since it
// was read – a command of an operator, through whatever process –, which the
// next look then starts from.
func (d *detector) store(ctx context.Context, v *drive, was metadata.DriveRecord, now time.Time) error {
	next, overtaken := v.record, false
	err := d.cfg.Records.EditDrive(ctx, next.ID, func(r *metadata.DriveRecord) bool {
		overtaken = !r.Added.IsZero() && (r.State != was.State || was.Added.IsZero())
		if overtaken {
			next = *r
			return false
		}
		if next.Added.IsZero() {
			next.Added = now.UTC()
		}
		*r = next
		return true
	})
	if err != nil {
		return fmt.Errorf("store state of drive %s: %w", next.ID, err)
	}
	v.record = next
	if next.State != was.State && !overtaken {
		about := []any{"drive", next.ID.String(), "from", was.State.String(), "to", next.State.String()}
		why := v.report.Reason
		if !v.reported && next.State == storagenode.DriveDown {
			why = unserved
		}
		if why != "" {
			about = append(about, "reason", why)
		}
		d.cfg.Logger.Info("drive changed state", about...)
	}
	return nil
}

// unserved is why a drive is away that no process speaks of.
const unserved = "no process serves it: is its node running, and its directory named there?"

// byCommand says that an operator put a drive into the state, and that only he,
// or its end, takes it out again: one that was away meanwhile is not used again
// because it is back.
func byCommand(s storagenode.DriveState) bool {
	return s == storagenode.DriveDraining || s == storagenode.DriveDrained
}

// judge gives the state that follows, and whether OUT is held back.
func (d *detector) judge(v drive, now time.Time, hold bool) (storagenode.DriveState, bool) {
	stored := v.record.State
	if stored == storagenode.DriveRetired || v.replaced {
		return storagenode.DriveRetired, false
	}
	if v.reported && v.report.State == storagenode.DriveBroken {
		return storagenode.DriveBroken, false
	}
	if byCommand(stored) { // away for long it is lost, see look, however much else is away
		return stored, false
	}
	if v.away.IsZero() {
		return v.report.State, false
	}
	if stored == storagenode.DriveOut {
		return stored, false
	}
	if now.Sub(v.away) >= d.cfg.OutAfter {
		if !hold {
			return storagenode.DriveOut, false
		}
	} else {
		hold = false
	}
	if stored == storagenode.DriveBroken {
		return stored, hold
	}
	return storagenode.DriveDown, hold
}

// holds says that so much is away at once that it must be the network: more
// than max(m, a quarter) of the drives, or a whole zone of several drives
// where there are several zones. Drives that are broken, replaced, or gone
// without a slot left do not count: otherwise what was drained and taken away,
// or announced once and never again, would keep all others from being taken for
// lost, for ever. One whose node nobody knows is in no zone.
func (d *detector) holds(drives map[storagenode.DriveID]drive, groups []metadata.GroupRecord, now time.Time) bool {
	m := 0
	inUse := map[storagenode.DriveID]bool{}
	for _, g := range groups {
		m = max(m, int(g.Scheme.M))
		for _, s := range g.Slots {
			inUse[s.Drive] = true
		}
	}
	type zone struct {
		all, away int
		used      bool // by a slot of some group
	}
	zones := map[string]*zone{}
	total, away := 0, 0
	for id, v := range drives {
		s := v.record.State
		if s == storagenode.DriveRetired || v.replaced || s == storagenode.DriveOut && !inUse[id] {
			continue
		}
		node, name := v.record.Node, v.record.Zone
		if v.reported {
			node, name = v.report.Node, v.report.Zone
		}
		z := zones[name]
		switch {
		case node == "" && name == "":
			z = &zone{}
		case z == nil:
			z = &zone{}
			zones[name] = z
		}
		z.all++
		z.used = z.used || inUse[id]
		broken := s == storagenode.DriveBroken || v.reported && v.report.State == storagenode.DriveBroken
		isAway := !v.away.IsZero() && !broken
		if isAway {
			z.away++
		}
		if isAway && !inUse[id] && (s == storagenode.DriveDrained || now.Sub(v.away) >= d.cfg.OutAfter) {
			continue
		}
		total++
		if isAway {
			away++
		}
	}
	if away > max(m, total/4) {
		return true
	}
	for _, z := range zones {
		if len(zones) > 1 && z.all > 1 && z.away == z.all && z.used {
			return true
		}
	}
	return false
}
