package repair

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/catalog"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/storetest"
)

// seam stands before an engine: it lets a test do something at the nth call,
// cut the engine off, and see what is committed.
type seam struct {
	kv.Store
	calls  atomic.Int64
	at     int64 // the call before which hook runs; 0: none
	hook   func()
	cut    atomic.Bool // the engine cannot be reached
	commit func(reads, writes [][]byte, commit func() error) error
}

func (s *seam) call() error {
	if s.calls.Add(1) == s.at {
		s.hook()
	}
	if s.cut.Load() {
		return kv.ErrUnavailable
	}
	return nil
}

func (s *seam) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := s.call(); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, key)
}

func (s *seam) Begin(ctx context.Context) (kv.Txn, error) {
	if err := s.call(); err != nil {
		return nil, err
	}
	t, err := s.Store.Begin(ctx)
	return &seamTxn{Txn: t, s: s}, err
}

type seamTxn struct {
	kv.Txn
	s             *seam
	reads, writes [][]byte
}

func (t *seamTxn) Get(ctx context.Context, key []byte) ([]byte, error) {
	t.reads = append(t.reads, bytes.Clone(key))
	return t.Txn.Get(ctx, key)
}

func (t *seamTxn) Put(key, value []byte) {
	t.writes = append(t.writes, bytes.Clone(key))
	t.Txn.Put(key, value)
}

func (t *seamTxn) Delete(key []byte) {
	t.writes = append(t.writes, bytes.Clone(key))
	t.Txn.Delete(key)
}

func (t *seamTxn) Commit(ctx context.Context) error {
	if err := t.s.call(); err != nil {
		return err
	}
	if t.s.commit != nil {
		return t.s.commit(t.reads, t.writes, func() error { return t.Txn.Commit(ctx) })
	}
	return t.Txn.Commit(ctx)
}

// skewed is a clock that differs from another in offset and rate.
type skewed struct {
	clock.Clock
	base   time.Time
	offset time.Duration
	rate   float64
}

func (c skewed) Now() time.Time {
	return c.base.Add(c.offset + time.Duration(float64(c.Clock.Now().Sub(c.base))*c.rate))
}

// TestOneLeaderAtATime lets processes compete whose clocks are hours apart and
// run at different speeds, with renewals that come late and pauses at random:
// no two ever think that they lead, and while most are alive somebody does.
func TestOneLeaderAtATime(t *testing.T) {
	total := 0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 3))
		base := &fakeClock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
		start := base.Now()
		store := memory.New()
		type process struct {
			*leadership
			paused int // steps
		}
		var all []*process
		for i := range 3 {
			c := skewed{base, start, time.Duration(rng.IntN(7200)-3600) * time.Second, 0.92 + 0.16*rng.Float64()}
			cat, err := catalog.Open(t.Context(), catalog.Config{KV: store, Scheme: erasure.Scheme{K: 1}, Clock: c})
			if err != nil {
				t.Fatal(err)
			}
			cfg := &Config{Leaders: cat, Clock: c, AdminAddress: fmt.Sprintf("http://%d", i)}
			cfg.setDefaults()
			all = append(all, &process{leadership: newLeadership(cfg)})
		}
		changes, idle, last := 0, 0, (*process)(nil)
		for step := range 2000 {
			base.advance(time.Duration(rng.IntN(1500)) * time.Millisecond)
			var leads []*process
			for _, p := range all {
				if p.tenure() != nil {
					leads = append(leads, p)
				}
			}
			if len(leads) > 1 {
				t.Fatalf("seed %d step %d: %d leaders", seed, step, len(leads))
			}
			if len(leads) == 0 {
				if idle++; idle > 120 {
					t.Fatalf("seed %d step %d: nobody leads", seed, step)
				}
			} else if idle = 0; leads[0] != last {
				changes, last = changes+1, leads[0]
			}
			p := all[rng.IntN(len(all))]
			if p.paused > 0 {
				p.paused--
				continue
			}
			if rng.IntN(100) == 0 {
				p.paused = rng.IntN(40)
			}
			p.mu.Lock()
			held, now := p.held, p.now
			p.mu.Unlock()
			if now == nil {
				if _, err := p.try(t.Context()); err != nil {
					t.Fatal(err)
				}
				continue
			}
			began := p.cfg.Clock.Now()
			if rng.IntN(4) == 0 {
				base.advance(time.Duration(rng.IntN(3000)) * time.Millisecond) // a slow request
			}
			if p.tenure() == nil {
				p.end(now, errLapsed)
				continue
			}
			if err := p.renew(t.Context(), now, held, began); errors.Is(err, metadata.ErrStaleTerm) {
				p.end(now, err)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		total += changes
	}
	if total < 300 {
		t.Errorf("the leader changed %d times only", total)
	}
}

// TestSuccession: one leads while it renews; it stops by itself where it
// cannot, before another takes over, and that one does in bounded time.
func TestSuccession(t *testing.T) {
	r := newLive(t, "2+1", 4)
	objects := r.some(8)
	r.intact(r.rep)
	multi := func(address string) func(*Config) {
		return func(c *Config) { c.Sole, c.Lease, c.AdminAddress = false, 500*time.Millisecond, address }
	}
	first, second := &seam{Store: r.kv}, &seam{Store: r.kv}
	a, b := r.repairer(first, multi("http://a")), r.repairer(second, multi("http://b"))
	await := func(what string, ok func() bool) {
		t.Helper()
		for range 4000 {
			if ok() {
				return
			}
			if a.leader.tenure() != nil && b.leader.tenure() != nil {
				t.Fatal("both lead")
			}
			time.Sleep(2 * time.Millisecond)
		}
		t.Fatalf("never: %s", what)
	}
	leads := func(rep *Repairer) func() bool { return func() bool { return rep.Status().Leader.Leads } }
	stopA := r.run(a)
	await("the first leads", leads(a))
	stopB := r.run(b)
	await("the second sees who leads, and the drives", func() bool {
		s := b.Status()
		return s.Leader.Address == "http://a" && !s.Leader.Leads && len(s.Drives) == 4
	})
	if _, err := b.RepairNow(r.ctx, nil); !errors.Is(err, metadata.ErrNotLeader) {
		t.Fatalf("a repairer that waits: %v", err)
	}
	// Cut off from metadata, it stops by itself.
	first.cut.Store(true)
	await("the second leads", leads(b))
	if leads(a)() {
		t.Fatal("the first thinks that it leads still")
	}
	if _, err := a.RepairNow(r.ctx, nil); !errors.Is(err, metadata.ErrNotLeader) {
		t.Fatalf("a repairer that was cut off: %v", err)
	}
	first.cut.Store(false)
	await("the first sees who leads", func() bool { return a.Status().Leader.Address == "http://b" })
	r.wipe(1)
	await("healed by the second", func() bool { s := b.Status(); return s.Whole && s.States["RETIRED"] == 1 })
	r.whole(objects...)
	stopB()
	await("the first leads again", leads(a))
	stopA()
}

// TestResign: a leader that ends gives the lease back, and the next need not
// wait for it to lapse; one that was overtaken gives nothing back.
func TestResign(t *testing.T) {
	r := newRig(t, "2+1", 3)
	a, b := r.repairer(r.kv, waiting), r.repairer(r.kv, waiting)
	lead := func(rep *Repairer) *tenure {
		t.Helper()
		got, err := rep.leader.try(r.ctx)
		r.must(err)
		return got
	}
	first := lead(a)
	if first == nil || lead(b) != nil {
		t.Fatal("not the first leads, or both")
	}
	a.leader.resign(r.ctx, first)
	second := lead(b)
	if second == nil || a.leader.tenure() != nil || second.term.Number <= first.term.Number {
		t.Fatalf("after a resignation: %+v, was %+v", second, first)
	}
	// b is silent for so long that a takes over.
	if lead(a) != nil {
		t.Fatal("taken over at once")
	}
	r.clock.advance(a.leader.patience())
	third := lead(a)
	if third == nil || b.leader.tenure() != nil {
		t.Fatal("a silent leader was not followed")
	}
	b.leader.resign(r.ctx, second)
	if a.leader.cfg.Leaders.Prove(metadata.UnderTerm(r.ctx, third.term)) != nil {
		t.Fatal("a former leader gave back what another holds")
	}
}

// term gives the context of a term that a process begins now, whoever leads.
func (r *rig) term(rep *Repairer) context.Context {
	r.t.Helper()
	ctx, done, err := rep.leader.enter(r.ctx)
	r.must(err)
	r.t.Cleanup(done)
	return ctx
}

// intact repairs what was written without a slot, as happens where a drive is
// slow: so much more would be too much for what a test then breaks.
func (r *rig) intact(rep *Repairer) {
	r.t.Helper()
	for range 10 {
		if got, err := rep.RepairNow(r.ctx, nil); err == nil && got.Whole {
			return
		}
	}
	r.t.Fatal("what was written is not whole")
}

// trouble leaves something to do of every kind: a slot to be mapped and
// rebuilt, damage, a delete owed, an orphan that is ripe, a stray slot.
func (r *rig) trouble(rep *Repairer) []object {
	r.t.Helper()
	objects := r.some(20)
	r.intact(rep)
	_ = r.orphan(64)
	r.clock.advance(80 * time.Hour)
	r.must(rep.orphans.pass(r.ctx))
	rep.AgreeToOrphans()
	r.clock.advance(80 * time.Hour)
	r.must(r.cat.MarkMissing(r.ctx, objects[1].pg, objects[1].blob, 1))
	r.delete(objects[0].key)
	r.wipe(3)
	return objects[1:]
}

// TestLateWorkIsRefused stops a repairer before each of its steps in turn, has
// another take over and do all the work, and lets the first go on: nothing of
// what it does from then on is committed, and everything is whole.
func TestLateWorkIsRefused(t *testing.T) {
	steps, tries := workSteps(t), 80
	if testing.Short() {
		tries = 8
	}
	stride := max(1, steps/tries)
	t.Logf("%d steps, every %d. is tried", steps, stride)
	for at := int64(1); at <= int64(steps); at += int64(stride) {
		lateAt(t, at)
	}
}

// work is one round of all that a repairer does.
func work(ctx context.Context, rep *Repairer) {
	_, _ = rep.RepairNow(ctx, nil)
	_ = rep.deletes.pass(ctx)
	_ = rep.orphans.pass(ctx)
	rep.inventory.all.Store(true)
	_, _ = rep.inventory.pass(ctx)
}

// workSteps counts the calls to the engine that an undisturbed round makes.
func workSteps(t *testing.T) int {
	r := newRig(t, "2+2", 6)
	s := &seam{Store: r.kv}
	a := r.repairer(s)
	r.trouble(a)
	ctx := r.term(a)
	before := s.calls.Load()
	work(ctx, a)
	return int(s.calls.Load() - before)
}

func lateAt(t *testing.T, at int64) {
	r := newRig(t, "2+2", 6)
	s := &seam{Store: r.kv}
	a, b := r.repairer(s), r.repairer(r.kv)
	objects := r.trouble(a)
	ctxA := r.term(a)
	var taken atomic.Bool
	var mu sync.Mutex
	var late []string
	s.commit = func(_, writes [][]byte, commit func() error) error {
		wasTaken := taken.Load()
		err := commit()
		if wasTaken && err == nil && len(writes) > 0 {
			mu.Lock()
			late = append(late, fmt.Sprintf("%q", writes))
			mu.Unlock()
		}
		return err
	}
	s.hook = func() {
		ctxB := r.term(b)
		taken.Store(true)
		work(ctxB, b)
	}
	s.at = s.calls.Load() + at
	work(ctxA, a)
	if !taken.Load() {
		return // this run took fewer steps
	}
	if len(late) > 0 {
		t.Fatalf("step %d: committed under a term that had ended: %v", at, late)
	}
	ctxB := r.term(b)
	if rep, err := b.RepairNow(ctxB, nil); err != nil || !rep.Whole {
		t.Fatalf("step %d: %+v %v", at, rep, err)
	}
	r.must(b.deletes.pass(ctxB))
	r.whole(objects...)
	if bad, err := r.cat.Check(r.ctx); err != nil || len(bad) != 0 {
		t.Fatalf("step %d: metadata %v %v", at, bad, err)
	}
}

// TestDestructionAsksForFreshProof: what destroys does nothing once another
// leads, also where no transaction stands before it.
func TestDestructionAsksForFreshProof(t *testing.T) {
	r := newRig(t, "2+1", 5)
	a, b := r.repairer(r.kv), r.repairer(r.kv)
	objects := r.some(4)
	r.must(a.detectAndPlan(r.ctx))
	orphan := r.orphan(64)
	o := objects[0]
	r.delete(o.key)
	ctx := r.term(a)
	_ = r.term(b) // another takes over
	calls := func() (n int64) {
		for _, d := range r.drives.disks {
			n += d.store.Calls(storetest.OpDelete) + d.store.Calls(storetest.OpDropSlot)
		}
		return n
	}
	before := calls()
	err := a.orphans.collect(ctx, r.group(orphan.pg), candidate{orphan.pg, 0, orphan.blob}, storagenode.BlobIDAt(r.clock.Now().Add(time.Hour)))
	if !errors.Is(err, metadata.ErrStaleTerm) {
		t.Errorf("orphan: %v", err)
	}
	if err = a.deletes.pass(ctx); !errors.Is(err, metadata.ErrStaleTerm) {
		t.Errorf("tombstones: %v", err)
	}
	g := r.group(objects[1].pg)
	for _, d := range r.drives.disks {
		if d.report.ID != g.Slots[0].Drive && d.report.ID != g.Slots[1].Drive && d.report.ID != g.Slots[2].Drive {
			sh := storetest.NewShard(storagenode.ShardID{PG: g.PG, Slot: 0, Blob: r.ids.Next()}, 100)
			sh.SlotEpoch = 1
			token, err := d.store.Put(r.ctx, sh)
			r.must(err)
			r.must(d.store.Sync(r.ctx, token))
			if _, err = a.inventory.dropStray(ctx, d.store, d.report.ID, g.PG, 0); !errors.Is(err, metadata.ErrStaleTerm) {
				t.Errorf("stray slot: %v", err)
			}
			break
		}
	}
	if n := calls(); n != before {
		t.Errorf("%d destructive calls to drives after the term had ended", n-before)
	}
}

// TestEveryChangeIsUnderTheTerm: whatever a repairer commits while it runs, it
// has read the lease in the same transaction.
func TestEveryChangeIsUnderTheTerm(t *testing.T) {
	r := newLive(t, "2+2", 6)
	s := &seam{Store: r.kv}
	var mu sync.Mutex
	var bare []string
	families := map[byte]bool{}
	s.commit = func(reads, writes [][]byte, commit func() error) error {
		asserted := false
		for _, k := range reads {
			asserted = asserted || k[0] == 'L'
		}
		mu.Lock()
		for _, k := range writes {
			families[k[0]] = true
			if !asserted {
				bare = append(bare, fmt.Sprintf("%q", k))
			}
		}
		mu.Unlock()
		return commit()
	}
	rep := r.repairer(s, func(c *Config) { c.OrphanInterval = 10 * time.Millisecond })
	objects := r.some(12)
	r.intact(rep)
	stop := r.run(rep)
	r.wipe(2)
	r.delete(objects[0].key)
	r.must(r.cat.MarkMissing(r.ctx, objects[1].pg, objects[1].blob, 1))
	rep.Kick()
	r.rep = rep
	r.await("whole", func(s Status) bool { return s.Whole && s.States["RETIRED"] == 1 && s.Deletes.Done > 0 })
	if _, err := rep.RepairNow(r.ctx, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := rep.VerifyAll(r.ctx, Filter{}, nil); err != nil {
		t.Fatal(err)
	}
	stop()
	mu.Lock()
	defer mu.Unlock()
	if len(bare) > 0 {
		t.Fatalf("committed without the term: %v", bare)
	}
	for _, f := range []byte("DGbmxFL") {
		if !families[f] {
			t.Errorf("nothing was changed in family %c: the test tries too little", f)
		}
	}
}

// TestPauseHoldsForAll: what an operator pauses through one process holds for
// the leader at its next destructive step, for a later leader, and over a
// restart.
func TestPauseHoldsForAll(t *testing.T) {
	r := newRig(t, "2+1", 3)
	objects := r.some(4)
	a, b := r.repairer(r.kv), r.repairer(r.kv)
	ctx := r.term(a)
	r.must(a.detectAndPlan(ctx))
	r.delete(objects[0].key)
	r.must(b.Pause(r.ctx))
	tombstones := func() (n int64) {
		for _, d := range r.drives.disks {
			n += d.store.Calls(storetest.OpDelete)
		}
		return n
	}
	if err := a.deletes.pass(ctx); !errors.Is(err, errPaused) || tombstones() != 0 {
		t.Fatalf("%d tombstones, %v", tombstones(), err)
	}
	c := r.repairer(r.kv) // another life
	ctx = r.term(c)
	r.must(c.detectAndPlan(ctx))
	if r.must(c.deletes.pass(ctx)); !c.Status().Paused || tombstones() != 0 {
		t.Fatalf("%d tombstones", tombstones())
	}
	r.must(b.Resume(r.ctx))
	r.must(c.detectAndPlan(ctx))
	if r.must(c.deletes.pass(ctx)); c.Status().Paused || r.shards(objects[0].blob) != 0 {
		t.Fatalf("%d shards left", r.shards(objects[0].blob))
	}
}

// TestRenewalThatFindsItselfDone: a renewal whose outcome was never known is not
// the next one: who waits saw it when it was done.
func TestRenewalThatFindsItselfDone(t *testing.T) {
	r := newRig(t, "2+1", 3)
	lost := &seam{Store: r.kv}
	var beat bool
	lost.commit = func(_, writes [][]byte, commit func() error) error {
		err := commit()
		if beat && len(writes) > 0 {
			lost.cut.Store(true)
			return fmt.Errorf("%w: answer lost", kv.ErrUnknown)
		}
		return err
	}
	cat, err := catalog.Open(r.ctx, catalog.Config{KV: lost, Drives: r.drives, Scheme: erasure.Scheme{K: 2, M: 1}, Clock: r.clock})
	r.must(err)
	held, err := cat.Acquire(r.ctx, metadata.Lease{Role: Role}, "a", "")
	r.must(err)
	beat = true
	if _, err := cat.Renew(r.ctx, held); err == nil {
		t.Fatal("answer not lost")
	}
	seen, err := r.cat.Lease(r.ctx, Role)
	r.must(err)
	beat = false
	lost.cut.Store(false)
	if _, err = cat.Renew(r.ctx, held); err != nil {
		t.Fatal(err)
	}
	now, err := r.cat.Lease(r.ctx, Role)
	r.must(err)
	if now.Beat == seen.Beat {
		t.Fatal("a renewal succeeded that nobody can see")
	}
}

// TestLatePause: what was switched with an unknown outcome and arrives late does
// not undo what was switched by another process meanwhile.
func TestLatePause(t *testing.T) {
	r := newRig(t, "2+1", 3)
	far := &seam{Store: r.kv}
	rep := r.repairer(far)
	r.must(r.rep.Pause(r.ctx))
	var late []func() error
	far.commit = func(_, writes [][]byte, commit func() error) error {
		if len(writes) == 0 {
			return commit()
		}
		late = append(late, commit)
		return kv.ErrUnknown
	}
	if err := rep.Resume(r.ctx); err == nil || len(late) == 0 {
		t.Fatalf("%v, %d held up", err, len(late))
	}
	r.must(r.rep.Resume(r.ctx))
	r.must(r.rep.Pause(r.ctx))
	for _, commit := range late {
		_ = commit()
	}
	if paused, err := r.cat.Paused(r.ctx); err != nil || !paused {
		t.Fatalf("paused: %v, %v", paused, err)
	}
}
