package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/rpc/auth"
)

// ServerConfig is what a Server needs. Drives and Guard must be set.
type ServerConfig struct {
	Drives storagenode.Reporter
	Guard  *auth.Guard
	// Cluster and Name are what the server says of its node.
	Cluster storagenode.UUID
	Name    string
	// Look has the drives looked at now, so that what is reported is no older;
	// nil: they always are.
	Look func(ctx context.Context)
	// Replace formats the directory of a place that was held back as its drive's
	// replacement, by command; nil: nothing can be replaced.
	Replace func(ctx context.Context, dir string) error
	Clock   clock.Clock  // nil: the system's
	Logger  *slog.Logger // nil: discards
	// Registerer gets the metrics. Nil: none.
	Registerer prometheus.Registerer
	// MemoryBytes bounds the payloads in memory. 0: 256 MiB. One drive gets a
	// quarter at most, so that what a hung one holds leaves enough for others.
	MemoryBytes int64
	// DriveCalls bounds the calls that are inside one drive. 0: 256.
	DriveCalls int
	// Wait is how long a call waits for a place and for memory before it is
	// refused. 0: 1 s.
	Wait time.Duration
}

// Server is the http.Handler in front of a process's drives. Nothing of it
// answers without authentication.
type Server struct {
	cfg     ServerConfig
	handler http.Handler
	memory  *semaphore.Weighted
	buffers buffers
	stats   *metrics
	stop    context.CancelFunc
	stopped context.Context // ends what goes on for long

	mu     sync.Mutex
	drives map[storagenode.DriveID]*served // guarded by mu
}

// served is one life of a drive.
type served struct {
	store  storagenode.ShardStore
	life   uint64
	places chan struct{}
	memory *semaphore.Weighted
}

// lookTime bounds a look at the drives: a hung one must not keep the report of
// the others.
const lookTime = time.Second

const driveShare = 4 // one drive's part of the memory, one in so many

// errBusy: overload; it passes.
var errBusy = fmt.Errorf("node is busy: %w", storagenode.ErrUnavailable)

// NewServer makes a Server. Close ends it.
func NewServer(cfg ServerConfig) *Server {
	cfg.Clock = systemClock(cfg.Clock)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MemoryBytes <= 0 {
		cfg.MemoryBytes = 256 << 20
	}
	cfg.MemoryBytes = max(cfg.MemoryBytes, driveShare*storagenode.MaxPayload)
	if cfg.DriveCalls <= 0 {
		cfg.DriveCalls = 256
	}
	if cfg.Wait <= 0 {
		cfg.Wait = time.Second
	}
	s := &Server{cfg: cfg, memory: semaphore.NewWeighted(cfg.MemoryBytes), drives: map[storagenode.DriveID]*served{}}
	s.stopped, s.stop = context.WithCancel(context.Background())
	s.stats = newMetrics(cfg.Registerer, cfg.Drives)
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.HandleFunc(r.method+" "+r.path, r.handle)
	}
	s.handler = cfg.Guard.Wrap(mux)
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Close ends scrubs under way, so that http.Server.Shutdown need not wait for
// them. Other calls go on.
func (s *Server) Close() { s.stop() }

// route is one call. What uses GET changes nothing.
type route struct {
	method, path string
	handle       http.HandlerFunc
}

func (s *Server) routes() []route {
	all := []route{{"GET", "/v1/reports", s.reports}, {"POST", "/v1/replace", s.replace}}
	for name, op := range map[string]func(*call) error{
		"put": (*call).put, "puts": (*call).puts, "sync": (*call).sync, "read": (*call).read, "stat": (*call).stat, "list": (*call).list,
		"delete": (*call).delete, "epoch": (*call).setSlotEpoch, "drop": (*call).dropSlot, "scrub": (*call).scrub,
	} {
		all = append(all, route{"POST", "/v1/drives/{drive}/" + name, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, name, op) }})
	}
	return all
}

// call is one call to a drive.
type call struct {
	*served
	s    *Server
	ctx  context.Context
	head wireReader
	in   *auth.Incoming
	w    *auth.Writer
	ctl  *http.ResponseController
	out  []byte // the answer's payload, begun with a status
	said error  // what a call said that has sent its answer itself
}

// serve runs one call and answers it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, name string, op func(*call) error) {
	began := s.cfg.Clock.Now()
	in := r.Body.(*auth.Incoming)
	c := &call{
		s: s, ctx: r.Context(), head: wireReader{b: in.Head}, in: in,
		w: w.(*auth.Writer), ctl: http.NewResponseController(w), out: make([]byte, 0, 128),
	}
	err := c.enter(r.PathValue("drive"))
	if err == nil {
		defer func() { <-c.places }()
		err = op(c)
	}
	switch {
	case errors.Is(err, errAnswered):
		err = c.said
	case err != nil:
		_ = c.w.Answer(appendStatus(c.out[:0], err), nil, true) // the connection is gone: nobody to tell
	default:
		_ = c.w.Answer(c.out, nil, true)
	}
	s.stats.count(name, err, s.cfg.Clock.Now().Sub(began))
}

// errAnswered: the call has sent its answer itself.
var errAnswered = errors.New("answered")

// ok begins the payload of a good answer.
func (c *call) ok() []byte { return appendStatus(c.out[:0], nil) }

// enter finds the drive and takes a place in it.
func (c *call) enter(drive string) error {
	id, err := storagenode.ParseUUID(drive)
	if err != nil {
		return err
	}
	if c.served = c.s.find(id); c.served == nil {
		return fmt.Errorf("drive %s: %w: %w", id, errNotMine, storagenode.ErrUnavailable)
	}
	select {
	case c.places <- struct{}{}:
		return nil
	default:
	}
	select {
	case c.places <- struct{}{}:
		return nil
	case <-c.s.cfg.Clock.After(c.s.cfg.Wait):
		return errBusy
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

// find gives a drive as it lives now; nil where it is not open. A store that
// was not seen before begins a life.
func (s *Server) find(id storagenode.DriveID) *served {
	store, _ := s.cfg.Drives.Drive(id)
	if store == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.drives[id]
	if d == nil || d.store != store {
		d = &served{
			store: store, life: rand.Uint64() | 1, places: make(chan struct{}, s.cfg.DriveCalls),
			memory: semaphore.NewWeighted(s.cfg.MemoryBytes / driveShare),
		}
		s.drives[id] = d
	}
	return d
}

// timed bounds an operation.
func (c *call) timed() context.CancelFunc {
	ctx, cancel := context.WithTimeout(c.ctx, opTime)
	c.ctx = ctx
	return cancel
}

// memoryFor takes n bytes of the drive's and the server's memory.
func (c *call) memoryFor(n int64) (release func(), err error) {
	release = func() { c.s.memory.Release(n); c.memory.Release(n) }
	if c.memory.TryAcquire(n) {
		if c.s.memory.TryAcquire(n) {
			return release, nil
		}
		c.memory.Release(n)
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.s.cfg.Wait)
	defer cancel()
	if c.memory.Acquire(ctx, n) != nil {
		return nil, errBusy
	}
	if c.s.memory.Acquire(ctx, n) != nil {
		c.memory.Release(n)
		return nil, errBusy
	}
	return release, nil
}

// wireReports is the answer of /v1/reports, as JSON.
type wireReports struct {
	Cluster storagenode.UUID `json:"cluster"`
	Name    string           `json:"name"`
	Drives  []wireReport     `json:"drives"`
}

// wireReport is a report with what its JSON leaves out.
type wireReport struct {
	storagenode.DriveReport
	Replaces storagenode.DriveID `json:"replaces"`
	// Life is that of the drive's store, 0 where it is not open.
	Life uint64 `json:"life,string"`
}

func (s *Server) reports(w http.ResponseWriter, r *http.Request) {
	if r.URL.RawQuery == lookQuery && s.cfg.Look != nil {
		ctx, cancel := context.WithTimeout(r.Context(), lookTime)
		s.cfg.Look(ctx)
		cancel()
	}
	all := wireReports{Cluster: s.cfg.Cluster, Name: s.cfg.Name, Drives: []wireReport{}}
	known := map[storagenode.DriveID]bool{}
	for _, rep := range s.cfg.Drives.Reports() {
		known[rep.ID] = true
		wr := wireReport{DriveReport: rep, Replaces: rep.Replaces}
		if d := s.find(rep.ID); d != nil {
			wr.Life = d.life
		}
		all.Drives = append(all.Drives, wr)
	}
	s.forget(known)
	text, err := json.Marshal(all)
	if err != nil {
		s.cfg.Logger.Error("reports cannot be sent", "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(text) // the connection is gone: nobody to tell
}

// replace answers with a status.
func (s *Server) replace(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), opTime)
	defer cancel()
	err := errors.New("no drive of this node can be replaced")
	if s.cfg.Replace != nil {
		err = s.cfg.Replace(ctx, string(r.Body.(*auth.Incoming).Head))
	}
	_, _ = w.Write(appendStatus(nil, err)) // the connection is gone: nobody to tell
}

// forget lets go of drives that are not there any more.
func (s *Server) forget(known map[storagenode.DriveID]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.drives {
		if !known[id] {
			delete(s.drives, id)
		}
	}
}

// buffers are pooled by powers of two, 4 KiB to 4 MiB.
type buffers [11]sync.Pool

func (b *buffers) get(n int) *[]byte {
	class := 0
	for 4<<10<<class < n {
		class++
	}
	if p, ok := b[class].Get().(*[]byte); ok {
		*p = (*p)[:n]
		return p
	}
	p := make([]byte, n, 4<<10<<class)
	return &p
}

func (b *buffers) put(p *[]byte) {
	class := -1
	for class+1 < len(b) && 4<<10<<(class+1) <= cap(*p) {
		class++
	}
	if class >= 0 {
		b[class].Put(p)
	}
}

// receive fills p from the bulk of the request.
func (c *call) receive(p []byte) error {
	_ = c.ctl.SetReadDeadline(time.Now().Add(moveTime)) // a test's recorder has none
	_, err := io.ReadFull(c.in.Bulk, p)
	_ = c.ctl.SetReadDeadline(time.Time{})
	if err != nil {
		return fmt.Errorf("payload did not arrive: %w: %v", storagenode.ErrUnavailable, err)
	}
	return nil
}
