package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"kintsugi/storagenode"
)

// ErrNotForgettable is wrapped with why a node cannot be forgotten.
var ErrNotForgettable = errors.New("it cannot be forgotten")

// Bounds of the wait until nobody reports a forgotten node's drives any more: the
// list of nodes is read every few seconds.
const (
	unreportedIn    = 20 * time.Second
	unreportedEvery = 250 * time.Millisecond
)

// ForgetNode takes a node that is gone for good out of the metadata, with its
// drives, and returns how many those were. It refuses one that lives, and one of
// whose drives a slot is mapped to or rebuilt from (ErrNotForgettable). A node
// that comes back all the same announces itself and is new. A call that was
// broken off may be repeated. ErrNotLeader.
func (r *Repairer) ForgetNode(ctx context.Context, name string) (drives int, err error) {
	ctx, done, err := r.leader.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	ids, err := r.forgetNode(ctx, name)
	if err != nil {
		return 0, err
	}
	if err := r.unreported(ctx, ids); err != nil { // the next look would store it again
		return 0, err
	}
	if err := r.forgetDrives(ctx, name, ids); err != nil {
		return 0, err
	}
	r.cfg.Logger.Info("node forgotten", "node", name, "drives", len(ids))
	return len(ids), nil
}

// forgetNode takes the node itself out, and gives its drives.
func (r *Repairer) forgetNode(ctx context.Context, name string) ([]storagenode.DriveID, error) {
	m := r.members
	m.storing.Lock() // it does not announce itself meanwhile
	defer m.storing.Unlock()
	if err := m.load(ctx); err != nil {
		return nil, err
	}
	ids, err := r.forgettable(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := r.cfg.Nodes.DeleteNode(ctx, name); err != nil {
		return nil, fmt.Errorf("forget node %q: %w", name, err)
	}
	m.forget(name, ids)
	return ids, nil
}

// forgetDrives takes the drives of a forgotten node out, unless it has announced
// itself meanwhile.
func (r *Repairer) forgetDrives(ctx context.Context, name string, ids []storagenode.DriveID) error {
	m := r.members
	m.storing.Lock()
	defer m.storing.Unlock()
	if known, _, _ := m.heardOf(name); known {
		return fmt.Errorf("node %q has come back: %w", name, ErrNotForgettable)
	}
	if err := r.cfg.Records.DeleteDrives(ctx, ids); err != nil {
		return fmt.Errorf("forget the drives of node %q: %w", name, err)
	}
	r.fleet.drop(ids)
	return nil
}

// forgettable gives the drives of a node, if nothing needs it any more.
func (r *Repairer) forgettable(ctx context.Context, name string) ([]storagenode.DriveID, error) {
	known, heard, assumed := r.members.heardOf(name)
	ago := r.cfg.Clock.Now().Sub(heard)
	switch {
	case !known || ago >= r.cfg.NodeTimeout:
	case assumed:
		return nil, fmt.Errorf("node %q may be there, this repairer leads for %s only: wait for %s: %w", name, ago.Truncate(time.Second), r.cfg.NodeTimeout, ErrNotForgettable)
	default:
		return nil, fmt.Errorf("node %q was heard of %s ago: stop it, and wait for %s: %w", name, ago.Truncate(time.Second), r.cfg.NodeTimeout, ErrNotForgettable)
	}
	records, err := r.cfg.Records.ListDrives(ctx)
	if err != nil {
		return nil, fmt.Errorf("list drives: %w", err)
	}
	groups, err := r.cfg.Groups.ListGroups(ctx)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	ids := []storagenode.DriveID{}
	for _, d := range records {
		if d.Node != name {
			continue
		}
		if v, ok := r.fleet.drive(d.ID); ok && v.met {
			return nil, fmt.Errorf("drive %s of node %q answers: %w", d.ID, name, ErrNotForgettable)
		}
		if inUse(groups, d.ID) {
			return nil, fmt.Errorf("node %q: drive %s still has slots, which wait to be rebuilt elsewhere: kintsugi admin status says how long, or why: %w", name, d.ID, ErrNotForgettable)
		}
		ids = append(ids, d.ID)
	}
	if !known && len(ids) == 0 {
		return nil, fmt.Errorf("no node is called %q: %w", name, ErrNotForgettable)
	}
	return ids, nil
}

// unreported waits until nobody speaks of the drives any more.
func (r *Repairer) unreported(ctx context.Context, ids []storagenode.DriveID) error {
	for end := r.cfg.Clock.Now().Add(unreportedIn); ; {
		still := slices.ContainsFunc(r.cfg.Drives.Reports(), func(d storagenode.DriveReport) bool { return slices.Contains(ids, d.ID) })
		if !still {
			return nil
		}
		if r.cfg.Clock.Now().After(end) {
			return fmt.Errorf("the node is still spoken of: say it again in a moment: %w", ErrNotForgettable)
		}
		if err := r.cfg.Clock.Sleep(ctx, unreportedEvery); err != nil {
			return err
		}
	}
}

// heardOf says whether a node is known, and when it was heard of, or is assumed to
// have been.
func (m *membership) heardOf(name string) (known bool, at time.Time, assumed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, stored := m.stored[name]
	v, here := m.members[name]
	return stored || here, v.heard, v.assumed
}

// forget drops what this process remembers of a node.
func (m *membership) forget(name string, drives []storagenode.DriveID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.members, name)
	delete(m.stored, name)
	for _, id := range drives {
		delete(m.drives, id)
	}
}
