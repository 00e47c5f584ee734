// Package auth lets the processes of a cluster prove to each other who they
// are, by the one secret they share. Transport is an http.RoundTripper that
// signs requests and verifies answers; Guard is the middleware that lets no
// other request pass and signs what is answered.
//
// What is signed. A request's MAC (HMAC-SHA256) covers method, path and query,
// the length of the body, the sender, its counter, the time, the life of the
// server it is meant for, and the head of the body: the first bytes, as many
// as the ticket says. What lies behind the head is bulk. Hashing bulk data
// with SHA-256 would cost more than all else that is done to it, so the head
// has to bind it: a shard's head carries the sums of its blocks. That holds
// against every accident. It does not hold against somebody on the network who
// alters bulk data and knows how to find collisions of XXH3: where such people
// are about, run the cluster over TLS. Requests without bulk are covered to
// the last byte. No header but Authorization means anything to a server.
//
// An answer comes in frames, each with a MAC bound to the request's MAC, the
// status, the life of the server, and its place among the frames. So nobody
// but a holder of the secret, asked this very question, can say that a write
// is durable, and an answer cut short is noticed.
//
// Replays. A sender counts its requests; a server remembers for each sender,
// in a window of bits, which counts it has seen, and refuses them when they
// come again, and what is too old for the window. A request names the life of
// the server, a number made at each start, so that what one life has seen is
// worth nothing to the next, and nothing to another server; requests with GET,
// which change nothing, need not know it yet. Senders are forgotten when they
// have been silent for so long that the time in anything captured from them
// has become too old; when there are too many, new ones are refused: nothing
// is forgotten to make room.
//
// Time. Clocks may differ by MaxSkew, which is more than an hour.
package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Limits of what is sent.
const (
	// MinSecret is the least length of a cluster secret in bytes.
	MinSecret = 32
	// MaxHead bounds the head of a request's body in bytes.
	MaxHead = 128 << 10
	// MaxPayload bounds the payload of an answer's frame in bytes.
	MaxPayload = 256 << 10
	// MaxRaw bounds the raw bytes behind a frame.
	MaxRaw = 8 << 20
	// MaxSkew is how far the clocks of two processes may lie apart, and how late a
	// request may come: less than for how long a drive keeps a tombstone.
	MaxSkew = 90 * time.Minute
)

// ErrRefused: the other side does not take this process for one of its
// cluster, or this one cannot take the other for it.
var ErrRefused = errors.New("not authenticated")

// ErrBusy: the server has no place for another request now, it says, unsigned.
var ErrBusy = errors.New("server is busy")

const scheme = "Kintsugi1 "

// life names one run of a server; sender one Transport.
type life [16]byte

func newLife() (l life) {
	_, _ = rand.Read(l[:]) // never fails
	return l
}

type mac [sha256.Size]byte

// Key signs and verifies. It is made from the cluster's secret and safe for
// concurrent use.
type Key struct{ requests, answers hasher }

// NewKey takes the cluster's secret.
func NewKey(secret []byte) (*Key, error) {
	if len(secret) < MinSecret {
		return nil, fmt.Errorf("the cluster's secret has %d bytes, want at least %d", len(secret), MinSecret)
	}
	return &Key{newHasher(secret, "kintsugi 1 request"), newHasher(secret, "kintsugi 1 answer")}, nil
}

// hasher keeps MACs of one purpose.
type hasher struct{ pool *sync.Pool }

func newHasher(secret []byte, purpose string) hasher {
	h := hmac.New(sha256.New, secret)
	_, _ = h.Write([]byte(purpose)) // a hash never fails
	key := h.Sum(nil)
	return hasher{&sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// sum is the MAC of the parts, each bound with its length.
func (h hasher) sum(parts ...[]byte) (m mac) {
	d := h.pool.Get().(hash.Hash)
	defer h.pool.Put(d)
	d.Reset()
	var n [4]byte
	for _, p := range parts {
		binary.LittleEndian.PutUint32(n[:], uint32(len(p)))
		_, _ = d.Write(n[:]) // a hash never fails
		_, _ = d.Write(p)
	}
	d.Sum(m[:0])
	return m
}

func (m mac) equal(o mac) bool { return hmac.Equal(m[:], o[:]) }

// ticket is what a request says of itself, in its Authorization header.
type ticket struct {
	sender  life
	counter uint64
	timeMS  int64
	server  life // zero: not known yet
	head    uint32
	mac     mac
}

const ticketSize = 16 + 8 + 8 + 16 + 4

func (t *ticket) append(b []byte) []byte {
	b = append(b, t.sender[:]...)
	b = binary.LittleEndian.AppendUint64(b, t.counter)
	b = binary.LittleEndian.AppendUint64(b, uint64(t.timeMS))
	b = append(b, t.server[:]...)
	return binary.LittleEndian.AppendUint32(b, t.head)
}

// sign gives the MAC of a request.
func (t *ticket) sign(k *Key, r *http.Request, length int64, head []byte) mac {
	var fixed [ticketSize + 8]byte
	b := binary.LittleEndian.AppendUint64(t.append(fixed[:0]), uint64(length))
	return k.requests.sum([]byte(r.Method), []byte(r.URL.RequestURI()), b, head)
}

// header gives the value of the Authorization header.
func (t *ticket) header() string {
	var fixed [ticketSize + sha256.Size]byte
	return scheme + base64.RawURLEncoding.EncodeToString(append(t.append(fixed[:0]), t.mac[:]...))
}

// parseTicket reads what header wrote.
func parseTicket(s string) (t ticket, ok bool) {
	s, ok = strings.CutPrefix(s, scheme)
	if !ok || len(s) != base64.RawURLEncoding.EncodedLen(ticketSize+sha256.Size) {
		return t, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != ticketSize+sha256.Size { // the decoder skips line ends
		return t, false
	}
	t.sender = life(b[:16])
	t.counter = binary.LittleEndian.Uint64(b[16:])
	t.timeMS = int64(binary.LittleEndian.Uint64(b[24:]))
	t.server = life(b[32:48])
	t.head = binary.LittleEndian.Uint32(b[48:])
	t.mac = mac(b[ticketSize:])
	return t, true
}
