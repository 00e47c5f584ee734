package catalog

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync/atomic"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
)

// Objects keeps the current versions (famObject).
type Objects struct {
	lists   listBuffers
	hints   hints
	guesses guesses
	e       *engine
	blobs   *Blobs
	buckets *Buckets
}

// Object implements metadata.Objects.
func (s *Objects) Object(ctx context.Context, b metadata.BucketID, key string) (*metadata.Object, error) {
	k := make([]byte, 0, 5+len(key))
	v, err := s.e.kv.Get(ctx, append(appendObjectPrefix(k, b), key...))
	if err != nil {
		return nil, unavailable("object", err)
	}
	if v == nil {
		return nil, metadata.ErrNoSuchKey
	}
	o, err := decodeObject(key, v)
	if err != nil {
		return nil, fmt.Errorf("object %q: %w", key, err)
	}
	return o, nil
}

// check says whether a condition holds of the current version, nil for none.
func check(c *metadata.Condition, cur *current) error {
	if *c == (metadata.Condition{}) {
		return nil
	}
	if cur == nil {
		if c.IfMatch != "" {
			return metadata.ErrNoSuchKey
		}
		return nil // time and size ask only of what is there
	}
	match := func(etag string) bool { return etag == "*" || trimQuotes(etag) == cur.etag }
	switch {
	case c.IfMatch != "" && !match(c.IfMatch),
		c.IfNoneMatch != "" && match(c.IfNoneMatch),
		!c.IfModified.IsZero() && !c.IfModified.Truncate(time.Second).Equal(cur.modified.Truncate(time.Second)),
		c.IfSize != nil && *c.IfSize != cur.size:
		return metadata.ErrPreconditionFailed
	}
	return nil
}

// PutObject implements metadata.Objects. At most 8 blobs can be committed at
// once. An object without blobs is possible, but where the outcome of its
// commit is unknown it can only answer ErrUnavailable.
func (s *Objects) PutObject(ctx context.Context, b metadata.Bucket, o *metadata.Object, blobs []metadata.Written, c metadata.Condition) error {
	if len(blobs) > maxBlobs {
		return fmt.Errorf("put object: %w", errTooManyBlobs)
	}
	err := s.put(ctx, &b, o, blobs, &c)
	if errors.Is(err, metadata.ErrNoSuchBucket) {
		if now, ok := s.buckets.renewed(ctx, &b); ok {
			b = now
			err = s.put(ctx, &b, o, blobs, &c)
		}
	}
	for range maxUnknown {
		if !errors.Is(err, errDeleting) {
			break
		}
		if err = s.buckets.settle(ctx, &b); err == nil {
			err = s.put(ctx, &b, o, blobs, &c)
		}
	}
	switch {
	case err == nil:
		s.blobs.groups.filled(blobs)
		return nil
	case errors.Is(err, kv.ErrUnknown):
		if err = s.blobs.settleUnknown(ctx, "put object", blobs); err == nil {
			s.blobs.groups.filled(blobs)
		}
		return err
	case errors.Is(err, kv.ErrConflict) && c != (metadata.Condition{}):
		return fmt.Errorf("put object: %w", metadata.ErrConditionalConflict)
	case errors.Is(err, errDeleting):
		return fmt.Errorf("put object: %w: %w", metadata.ErrUnavailable, err)
	}
	return unavailable("put object", err)
}

// Abandon implements metadata.Objects.
func (s *Objects) Abandon(ctx context.Context, blobs []metadata.Written) error {
	if len(blobs) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTime)
	defer cancel()
	_, err := s.blobs.resolve(ctx, blobs)
	if ctx.Err() != nil {
		return fmt.Errorf("abandon blobs: %w: %w", metadata.ErrUnavailable, ctx.Err())
	}
	return unavailable("abandon blobs", err)
}

// put repeats the transaction while there are conflicts: the first attempts at
// once, the others in the turn of the key. The very first may do without reading,
// guessing that the key is new; what becomes of a wrong guess another finds out.
func (s *Objects) put(ctx context.Context, b *metadata.Bucket, o *metadata.Object, blobs []metadata.Written, c *metadata.Condition) error {
	guessed, err := s.tryPut(ctx, b, o, blobs, c, *c == (metadata.Condition{}) && s.guesses.due())
	if guessed {
		if errors.Is(err, kv.ErrUnknown) || errors.Is(err, kv.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		if s.guesses.came(err == nil); err == nil {
			return nil
		}
		_, err = s.tryPut(ctx, b, o, blobs, c, false)
	}
	if !errors.Is(err, kv.ErrConflict) {
		return err
	}
	end, terr := s.e.turn(ctx, new(arena).objectKey(b.ID, o.Key))
	if terr != nil {
		return terr
	}
	defer end()
	for attempt := 0; errors.Is(err, kv.ErrConflict) && attempt < maxAttempts && ctx.Err() == nil; attempt++ {
		_, err = s.tryPut(ctx, b, o, blobs, c, false)
	}
	return err
}

// guesses says whether it pays to guess that the key of a PUT is new. A wrong
// guess costs more than a right one gains.
type guesses struct {
	score atomic.Int32 // above 0: lately right
	puts  atomic.Uint32
}

const (
	guessMost  = 8  // bounds the score, either way
	guessWrong = 2  // what a wrong one takes off it
	guessEvery = 16 // PUTs, where guesses were wrong
)

func (g *guesses) due() bool {
	return g.score.Load() >= 0 || g.puts.Add(1)%guessEvery == 0
}

func (g *guesses) came(right bool) {
	// Two at once may count as one.
	if now := g.score.Load(); right {
		g.score.Store(min(now+1, guessMost))
	} else {
		g.score.Store(max(now-guessWrong, -guessMost))
	}
}

func (s *Objects) tryPut(ctx context.Context, b *metadata.Bucket, o *metadata.Object, blobs []metadata.Written, c *metadata.Condition, guess bool) (guessed bool, err error) {
	t, err := s.e.begin(ctx)
	if err != nil {
		return false, err
	}
	key := t.objectKey(b.ID, o.Key)
	if guess && s.blobs.guess(t, blobs, t.bucketKey(b.Name), key) {
		return true, s.putIn(ctx, t, key, b, o, blobs, c)
	}
	if err := s.blobs.prefetch(ctx, t, blobs, t.bucketKey(b.Name), key); err != nil {
		return false, err
	}
	return false, s.putIn(ctx, t, key, b, o, blobs, c)
}

// putIn is the transaction of a PUT.
func (s *Objects) putIn(ctx context.Context, t *txn, key []byte, b *metadata.Bucket, o *metadata.Object, blobs []metadata.Written, c *metadata.Condition) error {
	if err := assertActive(ctx, t, b); err != nil {
		return err
	}
	v, err := t.Get(ctx, key)
	if err != nil {
		return err
	}
	cur, err := decodeCurrent(v)
	if err != nil {
		return fmt.Errorf("object %q: %w", o.Key, err)
	}
	if err := check(c, cur); err != nil {
		return err
	}
	var missing [maxBlobs]erasure.SlotMask
	if err := s.blobs.admit(ctx, t, blobs, missing[:]); err != nil {
		return err
	}
	var at [maxBlobs]metadata.Located
	for i := range blobs {
		at[i] = metadata.Located{PG: blobs[i].Group.PG, Blob: blobs[i].Blob}
	}
	t.Put(key, encodeObject(t.room(objectRecordSize(o, len(blobs))), o, at[:len(blobs)]))
	s.blobs.record(t, blobs, missing[:], &owner{kind: metadata.OwnedByObject, bucket: b.ID, key: o.Key})
	if cur != nil {
		if err := s.blobs.oweVersion(ctx, t, cur); err != nil {
			return err
		}
	}
	return t.Commit(ctx)
}

// DeleteObject implements metadata.Objects.
func (s *Objects) DeleteObject(ctx context.Context, b metadata.Bucket, key string, c metadata.Condition) (bool, error) {
	var seen []byte // the record an attempt with an unknown outcome was to delete
	unknown := 0
	for attempt := 0; attempt <= maxAttempts; attempt++ {
		found, v, err := s.tryDelete(ctx, &b, key, &c, seen)
		switch {
		case err == nil:
			return found || seen != nil, nil
		case errors.Is(err, kv.ErrUnknown):
			if seen = v; unknown < maxUnknown && ctx.Err() == nil {
				unknown++
				continue
			}
			return false, unavailable("delete object", err)
		case errors.Is(err, kv.ErrConflict) && ctx.Err() == nil:
			continue
		case errors.Is(err, kv.ErrConflict):
			return false, ctx.Err()
		}
		return false, unavailable("delete object", err)
	}
	if c != (metadata.Condition{}) {
		return false, fmt.Errorf("delete object: %w", metadata.ErrConditionalConflict)
	}
	return false, unavailable("delete object", kv.ErrConflict)
}

// tryDelete is one attempt; it returns the record it found. Where seen is set,
// an earlier attempt may have deleted that record: then only the same one is
// deleted again, and a newer version, which came after our delete began, is
// left alone.
func (s *Objects) tryDelete(ctx context.Context, b *metadata.Bucket, key string, c *metadata.Condition, seen []byte) (found bool, v []byte, err error) {
	t, err := s.e.begin(ctx)
	if err != nil {
		return false, nil, err
	}
	k := t.objectKey(b.ID, key)
	if v, err = t.Get(ctx, k); err != nil {
		return false, nil, err
	}
	if seen != nil && v != nil && string(seen) != string(v) {
		return false, nil, fmt.Errorf("%w: outcome unknown", metadata.ErrUnavailable)
	}
	if seen != nil && v == nil {
		return true, nil, nil
	}
	cur, err := decodeCurrent(v)
	if err != nil {
		return false, nil, fmt.Errorf("object %q: %w", key, err)
	}
	if err := check(c, cur); err != nil {
		return false, nil, err
	}
	if cur == nil {
		return false, nil, s.checkBucket(ctx, b)
	}
	t.Delete(k)
	if err := s.blobs.oweVersion(ctx, t, cur); err != nil {
		return false, nil, err
	}
	return true, v, t.Commit(ctx)
}

// checkBucket answers for a delete of nothing: whether the bucket is there.
func (s *Objects) checkBucket(ctx context.Context, b *metadata.Bucket) error {
	now, err := s.buckets.Bucket(ctx, b.Name)
	if err == nil && now.ID != b.ID {
		return metadata.ErrNoSuchBucket
	}
	return err
}

// Layout implements metadata.Objects. Where the object was replaced and its
// part lists are gone, it answers ErrNoSuchKey: look the key up again.
func (s *Objects) Layout(ctx context.Context, o *metadata.Object, off, n int64) ([]metadata.Extent, error) {
	if off < 0 || n <= 0 || off >= o.Size {
		return nil, nil
	}
	n = min(n, o.Size-off)
	r := span{off: off, end: off + n}
	if len(o.Manifest) == 0 {
		for i := range o.Blobs {
			r.add(o.Blobs[i])
		}
		return r.extents, r.whole()
	}
	m, err := decodeManifest(o.Manifest)
	if err != nil {
		return nil, err
	}
	first := sort.Search(len(m.chunks), func(i int) bool { return m.chunks[i].start > off }) - 1
	for i := max(first, 0); i < len(m.chunks) && m.chunks[i].start < r.end; i++ {
		parts, err := s.chunk(ctx, &m, i)
		if err != nil {
			return nil, err
		}
		r.at = m.chunks[i].start
		for j := range parts {
			for _, l := range parts[j].blobs {
				r.add(l)
			}
		}
	}
	return r.extents, r.whole()
}

// span collects the extents of a range out of consecutive blobs.
type span struct {
	off, end int64 // what is asked for
	at       int64 // where the next blob starts
	covered  int64
	extents  []metadata.Extent
}

func (r *span) add(l metadata.Located) {
	start := r.at
	r.at += l.Blob.Size
	from, to := max(r.off, start), min(r.end, r.at)
	if from < to {
		r.extents = append(r.extents, metadata.Extent{Located: l, Offset: from - start, Length: to - from})
		r.covered += to - from
	}
}

func (r *span) whole() error {
	if r.covered != r.end-r.off {
		return fmt.Errorf("layout has %d of %d bytes: %w", r.covered, r.end-r.off, errRecord)
	}
	return nil
}

func (s *Objects) chunk(ctx context.Context, m *manifest, i int) ([]listedPart, error) {
	v, err := s.e.get(ctx, "part list", new(arena).chunkKey(m.upload, i))
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fmt.Errorf("part list of upload %s: %w", m.upload, metadata.ErrNoSuchKey)
	}
	parts, err := decodeChunk(v)
	if err != nil {
		return nil, fmt.Errorf("part list of upload %s: %w", m.upload, err)
	}
	return parts, nil
}

// Parts implements metadata.Objects.
func (s *Objects) Parts(ctx context.Context, o *metadata.Object, after, limit int) ([]metadata.ObjectPart, error) {
	if len(o.Manifest) == 0 || limit <= 0 {
		return nil, nil
	}
	m, err := decodeManifest(o.Manifest)
	if err != nil {
		return nil, err
	}
	var list []metadata.ObjectPart
	first := sort.Search(len(m.chunks), func(i int) bool { return m.chunks[i].part > after+1 }) - 1
	for i := max(first, 0); i < len(m.chunks); i++ {
		parts, err := s.chunk(ctx, &m, i)
		if err != nil {
			return nil, err
		}
		at := m.chunks[i].start
		for _, p := range parts {
			if p.number > after {
				list = append(list, metadata.ObjectPart{Number: p.number, Offset: at, Size: p.size, Checksum: p.checksum})
				if len(list) == limit {
					return list, nil
				}
			}
			at += p.size
		}
	}
	return list, nil
}
