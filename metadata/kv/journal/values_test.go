package journal

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// shardKeys makes keys that fall into one shard.
func shardKeys(n int) (keys [][]byte) {
	for i := 0; len(keys) < n; i++ {
		if k := fmt.Appendf(nil, "k%d", i); keyHash(k)%valueShards == 7 {
			keys = append(keys, k)
		}
	}
	return keys
}

func ops(kv ...string) (payload []byte) {
	for i := 0; i < len(kv); i += 2 {
		if kv[i+1] == "" {
			payload = appendBytes(append(payload, opDelete), []byte(kv[i]))
			continue
		}
		payload = appendBytes(append(payload, opPut), []byte(kv[i]))
		payload = appendBytes(payload, []byte(kv[i+1]))
	}
	return payload
}

// taken offers a value twice, as two readers would, and says whether it is
// answered then.
func taken(v *values, key, value string) bool {
	h := keyHash([]byte(key))
	for range 2 {
		_, turn, _ := v.get(h, []byte(key))
		v.offer(h, []byte(key), []byte(value), turn)
	}
	got, _, ok := v.get(h, []byte(key))
	return ok && string(got) == value
}

func TestValues(t *testing.T) {
	v := new(values)
	key := []byte("hot")
	hash := keyHash(key)
	answers := func(want string, ok bool) {
		t.Helper()
		if got, _, is := v.get(hash, key); is != ok || string(got) != want {
			t.Fatalf("get = %q, %v; want %q, %v", got, is, want, ok)
		}
	}
	_, turn, _ := v.get(hash, key)
	v.offer(hash, key, []byte("1"), turn)
	answers("", false) // asked for once
	v.offer(hash, key, []byte("1"), turn)
	answers("1", true)

	group := func(kv ...string) {
		t.Helper()
		v.announce([]uint64{hash})
		v.announce([]uint64{hash, keyHash([]byte("other"))})
		answers("", false)
		v.applied(ops(kv...))
	}
	group("hot", "2", "other", "x", "hot", "3")
	answers("3", true)
	group("hot", "")
	answers("", true) // known not to be there
	group("hot", string(make([]byte, valueMax+1)))
	answers("", false)
	group("hot", "4")
	answers("4", true)

	// A collision: the entry is another key's.
	v.announce([]uint64{hash})
	v.applied(ops("cold", "x"))
	answers("4", true)
	if _, _, ok := v.get(hash, []byte("cold")); ok {
		t.Fatal("another key's value")
	}
	v.forget()
	answers("", false)
	if taken(v, "hot", "5") {
		t.Fatal("taken in while groups are applied unannounced")
	}
	v.forget()
	if !taken(v, "hot", "5") {
		t.Fatal("not taken in again")
	}
}

// TestValuesTakeNothingOutdated: what was read before or during a group.
func TestValuesTakeNothingOutdated(t *testing.T) {
	keys := shardKeys(2)
	hash := keyHash(keys[0])
	for _, step := range []string{"before", "during"} {
		v := new(values)
		_, turn, _ := v.get(hash, keys[0])
		v.offer(hash, keys[0], []byte("old"), turn) // the door knows it
		v.announce([]uint64{hash})
		if step == "during" {
			_, turn, _ = v.get(hash, keys[0])
		}
		v.offer(hash, keys[0], []byte("old"), turn)
		if _, _, ok := v.get(hash, keys[0]); ok {
			t.Fatalf("read %s, offered during a group: taken", step)
		}
		v.applied(ops(string(keys[0]), "new"))
		v.offer(hash, keys[0], []byte("old"), turn)
		if _, _, ok := v.get(hash, keys[0]); ok {
			t.Fatalf("read %s, offered after a group: taken", step)
		}
	}
}

func TestValuesAreBounded(t *testing.T) {
	v := new(values)
	keys := shardKeys(600)
	missed := 0
	for i, k := range keys {
		if !taken(v, string(k), string(make([]byte, i%1000))) {
			t.Fatalf("key %d not taken in", i)
		}
		if _, _, ok := v.get(keyHash(keys[0]), keys[0]); !ok {
			missed++
			taken(v, string(keys[0]), "hot")
		}
	}
	if missed > 20 {
		t.Errorf("the hottest key was evicted %d times", missed)
	}
	if taken(v, "long", string(make([]byte, valueMax+1))) {
		t.Fatal("too long, but taken in")
	}
	s := &v.shards[7]
	size := 0
	for _, e := range s.ring {
		size += e.size()
		if s.entries[e.hash] != e {
			t.Fatal("ring and map differ")
		}
	}
	if size != s.size || size > valueRoom || len(s.ring) != len(s.entries) || len(s.ring) < 100 {
		t.Fatalf("%d entries of %d bytes, counted %d, in the map %d", len(s.ring), size, s.size, len(s.entries))
	}
}

// TestHotKeysAreExact reads and writes more keys of one shard than it holds, so
// that values come and go all the time. No reader may see less than what any
// other has seen or was acknowledged before it began; a pair of keys written
// together never differs within a transaction that holds.
func TestHotKeysAreExact(t *testing.T) {
	fs := vfs.NewMem()
	cfg := Config{FS: fs, Cluster: storagenode.UUID{1}, Format: true}
	if err := fs.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	cfg.Drives = []Member{{ID: storagenode.DriveID{1}, Dir: "/d"}}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	keys := shardKeys(200) // pairs: 2i and 2i+1
	seen := make([]atomic.Uint64, len(keys))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			for n := uint64(1); ctx.Err() == nil; n++ {
				pair := 2 * (rng.IntN(50)*2 + w)
				x, _ := s.Begin(t.Context())
				value := make([]byte, 1200)
				binary.LittleEndian.PutUint64(value, n)
				x.Put(keys[pair], value)
				x.Put(keys[pair+1], value)
				if err := x.Commit(t.Context()); err != nil {
					t.Error(err)
					return
				}
				raise(&seen[pair], n)
				raise(&seen[pair+1], n)
			}
		})
	}
	number := func(v []byte) uint64 {
		if v == nil {
			return 0
		}
		return binary.LittleEndian.Uint64(v)
	}
	var hits atomic.Int64
	for r := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(2, uint64(r)))
			for ctx.Err() == nil {
				pair := 2 * rng.IntN(len(keys)/2)
				for _, i := range []int{pair, pair, pair + 1} { // one of a pair after the other
					floor := max(seen[pair].Load(), seen[pair+1].Load())
					v, err := s.Get(t.Context(), keys[i])
					if n := number(v); err != nil || n < floor {
						t.Errorf("%s is %d, %v, but %d was seen", keys[i], n, err, floor)
						cancel()
					}
					raise(&seen[i], number(v))
				}
				x, _ := s.Begin(t.Context())
				a, err := x.Get(t.Context(), keys[pair])
				b, err2 := x.Get(t.Context(), keys[pair+1])
				if err == nil && err2 == nil && number(a) != number(b) {
					t.Errorf("a pair is %d, %d", number(a), number(b))
					cancel()
				}
				hits.Add(1)
			}
		})
	}
	wg.Wait()
	if hits.Load() < 1000 {
		t.Errorf("%d reads only", hits.Load())
	}
}

func raise(a *atomic.Uint64, n uint64) {
	for old := a.Load(); n > old && !a.CompareAndSwap(old, n); old = a.Load() {
	}
}
