package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	"kintsugi/storagenode/clock"
)

// Transport is an http.RoundTripper of one process: it signs requests, and
// lets only answers through that were made for them by a holder of the secret.
// The body of every response is an *Answer. Safe for concurrent use.
type Transport struct {
	key     *Key
	next    http.RoundTripper
	clock   clock.Clock
	sender  life
	counter atomic.Uint64
	servers sync.Map // host → life, as last heard
}

// NewTransport signs what goes through next. A nil clock is the system's.
func NewTransport(key *Key, next http.RoundTripper, c clock.Clock) *Transport {
	if c == nil {
		c = clock.System{}
	}
	return &Transport{key: key, next: next, clock: c, sender: newLife()}
}

// CloseIdle has connections to the host of a URL closed that no request is using,
// where what is below keeps some.
func (t *Transport) CloseIdle(u *url.URL) {
	if c, ok := t.next.(interface{ CloseIdle(u *url.URL) }); ok {
		c.CloseIdle(u)
	}
}

// Body is the body of a request: a head, which is signed, and bulk, which is
// not, and which the head has to bind. Nothing is copied.
type Body struct {
	head, bulk []byte
	mu         sync.Mutex
	released   bool
}

// NewBody makes a body of at most MaxHead bytes of head. The slices stay the
// caller's, who must not touch them before Release.
func NewBody(head, bulk []byte) *Body { return &Body{head: head, bulk: bulk} }

// Release returns when head and bulk are not read any more, whatever the
// transport is still doing, and will not be again.
func (b *Body) Release() {
	b.mu.Lock()
	b.released = true
	b.head, b.bulk = nil, nil
	b.mu.Unlock()
}

// Read and Close make a Body an io.ReadCloser, for http.Request; Transport
// reads it in its own way.
func (b *Body) Read([]byte) (int, error) { return 0, errors.New("a Body is read by its Transport") }

// Close implements io.Closer.
func (b *Body) Close() error { return nil }

// reading is one pass over a Body.
type reading struct {
	b   *Body
	off int
}

var errReleased = errors.New("the request was given up")

func (r *reading) Read(p []byte) (int, error) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.b.released {
		return 0, errReleased
	}
	n := 0
	if r.off < len(r.b.head) {
		n = copy(p, r.b.head[r.off:])
	}
	if at := r.off + n - len(r.b.head); at >= 0 && at < len(r.b.bulk) {
		n += copy(p[n:], r.b.bulk[at:])
	}
	r.off += n
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// wholeWriter is a connection that sends several runs of bytes at once in its own
// way, as TLS does; plain ones leave that to net.Buffers.
type wholeWriter interface {
	WriteAll(all net.Buffers) (int64, error)
}

// WriteAfter writes all of the body behind prefix, which it may append to, in one
// system call where w allows it. Release waits for it to return.
func (r *reading) WriteAfter(w io.Writer, prefix []byte) error {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.b.released {
		return errReleased
	}
	prefix = append(prefix, r.b.head...)
	if len(r.b.bulk) == 0 {
		_, err := w.Write(prefix)
		return err
	}
	all := net.Buffers{prefix, r.b.bulk}
	var err error
	if whole, ok := w.(wholeWriter); ok {
		_, err = whole.WriteAll(all)
	} else {
		_, err = all.WriteTo(w)
	}
	return err
}

// Close implements io.Closer.
func (r *reading) Close() error { return nil }

// RoundTrip implements http.RoundTripper. A body that is no *Body is read
// whole, up to MaxHead bytes, and signed. Errors wrap ErrRefused where one
// side does not acknowledge the other.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := bodyOf(r)
	if err != nil {
		return nil, err
	}
	if len(body.head) > MaxHead {
		return nil, fmt.Errorf("head of %d bytes, at most %d", len(body.head), MaxHead)
	}
	for again := true; ; again = false {
		resp, refused, err := t.attempt(r, body)
		if refused == nil {
			return resp, err
		}
		if !refused.life || !again {
			return nil, refused
		}
		// The server lives a life that was not known here; now it is.
	}
}

// bodyOf makes a Body of what a request brings.
func bodyOf(r *http.Request) (*Body, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return NewBody(nil, nil), nil
	}
	if b, ok := r.Body.(*Body); ok {
		return b, nil
	}
	defer r.Body.Close()
	head, err := io.ReadAll(io.LimitReader(r.Body, MaxHead+1))
	return NewBody(head, nil), err
}

// refusal is an authentic answer of a guard that did not let a request in.
type refusal struct {
	text string
	life bool // the request named another life of the server
}

func (r *refusal) Error() string { return ErrRefused.Error() + " by the other side: " + r.text }
func (r *refusal) Unwrap() error { return ErrRefused }

func (t *Transport) attempt(r *http.Request, body *Body) (*http.Response, *refusal, error) {
	length := int64(len(body.head) + len(body.bulk))
	k := ticket{
		sender: t.sender, counter: t.counter.Add(1), timeMS: t.clock.Now().UnixMilli(), head: uint32(len(body.head)),
	}
	if v, ok := t.servers.Load(r.URL.Host); ok {
		k.server = v.(life)
	}
	k.mac = k.sign(t.key, r, length, body.head)
	out := r.WithContext(r.Context()) // a shallow copy
	out.Header = http.Header{"Authorization": {k.header()}, "Idempotency-Key": {}, "User-Agent": {"kintsugi"}}
	out.ContentLength = length
	out.Body, out.GetBody = http.NoBody, nil
	if length > 0 {
		// A connection that the server had closed is replaced without a word:
		// should the request have been seen all the same, it is refused.
		out.Body = &reading{b: body}
		out.GetBody = func() (io.ReadCloser, error) { return &reading{b: body}, nil }
	}
	resp, err := t.next.RoundTrip(out)
	if err != nil {
		return nil, nil, err
	}
	a := &Answer{body: resp.Body, key: t.key, request: k.mac, status: resp.StatusCode}
	refused, err := t.begin(r.Context(), a, resp)
	if err != nil || refused != nil {
		_ = a.Close()
		return nil, refused, err
	}
	resp.Body, resp.Request = a, r
	return resp, nil, nil
}

// begin verifies the first frame of an answer, and with it status and server.
func (t *Transport) begin(ctx context.Context, a *Answer, resp *http.Response) (*refusal, error) {
	server, ok := parseLife(resp.Header.Get(serverHeader))
	if !ok && resp.StatusCode == http.StatusServiceUnavailable {
		return nil, ErrBusy
	}
	if !ok && resp.StatusCode == http.StatusUnauthorized {
		return nil, fmt.Errorf("%w: the other side does not know the cluster secret of this process", ErrRefused)
	}
	if !ok {
		text, _ := io.ReadAll(io.LimitReader(a.body, 512)) // only for the message
		return nil, fmt.Errorf("%w: answer %d without a signature: %q", ErrRefused, resp.StatusCode, text)
	}
	a.server = server
	if err := a.peek(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	if old, ok := t.servers.Load(resp.Request.URL.Host); !ok || old.(life) != server {
		t.servers.Store(resp.Request.URL.Host, server)
	}
	if a.flags&(flagRefused|flagOtherLife) != 0 {
		return &refusal{text: string(a.payload), life: a.flags&flagOtherLife != 0}, nil
	}
	return nil, nil
}
