package load

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// Target is the store under load.
type Target interface {
	// Put returns nil once the write is acknowledged.
	Put(ctx context.Context, key string, p []byte) error
	// Get gives the bytes, or found false where the store says there are
	// none. An error means that the store could not say.
	Get(ctx context.Context, key string) (p []byte, found bool, err error)
	// Delete returns nil once the delete is acknowledged.
	Delete(ctx context.Context, key string) error
}

// Config of a load.
type Config struct {
	Target           Target
	Writers, Readers int
	Keys             int // shared by all; few keys make for more contention
	MaxSize          int // bytes of a payload
	DeletePercent    int
	Seed             uint64
	Timeout          time.Duration // of one operation, 0: 30 s
	Pause            time.Duration // between a client's operations
	// Patience is how long an operation that fails is tried again, as an SDK
	// would; 0: not at all. Each try is an operation of the history.
	Patience time.Duration
}

// Load runs until Stop. Make it with Start.
type Load struct {
	cfg    Config
	cancel context.CancelFunc
	wg     sync.WaitGroup
	nextID atomic.Uint64
	begin  time.Time

	mu    sync.Mutex
	ops   []porcupine.Operation
	wrong []error
	errs  map[string]int           // by kind of operation; those given up
	tries map[string]int           // that failed and were made again
	waits map[string]time.Duration // the longest from a first try to the one that succeeded, often the same
	oks   map[string]int
	slow  []Slow
	last  error // of the newest operation that was given up
}

// Slow is an operation that took long, with all its tries.
type Slow struct {
	Kind, Key string
	Began     time.Time
	Took      time.Duration
}

// slowFrom is from when on an operation is one.
const slowFrom = 500 * time.Millisecond

// input and output are of one operation on one key.
type input struct {
	key  string
	kind string // "put", "get", "delete"
	id   uint64 // of a put
}
type output struct {
	id      uint64 // 0: none
	unknown bool
}

// Start begins the load.
func Start(cfg Config) *Load {
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{cfg: cfg, cancel: cancel, begin: time.Now(), errs: map[string]int{}, tries: map[string]int{}, waits: map[string]time.Duration{}, oks: map[string]int{}}
	for i := range cfg.Writers + cfg.Readers {
		l.wg.Go(func() { l.client(ctx, i, i < cfg.Writers) })
	}
	return l
}

func (l *Load) client(ctx context.Context, i int, writer bool) {
	rng := rand.New(rand.NewPCG(l.cfg.Seed, uint64(i)))
	for ctx.Err() == nil {
		key := fmt.Sprintf("load/%04d", rng.IntN(l.cfg.Keys))
		switch {
		case !writer:
			l.Get(context.WithoutCancel(ctx), i, key)
		case rng.IntN(100) < l.cfg.DeletePercent:
			l.Delete(context.WithoutCancel(ctx), i, key)
		default:
			// Most objects are small, some large: sizes even in the logarithm.
			size := int(math.Exp(rng.Float64() * math.Log(float64(l.cfg.MaxSize))))
			l.Put(context.WithoutCancel(ctx), i, key, size)
		}
		if l.cfg.Pause > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(l.cfg.Pause):
			}
		}
	}
}

// Put writes one payload as a client of the load.
func (l *Load) Put(ctx context.Context, client int, key string, size int) {
	id := l.nextID.Add(1)
	p := Payload(id, size)
	l.persist(ctx, client, input{key: key, kind: "put", id: id}, func(ctx context.Context) (output, error) {
		err := l.cfg.Target.Put(ctx, key, p)
		return output{unknown: err != nil}, err
	})
}

// Delete deletes one key as a client of the load.
func (l *Load) Delete(ctx context.Context, client int, key string) {
	l.persist(ctx, client, input{key: key, kind: "delete"}, func(ctx context.Context) (output, error) {
		err := l.cfg.Target.Delete(ctx, key)
		return output{unknown: err != nil}, err
	})
}

// Get reads one key as a client of the load.
func (l *Load) Get(ctx context.Context, client int, key string) {
	l.persist(ctx, client, input{key: key, kind: "get"}, func(ctx context.Context) (out output, err error) {
		p, found, err := l.cfg.Target.Get(ctx, key)
		if err != nil || !found {
			return out, err
		}
		if out.id, err = Identify(p); err != nil {
			err = &wrongBytes{fmt.Errorf("%s: %w", key, err)}
		}
		return out, err
	})
}

// wrongBytes is what no read may ever give.
type wrongBytes struct{ error }

// persist makes an operation, and makes it again while patience lasts.
func (l *Load) persist(ctx context.Context, client int, in input, try func(context.Context) (output, error)) {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		call := time.Since(l.begin)
		limited, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
		out, err := try(limited)
		cancel()
		again := err != nil && time.Since(began) < l.cfg.Patience
		l.record(client, in, out, call, err, again)
		if !again {
			if err == nil { // one that hung and then succeeded counts as well
				l.waited(in, began)
			}
			return
		}
	}
}

func (l *Load) waited(in input, began time.Time) {
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits[in.kind] = max(l.waits[in.kind], took)
	if took >= slowFrom {
		l.slow = append(l.slow, Slow{in.kind, in.key, began, took})
	}
}

// Slow gives the operations that took half a second or more and succeeded.
func (l *Load) Slow() []Slow {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.slow)
}

// record writes the operation down. A read that failed says nothing; a write
// that failed may take effect at any later time, or never, unless no connection
// for it was made.
func (l *Load) record(client int, in input, out output, call time.Duration, err error, again bool) {
	ret := time.Since(l.begin)
	l.mu.Lock()
	defer l.mu.Unlock()
	var wrong *wrongBytes
	if errors.As(err, &wrong) {
		l.wrong = append(l.wrong, wrong.error)
		return
	}
	if err != nil {
		if again {
			l.tries[in.kind]++
		} else {
			l.errs[in.kind]++
			l.last = fmt.Errorf("%s %s: %w", in.kind, in.key, err)
		}
		if dial := (*net.OpError)(nil); in.kind == "get" || errors.As(err, &dial) && dial.Op == "dial" {
			return
		}
		ret = math.MaxInt64
	} else {
		l.oks[in.kind]++
	}
	l.ops = append(l.ops, porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Output: out, Return: int64(ret)})
}

// Retries are the tries that failed and were made again, by kind, and how long
// an operation took at most that succeeded in the end. LastError is of the
// newest operation that was given up, nil where none was.
func (l *Load) Retries() (tries map[string]int, longest map[string]time.Duration, lastError error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.tries), maps.Clone(l.waits), l.last
}

// Counts are the operations so far, by kind: those acknowledged and those
// that failed.
func (l *Load) Counts() (ok, failed map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.oks), maps.Clone(l.errs)
}

// Stop ends the load and waits for what is in flight.
func (l *Load) Stop() {
	l.cancel()
	l.wg.Wait()
}

// Check reads every key once more, with patience, and judges the whole
// history: I1 to I4. Call it after Stop, when the store should be whole.
func (l *Load) Check(ctx context.Context) error {
	for i := range l.cfg.Keys {
		key := fmt.Sprintf("load/%04d", i)
		if err := l.finalGet(ctx, key); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) > 0 {
		return errors.Join(l.wrong...)
	}
	if l.oks["put"] == 0 || l.oks["get"] == 0 {
		return fmt.Errorf("the load did nothing: %v succeeded, %v failed", l.oks, l.errs)
	}
	return judge(l.ops, 2*time.Minute)
}

func (l *Load) finalGet(ctx context.Context, key string) error {
	var last error
	for range 20 {
		l.mu.Lock()
		before := l.oks["get"]
		l.mu.Unlock()
		l.Get(ctx, 1<<20, key)
		l.mu.Lock()
		ok := l.oks["get"] > before
		if len(l.wrong) > 0 {
			last = l.wrong[0]
		}
		l.mu.Unlock()
		if ok || last != nil {
			return last
		}
		time.Sleep(500 * time.Millisecond)
	}
	return fmt.Errorf("%s cannot be read after the faults are over", key)
}
