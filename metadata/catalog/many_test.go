package catalog

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// These are the tests of what one process remembers while others write: how old
// it may grow, and what makes it be forgotten at once.

// stepped is a clock that a test moves.
type stepped struct {
	clock.System
	mu  sync.Mutex
	now time.Time
}

func newStepped() *stepped { return &stepped{now: time.Now()} }

func (c *stepped) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *stepped) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// add adds drives of one node and zone.
func (d *fakeDrives) add(node, zone string, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for range n {
		d.reports = append(d.reports, storagenode.DriveReport{ID: storagenode.DriveID{byte(len(d.reports) + 1)}, Node: node, Zone: zone})
	}
}

// zones replaces the drives by those of zones with nodes with drives.
func (f *fixture) zones(zones, nodes, drives int) {
	f.drives.mu.Lock()
	f.drives.reports = nil
	f.drives.mu.Unlock()
	for z := range zones {
		for n := range nodes {
			f.drives.add(fmt.Sprint("z", z, "n", n), fmt.Sprint("z", z), drives)
		}
	}
	f.known.Store(&map[storagenode.PG]*groupEntry{})
	f.open.Store(nil)
}

// share counts the part of the writes that a drive gets.
func share(t *testing.T, c *Catalog, writes int) map[storagenode.DriveID]float64 {
	t.Helper()
	in := map[storagenode.DriveID]float64{}
	for range writes {
		g, err := c.OpenGroup(t.Context(), stickBytes)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range g.Slots {
			in[s.Drive] += 1 / float64(writes)
		}
	}
	return in
}

// TestNewNodesTakeNewGroups: a node that joins gets about its share of what is
// written from the next look on, though nothing old is moved.
func TestNewNodesTakeNewGroups(t *testing.T) {
	c := newStepped()
	f := newFixture(t, nil)
	f.zones(3, 2, 2)
	cat := f.another(f.e.kv, func(cfg *Config) { cfg.Clock = c })
	before := share(t, cat, 1000)
	if len(before) != 12 {
		t.Fatalf("%d of 12 drives are written to", len(before))
	}
	f.drives.add("new", "z1", 2)
	c.advance(openTTL + time.Millisecond)
	after := share(t, cat, 1000)
	fair := 6.0 / 14
	for id := range byte(14) {
		// In zone z1 there are six drives now for two slots.
		if got := after[storagenode.DriveID{id + 1}]; got < fair/3 || got > 2*fair {
			t.Errorf("drive %d gets %.2f of the writes, %.2f would be even", id+1, got, fair)
		}
	}
	rows := f.rows(famGroup)
	for range 10 { // and no group is made after that
		c.advance(scanTTL)
		share(t, cat, 100)
	}
	if now := f.rows(famGroup); now != rows || rows > 30 {
		t.Errorf("%d groups, then %d", rows, now)
	}
}

// TestNodeLoss: any two of six nodes may be lost, whenever what they hold was
// written. With one gone new groups are narrower instead of having two slots on a
// node; a group that a repair left with two there gets nothing new once all are
// back.
func TestNodeLoss(t *testing.T) {
	f := newFixture(t, nil)
	f.zones(3, 2, 2)
	reports := f.drives.Reports()
	nodeOf := map[storagenode.DriveID]string{}
	for _, r := range reports {
		nodeOf[r.ID] = r.Node
	}
	written := func(scheme string) map[storagenode.PG]bool {
		t.Helper()
		f.open.Store(nil)
		all := map[storagenode.PG]bool{}
		for range 300 {
			g, err := f.OpenGroup(t.Context(), stickBytes)
			on := map[string]bool{}
			for _, s := range g.Slots {
				on[nodeOf[s.Drive]] = true
			}
			if err != nil || g.Scheme.String() != scheme || len(on) != g.Scheme.N() {
				t.Fatalf("group %d of %s on %d nodes, want %s: %v", g.PG, g.Scheme, len(on), scheme, err)
			}
			all[g.PG] = true
		}
		return all
	}
	groups := written("4+2")
	f.drives.set(0, storagenode.DriveDown)
	f.drives.set(1, storagenode.DriveDown)
	written("3+2")
	f.drives.set(0, storagenode.DriveActive)
	f.drives.set(1, storagenode.DriveActive)
	for pg := range groups {
		g, err := f.Group(t.Context(), pg)
		if err != nil {
			t.Fatal(err)
		}
		beside := func(id storagenode.DriveID) bool { // the other drive of slot 1's node
			return id != g.Slots[1].Drive && nodeOf[id] == nodeOf[g.Slots[1].Drive]
		}
		i := slices.IndexFunc(reports, func(r storagenode.DriveReport) bool { return beside(r.ID) })
		if _, err := f.Remap(t.Context(), pg, 0, g.Slots[0].Epoch, reports[i].ID); err != nil {
			t.Fatal(err)
		}
	}
	for pg := range written("4+2") {
		if groups[pg] {
			t.Errorf("group %d has two slots on a node and takes new blobs", pg)
		}
	}
}

// TestZoneLoss: three zones of two nodes with two drives. With a zone gone new
// groups are narrower and keep the full tolerance, also for a process that
// starts only then and never saw that zone; with two gone they say so.
func TestZoneLoss(t *testing.T) {
	f := newFixture(t, nil)
	f.zones(3, 2, 2)
	for _, r := range f.drives.Reports() {
		err := f.EditDrive(t.Context(), r.ID, func(d *metadata.DriveRecord) bool {
			d.Zone, d.Node = r.Zone, r.Node
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	perZone := func(g erasure.Group) map[string]int {
		in := map[string]int{}
		for _, s := range g.Slots {
			for _, r := range f.drives.Reports() {
				if r.ID == s.Drive {
					in[r.Zone]++
				}
			}
		}
		return in
	}
	check := func(c *Catalog, scheme string, most int) {
		t.Helper()
		for range 200 {
			g, err := c.OpenGroup(t.Context(), stickBytes)
			if err != nil || g.Scheme.String() != scheme {
				t.Fatalf("scheme %s, %v, want %s", g.Scheme, err, scheme)
			}
			for zone, n := range perZone(g) {
				if n > most {
					t.Fatalf("zone %s has %d slots of group %d", zone, n, g.PG)
				}
			}
		}
	}
	check(f.another(f.e.kv), "4+2", 2)
	all := f.drives.Reports()
	f.drives.mu.Lock()
	f.drives.reports = slices.Clone(all[:8]) // nobody reports the third zone
	f.drives.mu.Unlock()
	check(f.another(f.e.kv), "2+2", 2)
	f.drives.mu.Lock()
	f.drives.reports = slices.Clone(all[:4])
	f.drives.mu.Unlock()
	// Neither zone of a 2+2 can be written to in full any more: two slots a
	// node instead, the best there is.
	check(f.another(f.e.kv), "2+2", 4)
}

// TestGroupsAreMadeOnce: gateways that start at once do not each make all groups.
func TestGroupsAreMadeOnce(t *testing.T) {
	f := newFixture(t, nil)
	f.zones(3, 2, 2)
	var all sync.WaitGroup
	for range 6 {
		c := f.another(f.e.kv)
		all.Go(func() {
			if _, err := c.OpenGroup(context.Background(), stickBytes); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := f.rows(famGroup); n < 6 || n > 14 {
		t.Errorf("%d groups were made, 12 are wanted", n)
	}
}

// TestDefaultSchemeFollowsTheCluster: without a scheme it is the cluster's
// failure domains that decide.
func TestDefaultSchemeFollowsTheCluster(t *testing.T) {
	f := newFixture(t, nil)
	for _, c := range []struct {
		zones, nodes, drives int
		want                 string
	}{{3, 2, 2, "4+2"}, {1, 3, 1, "2+1"}, {1, 1, 2, "1+1"}} {
		f.zones(c.zones, c.nodes, c.drives)
		cat, err := Open(t.Context(), Config{KV: memory.New(), Drives: f.drives})
		if err != nil {
			t.Fatal(err)
		}
		if g, err := cat.OpenGroup(t.Context(), stickBytes); err != nil || g.Scheme.String() != c.want {
			t.Errorf("%+v: %s %v", c, g.Scheme, err)
		}
	}
	f.zones(1, 1, 1)
	cat, err := Open(t.Context(), Config{KV: memory.New(), Drives: f.drives})
	if err != nil {
		t.Fatal(err)
	}
	_, err = cat.OpenGroup(t.Context(), stickBytes)
	wantErr(t, err, metadata.ErrNoPlacement)
}

// TestFillIsCountedTogether: a group is sealed by what all gateways wrote.
func TestFillIsCountedTogether(t *testing.T) {
	c := newStepped()
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	open := func() *fixture {
		other := *f
		other.Catalog = f.another(f.e.kv, func(cfg *Config) { cfg.Clock, cfg.SealBlobs, cfg.OpenGroups = c, 40, 1 })
		return &other
	}
	all := []*fixture{open(), open(), open()}
	pg := all[0].written(1).Group.PG
	for i := range 30 { // ten each: none has 40 alone
		for _, g := range all {
			w := g.writtenIn(g.group(pg), 10)
			if err := g.PutObject(t.Context(), b, object(fmt.Sprint(i), w), []metadata.Written{w}, metadata.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		if i == 9 || i == 14 {
			for _, g := range all {
				g.save(t.Context())
			}
		}
		if i == 14 {
			break
		}
	}
	c.advance(scanTTL + time.Millisecond)
	for i, g := range all {
		if next := g.written(1).Group.PG; next == pg {
			t.Errorf("gateway %d still writes to a group that has 45 of 40 blobs", i)
		}
	}
	groups, err := f.ListGroups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(groups, func(g metadata.GroupRecord) bool { return g.PG == pg }); !groups[i].Sealed || groups[i].Blobs != 45 {
		t.Errorf("%+v", groups[i])
	}
}

func (f *fixture) group(pg storagenode.PG) erasure.Group {
	f.t.Helper()
	g, err := f.Group(f.t.Context(), pg)
	if err != nil {
		f.t.Fatal(err)
	}
	return g
}

// TestAgeOfWhatIsRemembered is the table in ARCHITECTURE.md: what another
// process changed is seen within the age that is promised.
func TestAgeOfWhatIsRemembered(t *testing.T) {
	c := newStepped()
	f := newFixture(t, nil)
	own := f.another(f.e.kv, func(cfg *Config) { cfg.Clock, cfg.GroupAge, cfg.OpenGroups = c, time.Second, 1 })
	g, err := own.OpenGroup(t.Context(), stickBytes)
	if err != nil {
		t.Fatal(err)
	}
	recent := func() uint32 {
		t.Helper()
		now, err := own.RecentGroup(t.Context(), g.PG)
		if err != nil {
			t.Fatal(err)
		}
		return now.Slots[0].Epoch
	}
	if recent() != 1 {
		t.Fatal("a new group")
	}
	if _, err := f.Remap(t.Context(), g.PG, 0, 1, g.Slots[0].Drive); err != nil {
		t.Fatal(err)
	}
	// Readers: GroupAge, and not at all for those who ask for it as it is.
	if e := recent(); e != 1 {
		t.Fatalf("epoch %d: nothing is remembered", e)
	}
	c.advance(time.Second + time.Millisecond)
	if e := recent(); e != 2 {
		t.Fatalf("epoch %d after GroupAge", e)
	}
	if _, err := f.Remap(t.Context(), g.PG, 0, 2, g.Slots[0].Drive); err != nil {
		t.Fatal(err)
	}
	if now, err := own.Group(t.Context(), g.PG); err != nil || now.Slots[0].Epoch != 3 || recent() != 3 {
		t.Fatalf("%+v %v", now, err)
	}
	// Writers: what Group has learned, the next write uses.
	if now, err := own.OpenGroup(t.Context(), stickBytes); err != nil || now.Slots[0].Epoch != 3 {
		t.Fatalf("%+v %v", now, err)
	}
	// Which groups there are: scanTTL.
	if err := f.Seal(t.Context(), g.PG); err != nil {
		t.Fatal(err)
	}
	c.advance(scanTTL + openTTL)
	if now, err := own.OpenGroup(t.Context(), stickBytes); err != nil || now.PG == g.PG {
		t.Fatalf("a sealed group is written to: %v", err)
	}
}

// TestListsAndBucketsAreNotRemembered: what one gateway made, put or deleted the
// next call to another finds, or finds gone.
func TestListsAndBucketsAreNotRemembered(t *testing.T) {
	f := newFixture(t, nil)
	other := f.another(f.e.kv)
	ctx := t.Context()
	for i := range 20 {
		name := fmt.Sprint("bucket", i)
		b := f.bucket(name)
		if got, err := other.Bucket(ctx, name); err != nil || got.ID != b.ID {
			t.Fatalf("%+v %v", got, err)
		}
		f.put(b, "k", 10)
		page, err := other.ListObjects(ctx, b.ID, metadata.ListQuery{Limit: 10})
		if err != nil || len(page.Objects) != 1 {
			t.Fatalf("%+v %v", page, err)
		}
		wantErr(t, other.DeleteBucket(ctx, name), metadata.ErrBucketNotEmpty)
		if found, err := other.DeleteObject(ctx, b, "k", metadata.Condition{}); !found || err != nil {
			t.Fatal(found, err)
		}
		_, err = f.Object(ctx, b.ID, "k")
		wantErr(t, err, metadata.ErrNoSuchKey)
		wantErr(t, other.DeleteBucket(ctx, name), nil)
		_, err = f.Bucket(ctx, name)
		wantErr(t, err, metadata.ErrNoSuchBucket)
		w := f.written(10)
		wantErr(t, f.PutObject(ctx, b, object("k", w), []metadata.Written{w}, metadata.Condition{}), metadata.ErrNoSuchBucket)
	}
	f.checkClean()
}
