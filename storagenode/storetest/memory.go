// Package storetest says what every storagenode.ShardStore must do, and has two
// stores for the tests of those who use one: Memory, a drive in memory whose
// shards can be corrupted and lost, and Faulty, which makes the calls of any
// store fail, wait or hang.
package storetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"kintsugi/storagenode"
)

// Memory is a drive in memory. It keeps the promises of ShardStore but for
// surviving the process, and verifies sums when it is read.
type Memory struct {
	mu      sync.Mutex
	seq     storagenode.Token
	pending []put // accepted, not yet synced, in order of their tokens
	slots   map[slotID]*slot
	used    int64
	refused int64 // what found no room last; nothing is taken before there is for that
	space   storagenode.Space
	health  error
	closed  bool
}

var _ storagenode.Drive = (*Memory)(nil)

type slotID struct {
	pg   storagenode.PG
	slot uint8
}

type slot struct {
	fence   uint32
	shards  map[storagenode.ShardID]*shard
	deleted map[storagenode.BlobID]bool
}

type shard struct {
	info      storagenode.ShardInfo
	payload   []byte
	sums      []uint64
	badHeader bool
}

type put struct {
	token storagenode.Token
	s     *shard
}

// NewMemory makes an empty drive.
func NewMemory() *Memory {
	return &Memory{
		slots: map[slotID]*slot{},
		space: storagenode.Space{Total: 1 << 40, Free: 1 << 40},
	}
}

// slotOf finds or makes a slot; m.mu is held.
func (m *Memory) slotOf(pg storagenode.PG, s uint8) *slot {
	id := slotID{pg, s}
	sl := m.slots[id]
	if sl == nil {
		sl = &slot{
			shards:  map[storagenode.ShardID]*shard{},
			deleted: map[storagenode.BlobID]bool{},
		}
		m.slots[id] = sl
	}
	return sl
}

// begin locks and says whether the call can go on; the caller unlocks.
func (m *Memory) begin(ctx context.Context) error {
	m.mu.Lock()
	if m.closed {
		return fmt.Errorf("closed: %w", storagenode.ErrUnavailable)
	}
	return ctx.Err()
}

// Put implements ShardStore.
func (m *Memory) Put(ctx context.Context, s storagenode.Shard) (storagenode.Token, error) {
	err := m.begin(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	sl := m.slotOf(s.ID.PG, s.ID.Slot)
	switch {
	case len(s.Payload) > storagenode.MaxPayload || len(s.Attrs) > storagenode.MaxAttrs:
		return 0, fmt.Errorf("put %v: %w", s.ID, storagenode.ErrTooLarge)
	case s.Sums != nil && len(s.Sums) != storagenode.SumCount(len(s.Payload)):
		return 0, fmt.Errorf("put %v: %d sums for %d bytes", s.ID, len(s.Sums), len(s.Payload))
	case m.full(int64(len(s.Payload))):
		return 0, fmt.Errorf("put %v: %w", s.ID, storagenode.ErrReadOnly)
	case s.SlotEpoch < sl.fence:
		return 0, fmt.Errorf("put %v: %w", s.ID, storagenode.ErrStaleEpoch)
	case sl.deleted[s.ID.Blob]:
		return 0, fmt.Errorf("put %v: %w", s.ID, storagenode.ErrDeleted)
	}
	d := &shard{
		info: storagenode.ShardInfo{
			ID: s.ID, K: s.K, M: s.M, SlotEpoch: s.SlotEpoch, StripeLen: s.StripeLen,
			StripeHash: s.StripeHash, Last: s.Last, Attrs: bytes.Clone(s.Attrs),
			Size: int64(len(s.Payload)),
		},
		payload: bytes.Clone(s.Payload),
		sums:    slices.Clone(s.Sums),
	}
	if d.sums == nil {
		d.sums = storagenode.AppendSums(nil, d.payload)
	}
	m.seq++
	m.pending = append(m.pending, put{m.seq, d})
	return m.seq, nil
}

// Sync implements ShardStore.
func (m *Memory) Sync(ctx context.Context, t storagenode.Token) error {
	err := m.begin(ctx)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	m.commit(t)
	return nil
}

func (m *Memory) commit(t storagenode.Token) {
	n := 0
	for ; n < len(m.pending) && m.pending[n].token <= t; n++ {
		d := m.pending[n].s
		sl := m.slotOf(d.info.ID.PG, d.info.ID.Slot)
		if sl.deleted[d.info.ID.Blob] {
			continue
		}
		m.remove(sl, d.info.ID)
		sl.shards[d.info.ID] = d
		m.used += d.info.Size
	}
	m.pending = slices.Delete(m.pending, 0, n)
}

// full says that n bytes more are not taken; m.mu is held.
func (m *Memory) full(n int64) bool {
	n = max(n, m.refused)
	for _, p := range m.pending {
		n += p.s.info.Size
	}
	m.refused = 0
	if n > m.space.Free-m.used {
		m.refused = n
	}
	return m.space.ReadOnly || m.refused > 0
}

func (m *Memory) remove(sl *slot, id storagenode.ShardID) {
	if old := sl.shards[id]; old != nil {
		m.used -= old.info.Size
		delete(sl.shards, id)
	}
}

func (m *Memory) find(ctx context.Context, id storagenode.ShardID) (*shard, error) {
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	d := m.slotOf(id.PG, id.Slot).shards[id]
	if d == nil {
		return nil, fmt.Errorf("%v: %w", id, storagenode.ErrNotFound)
	}
	if d.badHeader {
		return nil, fmt.Errorf("%v: header: %w", id, storagenode.ErrCorrupt)
	}
	return d, nil
}

// ReadAt implements ShardStore.
func (m *Memory) ReadAt(ctx context.Context, id storagenode.ShardID, off int64, p []byte) (int, error) {
	d, err := m.find(ctx, id)
	defer m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("%v: negative offset %d", id, off)
	}
	if off >= d.info.Size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	end := min(off+int64(len(p)), d.info.Size)
	for b := off / storagenode.SumBlock; b*storagenode.SumBlock < end; b++ {
		if !d.verify(b) {
			return 0, fmt.Errorf("%v: block %d: %w", id, b, storagenode.ErrCorrupt)
		}
	}
	n := copy(p, d.payload[off:end])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *shard) verify(block int64) bool {
	from := block * storagenode.SumBlock
	to := min(from+storagenode.SumBlock, d.info.Size)
	return storagenode.BlockSum(d.payload[from:to]) == d.sums[block]
}

// Stat implements ShardStore.
func (m *Memory) Stat(ctx context.Context, id storagenode.ShardID) (storagenode.ShardInfo, error) {
	d, err := m.find(ctx, id)
	defer m.mu.Unlock()
	if err != nil {
		return storagenode.ShardInfo{}, err
	}
	info := d.info
	info.Attrs = bytes.Clone(info.Attrs)
	return info, nil
}

// List implements ShardStore. It yields what was there when it began.
func (m *Memory) List(
	ctx context.Context, pg storagenode.PG, slot int, after storagenode.BlobID,
) iter.Seq2[storagenode.ShardInfo, error] {
	return func(yield func(storagenode.ShardInfo, error) bool) {
		infos, err := m.list(ctx, pg, slot, after)
		for _, info := range infos {
			if err = ctx.Err(); err != nil {
				break
			}
			if !yield(info, nil) {
				return
			}
		}
		if err != nil {
			yield(storagenode.ShardInfo{}, err)
		}
	}
}

func (m *Memory) list(
	ctx context.Context, pg storagenode.PG, slot int, after storagenode.BlobID,
) ([]storagenode.ShardInfo, error) {
	err := m.begin(ctx)
	defer m.mu.Unlock()
	if err == nil {
		err = checkSlot(slot)
	}
	if err != nil {
		return nil, err
	}
	var infos []storagenode.ShardInfo
	for id, d := range m.slotOf(pg, uint8(slot)).shards {
		if id.Blob.Compare(after) > 0 {
			info := d.info
			info.Attrs = nil
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b storagenode.ShardInfo) int {
		return cmp.Or(a.ID.Blob.Compare(b.ID.Blob), cmp.Compare(a.ID.Stripe, b.ID.Stripe))
	})
	return infos, nil
}

func checkSlot(slot int) error {
	if slot < 0 || slot >= storagenode.MaxSlots {
		return fmt.Errorf("slot %d: not in 0..%d", slot, storagenode.MaxSlots-1)
	}
	return nil
}

// Delete implements ShardStore. There is no grace: payloads are gone at once.
func (m *Memory) Delete(ctx context.Context, pg storagenode.PG, slot int, blob storagenode.BlobID) error {
	err := m.begin(ctx)
	defer m.mu.Unlock()
	if err == nil {
		err = checkSlot(slot)
	}
	if err != nil {
		return err
	}
	sl := m.slotOf(pg, uint8(slot))
	sl.deleted[blob] = true
	for id := range sl.shards {
		if id.Blob == blob {
			m.remove(sl, id)
		}
	}
	return nil
}

// SetSlotEpoch implements ShardStore.
func (m *Memory) SetSlotEpoch(ctx context.Context, pg storagenode.PG, slot int, epoch uint32) error {
	err := m.begin(ctx)
	defer m.mu.Unlock()
	if err == nil {
		err = checkSlot(slot)
	}
	if err != nil {
		return err
	}
	sl := m.slotOf(pg, uint8(slot))
	if epoch < sl.fence {
		return fmt.Errorf("epoch %d below %d: %w", epoch, sl.fence, storagenode.ErrStaleEpoch)
	}
	sl.fence = epoch
	return nil
}

// DropSlot implements ShardStore. Tombstones stay.
func (m *Memory) DropSlot(ctx context.Context, pg storagenode.PG, slot int, epoch uint32) error {
	err := m.begin(ctx)
	defer m.mu.Unlock()
	if err == nil {
		err = checkSlot(slot)
	}
	if err != nil {
		return err
	}
	sl := m.slotOf(pg, uint8(slot))
	if sl.fence > epoch {
		return fmt.Errorf("epoch %d below %d: %w", epoch, sl.fence, storagenode.ErrStaleEpoch)
	}
	for id, d := range sl.shards {
		if d.info.SlotEpoch <= epoch {
			m.remove(sl, id)
		}
	}
	m.pending = slices.DeleteFunc(m.pending, func(p put) bool {
		id := p.s.info.ID
		return id.PG == pg && int(id.Slot) == slot && p.s.info.SlotEpoch <= epoch
	})
	return nil
}

// Space implements Drive.
func (m *Memory) Space() storagenode.Space {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.space
	s.Used = m.used
	s.Free = max(0, s.Free-m.used)
	s.ReadOnly = s.ReadOnly || s.Free < m.refused
	return s
}

// SetSpace sets what Space reports, Used taken off Free; ReadOnly makes Put fail,
// and so does a shard that there is no room for.
func (m *Memory) SetSpace(s storagenode.Space) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.space = s
}

// Health implements Drive.
func (m *Memory) Health() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.health
}

// SetHealth sets what Health reports; calls go on as before.
func (m *Memory) SetHealth(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.health = err
}

// Scrub implements Drive; it is never slow.
func (m *Memory) Scrub(
	ctx context.Context, _ int64, damaged func(storagenode.ShardID, error),
) (storagenode.ScrubReport, error) {
	var report storagenode.ScrubReport
	if err := m.begin(ctx); err != nil {
		m.mu.Unlock()
		return report, err
	}
	ids := m.ids()
	m.mu.Unlock()
	for _, id := range ids {
		d, ferr := m.find(ctx, id)
		if ferr == nil {
			for b := int64(0); b < int64(len(d.sums)) && ferr == nil; b++ {
				if !d.verify(b) {
					ferr = fmt.Errorf("%v: block %d: %w", id, b, storagenode.ErrCorrupt)
				}
			}
			report.Bytes += d.info.Size
		}
		m.mu.Unlock()
		switch {
		case errors.Is(ferr, storagenode.ErrCorrupt):
			report.Corrupt = append(report.Corrupt, id)
			if damaged != nil {
				damaged(id, ferr)
			}
		case errors.Is(ferr, storagenode.ErrNotFound): // deleted meanwhile
			continue
		case ferr != nil:
			return report, ferr
		}
		report.Records++
	}
	return report, nil
}

func (m *Memory) ids() []storagenode.ShardID {
	var ids []storagenode.ShardID
	for _, sl := range m.slots {
		for id := range sl.shards {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b storagenode.ShardID) int {
		return cmp.Or(cmp.Compare(a.PG, b.PG), cmp.Compare(a.Slot, b.Slot),
			a.Blob.Compare(b.Blob), cmp.Compare(a.Stripe, b.Stripe))
	})
	return ids
}

// Shards gives the ids of all visible shards, in order.
func (m *Memory) Shards() []storagenode.ShardID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ids()
}

// Corrupt inverts a bit of the payload byte at off, or, where off is negative,
// damages the header. It reports whether there was such a byte.
func (m *Memory) Corrupt(id storagenode.ShardID, off int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.slotOf(id.PG, id.Slot).shards[id]
	if d == nil || off >= d.info.Size {
		return false
	}
	if off < 0 {
		d.badHeader = true
		return true
	}
	d.payload[off] ^= 1
	return true
}

// Lose makes a shard vanish without a trace, and reports whether it was there.
func (m *Memory) Lose(id storagenode.ShardID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	sl := m.slotOf(id.PG, id.Slot)
	was := sl.shards[id] != nil
	m.remove(sl, id)
	return was
}

// Wipe empties the drive: shards, fences and tombstones.
func (m *Memory) Wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots, m.pending, m.used = map[slotID]*slot{}, nil, 0
}

// Close implements Drive; calls afterwards get ErrUnavailable.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commit(m.seq)
	m.closed = true
	return nil
}
