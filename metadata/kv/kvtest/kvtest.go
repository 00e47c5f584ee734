// Package kvtest is the conformance suite of package kv: what every engine
// promises, as tests. An engine's test calls Run.
package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"

	"kintsugi/metadata/kv"
)

// Run runs the suite; open gives a new empty store, which Run closes.
func Run(t *testing.T, open func(t *testing.T) kv.Store) { run(t, open, 0) }

// RunFar is Run for an engine that is asked over a network, and may take a busy
// machine for a broken one: few outcomes may be unknown.
func RunFar(t *testing.T, open func(t *testing.T) kv.Store) { run(t, open, 40) }

func run(t *testing.T, open func(t *testing.T) kv.Store, unknown uint64) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, kv.Store)
	}{
		{"PutGetDelete", putGetDelete},
		{"Scan", scanRanges},
		{"SnapshotIsolation", snapshotIsolation},
		{"ReadYourWrites", readYourWrites},
		{"Conflicts", conflicts},
		{"WriteSkew", writeSkew},
		{"Opacity", opacity},
		{"Prefetch", prefetch},
		{"Guess", guess},
		{"GetAll", getAll},
		{"Limits", limits},
		{"EmptyValueAndKey", emptyValueAndKey},
		{"Context", contexts},
		{"BuffersNotKept", buffersNotKept},
		{"Update", update},
		{"Bank", bank},
		{"Counter", func(t *testing.T, s kv.Store) { counter(t, s, unknown) }},
		{"Closed", closed},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() { _ = s.Close() })
			c.f(t, s)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func begin(t *testing.T, s kv.Store) kv.Txn {
	t.Helper()
	x, err := s.Begin(t.Context())
	must(t, err)
	return x
}

// put writes pairs "k=v"; "k" alone deletes.
func put(t *testing.T, s kv.Store, pairs ...string) {
	t.Helper()
	x := begin(t, s)
	for _, p := range pairs {
		if k, v, ok := bytes.Cut([]byte(p), []byte("=")); ok {
			x.Put(k, v)
		} else {
			x.Delete(k)
		}
	}
	must(t, x.Commit(t.Context()))
}

func wantGet(t *testing.T, r interface {
	Get(context.Context, []byte) ([]byte, error)
}, key, want string) {
	t.Helper()
	v, err := r.Get(t.Context(), []byte(key))
	must(t, err)
	if want == "" && v != nil || string(v) != want {
		t.Fatalf("Get(%q) = %q, want %q", key, v, want)
	}
}

func wantScan(t *testing.T, r kv.Reader, from, to string, want string) {
	t.Helper()
	scans := map[string]iter.Seq2[kv.Pair, error]{
		"Scan": r.Scan(t.Context(), bound(from), bound(to)),
		// Where more is taken than was said, it is there.
		"Page of 1": kv.Page(t.Context(), r, bound(from), bound(to), 1),
		"Page":      kv.Page(t.Context(), r, bound(from), bound(to), 1<<20),
	}
	for name, scan := range scans {
		got := ""
		for p, err := range scan {
			must(t, err)
			got += fmt.Sprintf("%s=%s ", p.Key, p.Value)
		}
		if got != want {
			t.Fatalf("%s(%q, %q) = %q, want %q", name, from, to, got, want)
		}
	}
}

func bound(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

func putGetDelete(t *testing.T, s kv.Store) {
	wantGet(t, s, "a", "")
	put(t, s, "a=1", "b=2")
	wantGet(t, s, "a", "1")
	put(t, s, "a=3", "b")
	wantGet(t, s, "a", "3")
	wantGet(t, s, "b", "")
	put(t, s, "nothing") // deleting what is not there
	put(t, s, "x=1", "x=2", "x", "x=3")
	wantGet(t, s, "x", "3")
	put(t, s, "x=4", "x")
	wantGet(t, s, "x", "")
	wantGet(t, s, "", "")
}

func scanRanges(t *testing.T, s kv.Store) {
	wantScan(t, s, "", "", "")
	put(t, s, "b=2", "a=1", "c=3", "ab=x", "\xff\xff=z", "\x00=0")
	wantScan(t, s, "", "", "\x00=0 a=1 ab=x b=2 c=3 \xff\xff=z ")
	wantScan(t, s, "a", "b", "a=1 ab=x ")
	wantScan(t, s, "a\x00", "c", "ab=x b=2 ")
	wantScan(t, s, "c", "", "c=3 \xff\xff=z ")
	wantScan(t, s, "", "a", "\x00=0 ")
	wantScan(t, s, "b", "b", "")
	wantScan(t, s, "c", "a", "")
	n := 0
	for _, err := range s.Scan(t.Context(), nil, nil) {
		must(t, err)
		if n++; n == 2 {
			break
		}
	}
	put(t, s, "a", "b=4") // a broken-out scan holds nothing up
	wantScan(t, s, "", "c", "\x00=0 ab=x b=4 ")
	scanLong(t, s)
}

// scanLong deletes during a scan, over more pairs than any block holds.
func scanLong(t *testing.T, s kv.Store) {
	const n = 3000
	for i := 0; i < n; i += 50 {
		x := begin(t, s)
		for j := i; j < i+50; j++ {
			x.Put(fmt.Appendf(nil, "n/%06d", j), bytes.Repeat([]byte{byte(j) | 1}, 100))
		}
		must(t, x.Commit(t.Context()))
	}
	i := 0
	for p, err := range s.Scan(t.Context(), []byte("n/"), []byte("n0")) {
		must(t, err)
		if want := fmt.Sprintf("n/%06d", i); string(p.Key) != want || p.Value[99] != byte(i)|1 {
			t.Fatalf("pair %d is %q", i, p.Key)
		}
		if i == n/2 {
			put(t, s, fmt.Sprintf("n/%06d", n-1), "n/zz=1")
		}
		i++
	}
	if i != n {
		t.Fatalf("a scan saw %d pairs of %d: not one state", i, n)
	}
}

func snapshotIsolation(t *testing.T, s kv.Store) {
	put(t, s, "a=1", "b=1")
	v, err := s.Snapshot(t.Context())
	must(t, err)
	put(t, s, "a=2", "b", "c=2")
	wantGet(t, v, "a", "1")
	wantGet(t, v, "b", "1")
	wantGet(t, v, "c", "")
	wantScan(t, v, "", "", "a=1 b=1 ")
	wantScan(t, s, "", "", "a=2 c=2 ")
	v.Close()
	v, err = s.Snapshot(t.Context())
	must(t, err)
	defer v.Close()
	wantScan(t, v, "", "", "a=2 c=2 ")
}

func readYourWrites(t *testing.T, s kv.Store) {
	put(t, s, "a=1", "b=1")
	x := begin(t, s)
	x.Put([]byte("a"), []byte("2"))
	x.Delete([]byte("b"))
	x.Put([]byte("c"), []byte("3"))
	wantGet(t, x, "a", "2")
	wantGet(t, x, "b", "")
	wantGet(t, x, "c", "3")
	x.Put([]byte("c"), []byte("4"))
	wantGet(t, x, "c", "4")
	wantGet(t, s, "a", "1") // and nobody else sees them
	wantGet(t, s, "c", "")
	must(t, x.Commit(t.Context()))
	wantScan(t, s, "", "", "a=2 c=4 ")
}

func conflicts(t *testing.T, s kv.Store) {
	put(t, s, "a=1")
	for _, c := range []struct {
		name, read, between, after string
		want                       error
	}{
		{"changed", "a", "a=2", "w=1", kv.ErrConflict},
		{"deleted", "a", "a", "w=1", kv.ErrConflict},
		{"absent, made", "b", "b=2", "w=1", kv.ErrConflict},
		{"other key", "a", "o=2", "w=1", nil},
		{"same value again", "k", "k=1", "k=2", kv.ErrConflict},
		{"blind write over a change", "", "q=1", "q=2", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			put(t, s, "a=1", "b", "w", "o", "q")
			x := begin(t, s)
			if c.read != "" {
				_, err := x.Get(t.Context(), []byte(c.read))
				must(t, err)
			}
			put(t, s, c.between)
			k, v, _ := bytes.Cut([]byte(c.after), []byte("="))
			x.Put(k, v)
			err := x.Commit(t.Context())
			wantErr(t, err, c.want)
			if c.want != nil {
				wantGet(t, s, "w", "")
			} else {
				wantGet(t, s, string(k), string(v))
			}
		})
	}
	// Without writes: only the assertions.
	x := begin(t, s)
	wantGet(t, x, "a", "1")
	must(t, x.Commit(t.Context()))
	x = begin(t, s)
	wantGet(t, x, "a", "1")
	put(t, s, "a=9")
	wantErr(t, x.Commit(t.Context()), kv.ErrConflict)
}

func writeSkew(t *testing.T, s kv.Store) {
	put(t, s, "x=on", "y=on")
	one, two := begin(t, s), begin(t, s)
	for _, x := range []kv.Txn{one, two} {
		wantGet(t, x, "x", "on")
		wantGet(t, x, "y", "on")
	}
	one.Put([]byte("x"), []byte("off"))
	two.Put([]byte("y"), []byte("off"))
	must(t, one.Commit(t.Context()))
	wantErr(t, two.Commit(t.Context()), kv.ErrConflict)
	wantScan(t, s, "", "", "x=off y=on ")
}

// opacity: a transaction never sees two states.
func opacity(t *testing.T, s kv.Store) {
	put(t, s, "x=1", "y=1")
	x := begin(t, s)
	wantGet(t, x, "x", "1")
	put(t, s, "x=2", "y=2")
	v, err := x.Get(t.Context(), []byte("y"))
	if err == nil && string(v) != "1" {
		t.Fatalf("x of one state and y = %q of another", v)
	}
	if err != nil {
		wantErr(t, err, kv.ErrConflict)
	}
	x.Put([]byte("z"), []byte("1"))
	wantErr(t, x.Commit(t.Context()), kv.ErrConflict)
	wantGet(t, s, "z", "")
}

func limits(t *testing.T, s kv.Store) {
	big := bytes.Repeat([]byte{7}, kv.MaxValue)
	key := bytes.Repeat([]byte{9}, kv.MaxKey)
	fill := func(n int) func(kv.Txn) {
		return func(x kv.Txn) {
			for i := range n {
				x.Put(fmt.Appendf(nil, "l%03d", i), []byte("v"))
			}
		}
	}
	for _, c := range []struct {
		name string
		f    func(kv.Txn)
		want error
	}{
		{"largest key and value", func(x kv.Txn) { x.Put(key, big) }, nil},
		{"most writes", fill(kv.MaxTxnOps), nil},
		{"one write too many", fill(kv.MaxTxnOps + 1), kv.ErrTooLarge},
		{"value too large", func(x kv.Txn) { x.Put([]byte("l"), append(big, 1)) }, kv.ErrTooLarge},
		{"key too large", func(x kv.Txn) { x.Put(append(key, 1), big) }, kv.ErrTooLarge},
		{"key to delete too large", func(x kv.Txn) { x.Delete(append(key, 1)) }, kv.ErrTooLarge},
		{"all too large", func(x kv.Txn) {
			x.Put([]byte("l1"), big)
			x.Put([]byte("l2"), big)
		}, kv.ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := begin(t, s)
			x.Put([]byte("mark"), []byte(c.name))
			if c.want == nil {
				x = begin(t, s)
			}
			c.f(x)
			wantErr(t, x.Commit(t.Context()), c.want)
		})
	}
	wantGet(t, s, "mark", "")
	v, err := s.Get(t.Context(), key)
	must(t, err)
	if !bytes.Equal(v, big) {
		t.Fatal("the largest value came back changed")
	}
}

func emptyValueAndKey(t *testing.T, s kv.Store) {
	for _, v := range [][]byte{nil, {}} {
		x := begin(t, s)
		x.Put([]byte("a"), []byte("1"))
		x.Put([]byte("e"), v)
		wantErr(t, x.Commit(t.Context()), kv.ErrEmptyValue)
	}
	x := begin(t, s)
	x.Put(nil, []byte("1"))
	wantErr(t, x.Commit(t.Context()), kv.ErrEmptyKey)
	wantScan(t, s, "", "", "")
}

func contexts(t *testing.T, s kv.Store) {
	put(t, s, "a=1")
	x := begin(t, s)
	x.Put([]byte("a"), []byte("2"))
	x.Put([]byte("b"), []byte("2"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, x.Commit(ctx), context.Canceled)
	wantScan(t, s, "", "", "a=1 ")
	if _, err := s.Get(ctx, []byte("a")); err == nil {
		t.Fatal("Get with an ended context succeeded")
	}
	n := 0
	for _, err := range s.Scan(ctx, nil, nil) {
		if n++; err == nil {
			t.Fatal("Scan with an ended context yields")
		}
	}
	if n != 1 {
		t.Fatalf("Scan yielded %d times, want one error", n)
	}
	for i := range 200 { // ended while under way: whole or not at all
		ctx, cancel := context.WithCancel(t.Context())
		x := begin(t, s)
		a, b := fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i)
		x.Put([]byte(a), []byte("1"))
		x.Put([]byte(b), []byte("1"))
		go cancel()
		err := x.Commit(ctx)
		cancel()
		if err != nil && !errors.Is(err, kv.ErrUnknown) && !errors.Is(err, context.Canceled) {
			t.Fatalf("commit while the context ends: %v", err)
		}
		put(t, s, a+"x=1") // a later commit: the outcome is decided now
		v, gerr := s.Snapshot(t.Context())
		must(t, gerr)
		va, e1 := v.Get(t.Context(), []byte(a))
		vb, e2 := v.Get(t.Context(), []byte(b))
		v.Close()
		must(t, errors.Join(e1, e2))
		if (va == nil) != (vb == nil) || err == nil && va == nil ||
			va != nil && err != nil && !errors.Is(err, kv.ErrUnknown) {
			t.Fatalf("commit ended with %v, then a=%q b=%q", err, va, vb)
		}
	}
}

func buffersNotKept(t *testing.T, s kv.Store) {
	k, v := []byte("key"), []byte("value")
	x := begin(t, s)
	x.Put(k, v)
	copy(k, "xxx")
	copy(v, "xxxxx")
	must(t, x.Commit(t.Context()))
	wantGet(t, s, "key", "value")
	got, err := s.Get(t.Context(), []byte("key"))
	must(t, err)
	put(t, s, "key=other")
	if string(got) != "value" {
		t.Fatalf("a value handed out changed to %q", got)
	}
}

func closed(t *testing.T, s kv.Store) {
	put(t, s, "a=1")
	x := begin(t, s)
	x.Put([]byte("a"), []byte("2"))
	must(t, s.Close())
	if err := x.Commit(t.Context()); !errors.Is(err, kv.ErrUnavailable) {
		t.Fatalf("Commit after Close: %v", err)
	}
	if _, err := s.Get(t.Context(), []byte("a")); !errors.Is(err, kv.ErrUnavailable) {
		t.Fatalf("Get after Close: %v", err)
	}
	if _, err := s.Begin(t.Context()); !errors.Is(err, kv.ErrUnavailable) {
		t.Fatalf("Begin after Close: %v", err)
	}
	if _, err := s.Snapshot(t.Context()); !errors.Is(err, kv.ErrUnavailable) {
		t.Fatalf("Snapshot after Close: %v", err)
	}
}
