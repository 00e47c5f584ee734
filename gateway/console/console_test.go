package console

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"kintsugi/gateway/sigv4"
)

func newAPI(t *testing.T) *httptest.Server {
	lookup := func(key string) (string, bool) { return "secret-secret", key == "root" }
	s := httptest.NewServer(New(Config{
		Verifier: sigv4.New(sigv4.Config{Lookup: lookup, Service: Service}),
		Lookup:   lookup,
		Metrics:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "metric 1") }),
		Routes: []Route{
			{Method: "GET", Path: "/admin/v1/status", Answer: func(*http.Request) (any, error) { return map[string]int{"answer": 42}, nil }},
			{Method: "GET", Path: "/admin/v1/bad", Answer: func(*http.Request) (any, error) { return nil, &Error{409, "busy"} }},
			{Method: "GET", Path: "/admin/v1/panic", Answer: func(*http.Request) (any, error) { panic("boom") }},
			{Method: "POST", Path: "/admin/v1/stream", Stream: func(_ *http.Request, send func(any) error) error {
				for i := range 3 {
					if err := send(i); err != nil {
						return err
					}
				}
				return errors.New("ended badly")
			}},
		},
		Forward: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "forwarded 42 ", r.URL.Path) }),
	}))
	t.Cleanup(s.Close)
	return s
}

func ask(t *testing.T, s *httptest.Server, method, path string, prepare func(*http.Request)) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(r)
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func sign(secret string) func(*http.Request) {
	return func(r *http.Request) {
		sigv4.Sign(r, "root", secret, "us-east-1", Service, time.Now(), sigv4.EmptyPayload)
	}
}

func TestNothingAnswersWithoutASignature(t *testing.T) {
	s := newAPI(t)
	for _, route := range []string{"GET /metrics", "GET /debug/pprof/", "GET /debug/pprof/profile", "GET /debug/pprof/heap", "GET /debug/pprof/cmdline", "GET /debug/pprof/trace", "GET /debug/pprof/symbol", "GET /admin/v1/status", "GET /admin/v1/bad", "GET /admin/v1/panic", "POST /admin/v1/stream", "GET /admin/v1/other", "POST /admin/"} {
		method, path, _ := strings.Cut(route, " ")
		for name, prepare := range map[string]func(*http.Request){
			"unsigned": nil, "wrong secret": sign("wrong-wrong"),
			"wrong password": func(r *http.Request) { r.SetBasicAuth("root", "wrong") },
			"no password":    func(r *http.Request) { r.SetBasicAuth("nobody", "") },
		} {
			if code, text := ask(t, s, method, path, prepare); code != 403 && code != 401 || strings.Contains(text, "42") || strings.Contains(text, "metric") {
				t.Errorf("%s %s: %d %s", route, name, code, text)
			}
		}
	}
}

func TestAnswers(t *testing.T) {
	s := newAPI(t)
	for _, c := range []struct {
		route string
		code  int
		want  string
	}{
		{"GET /admin/v1/status", 200, `{"answer":42}`},
		{"GET /admin/v1/bad", 409, `{"error":"busy"}`},
		{"GET /admin/v1/panic", 500, `{"error":"internal error"}`},
		{"POST /admin/v1/stream", 200, "0\n1\n2\n" + `{"error":"ended badly"}`},
		{"GET /metrics", 200, "metric 1"},
		{"POST /admin/v1/other", 200, "forwarded 42 /admin/v1/other"},
		{"GET /", 404, notHere},
		{"GET /elsewhere", 404, notHere},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		if code, text := ask(t, s, method, path, sign("secret-secret")); code != c.code || strings.TrimSpace(text) != c.want {
			t.Errorf("%s: %d %q", c.route, code, text)
		}
	}
	basic := func(r *http.Request) { r.SetBasicAuth("root", "secret-secret") }
	if code, _ := ask(t, s, "GET", "/metrics", nil); code != 401 { // browsers ask for a password then
		t.Errorf("metrics without any authentication: %d", code)
	}
	if code, _ := ask(t, s, "GET", "/metrics", basic); code != 200 {
		t.Errorf("metrics with basic authentication: %d", code)
	}
	if code, _ := ask(t, s, "GET", "/admin/v1/status", basic); code != 403 {
		t.Errorf("status with basic authentication: %d", code)
	}
}
