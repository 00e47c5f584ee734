package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// TestCrash cuts the power, again and again, at any call that changes a drive,
// with drives lost between, and checks after each: what was acknowledged is
// there, what was not is there whole or not at all and does not change its mind
// later, and all members have the same log. KINTSUGI_SEEDS sets the number of
// seeds, KINTSUGI_SEED runs one. Goroutines make a seed's run vary a little.
func TestCrash(t *testing.T) {
	seeds, first := 200, 1
	if testing.Short() {
		seeds = 20
	}
	if n, err := strconv.Atoi(os.Getenv("KINTSUGI_SEEDS")); err == nil {
		seeds = n
	}
	if n, err := strconv.Atoi(os.Getenv("KINTSUGI_SEED")); err == nil {
		seeds, first = 1, n
	}
	work := make(chan int)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for seed := range work {
				c := &crashRun{t: t, seed: seed, rng: rand.New(rand.NewPCG(uint64(seed), 7))}
				if err := c.run(); err != nil {
					t.Errorf("KINTSUGI_SEED=%d: %v", seed, err)
				}
			}
		})
	}
	for seed := first; seed < first+seeds && !t.Failed(); seed++ {
		work <- seed
	}
	close(work)
	wg.Wait()
}

const crashPairs = 8

type crashRun struct {
	t    *testing.T
	seed int
	rng  *rand.Rand
	cfg  Config
	mem  *vfs.Mem

	mu    sync.Mutex
	acked [crashPairs]string
	maybe [crashPairs][]string // unknown outcomes since
	next  int
	// safe: all members were there when the power went, so drives may be lost.
	safe bool
	lost int // drives lost since
}

func (c *crashRun) run() error {
	n := []int{1, 2, 3, 4, 6}[c.rng.IntN(5)]
	c.cfg = Config{
		Cluster: storagenode.UUID{9}, Tolerance: (n - 1) / 2, Format: true,
		Tick: time.Millisecond, Wait: 50 * time.Millisecond, Checkpoint: 3 * time.Millisecond,
		LogSize: 4 << 10, SnapshotAfter: 16 << 10,
	}
	if os.Getenv("KINTSUGI_LOG") != "" {
		c.cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	c.mem = vfs.NewMem()
	for i := range n {
		dir := fmt.Sprintf("/d%d", i)
		if err := errors.Join(c.mem.Mkdir(dir), c.mem.SyncDir("/")); err != nil {
			return err
		}
		c.cfg.Drives = append(c.cfg.Drives, Member{ID: storagenode.DriveID{byte(i + 1)}, Dir: dir})
	}
	for generation := range 2 + c.rng.IntN(4) {
		if err := c.generation(); err != nil {
			return fmt.Errorf("generation %d, %d drives: %w", generation, n, err)
		}
		c.mem = c.mem.Crash(c.rng)
		c.loseDrives()
	}
	c.cfg.FS = c.mem
	s, err := Open(c.t.Context(), c.cfg)
	if err != nil {
		return fmt.Errorf("last open: %w", err)
	}
	if err = c.check(s); err == nil {
		err = c.settle(s)
	}
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	return c.equalLogs()
}

// loseDrives empties drives, no more than the tolerance.
func (c *crashRun) loseDrives() {
	c.lost = 0
	if !c.safe || c.rng.IntN(2) == 0 {
		return
	}
	for _, i := range c.rng.Perm(len(c.cfg.Drives))[:c.rng.IntN(c.cfg.Tolerance+1)] {
		c.empty(c.cfg.Drives[i].Dir)
		c.lost++
	}
}

func (c *crashRun) empty(dir string) {
	names, _ := c.mem.List(dir)
	for _, n := range names {
		_ = c.mem.RemoveAll(filepath.Join(dir, n))
	}
}

// generation opens, checks, writes until the power goes.
func (c *crashRun) generation() error {
	fault := vfs.NewFault(c.mem)
	c.cfg.FS = fault
	steady := c.rng.IntN(2) == 0 // the cut comes after all is well
	cut := vfs.Rule{Ops: vfs.OpChange, Skip: c.rng.IntN(400), Err: syscall.EIO}
	if !steady {
		fault.Inject(cut)
	}
	c.safe = false
	s, err := Open(c.t.Context(), c.cfg)
	if err != nil {
		if !steady && errors.Is(err, syscall.EIO) || errors.Is(err, kv.ErrUnavailable) && !steady {
			return nil // it went while opening
		}
		return fmt.Errorf("open: %w", err)
	}
	defer func() { _ = s.Close() }()
	if err := c.check(s); err != nil {
		return err
	}
	if steady {
		if err := c.settle(s); err != nil {
			return err
		}
		c.safe = true
		fault.Inject(cut)
	}
	if c.safe && c.rng.IntN(3) == 0 && c.cfg.Tolerance > 0 {
		// A drive is lost while running; then it is no more safe to lose others.
		c.safe = false
		fault.Inject(vfs.Rule{Path: c.cfg.Drives[c.rng.IntN(len(c.cfg.Drives))].Dir + "/", Err: syscall.EIO})
	}
	return c.write(s)
}

// settle waits until all members are there and every drive has the record.
func (c *crashRun) settle(s *Store) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		st := s.Status()
		whole := st.Degraded == ""
		for _, d := range c.cfg.Drives {
			b, err := readSmall(c.mem, filepath.Join(d.Dir, "journal", membershipFile), membershipMax)
			if err != nil {
				whole = false
				break
			}
			m, err := decodeMembership(b, c.cfg.Cluster)
			whole = whole && err == nil && m.Generation == st.Generation
		}
		if whole {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("never whole: %+v", st)
		}
	}
}

// write commits pairs from two goroutines until the power has gone.
func (c *crashRun) write(s *Store) error {
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for w := range errs {
		rng := rand.New(rand.NewPCG(c.rng.Uint64(), 1))
		wg.Go(func() {
			for n := 0; n < 200; n++ {
				if err := c.writePair(s, rng, w); err != nil {
					if !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrUnknown) {
						errs[w] = err
					}
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func pairKeys(p int) (a, b []byte) {
	return fmt.Appendf(nil, "a/%d", p), fmt.Appendf(nil, "b/%d", p)
}

// writePair writes one value under two keys; worker w has the pairs p%2 == w.
func (c *crashRun) writePair(s *Store, rng *rand.Rand, w int) error {
	p := rng.IntN(crashPairs/2)*2 + w
	c.mu.Lock()
	c.next++
	value := fmt.Sprintf("%d %s", c.next, strings.Repeat("x", rng.IntN(700)))
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	x, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	a, b := pairKeys(p)
	x.Put(a, []byte(value))
	x.Put(b, []byte(value))
	err = x.Commit(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.acked[p], c.maybe[p] = value, nil
	case errors.Is(err, kv.ErrUnknown):
		c.maybe[p] = append(c.maybe[p], value)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("a commit hung: %v", err)
	}
	return err
}

func (c *crashRun) check(s *Store) error {
	for p := range crashPairs {
		ka, kb := pairKeys(p)
		a, err := s.Get(c.t.Context(), ka)
		b, err2 := s.Get(c.t.Context(), kb)
		if err := errors.Join(err, err2); err != nil {
			if errors.Is(err, kv.ErrUnavailable) {
				return nil // the power went meanwhile
			}
			return fmt.Errorf("get: %w", err)
		}
		if string(a) != string(b) {
			return fmt.Errorf("pair %d is torn: %.20q and %.20q", p, a, b)
		}
		if string(a) != c.acked[p] && !slices.Contains(c.maybe[p], string(a)) {
			return fmt.Errorf("pair %d is %.20q, acknowledged was %.20q, possible %.40q", p, a, c.acked[p], c.maybe[p])
		}
		c.acked[p], c.maybe[p] = string(a), nil // now it must stay
	}
	return nil
}

// equalLogs checks the drives as Close left them.
func (c *crashRun) equalLogs() error {
	co := newCommitter(&Store{cfg: c.cfg.withDefaults()})
	top, err := co.newestRecord(false)
	if err != nil {
		return err
	}
	var first *memberLog
	for _, id := range top.Members {
		l := readLog(co.drive(id), c.cfg.Cluster)
		if l.err != nil {
			return fmt.Errorf("log on %s: %w", id, l.err)
		}
		if first == nil {
			first = l
		}
		if l.last() != first.last() || !l.prefixOf(first) {
			return fmt.Errorf("logs differ: commits %d and %d", l.last(), first.last())
		}
	}
	if len(top.Members) != c.cfg.Tolerance+1 {
		return fmt.Errorf("%d members", len(top.Members))
	}
	return nil
}
