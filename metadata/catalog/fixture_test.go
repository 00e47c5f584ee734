package catalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
)

// fakeDrives is a set of drives whose states a test sets.
type fakeDrives struct {
	mu      sync.Mutex
	reports []storagenode.DriveReport
}

type noStore struct{ storagenode.ShardStore }

func newDrives(n int) *fakeDrives {
	d := &fakeDrives{}
	for i := range n {
		d.reports = append(d.reports, storagenode.DriveReport{ID: storagenode.DriveID{byte(i + 1)}, Node: "n"})
	}
	return d
}

func (d *fakeDrives) Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.reports {
		if d.reports[i].ID == id {
			return noStore{}, d.reports[i].State
		}
	}
	return nil, storagenode.DriveDown
}

func (d *fakeDrives) Reports() []storagenode.DriveReport {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]storagenode.DriveReport(nil), d.reports...)
}

func (d *fakeDrives) set(i int, s storagenode.DriveState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reports[i].State = s
}

// fixture is a catalog over six drives in memory.
type fixture struct {
	*Catalog
	t      testing.TB
	drives *fakeDrives
	ids    *storagenode.BlobIDs
}

func newFixture(t testing.TB, store kv.Store) *fixture {
	t.Helper()
	if store == nil {
		store = memory.New()
	}
	d := newDrives(6)
	c, err := Open(t.Context(), Config{KV: store, Drives: d, Scheme: erasure.Scheme{K: 4, M: 2}})
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{Catalog: c, t: t, drives: d, ids: storagenode.NewBlobIDs(time.Now)}
}

// another is the catalog of another process on the same engine.
func (f *fixture) another(store kv.Store, edit ...func(*Config)) *Catalog {
	f.t.Helper()
	cfg := Config{KV: store, Drives: f.drives, Scheme: erasure.Scheme{K: 4, M: 2}}
	for _, e := range edit {
		e(&cfg)
	}
	c, err := Open(f.t.Context(), cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *fixture) bucket(name string) metadata.Bucket {
	f.t.Helper()
	b, err := f.CreateBucket(f.t.Context(), metadata.Bucket{Name: name, Owner: "root"})
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

// written makes a blob as the data path would, in an open group.
func (f *fixture) written(size int64) metadata.Written {
	f.t.Helper()
	g, err := f.OpenGroup(f.t.Context(), stickBytes)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.writtenIn(g, size)
}

func (f *fixture) writtenIn(g erasure.Group, size int64) metadata.Written {
	b := erasure.Blob{ID: f.ids.Next(), Size: size, Mode: erasure.Encoded, Slots: erasure.AllSlots(len(g.Slots))}
	if size <= erasure.ReplicateMax {
		b.Mode, b.Slots = erasure.Replicated, erasure.SlotMask(0b111)
	}
	return metadata.Written{Group: g, Blob: b}
}

func object(key string, blobs ...metadata.Written) *metadata.Object {
	o := &metadata.Object{Key: key, Modified: time.UnixMilli(1_700_000_000_123).UTC(),
		ETag: fmt.Sprintf("%032x", len(key)*1000+len(blobs))}
	for _, w := range blobs {
		o.Size += w.Blob.Size
	}
	return o
}

func (f *fixture) put(b metadata.Bucket, key string, size int64) *metadata.Object {
	f.t.Helper()
	w := f.written(size)
	o := object(key, w)
	o.ETag = fmt.Sprintf("%x", w.Blob.ID)
	if err := f.PutObject(f.t.Context(), b, o, []metadata.Written{w}, metadata.Condition{}); err != nil {
		f.t.Fatalf("put %q: %v", key, err)
	}
	return o
}

func (f *fixture) checkClean() {
	f.t.Helper()
	found, err := f.Check(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, i := range found {
		f.t.Errorf("inconsistent: %v", i)
	}
	if len(found) > 0 {
		f.t.FailNow()
	}
}

// owed collects everything that is owed a delete.
func (f *fixture) owed() map[storagenode.BlobID]metadata.Owed {
	f.t.Helper()
	all := make(map[storagenode.BlobID]metadata.Owed)
	for o, err := range f.ScanOwed(context.Background()) {
		if err != nil {
			f.t.Fatal(err)
		}
		all[o.Blob.ID] = o
	}
	return all
}

// rows counts the rows of a family.
func (f *fixture) rows(family byte) int {
	f.t.Helper()
	n := 0
	for _, err := range f.e.kv.Scan(context.Background(), []byte{family}, []byte{family + 1}) {
		if err != nil {
			f.t.Fatal(err)
		}
		n++
	}
	return n
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

// seeds gives the seeds a random test runs: KINTSUGI_SEED alone, or
// KINTSUGI_SEEDS of them, or n.
func seeds(t *testing.T, n int) []uint64 {
	t.Helper()
	if s := os.Getenv("KINTSUGI_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return []uint64{v}
	}
	if s := os.Getenv("KINTSUGI_SEEDS"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		n = v
	}
	list := make([]uint64, n)
	for i := range list {
		list[i] = uint64(i + 1)
	}
	return list
}

// chaos is a store whose commits fail at random: with a conflict that was
// none, or with an unknown outcome – committed, lost, or committed later.
type chaos struct {
	kv.Store
	mu      sync.Mutex
	rng     *rand.Rand
	percent int // of commits that go wrong
	late    []*chaosTxn
	unknown int // how many had an unknown outcome
}

func newChaos(seed uint64, percent int) *chaos {
	return &chaos{Store: memory.New(), rng: rand.New(rand.NewPCG(seed, 7)), percent: percent}
}

type chaosTxn struct {
	kv.Txn
	c    *chaos
	keys map[string]bool // written
}

func (c *chaos) Begin(ctx context.Context) (kv.Txn, error) {
	t, err := c.Store.Begin(ctx)
	return &chaosTxn{Txn: t, c: c, keys: map[string]bool{}}, err
}

func (t *chaosTxn) Put(key, value []byte) {
	t.keys[string(key)] = true
	t.Txn.Put(key, value)
}

func (t *chaosTxn) Delete(key []byte) {
	t.keys[string(key)] = true
	t.Txn.Delete(key)
}

func (t *chaosTxn) Commit(ctx context.Context) error {
	if len(t.keys) == 0 {
		return t.Txn.Commit(ctx)
	}
	c := t.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.late) > 0 && c.rng.IntN(2) == 0 {
		t := c.late[0]
		c.late = c.late[1:]
		_ = t.apply(context.Background())
	}
	if c.rng.IntN(100) >= c.percent {
		return t.apply(ctx)
	}
	switch c.rng.IntN(4) {
	case 0:
		return kv.ErrConflict
	case 1:
		c.unknown++
		if err := t.apply(ctx); err != nil {
			return err
		}
	case 2:
		c.unknown++
	case 3:
		c.unknown++
		c.late = append(c.late, t)
	}
	return kv.ErrUnknown
}

// apply commits; a transaction that is still under way and writes one of the
// same keys can no longer be, as the contract has it.
func (t *chaosTxn) apply(ctx context.Context) error {
	if err := t.Txn.Commit(ctx); err != nil {
		return err
	}
	t.c.late = slices.DeleteFunc(t.c.late, func(o *chaosTxn) bool {
		for key := range o.keys {
			if t.keys[key] {
				return true
			}
		}
		return false
	})
	return nil
}

// calm ends what is still under way and lets everything succeed from here.
func (c *chaos) calm(percent int) (was int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.late) > 0 {
		t := c.late[0]
		c.late = c.late[1:]
		_ = t.apply(context.Background())
	}
	was, c.percent = c.percent, percent
	return was
}

// counting counts the pairs that scans of its snapshots give.
type counting struct {
	kv.Store
	pairs int
}

type countingSnapshot struct {
	kv.Snapshot
	c *counting
}

func (c *counting) Snapshot(ctx context.Context) (kv.Snapshot, error) {
	s, err := c.Store.Snapshot(ctx)
	return &countingSnapshot{s, c}, err
}

func (s *countingSnapshot) Scan(ctx context.Context, from, to []byte) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) {
		for p, err := range s.Snapshot.Scan(ctx, from, to) {
			s.c.pairs++
			if !yield(p, err) {
				return
			}
		}
	}
}
