package repair

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// TestUnrest drains drives and takes them back, has drives away for moments and for
// good, fills them or nearly, wipes them, changes the leader, writes, deletes, and loses blobs
// beyond what the scheme bears, in any order. At every step repair may lose nothing,
// and a DRAINED drive holds nothing that is nowhere else. When all that is away has
// come back, repair ends, or says what it waits for; every object that could be read
// is read, and all counts agree with what the drives hold. KINTSUGI_SEEDS=n runs n
// seeds, KINTSUGI_SEED=n only that one.
func TestUnrest(t *testing.T) {
	first, seeds := uint64(0), 24
	if n, err := strconv.Atoi(os.Getenv("KINTSUGI_SEEDS")); err == nil {
		seeds = n
	}
	if n, err := strconv.ParseUint(os.Getenv("KINTSUGI_SEED"), 10, 64); err == nil {
		first, seeds = n, 1
	}
	for seed := first; seed < first+uint64(seeds); seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			u := newUnrest(t, seed)
			for range 70 {
				u.step()
			}
			u.settle()
		})
	}
}

// unrest is a rig and what is known of its objects beside its metadata.
type unrest struct {
	*rig
	m      int
	rng    *rand.Rand
	all    []*Repairer // who leads in turn
	alive  map[string]object
	doomed map[string]bool // keys whose objects lost more than they bear
	// unnoticed are those of them that have not been verified since.
	unnoticed map[string]bool
	drained   map[storagenode.DriveID]bool // were DRAINED after the last step
	dead      []object
	log       []string
}

func newUnrest(t *testing.T, seed uint64) *unrest {
	rng := rand.New(rand.NewPCG(seed, 11))
	scheme := []string{"2+1", "2+2", "4+2", "1+1"}[rng.IntN(4)]
	s, _ := erasure.ParseScheme(scheme)
	u := &unrest{m: int(s.M), rng: rng, alive: map[string]object{}, doomed: map[string]bool{},
		unnoticed: map[string]bool{}, drained: map[storagenode.DriveID]bool{}}
	u.rig = newRig(t, scheme, s.N()+2+rng.IntN(3))
	u.rig.rng = rng
	u.all = []*Repairer{u.rep, u.repairer(u.kv)}
	u.must(u.rep.detectAndPlan(u.ctx))
	t.Cleanup(func() {
		if t.Failed() {
			for _, l := range u.log {
				t.Log(l)
			}
		}
	})
	return u
}

func (u *unrest) note(format string, args ...any) {
	u.log = append(u.log, fmt.Sprintf(format, args...))
}

// copies gives, by an object's slots, whether a good shard of all its stripes lies on
// any drive but those in without. Drives that are away count, they come back.
func (u *unrest) copies(o object, without func(*disk) bool) (have erasure.SlotMask) {
	rec := u.record(o)
	if rec == nil {
		return 0
	}
	for _, d := range u.drives.disks {
		if d.gone || d.report.State == storagenode.DriveBroken || without != nil && without(d) {
			continue
		}
		for i := range len(u.group(o.pg).Slots) {
			if !rec.Blob.Slots.Has(i) || have.Has(i) {
				continue
			}
			good := true
			for s := 0; good && s < stripes(rec.Blob); s++ {
				_, _, err := u.rig.readShard(d.memory, storagenode.ShardID{PG: o.pg, Slot: uint8(i), Blob: o.blob, Stripe: uint32(s)})
				good = err == nil
			}
			if good {
				have = have.With(i)
			}
		}
	}
	return have
}

// least is how many of an object's shards it takes to read it.
func (u *unrest) least(o object) int {
	if rec := u.record(o); rec == nil || rec.Blob.Mode == erasure.Replicated {
		return 1
	}
	return int(u.group(o.pg).Scheme.K)
}

func (u *unrest) step() {
	before := map[string]int{}
	for key, o := range u.alive {
		before[key] = u.copies(o, nil).Count()
	}
	u.clock.advance(time.Duration(u.rng.IntN(20_000)) * time.Millisecond)
	lossy := false
	switch what := u.rng.IntN(20); {
	case what < 4:
		u.write(before)
	case what < 5:
		u.remove()
	case what < 7:
		u.command()
	case what < 11:
		lossy = u.disturb()
	case what < 12:
		lossy = true
		u.doom()
	case what < 13:
		if t := u.rep.leader.tenure(); t != nil {
			u.rep.leader.resign(u.ctx, t)
		}
		u.rep = u.all[u.rng.IntN(2)]
		u.rep.inventory.all.Store(true)
		u.note("another leads")
	case what < 14:
		_ = u.rep.deletes.pass(u.ctx)
	case what < 15:
		_, err := u.rep.VerifyAll(u.ctx, Filter{}, nil)
		u.must(err)
		u.note("verified")
	default:
		u.note("round")
		u.round()
	}
	for key, o := range u.alive {
		now := u.copies(o, nil).Count()
		if was, ok := before[key]; ok && !lossy && !u.doomed[key] && now < was && now < u.least(o)+u.m {
			u.t.Fatalf("%s had shards of %d slots, and has %d", key, was, now)
		}
	}
	u.drainedAreFree()
}

// drainedAreFree fails where taking out what is newly said to be DRAINED costs
// anything.
func (u *unrest) drainedAreFree() {
	u.t.Helper()
	for _, d := range u.drives.disks {
		v, _ := u.rep.fleet.drive(d.report.ID)
		was := u.drained[d.report.ID]
		u.drained[d.report.ID] = v.record.State == storagenode.DriveDrained
		if was || !u.drained[d.report.ID] {
			continue
		}
		for key, o := range u.alive {
			all := u.copies(o, nil).Count()
			left := u.copies(o, func(x *disk) bool { return x == d }).Count()
			if left < min(all, u.least(o)) && !u.unnoticed[key] {
				u.t.Fatalf("%s: shards of %d slots without %s, %d with it: %+v", key, left, d.report.ID, all, u.group(o.pg).Slots)
			}
		}
	}
}

func (u *unrest) write(before map[string]int) {
	key := fmt.Sprintf("k%d", u.rng.IntN(12))
	o, err := u.tryPut(key, []int{100, 5000, 100_000, 200_000}[u.rng.IntN(4)])
	if err != nil {
		if !errors.Is(err, metadata.ErrNoPlacement) && !errors.Is(err, stripe.ErrQuorum) && !errors.Is(err, metadata.ErrStalePlacement) {
			u.t.Fatal(err)
		}
		return
	}
	if old, ok := u.alive[key]; ok {
		u.dead = append(u.dead, old)
	}
	u.alive[key] = o
	delete(u.doomed, key)
	delete(before, key)
	u.note("wrote %s: blob %s of pg %d", key, o.blob, o.pg)
}

// any gives one of the objects.
func (u *unrest) any() (string, object, bool) {
	for i := range 12 {
		key := fmt.Sprintf("k%d", (i+u.rng.IntN(12))%12)
		if o, ok := u.alive[key]; ok {
			return key, o, true
		}
	}
	return "", object{}, false
}

func (u *unrest) remove() {
	if key, o, ok := u.any(); ok {
		u.delete(key)
		delete(u.alive, key)
		u.dead = append(u.dead, o)
		u.note("deleted %s", key)
	}
}

func (u *unrest) command() {
	id := u.drives.disks[u.rng.IntN(len(u.drives.disks))].report.ID
	if u.rng.IntN(3) > 0 {
		_, err := u.rep.Drain(u.ctx, id)
		u.note("drain %s: %v", id, err)
	} else {
		_, err := u.rep.Undrain(u.ctx, id)
		u.note("undrain %s: %v", id, err)
	}
}

// disturb has one drive away, back, full or lost; it says whether something is lost.
func (u *unrest) disturb() bool {
	i := u.rng.IntN(len(u.drives.disks))
	d := u.drives.disks[i]
	if d.gone || d.report.State == storagenode.DriveBroken {
		return false
	}
	id := d.report.ID
	switch u.rng.IntN(7) {
	case 0, 1:
		u.state(i, storagenode.DriveDown)
		u.note("%s is away", id)
	case 2:
		u.state(i, storagenode.DriveDown)
		_ = u.rep.detectAndPlan(u.ctx)
		u.clock.advance(11 * time.Minute)
		_ = u.rep.detectAndPlan(u.ctx)
		u.note("%s is away for long", id)
	case 3, 4:
		u.state(i, storagenode.DriveActive)
		u.note("%s is back", id)
	case 5:
		n := []int64{0, int64(u.rng.IntN(500_000)), 1 << 40}[u.rng.IntN(3)]
		u.room(d, n)
		u.note("%s has room for %d bytes", id, n)
	default:
		for key, o := range u.alive { // it must not be more than is borne
			if !u.doomed[key] && u.copies(o, func(x *disk) bool { return x == d }).Count() < u.least(o) {
				return false
			}
		}
		if u.rng.IntN(2) == 0 {
			u.state(i, storagenode.DriveBroken)
			u.note("%s is broken", id)
		} else {
			u.note("%s is wiped, %s in its place", id, u.wipe(i).report.ID)
		}
		return true
	}
	return false
}

// doom has an object lose some of its shards, perhaps more than it bears.
func (u *unrest) doom() {
	key, o, ok := u.any()
	if !ok || len(u.doomed) >= 3 {
		return
	}
	u.doomed[key], u.unnoticed[key] = true, true
	for _, d := range u.drives.disks {
		for _, id := range d.memory.Shards() {
			if id.Blob == o.blob && u.rng.IntN(3) > 0 {
				if u.rng.IntN(2) == 0 {
					d.memory.Lose(id)
				} else {
					d.memory.Corrupt(id, 0)
				}
				u.note("%s lost slot %d at %s", key, id.Slot, d.report.ID)
			}
		}
	}
}

// settle brings everything back and waits for repair to end: to where it can come
// with some drives full, then, with room on all, to the end.
func (u *unrest) settle() {
	u.note("everything comes back")
	for i := 0; i < len(u.drives.disks); i++ {
		if d := u.drives.disks[i]; d.gone {
			continue
		} else if d.report.State == storagenode.DriveDown {
			u.state(i, storagenode.DriveActive)
		} else if d.report.State == storagenode.DriveBroken {
			u.wipe(i)
		}
	}
	for range 8 {
		u.clock.advance(3 * time.Minute)
		u.rep.inventory.all.Store(true)
		u.round()
		u.drainedAreFree()
	}
	u.must(u.rep.detectAndPlan(u.ctx))
	u.ended()
	u.note("there is room")
	for _, d := range u.drives.disks {
		u.room(d, 1<<40)
	}
	for range 3 {
		_, err := u.rep.VerifyAll(u.ctx, Filter{}, nil)
		u.must(err)
		clear(u.unnoticed)
		for range 6 {
			u.clock.advance(30 * time.Second)
			u.rep.inventory.all.Store(true)
			u.round()
			u.drainedAreFree()
		}
	}
	u.ended()
	u.counted()
	for key, o := range u.alive {
		if u.doomed[key] && u.copies(o, nil).Count() < u.least(o) {
			continue
		}
		var got bytes.Buffer
		rec := u.record(o)
		if err := u.set.Read(u.ctx, u.group(o.pg), rec.Blob, 0, rec.Blob.Size, &got); err != nil || !bytes.Equal(got.Bytes(), o.data) {
			u.t.Fatalf("%s: %v, %d bytes; missing %b of %b, slots %+v", key, err, got.Len(), rec.Blob.Missing, rec.Blob.Slots, u.group(o.pg).Slots)
		}
	}
	for range 3 {
		u.must(u.rep.deletes.pass(u.ctx))
	}
	for _, o := range u.dead {
		if u.record(o) != nil {
			u.t.Fatalf("%s is back", o.key)
		}
	}
}

// ended fails where a slot is being rebuilt, or a drive drained, and nobody says why.
func (u *unrest) ended() {
	u.t.Helper()
	told := map[storagenode.DriveID]bool{}
	for _, w := range u.rep.Status().Waiting {
		told[w.Drive] = true
	}
	groups, err := u.cat.ListGroups(u.ctx)
	u.must(err)
	for _, g := range groups {
		for i, s := range g.Slots {
			if s.State == storagenode.SlotRebuilding && !told[s.Drive] {
				u.t.Fatalf("slot %d of pg %d is being rebuilt for ever: %+v, %s", i, g.PG, s, u.rep.worker.obstacle(g.PG, i, s.Epoch))
			}
		}
	}
	for _, d := range u.rep.Status().Drives {
		if d.State == storagenode.DriveDraining && !told[d.ID] {
			u.t.Fatalf("drive %s is being drained for ever", d.ID)
		}
	}
}

// counted compares what is said with what the drives hold.
func (u *unrest) counted() {
	u.t.Helper()
	unreadable := int64(0)
	for _, o := range u.alive {
		if have := u.copies(o, nil); have.Count() < u.least(o) {
			rec := u.record(o)
			u.note("%s cannot be read: slots %b, missing %b, on drives %b, %+v", o.key, rec.Blob.Slots, rec.Blob.Missing, have, u.group(o.pg))
			unreadable++
		}
	}
	rep, err := u.rep.Recount(u.ctx)
	u.must(err)
	v, err := u.rep.VerifyAll(u.ctx, Filter{}, nil)
	u.must(err)
	what, err := u.rep.WhatIf(u.ctx, nil)
	u.must(err)
	now := u.rep.StatusNow(u.ctx).Durability
	if rep.Unreadable != unreadable || v.Unreadable != unreadable || what.Unreadable != unreadable || now.Unreadable != unreadable {
		u.t.Fatalf("%d objects cannot be read; recount says %d, verify %d, what-if %d, status %d", unreadable, rep.Unreadable, v.Unreadable, what.Unreadable, now.Unreadable)
	}
	if n := int64(len(u.alive)); rep.Blobs != n || v.Blobs != n || now.Blobs != n || rep.Full != now.Full {
		u.t.Fatalf("%d objects: recount %+v, verify %+v, status %+v", n, rep, v, now)
	}
}
