package catalog

import (
	"context"
	"errors"
	"fmt"

	"kintsugi/metadata"
	"kintsugi/metadata/kv"
)

// A completion goes through four steps. The upload is set completing, under
// the number of this attempt: from then on its parts stand still, and every
// further step asserts the number, so that of two completions the later one
// wins. The parts are checked. The part lists are written, in as many
// transactions as they need. At last one transaction makes the object, ends
// the upload and owes the replaced version a delete. A crash before that
// leaves the upload completing; the next attempt starts from the parts again, or
// a part that is uploaded opens it (uploads.go).

// Bounds of a piece of a part list, and of one transaction that writes them.
const (
	partsPerChunk = 256
	bytesPerChunk = 60 << 10
	bytesPerWrite = 256 << 10
)

// errFenced says that a later completion of the same upload has begun.
var errFenced = fmt.Errorf("%w: another completion of the upload is under way", metadata.ErrUnavailable)

// completion is one attempt.
type completion struct {
	s       *Uploads
	bucket  *metadata.Bucket
	key, id string
	want    *metadata.Completion
	upload  *uploadRecord // as it was found, with this attempt's number
}

// CompleteUpload implements metadata.Uploads.
func (s *Uploads) CompleteUpload(ctx context.Context, b metadata.Bucket, key, id string, c metadata.Completion) (*metadata.Object, error) {
	if id == "" || len(id) > maxUploadID {
		return nil, metadata.ErrNoSuchUpload
	}
	// One at a time in this process: a repeated request waits for the first
	// and then finds the object it made.
	end, err := s.e.turn(ctx, []byte(id))
	if err != nil {
		return nil, err
	}
	defer end()
	run := &completion{s: s, bucket: &b, key: key, id: id, want: &c}
	o, err := run.completed(ctx)
	if o != nil || err != nil && !errors.Is(err, metadata.ErrNoSuchUpload) {
		return o, err
	}
	err = s.inBucket(ctx, &b, func() error {
		o, err = run.do(ctx)
		return err
	})
	if errors.Is(err, metadata.ErrNoSuchUpload) {
		// It was there, or so it seemed: another request may have ended it just now,
		// the same one at another gateway for instance.
		return run.completed(ctx)
	}
	if err != nil {
		return nil, err
	}
	s.clear(ctx, id)
	return o, nil
}

// completed gives the object where this upload made the current version of
// the key; ErrNoSuchUpload where it did not.
func (c *completion) completed(ctx context.Context) (*metadata.Object, error) {
	v, err := c.s.e.get(ctx, "complete upload", new(arena).objectKey(c.bucket.ID, c.key))
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, metadata.ErrNoSuchUpload
	}
	o, err := decodeObject(c.key, v)
	if err != nil {
		return nil, fmt.Errorf("object %q: %w", c.key, err)
	}
	if len(o.Manifest) == 0 {
		return nil, metadata.ErrNoSuchUpload
	}
	if m, err := decodeManifest(o.Manifest); err != nil || m.upload != c.id {
		return nil, errors.Join(metadata.ErrNoSuchUpload, err)
	}
	return o, nil
}

func (c *completion) do(ctx context.Context) (*metadata.Object, error) {
	if err := c.begin(ctx); err != nil {
		return nil, err
	}
	o, m, lists, err := c.prepare(ctx)
	if err == nil {
		if err = c.writeLists(ctx, lists); err == nil {
			err = c.finish(ctx, o, m)
		}
	}
	switch {
	case err == nil:
		return o, nil
	case errors.Is(err, metadata.ErrUnavailable), errors.Is(err, metadata.ErrNoSuchUpload), ctx.Err() != nil:
		// It stays completing, for another attempt.
		return nil, err
	}
	rerr := c.reopen(ctx)
	if errors.Is(rerr, metadata.ErrNoSuchUpload) || errors.Is(rerr, errFenced) {
		return nil, rerr // what it was refused for may be another's doing: parts moved under it
	}
	if rerr != nil {
		c.s.e.log.Warn("upload stays completing after a refused completion", "key", c.key, "upload", c.id, "err", rerr)
	}
	return nil, err
}

// begin sets the upload completing under a number of its own.
func (c *completion) begin(ctx context.Context) error {
	return c.s.e.update(ctx, "complete upload", func(t *txn) error {
		if err := assertActive(ctx, t, c.bucket); err != nil {
			return err
		}
		key := t.uploadKey(c.bucket.ID, c.key, c.id)
		v, err := t.Get(ctx, key)
		if err != nil {
			return err
		}
		if v == nil {
			return metadata.ErrNoSuchUpload
		}
		u, err := decodeUpload(c.key, c.id, v)
		if err != nil {
			return fmt.Errorf("upload %s: %w", c.id, err)
		}
		u.state = uploadCompleting
		u.attempt++
		c.upload = u
		t.Put(key, encodeUpload(t.room(uploadRecordSize(&u.Upload)), u))
		return nil
	})
}

// holds asserts within a transaction that this attempt is the latest.
func (c *completion) holds(ctx context.Context, t *txn, key []byte) error {
	v, err := t.Get(ctx, key)
	if err != nil {
		return err
	}
	if v == nil {
		return metadata.ErrNoSuchUpload
	}
	u, err := decodeUpload(c.key, c.id, v)
	if err != nil {
		return fmt.Errorf("upload %s: %w", c.id, err)
	}
	if u.state != uploadCompleting || u.attempt != c.upload.attempt {
		return errFenced
	}
	return nil
}

// reopen takes a refused completion back.
func (c *completion) reopen(ctx context.Context) error {
	return c.s.e.update(ctx, "reopen upload", func(t *txn) error {
		key := t.uploadKey(c.bucket.ID, c.key, c.id)
		if err := c.holds(ctx, t, key); err != nil {
			if t.maybe && errors.Is(err, errFenced) {
				return nil
			}
			return err
		}
		u := *c.upload
		u.state = uploadOpen
		t.Put(key, encodeUpload(t.room(uploadRecordSize(&u.Upload)), &u))
		return nil
	})
}

// prepare checks the parts, which stand still now, against what the client
// named and makes of them the object and its part lists.
func (c *completion) prepare(ctx context.Context) (*metadata.Object, *manifest, [][]byte, error) {
	if err := c.early(ctx); err != nil {
		return nil, nil, nil, err
	}
	named, err := c.named(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	parts := make([]metadata.Part, len(named))
	for i := range named {
		parts[i] = named[i].Part
	}
	etag, sum, err := c.want.Seal(parts)
	if err != nil {
		return nil, nil, nil, err
	}
	m, lists, size := partLists(c.id, named)
	o := &metadata.Object{
		Key: c.key, Version: nullVersion, Size: size, ETag: etag, Modified: c.want.Modified, Fields: c.upload.Fields,
		Checksum: sum, PartCount: len(named),
	}
	if o.Modified.IsZero() {
		o.Modified = c.s.e.now()
	}
	e := encoder{}
	e.manifest(*m)
	o.Manifest = e.p
	return o, m, lists, nil
}

// early refuses a completion whose condition does not hold before its work is
// done; what counts is the check in finish.
func (c *completion) early(ctx context.Context) error {
	if c.want.Condition == (metadata.Condition{}) {
		return nil
	}
	v, err := c.s.e.get(ctx, "complete upload", new(arena).objectKey(c.bucket.ID, c.key))
	if err != nil {
		return err
	}
	cur, err := decodeCurrent(v)
	if err != nil {
		return fmt.Errorf("object %q: %w", c.key, err)
	}
	return check(&c.want.Condition, cur)
}

// named gives the stored parts that the client named, in order.
func (c *completion) named(ctx context.Context) ([]partRecord, error) {
	want := c.want.Parts
	if len(want) == 0 {
		return nil, fmt.Errorf("no part is named: %w", metadata.ErrInvalidPart)
	}
	for i := range want {
		if i > 0 && want[i].Number <= want[i-1].Number {
			return nil, fmt.Errorf("part %d after %d: %w", want[i].Number, want[i-1].Number, metadata.ErrInvalidPartOrder)
		}
	}
	named := make([]partRecord, 0, len(want))
	from := appendIDPrefix(nil, famPart, c.id)
	for p, err := range c.s.e.kv.Scan(ctx, from, prefixEnd(from)) {
		if err != nil {
			return nil, unavailable("complete upload", err)
		}
		if len(named) == len(want) {
			break
		}
		w := &want[len(named)]
		number := partNumber(p.Key)
		if number < w.Number {
			continue
		}
		if number > w.Number {
			break
		}
		r, err := decodePart(number, p.Value)
		if err != nil {
			return nil, fmt.Errorf("part %d of upload %s: %w", number, c.id, err)
		}
		if trimQuotes(w.ETag) != r.ETag || w.Checksum.Value != "" &&
			(w.Checksum.Value != r.Checksum.Value || w.Checksum.Algorithm != r.Checksum.Algorithm) {
			return nil, fmt.Errorf("part %d is another: %w", number, metadata.ErrInvalidPart)
		}
		named = append(named, r)
	}
	if len(named) < len(want) {
		return nil, fmt.Errorf("part %d was not uploaded: %w", want[len(named)].Number, metadata.ErrInvalidPart)
	}
	for i := range len(named) - 1 {
		if named[i].Size < c.want.MinPart {
			return nil, fmt.Errorf("part %d has %d bytes: %w", named[i].Number, named[i].Size, metadata.ErrPartTooSmall)
		}
	}
	return named, nil
}

// partLists cuts the parts into pieces.
func partLists(id string, parts []partRecord) (m *manifest, lists [][]byte, size int64) {
	m = &manifest{upload: id}
	var list []byte
	inList := 0
	for i := range parts {
		p := listedPart{number: parts[i].Number, size: parts[i].Size, checksum: parts[i].Checksum, blobs: parts[i].blobs}
		if inList == partsPerChunk || len(list) > bytesPerChunk-maxBlobs*blobSize {
			lists, list, inList = append(lists, list), nil, 0
		}
		if inList == 0 {
			list = append(list, recordV1)
			m.chunks = append(m.chunks, chunkRef{part: p.number, start: size})
		}
		list = encodeListedPart(list, &p)
		inList++
		size += p.size
	}
	return m, append(lists, list), size
}

// writeLists stores the pieces in bounded transactions.
func (c *completion) writeLists(ctx context.Context, lists [][]byte) error {
	for at := 0; at < len(lists); {
		n, size := 0, 0
		for at+n < len(lists) && n < kv.MaxTxnOps && (n == 0 || size+len(lists[at+n]) <= bytesPerWrite) {
			size += len(lists[at+n])
			n++
		}
		err := c.s.e.update(ctx, "complete upload", func(t *txn) error {
			if err := c.holds(ctx, t, t.uploadKey(c.bucket.ID, c.key, c.id)); err != nil {
				return err
			}
			for i := range n {
				t.Put(t.chunkKey(c.id, at+i), lists[at+i])
			}
			return nil
		})
		if err != nil {
			return err
		}
		at += n
	}
	return nil
}

// finish makes the object. After an unknown outcome it looks for what the
// transaction wrote: the object, or the rows of its later deletion.
func (c *completion) finish(ctx context.Context, o *metadata.Object, m *manifest) error {
	err := c.s.e.commit(ctx, func(t *txn) error {
		if err := assertActive(ctx, t, c.bucket); err != nil {
			return err
		}
		uploadKey := t.uploadKey(c.bucket.ID, c.key, c.id)
		if err := c.holds(ctx, t, uploadKey); err != nil {
			if t.maybe && errors.Is(err, metadata.ErrNoSuchUpload) {
				return c.traced(ctx, t)
			}
			return err
		}
		key := t.objectKey(c.bucket.ID, c.key)
		v, err := t.Get(ctx, key)
		if err != nil {
			return err
		}
		cur, err := decodeCurrent(v)
		if err != nil {
			return fmt.Errorf("object %q: %w", c.key, err)
		}
		if err := check(&c.want.Condition, cur); err != nil {
			return err
		}
		t.Put(key, encodeObject(t.room(objectRecordSize(o, 0)), o, nil))
		t.Delete(uploadKey)
		t.Put(t.owedUploadKey(owedParts, c.id), encodeOwedLayout(t.room(32), owedLayout{since: c.s.e.now(), chunks: len(m.chunks)}))
		if cur != nil {
			return c.s.blobs.oweVersion(ctx, t, cur)
		}
		return nil
	})
	if errors.Is(err, kv.ErrConflict) && c.want.Condition != (metadata.Condition{}) {
		return fmt.Errorf("complete upload: %w", metadata.ErrConditionalConflict)
	}
	return unavailable("complete upload", err)
}

// traced looks, after the upload has ended in an attempt whose outcome was
// unknown, whether it was by becoming the object: then the object is there, or
// was replaced and is owed. A single trace may be worked off already; the
// answer then is that we do not know.
func (c *completion) traced(ctx context.Context, t *txn) error {
	v, err := t.Get(ctx, t.objectKey(c.bucket.ID, c.key))
	if err != nil {
		return err
	}
	cur, err := decodeCurrent(v)
	if err != nil {
		return err
	}
	if cur != nil && len(cur.manifest) > 0 {
		if m, err := decodeManifest(cur.manifest); err == nil && m.upload == c.id {
			return nil
		}
	}
	if v, err = t.Get(ctx, t.owedUploadKey(owedList, c.id)); err != nil {
		return err
	}
	if v != nil {
		return nil
	}
	return fmt.Errorf("%w: outcome unknown", metadata.ErrUnavailable)
}
