package stripe

import (
	"context"
	"errors"
	"fmt"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// Finding is what Verify found of a slot. Of several stripes, the worst.
type Finding uint8

// Findings, from good to bad.
const (
	// NotNeeded: the slot should hold nothing of the blob.
	NotNeeded Finding = iota
	// Good: every shard is there and right, or still on the drive that the slot
	// is being moved from.
	Good
	// Unreachable: the drive does not answer; nothing is known.
	Unreachable
	// Missing: the drive answers and does not have a shard.
	Missing
	// Corrupt: a shard fails its checks, or is not of the stripe.
	Corrupt
)

// String gives the word in lower case.
func (f Finding) String() string {
	if int(f) < len(findings) {
		return findings[f]
	}
	return "unknown"
}

var findings = [...]string{"not needed", "good", "unreachable", "missing", "corrupt"}

// Report is what Verify found.
type Report struct {
	// Slots has an entry for each slot of the group.
	Slots []SlotReport
	// Margin is how many of the slots found good may be lost before the blob
	// is: negative where it cannot be read now.
	Margin int
}

// SlotReport is what was found of one slot, and why it is not good.
type SlotReport struct {
	Finding Finding
	Err     error
}

// Verify reads every shard of a blob. Data and parity are compared with what
// the stripe's hash vouches for. A blob that cannot be read is not an error but
// a negative margin. Damage is also passed to Config.Damaged.
func (s *Set) Verify(ctx context.Context, g erasure.Group, b erasure.Blob) (Report, error) {
	if err := checkGroup(&g); err != nil {
		return Report{}, err
	}
	r := Report{Slots: make([]SlotReport, len(g.Slots))}
	if b.Mode == erasure.Replicated {
		err := s.verifyCopies(ctx, &g, &b, &r)
		r.Margin = r.good() - 1
		return r, err
	}
	unreadable := false
	for i := range stripes(b.Size) {
		readable, err := s.verifyStripe(ctx, &g, &b, i, &r)
		if err != nil {
			return r, err
		}
		unreadable = unreadable || !readable
	}
	r.Margin = r.good() - int(g.Scheme.K)
	if unreadable {
		r.Margin = min(r.Margin, -1)
	} else {
		// Slots may each lack another stripe: the blob can still be read.
		r.Margin = max(r.Margin, 0)
	}
	return r, nil
}

func (r *Report) good() int {
	n := 0
	for _, s := range r.Slots {
		if s.Finding == Good {
			n++
		}
	}
	return n
}

func (r *Report) found(slot int, err error) {
	f := Good
	switch {
	case err == nil:
	case errors.Is(err, storagenode.ErrNotFound):
		f = Missing
	case errors.Is(err, storagenode.ErrCorrupt):
		f = Corrupt
	default:
		f = Unreachable
	}
	if f > r.Slots[slot].Finding {
		r.Slots[slot] = SlotReport{f, err}
	}
}

func (s *Set) verifyStripe(ctx context.Context, g *erasure.Group, b *erasure.Blob, stripe int, r *Report) (bool, error) {
	a, err := s.newGather(ctx, g, b, stripe, nil)
	if err != nil {
		return false, err
	}
	defer a.release()
	a.all = true
	work, cancel := context.WithCancel(ctx)
	defer cancel() // ends stragglers
	err = a.collect(work)
	if ctxErr := ended(ctx); ctxErr != nil {
		return false, ctxErr
	}
	if err == nil {
		var d *decoded
		if d, err = a.decode(0); err == nil {
			d.release()
		}
	}
	if err != nil && !errors.Is(err, ErrUnreadable) {
		return false, err
	}
	for i := range g.Slots {
		r.found(i, a.errs[i])
	}
	return err == nil, nil
}

func (s *Set) verifyCopies(ctx context.Context, g *erasure.Group, b *erasure.Blob, r *Report) error {
	for i := range g.Slots {
		if !b.Slots.Has(i) {
			continue
		}
		err := s.verifyCopy(ctx, g, b, i, g.Slots[i].Drive)
		if sl := &g.Slots[i]; errors.Is(err, storagenode.ErrNotFound) && sl.State == storagenode.SlotRebuilding && !sl.From.IsZero() {
			if s.verifyCopy(ctx, g, b, i, sl.From) == nil {
				err = nil
			}
		}
		if ctxErr := ended(ctx); ctxErr != nil {
			return ctxErr
		}
		r.found(i, err)
		if err != nil && !b.Missing.Has(i) {
			s.damaged(g, b.ID, i, fmt.Errorf("verify: %w", err))
		}
	}
	return nil
}

// verifyCopy reads a replica from one drive.
func (s *Set) verifyCopy(ctx context.Context, g *erasure.Group, b *erasure.Blob, slot int, drive storagenode.DriveID) error {
	buf, err := s.memory.get(ctx, max(1, int(b.Size)))
	if err != nil {
		return err
	}
	defer buf.release() // a read that hangs holds it, too
	_, err = s.copyOn(ctx, g, b, slot, drive, buf)
	return err
}
