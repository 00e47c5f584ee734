package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// model is what the namespace must look like.
type model struct {
	*fixture
	all     []*Catalog // of several processes; any step may use any
	rng     *rand.Rand
	chaos   *chaos
	bucket  metadata.Bucket
	objects map[string]string // key to etag
	uploads map[string]*modelUpload
	serial  int
}

type modelUpload struct {
	key   string
	parts map[int]string // number to etag
}

// TestModelOfManyGateways runs the same with every call going to any of three
// catalogs on one engine, as to gateways behind one address: what one wrote,
// listed or deleted must show in what the others answer from then on.
func TestModelOfManyGateways(t *testing.T) {
	for _, seed := range seeds(t, 60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			runModelOn(t, newChaos(seed, 0), seed, 3)
		})
	}
}

// TestModel runs random mutations against a map, over an engine whose commits
// go wrong at random, and checks after each that what is stored agrees with
// the map and with itself.
func TestModel(t *testing.T) {
	for _, seed := range seeds(t, 60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			runModel(t, newChaos(seed, 0), seed)
		})
	}
}

func runModel(t *testing.T, c *chaos, seed uint64) { runModelOn(t, c, seed, 1) }

// any gives the next call to one of the catalogs.
func (m *model) any() {
	if len(m.all) > 1 {
		m.Catalog = m.all[m.rng.IntN(len(m.all))]
	}
}

func runModelOn(t *testing.T, c *chaos, seed uint64, catalogs int) {
	m := &model{fixture: newFixture(t, c), rng: rand.New(rand.NewPCG(seed, 1)), chaos: c,
		objects: map[string]string{}, uploads: map[string]*modelUpload{}}
	m.all = []*Catalog{m.Catalog}
	for len(m.all) < catalogs {
		m.all = append(m.all, m.another(c))
	}
	m.bucket = m.fixture.bucket("bucket")
	_ = m.written(1)
	c.calm(m.rng.IntN(60))
	for range 80 {
		m.step()
		m.verify()
	}
	c.calm(0)
	m.drain()
}

func (m *model) step() {
	m.any()
	switch n := m.rng.IntN(100); {
	case n < 30:
		m.putObject()
	case n < 40:
		m.deleteObject()
	case n < 48:
		m.createUpload()
	case n < 70:
		m.putPart()
	case n < 80:
		m.complete()
	case n < 84:
		m.abort()
	case n < 90:
		m.damage()
	case n < 94:
		m.remap()
	default:
		m.discharge()
	}
}

func (m *model) key() string {
	return []string{"a", "a/b", "a/\x00/c", "b/ü", "c"}[m.rng.IntN(5)]
}

func (m *model) etag() string {
	m.serial++
	return fmt.Sprintf("%032x", m.serial)
}

// outcome settles an ambiguous answer by what can be read once nothing is
// under way: it must be the old or the new.
func (m *model) outcome(err error, key, old, new string) {
	m.t.Helper()
	switch {
	case err == nil:
		m.set(key, new)
		return
	case !errors.Is(err, metadata.ErrUnavailable) && !errors.Is(err, metadata.ErrConditionalConflict):
		m.t.Fatalf("key %q: %v", key, err)
	}
	was := m.chaos.calm(0)
	now := m.read(key)
	if now != old && now != new {
		m.t.Fatalf("key %q is %q after an unknown outcome, was %q, wrote %q", key, now, old, new)
	}
	if errors.Is(err, metadata.ErrConditionalConflict) && now != old {
		m.t.Fatalf("key %q was written by a lost race", key)
	}
	m.set(key, now)
	m.chaos.calm(was)
}

func (m *model) set(key, etag string) {
	if delete(m.objects, key); etag != "" {
		m.objects[key] = etag
	}
}

func (m *model) read(key string) string {
	m.t.Helper()
	m.any()
	o, err := m.Object(context.Background(), m.bucket.ID, key)
	if errors.Is(err, metadata.ErrNoSuchKey) {
		return ""
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return o.ETag
}

func (m *model) blobs() (blobs []metadata.Written, size int64) {
	for range 1 + m.rng.IntN(3) {
		m.any()
		w := m.written(int64(m.rng.IntN(200_000)))
		if m.rng.IntN(4) == 0 {
			w.Blob.Missing = erasure.SlotMask(1)
		}
		size += w.Blob.Size
		blobs = append(blobs, w)
	}
	return blobs, size
}

func (m *model) putObject() {
	key, etag := m.key(), m.etag()
	blobs, size := m.blobs()
	o := &metadata.Object{Key: key, Size: size, ETag: etag, Modified: time.Now(), Fields: []metadata.Field{{Name: "x-amz-meta-a", Value: "b"}}}
	var c metadata.Condition
	old := m.objects[key]
	switch m.rng.IntN(4) {
	case 0:
		c.IfNoneMatch = "*"
	case 1:
		c.IfMatch = old
	}
	err := m.PutObject(context.Background(), m.bucket, o, blobs, c)
	m.abandon(err, blobs)
	if c.IfNoneMatch == "*" && old != "" {
		if !errors.Is(err, metadata.ErrPreconditionFailed) {
			m.t.Fatalf("put of %q, which exists, if-none-match *: %v", key, err)
		}
		return
	}
	if m.moved(err, blobs) {
		etag, err = old, nil // nothing of it may be visible
	}
	// A conditional write must never be refused because of its own success.
	m.outcome(err, key, old, etag)
}

// abandon is what a gateway does after an error, whatever it is.
func (m *model) abandon(err error, blobs []metadata.Written) {
	if err == nil {
		return
	}
	if err := m.all[m.rng.IntN(len(m.all))].Abandon(context.Background(), blobs); err != nil {
		wantErr(m.t, err, metadata.ErrUnavailable)
	}
}

// moved says that a write was refused because another gateway's repairer had
// moved slots under it, and checks that the one which refused knows better now.
func (m *model) moved(err error, blobs []metadata.Written) bool {
	m.t.Helper()
	if len(m.all) == 1 || !errors.Is(err, metadata.ErrStalePlacement) {
		return false
	}
	refused, other := m.Catalog, m.all[0]
	if refused == other {
		other = m.all[1]
	}
	if _, err := refused.OpenGroup(context.Background(), stickBytes); err != nil {
		m.t.Fatal(err)
	}
	for _, w := range blobs {
		now, err := other.Group(context.Background(), w.Group.PG)
		if err != nil {
			m.t.Fatal(err)
		}
		if slices.Equal(now.Slots, w.Group.Slots) {
			continue
		}
		for _, g := range refused.open.Load().groups {
			if g.PG == now.PG && !slices.Equal(g.Slots, now.Slots) {
				m.t.Fatalf("group %d is still written to as it was", g.PG)
			}
		}
		return true
	}
	m.t.Fatalf("no slot moved, yet %v", err)
	return true
}

func (m *model) deleteObject() {
	key := m.key()
	found, err := m.DeleteObject(context.Background(), m.bucket, key, metadata.Condition{})
	if err == nil && found != (m.objects[key] != "") {
		m.t.Fatalf("delete of %q says %v", key, found)
	}
	m.outcome(err, key, m.objects[key], "")
}

func (m *model) createUpload() {
	u := metadata.Upload{ID: m.ids.Next().String(), Key: m.key(), Initiated: time.Now()}
	err := m.CreateUpload(context.Background(), m.bucket, u)
	if err != nil {
		wantErr(m.t, err, metadata.ErrUnavailable)
		was := m.chaos.calm(0)
		_, err = m.Upload(context.Background(), m.bucket.ID, u.Key, u.ID)
		m.chaos.calm(was)
		if err != nil {
			return
		}
	}
	m.uploads[u.ID] = &modelUpload{key: u.Key, parts: map[int]string{}}
}

func (m *model) anyUpload() (string, *modelUpload) {
	ids := slices.Sorted(maps.Keys(m.uploads))
	if len(ids) == 0 {
		return "", nil
	}
	id := ids[m.rng.IntN(len(ids))]
	return id, m.uploads[id]
}

func (m *model) putPart() {
	id, u := m.anyUpload()
	if u == nil {
		return
	}
	blobs, size := m.blobs()
	p := metadata.Part{Number: 1 + m.rng.IntN(6), Size: size, ETag: m.etag(), Modified: time.Now()}
	err := m.PutPart(context.Background(), m.bucket, u.key, id, p, blobs)
	m.abandon(err, blobs)
	if m.moved(err, blobs) {
		return
	}
	if err != nil {
		wantErr(m.t, err, metadata.ErrUnavailable)
		was := m.chaos.calm(0)
		parts, _, err := m.ListParts(context.Background(), m.bucket.ID, u.key, id, p.Number-1, 1)
		if err != nil {
			m.t.Fatal(err)
		}
		m.chaos.calm(was)
		if len(parts) == 0 || parts[0].ETag != p.ETag {
			return
		}
	}
	u.parts[p.Number] = p.ETag
}

func (m *model) complete() {
	id, u := m.anyUpload()
	if u == nil || len(u.parts) == 0 {
		return
	}
	c := metadata.Completion{Modified: time.Now()}
	for _, n := range slices.Sorted(maps.Keys(u.parts)) {
		if m.rng.IntN(4) > 0 {
			c.Parts = append(c.Parts, metadata.CompletedPart{Number: n, ETag: u.parts[n]})
		}
	}
	etag := m.etag() + "-" + fmt.Sprint(max(1, len(c.Parts)))
	c.Seal = func([]metadata.Part) (string, metadata.Checksum, error) { return etag, metadata.Checksum{}, nil }
	refused := ""
	switch m.rng.IntN(5) {
	case 0:
		refused = "sealing"
		c.Seal = func([]metadata.Part) (string, metadata.Checksum, error) { return "", metadata.Checksum{}, errRecord }
	case 1:
		c.Condition.IfNoneMatch = "*"
		if m.objects[u.key] != "" {
			refused = "condition"
		}
	}
	o, err := m.CompleteUpload(context.Background(), m.bucket, u.key, id, c)
	if refused != "" || len(c.Parts) == 0 {
		if err == nil {
			m.t.Fatalf("completion was not refused: %s", refused)
		}
		return
	}
	if errors.Is(err, metadata.ErrConditionalConflict) {
		return
	}
	m.outcome(err, u.key, m.objects[u.key], etag)
	if m.objects[u.key] != etag {
		return
	}
	delete(m.uploads, id)
	if err == nil && (o.ETag != etag || o.PartCount != len(c.Parts)) {
		m.t.Fatalf("completed object %+v", o)
	}
	// A repeated completion finds its object.
	m.any()
	again, err := m.CompleteUpload(context.Background(), m.bucket, u.key, id, c)
	if err != nil || again.ETag != etag {
		m.t.Fatalf("repeated completion: %v %v", again, err)
	}
}

func (m *model) abort() {
	id, u := m.anyUpload()
	if u == nil {
		return
	}
	err := m.AbortUpload(context.Background(), m.bucket, u.key, id)
	if err != nil {
		wantErr(m.t, err, metadata.ErrUnavailable)
		was := m.chaos.calm(0)
		_, err := m.Upload(context.Background(), m.bucket.ID, u.key, id)
		m.chaos.calm(was)
		if err == nil {
			return
		}
	}
	delete(m.uploads, id)
}

func (m *model) damage() {
	groups, err := m.ListGroups(context.Background())
	if err != nil {
		m.t.Fatal(err)
	}
	g := groups[m.rng.IntN(len(groups))]
	for r, err := range m.ScanBlobs(context.Background(), g.PG, storagenode.BlobID{}) {
		if err != nil {
			m.t.Fatal(err)
		}
		slots := erasure.SlotMask(m.rng.IntN(8))
		if m.rng.IntN(2) == 0 {
			err = m.MarkMissing(context.Background(), g.PG, r.Blob.ID, slots)
		} else {
			err = m.MarkPresent(context.Background(), g.Group, r.Blob.ID, slots)
		}
		// A transaction that was under way may have come to delete it by now.
		if err != nil && !errors.Is(err, metadata.ErrNoSuchBlob) {
			wantErr(m.t, err, metadata.ErrUnavailable)
		}
	}
}

func (m *model) remap() {
	groups, err := m.ListGroups(context.Background())
	if err != nil {
		m.t.Fatal(err)
	}
	g := groups[m.rng.IntN(len(groups))]
	slot := m.rng.IntN(len(g.Slots))
	// The drive itself again: with six drives there is no other.
	now, err := m.Remap(context.Background(), g.PG, slot, g.Slots[slot].Epoch, g.Slots[slot].Drive)
	if err == nil {
		err = m.MarkClean(context.Background(), g.PG, slot, now.Slots[slot].Epoch)
	}
	if err != nil {
		wantErr(m.t, err, metadata.ErrUnavailable)
	}
}

func (m *model) discharge() {
	for o, err := range m.ScanOwed(context.Background()) {
		if err != nil {
			wantErr(m.t, err, metadata.ErrUnavailable)
			return
		}
		if err := m.Discharge(context.Background(), []metadata.Owed{o}, []erasure.SlotMask{erasure.SlotMask(m.rng.IntN(64))}); err != nil {
			wantErr(m.t, err, metadata.ErrUnavailable)
		}
	}
}

// verify compares everything with the map.
func (m *model) verify() {
	m.t.Helper()
	m.checkClean()
	m.any()
	page, err := m.ListObjects(context.Background(), m.bucket.ID, metadata.ListQuery{Limit: 1000})
	if err != nil {
		m.t.Fatal(err)
	}
	got := map[string]string{}
	for i := range page.Objects {
		got[page.Objects[i].Key] = page.Objects[i].ETag
	}
	if !maps.Equal(got, m.objects) {
		m.t.Fatalf("listed %v, want %v", got, m.objects)
	}
	for key := range m.objects {
		m.any()
		o, err := m.Object(context.Background(), m.bucket.ID, key)
		if err != nil {
			m.t.Fatal(err)
		}
		extents, err := m.Layout(context.Background(), o, 0, o.Size)
		if err != nil {
			m.t.Fatal(err)
		}
		for _, x := range extents {
			if r, err := m.Blob(context.Background(), x.PG, x.Blob.ID); r == nil || err != nil {
				m.t.Fatalf("blob of %q is not known: %v", key, err)
			}
		}
	}
	open := map[string]bool{}
	uploads, err := m.ListUploads(context.Background(), m.bucket.ID, metadata.UploadQuery{Limit: 1000})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, u := range uploads.Uploads {
		open[u.ID] = true
		if m.uploads[u.ID] == nil || m.uploads[u.ID].key != u.Key {
			m.t.Fatalf("upload %s of %q is listed", u.ID, u.Key)
		}
	}
	if len(open) != len(m.uploads) {
		m.t.Fatalf("%d uploads listed, want %d", len(open), len(m.uploads))
	}
}

// drain ends everything; nothing may be left then.
func (m *model) drain() {
	m.t.Helper()
	ctx := context.Background()
	for key := range m.objects {
		if _, err := m.DeleteObject(ctx, m.bucket, key, metadata.Condition{}); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := m.DeleteBucket(ctx, m.bucket.Name); err != nil {
		m.t.Fatal(err)
	}
	for range 3 {
		m.any()
		for o, err := range m.ScanOwed(ctx) {
			if err != nil {
				m.t.Fatal(err)
			}
			if err := m.Discharge(ctx, []metadata.Owed{o}, []erasure.SlotMask{o.Pending}); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	m.checkClean()
	for _, family := range []byte{famBucket, famObject, famUpload, famPart, famChunk, famBlob, famDamage, famOwed} {
		if n := m.rows(family); n != 0 {
			m.t.Errorf("%d rows of family %c are left", n, family)
		}
	}
}

// TestConcurrentWriters lets several writers overwrite, complete and delete
// few keys over an engine that fails at random; what is left must agree.
func TestConcurrentWriters(t *testing.T) {
	for _, seed := range seeds(t, 12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := newChaos(seed, 20)
			f := newFixture(t, c)
			was := c.calm(0)
			b := f.bucket("bucket")
			_ = f.written(1)
			all := []*fixture{f}
			for len(all) < 3 { // two writers at each of three gateways
				other := *f
				other.Catalog = f.another(c)
				all = append(all, &other)
			}
			c.calm(was)
			var wg sync.WaitGroup
			for w := range 6 {
				wg.Go(func() { writer(all[w%3], b, rand.New(rand.NewPCG(seed, uint64(w)))) })
			}
			wg.Wait()
			c.calm(0)
			f.checkClean()
			if c.unknown == 0 {
				t.Error("no commit had an unknown outcome")
			}
		})
	}
}

func writer(f *fixture, b metadata.Bucket, rng *rand.Rand) {
	ctx := context.Background()
	for range 40 {
		key := strings.Repeat("k", 1+rng.IntN(2))
		var err error
		switch rng.IntN(5) {
		case 0:
			_, err = f.DeleteObject(ctx, b, key, metadata.Condition{})
		case 1:
			id := f.ids.Next().String()
			if err = f.CreateUpload(ctx, b, metadata.Upload{ID: id, Key: key}); err == nil {
				w := f.written(100)
				p := metadata.Part{Number: 1, Size: 100, ETag: "e"}
				if err = f.PutPart(ctx, b, key, id, p, []metadata.Written{w}); err == nil {
					_, err = f.CompleteUpload(ctx, b, key, id, metadata.Completion{Parts: []metadata.CompletedPart{{Number: 1, ETag: "e"}},
						Seal: func([]metadata.Part) (string, metadata.Checksum, error) { return id, metadata.Checksum{}, nil }})
				}
			}
		case 2:
			for range f.ScanOwed(ctx) {
			}
		default:
			w := f.written(100)
			err = f.PutObject(ctx, b, object(key, w), []metadata.Written{w}, metadata.Condition{})
		}
		if err != nil && !errors.Is(err, metadata.ErrUnavailable) {
			f.t.Errorf("%q: %v", key, err)
		}
	}
}
