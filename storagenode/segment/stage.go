package segment

import (
	"fmt"
	"sync"

	"github.com/cespare/xxhash/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// Small records are staged: Put leaves them in memory, and the committer writes
// all of a group at once before its fdatasync. So a Put of a small
// record touches no disk but where the log grows.
const (
	stageMax    = 68 << 10 // bytes of a record; a replica of 64 KiB fits
	stageBudget = 16 << 20 // bytes staged at a time; beyond, records are written at once
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
func (s *Store) stage(h *header, w *writer, payload []byte, gen uint64, from *place, size int64) (storagenode.Token, error) {
	buf := w.record(payload, size)
	r, err := s.reserve(h, size, gen, from, buf)
	if err != nil {
		stageBuffers[stageClass(size)].Put(&buf)
		return 0, err
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
	if g == nil || s.growing || g.tail+size+blockSlack > g.allocated || s.fillMeets(size) ||
		s.refusal(h, notLooked, false) != nil {
		return false
	}
	r := s.occupy(h, size, nil, record)
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
// count as failed, and the group's callers get the error, the worst one: what
// of the group is durable all the same was never acknowledged.
func (s *Store) writeStaged(b *blockWriter, batch []pending) error {
	var failed error
	for i := 0; i < len(batch); {
		end := runEnd(batch, i)
		if batch[i].state != stateStaged {
			i = end
			continue
		}
		err := writeRun(b, batch[i:end])
		if err != nil && (failed == nil || vfs.NoSpace(failed) || short(failed)) {
			failed = fmt.Errorf("write %d records: %w", end-i, err)
		}
		s.unstage(batch[i:end], err)
		i = end
	}
	return failed
}

// writeRun writes staged records that follow one another and fill their blocks.
func writeRun(b *blockWriter, run []pending) error {
	b.begin(run[0].seg, run[0].off, groupBuffer)
	for i := range run {
		if err := b.add(run[i].data); err != nil {
			return err
		}
		if err := b.pad(run[i].pad); err != nil {
			return err
		}
	}
	return b.flush()
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
