package catalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
)

func TestObjectRoundTrip(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	for _, key := range []string{"k", "a//b", "../x", "\x00\x01", strings.Repeat("ü", 512)} {
		w := []metadata.Written{f.written(1 << 20), f.written(100)}
		o := object(key, w...)
		o.Fields = []metadata.Field{{Name: "content-type", Value: "text/plain"}, {Name: "x-amz-meta-ü", Value: "gold"}, {Name: "expires", Value: ""}}
		o.Checksum = metadata.Checksum{Algorithm: "CRC32C", Value: "yZRlqg=="}
		if err := f.PutObject(t.Context(), b, o, w, metadata.Condition{}); err != nil {
			t.Fatal(err)
		}
		got, err := f.Object(t.Context(), b.ID, key)
		if err != nil {
			t.Fatal(err)
		}
		want := *o
		want.Version = "null"
		for i := range w {
			want.Blobs = append(want.Blobs, metadata.Located{PG: w[i].Group.PG, Blob: w[i].Blob})
		}
		if !reflect.DeepEqual(got, &want) {
			t.Errorf("got %+v\nwant %+v", got, &want)
		}
	}
	_, err := f.Object(t.Context(), b.ID, "absent")
	wantErr(t, err, metadata.ErrNoSuchKey)
	f.checkClean()
}

// TestDeletedBlobsAreTold: of blobs that are overwritten, deleted, or were never
// committed, and of no other.
func TestDeletedBlobsAreTold(t *testing.T) {
	store := memory.New()
	f := newFixture(t, store)
	told := map[storagenode.BlobID]bool{}
	f.Catalog = f.another(store, func(c *Config) { c.Deleted = func(id storagenode.BlobID) { told[id] = true } })
	b := f.bucket("b")
	blob := func(key string, size int64) storagenode.BlobID {
		f.put(b, key, size)
		o, err := f.Object(t.Context(), b.ID, key)
		if err != nil {
			t.Fatal(err)
		}
		return o.Blobs[0].Blob.ID
	}
	over, gone, stays := blob("over", 1), blob("gone", 1<<20), blob("stays", 1)
	if len(told) != 0 {
		t.Fatalf("%d blobs told of before any was deleted", len(told))
	}
	f.put(b, "over", 2)
	if _, err := f.DeleteObject(t.Context(), b, "gone", metadata.Condition{}); err != nil {
		t.Fatal(err)
	}
	refused := f.written(1)
	err := f.PutObject(t.Context(), b, object("stays", refused), []metadata.Written{refused}, metadata.Condition{IfNoneMatch: "*"})
	if !errors.Is(err, metadata.ErrPreconditionFailed) {
		t.Fatal(err)
	}
	wantErr(t, f.Abandon(t.Context(), []metadata.Written{refused}), nil)
	for _, id := range []storagenode.BlobID{over, gone, refused.Blob.ID} {
		if !told[id] {
			t.Errorf("nobody was told of blob %s", id)
		}
	}
	if len(told) != 3 || told[stays] {
		t.Errorf("%d blobs were told of, want 3", len(told))
	}
}

func TestConditions(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	put := func(key string, c metadata.Condition) error {
		w := f.written(10)
		o := object(key, w)
		o.ETag = "0123"
		err := f.PutObject(t.Context(), b, o, []metadata.Written{w}, c)
		if err != nil {
			wantErr(t, f.Abandon(t.Context(), []metadata.Written{w}), nil)
		}
		return err
	}
	wantErr(t, put("k", metadata.Condition{IfMatch: "*"}), metadata.ErrNoSuchKey)
	wantErr(t, put("k", metadata.Condition{IfMatch: "0123"}), metadata.ErrNoSuchKey)
	wantErr(t, put("k", metadata.Condition{IfNoneMatch: "*"}), nil)
	wantErr(t, put("k", metadata.Condition{IfNoneMatch: "*"}), metadata.ErrPreconditionFailed)
	wantErr(t, put("k", metadata.Condition{IfNoneMatch: `"0123"`}), metadata.ErrPreconditionFailed)
	wantErr(t, put("k", metadata.Condition{IfMatch: "4567"}), metadata.ErrPreconditionFailed)
	wantErr(t, put("k", metadata.Condition{IfMatch: `"0123"`}), nil)
	if n := len(f.owed()); n != 6 {
		t.Errorf("%d blobs are owed a delete, want those of 5 refused writes and of the replaced version", n)
	}
	del := func(key string, c metadata.Condition) error {
		_, err := f.DeleteObject(t.Context(), b, key, c)
		return err
	}
	size, other := int64(10), int64(11)
	modified := time.UnixMilli(1_700_000_000_999)
	wantErr(t, del("absent", metadata.Condition{IfMatch: "*"}), metadata.ErrNoSuchKey)
	wantErr(t, del("absent", metadata.Condition{IfMatch: "0123", IfSize: &size, IfModified: modified}), metadata.ErrNoSuchKey)
	wantErr(t, del("absent", metadata.Condition{IfSize: &size}), nil)
	wantErr(t, del("absent", metadata.Condition{IfModified: modified}), nil)
	wantErr(t, del("absent", metadata.Condition{}), nil)
	wantErr(t, del("k", metadata.Condition{IfSize: &other}), metadata.ErrPreconditionFailed)
	wantErr(t, del("k", metadata.Condition{IfModified: modified.Add(time.Second)}), metadata.ErrPreconditionFailed)
	wantErr(t, del("k", metadata.Condition{IfModified: modified, IfSize: &size, IfMatch: "0123"}), nil)
	_, err := f.Object(t.Context(), b.ID, "k")
	wantErr(t, err, metadata.ErrNoSuchKey)
	_, err = f.DeleteObject(t.Context(), metadata.Bucket{Name: "none", ID: 9}, "k", metadata.Condition{})
	wantErr(t, err, metadata.ErrNoSuchBucket)
	f.checkClean()
}

// TestConditionalRace: of many writers that all say "if none", one wins and
// the others are told so.
func TestConditionalRace(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	_ = f.written(1)
	var won atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			w := f.written(10)
			err := f.PutObject(context.Background(), b, object("k", w), []metadata.Written{w}, metadata.Condition{IfNoneMatch: "*"})
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, metadata.ErrPreconditionFailed) && !errors.Is(err, metadata.ErrConditionalConflict) {
				t.Errorf("lost with %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d writers won", won.Load())
	}
	f.checkClean()
}

// TestHotKey: writers of one key without a condition never lose.
func TestHotKey(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	_ = f.written(1)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 20 {
				w := f.written(10)
				if err := f.PutObject(context.Background(), b, object("k", w), []metadata.Written{w}, metadata.Condition{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(f.owed()); n != 32*20-1 {
		t.Errorf("%d replaced blobs are owed a delete, want %d", n, 32*20-1)
	}
	f.checkClean()
}

// scripted fails the next commits with the given outcomes.
type scripted struct {
	kv.Store
	next []func(kv.Txn) error
}

type scriptedTxn struct {
	kv.Txn
	s *scripted
}

func (s *scripted) Begin(ctx context.Context) (kv.Txn, error) {
	t, err := s.Store.Begin(ctx)
	return &scriptedTxn{t, s}, err
}

func (t *scriptedTxn) Commit(ctx context.Context) error {
	if len(t.s.next) == 0 {
		return t.Txn.Commit(ctx)
	}
	f := t.s.next[0]
	t.s.next = t.s.next[1:]
	return f(t.Txn)
}

func applied(t kv.Txn) error {
	if err := t.Commit(context.Background()); err != nil {
		return err
	}
	return kv.ErrUnknown
}

func lost(kv.Txn) error { return kv.ErrUnknown }

func TestUnknownOutcome(t *testing.T) {
	s := &scripted{Store: memory.New()}
	f := newFixture(t, s)
	b := f.bucket("bucket")
	w := f.written(10)
	ifNone := metadata.Condition{IfNoneMatch: "*"}

	// It took place: the conditional write is no victim of its own success.
	s.next = []func(kv.Txn) error{applied}
	wantErr(t, f.PutObject(t.Context(), b, object("k", w), []metadata.Written{w}, ifNone), nil)

	// It did not, and cannot any more: a late arrival of the same is refused.
	var late kv.Txn
	w = f.written(10)
	s.next = []func(kv.Txn) error{func(t kv.Txn) error { late = t; return kv.ErrUnknown }}
	err := f.PutObject(t.Context(), b, object("l", w), []metadata.Written{w}, ifNone)
	wantErr(t, err, metadata.ErrUnavailable)
	wantErr(t, late.Commit(t.Context()), kv.ErrConflict)
	if owed, err := f.IsOwed(t.Context(), w.Group.PG, w.Blob.ID); !owed || err != nil {
		t.Errorf("the lost blob is owed a delete: %v %v", owed, err)
	}
	err = f.PutObject(t.Context(), b, object("l", w), []metadata.Written{w}, ifNone)
	wantErr(t, err, metadata.ErrStalePlacement)

	// It took place and was replaced before anybody looked.
	w = f.written(10)
	s.next = []func(kv.Txn) error{func(txn kv.Txn) error {
		err := applied(txn)
		f.put(b, "m", 10)
		return err
	}}
	wantErr(t, f.PutObject(t.Context(), b, object("m", w), []metadata.Written{w}, metadata.Condition{}), nil)

	// A delete is repeated, but never of a version that came later.
	s.next = []func(kv.Txn) error{lost, applied}
	found, err := f.DeleteObject(t.Context(), b, "m", metadata.Condition{})
	if !found || err != nil {
		t.Errorf("delete: %v %v", found, err)
	}
	f.put(b, "m", 10)
	s.next = []func(kv.Txn) error{func(txn kv.Txn) error {
		err := applied(txn)
		f.put(b, "m", 20)
		return err
	}}
	_, err = f.DeleteObject(t.Context(), b, "m", metadata.Condition{})
	wantErr(t, err, metadata.ErrUnavailable)
	if o, err := f.Object(t.Context(), b.ID, "m"); err != nil || o.Size != 20 {
		t.Errorf("the later version: %v %v", o, err)
	}

	// A request that was given up in the middle is looked into all the same.
	w = f.written(10)
	ctx, cancel := context.WithCancel(t.Context())
	s.next = []func(kv.Txn) error{func(txn kv.Txn) error { cancel(); return applied(txn) }}
	wantErr(t, f.PutObject(ctx, b, object("n", w), []metadata.Written{w}, ifNone), nil)
	f.checkClean()
}

func TestStalePlacement(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	remap := func(pg storagenode.PG, slots ...int) {
		t.Helper()
		for _, slot := range slots {
			g, err := f.Group(t.Context(), pg)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Remap(t.Context(), pg, slot, g.Slots[slot].Epoch, storagenode.DriveID{byte(100 + slot), byte(g.Slots[slot].Epoch)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	// One slot moved: the blob is committed with that shard missing.
	w := f.written(1 << 20)
	remap(w.Group.PG, 5)
	wantErr(t, f.PutObject(t.Context(), b, object("k", w), []metadata.Written{w}, metadata.Condition{}), nil)
	r, err := f.Blob(t.Context(), w.Group.PG, w.Blob.ID)
	if err != nil || r.Blob.Missing != 1<<5 {
		t.Fatalf("record %+v %v", r, err)
	}
	// Two: 4 of 4+2 are left, one fewer than the quorum.
	w = f.written(1 << 20)
	remap(w.Group.PG, 0, 1)
	err = f.PutObject(t.Context(), b, object("l", w), []metadata.Written{w}, metadata.Condition{})
	wantErr(t, err, metadata.ErrStalePlacement)
	wantErr(t, f.Abandon(t.Context(), []metadata.Written{w}), nil)
	if owed, err := f.IsOwed(t.Context(), w.Group.PG, w.Blob.ID); !owed || err != nil {
		t.Errorf("refused blob is owed: %v %v", owed, err)
	}
	// A replicated blob in slots 0..2 does not mind slots 3..5, and two copies do.
	w = f.written(100)
	remap(w.Group.PG, 2, 3, 4)
	wantErr(t, f.PutObject(t.Context(), b, object("m", w), []metadata.Written{w}, metadata.Condition{}), nil)
	w = f.written(100)
	remap(w.Group.PG, 1, 2)
	wantErr(t, f.PutObject(t.Context(), b, object("n", w), []metadata.Written{w}, metadata.Condition{}), metadata.ErrStalePlacement)

	// A remap from under a commit that has read the group already: it retries.
	f.checkClean()
	damaged := 0
	for r, err := range f.ScanDamaged(t.Context()) {
		if err != nil || r.Blob.Missing == 0 {
			t.Errorf("damaged %+v %v", r, err)
		}
		damaged++
	}
	if damaged != 2 {
		t.Errorf("%d damaged blobs", damaged)
	}
}

func TestHorizon(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	old, now := f.written(10), f.written(10)
	wantErr(t, f.RaiseHorizon(t.Context(), now.Blob.ID), nil)
	wantErr(t, f.RaiseHorizon(t.Context(), old.Blob.ID), nil) // lowers nothing
	if h, err := f.Horizon(t.Context()); h != now.Blob.ID || err != nil {
		t.Fatalf("horizon %v %v", h, err)
	}
	wantErr(t, f.PutObject(t.Context(), b, object("k", old), []metadata.Written{old}, metadata.Condition{}), metadata.ErrStalePlacement)
	wantErr(t, f.PutObject(t.Context(), b, object("k", now), []metadata.Written{now}, metadata.Condition{}), nil)
}

func TestMarks(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	w := f.written(1 << 20)
	wantErr(t, f.PutObject(t.Context(), b, object("k", w), []metadata.Written{w}, metadata.Condition{}), nil)
	pg, id := w.Group.PG, w.Blob.ID
	wantErr(t, f.MarkMissing(t.Context(), pg, id, 0b11), nil)
	wantErr(t, f.MarkMissing(t.Context(), pg, id, 0b110), nil)
	f.checkClean()
	less := f.written(1 << 20)
	wantErr(t, f.PutObject(t.Context(), b, object("l", less), []metadata.Written{less}, metadata.Condition{}), nil)
	wantErr(t, f.MarkMissing(t.Context(), less.Group.PG, less.Blob.ID, 1), nil)
	var order []storagenode.BlobID
	for r, err := range f.ScanDamaged(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, r.Blob.ID)
	}
	if len(order) != 2 || order[0] != id || order[1] != less.Blob.ID {
		t.Errorf("damaged in order %v", order)
	}
	wantErr(t, f.MarkPresent(t.Context(), w.Group, id, 0b1), nil)
	if r, _ := f.Blob(t.Context(), pg, id); r.Blob.Missing != 0b110 || r.Margin(w.Group.Scheme) != 0 {
		t.Errorf("record %+v", r)
	}
	// The slot moved since the repair read the group.
	if _, err := f.Remap(t.Context(), pg, 1, 1, storagenode.DriveID{77}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, f.MarkPresent(t.Context(), w.Group, id, 0b10), metadata.ErrStalePlacement)
	wantErr(t, f.MarkPresent(t.Context(), w.Group, id, 0b100), nil)
	// A repair that comes after the delete.
	if _, err := f.DeleteObject(t.Context(), b, "k", metadata.Condition{}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, f.MarkPresent(t.Context(), w.Group, id, 0b100), metadata.ErrNoSuchBlob)
	wantErr(t, f.MarkMissing(t.Context(), pg, id, 0b1), nil)
	if r, err := f.Blob(t.Context(), pg, id); r != nil || err != nil {
		t.Errorf("deleted blob has a record: %+v %v", r, err)
	}
	f.checkClean()
	o := f.owed()[id]
	if o.Pending != erasure.AllSlots(6) || o.Since.IsZero() {
		t.Errorf("owed %+v", o)
	}
	wantErr(t, f.Discharge(t.Context(), []metadata.Owed{o}, []erasure.SlotMask{0b11}), nil)
	if o = f.owed()[id]; o.Pending != 0b111100 {
		t.Errorf("owed %+v", o)
	}
	wantErr(t, f.Discharge(t.Context(), []metadata.Owed{o}, []erasure.SlotMask{o.Pending}), nil)
	if _, still := f.owed()[id]; still {
		t.Error("discharged delete is still owed")
	}
}

func TestBuckets(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	got, err := f.CreateBucket(t.Context(), metadata.Bucket{Name: "bucket", Owner: "other"})
	wantErr(t, err, metadata.ErrBucketExists)
	if got != b {
		t.Errorf("existing bucket %+v, want %+v", got, b)
	}
	f.put(b, "k", 10)
	wantErr(t, f.DeleteBucket(t.Context(), "bucket"), metadata.ErrBucketNotEmpty)
	f.put(b, "l", 10)
	for _, key := range []string{"k", "l"} {
		if ok, err := f.DeleteObject(t.Context(), b, key, metadata.Condition{}); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	up := metadata.Upload{ID: "u1", Key: "k"}
	wantErr(t, f.CreateUpload(t.Context(), b, up), nil)
	w := f.written(10)
	wantErr(t, f.PutPart(t.Context(), b, "k", "u1", metadata.Part{Number: 1, Size: 10}, []metadata.Written{w}), nil)
	wantErr(t, f.DeleteBucket(t.Context(), "bucket"), nil)
	wantErr(t, f.DeleteBucket(t.Context(), "bucket"), metadata.ErrNoSuchBucket)
	if _, ok := f.owed()[w.Blob.ID]; !ok {
		t.Error("the part of the deleted bucket is not owed a delete")
	}
	w = f.written(10)
	wantErr(t, f.PutObject(t.Context(), b, object("k", w), []metadata.Written{w}, metadata.Condition{}), metadata.ErrNoSuchBucket)
	wantErr(t, f.CreateUpload(t.Context(), b, up), metadata.ErrNoSuchBucket)

	// The name again is another bucket; writers of the old one are refused.
	b2 := f.bucket("bucket")
	if b2.ID == b.ID {
		t.Error("bucket id is used again")
	}
	w = f.written(10)
	wantErr(t, f.PutObject(t.Context(), b, object("k", w), []metadata.Written{w}, metadata.Condition{}), metadata.ErrNoSuchBucket)
	f.checkClean()
}

// TestBucketLeftDeleting: what a crash in the middle of a deletion left is
// ended by the next who comes.
func TestBucketLeftDeleting(t *testing.T) {
	f := newFixture(t, nil)
	leave := func(name string) {
		t.Helper()
		seen, r, err := f.Buckets.read(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		wantErr(t, f.swap(t.Context(), seen, r, bucketDeleting), nil)
	}
	b := f.bucket("full")
	f.put(b, "k", 10)
	leave("full")
	if _, err := f.Bucket(t.Context(), "full"); err != nil {
		t.Errorf("a bucket that is not yet deleted: %v", err)
	}
	f.put(b, "l", 10) // takes the deletion back
	leave("full")
	if _, err := f.CreateBucket(t.Context(), metadata.Bucket{Name: "full"}); !errors.Is(err, metadata.ErrBucketExists) {
		t.Errorf("create: %v", err)
	}
	f.put(b, "m", 10)

	b = f.bucket("empty")
	leave("empty")
	w := f.written(10)
	wantErr(t, f.PutObject(t.Context(), b, object("k", w), []metadata.Written{w}, metadata.Condition{}), metadata.ErrNoSuchBucket)
	b = f.bucket("empty")
	leave("empty")
	b2 := f.bucket("empty")
	if b2.ID == b.ID {
		t.Error("the deletion was not ended")
	}
	leave("empty")
	wantErr(t, f.DeleteBucket(t.Context(), "empty"), nil)
	f.checkClean()
}

// TestDeleteBucketRace: a writer that got its 200 finds its object, whatever
// deletions are tried meanwhile.
func TestDeleteBucketRace(t *testing.T) {
	f := newFixture(t, nil)
	_ = f.written(1)
	for range 20 {
		b := f.bucket("bucket")
		var wg sync.WaitGroup
		var stored [4]atomic.Bool
		for i := range stored {
			wg.Go(func() {
				w := f.written(10)
				err := f.PutObject(context.Background(), b, object(fmt.Sprint(i), w), []metadata.Written{w}, metadata.Condition{})
				stored[i].Store(err == nil)
				if err != nil && !errors.Is(err, metadata.ErrNoSuchBucket) {
					t.Error(err)
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				err := f.DeleteBucket(context.Background(), "bucket")
				if err != nil && !errors.Is(err, metadata.ErrBucketNotEmpty) && !errors.Is(err, metadata.ErrNoSuchBucket) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := range stored {
			_, err := f.Object(t.Context(), b.ID, fmt.Sprint(i))
			if (err == nil) != stored[i].Load() {
				t.Fatalf("object %d: stored %v, read %v", i, stored[i].Load(), err)
			}
			_, _ = f.DeleteObject(t.Context(), b, fmt.Sprint(i), metadata.Condition{})
		}
		f.checkClean()
		_ = f.DeleteBucket(t.Context(), "bucket")
	}
}

func TestListBuckets(t *testing.T) {
	f := newFixture(t, nil)
	for _, name := range []string{"a", "ab", "ac", "b"} {
		f.bucket(name)
	}
	names := func(prefix, after string, limit int) string {
		list, more, err := f.ListBuckets(t.Context(), prefix, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, b := range list {
			text += b.Name + " "
		}
		if more {
			text += "..."
		}
		return text
	}
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          string
	}{
		{"", "", 10, "a ab ac b "}, {"", "", 2, "a ab ..."}, {"", "ab", 10, "ac b "}, {"a", "ab", 10, "ac "},
		{"a", "", 3, "a ab ac "}, {"b", "a", 10, "b "}, {"", "b", 10, ""}, {"", "", 0, ""},
	} {
		if got := names(c.prefix, c.after, c.limit); got != c.want {
			t.Errorf("buckets(%q, %q, %d) = %q, want %q", c.prefix, c.after, c.limit, got, c.want)
		}
	}
}

func TestUnavailable(t *testing.T) {
	store := memory.New()
	f := newFixture(t, store)
	b := f.bucket("bucket")
	w := f.written(10)
	_ = store.Close()
	_, err := f.Object(t.Context(), b.ID, "k")
	wantErr(t, err, metadata.ErrUnavailable)
	wantErr(t, f.PutObject(t.Context(), b, object("k", w), []metadata.Written{w}, metadata.Condition{}), metadata.ErrUnavailable)
	_, err = f.ListObjects(t.Context(), b.ID, metadata.ListQuery{Limit: 1})
	wantErr(t, err, metadata.ErrUnavailable)
	wantErr(t, f.DeleteBucket(t.Context(), "bucket"), metadata.ErrUnavailable)
}

// afterScan calls a function once, after a scan of a family.
type afterScan struct {
	kv.Store
	family byte
	call   func()
}

func (s *afterScan) Scan(ctx context.Context, from, to []byte) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) {
		s.Store.Scan(ctx, from, to)(yield)
		if call := s.call; from[0] == s.family && call != nil {
			s.call = nil
			call()
		}
	}
}

// TestDeleteBucketOvertaken: between the search of a deletion and its end the
// bucket was taken back, written to, and set deleting again by another.
func TestDeleteBucketOvertaken(t *testing.T) {
	s := &afterScan{Store: memory.New(), family: famObject}
	f := newFixture(t, s)
	b := f.bucket("bucket")
	swap := func(state byte) {
		seen, r, err := f.Buckets.read(t.Context(), "bucket")
		wantErr(t, err, nil)
		wantErr(t, f.swap(t.Context(), seen, r, state), nil)
	}
	swap(bucketDeleting)
	s.call = func() {
		swap(bucketActive)
		f.put(b, "k", 10)
		swap(bucketDeleting)
	}
	wantErr(t, f.DeleteBucket(t.Context(), "bucket"), metadata.ErrBucketNotEmpty)
	if _, err := f.Object(t.Context(), b.ID, "k"); err != nil {
		t.Error(err)
	}
	if _, err := f.Bucket(t.Context(), "bucket"); err != nil {
		t.Error(err)
	}
	f.checkClean()
}
