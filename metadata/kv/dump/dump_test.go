package dump_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/dump"
	"kintsugi/metadata/kv/memory"
)

// filled makes a store with pairs of several families and sizes.
func filled(t *testing.T, n int) *memory.Store {
	t.Helper()
	s := memory.New()
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < n; i += 50 {
		x, err := s.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for j := i; j < min(n, i+50); j++ {
			x.Put(fmt.Appendf(nil, "%c%06d", "Bbcmx"[j%5], j), bytes.Repeat([]byte{byte(j) | 1}, 1+rng.IntN(600)))
		}
		if n > 100 && i == 50 {
			x.Put([]byte("F\xff large"), bytes.Repeat([]byte{7}, kv.MaxValue))
		}
		if err := x.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func dumped(t *testing.T, s kv.Store) ([]byte, dump.Summary) {
	t.Helper()
	var b bytes.Buffer
	sum, err := dump.Dump(t.Context(), s, &b, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), sum
}

func from(text []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
}

func contents(t *testing.T, r kv.Reader) (out []kv.Pair) {
	t.Helper()
	for p, err := range r.Scan(t.Context(), nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, kv.Pair{Key: bytes.Clone(p.Key), Value: bytes.Clone(p.Value)})
	}
	return out
}

func same(a, b []kv.Pair) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i].Key, b[i].Key) || !bytes.Equal(a[i].Value, b[i].Value) {
			return false
		}
	}
	return true
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 50, 4000} {
		src, dst := filled(t, n), memory.New()
		text, want := dumped(t, src)
		reported := uint64(0)
		also := []kv.Pair{{Key: []byte("zz"), Value: []byte("restored")}}
		got, err := dump.Load(t.Context(), dst, from(text), also, func(done, of uint64) { reported = done })
		if err != nil {
			t.Fatal(err)
		}
		pairs := contents(t, src)
		if !got.Equal(want) || want.Pairs() != uint64(len(pairs)) || reported != want.Pairs() {
			t.Fatalf("%d pairs: dumped %+v, loaded %+v, reported %d", n, want, got, reported)
		}
		if !same(append(pairs, also...), contents(t, dst)) {
			t.Fatalf("%d pairs: the store holds something else", n)
		}
		size := uint64(0)
		for _, p := range pairs {
			size += uint64(len(p.Key) + len(p.Value))
		}
		if size != got.Bytes() {
			t.Fatalf("%d bytes counted of %d", got.Bytes(), size)
		}
	}
}

func drop(kv.Pair) error { return nil }

// Whatever bit is flipped, wherever a dump is cut, and whatever follows it, is
// found, and nothing is written to a store.
func TestDamage(t *testing.T) {
	text, _ := dumped(t, filled(t, 90))
	second := 64 + 24 + int(binary.LittleEndian.Uint32(text[64:]))
	for at := range text {
		if at > 300 && (at < second-50 || at > second+100) && at < len(text)-300 && at%61 != 0 {
			continue // every place of the heads and of the end, samples between
		}
		bad := bytes.Clone(text)
		bad[at] ^= 1 << (at % 8)
		if _, _, err := dump.Read(bytes.NewReader(bad), drop); !errors.Is(err, dump.ErrDamaged) {
			t.Fatalf("a flipped bit at %d: %v", at, err)
		}
	}
	for cut := 0; cut < len(text); cut += 1 + cut/50 {
		if _, _, err := dump.Read(bytes.NewReader(text[:cut]), drop); !errors.Is(err, dump.ErrDamaged) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
	if _, _, err := dump.Read(bytes.NewReader(append(bytes.Clone(text), 0)), drop); !errors.Is(err, dump.ErrDamaged) {
		t.Fatalf("a byte more: %v", err)
	}
	s := memory.New()
	for _, bad := range [][]byte{text[:len(text)-1], append(bytes.Clone(text[:len(text)/2]), text[len(text)/2+1:]...)} {
		if _, err := dump.Load(t.Context(), s, from(bad), nil, nil); !errors.Is(err, dump.ErrDamaged) {
			t.Fatal(err)
		}
	}
	if len(contents(t, s)) != 0 {
		t.Fatal("a damaged dump wrote something")
	}
}

// Blocks of another dump, or in another order, do not pass.
func TestBlocksOfAnotherPlace(t *testing.T) {
	one, _ := dumped(t, filled(t, 4000))
	two, _ := dumped(t, filled(t, 4000))
	first := 64 + 24 + int(binary.LittleEndian.Uint32(one[64:]))
	second := first + 24 + int(binary.LittleEndian.Uint32(one[first:]))
	if second >= len(one) {
		t.Fatal("one block only")
	}
	mixed := append(append(bytes.Clone(one[:64]), two[64:first]...), one[first:]...)
	swapped := bytes.Join([][]byte{one[:64], one[first:second], one[64:first], one[second:]}, nil)
	missing := bytes.Join([][]byte{one[:64], one[first:]}, nil)
	for name, bad := range map[string][]byte{"mixed": mixed, "swapped": swapped, "missing": missing} {
		if _, _, err := dump.Read(bytes.NewReader(bad), drop); !errors.Is(err, dump.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewerVersion(t *testing.T) {
	text, _ := dumped(t, filled(t, 10))
	text[10]++
	binary.LittleEndian.PutUint64(text[56:], xxhash.Sum64(text[:56]))
	if _, _, err := dump.Read(bytes.NewReader(text), drop); !errors.Is(err, dump.ErrVersion) {
		t.Fatal(err)
	}
	text[10]--
	text[8]++ // written by a newer one, readable by this
	binary.LittleEndian.PutUint64(text[56:], xxhash.Sum64(text[:56]))
	if _, _, err := dump.Read(bytes.NewReader(text), drop); err != nil {
		t.Fatal(err)
	}
}

func TestNotEmpty(t *testing.T) {
	text, _ := dumped(t, filled(t, 100))
	other, _ := dumped(t, filled(t, 100))
	dst := filled(t, 1)
	before := contents(t, dst)
	if _, err := dump.Load(t.Context(), dst, from(text), nil, nil); !errors.Is(err, dump.ErrNotEmpty) {
		t.Fatal(err)
	}
	if !same(before, contents(t, dst)) {
		t.Fatal("a refused load wrote something")
	}
	half := &stopping{Store: memory.New(), commits: 2}
	if _, err := dump.Load(t.Context(), half, from(text), nil, nil); !errors.Is(err, errStopped) {
		t.Fatal(err)
	}
	if _, err := dump.Load(t.Context(), half.Store, from(other), nil, nil); !errors.Is(err, dump.ErrNotEmpty) {
		t.Fatalf("a load of another dump goes on with it: %v", err)
	}
	if _, err := dump.Dump(t.Context(), half.Store, io.Discard, time.Now()); err == nil {
		t.Fatal("half a load was dumped")
	}
}

var errStopped = errors.New("stopped")

// stopping is a store whose process dies after so many commits; some of the
// others have an outcome that is not known.
type stopping struct {
	kv.Store
	commits int
	count   atomic.Int64
	unknown int // every so many commits; 0: none
}

func (s *stopping) Begin(ctx context.Context) (kv.Txn, error) {
	t, err := s.Store.Begin(ctx)
	return &stoppingTxn{t, s}, err
}

type stoppingTxn struct {
	kv.Txn
	s *stopping
}

func (t *stoppingTxn) Commit(ctx context.Context) error {
	count := int(t.s.count.Add(1)) // several at a time
	if count > t.s.commits {
		return errStopped
	}
	err := t.Txn.Commit(ctx)
	if t.s.unknown > 0 && count%t.s.unknown == 0 {
		return kv.ErrUnknown
	}
	return err
}

// A load that is cut off anywhere, several times, is resumed to the same end.
func TestResume(t *testing.T) {
	src := filled(t, 1000)
	text, want := dumped(t, src)
	for commits := 0; commits < 25; commits++ {
		dst := memory.New()
		tries := 0
		for n := commits; ; n += 3 {
			tries++
			one := &serial{&stopping{Store: dst, commits: n, unknown: 4}}
			got, err := dump.Load(t.Context(), one, from(text), nil, nil)
			if err == nil {
				if !got.Equal(want) || !same(contents(t, src), contents(t, dst)) {
					t.Fatalf("after %d tries the store holds something else", tries)
				}
				break
			}
			if !errors.Is(err, errStopped) || tries > 50 {
				t.Fatal(err)
			}
		}
	}
}

// serial lets one commit at a time through.
type serial struct{ *stopping }

func (s *serial) Begin(ctx context.Context) (kv.Txn, error) {
	t, err := s.stopping.Begin(ctx)
	return &serialTxn{t}, err
}

type serialTxn struct{ kv.Txn }

var turn = make(chan struct{}, 1)

func (t *serialTxn) Commit(ctx context.Context) error {
	turn <- struct{}{}
	defer func() { <-turn }()
	return t.Txn.Commit(ctx)
}

// A store that does not keep what it is given is found out, and stays marked.
func TestDiffers(t *testing.T) {
	text, _ := dumped(t, filled(t, 300))
	for _, lose := range []string{"b000001", "x000299"} {
		dst := memory.New()
		if _, err := dump.Load(t.Context(), &losing{dst, lose}, from(text), nil, nil); !errors.Is(err, dump.ErrDiffers) {
			t.Fatal(err)
		}
		if v, err := dst.Get(t.Context(), kv.LoadMark); err != nil || v == nil {
			t.Fatalf("not marked: %q, %v", v, err)
		}
	}
}

type losing struct {
	*memory.Store
	key string
}

func (s *losing) Begin(ctx context.Context) (kv.Txn, error) {
	t, err := s.Store.Begin(ctx)
	return &losingTxn{t, s}, err
}

type losingTxn struct {
	kv.Txn
	s *losing
}

func (t *losingTxn) Put(k, v []byte) {
	if string(k) != t.s.key {
		t.Txn.Put(k, v)
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, pairs := range map[string][]kv.Pair{
		"order": {{Key: []byte("b"), Value: []byte("1")}, {Key: []byte("a"), Value: []byte("1")}},
		"twice": {{Key: []byte("b"), Value: []byte("1")}, {Key: []byte("b"), Value: []byte("1")}},
		"empty": {{Key: []byte("b")}},
	} {
		var seq iter.Seq2[kv.Pair, error] = func(yield func(kv.Pair, error) bool) {
			for _, p := range pairs {
				if !yield(p, nil) {
					return
				}
			}
		}
		if _, err := dump.Write(io.Discard, dump.ID{}, time.Now(), seq); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	_, _ = dump.Write(&b, dump.ID{1}, time.UnixMilli(1), func(yield func(kv.Pair, error) bool) {
		yield(kv.Pair{Key: []byte("a"), Value: []byte("1")}, nil)
	})
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:70])
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _, err := dump.Read(bytes.NewReader(text), drop)
		if err != nil && !errors.Is(err, dump.ErrDamaged) && !errors.Is(err, dump.ErrVersion) {
			t.Fatal(err)
		}
	})
}
