package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/metadata/catalog"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/storetest"
)

// strewn is a site whose drives and engine fail, and whose commits a test gets
// in between.
type strewn struct {
	*site
	metadata.Objects
	metadata.Uploads
	faulty []*storetest.Faulty
	engine *fickle

	wrongETag atomic.Bool // objects are found with another

	mu     sync.Mutex
	before func(context.Context) // the commit, once
	after  func()                // the commit, once
}

// fickle is an engine whose commits answer what a test has them answer.
type fickle struct {
	kv.Store
	commit atomic.Pointer[func(kv.Txn) error]
}

type fickleTxn struct {
	kv.Txn
	f *fickle
}

func (f *fickle) Begin(ctx context.Context) (kv.Txn, error) {
	t, err := f.Store.Begin(ctx)
	return &fickleTxn{t, f}, err
}

func (t *fickleTxn) Commit(ctx context.Context) error {
	if c := t.f.commit.Load(); c != nil {
		return (*c)(t.Txn)
	}
	return t.Txn.Commit(ctx)
}

func (f *fickle) set(c func(kv.Txn) error) {
	if c == nil {
		f.commit.Store(nil)
		return
	}
	f.commit.Store(&c)
}

func newStrewn(t *testing.T) *strewn {
	s := &strewn{engine: &fickle{Store: memory.New()}}
	d := newDrives(6)
	for _, m := range d.stores {
		s.faulty = append(s.faulty, storetest.NewFaulty(m))
	}
	cat, err := catalog.Open(t.Context(), catalog.Config{KV: s.engine, Drives: d, Scheme: erasure.Scheme{K: 4, M: 2}})
	if err != nil {
		t.Fatal(err)
	}
	s.Objects, s.Uploads = cat, cat
	s.site = newSite(t, func(c *Config) {
		c.Buckets, c.Objects, c.Uploads, c.Placement = cat, s, s, cat
		c.Blobs = stripe.New(stripe.Config{Drives: faultyDrives{d, s}})
	})
	t.Cleanup(func() {
		for _, f := range s.faulty {
			f.Clear()
		}
	})
	s.site.catalog, s.site.drives = cat, d
	s.bucket("bkt")
	return s
}

// faultyDrives puts the faults before the drives.
type faultyDrives struct {
	*drives
	s *strewn
}

func (d faultyDrives) Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState) {
	store, state := d.drives.Drive(id)
	for i := range d.ids {
		if d.ids[i] == id && store != nil {
			return d.s.faulty[i], state
		}
	}
	return store, state
}

// around calls what a test has put around the next commit.
func (s *strewn) around(ctx context.Context, commit func() error) error {
	s.mu.Lock()
	before, after := s.before, s.after
	s.before, s.after = nil, nil
	s.mu.Unlock()
	if before != nil {
		before(ctx)
	}
	err := commit()
	if after != nil {
		after()
	}
	return err
}

func (s *strewn) next(before func(context.Context), after func()) {
	s.mu.Lock()
	s.before, s.after = before, after
	s.mu.Unlock()
}

func (s *strewn) PutObject(ctx context.Context, b metadata.Bucket, o *metadata.Object, blobs []metadata.Written, c metadata.Condition) error {
	return s.around(ctx, func() error { return s.Objects.PutObject(ctx, b, o, blobs, c) })
}

func (s *strewn) PutPart(ctx context.Context, b metadata.Bucket, key, id string, p metadata.Part, blobs []metadata.Written) error {
	return s.around(ctx, func() error { return s.Uploads.PutPart(ctx, b, key, id, p, blobs) })
}

func (s *strewn) Object(ctx context.Context, b metadata.BucketID, key string) (*metadata.Object, error) {
	o, err := s.Objects.Object(ctx, b, key)
	if err == nil && s.wrongETag.Load() {
		o.ETag = strings.Repeat("0", len(o.ETag))
	}
	return o, err
}

func (s *strewn) bucketID(name string) metadata.BucketID {
	s.t.Helper()
	b, err := s.catalog.Bucket(context.Background(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	return b.ID
}

// begin sends a request and gives its connection.
func (s *strewn) begin(c call) net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, c.raw(s.address)); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// strays gives what lies on drives, synced or not, and neither belongs to
// something nor is owed a delete there: what only the orphan pass would find.
func (s *strewn) strays() (list []string) {
	s.t.Helper()
	ctx := context.Background()
	groups, err := s.catalog.ListGroups(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	owed := map[storagenode.BlobID]erasure.SlotMask{}
	for o, err := range s.catalog.ScanOwed(ctx) {
		if err != nil {
			s.t.Fatal(err)
		}
		owed[o.Blob.ID] = o.Pending
	}
	for _, store := range s.drives.stores {
		_ = store.Sync(ctx, 1<<62)
	}
	for _, g := range groups {
		for slot, at := range g.Slots {
			store, _ := s.drives.Drive(at.Drive)
			for info, err := range store.List(ctx, g.PG, slot, storagenode.BlobID{}) {
				if err != nil {
					s.t.Fatal(err)
				}
				if r, err := s.catalog.Blob(ctx, g.PG, info.ID.Blob); err != nil {
					s.t.Fatal(err)
				} else if (r == nil || !r.Blob.Slots.Has(slot)) && !owed[info.ID.Blob].Has(slot) {
					list = append(list, fmt.Sprintf("%v", info.ID))
				}
			}
		}
	}
	return list
}

// owed counts the blobs that are owed a delete.
func (s *strewn) owed() (n int) {
	for _, err := range s.catalog.ScanOwed(context.Background()) {
		if err != nil {
			s.t.Fatal(err)
		}
		n++
	}
	return n
}

// TestNothingIsLeftBehind: however a write fails, what it has put on drives is
// owed a delete soon after, or belongs to something that is there.
func TestNothingIsLeftBehind(t *testing.T) {
	part := func(s *strewn) string {
		return "/bkt/k?partNumber=1&uploadId=" + s.beginUpload("/bkt/k", nil)
	}
	object := func(*strewn) string { return "/bkt/k" }
	gone := func(s *strewn, c call) { // while shards are written
		var hangs []*storetest.Injected
		for _, f := range s.faulty {
			hangs = append(hangs, f.Inject(storetest.Fault{Ops: storetest.OpSync, Hang: true}))
		}
		conn := s.begin(c)
		until(s.t, "shards are being written", func() bool {
			for _, h := range hangs {
				if h.Waiting() > 0 {
					return true
				}
			}
			return false
		})
		_ = conn.Close()
	}
	unsure := errors.New("the answer was lost")
	cases := []struct {
		name string
		kept bool // the object is there in the end
		run  func(s *strewn, c call)
	}{
		{"the client leaves while shards are written", false, gone},
		{"the client leaves before the commit", false, func(s *strewn, c call) {
			conn := make(chan net.Conn, 1)
			s.next(func(ctx context.Context) {
				_ = (<-conn).Close()
				<-ctx.Done()
			}, nil)
			conn <- s.begin(c)
		}},
		{"the digest is wrong", false, func(s *strewn, c call) {
			c.header = headers("Content-MD5", md5Header("y"))
			if a := s.do(c); a.code() != "BadDigest" {
				s.t.Errorf("%d %s", a.status, a.body)
			}
		}},
		{"the checksum is wrong", false, func(s *strewn, c call) {
			c.header = headers("x-amz-checksum-crc32", "AAAAAA==")
			if a := s.do(c); a.code() != "BadDigest" {
				s.t.Errorf("%d %s", a.status, a.body)
			}
		}},
		{"every commit meets a conflict", false, func(s *strewn, c call) {
			s.next(func(context.Context) {
				s.engine.set(func(kv.Txn) error { return kv.ErrConflict })
			}, func() { s.engine.set(nil) })
			if a := s.do(c); a.status != 503 {
				s.t.Errorf("%d %s", a.status, a.body)
			}
		}},
		{"the metadata is away", false, func(s *strewn, c call) {
			s.next(func(context.Context) {
				s.engine.set(func(kv.Txn) error { return kv.ErrUnavailable })
			}, func() { s.engine.set(nil) })
			if a := s.do(c); a.status != 503 {
				s.t.Errorf("%d %s", a.status, a.body)
			}
		}},
		{"nobody knows of the commit, which was not made", false, func(s *strewn, c call) {
			s.next(func(context.Context) {
				s.engine.set(func(kv.Txn) error {
					s.engine.set(func(kv.Txn) error { return kv.ErrUnavailable })
					return fmt.Errorf("%w: %w", kv.ErrUnknown, unsure)
				})
			}, func() { s.engine.set(nil) })
			if a := s.do(c); a.status != 503 {
				s.t.Errorf("%d %s", a.status, a.body)
			}
		}},
		{"nobody knows of the commit, which was made", true, func(s *strewn, c call) {
			s.next(func(context.Context) {
				s.engine.set(func(txn kv.Txn) error {
					if err := txn.Commit(context.Background()); err != nil {
						s.t.Error(err)
					}
					s.engine.set(func(kv.Txn) error { return kv.ErrUnavailable })
					return fmt.Errorf("%w: %w", kv.ErrUnknown, unsure)
				})
			}, func() { s.engine.set(nil) })
			if a := s.do(c); a.status != 503 && a.status != 200 {
				s.t.Errorf("%d %s", a.status, a.body)
			}
		}},
	}
	for _, c := range cases {
		for what, target := range map[string]func(*strewn) string{"object": object, "part": part} {
			for _, size := range []int{100, 1 << 20, 9 << 20} {
				t.Run(fmt.Sprintf("%s/%s of %d bytes", c.name, what, size), func(t *testing.T) {
					s := newStrewn(t)
					at, body := target(s), random(size, 1)
					c.run(s, call{method: "PUT", target: at, body: body})
					if !c.kept {
						until(t, "a delete is owed", func() bool { return s.owed() == 1 })
					}
					s.tidy()
					if !c.kept {
						return
					}
					if id := between(at+"&", "uploadId=", "&"); id != "" {
						a := s.must(call{method: "GET", target: "/bkt/k?uploadId=" + id})
						s.must(call{method: "POST", target: "/bkt/k?uploadId=" + id, body: listOf(nothing, between(a.body, "<ETag>", "<"))})
					}
					if a := s.must(call{method: "GET", target: "/bkt/k"}); a.body != body || s.owed() != 0 {
						t.Errorf("what was committed: %d bytes, %d owed", len(a.body), s.owed())
					}
				})
			}
		}
	}
}

// TestSettle: what a server that is closed cuts off is owed a delete before the
// metadata is closed.
func TestSettle(t *testing.T) {
	s := newStrewn(t)
	hang := s.faulty[0].Inject(storetest.Fault{Ops: storetest.OpSync, Hang: true})
	for i := range 20 {
		s.begin(call{method: "PUT", target: fmt.Sprintf("/bkt/k%d", i), body: random(100_000, uint64(i))})
	}
	until(t, "shards are being written", func() bool { return hang.Waiting() == 20 })
	_ = s.server.Close()
	s.server.Handler.(Front).Settle(t.Context())
	if n := s.owed(); n != 20 {
		t.Errorf("%d deletes are owed, want 20", n)
	}
	s.tidy()
}

// tidy waits until nothing is left behind, and checks the metadata.
func (s *strewn) tidy() {
	s.t.Helper()
	for _, f := range s.faulty {
		f.Clear()
	}
	var list []string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if list = s.strays(); len(list) == 0 {
			s.clean()
			return
		}
	}
	s.t.Fatalf("left behind: %s", strings.Join(list, " "))
}

// TestRefusedCommitsLeaveNothing are those of which the commit decides.
func TestRefusedCommitsLeaveNothing(t *testing.T) {
	s := newStrewn(t)
	s.next(func(context.Context) { s.put("/bkt/k", "first") }, nil)
	if a := s.do(call{method: "PUT", target: "/bkt/k", body: random(1<<20, 1), header: headers("If-None-Match", "*")}); a.status != 412 {
		t.Errorf("%d %s", a.status, a.body)
	}
	until(t, "a delete is owed", func() bool { return s.owed() == 1 })
	id := s.beginUpload("/bkt/k", nil)
	s.next(func(context.Context) { s.must(call{method: "DELETE", target: "/bkt/k?uploadId=" + id}) }, nil)
	if a := s.do(call{method: "PUT", target: "/bkt/k?partNumber=1&uploadId=" + id, body: random(1<<20, 2)}); a.code() != "NoSuchUpload" {
		t.Errorf("%d %s", a.status, a.body)
	}
	until(t, "a delete is owed", func() bool { return s.owed() == 2 })
	s.tidy()
}

// TestCopiesThatFailLeaveNothing: one whose source cannot be read to its end, and
// one whose source is found to be another than its digest says.
func TestCopiesThatFailLeaveNothing(t *testing.T) {
	s := newStrewn(t)
	id := s.beginUpload("/bkt/k", nil)
	var etags []string
	for i := range 2 {
		etags = append(etags, s.put(fmt.Sprintf("/bkt/k?partNumber=%d&uploadId=%s", i+1, id), random(9<<20, uint64(i))).header.Get("Etag"))
	}
	s.must(call{method: "POST", target: "/bkt/k?uploadId=" + id, body: listOf(nothing, etags...)})
	into := s.beginUpload("/bkt/to", nil)
	o, err := s.catalog.Object(t.Context(), s.bucketID("bkt"), "k")
	if err != nil {
		t.Fatal(err)
	}
	ends, err := s.catalog.Layout(t.Context(), o, o.Size-1, 1)
	if err != nil {
		t.Fatal(err)
	}
	lost := func(id storagenode.ShardID) bool { return id.Blob == ends[0].Blob.ID }
	for i := range 3 {
		s.faulty[i].Inject(storetest.Fault{Ops: storetest.OpRead, Match: lost, Err: storagenode.ErrNotFound})
	}
	for i, target := range []string{"/bkt/copy", "/bkt/to?partNumber=1&uploadId=" + into} {
		a := s.do(call{method: "PUT", target: target, header: headers("x-amz-copy-source", "/bkt/k")})
		if a.status != 503 {
			t.Errorf("%d %s", a.status, a.body)
		}
		until(t, "a delete is owed", func() bool { return s.owed() == i+1 })
	}
	s.tidy()
	s.put("/bkt/other", random(9<<20, 3))
	s.wrongETag.Store(true)
	if a := s.do(call{method: "PUT", target: "/bkt/copy", header: headers("x-amz-copy-source", "/bkt/other")}); a.status != 500 {
		t.Errorf("%d %s", a.status, a.body)
	}
	until(t, "a delete is owed", func() bool { return s.owed() == 3 })
	s.tidy()
}

// TestLeftoversOutlastAnOutage: what the metadata could not be told of at first is
// told it when it is back, and nothing is held for good where it stays away.
func TestLeftoversOutlastAnOutage(t *testing.T) { synctest.Test(t, testLeftoversOutlastAnOutage) }

func testLeftoversOutlastAnOutage(t *testing.T) {
	o := &awayObjects{told: map[storagenode.PG]int{}}
	o.away.Store(true)
	g := &gateway{objects: o, clock: clock.System{}, log: slog.New(slog.DiscardHandler)}
	abandon := func(pg int) {
		g.abandon([]metadata.Written{{Group: erasure.Group{PG: storagenode.PG(pg)}}})
	}
	for i := range 100 {
		abandon(i)
	}
	time.Sleep(10 * time.Minute)
	o.away.Store(false)
	time.Sleep(10 * time.Second)
	synctest.Wait()
	if len(o.told) != 100 || g.left.workers != 0 {
		t.Fatalf("%d were told of, %d workers are left", len(o.told), g.left.workers)
	}
	o.away.Store(true)
	for i := range 2 * leftoversMax {
		abandon(1000 + i)
	}
	time.Sleep(time.Hour)
	synctest.Wait()
	if len(g.left.waiting) > leftoversMax+leftoversAtOnce || g.left.workers != 0 {
		t.Fatalf("%d wait, %d workers", len(g.left.waiting), g.left.workers)
	}
	o.away.Store(false)
	abandon(100)
	time.Sleep(time.Second)
	synctest.Wait()
	if len(g.left.waiting) != 0 {
		t.Fatalf("%d wait still", len(g.left.waiting))
	}
	for pg, n := range o.told {
		if n != 1 {
			t.Fatalf("%d was told of %d times", pg, n)
		}
	}
}

// awayObjects can be told of abandoned blobs while they are not away.
type awayObjects struct {
	metadata.Objects
	away atomic.Bool
	mu   sync.Mutex
	told map[storagenode.PG]int // guarded by mu
}

func (o *awayObjects) Abandon(_ context.Context, blobs []metadata.Written) error {
	if o.away.Load() {
		return metadata.ErrUnavailable
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told[blobs[0].Group.PG]++
	return nil
}
