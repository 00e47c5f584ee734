package catalog

import (
	"context"
	"errors"
	"fmt"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
)

// Uploads keeps multipart uploads (famUpload), their parts (famPart) and, in
// complete.go, what becomes of them. Upload ids are unique for ever and at
// most 255 bytes; uploads of a key are listed in the order of their ids.
//
// An upload has a record while it is open or completing. When it ends, its
// record goes and a row takes its place that says that its parts are to be
// cleared (owed.go): both aborting and completing are one transaction, however
// many parts there are.
type Uploads struct {
	e       *engine
	blobs   *Blobs
	buckets *Buckets
}

// inBucket runs f, and again where a deletion of the bucket that f met was
// taken back.
func (s *Uploads) inBucket(ctx context.Context, b *metadata.Bucket, f func() error) error {
	err := f()
	for range maxUnknown {
		if !errors.Is(err, errDeleting) {
			return err
		}
		if err = s.buckets.settle(ctx, b); err == nil {
			err = f()
		}
	}
	if errors.Is(err, errDeleting) {
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, err)
	}
	return err
}

// CreateUpload implements metadata.Uploads.
func (s *Uploads) CreateUpload(ctx context.Context, b metadata.Bucket, u metadata.Upload) error {
	if u.ID == "" || len(u.ID) > maxUploadID {
		return fmt.Errorf("create upload: id of %d bytes: %w", len(u.ID), metadata.ErrNoSuchUpload)
	}
	return s.inBucket(ctx, &b, func() error {
		return s.e.update(ctx, "create upload", func(t *txn) error {
			if err := assertActive(ctx, t, &b); err != nil {
				return err
			}
			key := t.uploadKey(b.ID, u.Key, u.ID)
			if v, err := t.Get(ctx, key); v != nil || err != nil {
				return err // an attempt with an unknown outcome made it
			}
			r := uploadRecord{Upload: u, state: uploadOpen}
			t.Put(key, encodeUpload(t.room(uploadRecordSize(&u)), &r))
			return nil
		})
	})
}

// read gives an upload that has not ended.
func (s *Uploads) read(ctx context.Context, b metadata.BucketID, key, id string) (*uploadRecord, error) {
	if id == "" || len(id) > maxUploadID {
		return nil, metadata.ErrNoSuchUpload
	}
	v, err := s.e.get(ctx, "upload", new(arena).uploadKey(b, key, id))
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, metadata.ErrNoSuchUpload
	}
	u, err := decodeUpload(key, id, v)
	if err != nil {
		return nil, fmt.Errorf("upload %s: %w", id, err)
	}
	return u, nil
}

// Upload implements metadata.Uploads.
func (s *Uploads) Upload(ctx context.Context, b metadata.BucketID, key, id string) (metadata.Upload, error) {
	u, err := s.read(ctx, b, key, id)
	if err != nil {
		return metadata.Upload{}, err
	}
	return u.Upload, nil
}

// PutPart implements metadata.Uploads. At most 8 blobs make a part.
func (s *Uploads) PutPart(ctx context.Context, b metadata.Bucket, key, id string, p metadata.Part, blobs []metadata.Written) error {
	if len(blobs) > maxBlobs {
		return fmt.Errorf("put part: %w", errTooManyBlobs)
	}
	if p.Number < 1 || p.Number > 10000 {
		return fmt.Errorf("put part %d: %w", p.Number, metadata.ErrInvalidPart)
	}
	if id == "" || len(id) > maxUploadID {
		return metadata.ErrNoSuchUpload
	}
	r := partRecord{Part: p}
	for i := range blobs {
		r.blobs = append(r.blobs, metadata.Located{PG: blobs[i].Group.PG, Blob: blobs[i].Blob})
	}
	var err error
	aerr := s.inBucket(ctx, &b, func() error {
		for range maxAttempts {
			if err = s.tryPutPart(ctx, &b, key, id, &r, blobs); errors.Is(err, errCompleting) {
				if err = s.takeBack(ctx, b.ID, key, id); err == nil {
					err = kv.ErrConflict
				}
			}
			if !errors.Is(err, kv.ErrConflict) || ctx.Err() != nil {
				break
			}
		}
		return err
	})
	switch {
	case aerr == nil:
		s.blobs.groups.filled(blobs)
		return nil
	case errors.Is(aerr, kv.ErrUnknown):
		if aerr = s.blobs.settleUnknown(ctx, "put part", blobs); aerr == nil {
			s.blobs.groups.filled(blobs)
		}
		return aerr
	}
	return unavailable("put part", aerr)
}

func (s *Uploads) tryPutPart(ctx context.Context, b *metadata.Bucket, key, id string, r *partRecord, blobs []metadata.Written) error {
	t, err := s.e.begin(ctx)
	if err != nil {
		return err
	}
	upload, partKey := t.uploadKey(b.ID, key, id), t.partKey(id, r.Number)
	if err := s.blobs.prefetch(ctx, t, blobs, t.bucketKey(b.Name), upload, partKey); err != nil {
		return err
	}
	if err := assertActive(ctx, t, b); err != nil {
		return err
	}
	v, err := t.Get(ctx, upload)
	if err != nil {
		return err
	}
	if v == nil {
		return metadata.ErrNoSuchUpload
	}
	if state, err := uploadState(v); err != nil {
		return fmt.Errorf("upload %s: %w", id, err)
	} else if state != uploadOpen {
		return errCompleting
	}
	if v, err = t.Get(ctx, partKey); err != nil {
		return err
	}
	if v != nil {
		old, err := decodePart(r.Number, v)
		if err != nil {
			return fmt.Errorf("part %d of upload %s: %w", r.Number, id, err)
		}
		if err := s.blobs.owe(ctx, t, old.blobs, s.e.now()); err != nil {
			return err
		}
	}
	var missing [maxBlobs]erasure.SlotMask
	if err := s.blobs.admit(ctx, t, blobs, missing[:]); err != nil {
		return err
	}
	t.Put(partKey, encodePart(t.room(96+len(r.ETag)+len(r.Checksum.Value)+len(blobs)*blobSize), r))
	s.blobs.record(t, blobs, missing[:], &owner{kind: metadata.OwnedByUpload, bucket: b.ID, key: key, upload: id, part: r.Number})
	return t.Commit(ctx)
}

// errCompleting says that a completion has begun and neither ended the upload nor
// was refused.
var errCompleting = errors.New("the upload is being completed")

// takeBack waits for a completion that is under way in this process. Where the upload
// is completing still, none is: one died, or one at another gateway finds itself
// fenced now, and its client tries again.
func (s *Uploads) takeBack(ctx context.Context, b metadata.BucketID, key, id string) error {
	end, err := s.e.turn(ctx, []byte(id))
	if err != nil {
		return err
	}
	defer end()
	return s.e.update(ctx, "reopen upload", func(t *txn) error {
		k := t.uploadKey(b, key, id)
		v, err := t.Get(ctx, k)
		if v == nil || err != nil {
			return err
		}
		u, err := decodeUpload(key, id, v)
		if err != nil {
			return fmt.Errorf("upload %s: %w", id, err)
		}
		if u.state == uploadOpen {
			return nil
		}
		u.state = uploadOpen
		t.Put(k, encodeUpload(t.room(uploadRecordSize(&u.Upload)), u))
		return nil
	})
}

// ListParts implements metadata.Uploads. The upload is looked for behind its parts:
// while it is there, none was cleared.
func (s *Uploads) ListParts(ctx context.Context, b metadata.BucketID, key, id string, after, limit int) ([]metadata.Part, bool, error) {
	list, more, err := s.listParts(ctx, id, after, limit)
	if err != nil {
		return nil, false, err
	}
	if _, err := s.read(ctx, b, key, id); err != nil {
		return nil, false, err
	}
	return list, more, nil
}

func (s *Uploads) listParts(ctx context.Context, id string, after, limit int) ([]metadata.Part, bool, error) {
	var list []metadata.Part
	if limit <= 0 || after >= 1<<16-1 || id == "" || len(id) > maxUploadID {
		return nil, false, nil
	}
	from := new(arena).partKey(id, max(0, after)+1)
	for p, err := range s.e.kv.Scan(ctx, from, prefixEnd(appendIDPrefix(nil, famPart, id))) {
		if err != nil {
			return nil, false, unavailable("list parts", err)
		}
		if len(list) == limit {
			return list, true, nil
		}
		r, err := decodePart(partNumber(p.Key), p.Value)
		if err != nil {
			return nil, false, fmt.Errorf("part of upload %s: %w", id, err)
		}
		list = append(list, r.Part)
	}
	return list, false, nil
}

// partNumber reads the number off a part key.
func partNumber(key []byte) int {
	if len(key) < 4 {
		return 0
	}
	return int(key[len(key)-2])<<8 | int(key[len(key)-1])
}

// AbortUpload implements metadata.Uploads. The upload is gone with one
// transaction; what it held is cleared at once where that takes few steps, and
// else by the next ScanOwed.
func (s *Uploads) AbortUpload(ctx context.Context, b metadata.Bucket, key, id string) error {
	if id == "" || len(id) > maxUploadID {
		return metadata.ErrNoSuchUpload
	}
	err := s.e.update(ctx, "abort upload", func(t *txn) error {
		uploadKey := t.uploadKey(b.ID, key, id)
		v, err := t.Get(ctx, uploadKey)
		if err != nil {
			return err
		}
		if v == nil && t.maybe {
			return aborted(ctx, t, id)
		}
		if v == nil {
			return metadata.ErrNoSuchUpload
		}
		return endUpload(ctx, t, uploadKey, id, s.e.now())
	})
	if err != nil {
		return err
	}
	s.clear(ctx, id)
	return nil
}

// aborted looks, after an attempt whose outcome was unknown, whether it was by an
// abort that the upload ended: that leaves a row which keeps no piece of a part
// list. A completion, whose object is there, keeps some. Where the row is worked
// off already nobody can tell, and that there is no such upload is true.
func aborted(ctx context.Context, t *txn, id string) error {
	v, err := t.Get(ctx, t.owedUploadKey(owedParts, id))
	if err != nil {
		return err
	}
	if v == nil {
		return metadata.ErrNoSuchUpload
	}
	if o, err := decodeOwedLayout(v); err != nil || o.chunks > 0 {
		return errors.Join(metadata.ErrNoSuchUpload, err)
	}
	return nil
}

// stepsAtOnce is how many transactions of clearing up are done on the request
// that made it necessary.
const stepsAtOnce = 3

// clear begins to clear what an ended upload left; ScanOwed does the rest.
func (s *Uploads) clear(ctx context.Context, id string) {
	if _, err := s.blobs.clearParts(ctx, id, stepsAtOnce); err != nil {
		s.e.log.Debug("parts of an ended upload are left to a later scan", "upload", id, "err", err)
	}
}
