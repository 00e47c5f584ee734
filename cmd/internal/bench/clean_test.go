package bench

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// endpoint takes objects, calls put for each, and list for each listing.
func endpoint(t *testing.T, put func(), list http.HandlerFunc) (address string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch {
		case r.Method == http.MethodPut:
			put()
			w.Header().Set("ETag", `"d41d8cd98f00b204e9800998ecf8427e"`)
		case r.Method == http.MethodGet && r.URL.Query().Has("list-type"):
			list(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func config(address string, op Op) (cfg Config, said func() string) {
	var mu sync.Mutex
	var all []string
	cfg = Config{
		Endpoint: address, AccessKey: "access", SecretKey: "secret-of-the-test", Region: "us-east-1", Bucket: "bkt",
		Op: op, Size: 1, Concurrency: 1, Objects: 1000, Duration: time.Hour, hurried: time.Hour,
		Say: func(text string) { mu.Lock(); all = append(all, text); mu.Unlock() },
	}
	return cfg, func() string { mu.Lock(); defer mu.Unlock(); return strings.Join(all, "\n") }
}

// TestRemovalIsBounded: where the endpoint does not answer any more, who interrupted
// the measurement does not wait for it, and is told what is left where.
func TestRemovalIsBounded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	address := endpoint(t, cancel, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	cfg, said := config(address, Put)
	cfg.hurried = 10 * time.Millisecond
	_, _ = Run(ctx, cfg) // the one operation was interrupted, or was not
	if got := said(); !strings.Contains(got, "interrupted: what is in bucket bkt under bench/") ||
		!strings.Contains(got, "not all was removed that is in bucket bkt under bench/") {
		t.Errorf("said: %s", got)
	}
}

// TestInterruptedWhilePreparing: what was made already is removed as well.
func TestInterruptedWhilePreparing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	listed := ""
	address := endpoint(t, cancel, func(w http.ResponseWriter, r *http.Request) {
		listed = r.URL.Query().Get("prefix")
		_, _ = io.WriteString(w, `<ListBucketResult><Name>bkt</Name><IsTruncated>false</IsTruncated></ListBucketResult>`)
	})
	cfg, said := config(address, Get)
	if _, err := Run(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if !strings.HasPrefix(listed, "bench/") || strings.Contains(said(), "not all") {
		t.Errorf("listed %q, said %s", listed, said())
	}
}

// TestFailedPrepareIsToldAtOnce: before what was made is removed, for an endpoint that
// fails may not answer that either.
func TestFailedPrepareIsToldAtOnce(t *testing.T) {
	refusing, asked := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			w.WriteHeader(http.StatusForbidden)
		case r.Method == http.MethodGet && r.URL.Query().Has("list-type"):
			close(asked)
			<-refusing
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer s.Close()
	cfg, said := config(strings.TrimPrefix(s.URL, "http://"), Get)
	done := make(chan error, 1)
	go func() { _, err := Run(t.Context(), cfg); done <- err }()
	<-asked
	if got := said(); !strings.Contains(got, "prepare: ") || !strings.Contains(got, "is being removed") {
		t.Errorf("while it removes it has said: %s", got)
	}
	close(refusing)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "prepare: ") {
		t.Error(err)
	}
}
