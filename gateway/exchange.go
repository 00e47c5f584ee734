package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"kintsugi/gateway/sigv4"
	"kintsugi/metadata"
)

// exchange is one request and its answer. It implements http.ResponseWriter
// around the server's, so that the router can hand it on. It is pooled, and
// belongs to the request's goroutine.
type exchange struct {
	g  *gateway
	w  http.ResponseWriter
	r  *http.Request
	op *operation

	id     string // of the request
	name   string // of the bucket, "" for none
	key    string // "" for none
	query  []parameter
	start  time.Time
	status int
	begun  bool // the answer's head is out
	out    int64

	identity sigv4.Identity
	payload  sigv4.Payload
	bucket   metadata.Bucket
	body     *requestBody

	validators  [2]string // ETag and Last-Modified, for answers to conditions
	unsatisfied string    // Content-Range of InvalidRange
	err         error     // of the operation, between it and serve
	match       mux.RouteMatch
	idValue     [1]string
}

// Header values that never change.
var (
	zero        = []string{"0"}
	retryAfter  = []string{"1"}
	serverName  = []string{"Kintsugi"}
	xmlType     = []string{"application/xml"}
	acceptBytes = []string{"bytes"}

	// ETag is spelled as S3 does, for clients that compare bytes.
	validatorNames = [2]string{"ETag", "Last-Modified"}
)

func (g *gateway) takeExchange(w http.ResponseWriter, r *http.Request) *exchange {
	x, ok := g.exchanges.Get().(*exchange)
	if !ok {
		x = &exchange{g: g}
		x.match.Vars = map[string]string{}
	}
	x.w, x.r, x.start = w, r, g.clock.Now()
	x.newID()
	x.identify(w.Header())
	return x
}

func (g *gateway) giveExchange(x *exchange) {
	query, vars := x.query[:0], x.match.Vars
	clear(x.query)
	*x = exchange{g: g, query: query}
	x.match.Vars = vars
	g.exchanges.Put(x)
}

// newID makes the request's id: unique in this process, and not likely to be
// met again from another.
func (x *exchange) newID() {
	const digits = "0123456789ABCDEF"
	n := x.g.serial.Add(1) * 0x9E3779B97F4A7C15 // odd: a bijection
	var b [16]byte
	for i := range b {
		b[i] = digits[n>>60]
		n <<= 4
	}
	x.id = string(b[:])
}

// identify sets what every answer has.
func (x *exchange) identify(h http.Header) {
	x.idValue[0] = x.id
	h["X-Amz-Request-Id"] = x.idValue[:]
	h["Server"] = serverName
}

func (x *exchange) operationName() string {
	if x.op == nil {
		return "unknown"
	}
	return x.op.name
}

// resource is the Resource of an error.
func (x *exchange) resource() string {
	switch {
	case x.name == "":
		return "/"
	case x.key == "":
		return "/" + x.name
	}
	return "/" + x.name + "/" + x.key
}

// serve answers the request or returns why not.
func (x *exchange) serve() error {
	if err := x.parseTarget(); err != nil {
		return err
	}
	if err := x.parseQuery(); err != nil {
		return err
	}
	router := x.g.routes.of(x)
	found := router.Match(x.r, &x.match)
	if found && x.match.MatchErr == nil {
		x.op, _ = x.match.Handler.(*operation)
	}
	if x.r.Method == http.MethodOptions {
		return x.preflight()
	}
	if err := x.authenticate(); err != nil {
		if errors.Is(err, sigv4.ErrAnonymous) && x.op != nil && x.op.name == "PostObject" {
			return notBuilt(x) // a form is signed inside its body
		}
		return err
	}
	if x.op == nil {
		return errMethodNotAllowed
	}
	if x.name != "" && !validBucketName(x.name) {
		return errInvalidBucketName
	}
	if len(x.key) > maxKey {
		return errKeyTooLong
	}
	if x.op.inBucket {
		if err := x.findBucket(x.g.buckets.Bucket); err != nil {
			return err
		}
	}
	x.match.Handler.ServeHTTP(x, x.r)
	return x.err
}

// preflight refuses what a browser asks before it calls from another site: no
// bucket has a CORS configuration.
func (x *exchange) preflight() error {
	if x.header("Origin") == "" {
		return errBadRequest.saying("Insufficient information. Origin request header needed.")
	}
	if x.header("Access-Control-Request-Method") == "" {
		return errBadRequest.saying("Invalid Access-Control-Request-Method: null")
	}
	return errAccessForbidden
}

// authenticate verifies the signature. For now whoever has valid credentials
// owns everything, and others may do nothing.
func (x *exchange) authenticate() error {
	var err error
	if x.identity, x.payload, err = x.g.verifier.Verify(x.r); err != nil {
		return err
	}
	if x.identity.Presigned {
		return x.liftHeaders()
	}
	return nil
}

// liftHeaders gives parameters of a presigned request that stand for headers
// (x-amz-meta-…, x-amz-acl) the place of those. They are signed with the query.
// Checksums stay where they are, and S3 does not look at them there: JavaScript's
// SDK puts that of an empty body into every URL for an upload, since it signs
// before there is a body. What no header can hold is refused, as net/http does with
// headers: an answer that gave it back would be one that clients cannot read.
func (x *exchange) liftHeaders() error {
	for _, p := range x.query {
		if len(p.name) <= 6 || !strings.EqualFold(p.name[:6], "x-amz-") {
			continue
		}
		name := http.CanonicalHeaderKey(p.name)
		switch name {
		case "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Signedheaders",
			"X-Amz-Signature", "X-Amz-Content-Sha256", "X-Amz-Security-Token", "X-Amz-Sdk-Checksum-Algorithm":
			continue
		case "X-Amz-Checksum-Algorithm", "X-Amz-Checksum-Type", "X-Amz-Checksum-Mode": // no checksums, but what is asked
		default:
			if strings.HasPrefix(name, "X-Amz-Checksum-") {
				continue
			}
		}
		if !headerName(p.name) || strings.ContainsFunc(p.value, unprintable) {
			return errInvalidArgument.saying("A parameter that stands for a header has a name or a value that no header can have: " + strconv.QuoteToASCII(p.name))
		}
		if len(x.r.Header[name]) == 0 {
			x.r.Header[name] = []string{p.value}
		}
	}
	return nil
}

// findBucket looks the bucket up and checks its owner where asked to.
func (x *exchange) findBucket(lookup func(context.Context, string) (metadata.Bucket, error)) (err error) {
	if x.bucket, err = lookup(x.r.Context(), x.name); err != nil {
		return err
	}
	return checkOwner(x.bucket, x.header("X-Amz-Expected-Bucket-Owner"))
}

// checkOwner compares with an announced owner: the id that listings show, or
// the account's access key.
func checkOwner(b metadata.Bucket, expected string) error {
	if expected == "" || expected == b.Owner || expected == ownerID(b.Owner) {
		return nil
	}
	return errAccessDenied
}

// ownerID is the canonical id of an account: 64 hexadecimal digits, as clients
// expect, that say nothing of its keys.
func ownerID(account string) string {
	sum := sha256.Sum256([]byte("kintsugi account " + account))
	return hex.EncodeToString(sum[:])
}

// header gives the first value of a header; the name is canonical.
func (x *exchange) header(canonical string) string {
	if v := x.r.Header[canonical]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// list gives all of a header that holds a list, which may take several lines.
func (x *exchange) list(canonical string) string {
	if v := x.r.Header[canonical]; len(v) > 1 {
		return strings.Join(v, ",")
	}
	return x.header(canonical)
}

// Header implements http.ResponseWriter.
func (x *exchange) Header() http.Header { return x.w.Header() }

// WriteHeader implements http.ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	x.begun, x.status = true, status
	x.w.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (x *exchange) Write(p []byte) (int, error) {
	if !x.begun {
		x.WriteHeader(http.StatusOK)
	}
	n, err := x.w.Write(p)
	x.out += int64(n)
	return n, err
}

// empty sends a head without a body.
func (x *exchange) empty(status int) error {
	if status == http.StatusOK {
		x.w.Header()["Content-Length"] = zero
	}
	x.WriteHeader(status)
	return nil
}

// sendXML sends a document, or what is left of it after keepWaiting.
func (x *exchange) sendXML(status int, o *output) {
	text := o.b
	if x.begun {
		text = text[len(xmlHead):]
	} else {
		h := x.w.Header()
		h["Content-Type"] = xmlType
		h["Content-Length"] = []string{strconv.Itoa(len(text))}
		x.WriteHeader(status)
	}
	x.setWriteDeadline()
	_, _ = x.Write(text) // the client is gone where this fails
}

// setWriteDeadline bounds how long the client may take to take what is sent
// next. The server lifts it with the end of the answer.
func (x *exchange) setWriteDeadline() {
	if d, ok := x.w.(interface{ SetWriteDeadline(time.Time) error }); ok {
		_ = d.SetWriteDeadline(time.Now().Add(x.g.timeout))
	}
}

// forsakeBody bounds how long the client may take for a body that nobody read.
// net/http takes up to 256 KiB of it before it sends the answer, and would wait
// for them for good, whoever sent the request.
func (x *exchange) forsakeBody() {
	if d, ok := x.w.(interface{ SetReadDeadline(time.Time) error }); ok && x.r.Body != nil && x.r.Body != http.NoBody {
		_ = d.SetReadDeadline(time.Now().Add(x.g.timeout / 2)) // less than what setWriteDeadline gives
	}
}

// requestBody is the verified body of a request. A client that sends nothing
// for the gateway's timeout is cut off; there is no bound on the whole.
type requestBody struct {
	*sigv4.Reader
	patient *patientBody // nil: the connection has no deadlines
}

// patientBody gives each read of a body its own time.
type patientBody struct {
	io.ReadCloser
	set   func(time.Time) error
	due   time.Time // when the deadline is to be renewed
	limit time.Duration
}

// Read implements io.Reader.
func (b *patientBody) Read(p []byte) (int, error) {
	if now := time.Now(); now.After(b.due) {
		_ = b.set(now.Add(b.limit))
		b.due = now.Add(b.limit / 4)
	}
	return b.ReadCloser.Read(p)
}

// openBody gives the body; call it once. Only the first read makes a client
// that waits for 100 Continue send it.
func (x *exchange) openBody() *requestBody {
	b := &requestBody{}
	if x.r.ContentLength == 0 && strings.EqualFold(x.header("Expect"), "100-continue") {
		// net/http asks for no empty body. But botocore, where it got another answer
		// than it waits for, takes that for the one of its next request, too.
		h := x.w.Header()
		kept := maps.Clone(h)
		clear(h)
		x.w.WriteHeader(http.StatusContinue)
		maps.Copy(h, kept)
	}
	if d, ok := x.w.(interface{ SetReadDeadline(time.Time) error }); ok && x.r.Body != nil {
		b.patient = &patientBody{ReadCloser: x.r.Body, set: d.SetReadDeadline, limit: x.g.timeout}
		x.r.Body = b.patient
	}
	b.Reader = x.g.verifier.Body(x.r, x.payload)
	x.body = b
	return b
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF && b.patient != nil {
		// What the server reads on for, to see the client leave, must not
		// time out while we work.
		_ = b.patient.set(time.Time{})
		b.patient = nil
	}
	return n, err
}
