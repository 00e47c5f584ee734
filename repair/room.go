package repair

import (
	"fmt"
	"slices"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

const (
	// refusedFor is how long a drive that had no room for a shard gets no slots but
	// those of dead drives that no other can take, whatever room it says it has: a
	// quota does not show in that.
	// Each time it has none again after that, it is twice as long, up to refusedLong:
	// what fits nowhere is not to be sent round for ever.
	refusedFor  = 10 * time.Minute
	refusedLong = 2 * time.Hour
	// recordBytes is what a blob takes at a slot beside its shards' payload, as a
	// rule at most: headers, sums, attributes, padding, the index.
	recordBytes = 512
)

// lack is what a slot under rebuilding is still to get.
type lack struct {
	epoch uint32
	bytes int64
}

// expect notes what is to be written to a slot.
func (w *worker) expect(g erasure.Group, slot int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lacks[slotRef{g.PG, uint8(slot)}] = lack{g.Slots[slot].Epoch, bytes}
}

// got notes what was written of it.
func (w *worker) got(g erasure.Group, slot int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ref := slotRef{g.PG, uint8(slot)}
	if l, ok := w.lacks[ref]; ok && l.epoch == g.Slots[slot].Epoch {
		w.lacks[ref] = lack{l.epoch, max(0, l.bytes-bytes)}
	}
}

// expected is what a slot is still to get, where that is known.
func (w *worker) expected(g erasure.Group, slot int) (int64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, ok := w.lacks[slotRef{g.PG, uint8(slot)}]
	return l.bytes, ok && l.epoch == g.Slots[slot].Epoch
}

// refusal is when a drive last had no room for a shard, and how long that counts.
type refusal struct {
	at   time.Time
	wait time.Duration
}

// refuse notes that a drive had no room for a shard, or not even for a slot's fence.
func (w *worker) refuse(id storagenode.DriveID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, was := w.cfg.Clock.Now(), w.refused[id]
	if now.Sub(was.at) >= was.wait { // it was tried anew
		was.wait = min(max(2*was.wait, refusedFor), refusedLong)
	}
	w.refused[id] = refusal{now, was.wait}
	w.refusals++
}

// took notes that a drive had room for a shard.
func (w *worker) took(id storagenode.DriveID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r, ok := w.refused[id]; ok {
		w.refused[id] = refusal{r.at, refusedFor}
	}
}

// refuses says that a drive lately had no room for a shard.
func (w *worker) refuses(id storagenode.DriveID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.refused[id]
	return ok && w.cfg.Clock.Now().Sub(r.at) < r.wait
}

// refusalCount is how often a drive had no room for a shard.
func (w *worker) refusalCount() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refusals
}

// refusedSince says that a drive had no room for a shard after a time.
func (w *worker) refusedSince(id storagenode.DriveID, t time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused[id].at.After(t)
}

// crowding is since when a slot lacks shards that its drive has no room for.
type crowding struct {
	epoch uint32
	since time.Time
}

// crowd notes which of the slots that a blob is missing at are on full drives.
func (w *worker) crowd(g erasure.Group, missing erasure.SlotMask, into map[slotRef]crowding) {
	now := w.cfg.Clock.Now()
	for i, s := range g.Slots {
		if !missing.Has(i) || s.State != storagenode.SlotClean {
			continue
		}
		if store, full := w.open(s.Drive); store == nil || !full && !w.refuses(s.Drive) {
			continue
		}
		since, ok := w.crowdedSince(g, i)
		if !ok {
			since = now
		}
		into[slotRef{g.PG, uint8(i)}] = crowding{s.Epoch, since}
	}
}

// crowdedSince gives since when a slot lacks shards that its drive, whenever that was
// looked at, was too full for.
func (w *worker) crowdedSince(g erasure.Group, slot int) (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.crowded[slotRef{g.PG, uint8(slot)}]
	return c.since, ok && c.epoch == g.Slots[slot].Epoch
}

// relieve moves slots off drives that have had no room for long for what these slots
// lack: of one drive one at a time, and one in that time, since when it is gone there
// is room for what the others lack; of all, as many as are left to be moved at leisure.
// It gives those that wait, too.
func (p *planner) relieve(o *outlook, groups []metadata.GroupRecord, left int) (moves []move, waiting []WaitingSlot) {
	now, under := p.cfg.Clock.Now(), map[storagenode.DriveID]bool{}
	for _, g := range groups {
		for _, s := range g.Slots {
			under[s.From] = under[s.From] || s.State == storagenode.SlotRebuilding
		}
	}
	for n := range groups {
		g := &groups[n]
		slots := slices.Clone(g.Slots)
		for i, s := range g.Slots {
			d, _ := p.fleet.drive(s.Drive)
			since, crowded := p.worker.crowdedSince(g.Group, i)
			if !crowded || !p.full(&d) || d.record.State != storagenode.DriveActive {
				continue
			}
			var to storagenode.DriveID
			but := fmt.Sprintf("mapped elsewhere after %s", p.cfg.OutAfter)
			if now.Sub(since) >= p.cfg.OutAfter {
				if but = "others are moved first"; len(moves) < left && !under[s.Drive] && now.Sub(p.relieved[s.Drive]) >= p.cfg.OutAfter {
					to, but = p.target(o, g, slots, i)
				}
			}
			if but != "" { // or it would lie worse
				waiting = append(waiting, o.waits(g, i, "drive is full, and has no room for what the slot lacks", but))
				continue
			}
			slots[i].Drive = to
			under[s.Drive] = true
			moves = append(moves, o.move(g, i, to))
		}
	}
	return moves, waiting
}

// bears says that no blob becomes unreadable when a slot goes on from a drive before it
// is rebuilt there: what was written to it meanwhile, nobody reads from there any more.
// So it is with the group's other slots that went on, or go by this plan.
func (p *planner) bears(o *outlook, g *metadata.GroupRecord, slots []storagenode.Slot, slot int) bool {
	live := erasure.SlotMask(0)
	for i, s := range g.Slots {
		on := s.State == storagenode.SlotRebuilding && (slots[i].Drive != s.Drive || i != slot && !p.moving.known(g.PG, i, s.Epoch))
		if !on && p.fleet.readable(s.Drive) {
			live = live.With(i)
		}
	}
	if live.Count() == int(g.Scheme.K) && live.Has(slot) { // of what is not counted yet
		return false
	}
	for k := range o.counts[g.PG].shapes {
		if margin(g.Scheme, k.mode, k.present&live) == 0 && (k.present & live).Has(slot) {
			return false
		}
	}
	return true
}

// full says that a drive takes nothing: by its own word, or since it had no room for
// a shard.
func (p *planner) full(d *drive) bool {
	return d.report.Space.ReadOnly || p.worker.refuses(d.record.ID)
}

// volume is a file system. Drives of a node may share one.
type volume struct {
	node   string
	device uint64
	drive  storagenode.DriveID // zero where the device is known
}

func volumeOf(d *drive) volume {
	if d.report.Device == 0 {
		return volume{drive: d.record.ID}
	}
	return volume{node: d.report.Node, device: d.report.Device}
}

// outlook is what one plan goes by, with what it has planned so far.
type outlook struct {
	drives  []drive
	domains metadata.Domains
	load    map[storagenode.DriveID]int // slots
	on      map[storagenode.DriveID]volume
	room    map[volume]int64 // bytes, less those that slots being rebuilt there still lack
	counts  map[storagenode.PG]groupCount
}

func (p *planner) outlook(groups []metadata.GroupRecord) *outlook {
	o := &outlook{
		drives: p.fleet.all(), load: map[storagenode.DriveID]int{}, on: map[storagenode.DriveID]volume{},
		room: map[volume]int64{}, counts: map[storagenode.PG]groupCount{},
	}
	o.domains = metadata.DomainsOf(present(o.drives))
	counted, _ := p.census.latest()
	for _, c := range counted {
		o.counts[c.group.PG] = c
	}
	for i := range o.drives {
		if d := &o.drives[i]; d.reported && d.report.Space.Total > 0 {
			o.on[d.record.ID] = volumeOf(d)
			o.room[volumeOf(d)] = d.report.Space.Free
		}
	}
	for i := range groups {
		for slot, s := range groups[i].Slots {
			o.load[s.Drive]++
			if d, ok := p.fleet.drive(s.Drive); !ok || d.dead() || s.State != storagenode.SlotRebuilding {
				continue
			}
			n, known := p.worker.expected(groups[i].Group, slot)
			if !known {
				n, _ = o.needs(&groups[i], slot)
			}
			o.take(s.Drive, n)
		}
	}
	return o
}

// needs is what a slot takes, and what it takes at least: what was counted last or,
// where the group was not counted yet, what was written to it ever.
func (o *outlook) needs(g *metadata.GroupRecord, slot int) (n, least int64) {
	c, ok := o.counts[g.PG]
	if !ok {
		n = g.Bytes / int64(g.Scheme.K)
		return n, n
	}
	for k, t := range c.shapes {
		switch {
		case !k.slots.Has(slot):
			continue
		case k.mode == erasure.Encoded:
			least += t.bytes / int64(g.Scheme.K)
		default:
			least += t.bytes
		}
		n += t.blobs * recordBytes
	}
	return n + least, least
}

// waits says of a slot that it is to leave its drive, and is not mapped as it should be.
func (o *outlook) waits(g *metadata.GroupRecord, slot int, why, but string) WaitingSlot {
	w := WaitingSlot{g.PG, slot, g.Slots[slot].Drive, why + "; " + but, 0}
	if but == noRoom {
		w.Needs, _ = o.needs(g, slot)
	}
	return w
}

// tell logs when slots begin to wait for room, and when none does any more.
func (p *planner) tell(waiting []WaitingSlot) {
	slots, all, largest := 0, int64(0), int64(0)
	for _, w := range waiting {
		if w.Needs > 0 {
			slots, all, largest = slots+1, all+w.Needs, max(largest, w.Needs)
		}
	}
	was := p.short
	if p.short = slots > 0; p.short == was {
		return
	}
	if p.short {
		p.cfg.Logger.Warn("slots wait for room on other drives: add drives, or delete objects",
			"slots", slots, "bytes", all, "largest", largest)
		return
	}
	p.cfg.Logger.Info("no slot waits for room any more")
}

// fits says whether a drive has room for so many bytes, as far as that is known.
func (o *outlook) fits(id storagenode.DriveID, n int64) bool {
	v, known := o.on[id]
	return !known || n <= max(0, o.room[v])
}

func (o *outlook) take(id storagenode.DriveID, n int64) {
	if v, known := o.on[id]; known {
		o.room[v] -= n
	}
}

// move plans that a slot goes from one drive to another.
func (o *outlook) move(g *metadata.GroupRecord, slot int, to storagenode.DriveID) move {
	from := g.Slots[slot]
	o.load[to]++
	o.load[from.Drive]--
	n, _ := o.needs(g, slot)
	o.take(to, n)
	return move{g.PG, slot, from, to}
}
