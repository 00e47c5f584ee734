package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// remapsAtOnce bounds the slots mapped at the same time; each costs a sync of
// a drive and a transaction.
const remapsAtOnce = 8

// WaitingSlot is a slot that should be mapped elsewhere but cannot be.
type WaitingSlot struct {
	PG    storagenode.PG      `json:"pg"`
	Slot  int                 `json:"slot"`
	Drive storagenode.DriveID `json:"drive"`
	Why   string              `json:"why"`
	// Needs is the room in bytes that a drive outside the group must have for the
	// slot, where it waits for that.
	Needs int64 `json:"needs,omitempty"`
}

// noRoom is why a slot waits for room.
const noRoom = "no healthy drive outside the group has room for all of it"

// planner maps the slots of dead and draining drives to others.
type planner struct {
	cfg    *Config
	fleet  *fleet
	moving *moving
	worker *worker
	census *census

	mu      sync.Mutex
	waiting []WaitingSlot                // as of the last plan; guarded by mu
	tenants map[storagenode.DriveID]bool // draining, with something of Tenant's; as of the last plan, guarded by mu
	lies    SpreadStatus                 // as of the last look; guarded by mu

	// These are touched by the plan under way alone, and kept from one to the next.
	kept     map[storagenode.DriveID]keptDrive
	relieved map[storagenode.DriveID]time.Time // when a drive last gave a slot away
	short    bool                              // slots waited for room
}

// move is one slot to be mapped to another drive.
type move struct {
	pg   storagenode.PG
	slot int
	from storagenode.Slot
	to   storagenode.DriveID
}

// plan looks at every slot and maps those that must move, where a drive can
// take them, what was lost before the rest, and of the groups with the least margin
// first: room may be short. It returns how many did.
func (p *planner) plan(ctx context.Context, groups []metadata.GroupRecord) (int, error) {
	o := p.outlook(groups)
	p.urgentFirst(groups)
	var moves []move
	var waiting []WaitingSlot
	planned := make([][]storagenode.Slot, len(groups))
	for n := range groups {
		planned[n] = slices.Clone(groups[n].Slots)
	}
	for _, lost := range []bool{true, false} {
		for n := range groups {
			more, stay := p.leave(o, &groups[n], planned[n], lost)
			moves, waiting = append(moves, more...), append(waiting, stay...)
		}
	}
	waiting = append(waiting, p.sources(groups)...)
	left, stuck := 0, 0
	if len(moves) == 0 {
		left, stuck = p.atLeisure(groups)
	}
	more, crowded := p.relieve(o, groups, left)
	waiting, moves = append(waiting, crowded...), append(moves, more...)
	p.tell(waiting)
	if len(moves) == 0 {
		moves = p.respread(o, groups, left-stuck)
	}
	n, err := p.carryOut(ctx, moves)
	kept, errDrained := p.drained(ctx, o.drives, o.load)
	p.mu.Lock()
	p.waiting = append(waiting, kept...)
	p.mu.Unlock()
	return n, errors.Join(err, errDrained, p.undrained(ctx, groups, o.drives))
}

// urgentFirst orders groups by what their blobs survive, the least first. What is
// there while it is moved is not lost.
func (p *planner) urgentFirst(groups []metadata.GroupRecord) {
	left := make(map[storagenode.PG]int, len(groups))
	for _, g := range groups {
		left[g.PG] = margin(g.Scheme, erasure.Encoded, liveSlots(p.fleet, g.Group)|p.moving.held(g.Group, p.fleet.readable))
	}
	slices.SortStableFunc(groups, func(a, b metadata.GroupRecord) int { return left[a.PG] - left[b.PG] })
}

// leave plans where those slots of a group go that must leave their drives: those of
// lost drives, or the others. slots are on what is planned so far, and what is added to
// that; it gives those that wait, too.
func (p *planner) leave(o *outlook, g *metadata.GroupRecord, slots []storagenode.Slot, lost bool) (moves []move, waiting []WaitingSlot) {
	for i, s := range g.Slots {
		d, ok := p.fleet.drive(s.Drive)
		if d.dead() != lost {
			continue
		}
		if why := p.waits(d, ok); why != "" {
			waiting = append(waiting, WaitingSlot{g.PG, i, s.Drive, why, 0})
			continue
		}
		why, stays := p.leaves(o, g, slots, i)
		if why == "" {
			continue
		}
		if stays {
			waiting = append(waiting, WaitingSlot{g.PG, i, s.Drive, why, 0})
			continue
		}
		to, but := p.target(o, g, slots, i)
		if but != "" {
			waiting = append(waiting, o.waits(g, i, why, but))
		}
		if to.IsZero() {
			continue
		}
		slots[i].Drive = to
		moves = append(moves, o.move(g, i, to))
	}
	return moves, waiting
}

// leaves says why a slot of a group, whose slots are on others as planned so far, is to
// leave its drive, "" where it is not, and whether it has to stay for now all the same.
func (p *planner) leaves(o *outlook, g *metadata.GroupRecord, slots []storagenode.Slot, slot int) (why string, stays bool) {
	s := g.Slots[slot]
	d, _ := p.fleet.drive(s.Drive)
	state := "drive is " + d.record.State.String()
	switch {
	case d.dead():
		return state, false
	case s.State == storagenode.SlotRebuilding && p.full(&d):
		if why = "drive is full before it has all of the slot"; !p.bears(o, g, slots, slot) {
			return why + "; others of its group are rebuilt first", true
		}
		return why, false
	case d.record.State != storagenode.DriveDraining:
		return "", false
	case s.State == storagenode.SlotRebuilding:
		return p.held(g.PG, slot, s, state+"; what the slot should hold is being copied to it first"), true
	}
	return state, false
}

// leisureAtOnce is how many slots at a time are under way that need not be moved.
const leisureAtOnce = 2

// atLeisure is how many slots may be moved that need not be. Of those under way, the
// ones that are stuck, for there is no room on their drives, are to count only against
// moves that gain no room, and those of lost drives not even there: there may never be any.
func (p *planner) atLeisure(groups []metadata.GroupRecord) (left, stuck int) {
	left = leisureAtOnce
	for _, g := range groups {
		for _, s := range g.Slots {
			if s.State != storagenode.SlotRebuilding {
				continue
			}
			if d, _ := p.fleet.drive(s.Drive); !p.full(&d) {
				left--
			} else if p.fleet.readable(s.From) {
				stuck++
			}
		}
	}
	return left, stuck
}

// respread moves slots of groups that lie worse than they could – one failure
// domain has more than m of them, or a node two while others have none – where
// there are drives for it now: groups made when nodes were few, or repaired while
// some were away. It comes after all else, a few slots at a time.
func (p *planner) respread(o *outlook, groups []metadata.GroupRecord, left int) (moves []move) {
	for i := range groups {
		if len(moves) >= left {
			break
		}
		g := &groups[i]
		on, slots := p.places(g)
		at := metadata.Crowd(on, o.domains, g.Scheme.M)
		doubled := at < 0
		if doubled {
			at = metadata.Doubled(on)
		}
		if at < 0 || !p.fleet.readable(on[at].Drive) || g.Slots[slots[at]].State == storagenode.SlotRebuilding {
			continue
		}
		to, why := p.target(o, g, g.Slots, slots[at])
		if why != "" || to.IsZero() {
			continue
		}
		d, _ := p.fleet.drive(to)
		if doubled && slices.ContainsFunc(on, func(c metadata.Candidate) bool { return c.Node == d.record.Node }) {
			continue // it would lie no better
		}
		moves = append(moves, o.move(g, slots[at], to))
	}
	return moves
}

// places gives the drives that a group's slots are on, as far as they are known,
// and which slot each of them has.
func (p *planner) places(g *metadata.GroupRecord) (on []metadata.Candidate, slots []int) {
	for i, s := range g.Slots {
		if d, ok := p.fleet.drive(s.Drive); ok {
			on, slots = append(on, asCandidate(&d, nil)), append(slots, i)
		}
	}
	return on, slots
}

// waits says why nothing can be done about a drive that is away, "" where
// nothing need be or something can.
func (p *planner) waits(d drive, known bool) string {
	switch {
	case !known:
		return "drive was never seen by this repairer"
	case d.held:
		return "so many drives are away at once that it may be the network; not taken for lost unless you drain it"
	case !d.dead() && !d.away.IsZero():
		return fmt.Sprintf("drive is unreachable; taken for lost after %s", p.cfg.OutAfter)
	}
	return ""
}

// present gives the drives that make up the cluster, also those away.
func present(drives []drive) []metadata.Candidate {
	var all []metadata.Candidate
	for i := range drives {
		if s := drives[i].record.State; s != storagenode.DriveRetired && s != storagenode.DriveDrained {
			all = append(all, asCandidate(&drives[i], nil))
		}
	}
	return all
}

func asCandidate(d *drive, load map[storagenode.DriveID]int) metadata.Candidate {
	return metadata.Candidate{Drive: d.record.ID, Zone: d.record.Zone, Node: d.record.Node, Load: load[d.record.ID]}
}

// target picks the drive for a slot of a group, whose slots are on others as planned
// so far: the one that took the old drive's place, else a healthy one by the rules
// that groups are placed by (metadata.Replace), with room for all of the slot. A zero
// id means none, and why not; an id with a reason is a drive whose failure domain then
// has more than m of the group's slots.
func (p *planner) target(o *outlook, g *metadata.GroupRecord, slots []storagenode.Slot, slot int) (storagenode.DriveID, string) {
	var rest, cands, doubtful []metadata.Candidate
	taken := map[storagenode.DriveID]bool{}
	for i, s := range slots {
		taken[s.Drive] = true
		d, ok := p.fleet.drive(s.Drive)
		moves := d.dead() || d.record.State == storagenode.DriveDraining // itself, so that it takes no place
		if ok && i != slot && !moves {
			rest = append(rest, asCandidate(&d, nil))
		}
	}
	short := false
	needs, least := o.needs(g, slot)
	for i := range o.drives {
		d := &o.drives[i]
		if d.record.State != storagenode.DriveActive || !d.away.IsZero() || taken[d.record.ID] {
			continue
		}
		former := d.record.ID == g.Slots[slot].From // it has most of it already
		switch {
		case d.report.Space.ReadOnly || !former && !o.fits(d.record.ID, least) || p.worker.refusedSince(d.record.ID, p.cfg.Clock.Now().Add(-10*p.cfg.Tick)):
			short = true
		case p.full(d) || !former && !o.fits(d.record.ID, needs):
			doubtful = append(doubtful, asCandidate(d, o.load))
		case d.record.Replaces == slots[slot].Drive:
			return d.record.ID, ""
		default:
			cands = append(cands, asCandidate(d, o.load))
		}
	}
	to, relaxed, ok := metadata.Replace(cands, rest, o.domains, g.Scheme.M)
	if d, _ := p.fleet.drive(slots[slot].Drive); !ok && d.dead() { // there is nothing to be lost
		to, relaxed, ok = metadata.Replace(doubtful, rest, o.domains, g.Scheme.M)
	}
	switch {
	case !ok && (short || len(doubtful) > 0):
		return storagenode.DriveID{}, noRoom
	case !ok:
		return storagenode.DriveID{}, "no healthy drive outside the group is left to take the slot"
	case relaxed:
		return to, "mapped into a failure domain that then has too many slots of its group: no other has a drive for it"
	}
	return to, ""
}

// carryOut sets the fence at each new drive, then maps the slot to it.
func (p *planner) carryOut(ctx context.Context, moves []move) (int, error) {
	var g errgroup.Group
	g.SetLimit(remapsAtOnce)
	done := make([]bool, len(moves))
	for i, m := range moves {
		g.Go(func() error {
			err := p.remap(ctx, m)
			if errors.Is(err, metadata.ErrStalePlacement) {
				return nil // somebody else moved it: the next plan will see
			}
			done[i] = err == nil
			return err
		})
	}
	err := g.Wait()
	n := 0
	for i, ok := range done {
		if ok {
			p.relieved[moves[i].from.Drive] = p.cfg.Clock.Now()
			n++
		}
	}
	return n, err
}

func (p *planner) remap(ctx context.Context, m move) error {
	store, state := p.cfg.Drives.Drive(m.to)
	if store == nil || !state.Writable() {
		return fmt.Errorf("map slot %d of pg %d to drive %s: %w", m.slot, m.pg, m.to, storagenode.ErrUnavailable)
	}
	opCtx, cancel := context.WithTimeout(ctx, p.cfg.OpTimeout)
	defer cancel()
	if err := store.SetSlotEpoch(opCtx, m.pg, m.slot, m.from.Epoch+1); err != nil {
		if errors.Is(err, storagenode.ErrReadOnly) {
			p.worker.refuse(m.to)
		}
		return fmt.Errorf("fence slot %d of pg %d at drive %s: %w", m.slot, m.pg, m.to, err)
	}
	if _, err := p.cfg.Groups.Remap(ctx, m.pg, m.slot, m.from.Epoch, m.to); err != nil {
		return fmt.Errorf("map slot %d of pg %d to drive %s: %w", m.slot, m.pg, m.to, err)
	}
	p.moving.began(m.pg, m.slot, m.from)
	p.cfg.Logger.Info("slot mapped to another drive", "pg", uint32(m.pg), "slot", m.slot,
		"from", m.from.Drive.String(), "drive", m.to.String(), "epoch", m.from.Epoch+1)
	return nil
}

// undrained has drives drained again that are DRAINED and in use all the same: a
// gateway that had not heard of it yet made a group there.
func (p *planner) undrained(ctx context.Context, groups []metadata.GroupRecord, drives []drive) error {
	var errs []error
	for _, d := range drives {
		if d.record.State != storagenode.DriveDrained || !inUse(groups, d.record.ID) {
			continue
		}
		errs = append(errs, p.cfg.Records.EditDrive(ctx, d.record.ID, func(r *metadata.DriveRecord) bool {
			was := r.State
			r.State = storagenode.DriveDraining
			return was == storagenode.DriveDrained
		}))
	}
	return errors.Join(errs...)
}

// moveTenant has the Tenant leave the drives that are being drained, and says
// where it still is.
func (p *planner) moveTenant(drives []drive) map[storagenode.DriveID]bool {
	stays := map[storagenode.DriveID]bool{}
	if p.cfg.Tenant == nil {
		return stays
	}
	for _, d := range drives {
		draining := d.record.State == storagenode.DriveDraining
		left := p.cfg.Tenant.Leave(d.record.ID, draining || d.record.State == storagenode.DriveDrained)
		if draining && !left {
			stays[d.record.ID] = true
		}
	}
	p.mu.Lock()
	p.tenants = stays
	p.mu.Unlock()
	return stays
}

// tenanted says that a drive is not drained for the Tenant's sake.
func (p *planner) tenanted(id storagenode.DriveID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tenants[id]
}

// inUse says whether a slot is mapped to the drive or rebuilt from it.
func inUse(groups []metadata.GroupRecord, id storagenode.DriveID) bool {
	for _, g := range groups {
		for _, s := range g.Slots {
			if s.Drive == id || s.State == storagenode.SlotRebuilding && s.From == id {
				return true
			}
		}
	}
	return false
}

// relaxedListed bounds the groups that are named for lying badly spread.
const relaxedListed = 16

// survey counts the groups that lie over too few failure domains.
func (p *planner) survey(groups []metadata.GroupRecord) {
	domains := metadata.DomainsOf(present(p.fleet.all()))
	s := SpreadStatus{Zones: domains.Zones, Nodes: domains.Nodes}
	for _, g := range groups {
		if on, _ := p.places(&g); metadata.Crowd(on, domains, g.Scheme.M) >= 0 {
			if s.Relaxed++; len(s.RelaxedGroups) < relaxedListed {
				s.RelaxedGroups = append(s.RelaxedGroups, g.PG)
			}
		}
	}
	p.mu.Lock()
	p.lies = s
	p.mu.Unlock()
}

func (p *planner) spread() SpreadStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lies
}

// list gives the slots that wait, as of the last plan.
func (p *planner) list() []WaitingSlot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]WaitingSlot(nil), p.waiting...)
}
