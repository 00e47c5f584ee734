package gateway

import (
	"io"
	"net/http"
	"time"
)

// keepWaiting keeps the client of a copy from giving up while the bytes are
// written: many clients take a server that says nothing for a minute for dead,
// and copy anew. Where it takes longer than half of the gateway's timeout, the
// answer's head goes out, with success, and white space after it from time to
// time, as S3 does. What fails later cuts the connection.
//
// Until end returns the exchange is not to be written to. It may be called again.
func (x *exchange) keepWaiting() (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(x.g.timeout / 2)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			text := " "
			if !x.begun {
				x.w.Header()["Content-Type"] = xmlType
				x.WriteHeader(http.StatusOK)
				text = xmlHead
			}
			x.setWriteDeadline()
			if _, err := io.WriteString(x, text); err != nil {
				return
			}
			if f, ok := x.w.(http.Flusher); ok {
				f.Flush()
			}
		}
	}()
	ended := false
	return func() {
		if !ended {
			ended = true
			close(stop)
			<-done
		}
	}
}
