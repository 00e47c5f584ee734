package storetest_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) storagenode.ShardStore { return storetest.NewMemory() })
}

func TestFaultyConforms(t *testing.T) {
	storetest.Run(t, func(*testing.T) storagenode.ShardStore {
		return storetest.NewFaulty(storetest.NewMemory())
	})
}

func store(t *testing.T, s storagenode.ShardStore, sh storagenode.Shard) {
	t.Helper()
	tok, err := s.Put(t.Context(), sh)
	if err == nil {
		err = s.Sync(t.Context(), tok)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCorruptAndLose(t *testing.T) {
	m := storetest.NewMemory()
	id := storagenode.ShardID{PG: 1, Blob: storetest.Blob(1)}
	other := storagenode.ShardID{PG: 1, Blob: storetest.Blob(2)}
	store(t, m, storetest.NewShard(id, 200_000))
	store(t, m, storetest.NewShard(other, 10))
	if !m.Corrupt(id, 70_000) || m.Corrupt(id, 200_000) {
		t.Fatal("corrupt: wrong answer")
	}
	p := make([]byte, 100)
	for _, r := range []struct {
		off  int64
		want error
	}{{0, nil}, {65_536 - 100, nil}, {65_536 - 99, storagenode.ErrCorrupt}, {100_000, storagenode.ErrCorrupt}, {131_072, nil}} {
		if _, err := m.ReadAt(t.Context(), id, r.off, p); !errors.Is(err, r.want) {
			t.Fatalf("read at %d: %v, want %v", r.off, err, r.want)
		}
	}
	var found []storagenode.ShardID
	rep, err := m.Scrub(t.Context(), 0, func(id storagenode.ShardID, _ error) { found = append(found, id) })
	if err != nil || len(found) != 1 || found[0] != id || len(rep.Corrupt) != 1 || rep.Records != 2 {
		t.Fatalf("scrub: %+v, %v, %v", rep, found, err)
	}
	if !m.Corrupt(other, -1) {
		t.Fatal("no header to corrupt")
	}
	if _, err := m.Stat(t.Context(), other); !errors.Is(err, storagenode.ErrCorrupt) {
		t.Fatal(err)
	}
	store(t, m, storetest.NewShard(other, 10)) // repaired
	if n, err := m.ReadAt(t.Context(), other, 0, p); n != 10 || err != io.EOF {
		t.Fatal(n, err)
	}
	if len(m.Shards()) != 2 || !m.Lose(id) || m.Lose(id) || len(m.Shards()) != 1 {
		t.Fatal("lose: wrong answer")
	}
}

func TestFaulty(t *testing.T) {
	m := storetest.NewMemory()
	f := storetest.NewFaulty(m)
	id := storagenode.ShardID{PG: 1, Blob: storetest.Blob(1)}
	sh := storetest.NewShard(id, 10)
	boom := errors.New("boom")

	in := f.Inject(storetest.Fault{Ops: storetest.OpPut, Skip: 1, Times: 1, Err: boom})
	store(t, f, sh)
	if _, err := f.Put(t.Context(), sh); err != boom || in.Hits() != 1 {
		t.Fatal(err, in.Hits())
	}
	store(t, f, sh)

	f.Inject(storetest.Fault{Ops: storetest.OpDelete, Err: boom, After: true})
	if err := f.Delete(t.Context(), 1, 0, id.Blob); err != boom {
		t.Fatal(err)
	}
	if len(m.Shards()) != 0 {
		t.Fatal("the delete was not made")
	}

	hang := f.Inject(storetest.Fault{Ops: storetest.OpStat, Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := f.Stat(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := f.Stat(t.Context(), id)
		done <- err
	}()
	for hang.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	hang.Release()
	if err := <-done; !errors.Is(err, storagenode.ErrNotFound) {
		t.Fatal(err)
	}

	f.SetDown(storagenode.ErrUnavailable)
	for _, err := range f.List(t.Context(), 1, 0, storagenode.BlobID{}) {
		if !errors.Is(err, storagenode.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if !errors.Is(f.Health(), storagenode.ErrUnavailable) {
		t.Fatal(f.Health())
	}
	f.Clear()
	if f.Health() != nil || f.Calls(storetest.OpStat) != 2 {
		t.Fatal(f.Health(), f.Calls(storetest.OpStat))
	}
}
