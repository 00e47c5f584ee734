// Package bench puts load on an S3 endpoint through minio-go and measures
// throughput and latency. Floor is an endpoint that does nothing, for the most
// that client and HTTP allow on the machine.
package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Op is a kind of load.
type Op string

// The kinds of load.
const (
	Put    Op = "put"
	Get    Op = "get"
	Stat   Op = "stat"
	List   Op = "list"
	Delete Op = "delete"
	Mixed  Op = "mixed" // 45% get, 30% stat, 15% put, 10% delete
)

// Ops are all kinds, as --help lists them.
func Ops() []Op { return []Op{Put, Get, Stat, List, Delete, Mixed} }

// Config says what load to put on what.
type Config struct {
	Endpoint             string // host:port
	Secure               bool
	AccessKey, SecretKey string
	Region               string
	Bucket               string
	Op                   Op
	Size                 int64         // bytes of an object
	Range                int64         // get: bytes of each ranged read, 0: whole objects
	Objects              int           // objects to read, stat, list or delete; 0: chosen
	Concurrency          int           // clients
	Duration             time.Duration // of the measured part
	Keep                 bool          // leave the objects in the bucket
	// Say is told of objects that are still in the bucket when the context ends or
	// the load could not be prepared, before they are removed, and of those that stay
	// there; nil: nobody.
	Say func(text string)
	// Progress is called about twice a second, nil: never.
	Progress func(Progress)

	hurried time.Duration // of tests, in place of cleanTimeEnded
}

// Progress is where a run stands.
type Progress struct {
	Phase string  // "prepare", "run", "clean"
	Done  float64 // 0 to 1
	Ops   int64
	Bytes int64
}

// Result is what a run measured. Times are in milliseconds.
type Result struct {
	Op             Op      `json:"op"`
	SizeBytes      int64   `json:"size_bytes"`
	RangeBytes     int64   `json:"range_bytes,omitempty"`
	Concurrency    int     `json:"concurrency"`
	Seconds        float64 `json:"seconds"`
	Operations     int64   `json:"operations"`
	Errors         int64   `json:"errors"`
	FirstError     string  `json:"first_error,omitempty"`
	OpsPerSecond   float64 `json:"ops_per_second"`
	BytesPerSecond float64 `json:"bytes_per_second"`
	KeysPerSecond  float64 `json:"keys_per_second,omitempty"`
	P50MS          float64 `json:"p50_ms"`
	P90MS          float64 `json:"p90_ms"`
	P99MS          float64 `json:"p99_ms"`
	MaxMS          float64 `json:"max_ms"`
}

type run struct {
	Config
	core    *minio.Core
	payload []byte
	prefix  string
	keys    []string

	ops, bytes, listed, failed atomic.Int64
	nextKey                    atomic.Int64
	firstErr                   atomic.Pointer[string]
	phase                      atomic.Pointer[string]
	phaseDone                  atomic.Int64 // per mille
}

// Run prepares what the load needs, measures, and cleans up after itself.
func Run(ctx context.Context, cfg Config) (Result, error) {
	r, err := newRun(cfg)
	if err != nil {
		return Result{}, err
	}
	stop := r.report()
	defer stop()
	if err := r.makeBucket(ctx); err != nil {
		return Result{}, fmt.Errorf("prepare: %w", err)
	}
	if !cfg.Keep {
		defer r.clean(ctx)
	}
	if err := r.prepare(ctx); err != nil {
		err = fmt.Errorf("prepare: %w", err)
		if !cfg.Keep && ctx.Err() == nil { // the removal may take long where the endpoint does not answer
			r.say(fmt.Sprintf("%v; what is in bucket %s under %s is being removed, for at most %s", err, r.Bucket, r.prefix, cleanTime))
		}
		return Result{}, err
	}
	res := r.measure(ctx)
	if res.Operations == 0 && ctx.Err() != nil {
		return res, ctx.Err()
	}
	if res.Operations == 0 {
		return res, fmt.Errorf("no operation succeeded: %s", res.FirstError)
	}
	return res, nil
}

func newRun(cfg Config) (*run, error) {
	switch {
	case !slices.Contains(Ops(), cfg.Op):
		return nil, fmt.Errorf("operation %q: want one of %v", cfg.Op, Ops())
	case cfg.Concurrency < 1 || cfg.Concurrency > 4096:
		return nil, fmt.Errorf("concurrency %d: want 1 to 4096", cfg.Concurrency)
	case cfg.Size < 0 || cfg.Size > 5<<30:
		return nil, fmt.Errorf("size %d: want 0 to 5 GiB", cfg.Size)
	case cfg.Range < 0 || cfg.Range > cfg.Size:
		return nil, fmt.Errorf("range %d: want at most the size, %d", cfg.Range, cfg.Size)
	case cfg.Objects < 0:
		return nil, fmt.Errorf("objects %d: want 0 or more", cfg.Objects)
	case cfg.Duration <= 0:
		return nil, fmt.Errorf("duration %s: want more than 0", cfg.Duration)
	}
	transport := &http.Transport{
		MaxIdleConns: cfg.Concurrency * 2, MaxIdleConnsPerHost: cfg.Concurrency * 2,
		DisableCompression: true, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
	}
	core, err := minio.NewCore(cfg.Endpoint, &minio.Options{
		Creds:  credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""),
		Secure: cfg.Secure, Region: cfg.Region, Transport: transport, MaxRetries: 1,
		BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		return nil, err
	}
	r := &run{Config: cfg, core: core, payload: make([]byte, cfg.Size)}
	chacha := rand.NewChaCha8([32]byte{1})
	_, _ = chacha.Read(r.payload)
	r.prefix = fmt.Sprintf("bench/%08x/", rand.Uint32())
	r.setPhase("prepare")
	return r, nil
}

func (r *run) setPhase(name string) { r.phase.Store(&name); r.phaseDone.Store(0) }

func (r *run) report() (stop func()) {
	if r.Progress == nil {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.Progress(Progress{Phase: *r.phase.Load(), Done: float64(r.phaseDone.Load()) / 1000, Ops: r.ops.Load(), Bytes: r.bytes.Load()})
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

func (r *run) makeBucket(ctx context.Context) error {
	ok, err := r.core.BucketExists(ctx, r.Bucket)
	if err == nil && !ok {
		err = r.core.MakeBucket(ctx, r.Bucket, minio.MakeBucketOptions{Region: r.Region})
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w", r.Bucket, err)
	}
	return nil
}

// prepare makes the objects that the load reads or deletes.
func (r *run) prepare(ctx context.Context) error {
	if r.Op == Put {
		return nil
	}
	n := r.Objects
	if n == 0 {
		n = r.defaultObjects()
	}
	r.keys = make([]string, n)
	for i := range r.keys {
		r.keys[i] = fmt.Sprintf("%s%08d", r.prefix, i)
	}
	var next atomic.Int64
	return r.each(ctx, max(r.Concurrency, 8), func(ctx context.Context) error {
		i := int(next.Add(1)) - 1
		if i >= n {
			return io.EOF
		}
		r.phaseDone.Store(int64(i) * 1000 / int64(n))
		return r.put(ctx, r.keys[i])
	})
}

func (r *run) defaultObjects() int {
	switch {
	case r.Op == Delete:
		return 20000
	case r.Op == List:
		return 10000
	default:
		return int(min(1000, max(8, 256<<20/max(1, r.Size))))
	}
}

// each runs f on n goroutines until it gives an error; io.EOF is no failure.
func (r *run) each(ctx context.Context, n int, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for w := range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := f(ctx); err != nil {
					if !errors.Is(err, io.EOF) {
						errs[w] = err
						cancel()
					}
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return ctx.Err()
}

func (r *run) measure(ctx context.Context) Result {
	r.setPhase("run")
	r.ops.Store(0)
	r.bytes.Store(0)
	ctx, cancel := context.WithTimeout(ctx, r.Duration+30*time.Second)
	defer cancel()
	took := make([][]time.Duration, r.Concurrency)
	start := time.Now()
	end := start.Add(r.Duration)
	var wg sync.WaitGroup
	for w := range r.Concurrency {
		wg.Go(func() { took[w] = r.work(ctx, w, start, end) })
	}
	wg.Wait()
	elapsed := time.Since(start).Seconds()
	all := slices.Concat(took...)
	slices.Sort(all)
	at := func(q float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return float64(all[min(len(all)-1, int(q*float64(len(all))))]) / 1e6
	}
	res := Result{
		Op: r.Op, SizeBytes: r.Size, RangeBytes: r.Range, Concurrency: r.Concurrency, Seconds: elapsed,
		Operations: int64(len(all)), Errors: r.failed.Load(),
		OpsPerSecond: float64(len(all)) / elapsed, BytesPerSecond: float64(r.bytes.Load()) / elapsed,
		KeysPerSecond: float64(r.listed.Load()) / elapsed,
		P50MS:         at(0.5), P90MS: at(0.9), P99MS: at(0.99), MaxMS: at(1),
	}
	if e := r.firstErr.Load(); e != nil {
		res.FirstError = *e
	}
	return res
}

func (r *run) work(ctx context.Context, w int, start, end time.Time) []time.Duration {
	took := make([]time.Duration, 0, 1<<14)
	rng := rand.New(rand.NewPCG(uint64(w), 7))
	for t := time.Now(); t.Before(end) && ctx.Err() == nil; {
		err := r.one(ctx, w, rng)
		now := time.Now()
		if errors.Is(err, io.EOF) {
			break // nothing left to delete
		}
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			break // by who measures: no error of what is measured
		}
		if err != nil {
			r.failed.Add(1)
			text := err.Error()
			r.firstErr.CompareAndSwap(nil, &text)
			time.Sleep(10 * time.Millisecond) // a refused connection must not spin
		} else {
			took = append(took, now.Sub(t))
			r.ops.Add(1)
		}
		if w == 0 {
			r.phaseDone.Store(int64(min(1000, 1000*now.Sub(start)/r.Duration)))
		}
		t = time.Now()
	}
	return took
}

func (r *run) one(ctx context.Context, w int, rng *rand.Rand) error {
	op := r.Op
	if op == Mixed {
		switch n := rng.IntN(100); {
		case n < 45:
			op = Get
		case n < 75:
			op = Stat
		case n < 90:
			op = Put
		default:
			// Deletes an object of its own, so that reads find theirs.
			key := fmt.Sprintf("%sd%d", r.prefix, w)
			if err := r.put(ctx, key); err != nil {
				return err
			}
			return r.core.RemoveObject(ctx, r.Bucket, key, minio.RemoveObjectOptions{})
		}
	}
	switch op {
	case Put:
		return r.put(ctx, fmt.Sprintf("%sp%d-%d", r.prefix, w, r.nextKey.Add(1)))
	case Get:
		return r.get(ctx, r.keys[rng.IntN(len(r.keys))], rng)
	case Stat:
		_, err := r.core.StatObject(ctx, r.Bucket, r.keys[rng.IntN(len(r.keys))], minio.StatObjectOptions{})
		return err
	case List:
		after := r.keys[rng.IntN(max(1, len(r.keys)-1000))]
		page, err := r.core.ListObjectsV2(r.Bucket, r.prefix, after, "", "", 1000)
		r.listed.Add(int64(len(page.Contents)))
		return err
	default:
		i := int(r.nextKey.Add(1)) - 1
		if i >= len(r.keys) {
			return io.EOF
		}
		return r.core.RemoveObject(ctx, r.Bucket, r.keys[i], minio.RemoveObjectOptions{})
	}
}

func (r *run) put(ctx context.Context, key string) error {
	_, err := r.core.Client.PutObject(ctx, r.Bucket, key, bytes.NewReader(r.payload), r.Size, minio.PutObjectOptions{
		ContentType: "application/octet-stream", DisableMultipart: r.Size <= 64<<20,
	})
	r.bytes.Add(r.Size)
	return err
}

func (r *run) get(ctx context.Context, key string, rng *rand.Rand) error {
	opts := minio.GetObjectOptions{}
	want := r.Size
	if r.Range > 0 {
		want = r.Range
		off := rng.Int64N(r.Size - r.Range + 1)
		if err := opts.SetRange(off, off+r.Range-1); err != nil {
			return err
		}
	}
	body, _, _, err := r.core.GetObject(ctx, r.Bucket, key, opts)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, body)
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	if err == nil && n != want {
		err = fmt.Errorf("got %d bytes, want %d", n, want)
	}
	r.bytes.Add(n)
	return err
}
