package stripe

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

var borders = []int{
	0, 1, 63, 4096, erasure.ReplicateMax - 1, erasure.ReplicateMax, erasure.ReplicateMax + 1, 300_000, 1 << 20,
	erasure.StripeSize - 1, erasure.StripeSize, erasure.StripeSize + 1, 2*erasure.StripeSize + 12345,
}

// TestRoundTrip writes blobs of every size at a border, with right, wrong and
// no hints, and reads ranges at all borders of shards and stripes.
func TestRoundTrip(t *testing.T) {
	schemes := []string{"4+2", "3+0", "2+1", "1+1", "1+0", "8+4"}
	for _, scheme := range schemes[:fewer(len(schemes))] {
		t.Run(scheme, func(t *testing.T) {
			r := newRig(t, scheme)
			for i, n := range borders {
				data := noise(n, uint64(n))
				hint := []int64{int64(n), -1, int64(n / 2), int64(2*n + 1)}[i%4]
				sum := md5.New()
				res, err := r.set.Put(t.Context(), r.group, r.ids.Next(), iotest.OneByteReader(bytes.NewReader(data[:min(n, 100)])), -1, PutOptions{})
				if err != nil || res.Blob.Size != int64(min(n, 100)) {
					t.Fatal(err)
				}
				res, err = r.set.Put(t.Context(), r.group, r.ids.Next(), bytes.NewReader(data), hint, PutOptions{
					Observer: sum,
					Attrs: func(size int64) []byte {
						return fmt.Appendf(nil, "%d %x", size, sum.Sum(nil))
					},
				})
				if err != nil {
					t.Fatalf("%d bytes, hint %d: %v", n, hint, err)
				}
				b := res.Blob
				if b.Size != int64(n) || res.More || b.Missing != 0 {
					t.Fatalf("%d bytes: %+v", n, res)
				}
				r.checkAttrs(b, fmt.Sprintf("%d %x", n, md5.Sum(data)))
				r.want(b, data, 0, int64(n))
				for range 6 {
					r.want(b, data, int64(n/3), int64(n/4))
				}
				at := []int64{0, 1, int64(r.group.Scheme.ShardSize(min(n, erasure.StripeSize))), erasure.StripeSize, int64(n)}
				for _, from := range at {
					for _, to := range at {
						for d := int64(-1); d <= 1; d++ {
							if from >= 0 && from <= to+d && to+d <= int64(n) {
								r.want(b, data, from, to+d-from)
							}
						}
					}
				}
			}
			if d := r.taken(); len(d) > 0 {
				t.Fatalf("damage where there is none: %v", d)
			}
		})
	}
}

// checkAttrs wants the attributes on the last stripe of all slots, only there.
func (r *rig) checkAttrs(b erasure.Blob, want string) {
	r.t.Helper()
	copies := 0
	for slot := range r.mem {
		for _, id := range r.shards(slot, b.ID) {
			info, err := r.mem[slot].Stat(context.Background(), id)
			if err != nil {
				r.t.Fatal(err)
			}
			last := b.Mode == erasure.Replicated || int(id.Stripe) == stripes(b.Size)-1
			if info.Last != last || last && string(info.Attrs) != want || !last && len(info.Attrs) > 0 {
				r.t.Fatalf("shard %v of %d bytes: last %v, attributes %q, want %q", id, b.Size, info.Last, info.Attrs, want)
			}
			if last {
				copies++
			}
		}
	}
	if copies != b.Slots.Count() || b.Mode == erasure.Replicated && copies != int(r.group.Scheme.M)+1 {
		r.t.Fatalf("%d last shards of %d bytes on %b", copies, b.Size, b.Slots)
	}
}

func TestRandomRanges(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t, "4+2")
	data := noise(3*erasure.StripeSize+777, seed)
	b := r.put(data)
	lost := 0
	for i := range 60 {
		if i%20 == 19 && lost < 2 {
			r.lose(rng.IntN(6), b.ID, rng.IntN(2))
			lost++
		}
		off := rng.Int64N(b.Size)
		n := rng.Int64N(b.Size - off + 1)
		if i%2 == 0 {
			n = min(n, 70_000)
		}
		got, err := r.read(b, off, n)
		if err != nil || !bytes.Equal(got, data[off:off+n]) {
			t.Fatalf("seed %d: %d from %d: %v", seed, n, off, err)
		}
	}
}

func TestRangesOutside(t *testing.T) {
	r := newRig(t, "2+1")
	b := r.put(noise(1000, 1))
	for _, c := range [][2]int64{{-1, 5}, {0, 1001}, {1001, 0}, {5, -1}, {1000, 1}, {1 << 62, 1 << 62}} {
		if got, err := r.read(b, c[0], c[1]); !errors.Is(err, ErrRange) || len(got) > 0 {
			t.Fatalf("%v: %d bytes, %v", c, len(got), err)
		}
	}
}

// staging gives a store a Stage: of every other shard, sometimes at once.
type staging struct {
	storagenode.ShardStore
	asked atomic.Int32
}

func (s *staging) Stage(sh storagenode.Shard, done func(error)) bool {
	n := s.asked.Add(1)
	if n%2 == 0 || len(sh.Payload) > 64<<10 {
		return false
	}
	sh.Payload = bytes.Clone(sh.Payload)
	run := func() {
		token, err := s.Put(context.Background(), sh)
		if err == nil {
			err = s.Sync(context.Background(), token)
		}
		done(err)
	}
	if n%3 == 0 {
		go run()
	} else if err := func() (err error) { // a drive that answers at once is done before Stage returns
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		token, err := s.Put(ctx, sh)
		if err == nil {
			err = s.Sync(ctx, token)
		}
		return err
	}(); errors.Is(err, context.DeadlineExceeded) {
		go run()
	} else {
		done(err)
	}
	return true
}

func TestWriteQuorum(t *testing.T) { testWriteQuorum(t, false) }

func TestWriteQuorumStaged(t *testing.T) { testWriteQuorum(t, true) }

// bubble runs a subtest whose waits cost no time.
func bubble(t *testing.T, name string, f func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// testWriteQuorum fails drives in several ways, and wants what the scheme says.
func testWriteQuorum(t *testing.T, staged bool) {
	disk := errors.New("input/output error")
	ways := map[string]func(*rig, int){
		"down":    func(r *rig, i int) { r.setStore(r.group.Slots[i].Drive, nil) },
		"suspect": func(r *rig, i int) { r.setState(i, storagenode.DriveSuspect) },
		"put":     func(r *rig, i int) { r.faulty[i].Inject(storetest.Fault{Ops: storetest.OpPut, Err: disk}) },
		"sync":    func(r *rig, i int) { r.faulty[i].Inject(storetest.Fault{Ops: storetest.OpSync, Err: disk}) },
		"stale": func(r *rig, i int) {
			if err := r.mem[i].SetSlotEpoch(context.Background(), 7, i, 5); err != nil {
				r.t.Fatal(err)
			}
		},
		"hang": func(r *rig, i int) { r.faulty[i].Inject(storetest.Fault{Ops: storetest.OpPut, Hang: true}) },
	}
	for name, fail := range ways {
		for _, c := range []struct {
			scheme      string
			size, bad   int
			ok          bool
			wantMissing int
		}{
			{"4+2", 1 << 20, 1, true, 1},
			{"4+2", 1 << 20, 2, false, 0},
			{"4+2", 100, 3, true, 0},
			{"4+2", 100_000, 1, true, 1},
			{"4+2", 100_000, 2, false, 0},
			{"4+2", 100, 4, true, 1},
			{"4+2", 100, 5, false, 0},
			{"4+2", 9 << 20, 1, true, 1},
			{"2+1", 1 << 20, 1, true, 1},
			{"2+1", 1 << 20, 2, false, 0},
			{"2+1", 100, 1, true, 0},
			{"2+1", 100, 2, false, 0},
			{"1+1", 1 << 20, 1, true, 1},
			{"1+1", 100, 1, false, 0},
			{"1+0", 100, 0, true, 0},
			{"3+0", 1 << 20, 1, false, 0},
		} {
			bubble(t, fmt.Sprintf("%s %s %d bytes %d bad", name, c.scheme, c.size, c.bad), func(t *testing.T) {
				r := newRig(t, c.scheme, func(c *Config) { c.WriteWait = time.Second })
				if staged {
					for i, s := range r.group.Slots {
						st := &staging{ShardStore: r.faulty[i]}
						st.asked.Store(int32(i))
						r.setStore(s.Drive, st)
					}
				}
				for i := range c.bad {
					fail(r, i)
				}
				data := noise(c.size, 5)
				b, err := r.tryPut(data)
				if !c.ok {
					if !errors.Is(err, ErrQuorum) {
						t.Fatalf("got %v", err)
					}
					if name == "stale" && !errors.Is(err, storagenode.ErrStaleEpoch) {
						t.Fatalf("the cause is lost: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if b.Missing.Count() != c.wantMissing || b.Missing&^b.Slots != 0 || b.Missing&^erasure.AllSlots(c.bad) != 0 {
					t.Fatalf("slots %b, missing %b", b.Slots, b.Missing)
				}
				r.want(b, data, 0, b.Size)
			})
		}
	}
}

// TestSlownessDoesNotLowerTheMargin: a slow drive is waited for.
func TestSlownessDoesNotLowerTheMargin(t *testing.T) {
	synctest.Test(t, testSlownessDoesNotLowerTheMargin)
}

func testSlownessDoesNotLowerTheMargin(t *testing.T) {
	r := newRig(t, "4+2")
	r.faulty[3].Inject(storetest.Fault{Ops: storetest.OpSync, Delay: 120 * time.Millisecond})
	for _, n := range []int{100, 1 << 20} {
		if b := r.put(noise(n, 1)); b.Missing != 0 {
			t.Fatalf("%d bytes: missing %b", n, b.Missing)
		}
	}
}

// TestAllSlowIsWaitedFor: where too few slots are in time, the write goes on
// waiting instead of failing.
func TestAllSlowIsWaitedFor(t *testing.T) { synctest.Test(t, testAllSlowIsWaitedFor) }

func testAllSlowIsWaitedFor(t *testing.T) {
	r := newRig(t, "4+2", func(c *Config) { c.WriteWait = 50 * time.Millisecond })
	for _, f := range r.faulty {
		f.Inject(storetest.Fault{Ops: storetest.OpSync, Delay: 200 * time.Millisecond})
	}
	for _, n := range []int{100, 1 << 20} {
		start := time.Now()
		if _, err := r.tryPut(noise(n, 1)); err != nil {
			t.Fatalf("%d bytes after %v: %v", n, time.Since(start), err)
		}
	}
}

// TestTheSlowestOfSlowOnesIsNotShunned: where enough are there only after a while,
// what is later still goes without the blob, but takes the next.
func TestTheSlowestOfSlowOnesIsNotShunned(t *testing.T) {
	synctest.Test(t, testTheSlowestOfSlowOnesIsNotShunned)
}

func testTheSlowestOfSlowOnesIsNotShunned(t *testing.T) {
	r := newRig(t, "4+2", func(c *Config) { c.WriteWait = 50 * time.Millisecond })
	for i, f := range r.faulty {
		delay := 150 * time.Millisecond
		if i == 5 {
			delay *= 6
		}
		f.Inject(storetest.Fault{Ops: storetest.OpSync, Delay: delay})
	}
	b := r.put(noise(1<<20, 1))
	if b.Missing != erasure.SlotMask(0).With(5) {
		t.Fatalf("missing %b", b.Missing)
	}
	if until := r.set.drives.get(r.group.Slots[5].Drive).shunned.Load(); until != 0 {
		t.Fatal("shunned for being slow among slow ones")
	}
}

// TestTwoThatHangAreNotWaitedForLong: where the others were in time, what is late
// hangs. The write fails soon, so that the client's next try can go elsewhere.
func TestTwoThatHangAreNotWaitedForLong(t *testing.T) {
	synctest.Test(t, testTwoThatHangAreNotWaitedForLong)
}

func testTwoThatHangAreNotWaitedForLong(t *testing.T) {
	const wait = 100 * time.Millisecond
	r := newRig(t, "4+2", func(c *Config) { c.WriteWait = wait })
	for i := range 2 {
		r.faulty[i].Inject(storetest.Fault{Ops: storetest.OpPut, Hang: true})
	}
	start := time.Now()
	if _, err := r.tryPut(noise(1<<20, 1)); !errors.Is(err, ErrQuorum) {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 2*wait || took > 7*wait {
		t.Fatalf("failed after %v", took)
	}
}

// TestStragglerKeepsItsBuffer hangs a store that ignores contexts in the middle
// of a Put, lets other writes churn the pools, and looks at what the late one
// then sees.
func TestStragglerKeepsItsBuffer(t *testing.T) { synctest.Test(t, testStragglerKeepsItsBuffer) }

func testStragglerKeepsItsBuffer(t *testing.T) {
	for _, n := range []int{5000, 1 << 20, 5 << 20} {
		r := newRig(t, "4+2", func(c *Config) { c.WriteWait = 30 * time.Millisecond })
		st := &stubborn{ShardStore: r.mem[0], gate: make(chan struct{}), seen: make(chan []byte, 100)}
		data := noise(n, 3)
		r.setStore(r.group.Slots[0].Drive, st)
		start := time.Now()
		b := r.put(data)
		if took := time.Since(start); took > 2*time.Second {
			t.Fatalf("%d bytes took %v", n, took)
		}
		for i := range 20 {
			r.put(noise(n, uint64(100+i)))
		}
		if r.set.memory.inUse.Load() == 0 {
			t.Fatal("the straggler's buffer was let go")
		}
		close(st.gate)
		got := <-st.seen
		want := data[:min(len(got), n)]
		if b.Mode == erasure.Encoded {
			want = data[:r.group.Scheme.ShardSize(min(n, erasure.StripeSize))]
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%d bytes: the straggler sent other bytes", n)
		}
		r.want(b, data, 0, int64(n))
	}
}

// TestHangCostsOneWait: after one write waited in vain for a drive, others go
// without it for a while.
func TestHangCostsOneWait(t *testing.T) { synctest.Test(t, testHangCostsOneWait) }

func testHangCostsOneWait(t *testing.T) {
	r := newRig(t, "4+2", func(c *Config) { c.WriteWait = 300 * time.Millisecond })
	r.faulty[2].Inject(storetest.Fault{Ops: storetest.OpPut | storetest.OpSync, Hang: true})
	first := r.put(noise(1<<20, 1))
	if first.Missing != 1<<2 {
		t.Fatalf("missing %b", first.Missing)
	}
	start := time.Now()
	for range 5 {
		if b := r.put(noise(1<<20, 1)); b.Missing != 1<<2 {
			t.Fatalf("missing %b", b.Missing)
		}
		if b := r.put(noise(100, 1)); b.Missing != 0 || b.Slots.Has(2) {
			t.Fatalf("slots %b missing %b", b.Slots, b.Missing)
		}
	}
	if took := time.Since(start); took > 250*time.Millisecond {
		t.Fatalf("ten writes took %v", took)
	}
}

func TestSmallBlobsShareSlots(t *testing.T) {
	r := newRig(t, "4+2")
	seen := map[erasure.SlotMask]int{}
	for range 300 {
		seen[r.put(noise(60_000, 1)).Slots]++
	}
	if len(seen) != 2 { // 18 MB: five rounds over two sets of three
		t.Fatalf("sets %v", seen)
	}
	for m, n := range seen {
		if m.Count() != 3 || n < 60 {
			t.Fatalf("sets %v", seen)
		}
	}
}

type failing struct {
	after int
	hash.Hash
}

var errTold = errors.New("told")

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errTold
	}
	return len(p), nil
}

func TestErrorsOfReaderAndObserver(t *testing.T) {
	r := newRig(t, "4+2")
	for _, n := range []int{100, 100_000, 1 << 20, 9 << 20} {
		data := noise(n, 1)
		for _, hint := range []int64{-1, int64(n)} {
			src := io.MultiReader(bytes.NewReader(data), iotest.ErrReader(errTold))
			if _, err := r.set.Put(t.Context(), r.group, r.ids.Next(), src, hint, PutOptions{Observer: md5.New()}); !errors.Is(err, errTold) {
				t.Fatalf("%d bytes: %v", n, err)
			}
			if _, err := r.set.Put(t.Context(), r.group, r.ids.Next(), bytes.NewReader(data), hint, PutOptions{Observer: &failing{after: n - 1}}); !errors.Is(err, errTold) {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
	}
}

// TestMemoryBudget runs many large writes and reads at once on little memory.
func TestMemoryBudget(t *testing.T) {
	const budget = 48 << 20
	r := newRig(t, "4+2", func(c *Config) { c.MemoryBytes = budget })
	r.set.memory.poison = false
	r.set.memory.wait = 30 * time.Second
	data := noise(9<<20, 1)
	var wg sync.WaitGroup
	var peak int64
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(200 * time.Microsecond):
				peak = max(peak, r.set.memory.inUse.Load())
			}
		}
	}()
	b := r.put(data)
	for i := range fewer(64) {
		wg.Go(func() {
			res, err := r.set.Put(context.Background(), r.group, r.ids.Next(), bytes.NewReader(data), -1, PutOptions{Observer: io.Discard})
			if err != nil || res.Blob.Size != int64(len(data)) {
				t.Errorf("put %d: %v", i, err)
				return
			}
			for slot := range r.mem {
				r.lose(slot, res.Blob.ID, 0) // keep the stores small
			}
			if got, err := r.read(b, int64(i), 8<<20); err != nil || !bytes.Equal(got, data[i:i+8<<20]) {
				t.Errorf("read %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	done <- struct{}{}
	if peak > budget || peak < budget/4 {
		t.Fatalf("peak %d of %d", peak, budget)
	}
}

func TestOverload(t *testing.T) {
	r := newRig(t, "4+2", func(c *Config) { c.MemoryBytes = 8 << 20 })
	r.set.memory.wait = 30 * time.Millisecond
	held, err := r.set.memory.get(t.Context(), 7<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.tryPut(noise(1<<20, 1)); !errors.Is(err, ErrOverload) {
		t.Fatalf("got %v", err)
	}
	if _, err := r.tryPut(noise(1000, 1)); err != nil {
		t.Fatal(err)
	}
	held.release()
	if _, err := r.tryPut(noise(1<<20, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestCancel(t *testing.T) {
	for _, n := range []int{100, 9 << 20} {
		r := newRig(t, "4+2", func(c *Config) { c.WriteWait = time.Hour; c.ReadWait = time.Hour })
		data := noise(n, 1)
		b := r.put(data)
		for _, f := range r.faulty {
			f.Inject(storetest.Fault{Hang: true})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		if _, err := r.set.Put(ctx, r.group, r.ids.Next(), bytes.NewReader(data), -1, PutOptions{Observer: io.Discard}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("put: %v", err)
		}
		ctx, cancel2 := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel2()
		if err := r.set.Read(ctx, r.group, b, 0, b.Size, io.Discard); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("read: %v", err)
		}
	}
}

type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	z.left -= n
	return int(n), nil
}

type sink struct{ storagenode.ShardStore }

func (sink) Put(context.Context, storagenode.Shard) (storagenode.Token, error) { return 1, nil }
func (sink) Sync(context.Context, storagenode.Token) error                     { return nil }

// TestBlobMax: a source that is longer becomes several blobs, and loses nothing.
func TestBlobMax(t *testing.T) {
	r := newRig(t, "4+2")
	r.set.memory.poison = false
	for _, s := range r.group.Slots {
		r.setStore(s.Drive, sink{})
	}
	for _, total := range []int64{erasure.BlobMax, erasure.BlobMax + 1} {
		src := NewSource(&zeros{left: total})
		first, err := r.set.Put(t.Context(), r.group, r.ids.Next(), src, total, PutOptions{})
		if err != nil || first.Blob.Size != erasure.BlobMax || first.More != (total > erasure.BlobMax) {
			t.Fatalf("%d: %+v %v", total, first, err)
		}
		if first.More {
			second, err := r.set.Put(t.Context(), r.group, r.ids.Next(), src, 1, PutOptions{})
			if err != nil || second.Blob.Size != 1 || second.More {
				t.Fatalf("%+v %v", second, err)
			}
		}
	}
}

func TestClasses(t *testing.T) {
	for n := 1; n < 200<<20; n += 1 + n/7 {
		c := classOf(n)
		if classSize(c) < n || c > 0 && classSize(c-1) >= n {
			t.Fatalf("%d is of class %d, of %d bytes", n, c, classSize(c))
		}
	}
}

// TestClassesForEveryScheme: there are buffers for the largest stripe of any scheme,
// to be written and to be gathered.
func TestClassesForEveryScheme(t *testing.T) {
	for k := 1; k <= storagenode.MaxSlots; k++ {
		s := erasure.Scheme{K: uint8(k), M: uint8(storagenode.MaxSlots - k)}
		if c := classOf(gatherMemory(s, erasure.StripeSize)); c >= classes {
			t.Errorf("%s: class %d of %d", s, c, classes)
		}
	}
}

// TestWhatAFailedPutLeaves: its result names the slots that may have some of it, and
// no other.
func TestWhatAFailedPutLeaves(t *testing.T) {
	broken := errors.New("the source broke off")
	all := erasure.AllSlots(6)
	for _, c := range []struct {
		name string
		size int
		ends int  // where the source breaks off; 0: it does not
		gone bool // the context ends while shards are written
		want int  // slots
	}{
		{"a small one breaks off", 1000, 500, false, 0},
		{"the first stripe breaks off", 1 << 20, 1 << 19, false, 0},
		{"the third stripe breaks off", 12 << 20, 9 << 20, false, 5},
		{"a small one is given up", 1000, 0, true, 3},
		{"one stripe is given up", 1 << 20, 0, true, 5},
		{"three stripes are given up", 12 << 20, 0, true, 5},
	} {
		bubble(t, c.name, func(t *testing.T) {
			r := newRig(t, "4+2")
			r.setState(5, storagenode.DriveDown)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			src := io.Reader(bytes.NewReader(noise(c.size, 1)))
			if c.ends > 0 {
				src = io.MultiReader(io.LimitReader(src, int64(c.ends)), iotest.ErrReader(broken))
			}
			if c.gone {
				for _, f := range r.faulty {
					f.Inject(storetest.Fault{Ops: storetest.OpSync, Hang: true})
				}
				time.AfterFunc(time.Second, cancel)
			}
			id := r.ids.Next()
			res, err := r.set.Put(ctx, r.group, id, src, int64(c.size), PutOptions{})
			if err == nil {
				t.Fatal("it did not fail")
			}
			for i, m := range r.mem {
				_ = m.Sync(t.Context(), 1<<62)
				if res.Blob.Slots.Has(i) != (len(r.shards(i, id)) > 0) {
					t.Errorf("slot %d has %d shards, and is in %b", i, len(r.shards(i, id)), res.Blob.Slots)
				}
			}
			if res.Blob.Slots.Count() != c.want || res.Blob.Slots&^all != 0 || c.want > 0 && res.Blob.ID != id {
				t.Errorf("left %+v after %v, want %d slots", res.Blob, err, c.want)
			}
		})
	}
}
