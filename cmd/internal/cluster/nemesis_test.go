package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/cmd/internal/load"
	"kintsugi/storagenode/clock"
)

// TestNemeses runs a cluster of many processes under load while nodes,
// gateways, repairers, drives, the network and the lines to the metadata fail,
// never more at once than may. What must always hold is held by the ledger;
// in the end redundancy has returned by itself, every shard is good, and the
// whole history is linearizable.
//
// Time is a bubble's: it passes when all wait. So a seed costs what it
// computes, and a busy machine is never taken for a dead one.
func TestNemeses(t *testing.T) {
	if !bubbles {
		withBubbles(t)
		return
	}
	if err := letMutexesIdle(); err != nil {
		t.Fatal(err)
	}
	forSeeds(t, brief(6, 20), func(seed uint64) (err error) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(*testing.T) {
				err = nemeses(seed)
				time.Sleep(time.Hour) // what ends when it was idle for long enough ends
			})
		})
		return err
	})
}

// withBubbles builds the tests anew as bubble_test.go wants it, and runs this
// one there: in as many processes as there are processors, of one each, which
// share the seeds. So the goroutines of a seed run one after the other, in an
// order that is the same as far as the seed decides it.
func withBubbles(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "bubbles.test")
	args := []string{"test", "-c", "-tags", "bubble", "-ldflags=-checklinkname=0", "-o", binary, "."}
	if raceDetector {
		args = append(args[:1:1], append([]string{"-race"}, args[1:]...)...)
	}
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	parts := runtime.GOMAXPROCS(0)
	if os.Getenv("KINTSUGI_SEED") != "" {
		parts = 1
	}
	var all sync.WaitGroup
	for i := range parts {
		run := exec.CommandContext(t.Context(), binary, "-test.run", "^TestNemeses$", "-test.timeout", "0", fmt.Sprintf("-test.short=%v", testing.Short()))
		run.Env = append(os.Environ(), "GOMAXPROCS=1", fmt.Sprintf("KINTSUGI_PART=%d/%d", i, parts))
		all.Go(func() {
			if out, err := run.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			t.Logf("CPU of part %d: %s", i, run.ProcessState.UserTime()+run.ProcessState.SystemTime())
		})
	}
	all.Wait()
}

// ordeal is one seed's run.
type ordeal struct {
	story
	seed   uint64
	rng    *rand.Rand
	many   *Many
	client *client
	load   *load.Load
	races  races
	lossy  bool // drives may lose what they held
}

func nemeses(seed uint64) (err error) {
	o := &ordeal{seed: seed, rng: rand.New(rand.NewPCG(seed, 12)), lossy: seed%3 == 0}
	defer func() { err = o.tell(seed, err) }()
	began := time.Now()
	if err := o.open(); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer o.many.Close()
	o.logger().Info("opened", "took", time.Since(began))
	o.load = load.Start(load.Config{
		Target: o.client, Writers: 3, Readers: 3, Keys: 10, MaxSize: 300 << 10, DeletePercent: 15,
		Seed: seed, Timeout: 4 * time.Second, Pause: 25 * time.Millisecond,
	})
	defer o.load.Stop()
	stop := o.alongside()
	defer stop()
	rounds := 2 + o.rng.IntN(2)
	for round := range rounds {
		if err := o.round(round == rounds-1); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	stop()
	return o.judge()
}

// alongside adds larger objects, and races for keys, to the load. What it
// returns ends that.
func (o *ordeal) alongside() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		rng := rand.New(rand.NewPCG(o.seed, 14))
		for ctx.Err() == nil {
			pause(rng, 1200)
			limited, done := context.WithTimeout(context.WithoutCancel(ctx), 4*time.Second)
			o.load.Put(limited, 100, fmt.Sprintf("load/%04d", rng.IntN(10)), 4<<20+rng.IntN(5<<20))
			done()
		}
	})
	for i := range 2 { // most of the load's are small, and replicated
		all.Go(func() {
			rng := rand.New(rand.NewPCG(o.seed, 20+uint64(i)))
			for ctx.Err() == nil {
				limited, done := context.WithTimeout(context.WithoutCancel(ctx), 4*time.Second)
				o.load.Put(limited, 101+i, fmt.Sprintf("load/%04d", rng.IntN(10)), 65<<10+rng.IntN(200<<10))
				done()
				pause(rng, 30)
			}
		})
	}
	all.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			o.races.run(context.WithoutCancel(ctx), o.client, o.many, i)
			_ = clock.System{}.Sleep(ctx, 20*time.Millisecond)
		}
	})
	return sync.OnceFunc(func() { cancel(); all.Wait() })
}

func (o *ordeal) open() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	defer cancel()
	skews := map[string]time.Duration{}
	for _, name := range []string{"n1", "n2", "n3", "n4", "n5", "n6", "g1", "g2", "r1", "r2"} {
		skews[name] = wrongBy(o.rng)
	}
	o.many, err = OpenMany(ctx, ManyConfig{
		Zones: 3, NodesPerZone: 2, Drives: []int{1 + o.rng.IntN(2), 1 + o.rng.IntN(2)}, Seed: o.seed, Logger: o.logger(),
		Skew: func(name string) time.Duration { return skews[name] },
	})
	if err != nil {
		return err
	}
	o.client = newClient(o.many, 15)
	return nil
}

// judge ends the load and holds the cluster to everything.
func (o *ordeal) judge() error {
	began := time.Now()
	o.load.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	defer cancel()
	if err := o.many.ledger.err(); err != nil {
		return err
	}
	for _, n := range o.many.nodes {
		if err := o.renew(n); err != nil {
			return err
		}
	}
	if err := o.many.Whole(ctx); err != nil {
		return err
	}
	o.logger().Info("whole", "took", time.Since(began))
	for _, proof := range []func(context.Context) error{o.many.Sound, o.many.Fenced, o.many.NoGhosts, o.gatewaysServe, o.judgeRaces} {
		if err := errors.Join(proof(ctx), o.many.ledger.err()); err != nil {
			return err
		}
	}
	if err := o.load.Check(ctx); err != nil {
		return err
	}
	ok, failed := o.load.Counts()
	o.logger().Info("judged", "took", time.Since(began), "acknowledged", ok, "failed", failed)
	if ok["put"] < 3 || ok["get"] < 10 {
		return fmt.Errorf("%v were acknowledged, %v failed: the load did next to nothing", ok, failed)
	}
	return o.many.ledger.err()
}

// gatewaysServe proves that every gateway writes and reads again.
func (o *ordeal) gatewaysServe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for i, g := range o.many.gateways {
		c, key := o.client.through(g), fmt.Sprintf("served/%s", g.name)
		for _, size := range []int{100, 200 << 10} {
			p := load.Payload(1<<40+uint64(i), size)
			err := until(ctx, func() error { return c.Put(ctx, key, p) })
			if err != nil {
				return fmt.Errorf("%s serves no writes though all is well: %w", g.name, err)
			}
			err = until(ctx, func() error {
				got, found, err := c.Get(ctx, key)
				if err == nil && (!found || !bytes.Equal(got, p)) {
					return o.many.ledger.lie("%s: %d bytes of %d, found %v", key, len(got), len(p), found)
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("%s serves no reads though all is well: %w", g.name, err)
			}
		}
	}
	return nil
}

// races are keys that two clients want to create at the same time, each
// through another gateway: one may win.
type races struct {
	mu   sync.Mutex
	wins map[string][][]byte // by key; guarded by mu
}

func (r *races) run(ctx context.Context, c *client, many *Many, i int) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	key := fmt.Sprintf("race/%d", i)
	var all sync.WaitGroup
	for j, g := range many.gateways {
		all.Go(func() {
			p := load.Payload(1<<41+uint64(2*i+j), 100)
			if c.through(g).Create(ctx, key, p) == nil {
				r.won(key, p)
			}
		})
	}
	all.Wait()
}

// won notes that a client was told that it has created a key.
func (r *races) won(key string, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wins == nil {
		r.wins = map[string][][]byte{}
	}
	r.wins[key] = append(r.wins[key], p)
}

func (o *ordeal) judgeRaces(ctx context.Context) error {
	for key, wins := range o.races.wins {
		if len(wins) > 1 {
			return fmt.Errorf("%s was created twice", key)
		}
		err := until(ctx, func() error {
			p, found, err := o.client.Get(ctx, key)
			if err == nil && (!found || !bytes.Equal(p, wins[0])) {
				return o.many.ledger.lie("%s: found %v, and not what was created", key, found)
			}
			return err
		})
		if err = errors.Join(err, o.many.ledger.err()); err != nil {
			return err
		}
	}
	return nil
}
