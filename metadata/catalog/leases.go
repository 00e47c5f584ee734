package catalog

import (
	"context"
	"fmt"

	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// Leases keeps who leads which role.
//
// A lease is two rows. famLease has the term and its holder; every mutation
// under a term reads it in its own transaction (engine.begin), so that it
// conflicts with a change of holder. famBeat has the count that renewals raise;
// it stands apart so that a renewal conflicts with nothing else.
type Leases struct{ e *engine }

// checkTerm compares a term with the lease row as it is now.
func checkTerm(term metadata.Term, value []byte) error {
	l, err := decodeLease(term.Role, value)
	if err != nil {
		return fmt.Errorf("lease of %s: %w", term.Role, err)
	}
	if l.Term != term.Number || l.Holder == "" {
		return fmt.Errorf("%s: term %d: %w: term %d is the newest", term.Role, term.Number, metadata.ErrStaleTerm, l.Term)
	}
	return nil
}

// read gives the lease within a transaction.
func (s *Leases) read(ctx context.Context, t *txn, role string) (metadata.Lease, error) {
	v, err := t.Get(ctx, t.leaseKey(famLease, role))
	if err != nil {
		return metadata.Lease{}, err
	}
	l, err := decodeLease(role, v)
	if err != nil {
		return l, fmt.Errorf("lease of %s: %w", role, err)
	}
	if v, err = t.Get(ctx, t.leaseKey(famBeat, role)); err != nil {
		return l, err
	}
	l.Beat, err = decodeNumber(v)
	return l, err
}

// same says that two readings are of the same renewal.
func same(a, b *metadata.Lease) bool {
	return a.Term == b.Term && a.Beat == b.Beat && a.Holder == b.Holder
}

func putLease(t *txn, l *metadata.Lease) {
	t.Put(t.leaseKey(famLease, l.Role), encodeLease(nil, l))
	t.Put(t.leaseKey(famBeat, l.Role), encodeNumber(t.room(12), l.Beat))
}

// Lease implements metadata.Leaders. Both rows are of one state, for a
// transaction without writes reads them.
func (s *Leases) Lease(ctx context.Context, role string) (l metadata.Lease, err error) {
	err = s.e.update(ctx, "lease", func(t *txn) error {
		l, err = s.read(ctx, t, role)
		return err
	})
	return l, err
}

// Acquire implements metadata.Leaders.
func (s *Leases) Acquire(ctx context.Context, seen metadata.Lease, holder, address string) (metadata.Lease, error) {
	next := metadata.Lease{Role: seen.Role, Term: seen.Term + 1, Beat: seen.Beat + 1, Holder: holder, Address: address, Since: s.e.now()}
	err := s.e.update(ctx, "acquire lease", func(t *txn) error {
		now, err := s.read(ctx, t, seen.Role)
		switch {
		case err != nil:
			return err
		case t.maybe && same(&now, &next):
			return nil // by an attempt whose outcome was unknown
		case !same(&now, &seen):
			return fmt.Errorf("%s: %w: %s since term %d", seen.Role, metadata.ErrNotLeader, now.Holder, now.Term)
		}
		putLease(t, &next)
		return nil
	})
	if err != nil {
		return metadata.Lease{}, err
	}
	return next, nil
}

// Renew implements metadata.Leaders. The beat is raised by this very call: what an
// earlier one did, whose outcome was never known, others saw when it was done,
// and they count from then.
func (s *Leases) Renew(ctx context.Context, held metadata.Lease) (metadata.Lease, error) {
	next := held
	err := s.e.update(ctx, "renew lease", func(t *txn) error {
		now, err := s.read(ctx, t, held.Role)
		switch {
		case err != nil:
			return err
		case t.maybe && same(&now, &next):
			return nil // by an attempt whose outcome was unknown
		case now.Term != held.Term || now.Holder != held.Holder:
			return fmt.Errorf("%s: term %d: %w: term %d is the newest", held.Role, held.Term, metadata.ErrStaleTerm, now.Term)
		}
		next.Beat = now.Beat + 1
		t.Put(t.leaseKey(famBeat, held.Role), encodeNumber(t.room(12), next.Beat))
		return nil
	})
	if err != nil {
		return held, err
	}
	return next, nil
}

// Release implements metadata.Leaders. It numbers a term of its own, that of
// nobody, so that what is late of the one before is refused.
func (s *Leases) Release(ctx context.Context, held metadata.Lease) error {
	return s.e.update(ctx, "release lease", func(t *txn) error {
		now, err := s.read(ctx, t, held.Role)
		if err != nil || now.Term != held.Term || now.Holder != held.Holder {
			return err
		}
		putLease(t, &metadata.Lease{Role: held.Role, Term: now.Term + 1, Beat: now.Beat + 1, Since: s.e.now()})
		return nil
	})
}

// Prove implements metadata.Leaders.
func (s *Leases) Prove(ctx context.Context) error {
	term, ok := metadata.TermOf(ctx)
	if !ok {
		return nil
	}
	v, err := s.e.get(ctx, "prove term", new(arena).leaseKey(famLease, term.Role))
	if err != nil {
		return err
	}
	return checkTerm(term, v)
}

// Switches keeps what operators switch (fmtPaused).
type Switches struct{ e *engine }

// Paused implements metadata.Switches.
func (s *Switches) Paused(ctx context.Context) (bool, error) {
	v, err := s.e.get(ctx, "paused", new(arena).formatKey(fmtPaused))
	return v != nil, err
}

// SetPaused implements metadata.Switches.
func (s *Switches) SetPaused(ctx context.Context, paused bool) error {
	return s.e.update(ctx, "pause", func(t *txn) error {
		key := t.formatKey(fmtPaused)
		// Asserted, so that one that comes late undoes nothing switched since.
		if _, err := t.Get(ctx, key); err != nil {
			return err
		}
		if paused {
			t.Put(key, encodeNumber(t.room(12), 1))
		} else {
			t.Delete(key)
		}
		return nil
	})
}

// Foundation keeps the cluster's UUID (fmtCluster).
type Foundation struct{ e *engine }

// Cluster implements metadata.Foundation.
func (s *Foundation) Cluster(ctx context.Context) (storagenode.UUID, error) {
	v, err := s.e.get(ctx, "cluster", new(arena).formatKey(fmtCluster))
	if err != nil {
		return storagenode.UUID{}, err
	}
	return decodeCluster(v)
}

// Found implements metadata.Foundation.
func (s *Foundation) Found(ctx context.Context, id storagenode.UUID) (has storagenode.UUID, err error) {
	err = s.e.update(ctx, "found cluster", func(t *txn) error {
		key := t.formatKey(fmtCluster)
		v, err := t.Get(ctx, key)
		if err != nil {
			return err
		}
		if has, err = decodeCluster(v); err == nil && has.IsZero() {
			has = id
			t.Put(key, encodeCluster(t.room(17), id))
		}
		return err
	})
	return has, err
}
