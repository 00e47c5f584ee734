package gateway

import (
	"fmt"
	"testing"
	"time"

	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// TestAbandonedUploads: what a client who left, or who sent something else than was
// announced, has had written is owed a delete at once, and what never was written
// is not.
func TestAbandonedUploads(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	owed := func() (n int) {
		for _, err := range s.catalog.ScanOwed(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	want := func(n int, what string) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); owed() != n && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		if got := owed(); got != n {
			t.Fatalf("%s: %d deletes owed, want %d", what, got, n)
		}
	}
	for i, size := range []int{100, 1 << 20, 9 << 20} {
		a := s.do(call{method: "PUT", target: "/bkt/wrong", body: random(size, 1), header: headers("Content-MD5", md5Header("y"))})
		if a.status != 400 || a.code() != "BadDigest" {
			t.Fatalf("%d bytes: %d %s", size, a.status, a.body)
		}
		want(i+1, fmt.Sprintf("wrong digest of %d bytes", size))
	}
	for _, size := range []int{1000, 1 << 20} { // nothing was written before the end
		s.do(call{method: "PUT", target: "/bkt/left", body: random(size/2, 1), length: size})
		time.Sleep(20 * time.Millisecond)
		want(3, fmt.Sprintf("half of %d bytes", size))
	}
	s.do(call{method: "PUT", target: "/bkt/left", body: random(30<<20, 1), length: 40 << 20})
	want(4, "most of 40 MiB")
	s.put("/bkt/right", random(9<<20, 1))
	want(4, "one that is right")
}

// TestWritesThatFailAreAbandoned: what too few drives took of an object is deleted
// from those that took it, and nothing is owed to those that were away.
func TestWritesThatFailAreAbandoned(t *testing.T) {
	for _, size := range []int{100, 1 << 20, 9 << 20} {
		s := newSite(t)
		s.bucket("bkt")
		s.put("/bkt/first", random(size, 1))
		for i := 2; i < 6; i++ {
			if err := s.drives.stores[i].Close(); err != nil {
				t.Fatal(err)
			}
		}
		s.drives.set(storagenode.DriveDown, 1)
		if a := s.do(call{method: "PUT", target: "/bkt/second", body: random(size, 2)}); a.status != 503 {
			t.Fatalf("%d bytes: %d %s", size, a.status, a.body)
		}
		var owed []metadata.Owed
		for end := time.Now().Add(10 * time.Second); len(owed) == 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			for o, err := range s.catalog.ScanOwed(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				owed = append(owed, o)
			}
		}
		if len(owed) != 1 || owed[0].Pending.Count() < 2 {
			t.Fatalf("%d bytes: owed %+v", size, owed)
		}
		g, err := s.catalog.Group(t.Context(), owed[0].PG)
		if err != nil {
			t.Fatal(err)
		}
		for i, slot := range g.Slots {
			if slot.Drive == s.drives.ids[1] && owed[0].Pending.Has(i) {
				t.Fatalf("%d bytes: a delete is owed to a drive that was away", size)
			}
		}
	}
}
