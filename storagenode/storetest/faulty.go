package storetest

import (
	"context"
	"iter"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kintsugi/storagenode"
)

// Op is a method of ShardStore, or a set of them.
type Op uint32

// The methods a Fault can match.
const (
	OpPut Op = 1 << iota
	OpSync
	OpReadAt
	OpStat
	OpList
	OpDelete
	OpSetSlotEpoch
	OpDropSlot

	opEnd
	// OpAny is every method.
	OpAny = opEnd - 1
	// OpWrite is every method that changes something.
	OpWrite = OpPut | OpSync | OpDelete | OpSetSlotEpoch | OpDropSlot
	// OpRead is every method that does not.
	OpRead = OpReadAt | OpStat | OpList
)

const opKinds = 8

// Fault says which calls go wrong, and how. The first that matches decides.
type Fault struct {
	Ops Op // 0 means OpAny
	// Match chooses by id; nil matches all. Calls that name no shard have what
	// is known of the id: a slot, a blob, or, for Sync, nothing.
	Match func(storagenode.ShardID) bool
	// Skip lets so many matching calls pass first; Times then ends the fault
	// after so many (0: it goes on).
	Skip, Times int

	// Delay and Hang wait before the call, Hang until Release; the end of the
	// context ends both with its error.
	Delay time.Duration
	Hang  bool
	// Err is returned instead of making the call, or, with After, once it was
	// made: an answer that got lost. Nil makes the call.
	Err   error
	After bool
}

// Injected is a fault at work.
type Injected struct {
	fault   Fault
	f       *Faulty
	matched atomic.Int64
	hits    atomic.Int64
	waiting atomic.Int64
	release chan struct{}
	once    sync.Once
}

// Hits is the number of calls the fault was applied to.
func (i *Injected) Hits() int { return int(i.hits.Load()) }

// Waiting is the number of calls that hang now.
func (i *Injected) Waiting() int { return int(i.waiting.Load()) }

// Release lets hanging calls go on and takes the fault away.
func (i *Injected) Release() {
	i.f.mu.Lock()
	i.f.faults = slices.DeleteFunc(slices.Clone(i.f.faults), func(o *Injected) bool { return o == i })
	i.f.mu.Unlock()
	i.once.Do(func() { close(i.release) })
}

// Faulty wraps a store and makes chosen calls fail, wait or hang. Safe for
// concurrent use. It counts calls.
type Faulty struct {
	store  storagenode.ShardStore
	calls  [opKinds]atomic.Int64
	mu     sync.RWMutex
	faults []*Injected
	down   error
}

var _ storagenode.Drive = (*Faulty)(nil)

// NewFaulty wraps a store; without faults it changes nothing. Where the store
// is a Drive, the methods of Drive go there.
func NewFaulty(store storagenode.ShardStore) *Faulty { return &Faulty{store: store} }

// Inject adds a fault behind those already there.
func (f *Faulty) Inject(fault Fault) *Injected {
	if fault.Ops == 0 {
		fault.Ops = OpAny
	}
	i := &Injected{fault: fault, f: f, release: make(chan struct{})}
	f.mu.Lock()
	f.faults = append(slices.Clone(f.faults), i)
	f.mu.Unlock()
	return i
}

// SetDown makes every call fail with err at once, and Health report it; nil
// ends that.
func (f *Faulty) SetDown(err error) {
	f.mu.Lock()
	f.down = err
	f.mu.Unlock()
}

// Clear takes all faults away, SetDown too, and lets hanging calls go on.
func (f *Faulty) Clear() {
	f.SetDown(nil)
	f.mu.RLock()
	faults := f.faults
	f.mu.RUnlock()
	for _, i := range faults {
		i.Release()
	}
}

// Calls counts the calls of these methods so far, also those that failed.
func (f *Faulty) Calls(ops Op) int64 {
	var n int64
	for k := range opKinds {
		if ops&(1<<k) != 0 {
			n += f.calls[k].Load()
		}
	}
	return n
}

// apply makes the faults of a call happen. after is the error to give once the
// call was made.
func (f *Faulty) apply(ctx context.Context, op Op, id storagenode.ShardID) (after, err error) {
	f.calls[bits.TrailingZeros32(uint32(op))].Add(1)
	f.mu.RLock()
	faults, down := f.faults, f.down
	f.mu.RUnlock()
	if down != nil {
		return nil, down
	}
	for _, i := range faults {
		w := &i.fault
		if w.Ops&op == 0 || w.Match != nil && !w.Match(id) {
			continue
		}
		n := i.matched.Add(1)
		if n <= int64(w.Skip) || w.Times > 0 && n > int64(w.Skip+w.Times) {
			continue
		}
		i.hits.Add(1)
		if err := i.wait(ctx); err != nil {
			return nil, err
		}
		if w.After {
			return w.Err, nil
		}
		return nil, w.Err
	}
	return nil, nil
}

func (i *Injected) wait(ctx context.Context) error {
	if i.fault.Delay > 0 {
		t := time.NewTimer(i.fault.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if i.fault.Hang {
		i.waiting.Add(1)
		defer i.waiting.Add(-1)
		select {
		case <-i.release:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Put implements ShardStore.
func (f *Faulty) Put(ctx context.Context, s storagenode.Shard) (storagenode.Token, error) {
	after, err := f.apply(ctx, OpPut, s.ID)
	if err != nil {
		return 0, err
	}
	t, err := f.store.Put(ctx, s)
	if err == nil && after != nil {
		return 0, after
	}
	return t, err
}

// Sync implements ShardStore.
func (f *Faulty) Sync(ctx context.Context, t storagenode.Token) error {
	return f.do(ctx, OpSync, storagenode.ShardID{}, func() error { return f.store.Sync(ctx, t) })
}

// do runs a call that returns nothing but an error.
func (f *Faulty) do(ctx context.Context, op Op, id storagenode.ShardID, call func() error) error {
	after, err := f.apply(ctx, op, id)
	if err != nil {
		return err
	}
	if err := call(); err != nil {
		return err
	}
	return after
}

// ReadAt implements ShardStore.
func (f *Faulty) ReadAt(ctx context.Context, id storagenode.ShardID, off int64, p []byte) (n int, err error) {
	err = f.do(ctx, OpReadAt, id, func() error {
		n, err = f.store.ReadAt(ctx, id, off, p)
		return err
	})
	return n, err
}

// Stat implements ShardStore.
func (f *Faulty) Stat(ctx context.Context, id storagenode.ShardID) (info storagenode.ShardInfo, err error) {
	err = f.do(ctx, OpStat, id, func() error {
		info, err = f.store.Stat(ctx, id)
		return err
	})
	return info, err
}

// List implements ShardStore. With After the fault comes at the end of the
// list.
func (f *Faulty) List(
	ctx context.Context, pg storagenode.PG, slot int, after storagenode.BlobID,
) iter.Seq2[storagenode.ShardInfo, error] {
	return func(yield func(storagenode.ShardInfo, error) bool) {
		at, err := f.apply(ctx, OpList, storagenode.ShardID{PG: pg, Slot: uint8(slot), Blob: after})
		if err != nil {
			yield(storagenode.ShardInfo{}, err)
			return
		}
		for info, err := range f.store.List(ctx, pg, slot, after) {
			if !yield(info, err) || err != nil {
				return
			}
		}
		if at != nil {
			yield(storagenode.ShardInfo{}, at)
		}
	}
}

// Delete implements ShardStore.
func (f *Faulty) Delete(ctx context.Context, pg storagenode.PG, slot int, blob storagenode.BlobID) error {
	id := storagenode.ShardID{PG: pg, Slot: uint8(slot), Blob: blob}
	return f.do(ctx, OpDelete, id, func() error { return f.store.Delete(ctx, pg, slot, blob) })
}

// SetSlotEpoch implements ShardStore.
func (f *Faulty) SetSlotEpoch(ctx context.Context, pg storagenode.PG, slot int, epoch uint32) error {
	id := storagenode.ShardID{PG: pg, Slot: uint8(slot)}
	return f.do(ctx, OpSetSlotEpoch, id, func() error { return f.store.SetSlotEpoch(ctx, pg, slot, epoch) })
}

// DropSlot implements ShardStore.
func (f *Faulty) DropSlot(ctx context.Context, pg storagenode.PG, slot int, epoch uint32) error {
	id := storagenode.ShardID{PG: pg, Slot: uint8(slot)}
	return f.do(ctx, OpDropSlot, id, func() error { return f.store.DropSlot(ctx, pg, slot, epoch) })
}

// Space implements Drive; zero where the store is none.
func (f *Faulty) Space() storagenode.Space {
	if d, ok := f.store.(storagenode.Drive); ok {
		return d.Space()
	}
	return storagenode.Space{}
}

// Health implements Drive: what SetDown was given, then what the store says.
func (f *Faulty) Health() error {
	f.mu.RLock()
	down := f.down
	f.mu.RUnlock()
	if d, ok := f.store.(storagenode.Drive); ok && down == nil {
		return d.Health()
	}
	return down
}

// Scrub implements Drive.
func (f *Faulty) Scrub(
	ctx context.Context, bytesPerSecond int64, damaged func(storagenode.ShardID, error),
) (storagenode.ScrubReport, error) {
	if d, ok := f.store.(storagenode.Drive); ok {
		return d.Scrub(ctx, bytesPerSecond, damaged)
	}
	return storagenode.ScrubReport{}, nil
}

// Close implements Drive: it lets hanging calls go on and closes the store.
func (f *Faulty) Close() error {
	f.Clear()
	if d, ok := f.store.(storagenode.Drive); ok {
		return d.Close()
	}
	return nil
}
