package cluster

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kintsugi/erasure"
	"kintsugi/gateway/sigv4"
)

// client is an S3 client of a cluster of many, through whichever gateway: a
// load.Target. It holds every answer to what may be answered at all; what may
// not is in the ledger as a lie.
type client struct {
	many *Many
	mu   sync.Mutex
	rng  *rand.Rand // guarded by mu
	// uploads is how many of a hundred writes are multipart uploads.
	uploads atomic.Int64
	only    *gatewayProcess // nil: any
	// midway is called once by a write of several stripes, in the midst of its
	// second one; nil: not at all.
	midway atomic.Pointer[func()]
}

func newClient(c *Many, uploads int64) *client {
	cl := &client{many: c, rng: rand.New(rand.NewPCG(c.seed, 11))}
	cl.uploads.Store(uploads)
	return cl
}

// through is the client of one gateway alone.
func (c *client) through(g *gatewayProcess) *client {
	cl := newClient(c.many, c.uploads.Load())
	cl.only = g
	return cl
}

func (c *client) draw(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(n)
}

var (
	errRefusedByDoor = errors.New("connection refused")
	errReset         = errors.New("connection reset")
)

// do makes a request of a gateway. An error means that no answer came.
func (c *client) do(ctx context.Context, method, path string, query url.Values, body []byte, headers ...string) (*answer, error) {
	g := c.only
	if g == nil {
		g = c.many.gateways[c.draw(len(c.many.gateways))]
	}
	l, handler := g.now()
	if l == nil {
		return nil, errRefusedByDoor
	}
	// As a server does it: the request ends with its connection, or the process.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	u := &url.URL{Scheme: "http", Host: g.name, Path: path, RawQuery: query.Encode()}
	r := &http.Request{
		Method: method, URL: u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RequestURI: u.RequestURI(), RemoteAddr: "127.0.0.1:1",
		Header: http.Header{}, Body: c.body(body), ContentLength: int64(len(body)),
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	sigv4.Sign(r, accessKey, secretKey, region, "s3", l.clock.Now(), sigv4.UnsignedPayload)
	if !l.runs(ctx) {
		return nil, ctx.Err()
	}
	cutOff := c.many.ledger.cutOffNow(l)
	type result struct {
		a   *answer
		err error
	}
	done := make(chan result, 1)
	if !l.run(func() {
		a := &answer{header: http.Header{}}
		err := a.serve(handler, r.WithContext(ctx))
		done <- result{a, err}
	}) {
		return nil, errReset
	}
	select {
	case res := <-done:
		if !l.runs(ctx) || l.ctx.Err() != nil {
			return nil, errReset
		}
		if res.err == nil {
			c.many.ledger.answered(l, cutOff, method+" "+path, res.a)
		}
		return res.a, res.err
	case <-ctx.Done():
		return nil, errors.Join(errReset, ctx.Err())
	}
}

// body is that of a request.
func (c *client) body(p []byte) io.ReadCloser {
	const half = erasure.StripeSize * 3 / 2
	if f := c.midway.Load(); f != nil && len(p) > half && c.midway.CompareAndSwap(f, nil) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(p[:half]), calls(*f), bytes.NewReader(p[half:])))
	}
	return io.NopCloser(bytes.NewReader(p))
}

// calls is a reader of nothing.
type calls func()

// Read implements io.Reader.
func (f calls) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

// answers of S3 that mean something.
type s3Error struct {
	Code string
}

// refused makes an error of an answer that is not good, and a lie of one that
// should never be given. codes are those that say what they may say.
func (c *client) refused(what string, a *answer, codes ...string) error {
	var e s3Error
	_ = xml.Unmarshal(a.body.Bytes(), &e)
	if a.status == http.StatusServiceUnavailable {
		return fmt.Errorf("%s: 503 %s", what, e.Code)
	}
	for _, code := range codes {
		if e.Code == code {
			return &refusal{what, code}
		}
	}
	return c.many.ledger.lie("%s: answered %d %s", what, a.status, strings.TrimSpace(a.body.String()))
}

type refusal struct{ what, code string }

func (r *refusal) Error() string { return r.what + ": " + r.code }

func (a *answer) good() bool { return a.status >= 200 && a.status < 300 || a.status == 0 }

// MakeBucket makes the bucket, which may be there already.
func (c *client) MakeBucket(ctx context.Context) error {
	a, err := c.do(ctx, http.MethodPut, "/"+bucketName, nil, nil)
	if err != nil || a.good() {
		return err
	}
	err = c.refused("make bucket", a, "BucketAlreadyOwnedByYou")
	var r *refusal
	if errors.As(err, &r) {
		return nil
	}
	return err
}

// Put implements load.Target.
func (c *client) Put(ctx context.Context, key string, p []byte) error {
	if int64(c.draw(100)) < c.uploads.Load() {
		return c.upload(ctx, key, p)
	}
	a, err := c.do(ctx, http.MethodPut, "/"+bucketName+"/"+key, nil, p)
	if err != nil || a.good() {
		return err
	}
	return c.refused("put "+key, a)
}

// Create is Put of a key that must not be there.
func (c *client) Create(ctx context.Context, key string, p []byte) error {
	a, err := c.do(ctx, http.MethodPut, "/"+bucketName+"/"+key, nil, p, "If-None-Match", "*")
	if err != nil || a.good() {
		return err
	}
	return c.refused("create "+key, a, "PreconditionFailed", "ConditionalRequestConflict")
}

// upload is Put in one part, whose completion is asked for up to three times,
// of any gateway.
func (c *client) upload(ctx context.Context, key string, p []byte) error {
	path := "/" + bucketName + "/" + key
	a, err := c.do(ctx, http.MethodPost, path, url.Values{"uploads": {""}}, nil)
	if err != nil {
		return err
	}
	if !a.good() {
		return c.refused("create upload of "+key, a)
	}
	var made struct{ UploadId string }
	if err := xml.Unmarshal(a.body.Bytes(), &made); err != nil {
		return c.many.ledger.lie("create upload of %s: %v", key, err)
	}
	id := made.UploadId
	if a, err = c.do(ctx, http.MethodPut, path, url.Values{"uploadId": {id}, "partNumber": {"1"}}, p); err != nil {
		return err
	}
	if !a.good() {
		return c.refused("part of "+key, a)
	}
	list := fmt.Sprintf(`<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>%s</ETag></Part></CompleteMultipartUpload>`, a.field("ETag"))
	for range 3 {
		a, err = c.do(ctx, http.MethodPost, path, url.Values{"uploadId": {id}}, []byte(list))
		if err == nil && a.good() {
			// The answer begins before the outcome is known.
			var e struct {
				XMLName xml.Name
				Code    string
			}
			if uerr := xml.Unmarshal(a.body.Bytes(), &e); uerr == nil && e.XMLName.Local == "CompleteMultipartUploadResult" {
				return nil
			}
			err = fmt.Errorf("complete %s: %s", key, e.Code)
		} else if err == nil {
			// An earlier try may have completed it, and another write replaced it.
			err = c.refused("complete "+key, a, "NoSuchUpload")
		}
		if ctx.Err() != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return err
}

// Get implements load.Target.
func (c *client) Get(ctx context.Context, key string) ([]byte, bool, error) {
	a, err := c.do(ctx, http.MethodGet, "/"+bucketName+"/"+key, nil, nil)
	if err != nil {
		return nil, false, err
	}
	if a.good() {
		if n := a.header.Get("Content-Length"); n != fmt.Sprint(a.body.Len()) {
			return nil, false, fmt.Errorf("get %s: %d bytes of %s: cut off", key, a.body.Len(), n)
		}
		return a.body.Bytes(), true, nil
	}
	err = c.refused("get "+key, a, "NoSuchKey")
	var r *refusal
	if errors.As(err, &r) {
		return nil, false, nil
	}
	return nil, false, err
}

// Delete implements load.Target.
func (c *client) Delete(ctx context.Context, key string) error {
	a, err := c.do(ctx, http.MethodDelete, "/"+bucketName+"/"+key, nil, nil)
	if err != nil || a.good() {
		return err
	}
	return c.refused("delete "+key, a)
}
