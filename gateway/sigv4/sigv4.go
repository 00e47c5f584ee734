// Package sigv4 verifies AWS Signature Version 4 as S3 uses it, and signs.
//
// It is pure: it looks at a request, a clock and a look-up of secrets, and
// does no I/O but to read the body that it wraps. There are two steps.
// Verifier.Verify checks who asks, from the Authorization header or from a
// presigned query, and says how the body is protected (Payload).
// Verifier.Body then wraps the body in a Reader that undoes aws-chunked
// encoding and checks hash, chunk signatures, trailers and lengths.
//
// The request must be as the client sent it: verify before anything rewrites
// Host, URL.Path, URL.RawPath or URL.RawQuery. A router must not clean paths
// (gorilla/mux: SkipClean), since a key may hold "//" and "..".
//
// Sources: "Authenticating Requests (AWS Signature Version 4)" in the Amazon
// S3 API Reference, with its examples as tests.
package sigv4

import (
	"crypto/subtle"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Limits of the protocol.
const (
	// MaxSkew is how far a request's time may be from ours.
	MaxSkew = 15 * time.Minute
	// MaxExpires is the longest life of a presigned request.
	MaxExpires = 7 * 24 * time.Hour
)

const (
	algorithm = "AWS4-HMAC-SHA256"
	terminal  = "aws4_request"
	dateForm  = "20060102T150405Z"
)

// Config of a Verifier.
type Config struct {
	// Lookup gives the secret key of an access key; ok is false where there
	// is none or it is disabled. Required. Called once a request, on the
	// request's goroutine.
	Lookup func(accessKey string) (secretKey string, ok bool)
	// Region that scopes must name; "" is "us-east-1".
	Region string
	// Service that scopes must name; "" is "s3".
	Service string
	// Now is the time; nil is time.Now.
	Now func() time.Time
}

// Identity is who signed a request.
type Identity struct {
	// AccessKey that signed.
	AccessKey string
	// Presigned says that the query was signed, not a header.
	Presigned bool
}

// Verifier checks requests. Safe for concurrent use.
type Verifier struct {
	lookup  func(string) (string, bool)
	region  string
	service string
	now     func() time.Time
	keys    keyCache
	scratch sync.Pool // *scratch
	readers readerPools
}

// New makes a Verifier.
func New(cfg Config) *Verifier {
	v := &Verifier{lookup: cfg.Lookup, region: cfg.Region, service: cfg.Service, now: cfg.Now}
	if v.region == "" {
		v.region = "us-east-1"
	}
	if v.service == "" {
		v.service = "s3"
	}
	if v.now == nil {
		v.now = time.Now
	}
	if v.lookup == nil {
		v.lookup = func(string) (string, bool) { return "", false }
	}
	return v
}

// Region is the region that scopes must name.
func (v *Verifier) Region() string { return v.region }

// Verify checks the signature of a request as the server received it. With
// ErrAnonymous the Payload is valid too; with any other error nothing of the
// request may be trusted.
//
// A nil error says nothing about the body yet: see Body.
func (v *Verifier) Verify(r *http.Request) (Identity, Payload, error) {
	auth := ""
	if values := r.Header["Authorization"]; len(values) > 0 {
		auth = values[0]
	}
	var c claim
	var err error
	presigned, v2 := queryMechanism(r.URL.RawQuery)
	switch {
	case auth != "" && (presigned || v2):
		err = ErrSeveralMechanisms
	case v2:
		err = ErrUnsupportedMechanism
	case presigned:
		c, err = v.claimFromQuery(r.URL.RawQuery)
	case auth != "":
		c, err = v.claimFromHeader(r, auth)
	default:
		return v.anonymous(r)
	}
	if err != nil {
		return Identity{}, Payload{}, err
	}
	return v.verifyClaim(r, &c)
}

// anonymous gives the payload of a request that nobody signed. Chunk
// signatures need a key, so such bodies are refused.
func (v *Verifier) anonymous(r *http.Request) (Identity, Payload, error) {
	p, err := payloadOf(r, firstHeader(r.Header, "X-Amz-Content-Sha256"), true)
	if err != nil {
		return Identity{}, Payload{}, err
	}
	if p.Kind == SignedChunks || p.Kind == SignedChunksTrailer {
		return Identity{}, Payload{}, ErrContentSHA256Invalid
	}
	return Identity{}, p, ErrAnonymous
}

// verifyClaim checks what a request claims about itself.
func (v *Verifier) verifyClaim(r *http.Request, c *claim) (Identity, Payload, error) {
	secret, ok := v.lookup(c.accessKey)
	if !ok || secret == "" {
		return Identity{}, Payload{}, ErrUnknownAccessKey
	}
	if c.securityToken || len(r.Header["X-Amz-Security-Token"]) > 0 {
		return Identity{}, Payload{}, ErrSecurityToken
	}
	if err := checkSigned(r.Header, c.signedHeaders); err != nil {
		return Identity{}, Payload{}, err
	}
	content := c.contentSHA256
	if content == "" {
		content = firstHeader(r.Header, "X-Amz-Content-Sha256")
	}
	p, err := payloadOf(r, content, c.presigned)
	if err != nil {
		return Identity{}, Payload{}, err
	}
	p.chain.key = v.keys.get(secret, c.date, c.region, c.service)

	s := v.takeScratch()
	defer v.scratch.Put(s)
	given := []byte(c.signature)
	want, err := s.signature(r, c, p.content, r.URL.Path, true, &p.chain.key)
	if err != nil {
		return Identity{}, Payload{}, err
	}
	if subtle.ConstantTimeCompare(want[:], given) != 1 {
		// Some clients sign the path as they escaped it. Both forms decode to
		// the same key, so accepting either confuses nothing.
		raw := r.URL.EscapedPath()
		want, err = s.signature(r, c, p.content, raw, false, &p.chain.key)
		if err != nil || subtle.ConstantTimeCompare(want[:], given) != 1 {
			return Identity{}, Payload{}, ErrSignature
		}
	}
	p.chain.seed = want
	p.chain.scope = c.scope
	p.chain.dateTime = c.dateTime
	return Identity{AccessKey: c.accessKey, Presigned: c.presigned}, p, nil
}

func (v *Verifier) takeScratch() *scratch {
	if s, ok := v.scratch.Get().(*scratch); ok {
		return s
	}
	return &scratch{}
}

// queryMechanism finds out what kind of signature a query holds.
func queryMechanism(raw string) (presigned, v2 bool) {
	if raw == "" || !(strings.Contains(raw, "X-Amz-") || strings.Contains(raw, "Signature=")) {
		return false, false
	}
	for part := range strings.SplitSeq(raw, "&") {
		name, _, _ := strings.Cut(part, "=")
		switch name {
		case "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature":
			presigned = true
		case "AWSAccessKeyId", "Signature":
			v2 = true
		}
	}
	return presigned, v2 && !presigned
}

// firstHeader is Header.Get for a name that is canonical already.
func firstHeader(h http.Header, canonical string) string {
	if values := h[canonical]; len(values) > 0 {
		return values[0]
	}
	return ""
}
