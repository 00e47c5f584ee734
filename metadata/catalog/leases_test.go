package catalog

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
)

func TestNodes(t *testing.T) {
	f := newFixture(t, nil)
	want := []metadata.NodeRecord{
		{Name: "a", Zone: "z", Address: "http://a:1", Version: "1", Added: time.UnixMilli(5).UTC(), Changed: time.UnixMilli(6).UTC()},
		{Name: "b\x00c"},
	}
	for _, i := range []int{1, 0} {
		wantErr(t, f.PutNode(t.Context(), want[i]), nil)
	}
	got, err := f.ListNodes(t.Context())
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v %v", got, err)
	}
	want[0].Address = "http://a:2"
	wantErr(t, f.PutNode(t.Context(), want[0]), nil)
	if got, err = f.ListNodes(t.Context()); err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v %v", got, err)
	}
	for range 2 {
		wantErr(t, f.DeleteNode(t.Context(), "a"), nil)
	}
	if got, err = f.ListNodes(t.Context()); err != nil || !slices.Equal(got, want[1:]) {
		t.Errorf("%+v %v", got, err)
	}
}

func TestFound(t *testing.T) {
	f := newFixture(t, nil)
	none, err := f.Cluster(t.Context())
	if err != nil || !none.IsZero() {
		t.Fatalf("%s %v", none, err)
	}
	for i := range byte(3) { // the first wins
		id, err := f.Found(t.Context(), storagenode.UUID{i + 1})
		if err != nil || id != (storagenode.UUID{1}) {
			t.Fatalf("founded as %s, %v", id, err)
		}
	}
	if id, err := f.Cluster(t.Context()); err != nil || id != (storagenode.UUID{1}) {
		t.Fatalf("%s %v", id, err)
	}
}

func acquire(t *testing.T, c *Catalog, holder string) metadata.Lease {
	t.Helper()
	seen, err := c.Lease(t.Context(), "r")
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.Acquire(t.Context(), seen, holder, "http://"+holder)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLease(t *testing.T) {
	s := &scripted{Store: memory.New()}
	f := newFixture(t, s)
	ctx := t.Context()
	none, err := f.Lease(ctx, "r")
	if err != nil || none != (metadata.Lease{Role: "r"}) {
		t.Fatalf("%+v %v", none, err)
	}
	a, err := f.Acquire(ctx, none, "a", "http://a")
	if err != nil || a.Term != 1 || a.Holder != "a" {
		t.Fatalf("%+v %v", a, err)
	}
	// Another that saw the same is late.
	_, err = f.Acquire(ctx, none, "b", "")
	wantErr(t, err, metadata.ErrNotLeader)
	seen, err := f.Lease(ctx, "r")
	if err != nil || seen != a {
		t.Fatalf("%+v, want %+v, %v", seen, a, err)
	}
	// A renewal changes what others saw, and is found out where its outcome
	// is unknown.
	for _, outcome := range []func(kv.Txn) error{nil, applied, lost} {
		if outcome != nil {
			s.next = append(s.next, outcome)
		}
		was := a
		if a, err = f.Renew(ctx, a); err != nil || a.Term != 1 || a.Beat != was.Beat+1 {
			t.Fatalf("%+v %v", a, err)
		}
	}
	_, err = f.Acquire(ctx, seen, "b", "")
	wantErr(t, err, metadata.ErrNotLeader)
	b := acquire(t, f.Catalog, "b")
	if b.Term != 2 {
		t.Fatalf("%+v", b)
	}
	_, err = f.Renew(ctx, a)
	wantErr(t, err, metadata.ErrStaleTerm)
	// A former holder gives nothing back.
	wantErr(t, f.Release(ctx, a), nil)
	if now, err := f.Lease(ctx, "r"); err != nil || now != b {
		t.Fatalf("%+v %v", now, err)
	}
	// The end of a term is a term of its own.
	wantErr(t, f.Release(ctx, b), nil)
	now, err := f.Lease(ctx, "r")
	if err != nil || now.Term != 3 || now.Holder != "" {
		t.Fatalf("%+v %v", now, err)
	}
	for _, l := range []metadata.Lease{a, b, now} {
		under := metadata.UnderTerm(ctx, metadata.Term{Role: "r", Number: l.Term})
		wantErr(t, f.Prove(under), metadata.ErrStaleTerm)
	}
	// Roles are apart, and an acquisition of unknown outcome is found out.
	s.next = []func(kv.Txn) error{func(t kv.Txn) error { return t.Commit(ctx) }, applied}
	if l := acquire(t, f.Catalog, "c"); l.Term != 4 {
		t.Fatalf("%+v", l)
	}
	if l, err := f.Lease(ctx, "other"); err != nil || l.Term != 0 {
		t.Fatalf("%+v %v", l, err)
	}
}

// mutations are all that a repairer may do, each with something to do.
func mutations(f *fixture) map[string]func(context.Context) error {
	b := f.bucket("bucket")
	w := f.written(1 << 20)
	f.put(b, "owed", 1<<20)
	wantErr(f.t, f.PutObject(f.t.Context(), b, object("k", w), []metadata.Written{w}, metadata.Condition{}), nil)
	if _, err := f.DeleteObject(f.t.Context(), b, "owed", metadata.Condition{}); err != nil {
		f.t.Fatal(err)
	}
	wantErr(f.t, f.MarkMissing(f.t.Context(), w.Group.PG, w.Blob.ID, 1), nil)
	pg := w.Group.PG
	if _, err := f.Remap(f.t.Context(), pg, 1, 1, storagenode.DriveID{78}); err != nil {
		f.t.Fatal(err)
	}
	return map[string]func(context.Context) error{
		"MarkMissing": func(ctx context.Context) error { return f.MarkMissing(ctx, pg, w.Blob.ID, 2) },
		"MarkPresent": func(ctx context.Context) error { return f.MarkPresent(ctx, w.Group, w.Blob.ID, 1) },
		"Discharge": func(ctx context.Context) error {
			for o, err := range f.ScanOwed(ctx) {
				if err != nil {
					return err
				}
				return f.Discharge(ctx, []metadata.Owed{o}, []erasure.SlotMask{1})
			}
			return errors.New("nothing is owed")
		},
		"Remap": func(ctx context.Context) error {
			_, err := f.Remap(ctx, pg, 0, 1, storagenode.DriveID{77})
			return err
		},
		"MarkClean": func(ctx context.Context) error { return f.MarkClean(ctx, pg, 1, 2) },
		"Seal":      func(ctx context.Context) error { return f.Seal(ctx, pg) },
		"EditDrive": func(ctx context.Context) error {
			return f.EditDrive(ctx, storagenode.DriveID{1}, func(d *metadata.DriveRecord) bool { d.Node = "x"; return true })
		},
		"PutNode":    func(ctx context.Context) error { return f.PutNode(ctx, metadata.NodeRecord{Name: "n"}) },
		"DeleteNode": func(ctx context.Context) error { return f.DeleteNode(ctx, "n") },
		"DeleteDrives": func(ctx context.Context) error {
			return f.DeleteDrives(ctx, []storagenode.DriveID{{1}})
		},
		"RaiseHorizon": func(ctx context.Context) error { return f.RaiseHorizon(ctx, storagenode.BlobID{1}) },
		"Found": func(ctx context.Context) error {
			_, err := f.Found(ctx, storagenode.UUID{1})
			return err
		},
		"KeepSightings": func(ctx context.Context) error {
			return f.KeepSightings(ctx, pg, 1, []metadata.Sighting{{Blob: w.Blob.ID}}, nil)
		},
		"PutScrub": func(ctx context.Context) error { return f.PutScrub(ctx, storagenode.DriveID{1}, time.UnixMilli(5)) },
		"Prove":    func(ctx context.Context) error { return f.Prove(ctx) },
	}
}

// interrupted lets something happen once, right before a commit.
type interrupted struct {
	kv.Store
	before func()
}

type interruptedTxn struct {
	kv.Txn
	s *interrupted
}

func (s *interrupted) Begin(ctx context.Context) (kv.Txn, error) {
	t, err := s.Store.Begin(ctx)
	return &interruptedTxn{t, s}, err
}

func (t *interruptedTxn) Commit(ctx context.Context) error {
	if f := t.s.before; f != nil {
		t.s.before = nil
		f()
	}
	return t.Txn.Commit(ctx)
}

// TestTermIsAsserted: whatever a repairer changes under a term that has ended
// is refused, also where the term ends between the transaction's reads and its
// commit.
func TestTermIsAsserted(t *testing.T) {
	for name := range mutations(newFixture(t, nil)) {
		t.Run(name, func(t *testing.T) {
			for _, late := range []bool{false, true} {
				s := &interrupted{Store: memory.New()}
				f := newFixture(t, s)
				do := mutations(f)[name]
				other, err := Open(t.Context(), Config{KV: s.Store, Drives: f.drives, Scheme: erasure.Scheme{K: 4, M: 2}})
				if err != nil {
					t.Fatal(err)
				}
				l := acquire(t, f.Catalog, "a")
				ctx := metadata.UnderTerm(t.Context(), metadata.Term{Role: "r", Number: l.Term})
				if late && name != "Prove" {
					s.before = func() { acquire(t, other, "b") }
				} else {
					acquire(t, other, "b")
				}
				before := f.dump()
				if err := do(ctx); !errors.Is(err, metadata.ErrStaleTerm) {
					t.Errorf("late %v: %v", late, err)
				}
				if after := f.dump(); after != before {
					t.Errorf("late %v: something was written", late)
				}
			}
			// Under the newest term it is done.
			f := newFixture(t, nil)
			do := mutations(f)[name]
			acquire(t, f.Catalog, "a")
			l := acquire(t, f.Catalog, "b")
			wantErr(t, do(metadata.UnderTerm(t.Context(), metadata.Term{Role: "r", Number: l.Term})), nil)
		})
	}
}

// dump gives all rows but those of leases.
func (f *fixture) dump() string {
	f.t.Helper()
	var all []byte
	for p, err := range f.e.kv.Scan(context.Background(), nil, nil) {
		if err != nil {
			f.t.Fatal(err)
		}
		if p.Key[0] == famLease || p.Key[0] == famBeat {
			continue
		}
		all = append(append(append(append(all, p.Key...), '='), p.Value...), '\n')
	}
	return string(all)
}

func TestRounds(t *testing.T) {
	f := newFixture(t, nil)
	ctx := t.Context()
	at := time.UnixMilli(1_700_000_000_123).UTC()
	var many []metadata.Sighting
	for i := range 150 { // several transactions
		many = append(many, metadata.Sighting{Blob: f.ids.Next(), Waited: time.Duration(i) * time.Millisecond, Passes: i, Seen: at, Agreed: i%2 == 0})
	}
	wantErr(t, f.KeepSightings(ctx, 7, 2, many, nil), nil)
	wantErr(t, f.KeepSightings(ctx, 7, 3, many[:1], nil), nil)
	got, err := f.Sightings(ctx, 7, 2)
	if err != nil || !slices.Equal(got, many) {
		t.Fatalf("%d sightings, %v", len(got), err)
	}
	var forget []storagenode.BlobID
	for _, s := range many[10:] {
		forget = append(forget, s.Blob)
	}
	many[0].Passes = 99
	wantErr(t, f.KeepSightings(ctx, 7, 2, many[:1], forget), nil)
	if got, err = f.Sightings(ctx, 7, 2); err != nil || !slices.Equal(got, many[:10]) {
		t.Fatalf("%+v %v", got, err)
	}
	if got, err = f.Sightings(ctx, 7, 3); err != nil || len(got) != 1 {
		t.Fatalf("%+v %v", got, err)
	}
	wantErr(t, f.PutScrub(ctx, storagenode.DriveID{1}, at), nil)
	wantErr(t, f.PutScrub(ctx, storagenode.DriveID{2}, at.Add(time.Hour)), nil)
	wantErr(t, f.PutScrub(ctx, storagenode.DriveID{1}, at.Add(time.Minute)), nil)
	scrubs, err := f.Scrubs(ctx)
	if err != nil || len(scrubs) != 2 || !scrubs[storagenode.DriveID{1}].Equal(at.Add(time.Minute)) {
		t.Fatalf("%+v %v", scrubs, err)
	}
}
