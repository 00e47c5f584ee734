// Package stripe stores blobs on the drives of a placement group and reads them
// back: it cuts a blob into stripes, encodes them, writes at a quorum, reads
// verified and in windows, reconstructs what is lost, and rebuilds slots.
//
// Start at Set. A write (put.go) reads its source into pooled buffers
// (memory.go); a blob of at most erasure.ReplicateMax becomes copies on a few
// slots (replicate.go), a larger one is encoded over all of them (encode.go). A
// read (read.go) takes the data shards that hold its range and decodes nothing,
// one after another where they come from this machine's memory (turn.go), and
// keeps what is read (hot.go, kept.go); where one is lost or late, gather.go collects
// any k shards of one generation, decodes them and compares the stripe with its
// hash. rebuild.go and verify.go stand on gather.go too. drive.go remembers how
// fast each drive is and whether it hangs.
//
// Every call to a store that may touch a disk runs on another goroutine
// (callers.go), since a sick one may hold its caller for as long as it likes;
// whoever waits, waits for channels and timers. A buffer goes back to its pool
// only when the last of those goroutines has let go of it.
//
// Block sums are verified by the stores, on every read. The hash of a stripe is
// compared whenever the stripe was decoded, which is the only way in which
// shards of two generations could mix: blob ids are never used twice, so a
// healthy read takes the shards that the id names.
package stripe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/erasure"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// The errors that callers tell apart.
var (
	// ErrQuorum: too few slots took the blob. Nothing of it may be committed.
	ErrQuorum = errors.New("write quorum not reached")
	// ErrUnreadable: fewer good shards than needed can be had now. The blob is
	// not gone: drives may come back.
	ErrUnreadable = errors.New("too few good shards can be read")
	// ErrOverload: no memory for stripes within the time to wait for it.
	ErrOverload = errors.New("memory for stripes is used up")
	// ErrRange: a range that does not lie within the blob.
	ErrRange = errors.New("range outside of the blob")
)

// Config says what a Set needs. Drives must be set.
type Config struct {
	Drives storagenode.Drives
	// Remote says that the drives are reached over a network: then they are
	// asked side by side also where they answer from memory, since each call
	// costs its way.
	Remote bool
	Clock  clock.Clock  // nil: the system's
	Logger *slog.Logger // nil: discards
	// MemoryBytes bounds the buffers of all stripes in flight. 0: 256 MiB.
	MemoryBytes int64
	// KeptBytes bounds what holds, of the memory that stripes in flight leave,
	// pieces that were read or written, so that they are read again without
	// asking any drive. 0: nothing does.
	KeptBytes int64
	// WriteWait is how long a write waits for a slow slot once enough others
	// are there. 0: 2 s.
	WriteWait time.Duration
	// ReadWait is how long a read waits for any one shard. 0: 10 s.
	ReadWait time.Duration
	// Damaged is told of shards found missing or corrupt. It must not block.
	Damaged func(Damage)
	// Registerer gets the metrics. Nil: none.
	Registerer prometheus.Registerer
}

// Damage is a shard that a reader found missing or corrupt on a drive that
// answered. It is a claim to be verified, not a verdict.
type Damage struct {
	PG   storagenode.PG
	Blob storagenode.BlobID
	Slot int
	// Err wraps storagenode.ErrNotFound or storagenode.ErrCorrupt.
	Err error
}

// Set reads and writes blobs. One serves a whole process; it is safe for
// concurrent use.
type Set struct {
	cfg     Config
	memory  *memory
	drives  driveTable
	coders  atomic.Pointer[map[erasure.Scheme]*erasure.Coder] // grows by copies
	adding  sync.Mutex                                        // one copy at a time
	rotors  sync.Map                                          // storagenode.PG → *rotor
	hedges  hedges
	hot     *hot
	quick   time.Duration // fromMemory; tests change it
	timers  realTimers
	callers callers
	stats   *metrics
}

// New makes a Set. It starts nothing.
func New(cfg Config) *Set {
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MemoryBytes == 0 {
		cfg.MemoryBytes = 256 << 20
	}
	if cfg.WriteWait == 0 {
		cfg.WriteWait = 2 * time.Second
	}
	if cfg.ReadWait == 0 {
		cfg.ReadWait = 10 * time.Second
	}
	s := &Set{cfg: cfg, memory: newMemory(cfg.MemoryBytes), callers: newCallers(), quick: fromMemory}
	s.hot = newHot(s.memory, cfg.KeptBytes, cfg.Remote)
	s.drives.count = clock.NewCount(cfg.Clock)
	s.drives.limit = max(1, cfg.MemoryBytes/roomShare)
	s.stats = newMetrics(s, cfg.Registerer)
	return s
}

// coder gives the scheme's coder, which is made once.
func (s *Set) coder(scheme erasure.Scheme) (*erasure.Coder, error) {
	if m := s.coders.Load(); m != nil {
		if c := (*m)[scheme]; c != nil {
			return c, nil
		}
	}
	s.adding.Lock()
	defer s.adding.Unlock()
	next := map[erasure.Scheme]*erasure.Coder{}
	if m := s.coders.Load(); m != nil {
		for k, v := range *m {
			next[k] = v
		}
	}
	c, err := erasure.NewCoder(scheme)
	if err != nil {
		return nil, err
	}
	next[scheme] = c
	s.coders.Store(&next)
	return c, nil
}

func checkGroup(g *erasure.Group) error {
	n := g.Scheme.N()
	if g.Scheme.K < 1 || n > storagenode.MaxSlots || len(g.Slots) != n {
		return fmt.Errorf("group %d: %d slots for scheme %s", g.PG, len(g.Slots), g.Scheme)
	}
	return nil
}

// damaged passes a notice on where err says that the drive answered and the
// shard is not there or not good.
func (s *Set) damaged(g *erasure.Group, id storagenode.BlobID, slot int, err error) {
	missing := errors.Is(err, storagenode.ErrNotFound)
	if !missing && !errors.Is(err, storagenode.ErrCorrupt) {
		return
	}
	if missing && g.Slots[slot].State == storagenode.SlotRebuilding {
		return // it was not copied in yet
	}
	s.stats.damaged.Inc()
	if s.cfg.Damaged != nil {
		s.cfg.Damaged(Damage{PG: g.PG, Blob: id, Slot: slot, Err: err})
	}
}

// stripes is the number of stripes of a blob: one also where it is empty.
func stripes(size int64) int {
	return int(max(1, (size+erasure.StripeSize-1)/erasure.StripeSize))
}

// stripeLen is the number of data bytes of a stripe.
func stripeLen(size int64, stripe int) int {
	return int(min(erasure.StripeSize, size-int64(stripe)*erasure.StripeSize))
}

// writeAll turns a short write into an error.
func writeAll(w io.Writer, p []byte) error {
	n, err := w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// ended gives the cause where ctx is over.
func ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
