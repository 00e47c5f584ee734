package catalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"testing"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
)

// distant is an engine to which every call is a request, and which can be asked
// for several keys at once; it counts.
type distant struct {
	kv.Store
	requests atomic.Int64
}

type distantTxn struct {
	kv.Txn
	d     *distant
	known map[string]bool
}

func (d *distant) Get(ctx context.Context, key []byte) ([]byte, error) {
	d.requests.Add(1)
	return d.Store.Get(ctx, key)
}

func (d *distant) GetAll(ctx context.Context, keys ...[]byte) ([][]byte, error) {
	d.requests.Add(1)
	s, err := d.Store.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	values := make([][]byte, len(keys))
	for i, k := range keys {
		if values[i], err = s.Get(ctx, k); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// Page is one request where it is told how much is wanted.
func (d *distant) Page(ctx context.Context, from, to []byte, n int) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) {
		taken := 0
		for p, err := range d.Store.Scan(ctx, from, to) {
			if taken++; taken%n == 1 || n == 1 {
				d.requests.Add(1)
			}
			if !yield(p, err) {
				return
			}
		}
	}
}

func (d *distant) Snapshot(ctx context.Context) (kv.Snapshot, error) {
	d.requests.Add(1)
	return d.Store.Snapshot(ctx)
}

func (d *distant) Begin(ctx context.Context) (kv.Txn, error) {
	t, err := d.Store.Begin(ctx)
	return &distantTxn{t, d, map[string]bool{}}, err
}

func (t *distantTxn) Prefetch(_ context.Context, keys ...[]byte) error {
	t.d.requests.Add(1)
	for _, k := range keys {
		t.known[string(k)] = true
	}
	return nil
}

func (t *distantTxn) Guess(known, absent [][]byte) bool {
	if !kv.Guess(t.Txn, known, absent) {
		return false
	}
	for _, k := range append(slices.Clone(known), absent...) {
		t.known[string(k)] = true
	}
	return true
}

func (t *distantTxn) Get(ctx context.Context, key []byte) ([]byte, error) {
	if !t.known[string(key)] {
		t.d.requests.Add(1)
		t.known[string(key)] = true
	}
	return t.Txn.Get(ctx, key)
}

func (t *distantTxn) Commit(ctx context.Context) error {
	t.d.requests.Add(1)
	return t.Txn.Commit(ctx)
}

// What each call asks of an engine far away.
func TestRequestsOfEachCall(t *testing.T) {
	d := &distant{Store: memory.New()}
	f := newFixture(t, d)
	b := f.bucket("bkt")
	f.put(b, "first", 100)
	if _, _, err := f.Find(t.Context(), "bkt", "first"); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		f.put(b, fmt.Sprintf("more%d", i), 100)
		f.put(b, fmt.Sprintf("gone%d", i), 100)
	}
	u, w, v, p := f.written(100), f.written(100), f.written(100), f.written(100)
	var before int64
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		if _, err := f.DeleteObject(t.Context(), b, fmt.Sprintf("gone%d", i), metadata.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	var owed []metadata.Owed
	for o, err := range f.ScanOwed(t.Context()) {
		must(err)
		owed = append(owed, o)
	}
	if len(owed) != 4 {
		t.Fatalf("%d deletes are owed, want 4", len(owed))
	}
	must(f.CreateUpload(t.Context(), b, metadata.Upload{ID: "u", Key: "up"}))
	for _, c := range []struct {
		name string
		want int64
		do   func() error
	}{
		{"find", 1, func() error { _, _, err := f.Find(t.Context(), "bkt", "first"); return err }},
		{"list", 1, func() error {
			page, err := f.ListObjects(t.Context(), b.ID, metadata.ListQuery{Limit: 3})
			if len(page.Objects) != 3 || !page.Truncated {
				t.Errorf("%d objects, truncated %v", len(page.Objects), page.Truncated)
			}
			return err
		}},
		{"put", 1, func() error {
			return f.PutObject(t.Context(), b, object("new", w), []metadata.Written{w}, metadata.Condition{})
		}},
		{"put on a condition", 2, func() error {
			return f.PutObject(t.Context(), b, object("other", u), []metadata.Written{u}, metadata.Condition{IfNoneMatch: "*"})
		}},
		{"overwrite, which was guessed to be new", 4, func() error {
			return f.PutObject(t.Context(), b, object("new", v), []metadata.Written{v}, metadata.Condition{})
		}},
		{"overwrite among overwrites", 3, func() error {
			for f.guesses.score.Load() >= 0 {
				f.put(b, "again", 100)
			}
			d.requests.Store(before)
			f.put(b, "again", 100)
			return nil
		}},
		{"guess now and then", 4, func() error {
			for f.guesses.puts.Load()%guessEvery != guessEvery-1 {
				f.put(b, "again", 100)
			}
			d.requests.Store(before)
			f.put(b, "again", 100)
			return nil
		}},
		{"part", 2, func() error {
			return f.PutPart(t.Context(), b, "up", "u", metadata.Part{Number: 1, Size: 100}, []metadata.Written{p})
		}},
		{"delete", 3, func() error {
			_, err := f.DeleteObject(t.Context(), b, "first", metadata.Condition{})
			return err
		}},
		{"discharge", 2, func() error {
			var slots []erasure.SlotMask
			for _, o := range owed {
				slots = append(slots, o.Pending)
			}
			return f.Discharge(t.Context(), owed, slots)
		}},
	} {
		before = d.requests.Load()
		must(c.do())
		if n := d.requests.Load() - before; n != c.want {
			t.Errorf("%s took %d requests, want %d", c.name, n, c.want)
		}
	}
	f.checkClean()
}

// What a gateway remembers of a bucket's id decides nothing: another's delete
// and create are seen by the next call.
func TestFindAcrossGateways(t *testing.T) {
	for name, store := range map[string]kv.Store{"near": memory.New(), "far": &distant{Store: memory.New()}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, store)
			other := f.another(store)
			find := func(bucket, key string, want error) (metadata.Bucket, *metadata.Object) {
				t.Helper()
				b, o, err := f.Find(t.Context(), bucket, key)
				if !errors.Is(err, want) {
					t.Fatalf("Find(%s, %s): %v, want %v", bucket, key, err, want)
				}
				return b, o
			}
			find("bkt", "k", metadata.ErrNoSuchBucket)
			for round := range 3 {
				b, err := other.CreateBucket(t.Context(), metadata.Bucket{Name: "bkt", Owner: "root"})
				if err != nil {
					t.Fatal(err)
				}
				if got, _ := find("bkt", "k", metadata.ErrNoSuchKey); got != b {
					t.Fatalf("round %d: %+v, want %+v", round, got, b)
				}
				f.put(b, "k", int64(100+round))
				if got, o := find("bkt", "k", nil); got != b || o.Key != "k" || o.Size != int64(100+round) || len(o.Blobs) != 1 {
					t.Fatalf("round %d: %+v, %+v", round, got, o)
				}
				if _, err := other.DeleteObject(t.Context(), b, "k", metadata.Condition{}); err != nil {
					t.Fatal(err)
				}
				find("bkt", "k", metadata.ErrNoSuchKey)
				if err := other.DeleteBucket(t.Context(), "bkt"); err != nil {
					t.Fatal(err)
				}
				if round == 1 { // made anew before anybody looks
					continue
				}
				find("bkt", "k", metadata.ErrNoSuchBucket)
			}
			for i := range 600 { // more buckets than are remembered
				b := f.bucket(fmt.Sprint("many", i))
				if got, _ := find(b.Name, "k", metadata.ErrNoSuchKey); got != b {
					t.Fatalf("%+v, want %+v", got, b)
				}
			}
		})
	}
}
