package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/cmd/internal/load"
	"kintsugi/storagenode/vfs"
)

const (
	crashClients = 3
	crashKeys    = 4 // of each client
	crashOps     = 60
)

// TestCrashSeeds cuts the power of a whole store – segments, journal, indexes,
// identities – at a random change of the file system, also while it starts,
// empties up to two drives at times, and holds what comes back to a model:
// what was acknowledged is there byte by byte, what was deleted is not, what
// was under way is old or new.
func TestCrashSeeds(t *testing.T) {
	forSeeds(t, brief(12, 60), crashSeed)
}

func crashSeed(seed uint64) (err error) {
	r := &crashRun{seed: seed, rng: rand.New(rand.NewPCG(seed, 2)), mem: vfs.NewMem(), healed: true}
	for client := range r.keys {
		for i := range r.keys[client] {
			r.keys[client][i].name = fmt.Sprintf("client%d/key%d", client, i)
		}
	}
	defer func() { err = r.tell(seed, err) }()
	if err := r.mem.MkdirAll("/data"); err != nil {
		return err
	}
	if err := r.mem.SyncDir("/"); err != nil {
		return err
	}
	gens := 3 + r.rng.IntN(4)
	for gen := range gens {
		r.logger().Info("generation", "number", gen)
		if err := r.generation(gen, gen == gens-1); err != nil {
			return fmt.Errorf("generation %d: %w", gen, err)
		}
	}
	return nil
}

// crashKey is what may be found under a key. Only one client writes it.
type crashKey struct {
	name  string
	sure  []byte   // acknowledged last; nil: absent
	maybe [][]byte // of operations since whose outcome is unknown
}

// agrees says whether p may be found, and takes it for what is there.
func (k *crashKey) agrees(p []byte, found bool) bool {
	if !found {
		p = nil
	} else if p == nil {
		p = []byte{}
	}
	ok := like(p, k.sure)
	for _, q := range k.maybe {
		ok = ok || like(p, q)
	}
	if ok {
		k.sure, k.maybe = p, nil
	}
	return ok
}

func like(p, q []byte) bool { return (p == nil) == (q == nil) && bytes.Equal(p, q) }

func (k *crashKey) String() string {
	size := func(p []byte) string {
		if p == nil {
			return "absent"
		}
		return fmt.Sprintf("%d bytes", len(p))
	}
	s := k.name + ": " + size(k.sure)
	for _, p := range k.maybe {
		s += " or " + size(p)
	}
	return s
}

type crashRun struct {
	story
	seed   uint64
	rng    *rand.Rand
	mem    *vfs.Mem
	keys   [crashClients][crashKeys]crashKey
	serial atomic.Uint64
	// healed: nothing acknowledged lacks a shard, so two drives may go.
	healed bool
	store  atomic.Pointer[Cluster] // of this generation, once it is open
	thin   atomic.Bool             // something was acknowledged with fewer shards
	made   bool                    // the store was open at least once
}

// cut stops the world at one change of the file system.
type cut struct {
	fault *vfs.Fault
	rule  *vfs.Injected
	begun chan struct{} // closed when a change waits
	over  chan struct{}
	done  sync.WaitGroup
}

// cutAt lets n changes pass. Those that come after it hang until the power is
// gone: what they would have written is never written.
func cutAt(fault *vfs.Fault, n int) *cut {
	c := &cut{fault: fault, begun: make(chan struct{}), over: make(chan struct{})}
	c.rule = fault.Inject(vfs.Rule{Ops: vfs.OpChange, Skip: n, Hang: true})
	c.done.Go(func() {
		for c.rule.Waiting() == 0 {
			select {
			case <-c.over:
				return
			case <-time.After(50 * time.Microsecond):
			}
		}
		close(c.begun)
	})
	return c
}

func (c *cut) hasBegun() bool {
	select {
	case <-c.begun:
		return true
	default:
		return false
	}
}

// generation opens the store, checks it, works until the power is cut, and
// leaves what the cut leaves.
func (r *crashRun) generation(gen int, last bool) error {
	fault := vfs.NewFault(r.mem)
	changes := 1 << 30
	if !last {
		switch r.rng.IntN(4) {
		case 0:
			changes = r.rng.IntN(250) // most likely while it starts
		default:
			changes = r.rng.IntN(4000)
		}
	}
	c := cutAt(fault, changes)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	worked := make(chan error, 1)
	r.store.Store(nil)
	go func() { worked <- r.life(ctx, fault, c, gen, last) }()
	var err error
	ended := false // by the cut, not by itself
	select {
	case err = <-worked:
	case <-c.begun:
		ended = true
		time.Sleep(time.Duration(r.rng.IntN(3)) * time.Millisecond)
	}
	if store := r.store.Load(); store != nil && store.Journal.Status().Degraded != "" {
		r.healed = false // the journal lacks members
	}
	crashed := r.mem.Crash(r.rng)
	r.logger().Info("power cut", "changes", changes, "err", err)
	cancel()
	close(c.over)
	c.done.Wait()
	c.rule.Release()
	if store := r.store.Load(); ended && store != nil {
		_ = store.Journal.Close() // nobody needs to wait for it any more
	}
	if ended {
		err = <-worked
	}
	if store := r.store.Load(); store != nil {
		if cerr := within(20*time.Second, "close", store.Close); errors.Is(cerr, errHangs) {
			return cerr
		}
	}
	if err != nil {
		return fmt.Errorf("%w (power cut %v)", err, ended)
	}
	if last {
		return nil
	}
	r.mem = crashed
	r.healed = r.healed && !r.thin.Load()
	if r.made && r.healed && r.rng.IntN(3) == 0 {
		return r.empty(1 + r.rng.IntN(2))
	}
	return nil
}

var errHangs = errors.New("hangs")

// within fails where f takes too long.
func within(d time.Duration, what string, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(d):
		return fmt.Errorf("%s: %w", what, errHangs)
	}
}

// empty removes all that some drives hold.
func (r *crashRun) empty(n int) error {
	dirs := Six("/data")
	r.rng.Shuffle(len(dirs), func(i, j int) { dirs[i], dirs[j] = dirs[j], dirs[i] })
	for _, dir := range dirs[:n] {
		r.logger().Info("emptied", "dir", dir)
		names, err := r.mem.List(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := r.mem.RemoveAll(dir + "/" + name); err != nil {
				return err
			}
		}
		if err := r.mem.SyncDir(dir); err != nil {
			return err
		}
	}
	r.healed = false
	return nil
}

// life is what happens until the power is cut; an error is one that the cut
// does not explain.
func (r *crashRun) life(ctx context.Context, fault *vfs.Fault, c *cut, gen int, last bool) error {
	cfg := Small(fault, Six("/data"))
	cfg.Logger = r.logger()
	store, err := Open(ctx, cfg)
	if err != nil {
		return r.unlessCut(c, fmt.Errorf("open: %w", err))
	}
	r.made = true
	r.store.Store(store)
	if err := r.check(ctx, store, c); err != nil {
		return err
	}
	if err := store.Consistent(ctx); err != nil {
		return r.unlessCut(c, err)
	}
	var clients sync.WaitGroup
	errs := make(chan error, crashClients)
	for i := range crashClients {
		rng := rand.New(rand.NewPCG(r.seed, uint64(1000*gen+i)))
		clients.Go(func() { errs <- r.client(ctx, store, c, &r.keys[i], rng) })
	}
	if !r.healed || last {
		if err := store.Whole(ctx); err != nil {
			clients.Wait()
			return r.unlessCut(c, err)
		}
	}
	clients.Wait()
	for range crashClients {
		if err := <-errs; err != nil {
			return err
		}
	}
	if !r.thin.Load() || last {
		if err := store.Whole(ctx); err != nil {
			return r.unlessCut(c, err)
		}
		if err := store.Sound(ctx); err != nil {
			return r.unlessCut(c, err)
		}
		if !c.hasBegun() {
			r.healed = true
			r.thin.Store(false)
		}
	}
	return r.check(ctx, store, c)
}

// unlessCut gives err unless the power was being cut.
func (r *crashRun) unlessCut(c *cut, err error) error {
	if c.hasBegun() || c.rule.Waiting() > 0 {
		return nil
	}
	return err
}

// check reads every key and settles what was unknown.
func (r *crashRun) check(ctx context.Context, store *Cluster, c *cut) error {
	for client := range r.keys {
		for i := range r.keys[client] {
			k := &r.keys[client][i]
			p, found, err := store.Get(ctx, k.name)
			if err != nil {
				if err := r.unlessCut(c, fmt.Errorf("read %s: %w", k, err)); err != nil {
					return err
				}
				return nil
			}
			if !k.agrees(p, found) {
				return fmt.Errorf("%s: found %v, %d bytes", k, found, len(p))
			}
		}
	}
	return nil
}

func (r *crashRun) client(ctx context.Context, store *Cluster, c *cut, keys *[crashKeys]crashKey, rng *rand.Rand) error {
	for range crashOps {
		k := &keys[rng.IntN(len(keys))]
		err := r.step(ctx, store, k, rng)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return r.unlessCut(c, fmt.Errorf("%s: %w", k, err))
		}
	}
	return nil
}

func (r *crashRun) payload(rng *rand.Rand) []byte {
	sizes := []int{100, 4 << 10, 4 << 10, 60 << 10, 70 << 10, 300 << 10}
	switch n := rng.IntN(100); {
	case n < 5:
		return []byte{}
	case n < 6:
		return load.Payload(r.serial.Add(1), 4<<20+rng.IntN(1<<20))
	}
	return load.Payload(r.serial.Add(1), 1+rng.IntN(sizes[rng.IntN(len(sizes))]))
}

// step does one operation and writes its outcome down.
func (r *crashRun) step(ctx context.Context, store *Cluster, k *crashKey, rng *rand.Rand) error {
	var p []byte
	var thin bool
	var err error
	switch n := rng.IntN(100); {
	case n < 20:
		p, found, err := store.Get(ctx, k.name)
		if err == nil && !k.agrees(p, found) {
			err = fmt.Errorf("found %v, %d bytes", found, len(p))
		}
		return err
	case n < 35:
		k.maybe = append(k.maybe, nil)
		err = store.Delete(ctx, k.name)
	case n < 45:
		parts := [][]byte{r.payload(rng), r.payload(rng)}
		p = bytes.Join(parts, nil)
		if p == nil {
			p = []byte{}
		}
		k.maybe = append(k.maybe, p)
		thin, err = store.PutParts(ctx, k.name, parts...)
	default:
		p = r.payload(rng)
		k.maybe = append(k.maybe, p)
		thin, err = store.PutThin(ctx, k.name, p)
	}
	if thin {
		r.thin.Store(true)
	}
	if err == nil {
		k.sure, k.maybe = p, nil
	}
	return err
}
