package tcp

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// forsaken is how long a client may take for what is left of a body that nobody
// wants any more.
const forsaken = 5 * time.Second

// Forsaking bounds how long a client may take for what is left of a body when h
// has returned. net/http takes up to 256 KiB of it before it sends the answer, and
// would wait for them for good, whoever sent the request. With the next request
// the server sets the deadline anew.
func Forsaking(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		if r.Body != nil && r.Body != http.NoBody {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(forsaken)) // a test's recorder has none
		}
	})
}

// mostConns is how many connections a server has at most, where the system would
// let it have more: 10 to 20 KiB of memory go with each.
const mostConns = 16 << 10

// MaxConns is how many connections a server may have: half of the files that the
// process may open. Drives need the others, and without any would be given up.
func MaxConns() int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return mostConns
	}
	return max(16, int(min(files.Cur/2, mostConns)))
}

// Bound gives a listener for s that accepts no connection while s has n of them:
// more wait, in the system's queue. It takes s.ConnState, and calls what was set.
// An accept that fails is tried again: a server that the system gives no file and
// no memory for a connection goes on once it does. net/http outlives some such
// errors, not all.
func Bound(s *http.Server, l net.Listener, n int) net.Listener {
	b := &boundListener{Listener: l, server: s, places: make(chan struct{}, n), closed: make(chan struct{})}
	next := s.ConnState
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			<-b.places
		}
		if next != nil {
			next(c, state)
		}
	}
	return b
}

type boundListener struct {
	net.Listener
	server *http.Server
	places chan struct{} // one taken by each connection
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (b *boundListener) Accept() (net.Conn, error) {
	select {
	case b.places <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	for wait := leastPause; ; wait = min(2*wait, mostPause) {
		c, err := b.Listener.Accept()
		if err == nil {
			return c, nil
		}
		if !passes(err) {
			<-b.places
			return nil, err
		}
		if wait == mostPause && b.server.ErrorLog != nil {
			b.server.ErrorLog.Printf("no connection can be taken at %s, it is tried again: %v", b.Addr(), err)
		}
		select {
		case <-time.After(wait):
		case <-b.closed:
			<-b.places
			return nil, net.ErrClosed
		}
	}
}

// The pause after an accept that failed.
const (
	leastPause = 5 * time.Millisecond
	mostPause  = time.Second
)

// passes says whether an accept that failed may do better later: the system has said
// no, and not that this is no listening socket any more.
func passes(err error) bool {
	var no syscall.Errno
	return errors.As(err, &no) && no != syscall.EBADF && no != syscall.EINVAL && no != syscall.ENOTSOCK
}

// Close implements net.Listener.
func (b *boundListener) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}
