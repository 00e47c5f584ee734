package segment

import (
	"context"
	"errors"
	"fmt"

	"kintsugi/storagenode"
)

// Delete implements storagenode.ShardStore.
func (s *Store) Delete(ctx context.Context, pg storagenode.PG, slot int, blob storagenode.BlobID) error {
	h := header{typ: uint8(typeTombstone), pg: uint32(pg), blob: blob}
	if err := s.state(ctx, &h, slot); err != nil {
		return fmt.Errorf("delete blob %s: %w", blob, err)
	}
	return nil
}

// SetSlotEpoch implements storagenode.ShardStore.
func (s *Store) SetSlotEpoch(ctx context.Context, pg storagenode.PG, slot int, epoch uint32) error {
	h := header{typ: uint8(typeSlotEpoch), pg: uint32(pg), epoch: epoch}
	if err := s.state(ctx, &h, slot); err != nil {
		return fmt.Errorf("set epoch of slot %d.%d: %w", pg, slot, err)
	}
	return nil
}

// DropSlot implements storagenode.ShardStore.
func (s *Store) DropSlot(ctx context.Context, pg storagenode.PG, slot int, epoch uint32) error {
	h := header{typ: uint8(typeSlotDrop), pg: uint32(pg), epoch: epoch}
	if err := s.state(ctx, &h, slot); err != nil {
		return fmt.Errorf("drop slot %d.%d: %w", pg, slot, err)
	}
	return nil
}

// state appends a record without a payload and makes it durable.
func (s *Store) state(ctx context.Context, h *header, slot int) error {
	if slot < 0 || slot >= storagenode.MaxSlots {
		return fmt.Errorf("slot %d: %w", slot, storagenode.ErrNotFound)
	}
	h.slot = uint8(slot)
	for {
		token, err := s.appendState(ctx, h)
		switch {
		case errors.Is(err, errSameFence), err == nil && token == 0:
			// Stated before, but perhaps not durable yet.
			if err := s.syncAll(ctx); err != nil || recordType(h.typ) == typeTombstone {
				return err
			}
			if stands, err := s.fenceStands(h); err != nil || stands {
				return err
			}
		case err != nil:
			return err
		default:
			return s.Sync(ctx, token)
		}
	}
}

// fenceStands says whether the index has a fence: what it has is durable. Otherwise
// the record found no space, and the next call states it again.
func (s *Store) fenceStands(h *header) (bool, error) {
	x := s.index()
	if x == nil {
		return false, errClosed
	}
	defer x.release()
	var m mark
	known, err := lookup(x.db, appendSlotKey(nil, keyEpoch, h.pg, h.slot), &m)
	if err != nil {
		return false, s.indexErr(x, err)
	}
	if known && m.value >= uint64(h.epoch) {
		return true, nil
	}
	s.mu.Lock()
	s.unsaved[slotKeyOf(h.pg, h.slot)] = true
	s.mu.Unlock()
	return false, nil
}

// appendState appends the record; token 0: a tombstone that is there already.
func (s *Store) appendState(ctx context.Context, h *header) (storagenode.Token, error) {
	i, err := s.gate.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer s.gate.leave(i)
	w := writers.Get().(*writer)
	defer writers.Put(w)
	w.head = append(w.head[:0], make([]byte, headerSize)...)
	if recordType(h.typ) == typeTombstone {
		if known, err := s.isDeleted(h, w); err != nil || known {
			return 0, err
		}
	}
	return s.append(ctx, h, w, nil, 0, nil)
}
