package catalog

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
)

// TestNamespaceOfTheFirstFormat opens a whole namespace as it was written
// before there were nodes, leases and a cluster's UUID in it: everything is
// read, and everything goes on from there. The file is never written anew.
func TestNamespaceOfTheFirstFormat(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "namespace-v1.golden"))
	if err != nil {
		t.Fatal(err)
	}
	store := memory.New()
	ctx := t.Context()
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		key, value, _ := strings.Cut(line, " ")
		k, err1 := hex.DecodeString(key)
		v, err2 := hex.DecodeString(value)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if err := kv.Update(ctx, store, 1, func(tx kv.Txn) error { tx.Put(k, v); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	f := newFixture(t, store)
	f.checkClean()
	b, err := f.Bucket(ctx, "bucket")
	if err != nil || b.Owner != "root" {
		t.Fatalf("%+v %v", b, err)
	}
	page, err := f.ListObjects(ctx, b.ID, metadata.ListQuery{Limit: 10})
	if err != nil || len(page.Objects) != 4 {
		t.Fatalf("%+v %v", page, err)
	}
	for _, o := range page.Objects {
		full, err := f.Object(ctx, b.ID, o.Key)
		if err != nil {
			t.Fatal(err)
		}
		if x, err := f.Layout(ctx, full, 0, full.Size); err != nil || len(x) == 0 {
			t.Errorf("layout of %s: %v", o.Key, err)
		}
	}
	if parts, _, err := f.ListParts(ctx, b.ID, "m/open", "open", 0, 10); err != nil || len(parts) != 3 {
		t.Errorf("%+v %v", parts, err)
	}
	damaged := 0
	for r, err := range f.ScanDamaged(ctx) {
		if damaged++; err != nil || r.Key != "large" || r.Blob.Missing != 4 {
			t.Errorf("%+v %v", r, err)
		}
	}
	if damaged != 1 {
		t.Errorf("%d damaged blobs", damaged)
	}
	if n := len(f.owed()); n != 3 { // a deleted object, an overwritten one, a part that was not named
		t.Errorf("%d deletes owed", n)
	}
	groups, err := f.ListGroups(ctx)
	if err != nil || len(groups) != 6 || !groups[1].Sealed || groups[0].Slots[2].Drive != (storagenode.DriveID{99}) || groups[0].Slots[2].State != storagenode.SlotRebuilding {
		t.Errorf("%+v %v", groups, err)
	}
	blobs := int64(0)
	for _, g := range groups {
		blobs += g.Blobs
	}
	if blobs != 11 {
		t.Errorf("groups hold %d blobs", blobs)
	}
	drives, err := f.ListDrives(ctx)
	if err != nil || len(drives) != 6 || drives[1].State != storagenode.DriveSuspect || drives[1].Address != "/d1" {
		t.Errorf("%+v %v", drives, err)
	}
	// What there was not yet is absent, and can be made.
	if nodes, err := f.ListNodes(ctx); err != nil || len(nodes) != 0 {
		t.Errorf("%+v %v", nodes, err)
	}
	if l, err := f.Lease(ctx, "r"); err != nil || l.Term != 0 {
		t.Errorf("%+v %v", l, err)
	}
	if id, err := f.Cluster(ctx); err != nil || !id.IsZero() {
		t.Errorf("%s %v", id, err)
	}
	if l := acquire(t, f.Catalog, "a"); l.Term != 1 {
		t.Errorf("%+v", l)
	}
	f.put(b, "new", 10)
	next := f.bucket("next")
	if next.ID <= b.ID {
		t.Errorf("bucket id %d was given away before", next.ID)
	}
	f.checkClean()
}
