package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kintsugi/gateway"
)

// TestDoor: who comes while it is closed waits a little, gets in if it is opened
// meanwhile, and is told why not otherwise.
func TestDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(gateway.Closed)
		d.say("it waits for rain")
		ask := func(method string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			d.ServeHTTP(w, httptest.NewRequest(method, "/bucket/a&b", nil))
			return w
		}
		began := time.Now()
		w := ask("GET")
		if text := w.Body.String(); w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(text, "<Code>ServiceUnavailable</Code>") ||
			!strings.Contains(text, "it waits for rain") || !strings.Contains(text, "<Resource>/bucket/a&amp;b</Resource>") || time.Since(began) != doorPatience {
			t.Errorf("closed, after %v: %d %v %s", time.Since(began), w.Code, w.Header(), text)
		}
		if w := ask("HEAD"); w.Code != 503 || w.Body.Len() != 0 {
			t.Errorf("HEAD: %d %s", w.Code, w.Body)
		}
		// Who closes its side after the request reads the answer all the same: 200,
		// which is what net/http says where a handler says nothing, would be a lie.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		gone := httptest.NewRecorder()
		d.ServeHTTP(gone, httptest.NewRequest("PUT", "/bucket/key", nil).WithContext(ctx))
		if gone.Code != 503 {
			t.Errorf("a client that sends no more gets %d", gone.Code)
		}
		time.AfterFunc(doorPatience/2, func() {
			d.open(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "inside") }))
		})
		began = time.Now()
		for range 2 {
			if w := ask("GET"); w.Code != 200 || w.Body.String() != "inside" || time.Since(began) != doorPatience/2 {
				t.Errorf("opened, after %v: %d %s", time.Since(began), w.Code, w.Body)
			}
		}
	})
}

// TestHealthRedirectsNobody: an answer to a path that a mux would clean is short.
func TestHealthRedirectsNobody(t *testing.T) {
	d := newDoor(adminClosed)
	d.open(http.NotFoundHandler())
	s, _ := adminServer(nil, d.withHealth())
	for path, want := range map[string]int{"/live": 200, "/ready": 200, "//live": 404, "/a/../live": 404, "/live/": 404} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "http://h/", nil)
		r.URL.Path = path
		s.Handler.ServeHTTP(w, r)
		if w.Code != want || w.Body.Len() > 100 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}
