package journal_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/journal"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// beyond is a store that loses more drives than the tolerance while it runs.
type beyond struct {
	*testing.T
	s    *journal.Store
	cfg  journal.Config
	fs   *vfs.Fault
	away []storagenode.DriveID
}

func (b *beyond) move(ids ...storagenode.DriveID) {
	b.Helper()
	for _, id := range ids {
		b.away = append(b.away, id)
		if dir := dirOf(b.cfg, id); b.fs.Rename(dir, dir+".away") != nil {
			b.Fatalf("%s cannot be moved", dir)
		}
	}
}

// told is what the node says once it has noticed.
func (b *beyond) told(usable bool, ids ...storagenode.DriveID) {
	for _, id := range ids {
		b.s.SetUsable(id, usable)
	}
}

// back brings n drives back.
func (b *beyond) back(n int, told bool) {
	b.Helper()
	for range n {
		id := b.away[len(b.away)-1]
		b.away = b.away[:len(b.away)-1]
		if dir := dirOf(b.cfg, id); b.fs.Rename(dir+".away", dir) != nil {
			b.Fatalf("%s cannot be moved back", dir)
		}
		if told {
			b.told(true, id)
		}
	}
}

func (b *beyond) left() (ids []storagenode.DriveID) {
	for _, d := range b.cfg.Drives {
		if !slices.Contains(b.away, d.ID) {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

// down waits until commits are refused.
func (b *beyond) down() {
	b.Helper()
	eventually(b, "unavailable", func() bool {
		err := put(b, b.s, "maybe", "x")
		if err != nil && !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrUnknown) {
			b.Fatal(err)
		}
		return errors.Is(err, kv.ErrUnavailable)
	})
}

// readable: all is there, for every kind of read, a transaction's included.
func (b *beyond) readable() {
	b.Helper()
	for i := range 20 {
		wantGet(b, b.s, fmt.Sprint("k", i), "v")
	}
	n := 0
	for _, err := range b.s.Scan(b.Context(), []byte("k"), []byte("l")) {
		if err != nil {
			b.Fatal(err)
		}
		n++
	}
	x, err := b.s.Begin(b.Context())
	if err != nil || n != 20 {
		b.Fatalf("scanned %d pairs of 20; begin: %v", n, err)
	}
	for range 2 {
		if v, err := x.Get(b.Context(), []byte("k1")); err != nil || string(v) != "v" {
			b.Fatalf("within a transaction %q, %v", v, err)
		}
	}
	if err := x.Commit(b.Context()); err != nil {
		b.Fatalf("a transaction that only reads: %v", err)
	}
}

// TestReadsGoOnBeyondTheTolerance: two of six drives go, then two more. What
// was committed between must stay readable as long as one member is left, and
// commits go on with the third drive.
func TestReadsGoOnBeyondTheTolerance(t *testing.T) {
	for _, c := range []struct {
		name        string
		state, told bool
	}{
		{"two members", false, false}, {"two members, told", false, true},
		{"the state and a member", true, false}, {"the state and a member, told", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg, fs, _ := faulty(t, 6, 2)
			cfg.Wait, cfg.Checkpoint = 3*time.Second, 200*time.Millisecond
			b := &beyond{T: t, s: open(t, cfg), cfg: cfg, fs: fs}
			first := b.s.Status().Members[:2]
			b.move(first...)
			b.told(false, first...)
			whole(t, b.s, cfg, first...)
			for i := range 20 {
				mustPut(t, b.s, fmt.Sprint("k", i), "v")
			}
			st := b.s.Status()
			second := slices.Clone(st.Members[:2])
			if c.state {
				second = []storagenode.DriveID{st.Members[0], st.StateDrive}
				if second[0] == second[1] {
					second[0] = st.Members[1]
				}
			}
			b.move(second...)
			if c.told {
				b.told(false, second[0])
			}
			b.down()
			if c.told {
				b.told(false, second[1])
			}
			for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				b.readable()
			}
			if c.state { // the new state is on one of the members left: it goes, too
				third := b.s.Status().StateDrive
				if !slices.Contains(b.left(), third) {
					t.Fatalf("state on %s, which is away", third)
				}
				b.move(third)
				b.told(false, third)
				eventually(t, "another state", func() bool {
					id := b.s.Status().StateDrive
					return id != third && slices.Contains(b.left(), id)
				})
				b.readable()
				b.back(1, true)
			}
			b.back(1, c.told)
			eventually(t, "commits", func() bool { return put(t, b.s, "more", "x") == nil })
			b.readable()
			b.back(len(b.away), true)
			whole(t, b.s, cfg)
			if err := b.s.Close(); err != nil {
				t.Fatal(err)
			}
			b.s = open(t, cfg)
			b.readable()
			wantGet(t, b.s, "more", "x")
		})
	}
}
