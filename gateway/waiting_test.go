package gateway

import (
	"bufio"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// TestLongCopies: a copy that takes long is answered meanwhile, so that the client
// does not give up, and one that fails after that is no success.
func TestLongCopies(t *testing.T) {
	s, h := hookedSite(t, func(c *Config) { c.BodyTimeout = 400 * time.Millisecond })
	var fail atomic.Bool
	var answered atomic.Pointer[chan struct{}] // the copy goes on when it has begun to be
	h.read = func() error {
		if c := answered.Load(); c != nil {
			select {
			case <-*c:
			case <-time.After(20 * time.Second):
			}
		}
		if fail.Load() {
			return errors.New("broken")
		}
		return nil
	}
	upload := s.beginUpload("/bkt/up", nil)
	for _, c := range []call{
		{method: "PUT", target: "/bkt/copy", header: headers("x-amz-copy-source", "/bkt/k")},
		{method: "PUT", target: "/bkt/up?partNumber=1&uploadId=" + upload, header: headers("x-amz-copy-source", "/bkt/k")},
	} {
		for _, broken := range []bool{false, true} {
			fail.Store(broken)
			conn, err := net.Dial("tcp", s.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(15 * time.Second)) // before the copy would go on by itself
			begun := make(chan struct{})
			answered.Store(&begun)
			_, _ = io.WriteString(conn, c.raw(s.address))
			res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: c.method})
			if err != nil {
				t.Fatalf("%s: %v", c.target, err)
			}
			if res.StatusCode != http.StatusOK {
				t.Errorf("%s: %d", c.target, res.StatusCode)
			}
			close(begun)
			text, err := io.ReadAll(res.Body)
			if broken {
				if err == nil {
					t.Errorf("%s failed, and the answer ended well: %s", c.target, text)
				}
				continue
			}
			var doc struct{ ETag string }
			if e := xml.Unmarshal(text, &doc); err != nil || e != nil || doc.ETag != `"2063c1608d6e0baf80249c42e2be5804"` {
				t.Errorf("%s: %v %v %s", c.target, err, e, text)
			}
		}
	}
	answered.Store(nil)
	fail.Store(false)
	if a := s.must(call{method: "GET", target: "/bkt/copy"}); a.body != "value" {
		t.Errorf("%q", a.body)
	}
	if a := s.must(call{method: "PUT", target: "/bkt/quick", header: headers("x-amz-copy-source", "/bkt/k")}); a.header.Get("Content-Length") == "" {
		t.Errorf("a quick copy is not answered in one piece: %v", a.header)
	}
}
