package catalog

import (
	"context"
	"fmt"
	"time"

	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
)

// Rounds keeps how far slow rounds are (famOrphan, famScrub).
type Rounds struct{ e *engine }

func encodeSighting(dst []byte, s *metadata.Sighting) []byte {
	e := encoder{append(dst, recordV1)}
	e.uvarint(uint64(max(0, s.Waited.Milliseconds())))
	e.uvarint(uint64(max(0, s.Passes)))
	e.time(s.Seen)
	e.bool(s.Agreed)
	return e.p
}

func decodeSighting(id storagenode.BlobID, value []byte) (s metadata.Sighting, err error) {
	d := newDecoder(value)
	s.Blob = id
	s.Waited = time.Duration(d.int(maxWaited)) * time.Millisecond
	s.Passes, s.Seen, s.Agreed = int(d.int(1<<31-1)), d.time(), d.bool()
	return s, d.err()
}

// maxWaited is in milliseconds: what a time.Duration holds.
const maxWaited = int64(1<<63-1) / int64(time.Millisecond)

// Sightings implements metadata.Rounds.
func (s *Rounds) Sightings(ctx context.Context, pg storagenode.PG, slot uint8) ([]metadata.Sighting, error) {
	from := new(arena).orphanKey(pg, slot, storagenode.BlobID{})
	var list []metadata.Sighting
	for p, err := range s.e.kv.Scan(ctx, from, prefixEnd(from[:6])) {
		if err != nil {
			return nil, unavailable("sightings", err)
		}
		var id storagenode.BlobID
		if copy(id[:], p.Key[6:]) != len(id) {
			return nil, fmt.Errorf("orphan key %x: %w", p.Key, errRecord)
		}
		one, err := decodeSighting(id, p.Value)
		if err != nil {
			return nil, fmt.Errorf("orphan %x: %w", p.Key, err)
		}
		list = append(list, one)
	}
	return list, nil
}

// KeepSightings implements metadata.Rounds.
func (s *Rounds) KeepSightings(ctx context.Context, pg storagenode.PG, slot uint8, keep []metadata.Sighting, forget []storagenode.BlobID) error {
	for len(keep)+len(forget) > 0 {
		puts := keep[:min(len(keep), kv.MaxTxnOps)]
		drops := forget[:min(len(forget), kv.MaxTxnOps-len(puts))]
		err := s.e.update(ctx, "keep sightings", func(t *txn) error {
			for i := range puts {
				t.Put(t.orphanKey(pg, slot, puts[i].Blob), encodeSighting(nil, &puts[i]))
			}
			for _, id := range drops {
				t.Delete(t.orphanKey(pg, slot, id))
			}
			return nil
		})
		if err != nil {
			return err
		}
		keep, forget = keep[len(puts):], forget[len(drops):]
	}
	return nil
}

// encodeMoment stores a time; decodeMoment reads it.
func encodeMoment(dst []byte, at time.Time) []byte {
	e := encoder{append(dst, recordV1)}
	e.time(at)
	return e.p
}

func decodeMoment(value []byte) (time.Time, error) {
	d := newDecoder(value)
	at := d.time()
	return at, d.err()
}

// Scrubs implements metadata.Rounds.
func (s *Rounds) Scrubs(ctx context.Context) (map[storagenode.DriveID]time.Time, error) {
	all := make(map[storagenode.DriveID]time.Time)
	for p, err := range s.e.kv.Scan(ctx, []byte{famScrub}, []byte{famScrub + 1}) {
		if err != nil {
			return nil, unavailable("scrubs", err)
		}
		var id storagenode.DriveID
		if copy(id[:], p.Key[1:]) != len(id) {
			return nil, fmt.Errorf("scrub key %x: %w", p.Key, errRecord)
		}
		at, err := decodeMoment(p.Value)
		if err != nil {
			return nil, fmt.Errorf("scrub of drive %s: %w", id, err)
		}
		all[id] = at
	}
	return all, nil
}

// PutScrub implements metadata.Rounds.
func (s *Rounds) PutScrub(ctx context.Context, id storagenode.DriveID, ended time.Time) error {
	return s.e.update(ctx, "put scrub", func(t *txn) error {
		t.Put(t.scrubKey(id), encodeMoment(t.room(12), ended))
		return nil
	})
}
