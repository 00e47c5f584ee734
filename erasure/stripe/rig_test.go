package stripe

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// rig is a group on drives in memory.
type rig struct {
	t      testing.TB
	set    *Set
	group  erasure.Group
	mem    []*storetest.Memory
	faulty []*storetest.Faulty

	mu      sync.Mutex
	stores  map[storagenode.DriveID]storagenode.ShardStore
	states  map[storagenode.DriveID]storagenode.DriveState
	damages []Damage
	ids     *storagenode.BlobIDs
}

func (r *rig) Drive(id storagenode.DriveID) (storagenode.ShardStore, storagenode.DriveState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stores[id]
	if s == nil {
		return nil, storagenode.DriveDown
	}
	return s, r.states[id]
}

func (r *rig) setState(slot int, st storagenode.DriveState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states[r.group.Slots[slot].Drive] = st
}

func (r *rig) setStore(id storagenode.DriveID, s storagenode.ShardStore) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stores[id] = s
}

func (r *rig) taken() []Damage {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.damages
	r.damages = nil
	return d
}

func newRig(t testing.TB, scheme string, change ...func(*Config)) *rig {
	t.Helper()
	s, err := erasure.ParseScheme(scheme)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, stores: map[storagenode.DriveID]storagenode.ShardStore{},
		states: map[storagenode.DriveID]storagenode.DriveState{}, ids: storagenode.NewBlobIDs(time.Now),
	}
	r.group = erasure.Group{PG: 7, Scheme: s}
	for i := range s.N() {
		m := storetest.NewMemory()
		f := storetest.NewFaulty(m)
		id := storagenode.UUID{byte(i + 1)}
		r.mem, r.faulty = append(r.mem, m), append(r.faulty, f)
		r.stores[id] = f
		r.group.Slots = append(r.group.Slots, storagenode.Slot{Drive: id, Epoch: 1})
	}
	// Nothing is kept, so that every read asks the drives; see keeps.
	cfg := Config{Drives: r, WriteWait: 10 * time.Second, ReadWait: 20 * time.Second, Damaged: func(d Damage) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.damages = append(r.damages, d)
	}}
	for _, f := range change {
		f(&cfg)
	}
	r.set = New(cfg)
	r.set.memory.poison = true
	if _, bench := t.(*testing.B); bench {
		r.set.memory.poison = false
		return r
	}
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for _, f := range r.faulty {
			f.Clear()
		}
		r.set.hot.yield(r.set.memory.total)
		deadline := time.Now().Add(3 * time.Second)
		bubble := deadline.Year() < 2010 // time begins in 2000 there
		if bubble {
			time.Sleep(2 * callerIdle) // it sees by itself that no other goroutine is left
		}
		for !bubble && runtime.NumGoroutine() > before || r.set.memory.inUse.Load() != 0 {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<16)
				t.Fatalf("left behind: %d goroutines more, %d bytes\n%s", runtime.NumGoroutine()-before, r.set.memory.inUse.Load(), buf[:runtime.Stack(buf, true)])
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	return r
}

// fewer is a quarter of n in short runs, which have the race detector's cost.
func fewer(n int) int {
	if testing.Short() {
		return (n + 3) / 4
	}
	return n
}

// keeps has what is read again and again kept, but not what is written.
func (r *rig) keeps() {
	r.set.hot.limit = r.set.memory.total / 16 * hotShare
	r.set.hot.unwritten = true
}

// unhedged has late reads waited for: a busy machine is late, and what comes by
// other slots is not kept.
func (r *rig) unhedged() { r.set.hedges.hedged.Store(1 << 30) }

// noise is n bytes that follow from the seed.
func noise(n int, seed uint64) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(p) // never fails
	return p
}

func (r *rig) put(data []byte) erasure.Blob {
	r.t.Helper()
	b, err := r.tryPut(data)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *rig) tryPut(data []byte) (erasure.Blob, error) {
	res, err := r.set.Put(context.Background(), r.group, r.ids.Next(), bytes.NewReader(data), int64(len(data)), PutOptions{
		Attrs: func(int64) []byte { return []byte("attributes") },
	})
	return res.Blob, err
}

func (r *rig) read(b erasure.Blob, off, n int64) ([]byte, error) {
	var out bytes.Buffer
	err := r.set.Read(context.Background(), r.group, b, off, n, &out)
	return out.Bytes(), err
}

// want reads a range and compares it.
func (r *rig) want(b erasure.Blob, data []byte, off, n int64) {
	r.t.Helper()
	got, err := r.read(b, off, n)
	if err != nil {
		r.t.Fatalf("read %d from %d of %d: %v", n, off, len(data), err)
	}
	if !bytes.Equal(got, data[off:off+n]) {
		r.t.Fatalf("read %d from %d of %d: other bytes", n, off, len(data))
	}
}

// shards gives what slot holds of a blob.
func (r *rig) shards(slot int, id storagenode.BlobID) []storagenode.ShardID {
	var out []storagenode.ShardID
	for _, s := range r.mem[slot].Shards() {
		if s.Blob == id {
			out = append(out, s)
		}
	}
	return out
}

// lose takes a slot's shards of a blob away, in one of several ways.
func (r *rig) lose(slot int, id storagenode.BlobID, how int) {
	for _, s := range r.shards(slot, id) {
		if how == 0 {
			r.mem[slot].Lose(s)
		} else {
			r.mem[slot].Corrupt(s, 0)
		}
	}
}

// stubborn ignores contexts: its reads and puts wait until it is let go, as a
// sick disk does.
type stubborn struct {
	storagenode.ShardStore
	gate chan struct{}
	seen chan []byte // what the first put held when it was let go
	one  sync.Once
}

func (s *stubborn) Put(_ context.Context, sh storagenode.Shard) (storagenode.Token, error) {
	first := false
	s.one.Do(func() { first = true })
	<-s.gate
	if first && s.seen != nil {
		s.seen <- bytes.Clone(sh.Payload)
	}
	return s.ShardStore.Put(context.Background(), sh)
}

func (s *stubborn) ReadAt(_ context.Context, id storagenode.ShardID, off int64, p []byte) (int, error) {
	<-s.gate
	return s.ShardStore.ReadAt(context.Background(), id, off, p)
}

// liar flips a bit of what it reads, and says nothing.
type liar struct{ storagenode.ShardStore }

func (l liar) ReadAt(ctx context.Context, id storagenode.ShardID, off int64, p []byte) (int, error) {
	n, err := l.ShardStore.ReadAt(ctx, id, off, p)
	if n > 0 {
		p[n-1] ^= 4
	}
	return n, err
}

var _ io.Reader = (*Source)(nil)
