package gateway

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/metadata/catalog"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
)

// cluster is several gateways, each with a catalog of its own, over one engine
// and the same drives.
type cluster struct {
	t      *testing.T
	drives *drives
	kv     kv.Store
	set    *stripe.Set
	sites  []*site
}

func newCluster(t *testing.T, gateways int, change ...func(*Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, drives: newDrives(8), kv: memory.New()}
	c.set = stripe.New(stripe.Config{Drives: c.drives})
	for range gateways {
		cat := c.catalog()
		at := newSite(t, append([]func(*Config){func(cfg *Config) {
			cfg.Buckets, cfg.Objects, cfg.Uploads, cfg.Placement, cfg.Blobs = cat, cat, cat, cat, c.set
		}}, change...)...)
		at.catalog, at.drives = cat, c.drives
		c.sites = append(c.sites, at)
	}
	return c
}

func (c *cluster) catalog() *catalog.Catalog {
	c.t.Helper()
	cat, err := catalog.Open(context.Background(), catalog.Config{KV: c.kv, Drives: c.drives, Scheme: erasure.Scheme{K: 2, M: 1}, GroupAge: time.Hour})
	if err != nil {
		c.t.Fatal(err)
	}
	return cat
}

// move maps every slot of every group to another drive, as the repairer of
// another process would: fenced, rebuilt, clean, and dropped where it was.
func (c *cluster) move() {
	c.t.Helper()
	ctx, cat := context.Background(), c.catalog()
	must := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
	}
	groups, err := cat.ListGroups(ctx)
	must(err)
	for _, g := range groups {
		for slot, s := range g.Slots {
			now, err := cat.Group(ctx, g.PG)
			must(err)
			to := storagenode.DriveID{}
		next:
			for _, id := range c.drives.ids {
				for i := range now.Slots {
					if now.Slots[i].Drive == id || g.Slots[i].Drive == id {
						continue next
					}
				}
				to = id
			}
			dst, _ := c.drives.Drive(to)
			must(dst.SetSlotEpoch(ctx, g.PG, slot, s.Epoch+1))
			now, err = cat.Remap(ctx, g.PG, slot, s.Epoch, to)
			must(err)
			for rec, err := range cat.ScanBlobs(ctx, g.PG, storagenode.BlobID{}) {
				must(err)
				if rec.Blob.Slots.Has(slot) {
					must(c.set.Rebuild(ctx, now, rec.Blob, slot, dst, s.Epoch+1))
				}
			}
			must(cat.MarkClean(ctx, g.PG, slot, s.Epoch+1))
			old, _ := c.drives.Drive(s.Drive)
			must(old.DropSlot(ctx, g.PG, slot, s.Epoch))
		}
	}
}

func body(n int) string {
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return string(p)
}

// TestSlotsMovedUnderAReader: a gateway whose knowledge of the groups is old
// finds what another process moved, and answers no 503.
func TestSlotsMovedUnderAReader(t *testing.T) {
	c := newCluster(t, 2)
	a := c.sites[0]
	a.bucket("bkt")
	sizes := []int{1, 4096, 100_000, 9 << 20}
	for _, n := range sizes {
		a.put(fmt.Sprint("/bkt/", n), body(n))
	}
	for round := range 2 {
		for _, s := range c.sites {
			for _, n := range sizes {
				if got := s.must(call{method: "GET", target: fmt.Sprint("/bkt/", n)}); got.body != body(n) {
					t.Fatalf("round %d: %d bytes of %d", round, len(got.body), n)
				}
			}
		}
		c.move()
	}
}

// halfway serves half of the first read of more than a stripe, and then cannot
// go on, for slots were moved meanwhile.
type halfway struct {
	Blobs
	move  func()
	once  sync.Once
	reads atomic.Int64
}

func (h *halfway) Read(ctx context.Context, g erasure.Group, b erasure.Blob, off, n int64, w io.Writer) (err error) {
	h.reads.Add(1)
	first := false
	h.once.Do(func() { first = true })
	if !first {
		return h.Blobs.Read(ctx, g, b, off, n, w)
	}
	if err := h.Blobs.Read(ctx, g, b, off, n/2, w); err != nil {
		return err
	}
	h.move()
	return fmt.Errorf("read: %w", stripe.ErrUnreadable)
}

// TestSlotsMovedInTheMiddleOfARead: what was sent is not sent again, and the
// rest follows.
func TestSlotsMovedInTheMiddleOfARead(t *testing.T) {
	h := &halfway{}
	c := newCluster(t, 1, func(cfg *Config) { h.Blobs, cfg.Blobs = cfg.Blobs, h })
	h.move = c.move
	s := c.sites[0]
	s.bucket("bkt")
	want := body(9 << 20)
	s.put("/bkt/k", want)
	got := s.must(call{method: "GET", target: "/bkt/k", header: map[string]string{"Range": "bytes=1000-9000000"}})
	if sha256.Sum256([]byte(got.body)) != sha256.Sum256([]byte(want[1000:9000001])) || h.reads.Load() != 2 {
		t.Fatalf("%d bytes in %d reads", len(got.body), h.reads.Load())
	}
}

// TestSlotsMovedUnderAWriter: the first write by what a gateway knew may be
// refused; it then knows better, of all groups.
func TestSlotsMovedUnderAWriter(t *testing.T) {
	for _, n := range []int{10, 1 << 20} {
		c := newCluster(t, 2)
		a, b := c.sites[0], c.sites[1]
		a.bucket("bkt")
		for i := range 3 {
			a.put(fmt.Sprint("/bkt/", i), body(n))
			c.move()
			got := a.do(call{method: "PUT", target: "/bkt/k", body: "refused"})
			if got.status != 200 && got.status != 503 {
				t.Fatalf("%d %s", got.status, got.body)
			}
			if got.status != 200 {
				if again := b.do(call{method: "GET", target: "/bkt/k"}); strings.Contains(again.body, "refused") {
					t.Fatal("a refused write is visible")
				}
			}
			for j := range 20 {
				a.put("/bkt/k", body(n+j))
				if got := b.must(call{method: "GET", target: "/bkt/k"}); got.body != body(n+j) {
					t.Fatalf("%d bytes", len(got.body))
				}
			}
			a.must(call{method: "DELETE", target: "/bkt/k"})
		}
		a.clean()
	}
}

// TestAnyGatewayAnswers: multipart uploads, lists, deletes and conditions go to
// another gateway with every request.
func TestAnyGatewayAnswers(t *testing.T) {
	c := newCluster(t, 3)
	turn := 0
	any := func() *site { turn++; return c.sites[turn%len(c.sites)] }
	any().bucket("bkt")
	started := any().must(call{method: "POST", target: "/bkt/m?uploads"})
	id := between(started.body, "<UploadId>", "</UploadId>")
	var list strings.Builder
	list.WriteString("<CompleteMultipartUpload>")
	for i := range 3 {
		part := any().must(call{method: "PUT", target: fmt.Sprintf("/bkt/m?partNumber=%d&uploadId=%s", i+1, id), body: body(5<<20 + i)})
		fmt.Fprintf(&list, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", i+1, part.header.Get("Etag"))
	}
	list.WriteString("</CompleteMultipartUpload>")
	if parts := any().must(call{method: "GET", target: "/bkt/m?uploadId=" + id}); strings.Count(parts.body, "<PartNumber>") != 3 {
		t.Fatal(parts.body)
	}
	any().must(call{method: "POST", target: "/bkt/m?uploadId=" + id, body: list.String()})
	for range 3 {
		if got := any().must(call{method: "GET", target: "/bkt/m"}); got.body != body(5<<20)+body(5<<20+1)+body(5<<20+2) {
			t.Fatalf("%d bytes", len(got.body))
		}
	}
	for i := range 30 {
		key := fmt.Sprintf("/bkt/k%02d", i)
		any().must(call{method: "PUT", target: key, body: "x", header: map[string]string{"If-None-Match": "*"}})
		if got := any().do(call{method: "PUT", target: key, body: "y", header: map[string]string{"If-None-Match": "*"}}); got.status != 412 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		if keys := any().keys("bkt"); len(keys) != i+2 {
			t.Fatalf("listed %v", keys)
		}
	}
	for i := range 30 {
		any().must(call{method: "DELETE", target: fmt.Sprintf("/bkt/k%02d", i)})
		if got := any().do(call{method: "GET", target: fmt.Sprintf("/bkt/k%02d", i)}); got.status != 404 {
			t.Fatalf("%d", got.status)
		}
		if keys := any().keys("bkt"); len(keys) != 30-i {
			t.Fatalf("listed %v", keys)
		}
	}
	any().must(call{method: "DELETE", target: "/bkt/m"})
	any().must(call{method: "DELETE", target: "/bkt"})
	if got := any().do(call{method: "GET", target: "/bkt"}); got.code() != "NoSuchBucket" {
		t.Fatalf("%d %s", got.status, got.body)
	}
	c.sites[0].clean()
}
