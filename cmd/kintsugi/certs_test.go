package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tlsOf makes certificates of one authority for names, and gives their flags.
func tlsOf(t *testing.T, dir string, names ...string) map[string]*tlsFlags {
	t.Helper()
	all := map[string]*tlsFlags{}
	for _, name := range names {
		if err := makeCerts(dir, []string{name + "=127.0.0.1,localhost"}, 30, io.Discard); err != nil {
			t.Fatal(err)
		}
		all[name] = &tlsFlags{
			cert: filepath.Join(dir, name+".crt"), key: filepath.Join(dir, name+".key"), ca: filepath.Join(dir, "ca.crt"),
		}
	}
	return all
}

// startTLS starts a server with no certificate but those of cfg, and gives its URL.
// httptest's own way adds one of its own, which goes before what cfg gets.
func startTLS(s *httptest.Server, cfg *tls.Config) string {
	s.Listener = tls.NewListener(s.Listener, cfg)
	s.Start()
	return "https" + strings.TrimPrefix(s.URL, "http")
}

func TestCertsAreMadeOnceAndPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	tlsOf(t, dir, "n1", "n2")
	before := map[string]string{}
	for _, name := range []string{"ca.crt", "ca.key", "n1.crt", "n1.key", "n2.crt", "n2.key"} {
		path := filepath.Join(dir, name)
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("%s: %v, %v", name, st, err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		before[name] = string(text)
	}
	for _, args := range [][]string{{"n1"}, {"n3", "n2=10.0.0.1"}, {"ca"}, {"../x"}, {"n4=a b"}, {"n4=http://x"}, {"=x"}, {""}} {
		if err := makeCerts(dir, args, 30, io.Discard); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != len(before) {
		t.Errorf("files: %v, %v", names, err)
	}
	for name, text := range before {
		if now, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(now) != text {
			t.Errorf("%s was changed: %v", name, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if err := makeCerts(dir, []string{"n5"}, 30, io.Discard); err == nil {
		t.Error("an authority without its key was replaced")
	}
}

func TestCertsLetOnlyTheirOwnIn(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	ours := tlsOf(t, t.TempDir(), "n1", "n2")
	theirs := tlsOf(t, t.TempDir(), "n1")
	serving, _, err := ours["n1"].load(t.Context(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = nil
	url := startTLS(server, serving)
	defer server.Close()
	get := func(f *tlsFlags, withCert bool) error {
		_, calling, err := f.load(t.Context(), quiet)
		if err != nil {
			t.Fatal(err)
		}
		if !withCert {
			calling.GetClientCertificate = nil
		}
		transport := &http.Transport{TLSClientConfig: calling}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(r)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := get(ours["n2"], true); err != nil {
		t.Errorf("a process of the cluster: %v", err)
	}
	if get(theirs["n1"], true) == nil || get(ours["n2"], false) == nil {
		t.Error("others got in")
	}
	mixed := *theirs["n1"]
	mixed.ca = ours["n1"].ca // trusts the server, but shows a certificate of another authority
	if get(&mixed, true) == nil {
		t.Error("a certificate of another authority got in")
	}
	for _, bad := range []tlsFlags{
		{cert: mixed.cert}, {cert: mixed.cert, key: mixed.key}, {cert: mixed.cert, key: ours["n1"].key, ca: mixed.ca},
		{cert: mixed.cert, key: mixed.key, ca: mixed.key}, {cert: mixed.cert, key: mixed.key, ca: "nowhere"},
	} {
		if _, _, err := bad.load(t.Context(), quiet); err == nil || !strings.Contains(err.Error(), "--tls-") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// TestCertificatesEndWithTheirAuthority: one that says it is good for longer is refused
// by everybody all the same, and nobody was told that it ends.
func TestCertificatesEndWithTheirAuthority(t *testing.T) {
	dir := t.TempDir()
	soon := time.Now().AddDate(0, 0, 20).Truncate(time.Second)
	made := template("authority", soon, 0)
	made.NotBefore = time.Now().Add(-48 * time.Hour)
	made.IsCA, made.BasicConstraintsValid, made.KeyUsage = true, true, x509.KeyUsageCertSign
	if err := issue(dir, caName, made, nil, io.Discard); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	if err := makeCerts(dir, []string{"n1"}, 1095, &said); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "n1.crt"), filepath.Join(dir, "n1.key"))
	if err != nil {
		t.Fatal(err)
	}
	if got := pair.Leaf.NotAfter; !got.Equal(soon) {
		t.Errorf("it is good until %v, its authority until %v", got, soon)
	}
	if day := soon.UTC().Format(time.DateOnly); !strings.Contains(said.String(), "n1.key made, good until "+day+", when their authority ends") {
		t.Errorf("said: %s, want %s", &said, day)
	}

	ended := t.TempDir()
	made.NotAfter = time.Now().Add(-time.Hour)
	if err := issue(ended, caName, made, nil, io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := makeCerts(ended, []string{"n1"}, 1095, io.Discard); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("an authority that has ended signs: %v", err)
	}
}

// TestAuthorityIsChanged: with a file of two authorities, processes with certificates of
// either speak to each other.
func TestAuthorityIsChanged(t *testing.T) {
	dir := t.TempDir()
	old, next := tlsOf(t, filepath.Join(dir, "old"), "n1")["n1"], tlsOf(t, filepath.Join(dir, "new"), "n2")["n2"]
	var both []byte
	for _, f := range []*tlsFlags{old, next} {
		text, err := os.ReadFile(f.ca)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, text...)
	}
	bundle := filepath.Join(dir, "both.crt")
	if err := os.WriteFile(bundle, both, 0o600); err != nil {
		t.Fatal(err)
	}
	old.ca, next.ca = bundle, bundle
	quiet := slog.New(slog.DiscardHandler)
	for _, pair := range [][2]*tlsFlags{{old, next}, {next, old}} {
		serving, _, err := pair[0].load(t.Context(), quiet)
		if err != nil {
			t.Fatal(err)
		}
		_, calling, err := pair[1].load(t.Context(), quiet)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		url := startTLS(server, serving)
		transport := &http.Transport{TLSClientConfig: calling}
		resp, err := (&http.Client{Transport: transport}).Get(url)
		if err != nil {
			t.Error(err)
		} else {
			_ = resp.Body.Close()
		}
		transport.CloseIdleConnections()
		server.Close()
	}
}
