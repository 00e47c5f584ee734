package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/etcd"
)

// toll counts the requests of clients, and refuses transactions where told to
// as a member does that did nothing.
type toll struct {
	mu     sync.Mutex
	seen   map[string]int
	refuse atomic.Bool
}

func (c *toll) watch(cfg *embed.Config) {
	cfg.GRPCAdditionalServerOptions = append(cfg.GRPCAdditionalServerOptions, grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			_, name, _ := strings.Cut(strings.TrimPrefix(info.FullMethod, "/"), "/")
			c.mu.Lock()
			c.seen[name]++
			c.mu.Unlock()
			if name == "Txn" && c.refuse.Load() {
				return nil, status.Error(codes.Unavailable, "raft proposal dropped")
			}
			return next(ctx, req)
		}))
}

func (c *toll) count(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[name]
}

// step is a transaction that reads and writes keys.
type step struct{ reads, writes string }

// together commits transactions that wait at the same time and gives their
// outcomes. Each writes its number.
func together(t *testing.T, st *etcd.Store, steps ...step) []error {
	t.Helper()
	await, release := st.HoldCommits()
	errs := make([]error, len(steps))
	var wg sync.WaitGroup
	for i, p := range steps {
		x, err := st.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range strings.Fields(p.reads) {
			if _, err := x.Get(t.Context(), []byte(k)); err != nil {
				t.Fatal(err)
			}
		}
		for _, k := range strings.Fields(p.writes) {
			x.Put([]byte(k), fmt.Append(nil, i))
		}
		wg.Go(func() { errs[i] = x.Commit(t.Context()) })
		await(i + 1)
	}
	release()
	wg.Wait()
	return errs
}

// A transaction that guesses asks the members once, to commit.
func TestGuessAsksNobody(t *testing.T) {
	c := &toll{seen: map[string]int{}}
	s := start(t, 1, c.watch)
	st, other := s.open("/x/"), s.open("/x/")
	known := [][]byte{[]byte("bucket"), []byte("not there")}
	mustPut(t, other, "bucket", "1")
	guess := func(key string, want error) (guessed bool) {
		t.Helper()
		x, err := st.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if guessed = kv.Guess(x, known, [][]byte{[]byte(key)}); !guessed {
			if err := kv.Prefetch(t.Context(), x, append(known, []byte(key))...); err != nil {
				t.Fatal(err)
			}
		}
		before := c.count("Txn") + c.count("Range")
		for _, k := range append(known, []byte(key)) {
			if _, err := x.Get(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
		x.Put([]byte(key), []byte("1"))
		if err := x.Commit(t.Context()); !errors.Is(err, want) {
			t.Fatalf("commit of %s: %v, want %v", key, err, want)
		}
		if n := c.count("Txn") + c.count("Range") - before; n != 1 {
			t.Fatalf("%d requests, want 1", n)
		}
		return guessed
	}
	if guess("first", nil) || !guess("second", nil) {
		t.Fatal("guessed before anything was seen, or not after it")
	}
	guess("first", kv.ErrConflict) // it is there
	mustPut(t, other, "bucket", "1")
	guess("third", kv.ErrConflict) // the bucket is another
	mustPut(t, other, "not there", "1")
	x, err := st.Begin(t.Context())
	if err == nil {
		err = kv.Prefetch(t.Context(), x, known...)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !guess("fourth", nil) {
		t.Fatal("what was read is not guessed")
	}
}

// Two transactions of which one writes what the other read must not both be
// done because they wait together: etcd would judge both by the state before.
func TestConflictsWithinAGroup(t *testing.T) {
	c := &toll{seen: map[string]int{}}
	s := start(t, 1, c.watch)
	st, other := s.open("/x/"), s.open("/x/")
	for name, steps := range map[string][]step{
		"lost update":      {{"a", "a"}, {"a", "a"}},
		"write skew":       {{"a b", "a"}, {"a b", "b"}},
		"across":           {{"a", "b"}, {"b", "a"}},
		"reader second":    {{"", "a"}, {"a", "b"}},
		"through a third":  {{"x", "y"}, {"a b", "a"}, {"u", "v"}, {"b a", "b"}},
		"of what is there": {{"k", "k"}, {"k", "k"}},
	} {
		errs := together(t, st, steps...)
		first, last := errs[0], errs[len(errs)-1]
		if len(steps) == 4 {
			first = errs[1]
		}
		if first != nil || !errors.Is(last, kv.ErrConflict) {
			t.Errorf("%s: %v, want the last to conflict alone", name, errs)
		}
	}
	// One that reads first and one that writes after it could both be done one
	// after the other; blind writes as well, and the later one stays.
	if errs := together(t, st, step{"r", "s"}, step{"", "r"}); errors.Join(errs...) != nil {
		t.Errorf("a reader before the writer: %v", errs)
	}
	if errs := together(t, st, step{"", "w"}, step{"", "w"}, step{"", "w"}); errors.Join(errs...) != nil {
		t.Errorf("blind writes: %v", errs)
	}
	wantGet(t, st, "w", "2")

	before := c.count("Txn")
	var apart []step
	for i := range etcd.MaxGroup {
		apart = append(apart, step{"shared bucket", fmt.Sprintf("own%d blob%d", i, i)})
	}
	if err := errors.Join(together(t, st, apart...)...); err != nil {
		t.Fatal(err)
	}
	if n := c.count("Txn") - before; n != 1 {
		t.Errorf("%d transactions that share nothing but what they read took %d requests", len(apart), n)
	}
	for i := range apart {
		wantGet(t, st, fmt.Sprint("own", i), fmt.Sprint(i))
		wantGet(t, st, fmt.Sprint("blob", i), fmt.Sprint(i))
	}
	// One of them in conflict does not touch the others.
	x, err := st.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantGetTxn(t, x, "moving", "")
	x.Put([]byte("late"), []byte("1"))
	mustPut(t, other, "moving", "2")
	await, release := st.HoldCommits()
	lost, beside := make(chan error, 1), make(chan error, 1)
	go func() { lost <- x.Commit(t.Context()) }()
	await(1)
	go func() { beside <- put(t, st, "beside", "1") }()
	await(2)
	release()
	if a, b := <-lost, <-beside; !errors.Is(a, kv.ErrConflict) || b != nil {
		t.Errorf("one in conflict and one not: %v, %v", a, b)
	}
	wantGet(t, st, "beside", "1")
	wantGet(t, st, "late", "")
}

// Whatever waits, groups hold nothing that meets, keep the bounds, lose none,
// and the first is always taken.
func TestGroupsOfManyShapes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(2, seed))
	pick := func(most, of int) (keys []string) {
		for range rng.IntN(most + 1) {
			keys = append(keys, fmt.Sprint(rng.IntN(of)))
		}
		return keys
	}
	for range 2000 {
		var list []etcd.Sketch
		for i := range rng.IntN(80) {
			s := etcd.Sketch{Reads: pick(5, 60), Writes: append(pick(3, 200), fmt.Sprint("own", i)), Size: 1 + rng.IntN(60<<10)}
			if rng.IntN(20) == 0 {
				s.Reads = append(s.Reads, make([]string, etcd.MaxOps-20)...)
				for j := range s.Reads {
					s.Reads[j] = fmt.Sprint("many", i, j)
				}
			}
			list = append(list, s)
		}
		left := slices.Clone(list)
		for _, g := range etcd.Groups(list) {
			if len(g) == 0 || !slices.Equal(g[0].Writes, left[0].Writes) {
				t.Fatal("the first that waited is not the first of the group")
			}
			size := 0
			for i, one := range g {
				size += one.Size
				left = slices.DeleteFunc(left, func(s etcd.Sketch) bool { return slices.Contains(s.Writes, one.Writes[len(one.Writes)-1]) })
				if len(g) > 1 && max(len(one.Reads), len(one.Writes))+len(g) > etcd.MaxOps {
					t.Fatalf("%d operations in a group of %d", len(one.Reads), len(g))
				}
				for j, two := range g {
					for _, w := range one.Writes {
						if i != j && (slices.Contains(two.Writes, w) || slices.Contains(two.Reads, w)) {
							t.Fatalf("%v and %v in one group", one, two)
						}
					}
				}
			}
			if len(g) > etcd.MaxGroup || size > etcd.MaxRequest {
				t.Fatalf("a group of %d, %d bytes", len(g), size)
			}
		}
		if len(left) != 0 {
			t.Fatalf("%d were never sent", len(left))
		}
	}
}

// Many transactions over few keys, through two stores: sums are preserved, no
// two of a pair are set, and what each acknowledged is there.
func TestManyTransactionsOnFewKeys(t *testing.T) {
	s := start(t, 3)
	stores := []*etcd.Store{s.open("/x/"), s.open("/x/")}
	const keys, workers, rounds, sum = 5, 48, 12, 500
	for i := range keys {
		mustPut(t, stores[0], fmt.Sprint("sum", i), fmt.Sprint(sum/keys))
	}
	var wg sync.WaitGroup
	var pairs [rounds]atomic.Int64
	for w := range workers {
		wg.Go(func() {
			st, rng := stores[w%2], rand.New(rand.NewPCG(3, uint64(w)))
			for r := range rounds {
				if err := transfer(t.Context(), st, rng, keys, sum); err != nil {
					t.Error(err)
					return
				}
				done, err := claim(t.Context(), st, fmt.Sprint("pair", r), w%4 < 2)
				if err != nil {
					t.Error(err)
				}
				if done {
					pairs[r].Add(1)
				}
				if err := put(t, st, fmt.Sprintf("own/%d/%d", w, r), "1"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	total, own := 0, 0
	for p, err := range stores[0].Scan(t.Context(), nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		_, _ = fmt.Sscan(string(p.Value), &n)
		switch {
		case bytes.HasPrefix(p.Key, []byte("sum")):
			total += n
		case bytes.HasPrefix(p.Key, []byte("own/")):
			own++
		}
	}
	if total != sum || own != workers*rounds {
		t.Fatalf("the sum is %d, %d writes are there; want %d, %d", total, own, sum, workers*rounds)
	}
	for r := range pairs {
		if n := pairs[r].Load(); n != 1 {
			t.Fatalf("pair %d was claimed %d times", r, n)
		}
	}
}

// transfer moves something between two of the keys, whose sum it checks.
func transfer(ctx context.Context, st kv.Store, rng *rand.Rand, keys, want int) error {
	return kv.Update(ctx, st, 1_000_000, func(x kv.Txn) error {
		var all [][]byte
		for i := range keys {
			all = append(all, fmt.Append(nil, "sum", i))
		}
		if err := kv.Prefetch(ctx, x, all...); err != nil {
			return err
		}
		have, total := make([]int, keys), 0
		for i := range keys {
			v, err := x.Get(ctx, all[i])
			if err != nil {
				return err
			}
			_, _ = fmt.Sscan(string(v), &have[i])
			total += have[i]
		}
		if total != want {
			return fmt.Errorf("a transaction saw the sum %d, want %d", total, want)
		}
		from, to := rng.IntN(keys), rng.IntN(keys)
		if from == to || have[from] == 0 {
			return nil
		}
		x.Put(all[from], fmt.Append(nil, have[from]-1))
		x.Put(all[to], fmt.Append(nil, have[to]+1))
		return nil
	})
}

// claim sets one half of a pair where neither is set.
func claim(ctx context.Context, st kv.Store, pair string, left bool) (done bool, err error) {
	err = kv.Update(ctx, st, 1_000_000, func(x kv.Txn) error {
		a, b := []byte(pair+"/left"), []byte(pair+"/right")
		one, err := x.Get(ctx, a)
		if err != nil {
			return err
		}
		two, err := x.Get(ctx, b)
		if done = one == nil && two == nil; !done || err != nil {
			return err
		}
		if left {
			a, b = b, a
		}
		x.Put(b, []byte("1"))
		return nil
	})
	return done, err
}

// The largest transactions wait together, for an etcd with its own limits.
func TestLargeTransactionsTogether(t *testing.T) {
	st := start(t, 1).open(strings.Repeat("p", 200) + "/")
	await, release := st.HoldCommits()
	var wg sync.WaitGroup
	errs := make([]error, 3*etcd.MaxGroup)
	for i := range errs {
		x, err := st.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		reads, size := 3, 100
		switch i % 8 {
		case 0:
			reads = 127
		case 1:
			reads = etcd.MaxOps - etcd.MaxGroup
		case 2:
			size = 500 << 10
		}
		var keys [][]byte
		for j := range reads {
			keys = append(keys, fmt.Appendf(nil, "r/%d/%d/%s", i, j, strings.Repeat("k", 400)))
		}
		if err := kv.Prefetch(t.Context(), x, keys...); err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			if _, err := x.Get(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
		for j := range 60 {
			x.Put(fmt.Appendf(nil, "w/%d/%d", i, j), bytes.Repeat([]byte{1}, size/60))
		}
		wg.Go(func() { errs[i] = x.Commit(t.Context()) })
		await(i + 1)
	}
	release()
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range st.Scan(t.Context(), []byte("w/"), nil) {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	if n != 60*len(errs) {
		t.Fatalf("%d keys, want %d", n, 60*len(errs))
	}
}
