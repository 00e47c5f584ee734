package stripe

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// quickRig has drives that answered from memory so far, and always will.
func quickRig(t *testing.T, change ...func(*Config)) *rig {
	r := newRig(t, "4+2", change...)
	r.keeps()
	r.set.quick = time.Hour
	for i := range r.group.Slots {
		d := r.set.drives.get(r.group.Slots[i].Drive)
		d.small.high.Store(int64(fromMemory / 2))
		d.large.high.Store(int64(fromMemory / 2))
	}
	return r
}

// TestOneHungDriveOfAQuickRead: where drives are asked one after another, the
// one that hangs is blamed, and not those that wait behind it. It is so also
// where no read may be hedged.
func TestOneHungDriveOfAQuickRead(t *testing.T) { synctest.Test(t, testOneHungDriveOfAQuickRead) }

func testOneHungDriveOfAQuickRead(t *testing.T) {
	for _, hedged := range []int64{0, 1 << 30} {
		r := quickRig(t)
		r.set.hedges.hedged.Store(hedged)
		want := noise(9<<20, 1)
		b := r.put(want)
		r.faulty[1].Inject(storetest.Fault{Ops: storetest.OpRead, Hang: true})
		began := time.Now()
		for range 3 {
			r.want(b, want, 0, b.Size)
			r.want(b, want, 100_000, 5<<20)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("reads beside a hung drive take %s", took)
		}
		for i, slot := range r.group.Slots {
			d := r.set.drives.get(slot.Drive)
			for end := time.Now().Add(10 * time.Second); i != 1 && d.late.Load() > 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond) // a busy machine: its read was asked for, and comes
			}
			if i != 1 && (d.hung(time.Now) || d.late.Load() > 0) {
				t.Errorf("slot %d is blamed: hung %v, late %d", i, d.hung(time.Now), d.late.Load())
			}
		}
		if d := r.taken(); len(d) > 0 {
			t.Errorf("a hang was called damage: %v", d)
		}
	}
}

// TestQuickReads of all lengths and places: pieces end where blocks, shards,
// stripes and the range do.
func TestQuickReads(t *testing.T) {
	for _, size := range []int{70_001, 1 << 20, 4<<20 - 1, 9<<20 + 12345} {
		r := quickRig(t)
		data := noise(size, 1)
		b := r.put(data)
		r.want(b, data, 0, b.Size)
		for range 30 {
			off := rand.Int64N(b.Size)
			r.want(b, data, off, 1+rand.Int64N(b.Size-off))
		}
		if r.set.hedges.reads.Load() == 0 {
			t.Errorf("%d bytes: nothing was read in turn", size)
		}
	}
}

// slowly takes its time, and looks at what it was given again then.
type slowly struct {
	bytes.Buffer
	wait    func(n int)
	batches []int // of pieces that came at once
}

func (s *slowly) Write(p []byte) (int, error) {
	before := bytes.Clone(p)
	s.wait(s.Len())
	if !bytes.Equal(p, before) {
		return 0, errors.New("the bytes changed while they were written")
	}
	return s.Buffer.Write(p)
}

// WritePieces implements PiecesWriter.
func (s *slowly) WritePieces(pieces [][]byte) error {
	s.batches = append(s.batches, len(pieces))
	for _, p := range pieces {
		if _, err := s.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// TestPiecesAreWrittenAtOnce, whether they are kept, or read, or the one and the
// other, and one by one where there is no memory for several.
func TestPiecesAreWrittenAtOnce(t *testing.T) {
	r := quickRig(t)
	data := noise(1<<20, 1)
	b := r.put(data)
	read := func(off int64) []int {
		t.Helper()
		w := &slowly{wait: func(int) {}}
		if err := r.set.Read(t.Context(), r.group, b, off, b.Size-off, w); err != nil || !bytes.Equal(w.Bytes(), data[off:]) {
			t.Fatalf("from %d: %d bytes, %v", off, w.Len(), err)
		}
		return w.batches
	}
	want := func(what string, got, want []int) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: written in batches of %v pieces, want %v", what, got, want)
		}
	}
	want("read", read(0), []int{4})
	read(0)
	before := r.calls()
	want("kept", read(0), []int{4})
	want("from within", read(100_000), []int{4})
	if n := r.calls() - before; n > 0 {
		t.Errorf("%d calls for what is kept", n)
	}
	r.set.hot.drop(r.set.hot.pieces[hotKey{b.ID, 512 << 10}])
	want("all but one kept", read(0), []int{4})

	m := r.set.memory
	r.set.hot.yield(m.total)
	rest := m.total - turnBytes // one piece is left
	if !m.budget.TryAcquire(rest) {
		t.Fatal("pieces were not given up")
	}
	want("without memory", read(0), nil)
	m.budget.Release(rest)
}

// TestQuickReadLosesADrive in its midst: what was written before is not written
// again, damage is reported once, and a slow client is no slow drive.
func TestQuickReadLosesADrive(t *testing.T) {
	data := noise(12<<20, 1)
	for name, lose := range map[string]func(r *rig, b erasure.Blob){
		"corrupt": func(r *rig, b erasure.Blob) { r.lose(2, b.ID, 1) },
		"missing": func(r *rig, b erasure.Blob) { r.lose(2, b.ID, 0) },
		"hangs":   func(r *rig, _ erasure.Blob) { r.faulty[2].Inject(storetest.Fault{Ops: storetest.OpRead, Hang: true}) },
		"broken": func(r *rig, _ erasure.Blob) {
			r.faulty[2].Inject(storetest.Fault{Ops: storetest.OpRead, Err: storagenode.ErrBroken})
		},
		"down": func(r *rig, _ erasure.Blob) { r.setState(2, storagenode.DriveDown) },
		"slow client": func(r *rig, _ erasure.Blob) {
			before := r.set.hedges.hedged.Load()
			time.Sleep(5 * hedgeMin)
			if r.set.hedges.hedged.Load() > before {
				t.Error("a slow client made a hedge")
			}
		},
	} {
		r := quickRig(t)
		b := r.put(data)
		lost := false
		w := &slowly{wait: func(n int) {
			if n > 5<<20 && !lost {
				lost = true
				lose(r, b)
			}
		}}
		if err := r.set.Read(t.Context(), r.group, b, 0, b.Size, w); err != nil || !bytes.Equal(w.Bytes(), data) {
			t.Errorf("%s: %d bytes, %v", name, w.Len(), err)
		}
		damages := r.taken()
		if want := name == "corrupt" || name == "missing"; want != (len(damages) > 0) {
			t.Errorf("%s: told of %v", name, damages)
		}
		for _, d := range damages {
			if d.Slot != 2 {
				t.Errorf("%s: told of slot %d", name, d.Slot)
			}
		}
	}
}

// TestQuickReadEnds with its context, also where a drive hangs that ignores it,
// and never while the client's writer is called.
func TestQuickReadEnds(t *testing.T) {
	data := noise(3<<20, 1)
	r := quickRig(t)
	b := r.put(data)
	gate := make(chan struct{})
	r.setStore(r.group.Slots[0].Drive, &stubborn{ShardStore: r.mem[0], gate: gate})
	r.set.hedges.hedged.Store(1 << 30)
	ctx, cancel := context.WithTimeout(t.Context(), hedgeMin)
	if err := r.set.Read(ctx, r.group, b, 0, b.Size, &bytes.Buffer{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside a hung drive: %v", err)
	}
	cancel()
	close(gate)

	r = quickRig(t)
	b = r.put(data)
	ctx, cancel = context.WithCancel(t.Context())
	inside := false
	w := &slowly{wait: func(int) {
		inside = true
		cancel()
		time.Sleep(3 * hedgeMin)
		inside = false
	}}
	if err := r.set.Read(ctx, r.group, b, 0, b.Size, w); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if inside {
		t.Error("the writer is called after the read")
	}
}

// TestQuickReadPanics where its caller would have: on the caller's goroutine.
func TestQuickReadPanics(t *testing.T) { panics(t, quickRig(t)) }

// TestReadPanics: nothing is held on to where stripes are read ahead, either.
func TestReadPanics(t *testing.T) { panics(t, newRig(t, "4+2")) }

// panics has the writer of reads panic, at once and later.
func panics(t *testing.T, r *rig) {
	b := r.put(noise(9<<20, 1))
	for _, at := range []int{0, 1 << 20, 8 << 20} {
		func() {
			defer func() {
				if c := recover(); c != errTold {
					t.Errorf("recovered %v", c)
				}
			}()
			_ = r.set.Read(t.Context(), r.group, b, 0, b.Size, &slowly{wait: func(n int) {
				if n >= at {
					panic(errTold)
				}
			}})
			t.Error("no panic")
		}()
	}
}
