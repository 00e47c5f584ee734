package stripe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// TestEveryLossPattern reads a blob after each loss of slots, in three ways of
// losing: all is read where k are left, nothing but ErrUnreadable where not.
func TestEveryLossPattern(t *testing.T) {
	for _, scheme := range []string{"4+2", "2+2", "2+1", "1+1"} {
		for how := range 3 {
			r := newRig(t, scheme)
			r.set.memory.poison = false
			r.unhedged() // who is read around is not asked, and what it lacks not noticed
			n := r.group.Scheme.N()
			data := noise(70_001, 1)
			blobs := map[erasure.SlotMask]erasure.Blob{}
			for lost := erasure.SlotMask(0); lost <= erasure.AllSlots(n); lost++ {
				blobs[lost] = r.put(data)
			}
			for lost, b := range blobs {
				for i := range n {
					if !lost.Has(i) {
						continue
					}
					if how < 2 {
						r.lose(i, b.ID, how)
					} else {
						r.setState(i, storagenode.DriveDown)
					}
				}
				got, err := r.read(b, 0, b.Size)
				part, err2 := r.read(b, 100, 20_000)
				if n-lost.Count() >= int(r.group.Scheme.K) {
					if err != nil || err2 != nil || !bytes.Equal(got, data) || !bytes.Equal(part, data[100:20_100]) {
						t.Fatalf("%s, way %d, lost %b: %v, %v", scheme, how, lost, err, err2)
					}
				} else if !errors.Is(err, ErrUnreadable) || len(got) > 0 {
					t.Fatalf("%s, way %d, lost %b: %d bytes, %v", scheme, how, lost, len(got), err)
				}
				if claims := r.taken(); how == 2 && len(claims) > 0 {
					t.Fatalf("unreachable was called damage: %v", claims)
				} else if how < 2 && lost&erasure.AllSlots(int(r.group.Scheme.K)) != 0 && len(claims) == 0 {
					t.Fatalf("%s, way %d, lost %b: no notice", scheme, how, lost)
				}
				for i := range n {
					r.setState(i, storagenode.DriveActive)
				}
			}
		}
	}
}

func TestCopiesLost(t *testing.T) {
	r := newRig(t, "4+2")
	data := noise(4096, 1)
	b := r.put(data)
	slots := []int{}
	for i := range 6 {
		if b.Slots.Has(i) {
			slots = append(slots, i)
		}
	}
	for lost, slot := range slots {
		r.want(b, data, 0, 4096)
		r.want(b, data, 100, 50)
		r.lose(slot, b.ID, lost%2)
	}
	if got, err := r.read(b, 0, 4096); !errors.Is(err, ErrUnreadable) || len(got) > 0 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if len(r.taken()) == 0 {
		t.Fatal("no notice")
	}
}

// TestMissingIsNotReported: what metadata knows to be missing is no news, but
// is read when nothing else is left.
func TestMissingIsNotReported(t *testing.T) {
	r := newRig(t, "4+2")
	data := noise(1<<20, 1)
	b := r.put(data)
	b.Missing = b.Missing.With(0)
	r.lose(0, b.ID, 0)
	r.want(b, data, 0, b.Size)
	if d := r.taken(); len(d) > 0 {
		t.Fatalf("reported %v", d)
	}
	b.Missing = 0b111
	r.want(b, data, 0, b.Size)
}

// TestHangingReads bounds the time of reads while drives hang, also such that
// ignore contexts.
func TestHangingReads(t *testing.T) { synctest.Test(t, testHangingReads) }

func testHangingReads(t *testing.T) {
	for _, size := range []int{4096, 1 << 20, 9 << 20} {
		for _, hard := range []bool{false, true} {
			r := newRig(t, "4+2")
			r.set.memory.poison = false
			data := noise(size, 1)
			b := r.put(data)
			rush := func() time.Duration {
				var wg sync.WaitGroup
				start := time.Now()
				for range 8 {
					wg.Go(func() {
						for range fewer(5) {
							if got, err := r.read(b, 0, b.Size); err != nil || !bytes.Equal(got, data) {
								t.Errorf("%d bytes: %v", size, err)
							}
						}
					})
				}
				wg.Wait()
				return time.Since(start)
			}
			gate := make(chan struct{})
			for i := range 2 {
				if hard {
					r.setStore(r.group.Slots[i].Drive, &stubborn{ShardStore: r.mem[i], gate: gate})
				} else {
					r.faulty[i].Inject(storetest.Fault{Ops: storetest.OpRead, Hang: true})
				}
			}
			took := rush()
			if took > 2*time.Second {
				t.Errorf("%d bytes, hard %v: took %v", size, hard, took)
			}
			close(gate)
			if d := r.taken(); len(d) > 0 {
				t.Fatalf("a hang was called damage: %v", d)
			}
		}
	}
}

// TestSlowIsBetterThanNothing: a drive that is taken for slow, for a call to it
// hangs, is read from where those asked first hang as well.
func TestSlowIsBetterThanNothing(t *testing.T) { synctest.Test(t, testSlowIsBetterThanNothing) }

func testSlowIsBetterThanNothing(t *testing.T) {
	for _, size := range []int{4096, 1 << 20} {
		r := newRig(t, "4+2", func(c *Config) { c.ReadWait = 2 * time.Second })
		data := noise(size, 1)
		b := r.put(data)
		for i := range r.faulty {
			if i < 2 {
				r.faulty[i].Inject(storetest.Fault{Ops: storetest.OpRead, Hang: true})
			} else {
				r.set.drives.get(r.group.Slots[i].Drive).late.Store(1)
			}
		}
		r.want(b, data, 0, b.Size)
	}
}

// TestAllHang: a read ends although every drive hangs.
func TestAllHang(t *testing.T) { synctest.Test(t, testAllHang) }

func testAllHang(t *testing.T) {
	for _, size := range []int{4096, 1 << 20} {
		r := newRig(t, "2+1", func(c *Config) { c.ReadWait = 200 * time.Millisecond })
		b := r.put(noise(size, 1))
		for _, f := range r.faulty {
			f.Inject(storetest.Fault{Ops: storetest.OpRead, Hang: true})
		}
		start := time.Now()
		if got, err := r.read(b, 0, b.Size); !errors.Is(err, ErrUnreadable) || len(got) > 0 {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Fatalf("took %v", took)
		}
	}
}

// TestMixedGenerations puts shards of another content under the same name on
// some slots: never may bytes of both be mixed where shards are decoded.
func TestMixedGenerations(t *testing.T) {
	for stale := range 3 {
		r := newRig(t, "4+2")
		data, old := noise(1<<20, 1), noise(1<<20, 2)
		b := r.put(data)
		other := newRig(t, "4+2")
		ob, err := other.set.Put(t.Context(), other.group, b.ID, bytes.NewReader(old), -1, PutOptions{})
		if err != nil || ob.Blob.ID != b.ID {
			t.Fatal(err)
		}
		for i := range stale {
			r.setStore(r.group.Slots[4+i].Drive, other.mem[4+i])
		}
		r.lose(0, b.ID, 0)
		got, err := r.read(b, 0, b.Size)
		if stale < 2 {
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d stale: %v", stale, err)
			}
			continue
		}
		if !errors.Is(err, ErrUnreadable) || len(got) > 0 {
			t.Fatalf("%d stale: %d bytes, %v", stale, len(got), err)
		}
	}
}

// TestUnverifiedIsFound: a store that hands out wrong bytes as good ones cannot
// make a decoded stripe wrong, and is found out.
func TestUnverifiedIsFound(t *testing.T) {
	for at := 1; at < 6; at++ {
		r := newRig(t, "4+2")
		data := noise(1<<20, 1)
		b := r.put(data)
		r.setStore(r.group.Slots[at].Drive, liar{r.mem[at]})
		rep, err := r.set.Verify(t.Context(), r.group, b)
		if err != nil || rep.Slots[at].Finding != Corrupt || rep.Margin != 1 {
			t.Fatalf("liar at %d: %+v, %v", at, rep, err)
		}
		d := r.taken()
		if len(d) != 1 || d[0].Slot != at || !errors.Is(d[0].Err, storagenode.ErrCorrupt) {
			t.Fatalf("liar at %d: notices %v", at, d)
		}
	}
}

func TestRebuild(t *testing.T) {
	for _, scheme := range []string{"4+2", "2+1", "1+1"} {
		for _, size := range []int{0, 100, 70_000, 5 << 20} {
			r := newRig(t, scheme)
			data := noise(size, 1)
			b := r.put(data)
			for i := range r.mem {
				if !b.Slots.Has(i) {
					continue
				}
				ids := r.shards(i, b.ID)
				dst := storetest.NewMemory()
				r.lose(i, b.ID, i%2)
				if err := r.set.Rebuild(t.Context(), r.group, b, i, dst, 3); err != nil {
					t.Fatalf("%s, %d bytes, slot %d: %v", scheme, size, i, err)
				}
				r.mem[i] = dst
				r.setStore(r.group.Slots[i].Drive, dst)
				if got := r.shards(i, b.ID); len(got) != len(ids) {
					t.Fatalf("%d shards, were %d", len(got), len(ids))
				}
			}
			r.checkAttrs(b, "attributes")
			rep, err := r.set.Verify(t.Context(), r.group, b)
			if err != nil || rep.Margin != int(r.group.Scheme.M) {
				t.Fatalf("%s, %d bytes: %+v, %v", scheme, size, rep, err)
			}
			r.want(b, data, 0, b.Size)
		}
	}
}

// TestMove: a slot's shards are moved as they are where too few others are left for
// a rebuild, and only where each of them is there, verifies and is of the blob.
func TestMove(t *testing.T) {
	for _, size := range []int{0, 100, 70_000, 5 << 20} {
		r := newRig(t, "2+1")
		data := noise(size, 1)
		b := r.put(data)
		at, other := b.Slots.First(), 2
		for i := range r.mem {
			if i != at && (b.Mode == erasure.Replicated || i == other) {
				r.lose(i, b.ID, 0)
			}
		}
		former := r.mem[at]
		id := storagenode.NewUUID()
		r.setStore(id, former)
		dst := storetest.NewMemory()
		r.setStore(r.group.Slots[at].Drive, dst)
		if err := r.set.Move(t.Context(), r.group, b, at, id, dst, 3); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		r.mem[at] = dst
		last := storagenode.ShardID{PG: r.group.PG, Slot: uint8(at), Blob: b.ID, Stripe: uint32(max(1, len(r.shards(at, b.ID))) - 1)}
		if info, err := dst.Stat(t.Context(), last); err != nil || !info.Last || string(info.Attrs) != "attributes" || info.SlotEpoch != 3 {
			t.Fatalf("%d bytes: %+v, %v", size, info, err)
		}
		r.want(b, data, 0, b.Size)
		if size == 0 {
			continue
		}
		former.Corrupt(storagenode.ShardID{PG: r.group.PG, Slot: uint8(at), Blob: b.ID}, 3)
		if err := r.set.Move(t.Context(), r.group, b, at, id, storetest.NewMemory(), 3); !errors.Is(err, storagenode.ErrCorrupt) {
			t.Fatalf("%d bytes, corrupt: %v", size, err)
		}
		r.lose(at, b.ID, 0)
		if err := r.set.Move(t.Context(), r.group, b, at, r.group.Slots[at].Drive, storetest.NewMemory(), 3); !errors.Is(err, storagenode.ErrNotFound) {
			t.Fatalf("%d bytes, lost: %v", size, err)
		}
	}
}

// TestRebuildRefuses: too few sources, and a target that lies or fails.
func TestRebuildRefuses(t *testing.T) {
	disk := errors.New("input/output error")
	for _, size := range []int{100, 1 << 20} {
		r := newRig(t, "2+1")
		b := r.put(noise(size, 1))
		slot := b.Slots.First()
		if err := r.set.Rebuild(t.Context(), r.group, b, slot, liar{storetest.NewMemory()}, 1); !errors.Is(err, storagenode.ErrCorrupt) {
			t.Fatalf("a lying target: %v", err)
		}
		for _, op := range []storetest.Op{storetest.OpPut, storetest.OpSync, storetest.OpReadAt} {
			dst := storetest.NewFaulty(storetest.NewMemory())
			dst.Inject(storetest.Fault{Ops: op, Err: disk})
			if err := r.set.Rebuild(t.Context(), r.group, b, slot, dst, 1); !errors.Is(err, disk) {
				t.Fatalf("%v: %v", op, err)
			}
		}
		for i := range 3 {
			if i != slot {
				r.lose(i, b.ID, 0)
			}
		}
		if err := r.set.Rebuild(t.Context(), r.group, b, slot, storetest.NewMemory(), 1); !errors.Is(err, ErrUnreadable) {
			t.Fatalf("%d bytes without sources: %v", size, err)
		}
		if err := r.set.Rebuild(t.Context(), r.group, b, 9, storetest.NewMemory(), 1); err == nil {
			t.Fatal("slot 9 of 3")
		}
	}
}

// TestFrom: a slot being rebuilt is read from the drive it came from.
func TestFrom(t *testing.T) {
	for _, size := range []int{100, 1 << 20} {
		r := newRig(t, "2+1")
		data := noise(size, 1)
		b := r.put(data)
		slot := b.Slots.First()
		from := r.group.Slots[slot].Drive
		r.group.Slots[slot] = storagenode.Slot{Drive: storagenode.UUID{99}, Epoch: 2, State: storagenode.SlotRebuilding, From: from}
		fresh := storetest.NewMemory()
		r.setStore(storagenode.UUID{99}, fresh)
		for i := range 3 {
			if i != slot && (size < 1000 || i == 2) {
				r.lose(i, b.ID, 0)
			}
		}
		r.want(b, data, 0, b.Size)
		for _, d := range r.taken() {
			if d.Slot == slot {
				t.Fatalf("a slot that is being rebuilt was reported: %v", d)
			}
		}
		rep, err := r.set.Verify(t.Context(), r.group, b)
		if err != nil || rep.Slots[slot].Finding != Good {
			t.Fatalf("%+v, %v", rep, err)
		}
		old := r.stores[from]
		r.setStore(from, storetest.NewMemory())
		rep, err = r.set.Verify(t.Context(), r.group, b)
		if err != nil || rep.Slots[slot].Finding != Missing {
			t.Fatalf("%+v, %v", rep, err)
		}
		r.setStore(from, old)
		if err := r.set.Rebuild(t.Context(), r.group, b, slot, fresh, 2); err != nil {
			t.Fatal(err)
		}
		r.group.Slots[slot] = storagenode.Slot{Drive: storagenode.UUID{99}, Epoch: 2}
		r.want(b, data, 0, b.Size)
	}
}

func TestVerifySaysWhat(t *testing.T) {
	r := newRig(t, "4+2")
	b := r.put(noise(5<<20, 1))
	r.lose(0, b.ID, 0)
	r.lose(1, b.ID, 1)
	rep, err := r.set.Verify(t.Context(), r.group, b)
	if err != nil || rep.Margin != 0 || rep.Slots[0].Finding != Missing || rep.Slots[1].Finding != Corrupt || rep.Slots[2].Finding != Good {
		t.Fatalf("%+v %v", rep, err)
	}
	r.setStore(r.group.Slots[5].Drive, nil)
	rep, err = r.set.Verify(t.Context(), r.group, b)
	if err != nil || rep.Margin >= 0 || rep.Slots[5].Finding != Unreachable {
		t.Fatalf("%+v %v", rep, err)
	}
}

// TestRandomFaults reads under random loss, errors, delays and hangs: the bytes
// are right or there is an error, and an error only where too few were left.
func TestRandomFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano()) // in a bubble it would always be the same
	synctest.Test(t, func(t *testing.T) { testRandomFaults(t, seed) })
}

func testRandomFaults(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for round := range 25 {
		r := newRig(t, "4+2", func(c *Config) { c.ReadWait = 500 * time.Millisecond })
		r.set.memory.poison = round%2 == 0
		size := []int{1000, 70_000, 1 << 20, 5 << 20}[rng.IntN(4)]
		data := noise(size, seed)
		b := r.put(data)
		bad := erasure.SlotMask(0)
		for range rng.IntN(5) {
			i := rng.IntN(6)
			bad = bad.With(i)
			switch rng.IntN(6) {
			case 0, 1:
				r.lose(i, b.ID, rng.IntN(2))
			case 2:
				r.faulty[i].Inject(storetest.Fault{Ops: storetest.OpRead, Hang: true})
			case 3:
				r.faulty[i].Inject(storetest.Fault{Ops: storetest.OpRead, Err: storagenode.ErrBroken})
			case 4:
				r.faulty[i].Inject(storetest.Fault{Ops: storetest.OpRead, Delay: time.Duration(rng.IntN(30)) * time.Millisecond})
			case 5:
				r.setStore(r.group.Slots[i].Drive, nil)
			}
		}
		for range 5 {
			off := rng.Int64N(b.Size)
			n := rng.Int64N(b.Size-off) + 1
			got, err := r.read(b, off, n)
			if err == nil && !bytes.Equal(got, data[off:off+n]) || !bytes.HasPrefix(data[off:off+n], got) {
				t.Fatalf("seed %d round %d: wrong bytes", seed, round)
			}
			enough := (b.Slots&^bad).Count() >= 4 || b.Mode == erasure.Replicated && b.Slots&^bad != 0
			if err != nil && (enough || !errors.Is(err, ErrUnreadable)) {
				t.Fatalf("seed %d round %d: bad %b of %b: %v", seed, round, bad, b.Slots, err)
			}
		}
		for _, f := range r.faulty {
			f.Clear()
		}
	}
}

// TestClientGoesAway: an error of w ends the read.
func TestClientGoesAway(t *testing.T) {
	r := newRig(t, "4+2")
	b := r.put(noise(9<<20, 1))
	if err := r.set.Read(t.Context(), r.group, b, 0, b.Size, &failing{after: 5 << 20}); !errors.Is(err, errTold) {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.set.Read(ctx, r.group, b, 0, b.Size, io.Discard); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

// lateDrives does not know drives before they were looked for.
type lateDrives struct {
	*rig
	unknown map[storagenode.DriveID]bool
	looks   int
	there   bool // whether a look finds any
}

func (l *lateDrives) Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState) {
	if l.unknown[id] {
		return nil, storagenode.DriveDown
	}
	return l.rig.Drive(id)
}

func (l *lateDrives) Find(_ context.Context, ids ...storagenode.DriveID) (found bool) {
	l.looks++
	for _, id := range ids {
		found = found || l.there && l.unknown[id]
	}
	if l.there {
		clear(l.unknown)
	}
	return found
}

// TestDrivesNotKnownYet: what was just written on new nodes can be read at once
// by a process that has not heard of them.
func TestDrivesNotKnownYet(t *testing.T) {
	for _, size := range []int{1000, 300_000, 9 << 20} {
		r := newRig(t, "4+2")
		late := &lateDrives{rig: r, unknown: map[storagenode.DriveID]bool{}, there: true}
		data := noise(size, 5)
		b := r.put(data)
		r.set.cfg.Drives = late
		r.want(b, data, 0, int64(size))
		if late.looks != 0 {
			t.Fatalf("looked %d times for drives that are known", late.looks)
		}
		hide := func() {
			for _, slot := range r.group.Slots {
				late.unknown[slot.Drive] = true
			}
		}
		hide()
		r.want(b, data, 3, int64(size)-5)
		if late.looks != 1 {
			t.Fatalf("looked %d times", late.looks)
		}
		hide()
		late.there = false
		if _, err := r.read(b, 0, int64(size)); !errors.Is(err, ErrUnreadable) || late.looks != 2 {
			t.Fatalf("%v after %d looks", err, late.looks)
		}
	}
}

// TestCancelWhileHedged: a reader that goes away while a hedge is waited for is let
// go, whatever the hedge does then.
func TestCancelWhileHedged(t *testing.T) {
	r := newRig(t, "4+2", func(c *Config) { c.Remote = true })
	data := noise(1<<20, 1)
	b := r.put(data)
	for range 12 {
		bad := r.faulty[0].Inject(storetest.Fault{Ops: storetest.OpReadAt, Delay: 30 * time.Millisecond, Err: storagenode.ErrCorrupt})
		var hang []*storetest.Injected
		for _, slot := range []int{4, 5} {
			hang = append(hang, r.faulty[slot].Inject(storetest.Fault{Ops: storetest.OpStat, Hang: true}))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.set.Read(ctx, r.group, b, 0, b.Size, io.Discard) }()
		time.Sleep(60 * time.Millisecond)
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("read: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the read never returns")
		}
		bad.Release()
		for _, h := range hang {
			h.Release()
		}
	}
}

// TestLateCopyWithoutMemory: a copy that is late is waited for where there is no
// memory to ask another slot.
func TestLateCopyWithoutMemory(t *testing.T) {
	r := newRig(t, "4+2", func(c *Config) { c.MemoryBytes = 1 << 20 })
	r.set.memory.wait = time.Second
	data := noise(4096, 1)
	b := r.put(data)
	for _, f := range r.faulty {
		f.Inject(storetest.Fault{Ops: storetest.OpReadAt, Delay: 100 * time.Millisecond})
	}
	var held []*buffer
	for buf := r.set.memory.try(4096); buf != nil; buf = r.set.memory.try(4096) {
		held = append(held, buf)
	}
	held[0].release()
	r.want(b, data, 0, b.Size)
	for _, buf := range held[1:] {
		buf.release()
	}
}

// TestUnverifiedIsReadAround: a shard that its drive takes for good and that is wrong
// all the same is one loss like another: while k others are good, the blob is read
// and rebuilt.
func TestUnverifiedIsReadAround(t *testing.T) {
	for at := 1; at < 6; at++ {
		r := newRig(t, "4+2")
		data := noise(1<<20, 1)
		b := r.put(data)
		r.setStore(r.group.Slots[at].Drive, liar{r.mem[at]})
		dst := storetest.NewMemory()
		r.lose(0, b.ID, 0)
		if err := r.set.Rebuild(t.Context(), r.group, b, 0, dst, 3); err != nil {
			t.Errorf("liar at %d: rebuild: %v", at, err)
		}
		if at >= 4 { // no hash is compared where nothing is decoded, and the drive says it is good
			r.want(b, data, 0, b.Size)
		}
	}
}
