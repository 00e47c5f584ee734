package kvtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"kintsugi/metadata/kv"
)

func update(t *testing.T, s kv.Store) {
	put(t, s, "n=0")
	tries := 0
	must(t, kv.Update(t.Context(), s, 5, func(x kv.Txn) error {
		wantGet(t, x, "n", fmt.Sprint(tries))
		if tries++; tries < 4 {
			put(t, s, fmt.Sprintf("n=%d", tries))
		}
		x.Put([]byte("n"), []byte("done"))
		return nil
	}))
	wantGet(t, s, "n", "done")
	own := errors.New("own")
	wantErr(t, kv.Update(t.Context(), s, 5, func(x kv.Txn) error {
		x.Put([]byte("n"), []byte("not"))
		return own
	}), own)
	wantErr(t, kv.Update(t.Context(), s, 3, func(x kv.Txn) error {
		_, err := x.Get(t.Context(), []byte("n"))
		must(t, err)
		put(t, s, "n=again")
		x.Put([]byte("n"), []byte("not"))
		return nil
	}), kv.ErrConflict)
	wantGet(t, s, "n", "again")
}

// prefetch: what is read ahead is of the transaction's state, and asserted only
// where it is got.
func prefetch(t *testing.T, s kv.Store) {
	keys := func(list ...string) (out [][]byte) {
		for _, k := range list {
			out = append(out, []byte(k))
		}
		return out
	}
	put(t, s, "a=1", "b=1", "c=1")
	x := begin(t, s)
	must(t, kv.Prefetch(t.Context(), x, keys("a", "b", "none", "a", "")...))
	wantGet(t, x, "a", "1")
	put(t, s, "c=2", "b=2")
	v, err := x.Get(t.Context(), []byte("b"))
	x.Put([]byte("d"), []byte("1"))
	if cerr := x.Commit(t.Context()); string(v) == "2" { // an engine may read on in a newer state
		must(t, err)
		must(t, cerr)
	} else {
		wantErr(t, errors.Join(err, cerr), kv.ErrConflict)
	}

	x = begin(t, s)
	must(t, kv.Prefetch(t.Context(), x, keys("a", "b", "none")...))
	wantGet(t, x, "a", "1")
	wantGet(t, x, "none", "")
	put(t, s, "b=3") // never got
	x.Put([]byte("a"), []byte("2"))
	wantGet(t, x, "a", "2")
	must(t, x.Commit(t.Context()))
	wantGet(t, s, "a", "2")

	x = begin(t, s)
	must(t, kv.Prefetch(t.Context(), x, keys("none")...))
	wantGet(t, x, "none", "")
	put(t, s, "none=1")
	x.Put([]byte("a"), []byte("3"))
	wantErr(t, x.Commit(t.Context()), kv.ErrConflict)
}

// guess: what is guessed is what was seen last, or nothing, and a commit holds only
// where that is so.
func guess(t *testing.T, s kv.Store) {
	if _, ok := begin(t, s).(kv.Guesser); !ok {
		t.Skip("this engine does not guess")
	}
	known, absent := [][]byte{[]byte("known")}, [][]byte{[]byte("absent")}
	if kv.Guess(begin(t, s), known, absent) {
		t.Fatal("a key was guessed that nobody saw")
	}
	put(t, s, "known=1")
	var x kv.Txn
	for range 20 { // an engine chooses when it looks
		x = begin(t, s)
		if !kv.Guess(x, known, absent) {
			must(t, kv.Prefetch(t.Context(), x, known...))
		} else if v, err := x.Get(t.Context(), known[0]); err != nil || v != nil {
			break
		}
	}
	commit := func(want error) {
		t.Helper()
		wantGet(t, x, "known", "1")
		wantGet(t, x, "absent", "")
		x.Put([]byte("written"), []byte("1"))
		wantErr(t, x.Commit(t.Context()), want)
	}
	commit(nil)
	again := func() {
		t.Helper()
		if x = begin(t, s); !kv.Guess(x, known, absent) {
			t.Fatal("a key that was seen is not guessed")
		}
	}
	again()
	put(t, s, "absent=1")
	commit(kv.ErrConflict)
	put(t, s, "absent") // deletes it
	again()
	put(t, s, "known=1") // anew
	commit(kv.ErrConflict)
}

func getAll(t *testing.T, s kv.Store) {
	put(t, s, "a=1", "b=2")
	want := []string{"2", "", "1", "2", ""}
	got, err := kv.GetAll(t.Context(), s, []byte("b"), []byte("none"), []byte("a"), []byte("b"), []byte("more"))
	must(t, err)
	for i, w := range want {
		if len(got) != len(want) || string(got[i]) != w || w == "" && got[i] != nil {
			t.Fatalf("GetAll gives %q, want %q", got, want)
		}
	}
	got, err = kv.GetAll(t.Context(), s)
	must(t, err)
	if len(got) != 0 {
		t.Fatalf("GetAll of nothing gives %q", got)
	}
}

func number(v []byte) uint64 {
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func bytesOf(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// bank moves money between accounts: every state has the same sum, as do a
// transaction's own reads.
func bank(t *testing.T, s kv.Store) {
	const accounts, start, workers, moves = 6, 100, 8, 60
	name := func(i int) []byte { return fmt.Appendf(nil, "acct/%d", i) }
	x := begin(t, s)
	for i := range accounts {
		x.Put(name(i), bytesOf(start))
	}
	must(t, x.Commit(t.Context()))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			sum := uint64(0)
			for p, err := range s.Scan(t.Context(), []byte("acct/"), []byte("acct0")) {
				if err != nil {
					t.Error(err)
					return
				}
				sum += number(p.Value)
			}
			if sum != accounts*start {
				t.Errorf("a scan saw the sum %d, want %d", sum, accounts*start)
				return
			}
		}
	})
	var movers sync.WaitGroup
	for w := range workers {
		movers.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			for range moves {
				if err := move(t, s, rng, accounts, start, name); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	movers.Wait()
	close(stop)
	wg.Wait()
}

// move reads all accounts, checks the sum and moves one unit.
func move(t *testing.T, s kv.Store, rng *rand.Rand, accounts, start int, name func(int) []byte) error {
	return kv.Update(t.Context(), s, 10000, func(x kv.Txn) error {
		sum, have := uint64(0), make([]uint64, accounts)
		for i := range accounts {
			v, err := x.Get(t.Context(), name(i))
			if err != nil {
				return err
			}
			have[i] = number(v)
			sum += have[i]
		}
		if sum != uint64(accounts*start) {
			return fmt.Errorf("a transaction saw the sum %d, want %d", sum, accounts*start)
		}
		from, to := rng.IntN(accounts), rng.IntN(accounts)
		if from == to || have[from] == 0 {
			return nil
		}
		x.Put(name(from), bytesOf(have[from]-1))
		x.Put(name(to), bytesOf(have[to]+1))
		return nil
	})
}

// counter: increments are not lost, and a register read after an acknowledged
// write shows at least that write, never less than an earlier read showed. So
// many outcomes of 400 may be unknown.
func counter(t *testing.T, s kv.Store, most uint64) {
	const workers, each = 8, 50
	var acked atomic.Uint64 // the highest acknowledged value
	var unknown atomic.Uint64
	var wg, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			last := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				floor := max(acked.Load(), last)
				v, err := s.Get(t.Context(), []byte("counter"))
				if err != nil || number(v) < floor {
					t.Errorf("read %d (%v) after %d", number(v), err, floor)
					return
				}
				last = number(v)
			}
		})
	}
	for range workers {
		wg.Go(func() {
			for range each {
				var wrote uint64
				err := kv.Update(t.Context(), s, 100000, func(x kv.Txn) error {
					v, err := x.Get(t.Context(), []byte("counter"))
					wrote = number(v) + 1
					x.Put([]byte("counter"), bytesOf(wrote))
					return err
				})
				if errors.Is(err, kv.ErrUnknown) {
					unknown.Add(1)
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				for old := acked.Load(); old < wrote && !acked.CompareAndSwap(old, wrote); {
					old = acked.Load()
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	v, err := s.Get(t.Context(), []byte("counter"))
	must(t, err)
	if u := unknown.Load(); number(v) > workers*each || number(v)+u < workers*each || u > most {
		t.Fatalf("counter is %d after %d increments, %d of unknown outcome", number(v), workers*each, u)
	}
}
