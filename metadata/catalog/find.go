package catalog

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync/atomic"

	"kintsugi/metadata"
	"kintsugi/metadata/kv"
)

// hints remembers the ids of buckets by name, so that a bucket and an object in
// it can be asked for at once. Nothing is believed: what the bucket's record
// says in the same state decides.
type hints struct {
	places [256]atomic.Pointer[hint]
}

type hint struct {
	name string
	id   metadata.BucketID
}

func (h *hints) place(seed maphash.Seed, name string) *atomic.Pointer[hint] {
	return &h.places[maphash.String(seed, name)%uint64(len(h.places))]
}

// Find implements metadata.Objects.
func (s *Objects) Find(ctx context.Context, bucket, key string) (metadata.Bucket, *metadata.Object, error) {
	if _, ok := s.e.kv.(kv.AllGetter); !ok {
		b, err := s.buckets.Bucket(ctx, bucket)
		if err != nil {
			return b, nil, err
		}
		o, err := s.Object(ctx, b.ID, key)
		return b, o, err
	}
	place := s.hints.place(s.e.seed, bucket)
	guess := place.Load()
	if guess == nil || guess.name != bucket {
		b, err := s.buckets.Bucket(ctx, bucket)
		if err != nil {
			return b, nil, err
		}
		guess = &hint{bucket, b.ID}
		place.Store(guess)
	}
	for {
		var a arena
		v, err := kv.GetAll(ctx, s.e.kv, a.bucketKey(bucket), a.objectKey(guess.id, key))
		if err != nil {
			return metadata.Bucket{}, nil, unavailable("object", err)
		}
		if v[0] == nil {
			return metadata.Bucket{}, nil, metadata.ErrNoSuchBucket
		}
		b, err := decodeBucket(bucket, v[0])
		switch {
		case err != nil:
			return metadata.Bucket{}, nil, fmt.Errorf("bucket %q: %w", bucket, err)
		case b.ID != guess.id: // deleted and made anew; ids only grow
			guess = &hint{bucket, b.ID}
			place.Store(guess)
			continue
		case v[1] == nil:
			return b.Bucket, nil, metadata.ErrNoSuchKey
		}
		o, err := decodeObject(key, v[1])
		if err != nil {
			return b.Bucket, nil, fmt.Errorf("object %q: %w", key, err)
		}
		return b.Bucket, o, nil
	}
}
