package gateway

import (
	"crypto/rand"
	"net/http"
	"strconv"
	"time"
)

// Closed answers every request with 503, as S3 does, for a gateway that has
// nothing to answer from yet. why is for people. Serve it as what New makes.
func Closed(why string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answers(r)
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(5 * time.Second)) // of a body that nobody reads
		id := rand.Text()[:16]
		o := &output{b: []byte(xmlHead)}
		o.open("Error").text("Code", errServiceUnavailable.code).text("Message", errServiceUnavailable.message+" It is not ready yet: "+why+".").
			text("Resource", r.URL.Path).text("RequestId", id).close("Error")
		h := w.Header()
		h["Retry-After"], h["Content-Type"] = retryAfter, xmlType
		h.Set("X-Amz-Request-Id", id)
		h.Set("Connection", "close") // the body was not read
		if r.Method == http.MethodHead {
			o.b = nil
		}
		h.Set("Content-Length", strconv.Itoa(len(o.b)))
		w.WriteHeader(errServiceUnavailable.status)
		_, _ = w.Write(o.b) // the client is gone where this fails
	})
}
