// Package console serves the admin API: JSON over HTTP on an address of its
// own, another origin than users' objects. Every route asks for a
// request signed with the root credentials (Signature V4, service "admin");
// metrics and profiles also take them as HTTP basic authentication.
package console

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"time"

	"kintsugi/gateway/sigv4"
)

// Service is the name that admin requests are signed for.
const Service = "admin"

// maxBody bounds what an admin request may send, in bytes.
const maxBody = 1 << 20

// notHere is for who looks at the address with a browser.
const notHere = "This is Kintsugi's admin API; 'kintsugi admin --help' says how to ask it. There is no page to look at, and no route of this name."

// Route is one call of the API. Exactly one of Answer and Stream is set.
type Route struct {
	Method, Path string
	// Answer gives the value to be sent as JSON.
	Answer func(r *http.Request) (any, error)
	// Stream sends any number of values, one JSON text a line, as they come.
	Stream func(r *http.Request, send func(any) error) error
}

// Error is an answer other than success. Its text is for the operator.
type Error struct {
	Status  int
	Message string
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Config of the API.
type Config struct {
	// Verifier checks signatures; its service is Service.
	Verifier *sigv4.Verifier
	// Lookup gives the secret of an access key, for basic authentication.
	Lookup func(accessKey string) (secret string, ok bool)
	// Metrics answers GET /metrics.
	Metrics http.Handler
	Routes  []Route
	// Forward answers what is signed and below /admin/, and is no route; nil:
	// nothing does.
	Forward http.Handler
	Logger  *slog.Logger
}

// New gives the API's handler.
func New(cfg Config) http.Handler {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, notHere, http.StatusNotFound)
	})
	mux.HandleFunc("GET /metrics", cfg.guard(cfg.Metrics.ServeHTTP))
	mux.HandleFunc("GET /debug/pprof/", cfg.guard(pprof.Index))
	mux.HandleFunc("GET /debug/pprof/profile", cfg.guard(pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/trace", cfg.guard(pprof.Trace))
	mux.HandleFunc("GET /debug/pprof/cmdline", cfg.guard(pprof.Cmdline))
	mux.HandleFunc("GET /debug/pprof/symbol", cfg.guard(pprof.Symbol))
	for _, route := range cfg.Routes {
		mux.HandleFunc(route.Method+" "+route.Path, func(w http.ResponseWriter, r *http.Request) { cfg.serve(w, r, route) })
	}
	if cfg.Forward != nil {
		mux.HandleFunc("/admin/", func(w http.ResponseWriter, r *http.Request) {
			if err := cfg.signed(r); err != nil {
				Fail(w, err)
				return
			}
			cfg.Forward.ServeHTTP(w, r)
		})
	}
	return mux
}

// Serve is the handler of a route alone, for who is authenticated by other
// means than the root credentials.
func (r Route) Serve(logger *slog.Logger) http.HandlerFunc {
	cfg := Config{Logger: logger}
	return func(w http.ResponseWriter, req *http.Request) { cfg.answer(w, req, r) }
}

// guard lets in who is signed or knows the password: for tools that can send
// only that, such as Prometheus and go tool pprof.
func (cfg Config) guard(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !cfg.basic(r) {
			if err := cfg.signed(r); err != nil {
				w.Header().Set("WWW-Authenticate", `Basic realm="kintsugi"`)
				Fail(w, unauthorized(r, err))
				return
			}
		}
		h(w, r)
	}
}

// unauthorized is the answer to who gave no password or a wrong one, and err to
// who signed the request.
func unauthorized(r *http.Request, err error) error {
	if _, _, ok := r.BasicAuth(); ok {
		return &Error{Status: http.StatusUnauthorized, Message: "wrong user or password"}
	}
	if r.Header.Get("Authorization") == "" {
		return &Error{Status: http.StatusUnauthorized, Message: "user and password needed: HTTP basic authentication"}
	}
	return err
}

// basic checks HTTP basic authentication in constant time.
func (cfg Config) basic(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	if !ok {
		return false
	}
	secret, known := cfg.Lookup(user)
	return subtle.ConstantTimeCompare([]byte(secret), []byte(password)) == 1 && known && secret != ""
}

// signed checks the request's signature and wraps its body in the check of
// the body's hash.
func (cfg Config) signed(r *http.Request) error {
	_, payload, err := cfg.Verifier.Verify(r)
	if err != nil {
		return &Error{Status: http.StatusForbidden, Message: err.Error()}
	}
	r.Body = io.NopCloser(io.LimitReader(cfg.Verifier.Body(r, payload), maxBody))
	return nil
}

func (cfg Config) serve(w http.ResponseWriter, r *http.Request, route Route) {
	if err := cfg.signed(r); err != nil {
		Fail(w, err)
		return
	}
	cfg.answer(w, r, route)
}

// answer runs a route for who may.
func (cfg Config) answer(w http.ResponseWriter, r *http.Request, route Route) {
	defer func() {
		if p := recover(); p != nil {
			cfg.Logger.Error("admin request panicked", "path", route.Path, "panic", p)
			Fail(w, errors.New("internal error"))
		}
	}()
	w.Header().Set("Cache-Control", "no-store")
	if route.Stream == nil {
		v, err := route.Answer(r)
		if err != nil {
			Fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // the client is gone where this fails
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	err := route.Stream(r, func(v any) error {
		_ = flush.SetWriteDeadline(time.Now().Add(time.Minute))
		if err := enc.Encode(v); err != nil {
			return err
		}
		return flush.Flush()
	})
	if err != nil {
		_ = enc.Encode(map[string]string{"error": err.Error()})
	}
}

// Fail answers with an error. What is not an *Error is shown as it is: the
// operator is the reader.
func Fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var e *Error
	if errors.As(err, &e) {
		status = e.Status
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}
