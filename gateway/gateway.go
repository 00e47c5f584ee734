// Package gateway is the S3 front: it turns HTTP requests into what metadata
// and the blobs do, and their outcomes into S3's answers.
//
// Start with New. A request becomes an exchange (exchange.go): its target is
// parsed once (target.go), the operation is found (router.go), who asks is
// verified (sigv4), and one function per operation – one file per verb –
// answers it. datapath.go moves bytes between bodies and blobs, errors.go is
// the one table of S3 codes.
//
// Keys are opaque bytes. A key is decoded from the request line once, and
// authorisation and storage use that same value; nothing here cleans paths.
package gateway

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kintsugi/gateway/checksum"
	"kintsugi/gateway/sigv4"
	"kintsugi/metadata"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
)

// Config is what a gateway needs.
type Config struct {
	// Buckets, Objects, Uploads and Placement are the namespace. Required;
	// one catalog implements them all.
	Buckets   metadata.Buckets
	Objects   metadata.Objects
	Uploads   metadata.Uploads
	Placement metadata.Placement
	// Blobs writes and reads the bytes. Required.
	Blobs Blobs
	// Verifier checks signatures. Required. Whoever it accepts may do
	// everything; anonymous requests may do nothing.
	Verifier *sigv4.Verifier
	// BlobIDs makes the ids of blobs; nil: made by Clock.
	BlobIDs *storagenode.BlobIDs
	// Domains under which bucket names are host names (virtual-host style),
	// such as "s3.example.com"; none: path style only.
	Domains []string
	// Clock; nil is the system's.
	Clock clock.Clock
	// Logger; nil discards.
	Logger *slog.Logger
	// Registerer takes the metrics; nil: none are registered.
	Registerer prometheus.Registerer
	// MaxRequests is how many requests may be served at once; 0 is 1024.
	// What is above gets SlowDown.
	MaxRequests int
	// BodyTimeout is how long a client may neither send nor take anything
	// before it is cut off; 0 is 30 s. Who takes nothing of a large answer gets
	// ten times as much while nobody waits for the memory it holds.
	BodyTimeout time.Duration
	// Deleted, where set, is called soon after commits that may have left
	// blobs to be deleted, once for those of some milliseconds. It must not
	// block.
	Deleted func()
}

// Limits of S3 that are checked here.
const (
	maxKey       = 1024     // bytes
	maxUserMeta  = 2048     // bytes of names and values together
	maxObject    = 5 << 30  // of one PUT, one part, one copy
	minPart      = 5 << 20  // of a part that is not the last
	maxPart      = 10000    // highest part number
	maxPage      = 1000     // entries of a listing
	maxHeadBytes = 32 << 10 // of a request's line and headers
)

// gateway is the handler. Everything in it is set by New and safe for
// concurrent use.
type gateway struct {
	buckets   metadata.Buckets
	objects   metadata.Objects
	uploads   metadata.Uploads
	placement metadata.Placement
	blobs     Blobs
	verifier  *sigv4.Verifier
	ids       *storagenode.BlobIDs
	clock     clock.Clock
	log       *slog.Logger
	domains   []string // lower case, with a leading dot
	region    string
	hostID    string
	timeout   time.Duration
	onDeleted func()
	waking    atomic.Bool // onDeleted is about to be called
	count     clock.Count
	troubled  atomic.Int64 // by count; when the log was last told of a 503
	routes    routers
	metrics   *metrics
	hashers   checksum.Hashers
	exchanges sync.Pool // *exchange
	outputs   sync.Pool // *output

	limit    int64
	inFlight atomic.Int64
	serial   atomic.Uint64 // of request ids
	largeXML chan struct{} // a place for each large XML body being read
	left     leftovers
}

// Front is the handler that New makes.
type Front struct{ *gateway }

// New makes the handler.
func New(cfg Config) Front {
	g := &gateway{
		buckets: cfg.Buckets, objects: cfg.Objects, uploads: cfg.Uploads, placement: cfg.Placement,
		blobs: cfg.Blobs, verifier: cfg.Verifier, ids: cfg.BlobIDs, clock: cfg.Clock, log: cfg.Logger,
		region: cfg.Verifier.Region(), timeout: cfg.BodyTimeout, limit: int64(cfg.MaxRequests),
		onDeleted: cfg.Deleted, largeXML: make(chan struct{}, 16),
	}
	if g.clock == nil {
		g.clock = clock.System{}
	}
	g.count = clock.NewCount(g.clock)
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.ids == nil {
		g.ids = storagenode.NewBlobIDs(g.clock.Now)
	}
	if g.limit <= 0 {
		g.limit = 1024
	}
	if g.timeout <= 0 {
		g.timeout = 30 * time.Second
	}
	for _, d := range cfg.Domains {
		if d = strings.Trim(strings.ToLower(d), "."); d != "" {
			g.domains = append(g.domains, "."+d)
		}
	}
	var seed [16]byte
	_, _ = rand.Read(seed[:])
	g.serial.Store(binary.LittleEndian.Uint64(seed[:8]))
	g.hostID = hex.EncodeToString(seed[8:])
	g.metrics = newMetrics(cfg.Registerer, &g.inFlight)
	g.routes = g.newRouters()
	return Front{g}
}

// deletedDelay gathers the deletes of many requests into one notice, so that
// what carries them out can batch them, and is not woken by every write.
const deletedDelay = 20 * time.Millisecond

// deleted says that a commit may have left blobs to be deleted.
func (g *gateway) deleted() {
	if g.onDeleted == nil || g.waking.Swap(true) {
		return
	}
	time.AfterFunc(deletedDelay, func() {
		g.waking.Store(false)
		g.onDeleted()
	})
}

// Configure sets the limits on a server that serves the gateway: of headers,
// of the time they may take, and of idle connections. Bodies have their own
// limit, see Config.BodyTimeout. Serve on a listener wrapped by Listen.
func Configure(s *http.Server) {
	s.ReadHeaderTimeout = 20 * time.Second
	s.IdleTimeout = 2 * time.Minute
	s.MaxHeaderBytes = maxHeadBytes
	s.ConnContext, s.ConnState = connContext, connState
}

// ServeHTTP implements http.Handler.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answers(r)
	x := g.takeExchange(w, r)
	defer g.finish(x)
	if g.inFlight.Add(1) > g.limit {
		x.fail(errSlowDown)
		return
	}
	if err := x.serve(); err != nil {
		x.fail(err)
	}
}

// finish ends an exchange, also one that panicked: the process lives on.
func (g *gateway) finish(x *exchange) {
	cause := recover()
	g.inFlight.Add(-1)
	if cause != nil && cause != http.ErrAbortHandler {
		g.log.Error("request panicked", "req", x.id, "op", x.operationName(), "bucket", x.name, "key", x.key,
			"panic", cause, "stack", string(debug.Stack()))
		if !x.begun {
			cause = nil
			func() {
				defer func() { cause = recover() }()
				x.fail(errInternal)
			}()
		} else {
			cause = http.ErrAbortHandler
		}
	}
	g.metrics.observe(x, g.clock.Now())
	if g.log.Enabled(x.r.Context(), slog.LevelDebug) {
		g.log.Debug("request", "req", x.id, "op", x.operationName(), "bucket", x.name, "key", x.key, "status", x.status)
	}
	if cause != nil {
		panic(cause) // http.ErrAbortHandler: the server cuts the connection
	}
	if x.body == nil {
		x.forsakeBody()
	}
	g.giveExchange(x)
}
