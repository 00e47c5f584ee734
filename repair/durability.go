package repair

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

const (
	// censusRest is how many times the length of a census passes before the next.
	censusRest = 20
	// askRest is the same for one that somebody asks for, who waits for it: a
	// census that took longer than askLimit is not repeated for a question, and
	// nobody waits longer than twice that.
	askRest  = 4
	askLimit = time.Second
)

// shape is what decides a blob's margin within its group: there are few
// different ones, so counts by shape say everything about any set of drives.
type shape struct {
	mode    erasure.Mode
	slots   erasure.SlotMask // should hold a shard
	present erasure.SlotMask // of these, not marked missing
}

type tally struct{ blobs, bytes int64 }

// groupCount is one group's blobs by shape.
type groupCount struct {
	group  erasure.Group
	shapes map[shape]tally
}

// census counts all blobs by shape, from metadata alone.
type census struct {
	cfg    *Config
	fleet  *fleet
	moving *moving
	marked func() int64 // how often something was marked missing

	fresh   atomic.Bool   // the next pass counts even where the last is young
	running chan struct{} // takes one token: one pass at a time
	mu      sync.Mutex
	groups  []groupCount // never changed once published; guarded by mu
	at      time.Time    // guarded by mu
	took    time.Duration
	knows   int64 // marked when the count began
}

// current says that nothing was marked missing since the last count began.
func (c *census) current() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.knows == c.marked()
}

// pass counts, once the drives have been looked at.
func (c *census) pass(ctx context.Context) error {
	select {
	case <-c.fleet.looked:
	case <-ctx.Done():
		return fmt.Errorf("no look at the drives yet: %w", ctx.Err())
	}
	select {
	case c.running <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.running }()
	began := c.cfg.Clock.Now()
	c.mu.Lock()
	due := c.at.IsZero() || began.Sub(c.at) >= censusRest*c.took
	c.mu.Unlock()
	if !c.fresh.Swap(false) && !due {
		return nil
	}
	marked := c.marked()
	groups, err := c.cfg.Groups.ListGroups(ctx)
	if err != nil {
		return err
	}
	counted := make([]groupCount, 0, len(groups))
	for _, g := range groups {
		n := groupCount{group: g.Group, shapes: map[shape]tally{}}
		for rec, err := range c.cfg.Blobs.ScanBlobs(ctx, g.PG, storagenode.BlobID{}) {
			if err != nil {
				return fmt.Errorf("scan blobs of pg %d: %w", g.PG, err)
			}
			k := shape{rec.Blob.Mode, rec.Blob.Slots, rec.Blob.Slots &^ rec.Blob.Missing}
			t := n.shapes[k]
			n.shapes[k] = tally{t.blobs + 1, t.bytes + rec.Blob.Size}
		}
		counted = append(counted, n)
	}
	now := c.cfg.Clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.groups, c.at, c.took, c.knows = counted, now, now.Sub(began), marked
	return nil
}

// refresh counts anew where that takes little, so that an answer tells of what
// was written since the last pass.
func (c *census) refresh(ctx context.Context) error {
	c.mu.Lock()
	at, took := c.at, c.took
	c.mu.Unlock()
	if took > askLimit || c.cfg.Clock.Now().Sub(at) < askRest*took {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*askLimit)
	defer cancel()
	c.fresh.Store(true)
	return c.pass(ctx)
}

func (c *census) latest() ([]groupCount, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.groups, c.at
}

// MarginCount is how many blobs survive exactly Margin more losses; below zero
// they cannot be read while it lasts.
type MarginCount struct {
	Margin int   `json:"margin"`
	Blobs  int64 `json:"blobs"`
	Bytes  int64 `json:"bytes"`
}

// Durability says how safe the data is.
type Durability struct {
	// At is when the blobs were counted; drives count as of now. Zero: they were
	// not counted yet, and the numbers say nothing.
	At         time.Time     `json:"at"`
	Blobs      int64         `json:"blobs"`
	Bytes      int64         `json:"bytes"`
	Full       int64         `json:"full"`       // blobs with all their shards
	Unreadable int64         `json:"unreadable"` // blobs with fewer than k
	Margins    []MarginCount `json:"margins"`    // worst first
}

// durability counts margins with the drives as they are, less those in lost.
func (c *census) durability(groups []groupCount, at time.Time, lost map[storagenode.DriveID]bool) Durability {
	d := Durability{At: at, Margins: []MarginCount{}}
	margins := map[int]tally{}
	there := func(id storagenode.DriveID) bool { return !lost[id] && c.fleet.readable(id) }
	for _, g := range groups {
		live := liveSlots(c.fleet, g.group) | c.moving.held(g.group, there)
		for i, s := range g.group.Slots {
			if lost[s.Drive] {
				live = live.Without(i)
			}
		}
		for k, t := range g.shapes {
			left := margin(g.group.Scheme, k.mode, k.present&live)
			sum := margins[left]
			margins[left] = tally{sum.blobs + t.blobs, sum.bytes + t.bytes}
			d.Blobs += t.blobs
			d.Bytes += t.bytes
			if k.present&live == k.slots {
				d.Full += t.blobs
			}
			if left < 0 {
				d.Unreadable += t.blobs
			}
		}
	}
	for m, t := range margins {
		d.Margins = append(d.Margins, MarginCount{m, t.blobs, t.bytes})
	}
	sort.Slice(d.Margins, func(a, b int) bool { return d.Margins[a].Margin < d.Margins[b].Margin })
	return d
}

// WhatIf says how safe the data would be without these drives, on top of what
// is missing already. It counts all blobs anew.
func (r *Repairer) WhatIf(ctx context.Context, drives []storagenode.DriveID) (Durability, error) {
	r.census.fresh.Store(true)
	if err := r.census.pass(ctx); err != nil {
		return Durability{}, err
	}
	lost := make(map[storagenode.DriveID]bool, len(drives))
	for _, id := range drives {
		lost[id] = true
	}
	groups, at := r.census.latest()
	return r.census.durability(groups, at, lost), nil
}
