package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"kintsugi/cmd/internal/roles"
	"kintsugi/metadata"
	"kintsugi/metadata/kv/etcd"
	"kintsugi/metadata/kv/kvtest"
	"kintsugi/repair"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/rpc/auth"
)

// lease is metadata that knows but who leads.
type lease struct {
	metadata.Leaders
	address string
}

func (l lease) Lease(_ context.Context, role string) (metadata.Lease, error) {
	if role != repair.Role {
		return metadata.Lease{}, errors.New("another role")
	}
	return metadata.Lease{Role: role, Term: 1, Holder: "h", Address: l.address}, nil
}

// TestForward: what a gateway cannot answer itself goes to the leading
// repairer, proves there who it comes from, and comes back line by line.
func TestForward(t *testing.T) {
	key, err := auth.NewKey([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	inside := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Secret-Of-The-Operator") != "" {
			t.Error("the operator's headers went on")
		}
		fmt.Fprintf(w, "%s %s\n", r.Method, r.URL.RequestURI())
		_ = http.NewResponseController(w).Flush()
		fmt.Fprintln(w, "end")
	})
	repairer := httptest.NewServer(auth.NewGuard(auth.GuardConfig{Key: key}).Wrap(inside))
	defer repairer.Close()
	ask := func(leader metadata.Leaders) (int, string) {
		h := forward(&roles.Leader{Leaders: leader, Clock: clock.System{}}, auth.NewTransport(key, http.DefaultTransport, nil), slog.New(slog.DiscardHandler))
		r := httptest.NewRequest("POST", "/admin/v1/repair?a=b", nil)
		r.Header.Set("X-Secret-Of-The-Operator", "x")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		text, _ := io.ReadAll(w.Body)
		return w.Code, string(text)
	}
	if code, text := ask(lease{address: repairer.URL}); code != 200 || text != "POST /admin/v1/repair?a=b\nend\n" {
		t.Errorf("%d %q", code, text)
	}
	if code, text := ask(lease{}); code != http.StatusServiceUnavailable || !strings.Contains(text, "no repairer leads") {
		t.Errorf("nobody leads: %d %q", code, text)
	}
	repairer.Close()
	if code, text := ask(lease{address: repairer.URL}); code != http.StatusBadGateway || !strings.Contains(text, "does not answer") {
		t.Errorf("the leader is gone: %d %q", code, text)
	}
}

func TestProcessesOfAClusterRefuseToStartWithoutSecrets(t *testing.T) {
	for _, name := range []string{envClusterSecret, envAccessKey, envSecretKey} {
		t.Setenv(name, "")
		t.Setenv(name+"_FILE", "")
	}
	if _, err := run(t, "gateway", "--metadata", "etcd://127.0.0.1:1"); !errors.Is(err, errNoCredentials) {
		t.Errorf("a gateway without credentials: %v", err)
	}
	t.Setenv(envAccessKey, "root")
	t.Setenv(envSecretKey, "root-secret")
	for _, role := range []string{"gateway", "repair"} {
		_, err := run(t, role, "--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--metadata", "etcd://127.0.0.1:1")
		if err == nil || !strings.Contains(err.Error(), "no cluster secret") {
			t.Errorf("%s without the cluster's secret: %v", role, err)
		}
		t.Setenv(envClusterSecret, strings.Repeat("s", 32))
		for _, bad := range [][]string{{"--scheme", "4-2"}, {"--log-level", "loud"}, {"--tls-cert", "only"}, {"--metadata", "http://x"}} {
			args := append([]string{role, "--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--metadata", "etcd://127.0.0.1:1"}, bad...)
			if _, err := run(t, args...); err == nil {
				t.Errorf("%v is taken", args)
			}
		}
		t.Setenv(envClusterSecret, "")
	}
}

func TestMembersThatDoNotAnswerAreSaid(t *testing.T) {
	if st := describeMembers([]etcd.Member{{Healthy: true}, {Healthy: true}, {Healthy: true}}, nil); st.Degraded != "" || st.Summary != "3 of 3 members healthy" {
		t.Errorf("%+v", st)
	}
	if st := describeMembers([]etcd.Member{{Healthy: true}, {}, {Healthy: true}}, nil); !strings.Contains(st.Degraded, "1 of 3") {
		t.Errorf("%+v", st)
	}
	if st := describeMembers(nil, errors.New("no majority")); st.Degraded != "no majority" {
		t.Errorf("%+v", st)
	}
}

// TestGatewayWaitsForTheCluster: where no repairer founded a cluster, as under a
// prefix that was mistyped, a gateway does not say that there are no buckets.
func TestGatewayWaitsForTheCluster(t *testing.T) {
	secret := strings.Repeat("s", auth.MinSecret)
	for name, value := range map[string]string{envClusterSecret: secret, envAccessKey: "root", envSecretKey: "root-secret"} {
		t.Setenv(name, value)
		t.Setenv(name+"_FILE", "")
	}
	address, _, _ := startMember(t, secret)
	s3, metadata := kvtest.FreeAddress(t), "etcd://"+address+"/kintsugi"
	start := func(args ...string) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		root := newRoot()
		root.SetArgs(args)
		root.SetOut(io.Discard)
		go func() { done <- root.ExecuteContext(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s: %v", args[0], err)
			}
		})
	}
	admin := kvtest.FreeAddress(t)
	want := func(url string, status int, text string) {
		t.Helper()
		var last string
		for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			resp, err := http.Get("http://" + url)
			if err != nil {
				last = err.Error()
				continue
			}
			answer, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if last = fmt.Sprint(resp.StatusCode, string(answer), err); resp.StatusCode == status && strings.Contains(last, text) {
				return
			}
		}
		t.Errorf("%s does not answer %d and %q, but: %s", url, status, text, last)
	}
	start("gateway", "--address", s3, "--admin-address", admin, "--metadata", metadata)
	want(admin+"/live", 200, "live")
	want(admin+"/ready", 503, "waits for a repairer to found the cluster")
	want(admin+"/admin/v1/status", 503, "waits for a repairer to found the cluster")
	want(s3+"/bucket/key", 503, "<Code>ServiceUnavailable</Code>")
	repairer := kvtest.FreeAddress(t)
	start("repair", "--address", repairer, "--admin-address", kvtest.FreeAddress(t), "--metadata", metadata)
	start("storagenode", "--name", "n1", "--address", kvtest.FreeAddress(t), "--admin-address", kvtest.FreeAddress(t), "--join", "http://"+repairer, t.TempDir())
	want(admin+"/ready", 200, "ready")
	want(s3+"/bucket/key", 403, "<Code>AccessDenied</Code>")
}

// TestReminder: a wait is told at once, again when it is for another reason, and
// now and then.
func TestReminder(t *testing.T) {
	var r reminder
	now := time.Now()
	refused, late := errors.New("connection refused"), errors.New("no leader")
	for i, c := range []struct {
		later time.Duration
		err   error
		due   bool
	}{
		{0, refused, true}, {time.Second, refused, false}, {time.Second, late, false}, {9 * time.Second, late, true},
		{time.Second, refused, false}, {58 * time.Second, late, false}, {time.Second, late, true}, {30 * time.Second, nil, true},
	} {
		if now = now.Add(c.later); r.due(now, c.err) != c.due {
			t.Errorf("%d: %v after %v: %v", i, c.err, c.later, !c.due)
		}
	}
}
