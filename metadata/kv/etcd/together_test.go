package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/etcd"
)

// A group whose answer is lost is unknown to each in it, and delivered late it
// must not undo what was written since.
func TestLateGroupIsFenced(t *testing.T) {
	s := start(t, 1)
	p := newProxy(t, s.clients[0])
	st := s.open("/x/", through(p, 3*time.Second))
	const n = 5
	key := func(i int) string { return fmt.Sprint("key", i) }
	for i := range n {
		mustPut(t, st, key(i), "first")
	}
	p.set(func(p *proxy) { p.holdUp = true })
	await, release := st.HoldCommits()
	done := make(chan error, n)
	for i := range n {
		go func() { done <- put(t, st, key(i), "late") }()
		await(i + 1)
	}
	release()
	late, size := p.heldBack()
	for range n {
		if err := <-done; !errors.Is(err, kv.ErrUnknown) {
			t.Fatalf("a commit without an answer: %v", err)
		}
	}
	p.set(func(p *proxy) { p.holdUp = false })
	for i := range n {
		retried(t, time.Minute, st, key(i), "second")
	}
	p.release(late, size)
	for range 10 {
		for i := range n {
			wantGet(t, st, key(i), "second")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Of many commits whose answer is cut, each takes place whole or not at all,
// and a later one decides which.
func TestCutGroups(t *testing.T) {
	s := start(t, 1)
	p := newProxy(t, s.clients[0])
	st, direct := s.open("/x/", through(p, 20*time.Second)), s.open("/x/")
	lost := 0
	for round := range 10 {
		await, release := st.HoldCommits()
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			x, err := st.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, half := range []string{"a", "b"} {
				x.Put(fmt.Appendf(nil, "%d/%d/%s", round, i, half), []byte("once"))
			}
			wg.Go(func() { errs[i] = x.Commit(t.Context()) })
			await(i + 1)
		}
		p.set(func(p *proxy) { p.cutOnAnswer = true })
		release()
		wg.Wait()
		p.set(func(p *proxy) { p.cutOnAnswer = false })
		mustPut(t, st, "after", fmt.Sprint(round))
		for i, err := range errs {
			a, b := fmt.Sprintf("%d/%d/a", round, i), fmt.Sprintf("%d/%d/b", round, i)
			v, gerr := direct.GetAll(t.Context(), []byte(a), []byte(b))
			if gerr != nil || string(v[0]) != string(v[1]) {
				t.Fatalf("%q, %v", v, gerr)
			}
			switch {
			case errors.Is(err, kv.ErrUnknown):
				lost++
			case errors.Is(err, kv.ErrUnavailable) && v[0] == nil: // cut before it was sent
			default:
				t.Fatalf("commit %d: %v, and there is %q", i, err, v[0])
			}
		}
	}
	if lost < 20 {
		t.Fatalf("only %d answers were lost", lost)
	}
}

// Who stops waiting is not sent any more, and the others of the group are.
func TestLeavingAGroup(t *testing.T) {
	c := &toll{seen: map[string]int{}}
	st := start(t, 1, c.watch).open("/x/")
	commit := func(ctx context.Context, key string) chan error {
		x, err := st.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		x.Put([]byte(key), []byte("1"))
		done := make(chan error, 1)
		go func() { done <- x.Commit(ctx) }()
		return done
	}
	await, release := st.HoldCommits()
	ctx, cancel := context.WithCancel(t.Context())
	gone := commit(ctx, "gone")
	await(1)
	stays := commit(t.Context(), "stays")
	await(2)
	ctx2, cancel2 := context.WithCancel(t.Context())
	later := commit(ctx2, "later")
	await(3)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) || errors.Is(err, kv.ErrUnknown) {
		t.Fatalf("a commit that was never sent: %v", err)
	}
	c.refuse.Store(true)
	before := c.count("Txn")
	release()
	for c.count("Txn") < before+2 { // it is being sent again and again
		time.Sleep(time.Millisecond)
	}
	cancel2()
	if err := <-later; !errors.Is(err, context.Canceled) {
		t.Fatalf("a commit that was refused and left: %v", err)
	}
	// A request with it may be under way, and be done where it is not refused: its
	// outcome is unknown. The one after that was sent without it.
	before = c.count("Txn")
	for c.count("Txn") < before+2 && len(stays) == 0 {
		time.Sleep(time.Millisecond)
	}
	c.refuse.Store(false)
	if err := <-stays; err != nil {
		t.Fatalf("a commit beside those that left: %v", err)
	}
	mustPut(t, st, "last", "1")
	wantGet(t, st, "stays", "1")
	wantGet(t, st, "gone", "")
	wantGet(t, st, "later", "")
}

// Reads that wait share a request; each gets its own key, in its own state.
func TestReadsShareRequests(t *testing.T) {
	c := &toll{seen: map[string]int{}}
	s := start(t, 1, c.watch)
	st, raw := s.open("/x/"), s.raw(t)
	for i := range 10 {
		mustPut(t, st, fmt.Sprint("k", i), fmt.Sprint("old", i))
	}
	old, err := st.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	for i := range 10 {
		mustPut(t, st, fmt.Sprint("k", i), fmt.Sprint("new", i))
	}
	read := func(compacted bool) {
		t.Helper()
		await, release := st.HoldReads()
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				r, want := kv.Reader(st), fmt.Sprint("new", i%10)
				if i%4 == 3 {
					r, want = old, fmt.Sprint("old", i%10)
				}
				v, err := r.Get(t.Context(), fmt.Append(nil, "k", i%10))
				if i%4 == 3 && compacted {
					if !errors.Is(err, kv.ErrUnavailable) {
						t.Errorf("a snapshot of a compacted revision: %q, %v", v, err)
					}
				} else if err != nil || string(v) != want {
					t.Errorf("Get(%d) = %q, %v; want %q", i%10, v, err, want)
				}
			})
		}
		wg.Go(func() {
			if v, err := st.Get(t.Context(), []byte("nothing")); v != nil || err != nil {
				t.Errorf("what is not there: %q, %v", v, err)
			}
		})
		await(41)
		release()
		wg.Wait()
	}
	before := c.count("Txn") + c.count("Range")
	read(false)
	if n := c.count("Txn") + c.count("Range") - before; n != 1 {
		t.Errorf("41 reads that waited together took %d requests", n)
	}
	r, err := raw.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Compact(t.Context(), r.Header.Revision); err != nil {
		t.Fatal(err)
	}
	read(true)
}

// Values that do not fit into one answer are read all the same.
func TestLargeReadsTogether(t *testing.T) {
	st := start(t, 1).open("/x/")
	const n = 60
	var keys [][]byte
	for i := range n {
		mustPut(t, st, fmt.Sprint("k", i), strings.Repeat(string(rune('A'+i)), kv.MaxValue))
		keys = append(keys, fmt.Append(nil, "k", i))
	}
	await, release := st.HoldReads()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			v, err := st.Get(t.Context(), fmt.Append(nil, "k", i))
			if err != nil || string(v) != strings.Repeat(string(rune('A'+i)), kv.MaxValue) {
				t.Errorf("value %d: %d bytes, %v", i, len(v), err)
			}
		})
	}
	await(n)
	release()
	wg.Wait()
	values, err := st.GetAll(t.Context(), keys...)
	if err != nil || len(values) != n {
		t.Fatalf("%d values, %v", len(values), err)
	}
	x, err := st.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Prefetch(t.Context(), x, keys...); err != nil {
		t.Fatal(err)
	}
	for i, v := range values {
		want := strings.Repeat(string(rune('A'+i)), kv.MaxValue)
		if string(v) != want {
			t.Fatalf("value %d is %d bytes", i, len(v))
		}
		wantGetTxn(t, x, fmt.Sprint("k", i), want)
	}
}

// What is more than fits into one request is of one state all the same.
func TestManyKeysAreOfOneState(t *testing.T) {
	s := start(t, 1)
	st, writer := s.open("/x/"), s.open("/x/")
	keys := make([][]byte, 400)
	for i := range keys {
		keys[i] = fmt.Append(nil, "k", i)
	}
	first, last := keys[0], keys[len(keys)-1]
	ended, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			x, err := writer.Begin(t.Context())
			if err == nil {
				x.Put(first, fmt.Append(nil, i))
				x.Put(last, fmt.Append(nil, i))
				err = x.Commit(t.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	defer func() { close(stop); <-ended }()
	for range 100 {
		v, err := st.GetAll(t.Context(), keys...)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := string(v[0]), string(v[len(v)-1]); a != b {
			t.Fatalf("of keys that are written together one is %q, the other %q", a, b)
		}
	}
}

var _ kv.AllGetter = (*etcd.Store)(nil)
