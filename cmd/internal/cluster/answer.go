package cluster

import (
	"bytes"
	"io"
	"net/http"
	"strings"
)

// answer is an http.ResponseWriter that keeps what it gets.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// serve gives an error where the handler cuts the connection.
func (a *answer) serve(h http.Handler, req *http.Request) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			if cause != http.ErrAbortHandler {
				panic(cause)
			}
			err = io.ErrUnexpectedEOF
		}
	}()
	h.ServeHTTP(a, req)
	return nil
}

func (a *answer) Header() http.Header { return a.header }

// field gives a header by its name, which has no case on the wire.
func (a *answer) field(name string) string {
	for k, v := range a.header {
		if strings.EqualFold(k, name) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}
