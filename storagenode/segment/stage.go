package segment

import (
	"fmt"
	"sync"

	"github.com/cespare/xxhash/v2"

	"kintsugi/storagenode"
)

// Small records are staged: Put leaves them in memory, and the committer writes
// all of a group with one system call before its fdatasync. So a Put of a small
// record touches no disk but where the log grows.
const (
	stageMax    = 68 << 10 // bytes of a record; a replica of 64 KiB fits
	stageBudget = 16 << 20 // bytes staged at a time; beyond, records are written at once
	stageRun    = 512      // records of one system call
)

// stageBuffers holds buffers of small and of larger records.
var stageBuffers = [2]sync.Pool{
	{New: func() any { b := make([]byte, 0, 8<<10); return &b }},
	{New: func() any { b := make([]byte, 0, stageMax); return &b }},
}

func stageClass(size int64) int {
	if size <= 8<<10 {
		return 0
	}
	return 1
}

// stage gives a record its place and leaves its bytes to the committer.
func (s *Store) stage(h *header, w *writer, payload []byte, gen uint64, size int64) (storagenode.Token, error) {
	r, err := s.reserve(h, size, gen, nil)
	if err != nil {
		return 0, err
	}
	h.encode(w.head, r.seg.bind, r.off)
	buf := w.record(payload, size)
	s.staged.Add(size)
	s.mu.Lock()
	p := &s.queue[r.ticket-s.base]
	p.data, p.state = buf, stateStaged
	waited := s.want >= r.ticket
	s.mu.Unlock()
	if waited {
		s.cond.Broadcast()
	}
	return r.token(), nil
}

var _ storagenode.Stager = (*Store)(nil)

// Stage implements storagenode.Stager for records that are staged anyhow. It
// touches no disk and waits for nobody: where the log has to grow, a tombstone
// has to be looked for, or the record is refused, it is for Put.
func (s *Store) Stage(sh storagenode.Shard, done func(error)) bool {
	h := headerOf(&sh)
	size := h.size()
	if size > stageMax || s.staged.Load() >= stageBudget || s.checkShard(&sh) != nil {
		return false
	}
	w := writers.Get().(*writer)
	defer writers.Put(w)
	if w.fill(&sh, s.cfg.TrustSums) != nil {
		return false
	}
	h.timeMS = s.cfg.Clock.Now().UnixMilli()
	h.bodyHash = xxhash.Sum64(w.head[headerSize:])
	buf := w.record(sh.Payload, size)
	if !s.join(&h, size, buf, done) {
		stageBuffers[stageClass(size)].Put(&buf)
		return false
	}
	return true
}

// join gives a record its place, unless that takes a wait, and has done called
// by the group that makes it durable.
func (s *Store) join(h *header, size int64, record []byte, done func(error)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.active
	if g == nil || s.growing || g.tail+size > g.allocated || s.filling == g && g.tail+size > s.fillFrom ||
		s.refusal(h, notLooked, false) != nil {
		return false
	}
	r := s.occupy(h, size, nil)
	h.encode(record, r.seg.bind, r.off)
	s.staged.Add(size)
	p := &s.queue[r.ticket-s.base]
	p.data, p.state = record, stateStaged
	s.next.calls = append(s.next.calls, done)
	s.want = max(s.want, r.ticket)
	s.wake(s.kick)
	return true
}

// record lays a record out in a pooled buffer; its header is to be encoded.
func (w *writer) record(payload []byte, size int64) []byte {
	buf := *stageBuffers[stageClass(size)].Get().(*[]byte)
	buf = append(append(buf[:0], w.head...), payload...)
	return append(buf, w.pad[:size-int64(len(buf))]...)
}

// writeStaged writes the staged records of a group. Where that fails, they
// count as failed, and the group's callers get the error: what of the group is
// durable all the same was never acknowledged.
func (s *Store) writeStaged(batch []pending) error {
	var failed error
	var bufs [][]byte
	for i := 0; i < len(batch); {
		if batch[i].state != stateStaged {
			i++
			continue
		}
		first, end := i, batch[i].off
		bufs = bufs[:0]
		for ; i < len(batch) && i-first < stageRun && batch[i].state == stateStaged && batch[i].seg == batch[first].seg && batch[i].off == end; i++ {
			bufs = append(bufs, batch[i].data)
			end += batch[i].size
		}
		_, err := batch[first].seg.f.WriteVAt(bufs, batch[first].off)
		if err != nil {
			failed = fmt.Errorf("write %d records: %w", i-first, err)
		}
		s.unstage(batch[first:i], err)
	}
	return failed
}

// unstage lets go of the buffers of records that were written, or not.
func (s *Store) unstage(run []pending, err error) {
	for i := range run {
		p := &run[i]
		s.staged.Add(-p.size)
		data := p.data[:0]
		stageBuffers[stageClass(p.size)].Put(&data)
		p.data, p.state = nil, stateWritten
		if err == nil {
			continue
		}
		p.state = stateFailed
		if recordType(p.h.typ) == typeSlotEpoch {
			s.mu.Lock()
			s.unsaved[slotKeyOf(p.h.pg, p.h.slot)] = true
			s.mu.Unlock()
		}
	}
}
