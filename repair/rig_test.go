package repair

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/metadata/catalog"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// fakeClock stands still until it is advanced.
type fakeClock struct {
	mu     sync.Mutex
	now    time.Time
	timers []timer
}

type timer struct {
	at time.Time
	ch chan time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	if d <= 0 {
		ch <- c.now
		return ch
	}
	c.timers = append(c.timers, timer{c.now.Add(d), ch})
	return ch
}

func (c *fakeClock) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-c.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	var left []timer
	for _, t := range c.timers {
		if t.at.After(c.now) {
			left = append(left, t)
		} else {
			t.ch <- c.now
		}
	}
	c.timers = left
}

// disk is one drive of the rig.
type disk struct {
	report storagenode.DriveReport
	memory *storetest.Memory
	store  *storetest.Faulty
	gone   bool // nobody reports it
}

// drives is the rig's storagenode.Reporter.
type drives struct {
	mu    sync.Mutex
	disks []*disk
}

func (d *drives) Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range d.disks {
		if k.report.ID == id && !k.gone && k.report.State != storagenode.DriveDown {
			return k.store, k.report.State
		}
	}
	return nil, storagenode.DriveDown
}

func (d *drives) Reports() []storagenode.DriveReport {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []storagenode.DriveReport
	for _, k := range d.disks {
		if !k.gone {
			r := k.report
			r.Space = k.memory.Space()
			out = append(out, r)
		}
	}
	return out
}

type object struct {
	key  string
	data []byte
	pg   storagenode.PG
	blob storagenode.BlobID
}

// rig is a cluster in memory: the real catalog and stripe layer over drives and
// a key-value engine in memory.
type rig struct {
	t      testing.TB
	ctx    context.Context
	clock  *fakeClock
	kv     kv.Store
	cat    *catalog.Catalog
	set    *stripe.Set
	drives *drives
	bucket metadata.Bucket
	ids    *storagenode.BlobIDs
	rng    *rand.Rand
	cfg    Config
	rep    *Repairer
	onFill func(slot int, b erasure.Blob) // called inside Rebuild before the write
}

// patience is how long drives may take in tests where none hangs: it is counted by the
// machine's time, and a busy machine is no fault.
const patience = 30 * time.Second

// patient makes the stripe layer anew, which waits so long for drives that do not answer.
func (r *rig) patient(d time.Duration) {
	r.set = stripe.New(stripe.Config{Drives: r.drives, WriteWait: d, ReadWait: d,
		Damaged: func(d stripe.Damage) { r.rep.Notify(d) }})
}

func newRig(t testing.TB, scheme string, n int, edit ...func(*Config)) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	r := &rig{
		t: t, ctx: ctx, drives: &drives{}, rng: rand.New(rand.NewPCG(1, 2)),
		clock: &fakeClock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)},
	}
	r.ids = storagenode.NewBlobIDs(r.clock.Now)
	r.patient(patience)
	for range n {
		r.addDrive("n0", "", storagenode.DriveID{})
	}
	s, err := erasure.ParseScheme(scheme)
	r.must(err)
	r.kv = memory.New()
	r.cat, err = catalog.Open(ctx, catalog.Config{KV: r.kv, Drives: r.drives, Scheme: s, Clock: r.clock, OpenGroups: 2, Below: r.ids.Above})
	r.must(err)
	r.bucket, err = r.cat.CreateBucket(ctx, metadata.Bucket{Name: "b"})
	r.must(err)
	r.cfg = Config{
		Blobs: r.cat, Groups: r.cat, Lookup: r.cat, Records: r.cat, Horizon: r.cat, Leaders: r.cat, Nodes: r.cat, Foundation: r.cat, Switches: r.cat, Rounds: r.cat, Sole: true, Stripes: r, Drives: r.drives,
		Clock: r.clock, OpTimeout: patience, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, e := range edit {
		e(&r.cfg)
	}
	r.rep, err = New(r.cfg)
	r.must(err)
	return r
}

// repairer is one of another process: with a catalog of its own over store,
// which is the rig's or stands before it.
func (r *rig) repairer(store kv.Store, edit ...func(*Config)) *Repairer {
	r.t.Helper()
	cfg := r.cfg
	cat, err := catalog.Open(r.ctx, catalog.Config{KV: store, Drives: r.drives, Scheme: erasure.Scheme{K: 2, M: 1}, Clock: cfg.Clock, OpenGroups: 2})
	r.must(err)
	cfg.Blobs, cfg.Groups, cfg.Lookup, cfg.Records, cfg.Horizon, cfg.Leaders = cat, cat, cat, cat, cat, cat
	cfg.Nodes, cfg.Foundation, cfg.Switches, cfg.Rounds = cat, cat, cat, cat
	cfg.Registerer = nil
	for _, e := range edit {
		e(&cfg)
	}
	rep, err := New(cfg)
	r.must(err)
	return rep
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) addDrive(node, zone string, replaces storagenode.DriveID) *disk {
	m := storetest.NewMemory()
	d := &disk{memory: m, store: storetest.NewFaulty(m), report: storagenode.DriveReport{
		ID: storagenode.NewUUID(), Node: node, Zone: zone, Since: r.clock.Now(), Replaces: replaces,
	}}
	r.drives.mu.Lock()
	r.drives.disks = append(r.drives.disks, d)
	r.drives.mu.Unlock()
	return d
}

// wipe empties a drive: it is gone, and a new one takes its place.
func (r *rig) wipe(i int) *disk {
	old := r.drives.disks[i]
	d := r.addDrive(old.report.Node, old.report.Zone, old.report.ID)
	r.drives.mu.Lock()
	defer r.drives.mu.Unlock()
	old.gone = true
	last := len(r.drives.disks) - 1
	r.drives.disks[i], r.drives.disks[last] = r.drives.disks[last], r.drives.disks[i]
	return d
}

func (r *rig) state(i int, s storagenode.DriveState) {
	r.drives.mu.Lock()
	defer r.drives.mu.Unlock()
	d := r.drives.disks[i]
	d.report.State, d.report.Since = s, r.clock.Now()
}

// encode gives the shard of a slot of one stripe.
func encode(t testing.TB, g erasure.Group, mode erasure.Mode, data []byte) [][]byte {
	if mode == erasure.Replicated {
		out := make([][]byte, g.Scheme.N())
		for i := range out {
			out[i] = data
		}
		return out
	}
	c, err := erasure.NewCoder(g.Scheme)
	if err != nil {
		t.Fatal(err)
	}
	size := g.Scheme.ShardSize(len(data))
	mem := make([]byte, size*int(g.Scheme.K))
	copy(mem, data)
	shards := c.Split(nil, mem, make([]byte, size*int(g.Scheme.M)), len(data))
	if err := c.Encode(shards); err != nil {
		t.Fatal(err)
	}
	return shards
}

// write puts a blob's shards on the drives that take them.
func (r *rig) write(g erasure.Group, id storagenode.BlobID, data []byte) (erasure.Blob, error) {
	res, err := r.set.Put(r.ctx, g, id, bytes.NewReader(data), int64(len(data)), stripe.PutOptions{
		Attrs: func(int64) []byte { return []byte("attributes of " + id.String()) },
	})
	return res.Blob, err
}

// put stores an object of n random bytes and fails the test where it cannot.
func (r *rig) put(key string, n int) object {
	r.t.Helper()
	o, err := r.tryPut(key, n)
	r.must(err)
	return o
}

func (r *rig) tryPut(key string, n int) (object, error) {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(r.rng.Uint32())
	}
	g, err := r.cat.OpenGroup(r.ctx, int64(n))
	if err != nil {
		return object{}, err
	}
	b, err := r.write(g, r.ids.Next(), data)
	if err != nil {
		return object{}, err
	}
	o := object{key, data, g.PG, b.ID}
	return o, r.cat.PutObject(r.ctx, r.bucket, &metadata.Object{
		Key: key, Version: "null", Size: int64(n), ETag: "e", Modified: r.clock.Now(), Blobs: []metadata.Located{{PG: g.PG, Blob: b}},
	}, []metadata.Written{{Group: g, Blob: b}}, metadata.Condition{})
}

func (r *rig) delete(key string) {
	r.t.Helper()
	_, err := r.cat.DeleteObject(r.ctx, r.bucket, key, metadata.Condition{})
	r.must(err)
}

func (r *rig) record(o object) *metadata.BlobRecord {
	r.t.Helper()
	rec, err := r.cat.Blob(r.ctx, o.pg, o.blob)
	r.must(err)
	return rec
}

func (r *rig) group(pg storagenode.PG) erasure.Group {
	r.t.Helper()
	g, err := r.cat.Group(r.ctx, pg)
	r.must(err)
	return g
}

// diskOf finds the disk that a slot is mapped to.
func (r *rig) diskOf(pg storagenode.PG, slot int) *disk {
	id := r.group(pg).Slots[slot].Drive
	for _, d := range r.drives.disks {
		if d.report.ID == id {
			return d
		}
	}
	r.t.Fatalf("no disk for slot %d of pg %d", slot, pg)
	return nil
}

func (r *rig) readShard(store storagenode.ShardStore, id storagenode.ShardID) (storagenode.ShardInfo, []byte, error) {
	info, err := store.Stat(r.ctx, id)
	if err != nil {
		return info, nil, err
	}
	p := make([]byte, info.Size)
	if _, err := store.ReadAt(r.ctx, id, 0, p); err != nil && !errors.Is(err, io.EOF) {
		return info, nil, err
	}
	return info, p, nil
}

// Rebuild is the stripe layer's, with a hook before the write.
func (r *rig) Rebuild(ctx context.Context, g erasure.Group, b erasure.Blob, slot int, dst storagenode.ShardStore, epoch uint32) error {
	return r.set.Rebuild(ctx, g, b, slot, hooked{dst, func() {
		if r.onFill != nil {
			r.onFill(slot, b)
		}
	}}, epoch)
}

// Move is the stripe layer's.
func (r *rig) Move(ctx context.Context, g erasure.Group, b erasure.Blob, slot int, from storagenode.DriveID, dst storagenode.ShardStore, epoch uint32) error {
	return r.set.Move(ctx, g, b, slot, from, dst, epoch)
}

// Verify is the stripe layer's.
func (r *rig) Verify(ctx context.Context, g erasure.Group, b erasure.Blob) (stripe.Report, error) {
	return r.set.Verify(ctx, g, b)
}

type hooked struct {
	storagenode.ShardStore
	before func()
}

func (h hooked) Put(ctx context.Context, s storagenode.Shard) (storagenode.Token, error) {
	h.before()
	return h.ShardStore.Put(ctx, s)
}

// whole fails unless every slot of the objects has exactly the bytes it
// should, on the drive it is mapped to.
func (r *rig) whole(objects ...object) {
	r.t.Helper()
	for _, o := range objects {
		rec, g := r.record(o), r.group(o.pg)
		if rec == nil || rec.Blob.Missing != 0 {
			r.t.Fatalf("%s: record %+v", o.key, rec)
		}
		for s := range stripes(rec.Blob) {
			part := o.data[int64(s)*erasure.StripeSize:][:stripeLen(rec.Blob, s)]
			shards := encode(r.t, g, rec.Blob.Mode, part)
			for i := range g.Slots {
				if !rec.Blob.Slots.Has(i) {
					continue
				}
				id := storagenode.ShardID{PG: g.PG, Slot: uint8(i), Blob: o.blob, Stripe: uint32(s)}
				info, p, err := r.readShard(r.diskOf(o.pg, i).store, id)
				if err == nil && info.Last && string(info.Attrs) != "attributes of "+o.blob.String() {
					err = fmt.Errorf("attributes %q", info.Attrs)
				}
				if err != nil || !bytes.Equal(p, shards[i]) {
					r.t.Fatalf("%s: slot %d stripe %d of pg %d: %v, same bytes: %v", o.key, i, s, o.pg, err, bytes.Equal(p, shards[i]))
				}
			}
		}
	}
}

// some puts a mixture of replicated, encoded and many-striped objects.
func (r *rig) some(n int) []object {
	r.t.Helper()
	var out []object
	for i := range n {
		size := []int{100, 4096, 100_000, 300_000}[i%4]
		if i == 5 {
			size = erasure.StripeSize + 1000
		}
		out = append(out, r.put(fmt.Sprintf("o%03d", i), size))
		r.clock.advance(7 * time.Millisecond)
	}
	return out
}

// heal runs RepairNow and fails unless it ends with Healed.
func (r *rig) heal() Report {
	r.t.Helper()
	var last Progress
	rep, err := r.rep.RepairNow(r.ctx, func(p Progress) { last = p })
	r.must(err)
	if last.Phase != Healed || !rep.Whole {
		r.t.Fatalf("ended with %+v, report %+v", last, rep)
	}
	return rep
}

// round looks, plans, and repairs once.
func (r *rig) round() {
	r.t.Helper()
	_ = r.rep.detectAndPlan(r.ctx)
	_, _ = r.rep.inventory.pass(r.ctx)
	_, _, _ = r.rep.worker.rebuildSlots(r.ctx)
	_, _ = r.rep.worker.repairDamage(r.ctx)
}

// shards counts the shards a blob has on drives that are there.
func (r *rig) shards(id storagenode.BlobID) int {
	n := 0
	for _, d := range r.drives.disks {
		if d.gone {
			continue
		}
		for _, s := range d.memory.Shards() {
			if s.Blob == id {
				n++
			}
		}
	}
	return n
}
