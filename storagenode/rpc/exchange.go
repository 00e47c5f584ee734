package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// besides is the length from which a request's body is sent by a goroutine of
// its own, so that an early refusal is heard while it is on its way; a shorter
// one fits into the buffers of any connection.
const besides = 64 << 10

// errNoAnswer: the connection ended before a byte of the answer came.
var errNoAnswer = errors.New("connection was closed before the answer")

// exchange is one call on a connection, and the body of its response.
type exchange struct {
	pool *Connections
	conn *connection
	body io.Reader
	stop func() bool // ends the watch over the request's context
	// parts are what goes on: the request on its way out, and the answer. Who
	// ends the last one gives the connection back, or closes it where failed. A
	// request that fails leaves the answer alone: the reason may be in it.
	parts  atomic.Int32
	failed atomic.Bool
	last   bool // the connection is good for nothing more after this
	ended  bool // the answer was read or given up
}

// call sends a request and reads the head of its answer.
func (c *Connections) call(q *http.Request, conn *connection) (*http.Response, error) {
	ctx := q.Context()
	x := &exchange{pool: c, conn: conn}
	x.parts.Store(2)
	x.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // whatever waits returns
	var wrote error
	if q.ContentLength > besides {
		go func() { x.end(c.send(conn.Conn, q)) }() // ends with the connection
	} else {
		wrote = c.send(conn.Conn, q)
		x.end(wrote)
	}
	conn.head, conn.room = true, maxHead
	// Also where it could not be sent: the reason may be waiting.
	_, err := conn.r.Peek(1)
	silent := err != nil
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(conn.r, q)
	}
	conn.head = false
	if err == nil && resp.StatusCode < http.StatusOK {
		err = fmt.Errorf("answer %s, which nobody asked for", resp.Status)
	}
	if err == nil {
		x.body, x.last = resp.Body, resp.Close
		resp.Body = x
		return resp, nil
	}
	_ = x.Close()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case wrote != nil:
		err = wrote
	}
	if silent && conn.reused {
		err = fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return nil, err
}

// end ends a part.
func (x *exchange) end(err error) {
	if err != nil {
		x.failed.Store(true)
	}
	if x.parts.Add(-1) > 0 {
		return
	}
	if watched := x.stop(); !watched || x.failed.Load() {
		_ = x.conn.Close()
		return
	}
	x.pool.give(x.conn)
}

var errGivenUp = errors.New("the answer was not read to its end")

// Read implements io.Reader over the answer's body.
func (x *exchange) Read(p []byte) (int, error) {
	n, err := x.body.Read(p)
	switch {
	case err == nil || x.ended:
	case err == io.EOF && !x.last:
		x.ended = true
		x.end(nil)
	default:
		_ = x.Close() // always nil
	}
	return n, err
}

// Close implements io.Closer: an answer that was not read to its end is given
// up with its connection, and so is what is still on its way out.
func (x *exchange) Close() error {
	if !x.ended {
		x.ended = true
		_ = x.conn.Close()
		x.end(errGivenUp)
	}
	return nil
}

// after is a body that can be written in one go with what comes before it.
type after interface {
	WriteAfter(w io.Writer, prefix []byte) error
}

// send writes a request.
func (c *Connections) send(w io.Writer, q *http.Request) error {
	head := c.heads.get(0)
	defer c.heads.put(head)
	b, err := appendHead((*head)[:0], q)
	if err != nil {
		return err
	}
	*head = b
	switch body := q.Body.(type) {
	case after:
		return body.WriteAfter(w, b)
	case nil:
		_, err = w.Write(b)
		return err
	}
	if _, err = w.Write(b); err == nil && q.ContentLength > 0 {
		_, err = io.CopyN(w, q.Body, q.ContentLength)
	}
	return err
}

// appendHead appends a request's line and headers.
func appendHead(b []byte, q *http.Request) ([]byte, error) {
	host := q.Host
	if host == "" {
		host = q.URL.Host
	}
	uri := q.URL.RequestURI()
	if strings.ContainsAny(q.Method+host+uri, " \r\n") {
		return b, fmt.Errorf("%s %q: not a request", q.Method, uri)
	}
	b = append(append(append(b, q.Method...), ' '), uri...)
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), host...), "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, max(0, q.ContentLength), 10)
	for name, values := range q.Header {
		for _, v := range values {
			if strings.ContainsAny(name+v, "\r\n") {
				return b, fmt.Errorf("header %q: not one line", name)
			}
			b = append(append(append(append(b, "\r\n"...), name...), ": "...), v...)
		}
	}
	return append(b, "\r\n\r\n"...), nil
}
