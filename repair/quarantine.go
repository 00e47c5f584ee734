package repair

import (
	"context"
	"time"

	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// storedMax bounds the orphans whose quarantine is stored. More are known to
// this process alone, for which a later leader begins anew.
const storedMax = 1 << 16

// sighting is an orphan in quarantine.
type sighting struct {
	metadata.Sighting
	at     time.Time // of the last pass of this process that saw it; zero: none did
	stored bool      // it has a row in metadata
	gone   bool      // collected; not counted any more
}

// begin starts a pass. Under another term than the last one other leaders may
// have gone on, and what they stored counts.
func (o *orphans) begin(ctx context.Context) {
	term, _ := metadata.TermOf(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = nil
	if o.term != term.Number {
		o.term = term.Number
		o.seen, o.count, o.stored = map[slotRef]map[storagenode.BlobID]sighting{}, 0, 0
	}
}

// recall gives what is known of a slot's orphans, from metadata at first.
func (o *orphans) recall(ctx context.Context, ref slotRef) (map[storagenode.BlobID]sighting, error) {
	o.mu.Lock()
	known, ok := o.seen[ref]
	o.mu.Unlock()
	if ok {
		return known, nil
	}
	list, err := o.cfg.Rounds.Sightings(ctx, ref.pg, ref.slot)
	if err != nil {
		return nil, err
	}
	known = make(map[storagenode.BlobID]sighting, len(list))
	for _, s := range list {
		known[s.Blob] = sighting{Sighting: s, stored: true}
	}
	o.mu.Lock()
	o.seen[ref] = known
	o.count += len(known)
	o.stored += len(known)
	o.mu.Unlock()
	return known, nil
}

// waited is the time since the sighting before: by the process's own clock
// where that was its own, else by the clocks of two repairers, or of one before
// and after a restart, which may be wrong: at most the time between two passes.
func (o *orphans) waited(s sighting, now time.Time) time.Duration {
	if !s.at.IsZero() {
		return max(0, now.Sub(s.at))
	}
	return min(max(0, now.Sub(s.Seen)), o.cfg.OrphanInterval)
}

// remember takes what one look at a slot found in place of what was known of
// it, stores that, and gives those whose time has come.
func (o *orphans) remember(ctx context.Context, pg storagenode.PG, slot int, found []candidate) ([]ripeCandidate, error) {
	ref := slotRef{pg, uint8(slot)}
	before, err := o.recall(ctx, ref)
	if err != nil {
		return nil, err
	}
	now := o.cfg.Clock.Now()
	next := make(map[storagenode.BlobID]sighting, len(found))
	var ripe []ripeCandidate
	var keep []metadata.Sighting
	var forget []storagenode.BlobID
	o.mu.Lock()
	count, stored := o.count, o.stored
	for id, s := range before {
		if !s.gone {
			count--
		}
		if s.stored {
			stored--
			forget = append(forget, id)
		}
	}
	for _, c := range found {
		s, known := before[c.blob]
		if known {
			s.Waited += o.waited(s, now)
		}
		s.Blob, s.at, s.Seen, s.gone = c.blob, now, now.Truncate(time.Millisecond).UTC(), false
		s.Passes++
		if s.Passes >= 2 && s.Waited >= o.cfg.OrphanQuarantine {
			ripe = append(ripe, ripeCandidate{c, s.Agreed})
		}
		if count >= candidatesMax {
			continue
		}
		count++
		if s.stored = stored < storedMax; s.stored {
			stored++
			keep = append(keep, s.Sighting)
		}
		next[c.blob] = s
	}
	o.mu.Unlock()
	forget = without(forget, next)
	if err := o.cfg.Rounds.KeepSightings(ctx, pg, ref.slot, keep, forget); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, s := range next { // agreed to meanwhile
		if o.seen[ref][id].Agreed {
			s.Agreed = true
			next[id] = s
		}
	}
	o.seen[ref], o.count, o.stored = next, count, stored
	return ripe, nil
}

// without gives the ids that have no row any more.
func without(ids []storagenode.BlobID, next map[storagenode.BlobID]sighting) []storagenode.BlobID {
	left := ids[:0]
	for _, id := range ids {
		if !next[id].stored {
			left = append(left, id)
		}
	}
	return left
}
