package catalog

import (
	"errors"
	"testing"
	"time"

	"kintsugi/metadata"
	"kintsugi/metadata/kv/memory"
)

// A PutObject begins with a bucket as it was a moment ago and goes to the bucket
// that has the name at its commit, or nowhere.
func TestRecentBucket(t *testing.T) {
	c := newStepped()
	d := &distant{Store: memory.New()}
	f := newFixture(t, d)
	own := f.another(d, func(cfg *Config) { cfg.Clock, cfg.GroupAge = c, time.Second })
	was := f.bucket("bkt")
	recent := func(want int64) metadata.Bucket {
		t.Helper()
		before := d.requests.Load()
		b, err := own.RecentBucket(t.Context(), "bkt")
		if n := d.requests.Load() - before; err != nil || n != want {
			t.Fatalf("%v, %d requests, want %d", err, n, want)
		}
		return b
	}
	put := func(b metadata.Bucket, key string) error {
		w := f.written(100)
		return own.PutObject(t.Context(), b, object(key, w), []metadata.Written{w}, metadata.Condition{})
	}
	again := func() metadata.Bucket {
		t.Helper()
		if err := f.DeleteBucket(t.Context(), "bkt"); err != nil {
			t.Fatal(err)
		}
		return f.bucket("bkt")
	}
	recent(1)
	if b := recent(0); b.ID != was.ID {
		t.Fatalf("%+v, want %+v", b, was)
	}
	now := again()
	if b := recent(0); b.ID != was.ID {
		t.Fatalf("%+v: nothing is remembered", b)
	}
	if err := put(was, "k"); !errors.Is(err, metadata.ErrNoSuchBucket) {
		t.Fatalf("a bucket that was looked up and is gone: %v", err)
	}
	if err := put(recent(0), "k"); err != nil {
		t.Fatal(err)
	}
	if o, err := f.Object(t.Context(), now.ID, "k"); err != nil || o.Size != 100 {
		t.Fatalf("it is not in the bucket of that name: %+v, %v", o, err)
	}
	c.advance(time.Second + time.Millisecond)
	if b := recent(1); b.ID != now.ID {
		t.Fatalf("%+v after its age, want %+v", b, now)
	}
	if _, err := f.DeleteObject(t.Context(), now, "k", metadata.Condition{}); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteBucket(t.Context(), "bkt"); err != nil {
		t.Fatal(err)
	}
	if err := put(recent(0), "k"); !errors.Is(err, metadata.ErrNoSuchBucket) {
		t.Fatalf("a bucket that is gone: %v", err)
	}
	f.checkClean()
}
