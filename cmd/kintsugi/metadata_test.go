package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kintsugi/metadata/kv/etcd"
	"kintsugi/metadata/kv/etcd/member"
	"kintsugi/metadata/kv/kvtest"
)

// startMember runs a metadata member in this process; stop ends it as SIGTERM
// does.
func startMember(t *testing.T, secret string, change ...func(*member.Config)) (address, admin string, stop func()) {
	t.Helper()
	address, admin = kvtest.FreeAddress(t), kvtest.FreeAddress(t)
	cfg := member.Config{
		Name: "m1", Dir: filepath.Join(t.TempDir(), "m1"), Secret: secret, Address: address, PeerAddress: kvtest.FreeAddress(t),
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- runMember(ctx, cfg, admin, io.Discard) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	for range 600 {
		if resp, err := http.Get("http://" + admin + "/live"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return address, admin, stop
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the member does not get live")
	return "", "", nil
}

// run runs a command line in this process.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestMetadataMember(t *testing.T) {
	const secret = "a cluster secret for tests, long enough"
	address, admin, stop := startMember(t, secret)
	get := func(password string) (int, string) {
		r, _ := http.NewRequest("GET", "http://"+admin+"/metrics", nil)
		if password != "" {
			r.SetBasicAuth("prometheus", password)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	for _, password := range []string{"", "another"} {
		if code, text := get(password); code != http.StatusUnauthorized || strings.Contains(text, "etcd_") {
			t.Fatalf("metrics for %q: %d", password, code)
		}
	}
	if code, text := get(secret); code != http.StatusOK || !strings.Contains(text, "etcd_server_has_leader 1") {
		t.Fatalf("metrics: %d %.200s", code, text)
	}
	where := "--metadata=etcd://" + address
	if text, err := run(t, "admin", "metadata", "members", where); err == nil {
		t.Fatalf("without the secret: %s", text)
	}
	t.Setenv("KINTSUGI_CLUSTER_SECRET", secret)
	text, err := run(t, "admin", "metadata", "members", "--json", where)
	var answer struct{ Members []etcd.Member }
	if err != nil || json.Unmarshal([]byte(text), &answer) != nil || len(answer.Members) != 1 || !answer.Members[0].Leader || !answer.Members[0].Healthy {
		t.Fatalf("%s, %v", text, err)
	}
	if text, err = run(t, "admin", "metadata", "members", where); err != nil || !strings.Contains(text, "leader") {
		t.Fatalf("%s, %v", text, err)
	}
	peer := kvtest.FreeAddress(t)
	if text, err = run(t, "admin", "metadata", "members", "add", peer, where); err != nil {
		t.Fatal(err)
	}
	id := strings.Fields(text)[1]
	if text, err = run(t, "admin", "metadata", "members", where); err != nil || !strings.Contains(text, "not started") {
		t.Fatalf("%s, %v", text, err)
	}
	if _, err = run(t, "admin", "metadata", "members", "promote", id, where); err == nil {
		t.Fatal("promoted a member that was never started")
	}
	if _, err = run(t, "admin", "metadata", "members", "remove", "nonsense", where); err == nil {
		t.Fatal("removed nonsense")
	}
	if text, err = run(t, "admin", "metadata", "members", "remove", "--json", id, where); err != nil {
		t.Fatalf("%s, %v", text, err)
	}
	var told map[string]string
	if err := json.Unmarshal([]byte(text), &told); err != nil || told["removed"] != id {
		t.Fatalf("%s, %v", text, err)
	}
	stop()
	if _, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		t.Fatal("still listens after it was stopped")
	}
}

// TestMetadataMemberAnswersWhileItWaits: a member that waits for others says so at
// its admin address, which takes connections from the start.
func TestMetadataMemberAnswersWhileItWaits(t *testing.T) {
	address, peer, admin := kvtest.FreeAddress(t), kvtest.FreeAddress(t), kvtest.FreeAddress(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- runMember(ctx, member.Config{
			Name: "m1", Dir: filepath.Join(t.TempDir(), "m1"), Secret: "a cluster secret for tests, long enough",
			Address: address, PeerAddress: peer, Cluster: "m1=" + peer + ",m2=" + kvtest.FreeAddress(t), Logger: slog.New(slog.DiscardHandler),
		}, admin, io.Discard)
	}()
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, path := range []string{"/live", "/metrics"} {
		resp, err := client.Get("http://" + admin + path)
		for end := time.Now().Add(30 * time.Second); errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(end); { // it is not there yet
			resp, err = client.Get("http://" + admin + path)
		}
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "waits for the other first members") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestMetadataMemberOverTLS: a certificate proves where a request comes from, the
// password that follows from the secret who asks: the name in the certificate,
// which etcd would take for a user, is none of its users.
func TestMetadataMemberOverTLS(t *testing.T) {
	const secret = "a cluster secret for tests, long enough"
	files := tlsOf(t, t.TempDir(), "m1", "g1")
	address, _, _ := startMember(t, secret, func(c *member.Config) {
		c.Files = etcd.Files{CA: files["m1"].ca, Cert: files["m1"].cert, Key: files["m1"].key}
	})
	t.Setenv("KINTSUGI_CLUSTER_SECRET", secret)
	g1 := files["g1"]
	text, err := run(t, "admin", "metadata", "members", "--metadata=etcd://"+address, "--metadata-ca", g1.ca, "--metadata-cert", g1.cert, "--metadata-key", g1.key)
	if err != nil || !strings.Contains(text, "leader") {
		t.Fatalf("%s, %v", text, err)
	}
	if text, err = run(t, "admin", "metadata", "members", "--metadata=etcd://"+address, "--metadata-ca", g1.ca); err == nil {
		t.Fatalf("without a certificate: %s", text)
	}
}

// TestMetadataFilesOfTheEnvironment: what a gateway's file of variables says of the
// metadata holds for the commands that speak to it as well.
func TestMetadataFilesOfTheEnvironment(t *testing.T) {
	made := tlsOf(t, t.TempDir(), "a", "b")
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	url := "etcd://127.0.0.1:1"
	set := func(ca, cert, key string) {
		t.Setenv("KINTSUGI_METADATA_CA", ca)
		t.Setenv("KINTSUGI_METADATA_CERT", cert)
		t.Setenv("KINTSUGI_METADATA_KEY", key)
	}
	for _, command := range [][]string{
		{"admin", "metadata", "members", "--metadata", url},
		{"admin", "metadata", "dump", "--from", url, "--to", filepath.Join(t.TempDir(), "dump")},
	} {
		a := made["a"]
		for _, files := range [][3]string{{nowhere, a.cert, a.key}, {a.ca, nowhere, a.key}, {a.ca, a.cert, nowhere}} {
			set(files[0], files[1], files[2])
			if _, err := run(t, command...); err == nil || !strings.Contains(err.Error(), nowhere) {
				t.Errorf("kintsugi %s with %v: %v", strings.Join(command[:3], " "), files, err)
			}
		}
	}
	set(nowhere, nowhere, nowhere) // what is named goes before
	a := made["a"]
	_, err := run(t, "admin", "metadata", "members", "--metadata", url, "--metadata-ca", a.ca, "--metadata-cert", a.cert, "--metadata-key", a.key)
	if err == nil || strings.Contains(err.Error(), nowhere) {
		t.Errorf("with flags: %v", err)
	}
}
