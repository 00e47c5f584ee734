package segment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/lane"
)

// yields is how often goroutines go first before a group is made durable.
const yields = 4

// group is those who wait for the same fdatasync. err is set before done is
// closed; calls grows, under the store's mu, until the group runs.
type group struct {
	done  chan struct{}
	err   error
	calls []func(error)
}

func newGroup() *group { return &group{done: make(chan struct{})} }

// end tells everybody.
func (g *group) end(err error) {
	g.err = err
	close(g.done)
	for _, call := range g.calls {
		call(err)
	}
}

// Sync implements storagenode.ShardStore.
func (s *Store) Sync(ctx context.Context, t storagenode.Token) error {
	s.mu.Lock()
	if uint64(t)>>ticketBits != s.incarnation || uint64(t)&ticketMask < s.newFrom {
		s.mu.Unlock()
		if uint64(t)>>ticketBits == 0 { // no incarnation gives such: it covers nothing
			return s.brokenErr()
		}
		return fmt.Errorf("sync: token of another incarnation of the drive: %w", storagenode.ErrUnavailable)
	}
	return s.await(ctx, uint64(t)&ticketMask)
}

// syncAll makes all that was accepted durable.
func (s *Store) syncAll(ctx context.Context) error {
	s.mu.Lock()
	return s.await(ctx, s.lastTicket())
}

// await waits until all up to a ticket is durable. mu is held, and let go.
func (s *Store) await(ctx context.Context, ticket uint64) error {
	switch {
	case ticket < s.base:
		s.mu.Unlock()
		return nil
	case s.broken.Load() != nil:
		s.mu.Unlock()
		return s.brokenErr()
	case s.closed:
		s.mu.Unlock()
		return errClosed
	case ticket > s.lastTicket():
		s.mu.Unlock()
		return fmt.Errorf("sync: token was never given: %w", storagenode.ErrUnavailable)
	}
	g := s.running
	if g == nil || ticket > s.runTo {
		g = s.next
		s.want = max(s.want, ticket)
		s.wake(s.kick)
	}
	s.mu.Unlock()
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// commitLoop is the committer: the only goroutine that makes records durable
// and, but for compaction's bookkeeping, applies them to the index.
func (s *Store) commitLoop() {
	var batch []pending
	var b blockWriter
	for range s.kick {
		s.mu.Lock()
		closed := s.closed // nothing joins any more: the loop below is the last
		s.mu.Unlock()
		for {
			var again bool
			// Where the processors are busy, writes that are about to come join the
			// group, which costs one fdatasync for all. It is the whole of group
			// commit where an fdatasync takes less than a request.
			lane.LetOthersRun(yields, true)
			if batch, again = s.commit(&b, batch[:0]); !again {
				break
			}
		}
		if closed {
			return
		}
	}
}

// commit makes one group durable and visible. It is false where nobody waits.
func (s *Store) commit(b *blockWriter, batch []pending) ([]pending, bool) {
	s.mu.Lock()
	n := 0
	for s.broken.Load() == nil && s.want >= s.base {
		for n < len(s.queue) && s.queue[n].state != stateWriting {
			n++
		}
		if s.base+uint64(n) > s.want {
			break
		}
		s.cond.Wait() // a write below the token is under way
	}
	g := s.next
	if err := s.brokenErr(); err != nil {
		s.next = newGroup()
		s.mu.Unlock()
		g.end(err)
		return batch, false
	}
	if n == 0 {
		s.mu.Unlock()
		return batch, false
	}
	if n == len(s.queue) {
		s.closeBlock(s.queue[n-1].seg) // else a large record follows, which did
	}
	s.next, s.running, s.runTo = newGroup(), g, s.base+uint64(n)-1
	batch = append(batch, s.queue[:n]...)
	s.mu.Unlock()

	refused, err := s.makeDurable(b, batch)
	if err == nil {
		err = s.applyGroup(batch)
	}
	if err != nil && !errors.Is(err, errClosed) {
		s.fail(err)
		err = s.brokenErr()
	}
	s.mu.Lock()
	s.running = nil
	if err == nil {
		s.retire(batch)
		if refused != nil { // the tokens of the refused records must not pass for durable
			s.incarnation = nextIncarnation(s.incarnation)
			s.newFrom = s.lastTicket() + 1 // incarnations come again
		}
	}
	s.mu.Unlock()
	if err == nil {
		g.end(refused)
	} else {
		g.end(err)
	}
	return batch, err == nil
}

// retire takes a durable group out of the queue. mu is held.
func (s *Store) retire(batch []pending) {
	for i := range batch {
		p := &batch[i]
		s.bytes -= p.size
		if recordType(p.h.typ) == typeTombstone && !p.moved {
			k := blobKey{slotKeyOf(p.h.pg, p.h.slot), p.h.blob}
			if s.dying[k]--; s.dying[k] <= 0 {
				delete(s.dying, k)
			}
		}
	}
	left := copy(s.queue, s.queue[len(batch):])
	clear(s.queue[left:])
	s.queue = s.queue[:left]
	s.base += uint64(len(batch))
	if len(batch) > 0 && s.active != nil && s.active.filled-s.active.tail < fillAhead && smallRecords(batch) {
		s.wake(s.fillKick)
	}
}

// makeDurable writes what is staged of a group and syncs its segments. refused
// is what the callers get where there was no space; err breaks the drive.
func (s *Store) makeDurable(b *blockWriter, batch []pending) (refused, err error) {
	s.gate.begin(placeCommit)
	defer s.gate.end(placeCommit)
	if err := s.writeStaged(b, batch); err != nil {
		if refused = s.passing(err); refused == nil {
			return nil, err
		}
	}
	s.skipFailed(batch)
	for i := range batch {
		g := batch[i].seg
		if i+1 < len(batch) && batch[i+1].seg == g {
			continue // places are given in order: the last one of a segment will do
		}
		if err := g.f.SyncData(); err != nil {
			return nil, fmt.Errorf("segment %d: %w: %w", g.id, errSync, err)
		}
		st, err := g.f.Stat()
		if err != nil && !short(err) {
			return nil, fmt.Errorf("segment %d: %w", g.id, err)
		}
		if err == nil && st.Links == 0 {
			s.noReads.Store(true)
			return nil, fmt.Errorf("segment %d was removed from its directory", g.id)
		}
		s.mu.Lock()
		g.durable = max(g.durable, batch[i].end())
		s.mu.Unlock()
	}
	return refused, nil
}

// skipFailed marks the places of failed writes: there may be space by now.
func (s *Store) skipFailed(batch []pending) {
	for i := 0; i < len(batch); {
		end := runEnd(batch, i)
		if batch[i].state == stateFailed {
			s.skip(batch[i].seg, batch[i].off, batch[end-1].end())
		}
		i = end
	}
}

// applyGroup makes a durable group visible.
func (s *Store) applyGroup(batch []pending) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	err := s.whenShort(func() error { return s.applyBatch(batch) }) // what it counts as dead twice is only a hint
	if err != nil && !errors.Is(err, errClosed) {
		// The log has it all; only the index does not.
		s.cfg.Logger.Error("index refuses a group, it is rebuilt", "err", err)
		err = s.whenShort(func() error { return s.rebuild(context.Background()) })
	}
	if err != nil {
		return err
	}
	for i := range batch {
		if recordType(batch[i].h.typ) == typeTombstone {
			s.deadGen.Add(1)
			break
		}
	}
	return nil
}

// whenShort does what is tried again every second while the process is short of
// files or memory; the drive counts as hung if that takes long. errClosed where the
// store closes meanwhile.
func (s *Store) whenShort(f func() error) error {
	err := f()
	if !short(err) {
		return err
	}
	s.gate.begin(placeCommit)
	defer s.gate.end(placeCommit)
	for ; short(err); err = f() {
		_ = s.passing(err) // it is logged
		select {
		case <-s.cfg.Clock.After(time.Second):
		case <-s.stopped:
			return errClosed
		}
	}
	return err
}

// applyBatch puts a group into the index. applyMu is held.
func (s *Store) applyBatch(batch []pending) error {
	a, err := s.newApplier()
	if err != nil {
		return err
	}
	defer a.close()
	for i := range batch {
		p := &batch[i]
		if p.state == stateFailed {
			a.kill(place{p.seg.id, p.off}, p.size)
		} else if err := a.apply(&p.h, place{p.seg.id, p.off}, p.size, p.from, p.moved); err != nil {
			return err
		}
		if p.pad > 0 {
			a.kill(place{p.seg.id, p.off + p.size}, p.pad)
		}
		a.covered(p.seg, p.end())
		s.logged += p.size
	}
	return a.commit()
}
