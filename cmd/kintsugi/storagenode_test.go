package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kintsugi/metadata/kv/kvtest"
	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/storetest"
)

func TestClusterSecret(t *testing.T) {
	t.Setenv(envClusterSecret, "")
	t.Setenv(envClusterSecret+"_FILE", "")
	if _, _, err := clusterSecretFrom(""); err == nil || !strings.Contains(err.Error(), "kintsugi secrets") {
		t.Fatalf("no secret: %v", err)
	}
	dir := t.TempDir()
	if err := makeSecrets(dir, io.Discard); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "cluster", "secret")
	text, key, err := clusterSecretFrom(path)
	if err != nil || key == nil || len(text) < auth.MinSecret {
		t.Fatal(text, key, err)
	}
	t.Setenv(envClusterSecret+"_FILE", path)
	if again, _, err := clusterSecretFrom(""); err != nil || again != text {
		t.Fatal(again, err)
	}
	t.Setenv(envClusterSecret, "short")
	if _, _, err := clusterSecretFrom(path); err == nil {
		t.Error("two secrets are taken for one")
	}
	t.Setenv(envClusterSecret+"_FILE", "")
	if _, _, err := clusterSecretFrom(""); err == nil {
		t.Error("a short secret is taken")
	}
	if _, _, err := clusterSecretFrom(filepath.Join(dir, "nothing")); err == nil {
		t.Error("a file that is not there")
	}
}

// TestNoProcessWithoutASecret: nothing listens, nothing is formatted.
func TestNoProcessWithoutASecret(t *testing.T) {
	t.Setenv(envClusterSecret, "")
	t.Setenv(envClusterSecret+"_FILE", "")
	dir := filepath.Join(t.TempDir(), "d1")
	c := newRoot()
	c.SetArgs([]string{"storagenode", "--join", "http://127.0.0.1:1", "--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", dir})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.ExecuteContext(ctx); err == nil || !strings.Contains(err.Error(), "no cluster secret") {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// greeter welcomes every node.
type greeter struct {
	mu   sync.Mutex
	last storagenode.Announcement
}

func (g *greeter) Announce(_ context.Context, a storagenode.Announcement) (storagenode.Welcome, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = a
	return storagenode.Welcome{Cluster: storagenode.UUID{42}, Leads: true}, nil
}

func (g *greeter) announced() storagenode.Announcement {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last
}

// TestStorageNodeCommand runs the command against a repairer that welcomes it,
// over plain HTTP and over TLS, stores and reads, and stops it.
func TestStorageNodeCommand(t *testing.T) {
	for _, secure := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "TLS"}[secure]
		t.Run(name, func(t *testing.T) { runStorageNode(t, secure) })
	}
}

func runStorageNode(t *testing.T, secure bool) {
	secret := strings.Repeat("s", auth.MinSecret)
	t.Setenv(envClusterSecret, secret)
	t.Setenv(envClusterSecret+"_FILE", "")
	_, key, err := clusterSecretFrom("")
	if err != nil {
		t.Fatal(err)
	}
	flags := map[string]*tlsFlags{"n1": {}, "r1": {}}
	if secure {
		flags = tlsOf(t, t.TempDir(), "n1", "r1")
	}
	serving, calling, err := flags["r1"].load(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	g := &greeter{}
	repairer := httptest.NewUnstartedServer(auth.NewGuard(auth.GuardConfig{Key: key}).Wrap(rpc.NewMembershipHandler(g)))
	var url string
	if secure {
		url = startTLS(repairer, serving)
	} else {
		repairer.Start()
		url = repairer.URL
	}
	defer repairer.Close()

	admin := kvtest.FreeAddress(t)
	args := []string{"storagenode", "--name", "n1", "--zone", "z1", "--address", "127.0.0.1:0", "--admin-address", admin,
		"--join", url, "--log-level", "error"}
	if secure {
		args = append(args, "--tls-cert", flags["n1"].cert, "--tls-key", flags["n1"].key, "--tls-ca", flags["n1"].ca)
	}
	root := newRoot()
	root.SetOut(io.Discard)
	root.SetArgs(append(args, filepath.Join(t.TempDir(), "d1"), filepath.Join(t.TempDir(), "d2")))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	for len(g.announced().Drives) != 2 {
		select {
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	address := g.announced().Address
	if want := map[bool]string{false: "http://127.0.0.1:", true: "https://127.0.0.1:"}[secure]; !strings.HasPrefix(address, want) {
		t.Errorf("announced at %s", address)
	}

	f, err := rpc.OpenFleet(t.Context(), rpc.FleetConfig{
		Nodes:     func(context.Context) ([]string, error) { return []string{address}, nil },
		Transport: auth.NewTransport(key, rpc.NewTransport(calling), nil), Cluster: storagenode.UUID{42},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, rep := range f.Reports() {
		sh := storetest.NewShard(storagenode.ShardID{PG: 1, Blob: storetest.Blob(1)}, 200_000)
		d, state := f.Drive(rep.ID)
		if state != storagenode.DriveActive || rep.Zone != "z1" {
			t.Fatalf("%+v, %s", rep, state)
		}
		tok, err := d.Put(t.Context(), sh)
		if err == nil {
			err = d.Sync(t.Context(), tok)
		}
		p := make([]byte, len(sh.Payload))
		if err == nil {
			_, err = d.ReadAt(t.Context(), sh.ID, 0, p)
		}
		if err != nil || !bytes.Equal(p, sh.Payload) {
			t.Fatal(err)
		}
	}
	checkWindow(t, "http://"+admin, secret)
	stop()
	if err := <-ended; err != nil {
		t.Errorf("stopped with %v", err)
	}
}

// checkWindow asks the admin address with and without the secret.
func checkWindow(t *testing.T, url, secret string) {
	t.Helper()
	for path, open := range map[string]bool{"/live": true, "/metrics": false, "/debug/pprof/": false, "/debug/pprof/cmdline": false} {
		for _, password := range []string{"", "wrong", secret} {
			r, err := http.NewRequestWithContext(t.Context(), "GET", url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.SetBasicAuth("kintsugi", password)
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if want := map[bool]int{true: 200, false: 401}[open || password == secret]; resp.StatusCode != want {
				t.Errorf("%s with password %.5q: answer %d", path, password, resp.StatusCode)
			}
		}
	}
}
