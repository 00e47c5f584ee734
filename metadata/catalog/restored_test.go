package catalog

import (
	"errors"
	"testing"
	"time"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/memory"
	"kintsugi/storagenode"
)

func write(t *testing.T, s kv.Store, p kv.Pair) {
	t.Helper()
	x, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if x.Delete(p.Key); p.Value != nil {
		x.Put(p.Key, p.Value)
	}
	if err := x.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// After a load the horizon stands, until an operator agrees.
func TestRestoredHoldsTheHorizon(t *testing.T) {
	s := memory.New()
	f := newFixture(t, s)
	old, later := storagenode.BlobIDAt(time.UnixMilli(1000)), storagenode.BlobIDAt(time.UnixMilli(2000))
	if err := f.RaiseHorizon(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	write(t, s, RestoredRow(time.Now()))
	if err := f.RaiseHorizon(t.Context(), later); !errors.Is(err, metadata.ErrRestored) {
		t.Fatalf("the horizon moves: %v", err)
	}
	if h, err := f.Horizon(t.Context()); err != nil || h != old {
		t.Fatalf("%v, %v", h, err)
	}
	f.checkClean()
	if err := f.AgreeToRestored(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.RaiseHorizon(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	if h, err := f.Horizon(t.Context()); err != nil || h != later {
		t.Fatalf("%v, %v", h, err)
	}
}

// Nobody serves from metadata that is loaded in part.
func TestHalfALoadIsNotOpened(t *testing.T) {
	s := memory.New()
	write(t, s, kv.Pair{Key: kv.LoadMark, Value: []byte("a load")})
	cfg := Config{KV: s, Scheme: erasure.Scheme{K: 4, M: 2}}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, metadata.ErrUnavailable) {
		t.Fatalf("opened: %v", err)
	}
	write(t, s, kv.Pair{Key: kv.LoadMark})
	if _, err := Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}
