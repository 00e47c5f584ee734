package segment

import (
	"errors"
	"fmt"

	"kintsugi/storagenode"
)

// pending is a record that was given a place in the log and is not durable.
type pending struct {
	h     header
	seg   *segFile
	off   int64
	size  int64
	pad   int64 // of the skip record after it
	from  place // of the copied record, where moved
	moved bool
	state uint8
	data  []byte // the whole record, where staged
}

// end is where the next record begins.
func (p *pending) end() int64 { return p.off + p.size + p.pad }

const (
	stateWriting = iota
	stateStaged  // in memory: the committer writes it
	stateWritten
	stateFailed
)

func (r reservation) token() storagenode.Token {
	return storagenode.Token(r.incarnation<<ticketBits | r.ticket&ticketMask)
}

// reservation is a place in the log for one record.
type reservation struct {
	ticket      uint64
	incarnation uint64
	seg         *segFile
	off, pad    int64
}

// notLooked stands for deadGen where the caller did not look for a tombstone.
const notLooked = ^uint64(0)

// Bounds of what may be accepted and not durable.
const (
	maxQueue      = 32 << 10
	maxQueueBytes = 256 << 20
)

var (
	errRetry     = errors.New("look again")
	errLook      = errors.New("look for a tombstone first")
	errBehind    = errors.New("too much is not yet durable")
	errSameFence = errors.New("the fence is already there")
)

func (s *Store) lastTicket() uint64 { return s.base + uint64(len(s.queue)) - 1 }

// reserve gives a record of size bytes its place, seq and ticket, and makes
// what it states known to later reservations. A copy keeps its seq. gen is
// what deadGen was when the caller looked for a tombstone. staged is the whole
// record, whose header is encoded here, or nil where the caller writes it.
func (s *Store) reserve(h *header, size int64, gen uint64, from *place, staged []byte) (reservation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := s.refusal(h, gen, from != nil); err != nil {
			return reservation{}, err
		}
		if s.growing {
			s.cond.Wait()
			continue
		}
		if g := s.active; g == nil || g.tail+size+blockSlack > g.allocated {
			if err := s.grow(g, size+blockSlack); err != nil {
				return reservation{}, err
			}
			continue
		}
		if s.fillMeets(size) {
			s.cond.Wait()
			continue
		}
		break
	}
	return s.occupy(h, size, from, staged), nil
}

// fillMeets says whether the active segment is being zero-filled where a record
// of size bytes would go. mu is held.
func (s *Store) fillMeets(size int64) bool {
	return s.filling == s.active && s.active.tail+size+blockSlack > s.fillFrom
}

// occupy gives a record its place in the active segment, which has room: staged
// ones follow one another, others begin a block. mu is held.
func (s *Store) occupy(h *header, size int64, from *place, staged []byte) reservation {
	g := s.active
	if staged == nil {
		s.closeBlock(g)
	}
	if from == nil {
		h.seq = s.nextSeq
		s.nextSeq++
	}
	s.note(h, from != nil)
	h.synced = uint32(g.durable / recordAlign)
	g.lowerMinSeq(h.seq)
	p := pending{h: *h, seg: g, off: g.tail, size: size}
	if from != nil {
		p.from, p.moved = *from, true
	}
	if staged == nil {
		p.pad = padOf(p.off + size)
	} else {
		h.encode(staged, g.bind, p.off)
		p.data, p.state = staged, stateStaged
		s.staged.Add(size)
	}
	g.tail = p.end()
	g.filled = max(g.filled, g.tail)
	s.queue = append(s.queue, p)
	s.bytes += size
	return reservation{s.lastTicket(), s.incarnation, g, p.off, p.pad}
}

// refusal says why a record may not be appended now. mu is held.
func (s *Store) refusal(h *header, gen uint64, moved bool) error {
	switch {
	case s.ending:
		return errClosed
	case s.broken.Load() != nil:
		return s.brokenErr()
	case moved:
		return nil
	}
	slot := slotKeyOf(h.pg, h.slot)
	fence := s.fences[slot]
	switch recordType(h.typ) {
	case typeShard:
		switch {
		case h.epoch < fence:
			return fmt.Errorf("epoch %d, fence %d: %w", h.epoch, fence, storagenode.ErrStaleEpoch)
		case s.dying[blobKey{slot, h.blob}] > 0:
			return storagenode.ErrDeleted
		case gen == notLooked && h.blob.Compare(s.deadTo) > 0: // no tombstone is of so young a blob
		case gen == notLooked:
			return errLook
		case gen != s.deadGen.Load():
			return errRetry
		}
		switch {
		case s.readOnly.Load():
			return storagenode.ErrReadOnly
		case len(s.queue) >= maxQueue || s.bytes >= maxQueueBytes:
			return errBehind
		}
	case typeSlotEpoch:
		if h.epoch < fence {
			return fmt.Errorf("epoch %d, fence %d: %w", h.epoch, fence, storagenode.ErrStaleEpoch)
		}
		if _, known := s.fences[slot]; known && h.epoch == fence && !s.unsaved[slot] {
			return errSameFence
		}
	case typeSlotDrop:
		if h.epoch < fence {
			return fmt.Errorf("drop up to epoch %d, fence %d: %w", h.epoch, fence, storagenode.ErrStaleEpoch)
		}
	}
	return nil
}

// note makes a reserved record known to later reservations. mu is held.
func (s *Store) note(h *header, moved bool) {
	if moved {
		return
	}
	switch recordType(h.typ) {
	case typeTombstone:
		s.dying[blobKey{slotKeyOf(h.pg, h.slot), h.blob}]++
		s.deadTo = later(s.deadTo, h.blob)
	case typeSlotEpoch:
		s.fences[slotKeyOf(h.pg, h.slot)] = h.epoch
		delete(s.unsaved, slotKeyOf(h.pg, h.slot))
	}
}

// grow makes room for size bytes: more of the active segment, or a new one.
// mu is held, and let go meanwhile.
func (s *Store) grow(g *segFile, size int64) error {
	s.growing = true
	id := s.nextSeg
	more := g != nil && (g.tail+size <= s.segSize || g.used() == 0)
	var allocated int64
	if more {
		allocated = s.allocStep(g.tail + size)
	}
	s.mu.Unlock()
	var err error
	var made *segFile
	if more {
		err = allocate(g.f, g.allocated, allocated)
	} else {
		made, err = s.createSegment(id, size)
	}
	if err == nil {
		s.checkSpace()
	}
	s.mu.Lock()
	s.growing = false
	s.cond.Broadcast()
	switch {
	case err != nil:
		return s.growFailed(err)
	case more:
		g.allocated = allocated
	default:
		if g != nil {
			s.closeBlock(g)
			g.sealed = true
		}
		s.nextSeg = id + 1
		s.active = made
		s.setSegment(id, made)
	}
	return nil
}

// growFailed gives a failure to make room its meaning. mu is held.
func (s *Store) growFailed(err error) error {
	s.nextSeg++ // a leftover may have the name
	s.mu.Unlock()
	defer s.mu.Lock()
	if refused := s.passing(err); refused != nil {
		return refused
	}
	s.fail(err)
	return s.brokenErr()
}

// wrote takes note of how the write of a reserved record ended.
func (s *Store) wrote(r reservation, size int64, err error) error {
	var refused error
	if err != nil {
		refused = s.passing(err)
	}
	if refused != nil {
		s.skip(r.seg, r.off, r.off+size+r.pad)
	}
	s.mu.Lock()
	p := &s.queue[r.ticket-s.base]
	p.state = stateWritten
	if err != nil {
		p.state = stateFailed
		if recordType(p.h.typ) == typeSlotEpoch {
			s.unsaved[slotKeyOf(p.h.pg, p.h.slot)] = true
		}
	}
	waited := s.want >= r.ticket
	s.mu.Unlock()
	if waited {
		s.cond.Broadcast()
	}
	switch {
	case err == nil:
		return nil
	case refused != nil:
		return fmt.Errorf("write record: %w", refused)
	default:
		s.fail(fmt.Errorf("write record: %w", err))
		return s.brokenErr()
	}
}
