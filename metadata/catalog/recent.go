package catalog

import (
	"context"
	"hash/maphash"
	"sync/atomic"
	"time"

	"kintsugi/metadata"
)

// recent remembers buckets for a moment, so that a PutObject, whose commit
// asserts its bucket, need not ask for it before.
type recent struct {
	age    time.Duration
	born   time.Time
	places [64]atomic.Pointer[remembered]
}

type remembered struct {
	bucket metadata.Bucket
	read   time.Duration // no later than that it was read, since born
}

func (s *Buckets) place(name string) *atomic.Pointer[remembered] {
	return &s.recent.places[maphash.String(s.e.seed, name)%uint64(len(s.recent.places))]
}

// RecentBucket implements metadata.Buckets: a bucket as it was at most
// Config.GroupAge ago.
func (s *Buckets) RecentBucket(ctx context.Context, name string) (metadata.Bucket, error) {
	if s.recent.age <= 0 {
		return s.Bucket(ctx, name)
	}
	place, now := s.place(name), s.e.clock.Now().Sub(s.recent.born)
	if r := place.Load(); r != nil && r.bucket.Name == name && now-r.read < s.recent.age {
		return r.bucket, nil
	}
	b, err := s.Bucket(ctx, name)
	if err != nil {
		return b, err
	}
	b.Recent = true
	place.Store(&remembered{b, now})
	return b, nil
}

// renewed gives the bucket that has the name of a remembered one now, if that is
// another of the same owner.
func (s *Buckets) renewed(ctx context.Context, b *metadata.Bucket) (now metadata.Bucket, ok bool) {
	if !b.Recent {
		return now, false
	}
	now, err := s.Bucket(ctx, b.Name)
	return now, err == nil && now.ID != b.ID && now.Owner == b.Owner
}
