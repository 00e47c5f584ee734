package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kintsugi/cmd/internal/embedded"
	"kintsugi/cmd/internal/load"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// TestTortured lets writers and readers work through the S3 front while drives
// are emptied, taken away, hang, fail and fill up, and the power is cut; never
// more drives at once than may be lost. After each round the store gets whole
// by itself; at the end the whole history is linearizable.
func TestTortured(t *testing.T) {
	forSeeds(t, brief(2, 8), tortured)
}

// torture is one seed's run.
type torture struct {
	story
	rng   *rand.Rand
	mem   *vfs.Mem
	fault *vfs.Fault
	cfg   embedded.Config
	store *Cluster
	front front
}

func tortured(seed uint64) (err error) {
	r := &torture{rng: rand.New(rand.NewPCG(seed, 5)), mem: vfs.NewMem()}
	defer func() { err = r.tell(seed, err) }()
	if err := errors.Join(r.mem.MkdirAll("/data"), r.mem.SyncDir("/")); err != nil {
		return err
	}
	if err := r.open(); err != nil {
		return err
	}
	defer func() {
		r.front.serve(nil)
		r.fault.Clear()
		err = errors.Join(err, within(30*time.Second, "close", r.store.Close))
	}()
	target, err := newS3(r.cfg, &r.front)
	if err != nil {
		return err
	}
	l := load.Start(load.Config{
		Target: target, Writers: 3, Readers: 2, Keys: 12, MaxSize: 400 << 10, DeletePercent: 15,
		Seed: seed, Timeout: 15 * time.Second, Pause: 2 * time.Millisecond,
	})
	defer l.Stop()
	for round := range 2 + r.rng.IntN(2) {
		if err := r.round(); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	l.Stop()
	if err := r.whole(); err != nil {
		return err
	}
	if err := r.store.Sound(context.Background()); err != nil {
		return err
	}
	if err := l.Check(context.Background()); err != nil {
		return err
	}
	ok, failed := l.Counts()
	r.logger().Info("load", "acknowledged", ok, "failed", failed)
	if wrote := ok["put"]; wrote < 20 {
		return fmt.Errorf("%d writes were acknowledged, %v failed: the load did next to nothing", wrote, failed)
	}
	return nil
}

func (r *torture) open() error {
	r.fault = vfs.NewFault(r.mem)
	r.cfg = Small(r.fault, Six("/data"))
	r.cfg.Logger = r.logger()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	store, err := Open(ctx, r.cfg)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	r.store = store
	r.front.serve(store.Handler)
	return nil
}

func (r *torture) whole() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return r.store.Whole(ctx)
}

// round hurts up to two drives at once, ends that, and waits for redundancy to
// return by itself.
func (r *torture) round() error {
	pause(r.rng, 400)
	dirs := shuffled(r.rng, Six("/data"))[:1+r.rng.IntN(2)]
	var ends sync.WaitGroup
	errs := make(chan error, len(dirs))
	for _, dir := range dirs {
		harm := harms[r.rng.IntN(len(harms))]
		rng := rand.New(rand.NewPCG(r.rng.Uint64(), 6))
		r.logger().Info("harm", "dir", dir, "how", harm.name)
		ends.Go(func() {
			if err := harm.do(r, dir, rng); err != nil {
				errs <- fmt.Errorf("%s of %s: %w", harm.name, dir, err)
			}
		})
	}
	ends.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	r.fault.Clear()
	if r.rng.IntN(2) == 0 {
		if err := r.powerCut(); err != nil {
			return err
		}
	}
	for _, dir := range dirs {
		if err := r.back(dir); err != nil {
			return err
		}
	}
	if err := r.whole(); err != nil {
		return fmt.Errorf("after harm to %s: %w", strings.Join(dirs, ", "), err)
	}
	r.logger().Info("whole again")
	return nil
}

// harm is one way to hurt a drive; do returns when it has lasted long enough.
type harm struct {
	name string
	do   func(r *torture, dir string, rng *rand.Rand) error
}

func pause(rng *rand.Rand, ms int) { time.Sleep(time.Duration(ms/4+rng.IntN(ms)) * time.Millisecond) }

// fails injects a fault for a while.
func fails(name string, rule vfs.Rule) harm {
	return harm{name, func(r *torture, dir string, rng *rand.Rand) error {
		rule := rule // two drives may suffer the same at once
		rule.Path = dir + "/"
		if rule.Times > 0 {
			rule.Skip = rng.IntN(20)
		}
		i := r.fault.Inject(rule)
		if rng.IntN(4) == 0 {
			pause(rng, 4000) // beyond the patience of writers and journal
		} else {
			pause(rng, 600)
		}
		i.Release()
		return nil
	}}
}

const spaceOps = vfs.OpCreate | vfs.OpWrite | vfs.OpAllocate | vfs.OpMkdir

var harms = []harm{
	{"emptying", func(r *torture, dir string, rng *rand.Rand) error {
		pause(rng, 50)
		err := wipe(r.mem, dir)
		pause(rng, 400)
		return err
	}},
	{"taking away", func(r *torture, dir string, rng *rand.Rand) error {
		err := r.mem.Rename(dir, dir+".away")
		pause(rng, 500)
		// Synced, since a power cut would take the drive away again for good.
		return errors.Join(err, r.mem.Rename(dir+".away", dir), r.mem.SyncDir("/data"))
	}},
	fails("hanging reads", vfs.Rule{Ops: vfs.OpOpen | vfs.OpRead | vfs.OpStat | vfs.OpList, Hang: true}),
	fails("hanging changes", vfs.Rule{Ops: vfs.OpChange, Hang: true}),
	fails("hanging", vfs.Rule{Hang: true}),
	fails("slowness", vfs.Rule{Delay: 20 * time.Millisecond}),
	fails("EIO on reads", vfs.Rule{Ops: vfs.OpRead, Err: syscall.EIO}),
	fails("EIO now and then", vfs.Rule{Ops: vfs.OpRead | vfs.OpWrite, Err: syscall.EIO, Times: 1}),
	fails("EIO on sync", vfs.Rule{Ops: vfs.OpSync, Err: syscall.EIO, Times: 1}),
	fails("no space", vfs.Rule{Ops: spaceOps, Err: syscall.ENOSPC}),
	fails("no space in the index", vfs.Rule{Ops: spaceOps, Err: syscall.ENOSPC, Times: 3}),
}

// back has a hurt drive in service again, emptied where it is broken for good.
func (r *torture) back(dir string) error {
	end := time.Now().Add(40 * time.Second)
	for {
		var d storagenode.DriveReport
		for _, q := range r.store.Node.Reports() {
			if q.Dir == dir {
				d = q
			}
		}
		switch {
		case d.State == storagenode.DriveActive:
			return nil
		case d.State == storagenode.DriveBroken:
			if err := wipe(r.mem, dir); err != nil {
				return err
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is %s: %s", dir, d.State, d.Reason)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// powerCut cuts the power under load and starts again on what it leaves.
func (r *torture) powerCut() error {
	r.logger().Info("power cut")
	crashed := r.mem.Crash(r.rng)
	_ = r.store.Journal.Close()
	r.front.serve(nil)
	if err := within(30*time.Second, "close", r.store.Close); errors.Is(err, errHangs) {
		return err
	}
	r.mem = crashed
	return r.open()
}
