package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"kintsugi/metadata"
)

// Buckets keeps the buckets (famBucket).
//
// A bucket is deleted in three steps: it is set deleting, from which on no
// commit into it succeeds; then it is searched; then its record goes, or it is
// set active again because an object was found. Until its record is gone it
// exists to readers. Whoever meets a bucket that was left deleting – by a
// crash – ends the deletion first.
type Buckets struct {
	e      *engine
	recent recent
}

// errDeleting says that a deletion of the bucket has begun.
var errDeleting = errors.New("bucket is being deleted")

// assertActive reads the bucket within a transaction: it must exist with the
// same id and take writes.
func assertActive(ctx context.Context, t *txn, b *metadata.Bucket) error {
	v, err := t.Get(ctx, t.bucketKey(b.Name))
	if err != nil {
		return err
	}
	if v == nil {
		return metadata.ErrNoSuchBucket
	}
	id, state, err := bucketHead(v)
	switch {
	case err != nil:
		return err
	case id != b.ID:
		return metadata.ErrNoSuchBucket
	case state != bucketActive:
		return errDeleting
	}
	return nil
}

// settle ends a deletion of the bucket that a write met: it gives nil where
// the bucket is active again, ErrNoSuchBucket where it is gone.
func (s *Buckets) settle(ctx context.Context, b *metadata.Bucket) error {
	// Whoever deletes it is usually at it right now, and milliseconds from
	// the end.
	for range 10 {
		if err := s.e.clock.Sleep(ctx, 2*time.Millisecond); err != nil {
			return err
		}
		v, err := s.e.get(ctx, "bucket", new(arena).bucketKey(b.Name))
		if err != nil {
			return err
		}
		if v == nil {
			return metadata.ErrNoSuchBucket
		}
		id, state, err := bucketHead(v)
		if err != nil {
			return err
		}
		if id != b.ID {
			return metadata.ErrNoSuchBucket
		}
		if state == bucketActive {
			return nil
		}
	}
	err := s.finishDelete(ctx, b.Name, b.ID)
	if errors.Is(err, metadata.ErrBucketNotEmpty) {
		return nil
	}
	if err == nil {
		return metadata.ErrNoSuchBucket
	}
	return err
}

// CreateBucket implements metadata.Buckets. b.ID is chosen here.
func (s *Buckets) CreateBucket(ctx context.Context, b metadata.Bucket) (metadata.Bucket, error) {
	if b.Created.IsZero() {
		b.Created = s.e.clock.Now()
	}
	b.Created = b.Created.Truncate(time.Millisecond).UTC()
	for range maxUnknown {
		made, err := s.create(ctx, b)
		if !errors.Is(err, metadata.ErrBucketExists) || made.state == bucketActive {
			return made.Bucket, err
		}
		if err := s.finishDelete(ctx, b.Name, made.ID); errors.Is(err, metadata.ErrBucketNotEmpty) {
			return made.Bucket, fmt.Errorf("create bucket %s: %w", b.Name, metadata.ErrBucketExists)
		} else if err != nil && !errors.Is(err, metadata.ErrNoSuchBucket) {
			return metadata.Bucket{}, err
		}
	}
	return metadata.Bucket{}, fmt.Errorf("create bucket %s: %w: it is being deleted", b.Name, metadata.ErrUnavailable)
}

// create makes the record; where the name is taken it gives the bucket that
// has it with ErrBucketExists.
func (s *Buckets) create(ctx context.Context, b metadata.Bucket) (made bucketRecord, err error) {
	tried := metadata.BucketID(0)
	err = s.e.update(ctx, "create bucket", func(t *txn) error {
		nameKey := t.bucketKey(b.Name)
		v, err := t.Get(ctx, nameKey)
		if err != nil {
			return err
		}
		if v != nil {
			if made, err = decodeBucket(b.Name, v); err != nil {
				return err
			}
			if t.maybe && made.ID == tried && made.Owner == b.Owner && made.Created.Equal(b.Created) {
				return nil // made by an attempt whose outcome was unknown
			}
			return metadata.ErrBucketExists
		}
		counter := t.formatKey(fmtBuckets)
		if v, err = t.Get(ctx, counter); err != nil {
			return err
		}
		last, err := decodeNumber(v)
		if err != nil {
			return err
		}
		if last >= 1<<32-1 {
			return errors.New("bucket ids are used up")
		}
		made = bucketRecord{Bucket: b}
		made.ID = metadata.BucketID(last + 1)
		tried = made.ID
		t.Put(counter, encodeNumber(t.room(12), last+1))
		t.Put(nameKey, encodeBucket(t.room(bucketRecordSize(&made)), &made))
		return nil
	})
	return made, err
}

// Bucket implements metadata.Buckets.
func (s *Buckets) Bucket(ctx context.Context, name string) (metadata.Bucket, error) {
	_, b, err := s.read(ctx, name)
	return b.Bucket, err
}

// ListBuckets implements metadata.Buckets.
func (s *Buckets) ListBuckets(ctx context.Context, prefix, after string, limit int) ([]metadata.Bucket, bool, error) {
	var list []metadata.Bucket
	if limit <= 0 {
		return nil, false, nil
	}
	from := new(arena).bucketKey(prefix)
	to := prefixEnd(from)
	if after != "" && after >= prefix {
		from = append(new(arena).bucketKey(after), 0)
	}
	for p, err := range s.e.kv.Scan(ctx, from, to) {
		if err != nil {
			return nil, false, unavailable("list buckets", err)
		}
		if len(list) == limit {
			return list, true, nil
		}
		b, err := decodeBucket(string(p.Key[1:]), p.Value)
		if err != nil {
			return nil, false, fmt.Errorf("bucket %q: %w", p.Key[1:], err)
		}
		list = append(list, b.Bucket)
	}
	return list, false, nil
}

// DeleteBucket implements metadata.Buckets.
func (s *Buckets) DeleteBucket(ctx context.Context, name string) error {
	seen, b, err := s.read(ctx, name)
	if err != nil {
		return err
	}
	if b.state == bucketActive {
		// A bucket that holds something now is not disturbed at all.
		found, err := s.hasObjects(ctx, b.ID)
		if err != nil {
			return err
		}
		if found {
			return fmt.Errorf("delete bucket %s: %w", name, metadata.ErrBucketNotEmpty)
		}
		if err := s.swap(ctx, seen, b, bucketDeleting); err != nil {
			return err
		}
	}
	return s.finishDelete(ctx, name, b.ID)
}

// read gives a bucket with its record.
func (s *Buckets) read(ctx context.Context, name string) (value []byte, b bucketRecord, err error) {
	value, err = s.e.get(ctx, "bucket", new(arena).bucketKey(name))
	if err != nil {
		return nil, b, err
	}
	if value == nil {
		return nil, b, metadata.ErrNoSuchBucket
	}
	b, err = decodeBucket(name, value)
	return value, b, err
}

// swap changes the state of the bucket b where its record still is seen, and
// does nothing where it is not.
func (s *Buckets) swap(ctx context.Context, seen []byte, b bucketRecord, state byte) error {
	b.state = state
	b.turn++
	return s.e.update(ctx, "delete bucket", func(t *txn) error {
		key := t.bucketKey(b.Name)
		v, err := t.Get(ctx, key)
		if err == nil && bytes.Equal(v, seen) {
			t.Put(key, encodeBucket(t.room(bucketRecordSize(&b)), &b))
		}
		return err
	})
}

// finishDelete takes a bucket that is deleting to its end, or back to active
// with ErrBucketNotEmpty. It does so only while the record stays the one it
// read before it searched: the turn in it counts every change of state.
func (s *Buckets) finishDelete(ctx context.Context, name string, id metadata.BucketID) error {
	seen, b, err := s.read(ctx, name)
	if err != nil {
		return err
	}
	if b.ID != id {
		return metadata.ErrNoSuchBucket
	}
	notEmpty := fmt.Errorf("delete bucket %s: %w", name, metadata.ErrBucketNotEmpty)
	if b.state != bucketDeleting {
		return notEmpty
	}
	found, err := s.hasObjects(ctx, b.ID)
	if err != nil {
		return err
	}
	if found {
		if err := s.swap(ctx, seen, b, bucketActive); err != nil {
			return err
		}
		return notEmpty
	}
	if err := s.endUploads(ctx, seen, b); err != nil {
		return err
	}
	return s.e.update(ctx, "delete bucket", func(t *txn) error {
		key := t.bucketKey(name)
		v, err := t.Get(ctx, key)
		switch {
		case err != nil:
			return err
		case bytes.Equal(v, seen):
			t.Delete(key)
			return nil
		case t.maybe && v == nil:
			return nil
		case v == nil:
			return metadata.ErrNoSuchBucket
		}
		return notEmpty
	})
}

func (s *Buckets) hasObjects(ctx context.Context, bid metadata.BucketID) (bool, error) {
	from := appendObjectPrefix(nil, bid)
	for _, err := range s.e.kv.Scan(ctx, from, prefixEnd(from)) {
		if err != nil {
			return false, unavailable("search bucket", err)
		}
		return true, nil
	}
	return false, nil
}

// endUploads ends every upload of a bucket that is deleting, and so gets no
// new ones.
func (s *Buckets) endUploads(ctx context.Context, seen []byte, b bucketRecord) error {
	from := appendUploadPrefix(nil, b.ID)
	to := prefixEnd(from)
	for from != nil {
		pairs, next, err := s.e.page(ctx, s.e.kv, from, to, 30)
		if err != nil {
			return err
		}
		err = s.e.update(ctx, "delete bucket", func(t *txn) error {
			// Uploads of a bucket that lives on are kept.
			v, err := t.Get(ctx, t.bucketKey(b.Name))
			if err != nil {
				return err
			}
			if !bytes.Equal(v, seen) {
				return fmt.Errorf("delete bucket %s: %w", b.Name, metadata.ErrBucketNotEmpty)
			}
			for _, p := range pairs {
				_, id, ok := splitUploadKey(p.Key)
				if !ok {
					return fmt.Errorf("upload key %x: %w", p.Key, errRecord)
				}
				if err := endUpload(ctx, t, p.Key, id, s.e.now()); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}
