package repair

import (
	"sync"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// moving remembers which slots have all that they should hold on two drives: those
// that this repairer mapped to another drive while they were clean – what they held
// lies on the drive that they came from, and what was written since on the new one –,
// and those of which the inventory found it so, since another repairer had moved
// them. Of a slot that was moved again before it was rebuilt it need not be: what was
// written in between is on neither. It holds one entry at most for each slot there
// is. Safe for concurrent use.
type moving struct {
	mu    sync.Mutex
	slots map[movedSlot]uint32 // epochs, guarded by mu
}

type movedSlot struct {
	pg   storagenode.PG
	slot int
}

// began notes that a slot was mapped to another drive.
func (m *moving) began(pg storagenode.PG, slot int, was storagenode.Slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slots == nil {
		m.slots = map[movedSlot]uint32{}
	}
	if was.State == storagenode.SlotClean {
		m.slots[movedSlot{pg, slot}] = was.Epoch + 1
	} else {
		delete(m.slots, movedSlot{pg, slot})
	}
}

// found notes that a slot's two drives together have all of it.
func (m *moving) found(pg storagenode.PG, slot int, epoch uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slots == nil {
		m.slots = map[movedSlot]uint32{}
	}
	m.slots[movedSlot{pg, slot}] = epoch
}

// known says that found, or began, noted it of a slot with this epoch.
func (m *moving) known(pg storagenode.PG, slot int, epoch uint32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.slots[movedSlot{pg, slot}] == epoch
}

// held are the slots of a group whose shards are there while they are moved:
// there says it of a drive.
func (m *moving) held(g erasure.Group, there func(storagenode.DriveID) bool) erasure.SlotMask {
	m.mu.Lock()
	defer m.mu.Unlock()
	var held erasure.SlotMask
	for i, s := range g.Slots {
		if s.State != storagenode.SlotRebuilding || s.From.IsZero() || m.slots[movedSlot{g.PG, i}] != s.Epoch {
			continue
		}
		if there(s.From) && there(s.Drive) {
			held = held.With(i)
		}
	}
	return held
}
