package main

import (
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"path"
	"sync"
	"time"

	"kintsugi/gateway"
	"kintsugi/gateway/console"
	"kintsugi/storagenode/tcp"
)

// doorPatience is how long a request waits at a closed door: most processes are
// ready sooner.
const doorPatience = 3 * time.Second

// door is the handler of a process that serves from its first moment, before it
// has what it needs to answer. Requests wait for it to be opened; those that
// would wait for too long are told why it is closed. Make it with newDoor.
type door struct {
	opened chan struct{}

	inside http.Handler // set before it is opened
	closed func(why string) http.Handler

	mu  sync.Mutex
	why string // that it is closed; guarded by mu
}

// newDoor is closed; closed makes the answer for those who do not get in.
func newDoor(closed func(why string) http.Handler) *door {
	return &door{opened: make(chan struct{}), why: "it is starting", closed: closed}
}

// say gives the reason that it is closed, for people.
func (d *door) say(why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.why = why
}

func (d *door) reason() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.why
}

// open lets everybody in, to h. It is called once.
func (d *door) open(h http.Handler) {
	d.inside = h
	close(d.opened)
}

func (d *door) isOpen() bool {
	select {
	case <-d.opened:
		return true
	default:
		return false
	}
}

// ServeHTTP implements http.Handler.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !d.isOpen() {
		late := time.NewTimer(doorPatience)
		defer late.Stop()
		select {
		case <-d.opened:
		case <-r.Context().Done(): // it may be that the client only sends no more
		case <-late.C:
		}
	}
	if !d.isOpen() {
		d.closed(d.reason()).ServeHTTP(w, r)
		return
	}
	d.inside.ServeHTTP(w, r)
}

// serverLog is what net/http says, but for handshakes that clients fail.
var serverLog = log.New(noHandshakes{logs}, "", log.LstdFlags)

type noHandshakes struct{ io.Writer }

// Write implements io.Writer.
func (w noHandshakes) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("TLS handshake error")) {
		return len(p), nil
	}
	return w.Writer.Write(p)
}

// serveS3 serves S3 on l from now on, over TLS where secure is not nil; what comes
// of it goes to failed.
func serveS3(l net.Listener, secure *tls.Config, failed chan<- error) (*door, *http.Server) {
	d := newDoor(gateway.Closed)
	s := &http.Server{Handler: d, ErrorLog: serverLog}
	gateway.Configure(s)
	if secure == nil {
		l = gateway.Listen(l)
	} else {
		l = tls.NewListener(tcp.Unpaced(l), secure)
	}
	go func() { failed <- s.Serve(tcp.Bound(s, l, tcp.MaxConns())) }()
	return d, s
}

// serveAdmin serves an admin address on l from now on, its health at once.
func serveAdmin(l net.Listener, secure *tls.Config, failed chan<- error) (*door, *http.Server) {
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	d := newDoor(adminClosed)
	s, serve := adminServer(l, d.withHealth())
	go func() { failed <- serve() }()
	return d, s
}

// adminServer is the server of an admin address, with its bounds; serve lets it
// serve on l.
func adminServer(l net.Listener, h http.Handler) (s *http.Server, serve func() error) {
	s = &http.Server{Handler: tcp.Forsaking(cleanly(h)), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: serverLog}
	l = tcp.Bound(s, l, tcp.MaxConns()/8)
	return s, func() error { return s.Serve(l) }
}

// adminClosed answers for an admin API that cannot be had yet.
func adminClosed(why string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		console.Fail(w, &console.Error{Status: http.StatusServiceUnavailable, Message: "not ready yet: " + why})
	})
}

// withHealth answers for the door's process at once, to anybody: /live that it
// lives, /ready whether the door is open; all else goes through the door.
func (d *door) withHealth() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", live)
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if d.isOpen() {
			_, _ = io.WriteString(w, "ready\n")
			return
		}
		http.Error(w, "not ready yet: "+d.reason(), http.StatusServiceUnavailable)
	})
	mux.Handle("/", d)
	return mux
}

// cleanly answers for paths that a mux would redirect. What is long net/http sends
// at once, and waits for the request's body before, for as long as it takes.
func cleanly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.Path; p != path.Clean(p) && p != path.Clean(p)+"/" {
			http.NotFound(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func live(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "live\n") }
