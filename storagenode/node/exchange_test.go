package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/segment"
	"kintsugi/storagenode/vfs"
)

// exchange is a node of two drives with real stores whose disks change places, and a model
// of what each drive acknowledged.
type exchange struct {
	t     *testing.T
	root  string // of the two directories
	dirs  []string
	rng   *rand.Rand
	fault *vfs.Fault
	node  *Node
	ids   [2]storagenode.DriveID

	mu     sync.Mutex
	stores map[storagenode.DriveID]*segment.Store // last opened
	shards [2]map[storagenode.BlobID][]byte       // acknowledged; nil: deleted
	unsure [2]map[storagenode.BlobID]bool         // an operation on it failed
	log    bytes.Buffer
}

func newExchange(t *testing.T, seed uint64, fs vfs.FS, root string) *exchange {
	e := &exchange{
		t: t, root: root, dirs: []string{root + "/a", root + "/b"},
		rng: rand.New(rand.NewPCG(seed, 1)), fault: vfs.NewFault(fs),
		stores: map[storagenode.DriveID]*segment.Store{},
	}
	log := slog.New(slog.NewTextHandler(&e.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	var err error
	e.node, err = Open(t.Context(), Config{
		FS: e.fault, Dirs: e.dirs, Poll: 24 * time.Hour, Logger: log,
		Open: func(ctx context.Context, fs vfs.FS, dir string, id Identity) (storagenode.Drive, error) {
			s, err := segment.Open(ctx, segment.Config{
				FS: fs, Dir: dir, Cluster: id.Cluster, Drive: id.Drive, Logger: log,
				SegmentSize: 128 << 10, Grace: -1, CompactionRate: -1, ReserveRatio: 0.001,
				Damaged: func(id storagenode.ShardID, err error) { t.Errorf("%s is said to be damaged: %v", id.Blob, err) },
			})
			if err != nil {
				return nil, err
			}
			e.mu.Lock()
			e.stores[id.Drive] = s
			e.mu.Unlock()
			return s, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range e.node.Reports() {
		e.ids[i] = r.ID
		e.shards[i], e.unsure[i] = map[storagenode.BlobID][]byte{}, map[storagenode.BlobID]bool{}
	}
	return e
}

func (e *exchange) close() {
	e.fault.Clear()
	if err := e.node.Close(); err != nil {
		e.t.Error(err)
	}
	if e.t.Failed() {
		e.t.Log(e.log.String())
	}
}

func exchangeShard(blob storagenode.BlobID, payload []byte) storagenode.Shard {
	return storagenode.Shard{
		ID: storagenode.ShardID{PG: 1, Blob: blob}, K: 1, Last: true, StripeLen: uint32(len(payload)), Payload: payload,
	}
}

// work puts and deletes blobs on both drives, several at a time, and lets time for
// upkeep pass in between.
func (e *exchange) work(serial byte) {
	var all sync.WaitGroup
	for i := range e.ids {
		s := e.stores[e.ids[i]]
		for w := range 2 {
			rng := rand.New(rand.NewPCG(e.rng.Uint64(), uint64(w)))
			all.Go(func() {
				for n := range 40 {
					if n%10 == 9 {
						time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
					}
					e.one(i, s, rng, storagenode.BlobID{serial, byte(w), byte(n)}, storagenode.BlobID{byte(1 + rng.IntN(int(serial))), byte(w), byte(rng.IntN(n + 1))})
				}
			})
		}
	}
	all.Wait()
	time.Sleep(6 * time.Second) // a checkpoint, and a look at the segments
}

// one puts blob, or deletes old.
func (e *exchange) one(i int, s *segment.Store, rng *rand.Rand, blob, old storagenode.BlobID) {
	var payload []byte
	var err error
	if rng.IntN(3) > 0 || old == blob {
		payload = bytes.Repeat(binary.LittleEndian.AppendUint64(nil, rng.Uint64()), 1+rng.IntN(2500))
		var token storagenode.Token
		if token, err = s.Put(e.t.Context(), exchangeShard(blob, payload)); err == nil {
			err = s.Sync(e.t.Context(), token)
		}
	} else {
		blob = old
		err = s.Delete(e.t.Context(), 1, 0, blob)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.unsure[i][blob] = true
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, storagenode.ErrReadOnly) && !errors.Is(err, storagenode.ErrUnavailable) {
			e.t.Errorf("drive %d: %v", i, err)
		}
		return
	}
	delete(e.unsure[i], blob)
	e.shards[i][blob] = payload
}

// swap exchanges what lies in the two directories.
func (e *exchange) swap(rng *rand.Rand) {
	time.Sleep(time.Duration(rng.IntN(6000)) * time.Millisecond)
	for _, r := range [][2]string{{"/a", "/aside"}, {"/b", "/a"}, {"/aside", "/b"}} {
		e.rename(r[0], r[1])
		time.Sleep(time.Duration(rng.IntN(3)) * time.Second)
	}
}

// notice has the node look until it serves both drives.
func (e *exchange) notice() {
	for range 10 {
		e.node.Check(e.t.Context())
		ok := true
		for _, id := range e.ids {
			_, state := e.node.Drive(id)
			ok = ok && state == storagenode.DriveActive
		}
		if ok {
			return
		}
	}
	e.t.Fatalf("the drives are not served: %+v", e.node.Reports())
}

// check compares the drives with the model.
func (e *exchange) check() {
	for i, id := range e.ids {
		s := e.stores[id]
		if r := s.OpenReport(); len(r.Damaged)+len(r.Corrupt) > 0 {
			e.t.Errorf("drive %d: open found %+v", i, r)
		}
		for blob, want := range e.shards[i] {
			if e.unsure[i][blob] {
				continue
			}
			got := make([]byte, len(want)+1)
			n, err := s.ReadAt(e.t.Context(), exchangeShard(blob, nil).ID, 0, got)
			switch {
			case want == nil && !errors.Is(err, storagenode.ErrNotFound):
				e.t.Errorf("drive %d: %s was deleted: %v", i, blob, err)
			case want != nil && !bytes.Equal(got[:n], want):
				e.t.Errorf("drive %d: %s of %d bytes was acknowledged: %d bytes, %v", i, blob, len(want), n, err)
			}
		}
		if _, err := s.Scrub(e.t.Context(), 0, func(id storagenode.ShardID, err error) { e.t.Errorf("scrub of drive %d: %s: %v", i, id.Blob, err) }); err != nil {
			e.t.Errorf("scrub of drive %d: %v", i, err)
		}
		if err := s.Health(); err != nil {
			e.t.Errorf("drive %d: %v", i, err)
		}
	}
	e.pure()
}

// pure wants each directory's segments to be of the drive that lies there.
func (e *exchange) pure() {
	for _, dir := range e.dirs {
		id, err := readIdentity(e.fault, dir)
		if err != nil {
			e.t.Fatal(err)
		}
		names, err := e.fault.List(dir + "/segments")
		if err != nil {
			e.t.Fatal(err)
		}
		for _, name := range names {
			f, err := e.fault.OpenFile(filepath.Join(dir, "segments", name), os.O_RDONLY)
			if err != nil {
				e.t.Fatal(err)
			}
			super := make([]byte, 48)
			if _, err := f.ReadAt(super, 0); err != nil || storagenode.DriveID(super[32:48]) != id.Drive {
				e.t.Errorf("%s/%s is of drive %x, %v", dir, name, super[32:48], err)
			}
			_ = f.Close()
		}
	}
}

// TestDisksAreExchangedUnderLoad: disks change places while their stores write, compact,
// begin segments, write their indexes and make them anew, long before the node looks.
// Each drive finds on its own disk, wherever that is, what it acknowledged; nothing of
// one is written to the other's disk, removed from it or called damaged.
func TestDisksAreExchangedUnderLoad(t *testing.T) {
	seeds := uint64(2)
	if n, err := strconv.ParseUint(os.Getenv("KINTSUGI_SEEDS"), 10, 64); err == nil {
		seeds = n
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { exchangeUnderLoad(t, newExchange(t, seed, vfs.NewMem(), ""), 4) })
		})
	}
	t.Run("OS", func(t *testing.T) {
		root := t.TempDir()
		synctest.Test(t, func(t *testing.T) { exchangeUnderLoad(t, newExchange(t, 0, vfs.OS(), root), 1) })
	})
}

func exchangeUnderLoad(t *testing.T, e *exchange, rounds byte) {
	defer e.close()
	for round := byte(1); round <= rounds && !t.Failed(); round++ {
		e.work(3*round - 2)
		if e.rng.IntN(2) == 0 { // an index is made anew
			e.fault.Inject(vfs.Rule{
				Ops: vfs.OpWrite | vfs.OpCreate, Path: e.dirs[e.rng.IntN(2)] + "/index/",
				Skip: e.rng.IntN(6), Times: 1, Err: syscall.ENOSPC,
			})
		}
		seed := e.rng.Uint64()
		var moving sync.WaitGroup
		moving.Go(func() { e.swap(rand.New(rand.NewPCG(seed, 2))) })
		e.work(3*round - 1)
		moving.Wait()
		e.work(3 * round)
		e.fault.Clear()
		e.notice()
		e.check()
	}
}

// stopAt has the node look at the first directory until a call that matches the rule
// hangs, makes a change, and lets the look end.
func (e *exchange) stopAt(r vfs.Rule, change func()) {
	e.t.Helper()
	r.Hang, r.Times = true, 1
	hang := e.fault.Inject(r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.node.places[0].check(e.t.Context())
	}()
	synctest.Wait()
	if hang.Waiting() != 1 {
		e.t.Fatal("nothing hangs")
	}
	change()
	hang.Release()
	<-done
}

func (e *exchange) rename(from, to string) {
	e.t.Helper()
	if err := e.fault.Rename(e.root+from, e.root+to); err != nil {
		e.t.Fatal(err)
	}
}

// TestDiskComesWhileItIsLookedAt: between two steps of opening a directory's drive, or of
// making the empty directory a drive, another disk comes to lie there. It is not opened
// for the first, and nothing on it is removed.
func TestDiskComesWhileItIsLookedAt(t *testing.T) {
	for what, c := range map[string]struct {
		emptied bool
		at      vfs.Rule
	}{
		"open, before it is pinned":   {false, vfs.Rule{Ops: vfs.OpOpen, Path: "/a", Skip: 1}},
		"open, pinned":                {false, vfs.Rule{Ops: vfs.OpLock, Path: "/a/lock"}},
		"open, the store":             {false, vfs.Rule{Ops: vfs.OpList, Path: "/a/index"}},
		"format, before it is pinned": {true, vfs.Rule{Ops: vfs.OpOpen, Path: "/a", Skip: 1}},
		"format, clearing":            {true, vfs.Rule{Ops: vfs.OpRemove, Path: "/a/segments"}},
		"format, written":             {true, vfs.Rule{Ops: vfs.OpSyncDir, Path: "/a"}},
	} {
		for _, served := range []bool{true, false} { // the disk that comes, at that time
			t.Run(fmt.Sprint(what, ", served ", served), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { diskComes(t, c.emptied, served, c.at) })
			})
		}
	}
}

func diskComes(t *testing.T, emptied, served bool, at vfs.Rule) {
	e := newExchange(t, 1, vfs.NewMem(), "")
	defer e.close()
	e.work(1)
	e.rename("/a", "/aside")
	e.node.places[0].check(t.Context())
	if emptied {
		if err := e.fault.Mkdir("/a"); err != nil {
			t.Fatal(err)
		}
	} else {
		e.rename("/aside", "/a")
	}
	comes := "/b"
	if !served {
		comes = "/other"
		e.rename("/b", comes)
		e.node.places[1].check(t.Context())
	}
	e.stopAt(at, func() {
		e.rename("/a", "/a.was")
		e.rename(comes, "/a")
	})
	if emptied {
		e.rename("/aside", "/b")
	} else {
		e.rename("/a.was", "/b")
	}
	e.notice()
	e.check()
}
