package gateway

import (
	"fmt"
	"testing"
	"time"
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
