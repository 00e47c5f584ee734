package catalog

import (
	"context"
	"fmt"
	"time"

	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
)

// DriveRecords keeps the drives (famDrive).
type DriveRecords struct{ e *engine }

// ListDrives implements metadata.DriveRecords, in order of the ids.
func (s *DriveRecords) ListDrives(ctx context.Context) ([]metadata.DriveRecord, error) {
	var list []metadata.DriveRecord
	for p, err := range s.e.kv.Scan(ctx, []byte{famDrive}, []byte{famDrive + 1}) {
		if err != nil {
			return nil, unavailable("list drives", err)
		}
		var id storagenode.DriveID
		if copy(id[:], p.Key[1:]) != len(id) {
			return nil, fmt.Errorf("drive key %x: %w", p.Key, errRecord)
		}
		r, err := decodeDrive(id, p.Value)
		if err != nil {
			return nil, fmt.Errorf("drive %s: %w", id, err)
		}
		list = append(list, r)
	}
	return list, nil
}

// EditDrive implements metadata.DriveRecords.
func (s *DriveRecords) EditDrive(ctx context.Context, id storagenode.DriveID, edit func(*metadata.DriveRecord) bool) error {
	return s.e.update(ctx, "edit drive", func(t *txn) error {
		key := t.driveKey(id)
		v, err := t.Get(ctx, key)
		if err != nil {
			return err
		}
		r := metadata.DriveRecord{ID: id}
		if v != nil {
			if r, err = decodeDrive(id, v); err != nil {
				return fmt.Errorf("drive %s: %w", id, err)
			}
		}
		if edit(&r) {
			t.Put(key, encodeDrive(nil, &r))
		}
		return nil
	})
}

// DeleteDrives implements metadata.DriveRecords.
func (s *DriveRecords) DeleteDrives(ctx context.Context, ids []storagenode.DriveID) error {
	return s.e.update(ctx, "delete drives", func(t *txn) error {
		for _, id := range ids {
			t.Delete(t.driveKey(id))
		}
		return nil
	})
}

// HorizonMark is the least blob id that may still be committed (fmtHorizon).
type HorizonMark struct{ e *engine }

// RestoredRow is put into metadata that is loaded from a dump. While it is
// there the horizon does not move, and with it no orphan is collected.
func RestoredRow(now time.Time) kv.Pair {
	return kv.Pair{Key: new(arena).formatKey(fmtLoaded), Value: encodeNumber(nil, uint64(now.UnixMilli()))}
}

// AgreeToRestored takes the row away: an operator has seen to what was written
// after the dump.
func (s *HorizonMark) AgreeToRestored(ctx context.Context) error {
	return s.e.update(ctx, "agree to restored metadata", func(t *txn) error {
		t.Delete(t.formatKey(fmtLoaded))
		return nil
	})
}

// RaiseHorizon implements metadata.Horizon. After metadata was restored:
// metadata.ErrRestored.
func (s *HorizonMark) RaiseHorizon(ctx context.Context, h storagenode.BlobID) error {
	return s.e.update(ctx, "raise horizon", func(t *txn) error {
		restored, err := t.Get(ctx, t.formatKey(fmtLoaded))
		if err != nil {
			return err
		}
		if restored != nil {
			return metadata.ErrRestored
		}
		key := t.formatKey(fmtHorizon)
		v, err := t.Get(ctx, key)
		if err != nil {
			return err
		}
		now, err := decodeHorizon(v)
		if err != nil {
			return err
		}
		if h.Compare(now) > 0 {
			t.Put(key, encodeHorizon(t.room(17), h))
		}
		return nil
	})
}

// Horizon implements metadata.Horizon.
func (s *HorizonMark) Horizon(ctx context.Context) (storagenode.BlobID, error) {
	v, err := s.e.get(ctx, "horizon", new(arena).formatKey(fmtHorizon))
	if err != nil {
		return storagenode.BlobID{}, err
	}
	return decodeHorizon(v)
}
