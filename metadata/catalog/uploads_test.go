package catalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
)

// upload makes an upload with parts 1..n of the given size.
func (f *fixture) upload(b metadata.Bucket, key, id string, n int, size int64) []metadata.CompletedPart {
	f.t.Helper()
	if err := f.CreateUpload(f.t.Context(), b, metadata.Upload{ID: id, Key: key, Fields: []metadata.Field{{Name: "content-type", Value: "a/b"}}}); err != nil {
		f.t.Fatal(err)
	}
	var parts []metadata.CompletedPart
	for i := 1; i <= n; i++ {
		parts = append(parts, f.part(b, key, id, i, size))
	}
	return parts
}

func (f *fixture) part(b metadata.Bucket, key, id string, number int, size int64) metadata.CompletedPart {
	f.t.Helper()
	w := f.written(size)
	p := metadata.Part{Number: number, Size: size, ETag: fmt.Sprintf("%x", w.Blob.ID), Modified: time.Now(),
		Checksum: metadata.Checksum{Algorithm: "CRC32", Value: "yZRlqg=="}}
	if err := f.PutPart(f.t.Context(), b, key, id, p, []metadata.Written{w}); err != nil {
		f.t.Fatal(err)
	}
	return metadata.CompletedPart{Number: number, ETag: p.ETag}
}

func sealed(etag string) func([]metadata.Part) (string, metadata.Checksum, error) {
	return func([]metadata.Part) (string, metadata.Checksum, error) { return etag, metadata.Checksum{}, nil }
}

func TestComplete(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	f.put(b, "k", 10)
	parts := f.upload(b, "k", "u", 5, 100_000)
	again := f.part(b, "k", "u", 2, 70_000) // replaces a part
	complete := func(key, id string, c metadata.Completion) (*metadata.Object, error) {
		if c.Seal == nil {
			c.Seal = sealed("sum-3")
		}
		return f.CompleteUpload(t.Context(), b, key, id, c)
	}
	fail := func(want error, c metadata.Completion) {
		t.Helper()
		_, err := complete("k", "u", c)
		wantErr(t, err, want)
		if u, err := f.Uploads.read(t.Context(), b.ID, "k", "u"); err != nil || u.state != uploadOpen {
			t.Fatalf("refused upload is not open: %v %v", u, err)
		}
	}
	fail(metadata.ErrInvalidPart, metadata.Completion{})
	fail(metadata.ErrInvalidPart, metadata.Completion{Parts: parts}) // part 2 is another by now
	fail(metadata.ErrInvalidPart, metadata.Completion{Parts: []metadata.CompletedPart{{Number: 6, ETag: "x"}}})
	fail(metadata.ErrInvalidPart, metadata.Completion{Parts: []metadata.CompletedPart{{Number: 1, ETag: parts[0].ETag,
		Checksum: metadata.Checksum{Algorithm: "CRC32", Value: "AAAAAA=="}}}})
	fail(metadata.ErrInvalidPartOrder, metadata.Completion{Parts: []metadata.CompletedPart{parts[2], parts[0]}})
	fail(metadata.ErrInvalidPartOrder, metadata.Completion{Parts: []metadata.CompletedPart{parts[0], parts[0]}})
	named := []metadata.CompletedPart{parts[0], again, parts[4]}
	fail(metadata.ErrPartTooSmall, metadata.Completion{Parts: named, MinPart: 80_000})
	fail(metadata.ErrPreconditionFailed, metadata.Completion{Parts: named, Condition: metadata.Condition{IfNoneMatch: "*"}})
	seal := errors.New("sealing failed")
	fail(seal, metadata.Completion{Parts: named, Seal: func([]metadata.Part) (string, metadata.Checksum, error) { return "", metadata.Checksum{}, seal }})
	_, err := complete("other", "u", metadata.Completion{Parts: named})
	wantErr(t, err, metadata.ErrNoSuchUpload)
	f.checkClean()

	o, err := complete("k", "u", metadata.Completion{Parts: named, MinPart: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if o.Size != 270_000 || o.PartCount != 3 || o.ETag != "sum-3" || len(o.Fields) != 1 {
		t.Errorf("object %+v", o)
	}
	f.checkClean()
	if repeated, err := complete("k", "u", metadata.Completion{Parts: named}); err != nil || repeated.ETag != o.ETag {
		t.Errorf("repeated completion: %v %v", repeated, err)
	}
	wantErr(t, f.PutPart(t.Context(), b, "k", "u", metadata.Part{Number: 1}, nil), metadata.ErrNoSuchUpload)
	wantErr(t, f.AbortUpload(t.Context(), b, "k", "u"), metadata.ErrNoSuchUpload)
	// The replaced object, the replaced part and two parts that were not named.
	if n := len(f.owed()); n != 4 {
		t.Errorf("%d blobs are owed a delete", n)
	}
	list, err := f.Parts(t.Context(), o, 1, 10)
	if err != nil || len(list) != 2 || list[0].Number != 2 || list[0].Offset != 100_000 || list[1].Number != 5 || list[1].Offset != 170_000 {
		t.Errorf("parts %+v %v", list, err)
	}
	extents, err := f.Layout(t.Context(), o, 99_999, 70_002)
	if err != nil || len(extents) != 3 || extents[0].Length != 1 || extents[1].Length != 70_000 || extents[2].Length != 1 {
		t.Errorf("layout %+v %v", extents, err)
	}
	if r, err := f.Blob(t.Context(), extents[1].PG, extents[1].Blob.ID); err != nil || r.Upload != "u" || r.Part != 2 || r.Key != "k" {
		t.Errorf("record of a part's blob: %+v %v", r, err)
	}
	if _, err := f.DeleteObject(t.Context(), b, "k", metadata.Condition{}); err != nil {
		t.Fatal(err)
	}
	f.checkClean()
	if n := len(f.owed()); n != 7 {
		t.Errorf("%d blobs are owed a delete", n)
	}
	_, err = f.Layout(t.Context(), o, 0, 10)
	wantErr(t, err, metadata.ErrNoSuchKey)
	_, err = complete("k", "u", metadata.Completion{Parts: named})
	wantErr(t, err, metadata.ErrNoSuchUpload)
	f.checkClean()
}

// TestManyParts: 10,000 parts stay within the bounds of the engine, which
// refuses a transaction beyond them, and ranges read only what they need.
func TestManyParts(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	const n, size = 10_000, 70_000
	parts := f.upload(b, "k", "u", n, size)
	o, err := f.CompleteUpload(t.Context(), b, "k", "u", metadata.Completion{Parts: parts, Seal: sealed("sum-10000")})
	if err != nil {
		t.Fatal(err)
	}
	if o.Size != n*size {
		t.Errorf("size %d", o.Size)
	}
	for _, at := range []int64{0, 1, size*256 - 1, size * 256, size*5000 + 7, n*size - 1} {
		x, err := f.Layout(t.Context(), o, at, 1)
		if err != nil || len(x) != 1 || x[0].Offset != at%size || x[0].Length != 1 {
			t.Errorf("layout at %d: %+v %v", at, x, err)
		}
	}
	if x, err := f.Layout(t.Context(), o, 0, o.Size); err != nil || len(x) != n {
		t.Errorf("whole layout: %d extents, %v", len(x), err)
	}
	list, err := f.Parts(t.Context(), o, 9990, 1000)
	if err != nil || len(list) != 10 || list[9].Number != n || list[9].Offset != (n-1)*size {
		t.Errorf("last parts: %d %v", len(list), err)
	}
	f.checkClean()
	for f.rows(famPart) > 0 {
		_ = f.owed()
	}
	f.checkClean()
	if _, err := f.DeleteObject(t.Context(), b, "k", metadata.Condition{}); err != nil {
		t.Fatal(err)
	}
	for i := 0; len(f.owed()) < n; i++ {
		if i > 10 {
			t.Fatal("the layout is not moved")
		}
		f.checkClean()
	}
	f.checkClean()
	if f.rows(famBlob) != 0 || f.rows(famChunk) != 0 {
		t.Error("rows of the deleted object are left")
	}
}

// TestManyBlobsPerPart: pieces of part lists keep to their size.
func TestManyBlobsPerPart(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	wantErr(t, f.CreateUpload(t.Context(), b, metadata.Upload{ID: "u", Key: "k"}), nil)
	var named []metadata.CompletedPart
	for i := 1; i <= 300; i++ {
		var blobs []metadata.Written
		for range maxBlobs {
			blobs = append(blobs, f.written(1<<30))
		}
		p := metadata.Part{Number: i, Size: maxBlobs << 30, ETag: "e"}
		wantErr(t, f.PutPart(t.Context(), b, "k", "u", p, blobs), nil)
		named = append(named, metadata.CompletedPart{Number: i, ETag: "e"})
	}
	o, err := f.CompleteUpload(t.Context(), b, "k", "u", metadata.Completion{Parts: named, Seal: sealed("s")})
	if err != nil || o.Size != 300*maxBlobs<<30 {
		t.Fatal(o, err)
	}
	chunks := 0
	for p, err := range f.e.kv.Scan(t.Context(), []byte{famChunk}, []byte{famChunk + 1}) {
		chunks++
		if err != nil || len(p.Value) > 64<<10 {
			t.Errorf("piece of %d bytes: %v", len(p.Value), err)
		}
	}
	if chunks < 2 {
		t.Errorf("%d pieces", chunks)
	}
	wantErr(t, f.PutPart(t.Context(), b, "k", "u", metadata.Part{Number: 1}, make([]metadata.Written, maxBlobs+1)), errTooManyBlobs)
	f.checkClean()
}

func TestAbort(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	f.upload(b, "k", "u", 500, 10)
	wantErr(t, f.AbortUpload(t.Context(), b, "other", "u"), metadata.ErrNoSuchUpload)
	wantErr(t, f.AbortUpload(t.Context(), b, "k", "u"), nil)
	wantErr(t, f.AbortUpload(t.Context(), b, "k", "u"), metadata.ErrNoSuchUpload)
	_, _, err := f.ListParts(t.Context(), b.ID, "k", "u", 0, 1)
	wantErr(t, err, metadata.ErrNoSuchUpload)
	f.checkClean()
	if n := len(f.owed()); n != 500 {
		t.Errorf("%d blobs are owed a delete", n)
	}
	f.checkClean()
}

func TestListParts(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	f.upload(b, "k", "u", 5, 10)
	list, more, err := f.ListParts(t.Context(), b.ID, "k", "u", 1, 3)
	if err != nil || !more || len(list) != 3 || list[0].Number != 2 || list[2].Number != 4 {
		t.Errorf("%+v %v %v", list, more, err)
	}
	list, more, err = f.ListParts(t.Context(), b.ID, "k", "u", 4, 1)
	if err != nil || more || len(list) != 1 || list[0].Checksum.Value != "yZRlqg==" {
		t.Errorf("%+v %v %v", list, more, err)
	}
}

// TestCompleteUnknown: a completion whose last commit has an unknown outcome
// finds out.
func TestCompleteUnknown(t *testing.T) {
	s := &scripted{Store: memory.New()}
	f := newFixture(t, s)
	b := f.bucket("bucket")
	ok := func(t kv.Txn) error { return t.Commit(context.Background()) }
	for name, last := range map[string]func(kv.Txn) error{"applied": applied, "lost": lost} {
		parts := f.upload(b, name, name, 2, 10)
		s.next = []func(kv.Txn) error{ok, ok, last} // begin, part list, object
		o, err := f.CompleteUpload(t.Context(), b, name, name, metadata.Completion{Parts: parts, Seal: sealed("s"),
			Condition: metadata.Condition{IfNoneMatch: "*"}})
		if err != nil || o.Size != 20 {
			t.Errorf("%s: %v %v", name, o, err)
		}
	}
	f.checkClean()
}

// TestCompleteFenced: an attempt that was overtaken changes nothing any more.
func TestCompleteFenced(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	parts := f.upload(b, "k", "u", 3, 10)
	run := func(named []metadata.CompletedPart) *completion {
		return &completion{s: f.Uploads, bucket: &b, key: "k", id: "u", want: &metadata.Completion{Parts: named, Seal: sealed("s")}}
	}
	first, second := run(parts[:2]), run(parts)
	wantErr(t, first.begin(t.Context()), nil)
	o1, m1, lists1, err := first.prepare(t.Context())
	wantErr(t, err, nil)
	wantErr(t, second.begin(t.Context()), nil)
	_, _, lists2, err := second.prepare(t.Context())
	wantErr(t, err, nil)
	wantErr(t, second.writeLists(t.Context(), lists2), nil)
	wantErr(t, first.writeLists(t.Context(), lists1), errFenced)
	wantErr(t, first.finish(t.Context(), o1, m1), errFenced)
	// A crash here: the next attempt resumes.
	o, err := f.CompleteUpload(t.Context(), b, "k", "u", metadata.Completion{Parts: parts, Seal: sealed("s")})
	if err != nil || o.Size != 30 {
		t.Fatal(o, err)
	}
	f.checkClean()
}

// TestCompleteTwice: the same completion several times at once makes one
// object, and all get it.
func TestCompleteTwice(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	parts := f.upload(b, "k", "u", 20, 10)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			o, err := f.CompleteUpload(context.Background(), b, "k", "u", metadata.Completion{Parts: slices.Clone(parts), Seal: sealed("s")})
			if err != nil || o.Size != 200 {
				t.Error(o, err)
			}
		})
	}
	wg.Wait()
	f.checkClean()
	if n := len(f.owed()); n != 0 {
		t.Errorf("%d blobs are owed a delete", n)
	}
}

// TestOverwrittenBeforeCleared: an object of many parts that is deleted before
// the rows of its parts were cleared; the list that says which parts it had is
// needed for that.
func TestOverwrittenBeforeCleared(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	parts := f.upload(b, "k", "u", 400, 10)
	if _, err := f.CompleteUpload(t.Context(), b, "k", "u", metadata.Completion{Parts: parts[:399], Seal: sealed("s")}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.DeleteObject(t.Context(), b, "k", metadata.Condition{}); err != nil {
		t.Fatal(err)
	}
	before := f.rows(famBlob)
	if _, err := f.Catalog.Blobs.expandList(t.Context(), "u", 100); err != nil {
		t.Fatal(err)
	}
	if now := f.rows(famBlob); now != before {
		t.Errorf("%d blobs were moved before the parts were cleared", before-now)
	}
	f.checkClean()
	if n := len(f.owed()); n != 400 {
		t.Errorf("%d blobs are owed a delete", n)
	}
	f.checkClean()
	if n := f.rows(famPart) + f.rows(famChunk) + f.rows(famBlob); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// TestUnreadableList: a part list that cannot be read holds up nothing else.
func TestUnreadableList(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	for _, id := range []string{"u", "v"} {
		parts := f.upload(b, id, id, 3, 10)
		if _, err := f.CompleteUpload(t.Context(), b, id, id, metadata.Completion{Parts: parts, Seal: sealed("s")}); err != nil {
			t.Fatal(err)
		}
	}
	err := f.e.update(t.Context(), "damage", func(t *txn) error {
		t.Put(t.chunkKey("u", 0), []byte{99})
		return nil
	})
	wantErr(t, err, nil)
	found, err := f.Check(t.Context())
	if err != nil || len(found) == 0 {
		t.Errorf("the damage is not found: %v", err)
	}
	for _, key := range []string{"u", "v"} {
		if _, err := f.DeleteObject(t.Context(), b, key, metadata.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(f.owed()); n != 3 {
		t.Errorf("%d blobs are owed a delete, want those of the list that can be read", n)
	}
}

// overtaken calls before at the Begin of that number, from 0 on.
type overtaken struct {
	kv.Store
	left   int
	before func()
}

func (s *overtaken) Begin(ctx context.Context) (kv.Txn, error) {
	if s.left--; s.left == -1 {
		s.before()
	}
	return s.Store.Begin(ctx)
}

// TestCompleteOvertaken: a completion that another gateway was asked for too, since
// its client asked again, and which that one ends at any step, answers with the
// object, too: the upload is not gone, it was completed.
func TestCompleteOvertaken(t *testing.T) {
	store := memory.New()
	f := newFixture(t, store)
	b := f.bucket("bucket")
	for step := range 3 { // begin, part list, object
		key := fmt.Sprint("k", step)
		parts := f.upload(b, key, key, 3, 10)
		complete := func(c *Catalog) (*metadata.Object, error) {
			return c.CompleteUpload(t.Context(), b, key, key, metadata.Completion{Parts: parts, Seal: sealed("s")})
		}
		s := &overtaken{Store: store, left: step}
		s.before = func() {
			if _, err := complete(f.Catalog); err != nil {
				t.Fatal(err)
			}
		}
		o, err := complete(f.another(s))
		if err != nil || o.Size != 30 {
			t.Errorf("overtaken at step %d: %v %v", step, o, err)
		}
		if s.left >= 0 {
			t.Fatalf("step %d was not reached", step)
		}
	}
	f.checkClean()
}

// TestAbortOfUnknownOutcome: an abort that lost to a completion does not say that
// it took place.
func TestAbortOfUnknownOutcome(t *testing.T) {
	s := &scripted{Store: memory.New()}
	f := newFixture(t, s)
	b := f.bucket("bucket")
	other := f.another(s.Store)
	for id, c := range map[string]struct {
		outcome func(kv.Txn) error
		parts   int // that the completion which comes first finds; 0: none comes
		cleared bool
		want    error
	}{
		"took place":                 {outcome: applied},
		"did not, and is repeated":   {outcome: lost},
		"completed":                  {outcome: lost, parts: 1, want: metadata.ErrNoSuchUpload},
		"completed, not yet cleared": {outcome: lost, parts: 400, want: metadata.ErrNoSuchUpload},
		"took place and was cleared": {outcome: applied, cleared: true, want: metadata.ErrNoSuchUpload},
	} {
		t.Run(id, func(t *testing.T) {
			parts := f.upload(b, id, id, max(c.parts, 1), 70_000)
			s.next = []func(kv.Txn) error{func(txn kv.Txn) error {
				if c.parts > 0 {
					if _, err := other.CompleteUpload(t.Context(), b, id, id, metadata.Completion{Parts: parts, Seal: sealed("s")}); err != nil {
						t.Error(err)
					}
				}
				err := c.outcome(txn)
				if c.cleared {
					if _, err := other.Blobs.clearParts(t.Context(), id, 10); err != nil {
						t.Error(err)
					}
				}
				return err
			}}
			wantErr(t, f.AbortUpload(t.Context(), b, id, id), c.want)
			_, err := f.Object(t.Context(), b.ID, id)
			wantErr(t, err, map[bool]error{false: metadata.ErrNoSuchKey}[c.parts > 0])
			_, err = f.Upload(t.Context(), b.ID, id, id)
			wantErr(t, err, metadata.ErrNoSuchUpload)
			f.checkClean()
		})
	}
}

// overtakenScan calls before ahead of the next scan.
type overtakenScan struct {
	kv.Store
	before func()
}

func (s *overtakenScan) Scan(ctx context.Context, from, to []byte) iter.Seq2[kv.Pair, error] {
	if f := s.before; f != nil {
		s.before = nil
		f()
	}
	return s.Store.Scan(ctx, from, to)
}

// TestPartsAreClearedUnderAReader: who reads the parts of an upload that ends at that
// moment does not take those that are left for all.
func TestPartsAreClearedUnderAReader(t *testing.T) {
	store := memory.New()
	f := newFixture(t, store)
	b := f.bucket("bucket")
	scan := &overtakenScan{Store: store}
	other := f.another(scan)
	parts := f.upload(b, "k", "u", 3, 10)
	done := metadata.Completion{Parts: parts, Seal: sealed("s")}
	complete := func(id string, done metadata.Completion) func() {
		return func() {
			if _, err := f.CompleteUpload(t.Context(), b, "k", id, done); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The same completion at two gateways.
	scan.before = complete("u", done)
	if o, err := other.CompleteUpload(t.Context(), b, "k", "u", done); err != nil || o.Size != 30 {
		t.Errorf("overtaken by the same: %v %v", o, err)
	}
	// A list of the parts.
	parts = f.upload(b, "k", "v", 3, 10)
	scan.before = complete("v", metadata.Completion{Parts: parts, Seal: sealed("s")})
	list, _, err := other.ListParts(t.Context(), b.ID, "k", "v", 0, 10)
	if !errors.Is(err, metadata.ErrNoSuchUpload) {
		t.Errorf("%d parts are listed of an upload that ended: %v", len(list), err)
	}
	// An abort.
	parts = f.upload(b, "k", "w", 3, 10)
	scan.before = func() { wantErr(t, f.AbortUpload(t.Context(), b, "k", "w"), nil) }
	_, err = other.CompleteUpload(t.Context(), b, "k", "w", metadata.Completion{Parts: parts, Seal: sealed("s")})
	wantErr(t, err, metadata.ErrNoSuchUpload)
	// Another completion, which does not end it.
	f.upload(b, "k", "x", 3, 10)
	scan.before = func() {
		wantErr(t, (&completion{s: f.Uploads, bucket: &b, key: "k", id: "x"}).begin(t.Context()), nil)
	}
	_, err = other.CompleteUpload(t.Context(), b, "k", "x", metadata.Completion{Parts: []metadata.CompletedPart{{Number: 1, ETag: "wrong"}}, Seal: sealed("s")})
	wantErr(t, err, errFenced)
	f.checkClean()
}

// TestPartWhileCompleting: a part that comes while its upload is being completed
// waits for that. It is refused where the upload ended so, and stored where the
// completion was refused or died.
func TestPartWhileCompleting(t *testing.T) { synctest.Test(t, testPartWhileCompleting) }

func testPartWhileCompleting(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	for id, refusal := range map[string]error{"refused": errors.New("no"), "completed": nil} {
		parts := f.upload(b, id, id, 2, 10)
		w, ended, stored := f.written(10), false, make(chan error, 1)
		_, err := f.CompleteUpload(t.Context(), b, id, id, metadata.Completion{Parts: parts, Seal: func([]metadata.Part) (string, metadata.Checksum, error) {
			go func() {
				stored <- f.PutPart(t.Context(), b, id, id, metadata.Part{Number: 1, Size: 10, ETag: "new"}, []metadata.Written{w})
			}()
			synctest.Wait()
			ended = len(stored) > 0
			return "s", metadata.Checksum{}, refusal
		}})
		wantErr(t, err, refusal)
		if ended {
			t.Errorf("%s: the part did not wait: %v", id, <-stored)
			continue
		}
		if want := map[bool]error{false: nil, true: metadata.ErrNoSuchUpload}[refusal == nil]; !errors.Is(<-stored, want) {
			t.Errorf("%s: the part that waited: want %v", id, want)
		}
	}
	// A completion that died, or is under way at another gateway: it changes nothing
	// any more once a part was stored.
	parts := f.upload(b, "k", "u", 2, 10)
	dead := &completion{s: f.Uploads, bucket: &b, key: "k", id: "u", want: &metadata.Completion{Parts: parts, Seal: sealed("s")}}
	wantErr(t, dead.begin(t.Context()), nil)
	o, m, lists, err := dead.prepare(t.Context())
	wantErr(t, err, nil)
	now := []metadata.CompletedPart{f.part(b, "k", "u", 1, 20), parts[1]}
	wantErr(t, dead.writeLists(t.Context(), lists), errFenced)
	wantErr(t, dead.finish(t.Context(), o, m), errFenced)
	wantErr(t, dead.reopen(t.Context()), errFenced)
	if o, err = f.CompleteUpload(t.Context(), b, "k", "u", metadata.Completion{Parts: now, Seal: sealed("s")}); err != nil || o.Size != 30 {
		t.Fatal(o, err)
	}
	f.checkClean()
}
