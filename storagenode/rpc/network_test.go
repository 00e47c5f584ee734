package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/storetest"
)

// network is a proxy between client and node that flips a bit, or stops to
// pass anything on, at a byte of what a connection carries.
type network struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	conns    []net.Conn
	toNode   bool // the direction the fault is in
	flip     int  // bit of the direction's stream, -1: none
	stall    int  // byte of the direction's stream, -1: none
	done     bool // the bit was flipped
}

func newNetwork(t testing.TB, to string) *network {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &network{listener: l, to: to, flip: -1, stall: -1}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", n.to)
			if err != nil {
				c.Close()
				continue
			}
			n.mu.Lock()
			n.conns = append(n.conns, c, up)
			n.mu.Unlock()
			all.Go(func() { n.pass(up, c, true) })
			all.Go(func() { n.pass(c, up, false) })
		}
	})
	t.Cleanup(func() { l.Close(); n.cut(); all.Wait() })
	return n
}

// cut ends all connections.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.Close()
	}
	n.conns = nil
}

func (n *network) pass(to, from net.Conn, toNode bool) {
	defer to.Close()
	defer from.Close()
	p := make([]byte, 16<<10)
	for at := 0; ; {
		got, err := from.Read(p)
		n.mu.Lock()
		if n.toNode == toNode && n.flip >= 0 && n.flip/8 >= at && n.flip/8 < at+got && !n.done {
			p[n.flip/8-at] ^= 1 << (n.flip % 8)
			n.done = true
		}
		stalls := n.toNode == toNode && n.stall >= 0 && n.stall < at+got
		if stalls {
			got = max(0, n.stall-at)
		}
		n.mu.Unlock()
		at += got
		if _, werr := to.Write(p[:got]); werr != nil || err != nil {
			return
		}
		if stalls {
			_, _ = io.Copy(io.Discard, from) // until somebody cuts it
			return
		}
	}
}

func (n *network) fault(toNode bool, flip, stall int) {
	n.cut()
	n.mu.Lock()
	n.toNode, n.flip, n.stall, n.done = toNode, flip, stall, false
	n.mu.Unlock()
}

func (n *network) flipped() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.done }

// TestNoFlippedBitPasses flips one bit of what goes over the wire, at many
// places, in either direction, in a put and in a read. What is acknowledged is
// stored as it was given; what is read is right, or not read; and nothing is
// taken for damage, or for absence, of the shard.
func TestNoFlippedBitPasses(t *testing.T) {
	const seed, size = 11, 100_000
	rng := rand.New(rand.NewPCG(seed, seed))
	store := storetest.NewMemory()
	r := newRig(t, store)
	clean := r.drive(r.client)
	n := newNetwork(t, r.http.Listener.Addr().String())
	good := storetest.NewShard(shardID(1, 0), size)
	put(t, clean, good)

	refused := 0
	try := func(toNode bool, byteAt int, blob uint64) {
		t.Helper()
		bit := byteAt*8 + rng.IntN(8)
		c := r.dialFor("http://"+n.listener.Addr().String(), 2*time.Second)
		d := c.Drive(testDrive, clean.life)
		n.fault(toNode, -1, -1)
		if _, err := c.Reports(t.Context(), false); err != nil { // learns the node's life, over another connection
			t.Fatal(err)
		}
		r.fresh()
		n.fault(toNode, bit, -1)
		var err error
		if blob == 0 {
			p := make([]byte, size)
			var got int
			got, err = d.ReadAt(t.Context(), good.ID, 0, p)
			if err == nil && (got != size || !bytes.Equal(p, good.Payload)) {
				t.Fatalf("bit %d, to the node %v: a wrong byte was read", bit, toNode)
			}
		} else {
			sh := storetest.NewShard(shardID(blob, 0), size)
			sh.Last, sh.Attrs = true, []byte("attributes")
			_, err = d.Put(t.Context(), sh)
			p := make([]byte, size)
			got, rerr := clean.ReadAt(t.Context(), sh.ID, 0, p)
			if err == nil && rerr != nil || rerr == nil && (got != size || !bytes.Equal(p, sh.Payload)) {
				t.Fatalf("bit %d, to the node %v: put gave %v, then read %v, or wrong bytes", bit, toNode, err, rerr)
			}
			info, serr := clean.Stat(t.Context(), sh.ID)
			if err == nil && (serr != nil || string(info.Attrs) != "attributes" || info.StripeHash != sh.StripeHash) {
				t.Fatalf("bit %d, to the node %v: stored as %+v, %v", bit, toNode, info, serr)
			}
		}
		if err != nil {
			refused++
			if !errors.Is(err, storagenode.ErrUnavailable) || errors.Is(err, storagenode.ErrCorrupt) || errors.Is(err, storagenode.ErrNotFound) {
				t.Fatalf("bit %d, to the node %v: %v", bit, toNode, err)
			}
		}
		if !n.flipped() {
			t.Fatalf("bit %d, to the node %v: nothing was flipped", bit, toNode)
		}
	}
	const rounds = 40
	for i := range rounds {
		try(true, 450+rng.IntN(size-2000), uint64(10+i)) // payload of a put
		try(false, 600+rng.IntN(size-2000), 0)           // payload of a read
		try(true, rng.IntN(400), uint64(1000+i))         // request line and headers
		try(false, rng.IntN(150), uint64(2000+i))        // answer to a put
		try(false, rng.IntN(250), 0)                     // answer to a read, its beginning
	}
	// Names of headers and the like do not matter; payloads and heads do.
	if refused < 2*rounds {
		t.Fatalf("%d of %d were refused", refused, 5*rounds)
	}
	t.Logf("%d of %d were refused", refused, 5*rounds)
}

// TestSilenceCostsBoundedTime: a node that accepts and says nothing, or stops
// in the midst of an answer.
func TestSilenceCostsBoundedTime(t *testing.T) {
	store := storetest.NewMemory()
	r := newRig(t, store)
	put(t, r.drive(r.client), storetest.NewShard(shardID(1, 0), 100_000))
	n := newNetwork(t, r.http.Listener.Addr().String())
	life := r.drive(r.client).life
	for _, stall := range []int{0, 100, 300, 50_000} {
		c := r.dialFor("http://"+n.listener.Addr().String(), 200*time.Millisecond)
		d := c.Drive(testDrive, life)
		n.fault(false, -1, stall)
		began := time.Now()
		errs := map[string]error{}
		_, errs["read"] = d.ReadAt(t.Context(), shardID(1, 0), 0, make([]byte, 100_000))
		if stall <= 150 {
			errs = calls(t.Context(), d)
			_, errs["reports"] = c.Reports(t.Context(), false)
		}
		for call, err := range errs {
			if !errors.Is(err, storagenode.ErrUnavailable) || errors.Is(err, storagenode.ErrNotFound) || errors.Is(err, io.EOF) {
				t.Errorf("%s, silent after %d bytes: %v", call, stall, err)
			}
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%d calls took %s", len(errs), took)
		}
	}
}

// TestTheCallersContextEndsACall: its error, not the network's.
func TestTheCallersContextEndsACall(t *testing.T) {
	f := storetest.NewFaulty(storetest.NewMemory())
	r := newRig(t, f)
	d := r.drive(r.client)
	f.Inject(storetest.Fault{Hang: true})
	defer f.Clear()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for call, err := range calls(ctx, d) {
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, storagenode.ErrUnavailable) {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// TestNobodyListens: unreachable is not absent.
func TestNobodyListens(t *testing.T) {
	r := newRig(t, storetest.NewMemory())
	d := r.drive(r.client)
	r.http.Close()
	for call, err := range calls(t.Context(), d) {
		if !errors.Is(err, storagenode.ErrUnavailable) || errors.Is(err, storagenode.ErrNotFound) {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// lateSender is a RoundTripper that gives up at once and sends on later, as
// http.Transport may.
type lateSender struct{ body io.ReadCloser }

func (l *lateSender) RoundTrip(r *http.Request) (*http.Response, error) {
	l.body = r.Body
	return nil, errors.New("given up")
}

// TestBuffersAreFreeAfterAPut: what the transport sends when the call has
// returned is not what the caller has in its buffers by then.
func TestBuffersAreFreeAfterAPut(t *testing.T) {
	late := &lateSender{}
	c, err := NewClient(Config{Address: "http://127.0.0.1:1", Transport: auth.NewTransport(testKey(t), late, nil)})
	if err != nil {
		t.Fatal(err)
	}
	sh := storetest.NewShard(shardID(1, 0), storagenode.MaxPayload)
	if _, err := c.Drive(testDrive, 1).Put(t.Context(), sh); !errors.Is(err, storagenode.ErrUnavailable) {
		t.Fatal(err)
	}
	if n, err := late.body.Read(make([]byte, 100)); n != 0 || err == nil || err == io.EOF {
		t.Fatalf("%d bytes are sent after the call returned, %v", n, err)
	}
}

// TestAnotherSecret: neither side takes the other's word.
func TestAnotherSecret(t *testing.T) {
	r := newRig(t, storetest.NewMemory())
	life := r.drive(r.client).life
	k, err := auth.NewKey(bytes.Repeat([]byte("x"), auth.MinSecret))
	if err != nil {
		t.Fatal(err)
	}
	transport := NewTransport(nil)
	defer transport.CloseIdleConnections()
	c, err := NewClient(Config{Address: r.http.URL, Transport: auth.NewTransport(k, transport, nil)})
	if err != nil {
		t.Fatal(err)
	}
	for call, err := range calls(t.Context(), c.Drive(testDrive, life)) {
		if !errors.Is(err, storagenode.ErrUnavailable) || !errors.Is(err, auth.ErrRefused) {
			t.Errorf("%s: %v", call, err)
		}
	}
}
