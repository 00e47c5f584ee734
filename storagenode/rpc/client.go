package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/rpc/auth"
)

// Config is what a Client needs. Address and Transport must be set.
type Config struct {
	// Address is the node's base URL, such as http://10.0.0.5:9100.
	Address string
	// Transport signs and verifies; one for all clients of a process.
	Transport *auth.Transport
	Clock     clock.Clock // nil: the system's
	// OpTime bounds each call, whatever its context says. 0: 30 s.
	OpTime time.Duration
	// Calls bounds those under way to one drive; more wait. 0: 128.
	Calls int
}

// Client speaks to one node. Safe for concurrent use.
type Client struct {
	cfg     Config
	base    *url.URL
	buffers buffers
	watch   watch
}

// watch is told of calls and how they end; the Fleet's breakers live on it. All
// nil for a client of its own.
type watch struct {
	allow func() error // why a call need not be tried, or go on
	// began says that a call is under way until ended; giveUp ends it where allow
	// says that it need not go on.
	began     func(giveUp context.CancelFunc) (ended func())
	answered  func()       // by the node itself, whatever it said
	failed    func(error)  // the connection, or what came over it
	silent    func()       // no answer for long
	otherLife func(*Drive) // the drive was opened anew
}

// silence is how long a call waits before that says something of the node. A
// reader that does without the drive waits a little longer.
const silence = 200 * time.Millisecond

// errSilent: a call's time was up.
var errSilent = errors.New("no answer")

// NewClient makes a client; nothing is sent.
func NewClient(cfg Config) (*Client, error) {
	base, err := parseAddress(cfg.Address)
	if err != nil {
		return nil, err
	}
	cfg.Clock = systemClock(cfg.Clock)
	if cfg.OpTime <= 0 {
		cfg.OpTime = 30 * time.Second
	}
	if cfg.Calls <= 0 {
		cfg.Calls = 128
	}
	return &Client{cfg: cfg, base: base}, nil
}

func parseAddress(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("address %q: want a URL such as http://10.0.0.5:9100", address)
	}
	if u.Path == "" {
		u.Path = "/" // JoinPath would make a relative one
	}
	return u, nil
}

// NodeReports is what a node says of itself and of its drives.
type NodeReports struct {
	Cluster storagenode.UUID
	Name    string
	Drives  []storagenode.DriveReport
	// Lives are those of the drives that are open.
	Lives map[storagenode.DriveID]uint64
}

// lookQuery asks a node to look at its drives before it reports.
const lookQuery = "look=1"

// maxReports bounds what a node may say of its drives, in bytes.
const maxReports = 1 << 20

// Reports asks the node for its drives; with look, after it has looked at them
// that moment.
func (c *Client) Reports(ctx context.Context, look bool) (NodeReports, error) {
	out := NodeReports{Lives: map[storagenode.DriveID]uint64{}}
	u := c.base.JoinPath("/v1/reports")
	if look {
		u.RawQuery = lookQuery
	}
	err := c.exchange(ctx, http.MethodGet, u, auth.NewBody(nil, nil), func(a *auth.Answer) error {
		text, err := io.ReadAll(io.LimitReader(a, maxReports))
		if err != nil {
			return err
		}
		var all wireReports
		if err := json.Unmarshal(text, &all); err != nil {
			return fmt.Errorf("reports: %w", err)
		}
		out.Cluster, out.Name = all.Cluster, all.Name
		for _, r := range all.Drives {
			r.DriveReport.Replaces = r.Replaces
			out.Drives = append(out.Drives, r.DriveReport)
			if r.Life != 0 {
				out.Lives[r.ID] = r.Life
			}
		}
		return nil
	})
	return out, err
}

// Replace has the node format the empty directory of a place that it held back
// – on another file system than its drive was – as that drive's replacement.
func (c *Client) Replace(ctx context.Context, dir string) error {
	err := c.exchange(ctx, http.MethodPost, c.base.JoinPath("/v1/replace"), auth.NewBody([]byte(dir), nil), oneFrame(nil))
	if err != nil {
		return fmt.Errorf("replace %s: %w", dir, err)
	}
	return nil
}

// exchange sends a request and has its answer used. Every error of the way is
// ErrUnavailable, but for the context's own.
func (c *Client) exchange(ctx context.Context, method string, u *url.URL, body *auth.Body, use func(*auth.Answer) error) error {
	timed, cancel := context.WithTimeout(ctx, c.cfg.OpTime)
	defer cancel()
	ended, err := c.watch.call(cancel)
	if err != nil {
		return err
	}
	defer ended()
	return c.send(ctx, timed, method, u, body, use)
}

// call has a call watched until ended, if it may be tried.
func (w *watch) call(giveUp context.CancelFunc) (ended func(), err error) {
	if w.began == nil {
		return func() {}, nil
	}
	alarm := time.AfterFunc(silence, w.silent)
	under := w.began(giveUp)
	ended = func() { alarm.Stop(); under() }
	if err = w.allow(); err != nil { // after that: whoever refuses later gives it up
		ended()
	}
	return ended, err
}

// send is exchange within a bound of the caller's; ctx is whose end is not the
// node's fault.
func (c *Client) send(ctx, timed context.Context, method string, u *url.URL, body *auth.Body, use func(*auth.Answer) error) error {
	r := &http.Request{
		Method: method, URL: u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: body,
	}
	resp, err := c.cfg.Transport.RoundTrip(r.WithContext(timed))
	defer body.Release() // the transport may still be sending
	if err != nil {
		return c.ended(ctx, timed, err)
	}
	a := resp.Body.(*auth.Answer)
	defer a.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		err = use(a)
	case http.StatusNotFound:
		err = errNoSuchCall
	default:
		err = fmt.Errorf("answer %d to %s %s: %w", resp.StatusCode, method, u.Path, storagenode.ErrUnavailable)
	}
	var said *remoteError
	if err == nil || err == io.EOF || errors.As(err, &said) {
		if c.watch.answered != nil {
			c.watch.answered()
		}
		return err
	}
	return c.ended(ctx, timed, err)
}

// ended says what a call that got no whole answer means, and tells the watch.
func (c *Client) ended(ctx, timed context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("node %s: %w", c.base.Host, ctx.Err())
	case timed.Err() != nil:
		if c.watch.allow != nil {
			if why := c.watch.allow(); why != nil {
				return fmt.Errorf("node %s: given up: %w", c.base.Host, why)
			}
		}
		return fmt.Errorf("node %s: %w for %s: %w", c.base.Host, errSilent, c.cfg.OpTime, storagenode.ErrUnavailable)
	}
	if c.watch.failed != nil && !errors.Is(err, auth.ErrBusy) {
		c.watch.failed(err)
	}
	return fmt.Errorf("node %s: %w: %w", c.base.Host, storagenode.ErrUnavailable, err)
}

// Drive gives a drive of the node, bound to a life of it, as Reports told it.
// Its tokens are good for Sync on this very Drive.
func (c *Client) Drive(id storagenode.DriveID, life uint64) *Drive {
	d := &Drive{client: c, id: id, life: life, places: make(chan struct{}, c.cfg.Calls), urls: map[string]*url.URL{}}
	for _, op := range []string{"put", "puts", "sync", "read", "stat", "list", "delete", "epoch", "drop", "scrub"} {
		d.urls[op] = c.base.JoinPath("/v1/drives", id.String(), op)
	}
	d.stage.waiting.Take, d.stage.waiting.Send = takeStaged, d.sendStaged
	return d
}

// String names the node in messages.
func (c *Client) String() string { return strings.TrimSuffix(c.base.String(), "/") }
