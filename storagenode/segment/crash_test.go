package segment

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// manualClock stands still but for advance; nobody who sleeps by it wakes, so
// that upkeep runs only where a test calls for it.
type manualClock struct {
	mu  sync.Mutex
	now time.Time
}

func newManualClock() *manualClock { return &manualClock{now: time.UnixMilli(1_700_000_000_000)} }

func (c *manualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (c *manualClock) After(time.Duration) <-chan time.Time { return nil }

func (c *manualClock) Sleep(ctx context.Context, _ time.Duration) error {
	<-ctx.Done()
	return ctx.Err()
}

// modelShard is what may be found of one shard.
type modelShard struct {
	durable []byte   // nil: none
	epoch   uint32   // of durable
	maybe   []putTry // accepted or tried since
	lost    bool     // it may also be gone: a drop was tried
	ever    [][]byte // every payload it ever had
}

type putTry struct {
	payload []byte
	epoch   uint32
	token   storagenode.Token
}

// settle takes the first n tries for durable, as far as their tokens are of the
// incarnation: a sync says nothing of others.
func (sh *modelShard) settle(n int, incarnation uint64) {
	for n > 0 && uint64(sh.maybe[n-1].token)>>ticketBits != incarnation {
		n--
	}
	if n > 0 {
		sh.durable, sh.epoch = sh.maybe[n-1].payload, sh.maybe[n-1].epoch
	}
	sh.maybe = slices.Clone(sh.maybe[n:])
}

type crashModel struct {
	t      *testing.T
	rng    *rand.Rand
	clock  *manualClock
	shards map[storagenode.ShardID]*modelShard
	// deleted: 1 may be, 2 is.
	deleted  map[blobKey]int
	fence    map[slotKey]uint32 // durable
	fenceTry map[slotKey]uint32
	serial   uint64
	mem      *vfs.Mem
	verbose  bool
	holes    bool // writes failed for want of space, perhaps also their marks
}

// logf tells a replayed seed's story.
func (m *crashModel) logf(format string, args ...any) {
	if m.verbose {
		m.t.Logf(format, args...)
	}
}

func (m *crashModel) shard(id storagenode.ShardID) *modelShard {
	if m.shards[id] == nil {
		m.shards[id] = &modelShard{}
	}
	return m.shards[id]
}

func (m *crashModel) randomID() storagenode.ShardID {
	return storagenode.ShardID{
		PG: storagenode.PG(1 + m.rng.IntN(2)), Slot: uint8(m.rng.IntN(2)),
		Blob: testBlob(uint64(1 + m.rng.IntN(30))), Stripe: uint32(m.rng.IntN(3)),
	}
}

func testBlob(n uint64) (b storagenode.BlobID) {
	binary.BigEndian.PutUint64(b[:], n)
	return b
}

func keyOf(id storagenode.ShardID) (slotKey, blobKey) {
	s := slotKeyOf(uint32(id.PG), id.Slot)
	return s, blobKey{s, id.Blob}
}

func (m *crashModel) payload() []byte {
	m.serial++
	size := []int{0, 8, 40, 300, 300, 4096, 70_000}[m.rng.IntN(7)]
	p := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], m.serial<<16+uint64(i/8))
	}
	return p
}

// errEnd says that the fault was reached.
var errEnd = errors.New("drive failed, as the seed wants")

// ended tells the seed's fault from a real failure.
func (m *crashModel) ended(s *Store, err error) error {
	if s.broken.Load() != nil || errors.Is(err, syscall.EIO) {
		return errEnd
	}
	if errors.Is(err, storagenode.ErrReadOnly) || errors.Is(err, syscall.ENOSPC) {
		return nil // refused, the drive goes on
	}
	return err
}

func (m *crashModel) put(s *Store) error {
	id := m.randomID()
	slot, blob := keyOf(id)
	epoch := m.fenceTry[slot]
	if epoch > 0 && m.rng.IntN(20) == 0 {
		epoch--
	}
	p := m.payload()
	deleted, err := s.isDeleted(&header{pg: uint32(id.PG), slot: id.Slot, blob: id.Blob}, &writer{})
	if err != nil {
		return err
	}
	sh := m.shard(id)
	sh.ever = append(sh.ever, p)
	tok, staged, err := m.accept(s, storagenode.Shard{
		ID: id, K: 1, SlotEpoch: epoch, Payload: p, StripeLen: uint32(len(p)), Last: true, Attrs: p[:min(8, len(p))],
	})
	m.logf("put %v epoch %d, %d bytes, staged %v: %v", id, epoch, len(p), staged, err)
	switch {
	case epoch < m.fenceTry[slot]:
		if !errors.Is(err, storagenode.ErrStaleEpoch) && !errors.Is(err, storagenode.ErrDeleted) && s.broken.Load() == nil {
			return fmt.Errorf("stale epoch %d taken: %w", epoch, err)
		}
		return nil
	case deleted:
		if !errors.Is(err, storagenode.ErrDeleted) && s.broken.Load() == nil {
			return fmt.Errorf("deleted blob taken: %w", err)
		}
		return nil
	}
	if m.deleted[blob] == 2 {
		// Its tombstone is gone for good: it begins anew.
		delete(m.deleted, blob)
	}
	if m.deleted[blob] == 1 && errors.Is(err, storagenode.ErrDeleted) {
		return nil // by a Delete that failed
	}
	if staged || !errors.Is(err, storagenode.ErrReadOnly) {
		sh.maybe = append(sh.maybe, putTry{p, epoch, tok})
	}
	if err != nil {
		return m.ended(s, fmt.Errorf("put: %w", err))
	}
	if staged {
		m.synced(s)
	}
	return nil
}

// accept stages some shards and waits for them; the token is of an incarnation
// that never is where that fails.
func (m *crashModel) accept(s *Store, sh storagenode.Shard) (tok storagenode.Token, staged bool, err error) {
	ended := make(chan error, 1)
	if m.rng.IntN(3) > 0 || !s.Stage(sh, func(err error) { ended <- err }) {
		tok, err = s.Put(m.t.Context(), sh)
		return tok, false, err
	}
	if err := <-ended; err != nil {
		return 0, true, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return reservation{ticket: s.lastTicket(), incarnation: s.incarnation}.token(), true, nil
}

// synced settles all that was accepted.
func (m *crashModel) synced(s *Store) {
	s.mu.Lock()
	now := s.incarnation
	s.mu.Unlock()
	for _, sh := range m.shards {
		sh.settle(len(sh.maybe), now)
	}
}

func (m *crashModel) sync(s *Store) error {
	s.mu.Lock()
	last := s.lastTicket()
	s.mu.Unlock()
	if err := s.syncAll(m.t.Context()); err != nil {
		return m.ended(s, fmt.Errorf("sync: %w", err))
	}
	m.logf("synced up to %d", last)
	m.synced(s)
	return nil
}

func (m *crashModel) del(s *Store) error {
	id := m.randomID()
	_, blob := keyOf(id)
	m.deleted[blob] = max(m.deleted[blob], 1)
	if err := s.Delete(m.t.Context(), id.PG, int(id.Slot), id.Blob); err != nil {
		return m.ended(s, fmt.Errorf("delete: %w", err))
	}
	m.logf("deleted %v", id)
	m.buried(blob)
	m.synced(s)
	return nil
}

// buried makes a deletion certain.
func (m *crashModel) buried(blob blobKey) {
	m.deleted[blob] = 2
	for id, sh := range m.shards {
		if _, b := keyOf(id); b == blob {
			sh.durable, sh.maybe = nil, nil
		}
	}
}

func (m *crashModel) setEpoch(s *Store) error {
	id := m.randomID()
	slot, _ := keyOf(id)
	e := m.fenceTry[slot] + uint32(m.rng.IntN(3))
	m.fenceTry[slot] = e
	if err := s.SetSlotEpoch(m.t.Context(), id.PG, int(id.Slot), e); err != nil {
		s.mu.Lock()
		m.fenceTry[slot] = s.fences[slot]
		s.mu.Unlock()
		return m.ended(s, fmt.Errorf("epoch: %w", err))
	}
	m.logf("fence of %v: %d", id, e)
	m.fence[slot] = e
	m.synced(s)
	return nil
}

func (m *crashModel) dropSlot(s *Store) error {
	id := m.randomID()
	slot, _ := keyOf(id)
	e := m.fenceTry[slot] + uint32(m.rng.IntN(2))
	err := s.DropSlot(m.t.Context(), id.PG, int(id.Slot), e)
	m.logf("drop of slot of %v up to %d: %v", id, e, err)
	if err == nil {
		m.synced(s)
	}
	// A drop that was refused for want of space may have been written all the
	// same: another record of its group was not.
	for id, sh := range m.shards {
		if k, _ := keyOf(id); k != slot {
			continue
		}
		if err == nil && sh.epoch <= e {
			sh.durable = nil
		}
		sh.lost = sh.lost || err != nil
	}
	if err != nil {
		return m.ended(s, fmt.Errorf("drop: %w", err))
	}
	return nil
}

func (m *crashModel) upkeep(s *Store) error {
	var err error
	switch m.rng.IntN(7) {
	case 6:
		err = s.restoreIndex(m.t.Context())
	case 0:
		err = s.checkpoint(true)
	case 1:
		m.clock.advance(time.Duration(m.rng.IntN(90)) * time.Minute)
		err = s.purge(m.t.Context())
	case 2:
		err = s.trimSealed()
	default:
		err = errors.Join(s.trimSealed(), s.compact(m.t.Context()))
		if err == nil && s.broken.Load() == nil {
			m.synced2(s)
		}
	}
	m.logf("upkeep: %v, index lost %v", err, s.idxFailed.Load() != nil)
	if err != nil {
		return m.ended(s, fmt.Errorf("upkeep: %w", err))
	}
	return nil
}

// synced2 settles what compaction's syncs made durable on the way.
func (m *crashModel) synced2(s *Store) {
	s.mu.Lock()
	base, now := s.base, s.incarnation
	s.mu.Unlock()
	for _, sh := range m.shards {
		n := 0
		for n < len(sh.maybe) && sh.maybe[n].token != 0 && uint64(sh.maybe[n].token)&ticketMask < base {
			n++
		}
		sh.settle(n, now)
	}
}

func (m *crashModel) step(s *Store) error {
	switch n := m.rng.IntN(100); {
	case n < 55:
		return m.put(s)
	case n < 70:
		return m.sync(s)
	case n < 80:
		return m.del(s)
	case n < 84:
		return m.setEpoch(s)
	case n < 86:
		return m.dropSlot(s)
	case n < 92:
		return m.check(s, m.randomID())
	}
	return m.upkeep(s)
}

// check holds one shard to the model.
func (m *crashModel) check(s *Store, id storagenode.ShardID) error {
	sh := m.shard(id)
	_, blob := keyOf(id)
	info, err := s.Stat(m.t.Context(), id)
	if err != nil && !errors.Is(err, storagenode.ErrNotFound) {
		return m.ended(s, fmt.Errorf("%v: stat: %w", id, err))
	}
	there := err == nil
	if there && m.deleted[blob] == 2 {
		return fmt.Errorf("%v: deleted and back", id)
	}
	p := make([]byte, 100_000)
	n, err := s.ReadAt(m.t.Context(), id, 0, p)
	if err != nil && err != io.EOF {
		if errors.Is(err, storagenode.ErrNotFound) && !there {
			if sh.durable != nil && !sh.lost && m.deleted[blob] == 0 {
				return fmt.Errorf("%v: lost", id)
			}
			return nil
		}
		return m.ended(s, fmt.Errorf("%v: read: %w", id, err))
	}
	p = p[:n]
	if !slices.ContainsFunc(sh.ever, func(q []byte) bool { return bytes.Equal(p, q) }) {
		return fmt.Errorf("%v: wrong bytes", id)
	}
	if !there {
		if m.deleted[blob] == 0 && sh.durable != nil && !sh.lost {
			return fmt.Errorf("%v: readable and not there", id)
		}
		return nil
	}
	if int(info.Size) != n {
		return fmt.Errorf("%v: size %d, read %d", id, info.Size, n)
	}
	if sh.durable != nil && bytes.Equal(p, sh.durable) {
		return nil
	}
	for _, try := range sh.maybe {
		if bytes.Equal(p, try.payload) {
			return nil
		}
	}
	return fmt.Errorf("%v: %d bytes of another generation (durable %d)", id, n, len(sh.durable))
}

// settle takes what a reopened store has for what is durable, after checking
// that it may have it.
func (m *crashModel) settle(s *Store) error {
	for blob, state := range m.deleted {
		h := header{pg: uint32(blob.slot >> 8), slot: uint8(blob.slot), blob: blob.blob}
		is, err := s.isDeleted(&h, &writer{})
		if err != nil {
			return err
		}
		if is {
			m.buried(blob)
		} else if state == 1 {
			delete(m.deleted, blob)
		}
	}
	for id, sh := range m.shards {
		if err := m.check(s, id); err != nil {
			return err
		}
		e, err := s.find(id)
		if err != nil && !errors.Is(err, storagenode.ErrNotFound) {
			return err
		}
		_, blob := keyOf(id)
		sh.maybe, sh.lost, sh.durable = nil, false, nil
		if err == nil && m.deleted[blob] == 0 {
			sh.durable = make([]byte, e.payloadLen)
			sh.epoch = e.epoch
			if _, err := s.ReadAt(m.t.Context(), id, 0, sh.durable); err != nil {
				return err
			}
		}
	}
	for slot, e := range m.fence {
		if got := s.fences[slot]; got < e || got > m.fenceTry[slot] {
			return fmt.Errorf("slot %x: fence %d, was %d", slot, got, e)
		}
	}
	for slot := range m.fenceTry {
		m.fence[slot] = s.fences[slot]
		m.fenceTry[slot] = s.fences[slot]
	}
	return m.checkList(s)
}

// checkList holds the lists to the model.
func (m *crashModel) checkList(s *Store) error {
	for slot := range m.fenceTry {
		var prev storagenode.ShardID
		listed := map[storagenode.ShardID]bool{}
		for info, err := range s.List(m.t.Context(), storagenode.PG(slot>>8), int(uint8(slot)), storagenode.BlobID{}) {
			if err != nil {
				return err
			}
			if c := prev.Blob.Compare(info.ID.Blob); c > 0 || c == 0 && prev.Stripe >= info.ID.Stripe && len(listed) > 0 {
				return fmt.Errorf("list is out of order at %v", info.ID)
			}
			prev = info.ID
			listed[info.ID] = true
		}
		for id, sh := range m.shards {
			if k, _ := keyOf(id); k == slot && listed[id] != (sh.durable != nil) {
				return fmt.Errorf("%v: listed %v", id, listed[id])
			}
		}
	}
	return nil
}

// generation opens the store, works until the fault, and cuts the power.
func (m *crashModel) generation(last bool) (err error) {
	fault := vfs.NewFault(m.mem)
	cfg := Config{
		FS: fault, Dir: "/d", Cluster: storagenode.UUID{1}, Drive: storagenode.DriveID{2},
		Clock: m.clock, SegmentSize: 16 << 10, CompactionRate: -1,
	}
	if !last && m.rng.IntN(4) == 0 { // the power may fail during recovery, too
		fault.Inject(vfs.Rule{Ops: vfs.OpChange, Skip: m.rng.IntN(40), Err: syscall.EIO})
	}
	s, err := Open(m.t.Context(), cfg)
	if err != nil {
		if !errors.Is(err, syscall.EIO) {
			return fmt.Errorf("open: %w", err)
		}
		m.mem = m.mem.Crash(m.rng)
		return nil
	}
	defer func() { _ = s.Close() }()
	m.logf("opened: %+v", s.OpenReport())
	if s.broken.Load() != nil {
		m.mem = m.mem.Crash(m.rng)
		return nil
	}
	if r := s.OpenReport(); !r.Rebuilt && !m.holes && len(r.Corrupt)+len(r.Damaged) > 0 {
		return fmt.Errorf("damage reported where there is none: %+v", r)
	}
	if err := m.settle(s); err != nil {
		return m.ended(s, fmt.Errorf("after open: %w", err))
	}
	if !last {
		fault.Inject(vfs.Rule{Ops: vfs.OpChange, Skip: m.rng.IntN(400), Err: syscall.EIO})
	}
	for _, path := range []string{"/index/", "/segments/"} {
		if m.rng.IntN(6) == 0 {
			m.holes = m.holes || path == "/segments/"
			fault.Inject(vfs.Rule{
				Ops: vfs.OpAllocate | vfs.OpCreate | vfs.OpWrite, Path: path, Skip: m.rng.IntN(100), Times: 1 + m.rng.IntN(3), Err: syscall.ENOSPC,
			})
		}
	}
	for range 20 + m.rng.IntN(150) {
		if err := m.step(s); errors.Is(err, errEnd) {
			break
		} else if err != nil {
			return err
		}
	}
	m.mem = m.mem.Crash(m.rng)
	if m.rng.IntN(8) == 0 {
		return m.mem.RemoveAll("/d/index")
	}
	return nil
}

func crashSeed(t *testing.T, seed uint64) error {
	m := &crashModel{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), clock: newManualClock(),
		shards: map[storagenode.ShardID]*modelShard{}, deleted: map[blobKey]int{},
		fence: map[slotKey]uint32{}, fenceTry: map[slotKey]uint32{}, mem: vfs.NewMem(),
		verbose: os.Getenv("KINTSUGI_SEED") != "",
	}
	for pg := range uint32(2) {
		for slot := range uint8(2) {
			m.fenceTry[slotKeyOf(pg+1, slot)] = 0
		}
	}
	if err := m.mem.MkdirAll("/d"); err != nil {
		return err
	}
	if err := m.mem.SyncDir("/"); err != nil {
		return err
	}
	gens := 2 + m.rng.IntN(4)
	for i := range gens {
		if err := m.generation(i == gens-1); err != nil && !errors.Is(err, errEnd) {
			return fmt.Errorf("generation %d: %w", i, err)
		} else if errors.Is(err, errEnd) {
			m.mem = m.mem.Crash(m.rng)
		}
	}
	return nil
}

// TestCrash cuts the power in random workloads and holds what comes back to a
// model: what was synced is there, what was deleted is not, nothing is wrong.
// KINTSUGI_SEEDS sets how many seeds are tried, KINTSUGI_SEED replays one.
func TestCrash(t *testing.T) {
	first, seeds := uint64(1), 150
	if n, err := strconv.Atoi(os.Getenv("KINTSUGI_SEEDS")); err == nil {
		seeds = n
	}
	if n, err := strconv.ParseUint(os.Getenv("KINTSUGI_SEED"), 10, 64); err == nil {
		first, seeds = n, 1
	}
	failed := 0
	for i := range uint64(seeds) {
		if err := crashSeed(t, first+i); err != nil {
			t.Errorf("KINTSUGI_SEED=%d: %v", first+i, err)
			if failed++; failed == 5 {
				t.FailNow()
			}
		}
	}
}
