package auth

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"kintsugi/storagenode/clock"
)

// GuardConfig is what a Guard needs. Key must be set.
type GuardConfig struct {
	Key   *Key
	Clock clock.Clock // nil: the system's
	// Requests bounds those that are inside at once. 0: 1024.
	Requests int
	// HeadTime is how long the head of a body may take to arrive, and how long
	// a request waits for a place. 0: 10 s and 1 s.
	HeadTime, Wait time.Duration
}

// Guard is the middleware of one server. It lets in what was signed by a
// holder of the key, for this life of the server, not long ago and not before,
// and signs what is answered. Safe for concurrent use.
type Guard struct {
	cfg     GuardConfig
	life    life
	replays replays
	places  chan struct{}
	long    chan struct{} // heads above shortHead that are being read
}

// NewGuard makes the guard of a server; its life begins.
func NewGuard(cfg GuardConfig) *Guard {
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Requests <= 0 {
		cfg.Requests = 1024
	}
	if cfg.HeadTime <= 0 {
		cfg.HeadTime = 10 * time.Second
	}
	if cfg.Wait <= 0 {
		cfg.Wait = time.Second
	}
	return &Guard{
		cfg: cfg, life: newLife(), replays: replays{senders: map[life]*window{}},
		places: make(chan struct{}, cfg.Requests), long: make(chan struct{}, longHeads),
	}
}

// Incoming is the body of a request that a Guard let in. Read gives the head,
// all of which is authentic.
type Incoming struct {
	// Head is the signed part; valid until the handler returns.
	Head []byte
	// Bulk is the rest, BulkSize bytes, authentic only in so far as the
	// handler verifies it by what Head says.
	Bulk     io.Reader
	BulkSize int64
	off      int
}

// Read implements io.Reader.
func (in *Incoming) Read(p []byte) (int, error) {
	if in.off == len(in.Head) && len(p) > 0 {
		return 0, io.EOF
	}
	n := copy(p, in.Head[in.off:])
	in.off += n
	return n, nil
}

// Close implements io.Closer.
func (in *Incoming) Close() error { return nil }

// Wrap gives a handler that nothing reaches unauthenticated: its requests have
// an *Incoming for a body, its ResponseWriter is a *Writer.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		patient(w)
		t, head, err := g.authentic(w, r)
		if err != nil {
			// It says nothing of what was wrong: whoever asks may have no key, and has no
			// connection that stays.
			w.Header().Set("Connection", "close")
			if errors.Is(err, ErrBusy) {
				http.Error(w, "busy", http.StatusServiceUnavailable)
				return
			}
			http.Error(w, "not authenticated", http.StatusUnauthorized)
			return
		}
		if !g.enter(r) { // not before: who has no key could hold all places
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		defer func() { <-g.places }()
		out := &Writer{w: w, key: g.cfg.Key, request: t.mac, server: g.life}
		if text, flags := g.verdict(&t, r.Method); text != "" {
			out.WriteHeader(http.StatusForbidden)
			_ = out.frame([]byte(text), nil, flags|flagLast) // the connection is gone: nobody to tell
			return
		}
		in := r.WithContext(r.Context()) // a shallow copy
		in.Body = &Incoming{Head: head, Bulk: r.Body, BulkSize: r.ContentLength - int64(len(head))}
		next.ServeHTTP(out, in)
		out.end()
	})
}

// enter takes a place, for which it waits a little.
func (g *Guard) enter(r *http.Request) bool {
	select {
	case g.places <- struct{}{}:
		return true
	default:
	}
	select {
	case g.places <- struct{}{}:
		return true
	case <-g.cfg.Clock.After(g.cfg.Wait):
	case <-r.Context().Done():
	}
	return false
}

// authentic reads the head of a request and verifies its signature: ErrRefused, or
// ErrBusy where there is no room for the head.
func (g *Guard) authentic(w http.ResponseWriter, r *http.Request) (t ticket, head []byte, err error) {
	t, ok := parseTicket(r.Header.Get("Authorization"))
	if !ok || r.ContentLength < 0 || t.head > MaxHead || int64(t.head) > r.ContentLength {
		return t, nil, ErrRefused
	}
	if t.head > 0 {
		// A deadline left in place would end the request's context later on.
		ctl := http.NewResponseController(w)
		_ = ctl.SetReadDeadline(time.Now().Add(g.cfg.HeadTime)) // a test's recorder has none
		head, err = g.readHead(r, int(t.head))
		_ = ctl.SetReadDeadline(time.Time{})
		if err != nil {
			return t, nil, err
		}
	}
	if !t.sign(g.cfg.Key, r, r.ContentLength, head).equal(t.mac) {
		return t, nil, ErrRefused
	}
	return t, head, nil
}

// Heads whose sender is not known yet: those above shortHead bytes are read in
// longHeads places, so that strangers cannot fill the memory with them.
const (
	shortHead = 4 << 10
	longHeads = 256
)

// readHead reads n bytes. It takes memory for what has come, not for what was
// announced: nobody knows yet who sends it.
func (g *Guard) readHead(r *http.Request, n int) ([]byte, error) {
	if n > shortHead {
		select {
		case g.long <- struct{}{}:
			defer func() { <-g.long }()
		case <-g.cfg.Clock.After(g.cfg.Wait):
			return nil, ErrBusy
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	body := r.Body
	head := make([]byte, min(n, shortHead))
	for got := 0; ; {
		m, err := io.ReadFull(body, head[got:])
		if got += m; err != nil || got == n {
			return head, err
		}
		head = append(head, make([]byte, min(n-got, got))...)
	}
}

// verdict says why a signed request is not let in; "" lets it in.
func (g *Guard) verdict(t *ticket, method string) (text string, flags byte) {
	now := g.cfg.Clock.Now()
	if apart := now.Sub(time.UnixMilli(t.timeMS)); apart.Abs() > MaxSkew {
		return fmt.Sprintf("the clocks are %s apart, at most %s", apart.Abs().Round(time.Second), MaxSkew), flagRefused
	}
	if t.server != g.life && method != http.MethodGet {
		return "meant for another life of this server", flagOtherLife
	}
	if text := g.replays.admit(t.sender, t.counter, now); text != admitted {
		return text, flagRefused
	}
	return "", 0
}
