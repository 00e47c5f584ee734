package stripe

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// warm reads a blob until all of it is kept: more than twice where reads are
// hedged, as happens on a busy machine.
func (r *rig) warm(data []byte) (read func(off, n int64)) {
	r.t.Helper()
	blob := r.put(data)
	for range 50 {
		before := r.calls()
		r.want(blob, data, 0, blob.Size)
		if r.calls() == before {
			return func(off, n int64) { r.t.Helper(); r.want(blob, data, off, n) }
		}
	}
	r.t.Fatal("it is never kept")
	return nil
}

func (r *rig) calls() (n int64) {
	for _, f := range r.faulty {
		n += f.Calls(storetest.OpRead)
	}
	return n
}

// TestHotPieces: what was read twice is not asked of the drives again, whatever
// part of it is wanted; what was read once is kept where it came from a node. It
// is so for copies, for drives that are read in turn, and for those that are asked
// side by side.
func TestHotPieces(t *testing.T) {
	for _, size := range []int{3000, 65536, 100_000, 1 << 20, 9<<20 + 12345} {
		quick := quickRig(t)
		quick.unhedged()
		hotPieces(t, quick, size)
		remote := newRig(t, "4+2", func(c *Config) { c.Remote = true })
		remote.keeps()
		remote.unhedged()
		hotPieces(t, remote, size)
	}
}

func hotPieces(t *testing.T, r *rig, size int) {
	t.Helper()
	data := noise(size, 1)
	once := r.put(data)
	r.want(once, data, 0, once.Size)
	if n := r.set.hot.size(); n > 0 && !r.set.cfg.Remote {
		t.Fatalf("%d bytes: %d are kept after one read", size, n)
	} else if r.set.cfg.Remote && n < int64(size) {
		t.Fatalf("%d bytes: only %d are kept after one read from nodes", size, n)
	}
	want := r.warm(data)
	before := r.calls()
	for range 30 {
		off := rand.Int64N(int64(size))
		want(off, 1+rand.Int64N(int64(size)-off))
	}
	if n := r.calls() - before; n > 0 {
		t.Errorf("%d bytes: %d calls for what is kept", size, n)
	}
}

// TestHotPieceDamaged: a flipped bit in memory is found, and the piece read anew.
func TestHotPieceDamaged(t *testing.T) {
	hotPieceDamaged(t, quickRig(t), 1<<20)
	remote := newRig(t, "4+2", func(c *Config) { c.Remote = true })
	remote.keeps()
	remote.unhedged()
	hotPieceDamaged(t, remote, 1<<20)
	hotPieceDamaged(t, remote, 4096)
}

func hotPieceDamaged(t *testing.T, r *rig, size int) {
	t.Helper()
	want := r.warm(noise(size, 1))
	for _, p := range r.set.hot.pieces {
		p.mem[rand.IntN(len(p.mem))] ^= 8
	}
	reads := r.set.hot.reads.Load()
	want(0, int64(size))
	if r.set.hot.reads.Load() != reads {
		t.Error("a damaged piece was used")
	}
	for range 50 {
		want(0, int64(size))
		if r.set.hot.reads.Load() > reads {
			return
		}
	}
	t.Error("it was not kept anew")
}

// TestHotYields: pieces take only what transfers leave, and those that wait
// come first.
func TestHotYields(t *testing.T) {
	r := quickRig(t, func(c *Config) { c.MemoryBytes = 32 << 20 })
	for i := range 3 {
		r.warm(noise(8<<20, uint64(i)))
	}
	for i := range 3 {
		data := noise(8<<20, uint64(i))
		b := r.put(data)
		for range 3 {
			r.want(b, data, 0, b.Size)
		}
	}
	h, m := r.set.hot, r.set.memory
	if n := h.size(); n > h.limit || n < h.limit/2 {
		t.Fatalf("%d bytes are kept, limit %d", n, h.limit)
	}
	large, err := m.get(t.Context(), 28<<20)
	if err != nil {
		t.Fatal(err)
	}
	if n := h.size(); n > 4<<20 {
		t.Errorf("%d bytes are kept beside a transfer of 28 MiB in 32", n)
	}
	if b := m.try(4 << 20); b == nil {
		t.Error("pieces stand in the way of a hedge")
	} else {
		b.release()
	}
	m.waiting.Add(1)
	b := m.try(turnBytes)
	if h.put(hotKey{at: 1}, b, turnBytes) {
		t.Error("a piece is kept while others wait")
	}
	b.release()
	m.waiting.Add(-1)
	large.release()
}

// TestWrittenIsKept: what was written in one stripe is read without asking any
// drive, whatever part of it; what is read again and again stays, however much is
// written; what was written last takes the place of what nobody read, and transfers
// that of both.
func TestWrittenIsKept(t *testing.T) {
	for _, remote := range []bool{false, true} {
		change := func(c *Config) { c.KeptBytes, c.Remote, c.MemoryBytes = 60<<20, remote, 64<<20 }
		schemes := []string{"4+2", "3+1", "1+2", "2+0"}
		for _, scheme := range schemes[:fewer(len(schemes))] {
			r := newRig(t, scheme, change)
			for _, size := range []int{2048, 65536, 65537, 200_000, 256 << 10, 256<<10 - 70, 1 << 20, 1<<20 + 5, 3<<20 + 77, 4 << 20} {
				data := noise(size, 1)
				b := r.put(data)
				r.want(b, data, 0, b.Size)
				for range 10 {
					off := rand.Int64N(int64(size))
					r.want(b, data, off, 1+rand.Int64N(int64(size)-off))
				}
				if n := r.calls(); n > 0 {
					t.Fatalf("%s, remote %v: %d bytes: %d calls for what was just written", scheme, remote, size, n)
				}
			}
		}
		r := newRig(t, "4+2", change)
		used := noise(4<<20, 1)
		b := r.put(used)
		var last erasure.Blob
		var data []byte
		for i := range 40 {
			if i < 20 {
				r.want(b, used, 0, b.Size) // it goes on being kept when it is no longer read
			}
			data = noise(4<<20, uint64(i))
			last = r.put(data)
		}
		r.want(b, used, 0, b.Size)
		r.want(last, data, 0, last.Size)
		if n := r.calls(); n > 0 {
			t.Fatalf("remote %v: %d calls for what is in use and what was written last", remote, n)
		}
		large, err := r.set.memory.get(t.Context(), 60<<20)
		if err != nil {
			t.Fatal(err)
		}
		large.release()
		r.want(b, used, 0, b.Size)
		if r.calls() == 0 {
			t.Fatalf("remote %v: pieces were not given up for a transfer", remote)
		}
	}
}

// TestLargeIsKept: a blob of several stripes is kept while there is room, but takes
// nobody's place; after transfers needed memory it takes as much writing as is kept
// until one is again. What was deleted makes room at once.
func TestLargeIsKept(t *testing.T) {
	const size = 10 << 20
	r := newRig(t, "4+2", func(c *Config) { c.KeptBytes, c.MemoryBytes = 60<<20, 128<<20 })
	small, first, second := noise(300_000, 1), noise(size, 2), noise(size, 3)
	s, a := r.put(small), r.put(first)
	kept := func(b erasure.Blob, data []byte) bool {
		t.Helper()
		before := r.calls()
		r.want(b, data, 0, b.Size)
		return r.calls() == before
	}
	if !kept(s, small) || !kept(a, first) {
		t.Fatal("what was written while there was room is not kept")
	}
	for range 4 {
		r.put(second)
	}
	b := r.put(second)
	if kept(b, second) || !kept(a, first) || !kept(s, small) {
		t.Fatal("a large blob took the place of others")
	}
	before := r.set.hot.size()
	r.set.Forget(a.ID)
	if got := before - r.set.hot.size(); got < size || kept(a, first) {
		t.Fatalf("%d bytes of a deleted blob of %d were let go", got, size)
	}
	if b = r.put(second); !kept(b, second) {
		t.Fatal("a deleted blob made no room")
	}
	large, err := r.set.memory.get(t.Context(), 112<<20)
	if err != nil {
		t.Fatal(err)
	}
	large.release()
	if b = r.put(second); kept(b, second) {
		t.Fatal("a large blob is kept where transfers need the memory")
	}
	for range 5 {
		r.put(second)
	}
	if b = r.put(second); !kept(b, second) {
		t.Fatal("no large blob is kept any more")
	}
	if len(r.set.hot.blobs) == 0 || len(r.set.hot.pieces) == 0 {
		t.Fatal("nothing is kept")
	}
	for id := range r.set.hot.blobs {
		r.set.Forget(id)
	}
	if n, p := r.set.hot.size(), len(r.set.hot.pieces); n != 0 || p != 0 {
		t.Fatalf("%d bytes in %d pieces of no blob", n, p)
	}
}

// TestHotTurnover: where there is no room, what nobody reads any more gives way
// to what is read again; what is in use stays, whatever else is read.
func TestHotTurnover(t *testing.T) {
	h := newHot(newMemory(8<<20), 8<<20, true)
	piece := func(blob, i int) hotKey { return hotKey{storagenode.BlobID{0: byte(blob), 15: byte(i)}, int64(i)} }
	read := func(key hotKey) bool {
		if p, buf := h.take(key, 0, turnBytes); p != nil {
			buf.release()
			return true
		}
		buf := h.memory.spare(turnBytes)
		h.keep(key, buf, 0, turnBytes)
		buf.release()
		return false
	}
	rounds := func(blob, pieces, times int) (hits int) {
		for range times {
			for i := range pieces {
				if read(piece(blob, i)) {
					hits++
				}
			}
		}
		return hits
	}
	room := int(h.limit / turnBytes)
	h.remote = false
	rounds(8, room, 20)
	rounds(9, room, 9)
	if hits := rounds(9, room, 1); hits < room*9/10 {
		t.Errorf("of a machine's own: only %d of %d pieces are kept after what is read has moved on", hits, room)
	}
	h.remote = true
	h.yield(h.memory.total)
	if hits := rounds(1, room, 10); hits != 9*room {
		t.Fatalf("%d of %d reads of what there is room for were of memory", hits, 10*room)
	}
	if hits := rounds(2, 1000, 1) + rounds(1, room, 1); hits != room {
		t.Errorf("what was read once drove out all but %d of %d pieces in use", hits, room)
	}
	rounds(3, room, 20)
	if hits := rounds(3, room, 1); hits < room*9/10 {
		t.Errorf("only %d of %d pieces are kept instead of what nobody reads", hits, room)
	}
	if n := h.size(); n > h.limit {
		t.Errorf("%d bytes are kept, limit %d", n, h.limit)
	}
}

// TestHotGaps: only what is lacking is asked of the nodes.
func TestHotGaps(t *testing.T) {
	r := newRig(t, "4+2", func(c *Config) { c.Remote = true })
	r.keeps()
	r.unhedged()
	data := noise(9<<20+12345, 3)
	b := r.put(data)
	r.want(b, data, 0, b.Size)
	kept := len(r.set.hot.pieces)
	lost := hotKey{b.ID, 1 << 20}
	p := r.set.hot.get(lost)
	r.set.hot.drop(p)
	p.of.release()
	before := r.calls()
	r.want(b, data, 0, b.Size)
	if n := r.calls() - before; n != 1 {
		t.Errorf("%d calls for one piece that is lacking", n)
	}
	if n := len(r.set.hot.pieces); n != kept || !r.set.hot.has(lost) {
		t.Errorf("%d pieces are kept, %d were", n, kept)
	}
}

// TestHotRanges: also pieces of which only a part is read are kept when it is read
// again.
func TestHotRanges(t *testing.T) {
	r := newRig(t, "4+2", func(c *Config) { c.Remote = true })
	r.keeps()
	data := noise(9<<20+12345, 4)
	b := r.put(data)
	for _, at := range [][2]int64{{100_000, 3000}, {300_000, 1 << 20}, {3 << 20, 2 << 20}, {9 << 20, 12345}, {5<<20 - 10, 20}} {
		calls := int64(1)
		for range 4 {
			before := r.calls()
			r.want(b, data, at[0], at[1])
			calls = r.calls() - before
		}
		if calls > 0 {
			t.Errorf("%d bytes from %d are never kept", at[1], at[0])
		}
	}
}

// TestHotRush reads many blobs at once through a memory that holds few of them,
// beside writes; what is let go is overwritten (see memory.poison).
func TestHotRush(t *testing.T) {
	small := func(c *Config) { c.MemoryBytes = 32 << 20 }
	hotRush(t, quickRig(t, small))
	remote := newRig(t, "4+2", small, func(c *Config) { c.Remote = true })
	remote.keeps()
	remote.unhedged()
	hotRush(t, remote)
}

func hotRush(t *testing.T, r *rig) {
	t.Helper()
	var all [][]byte
	var read []func(off, n int64)
	for i := range 12 {
		data := noise(4<<20, uint64(i))
		b := r.put(data)
		all, read = append(all, data), append(read, func(off, n int64) { r.want(b, data, off, n) })
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 25 {
				i := rand.IntN(len(read))
				off := rand.Int64N(4 << 20)
				read[i](off, 1+rand.Int64N(4<<20-off))
			}
		})
	}
	wg.Go(func() {
		for i := range 4 {
			b, err := r.tryPut(all[i])
			if err != nil {
				t.Error(err)
				return
			}
			var out bytes.Buffer
			if err := r.set.Read(t.Context(), r.group, b, 0, b.Size, &out); err != nil || !bytes.Equal(out.Bytes(), all[i]) {
				t.Errorf("%d bytes, %v", out.Len(), err)
			}
		}
	})
	wg.Wait()
	if r.set.hot.reads.Load() == 0 {
		t.Error("nothing was kept")
	}
}

// TestSmallIsKept: a small blob takes the place of those that were written before it
// and that nobody read, also where transfers needed memory lately.
func TestSmallIsKept(t *testing.T) {
	r := newRig(t, "4+2", func(c *Config) { c.KeptBytes, c.MemoryBytes = 1<<20, 64<<20 })
	data := noise(60_000, 1)
	var b erasure.Blob
	for range 40 {
		b = r.put(data)
	}
	if r.want(b, data, 0, b.Size); r.calls() > 0 {
		t.Fatal("what was written last is not kept")
	}
	large, err := r.set.memory.get(t.Context(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	large.release()
	b = r.put(data)
	if r.want(b, data, 0, b.Size); r.calls() > 0 {
		t.Fatal("a small blob pays for the memory that transfers needed")
	}
}

// TestHotYieldsToAll: of many transfers that need memory at the same time each gets
// it while pieces are kept that nobody needs.
func TestHotYieldsToAll(t *testing.T) {
	r := newRig(t, "4+2", func(c *Config) { c.KeptBytes, c.MemoryBytes = 60<<20, 64<<20 })
	m := r.set.memory
	m.wait, m.poison = 2*time.Second, false
	for round := range fewer(1000) {
		for i := range 58 {
			b, err := m.get(t.Context(), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			r.set.hot.put(hotKey{at: int64(round*100 + i)}, b, 1<<20)
			b.release()
		}
		var all sync.WaitGroup
		bufs := make([]*buffer, 60)
		for i := range bufs {
			all.Go(func() {
				var err error
				if bufs[i], err = m.get(t.Context(), 1<<20); err != nil {
					t.Errorf("round %d: %v while %d bytes are kept", round, err, r.set.hot.size())
				}
			})
		}
		all.Wait()
		for _, b := range bufs {
			b.release()
		}
		if t.Failed() {
			return
		}
	}
}
