package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kintsugi/metadata/kv/kvtest"
)

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestCertificateIsRenewed: new files are used without a restart, and half of a new
// pair changes nothing.
func TestCertificateIsRenewed(t *testing.T) {
	dir := t.TempDir()
	files := tlsOf(t, dir, "a", "b")
	log := slog.New(slog.DiscardHandler)
	for _, bad := range []httpsFlags{{cert: "x"}, {key: "x"}, {"x", "y"}, {files["a"].cert, files["b"].key}} {
		if _, err := bad.load(t.Context(), log); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
	used := httpsFlags{filepath.Join(dir, "used.crt"), filepath.Join(dir, "used.key")}
	copyFile(t, files["a"].cert, used.cert)
	copyFile(t, files["a"].key, used.key)
	c, err := openCert(t.Context(), used.cert, used.key, log)
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		t.Helper()
		_ = c.look(time.Now()) // half of a pair is an error
		return c.current().Leaf.SerialNumber.String()
	}
	first := serial()
	time.Sleep(5 * time.Millisecond) // file times are no finer than the kernel's tick
	copyFile(t, files["b"].cert, used.cert)
	if serial() != first {
		t.Error("half of a new pair is used")
	}
	time.Sleep(5 * time.Millisecond)
	copyFile(t, files["b"].key, used.key)
	if serial() == first {
		t.Error("the new certificate is not used")
	}
}

// TestCertificatesOfProcessesAreRenewed: both sides of a connection between
// processes show what lies in the files by then.
func TestCertificatesOfProcessesAreRenewed(t *testing.T) {
	t.Parallel() // it waits for certLook
	dir := t.TempDir()
	made := tlsOf(t, dir, "old", "new")
	log := slog.New(slog.DiscardHandler)
	sides := map[string]*tlsFlags{}
	for _, side := range []string{"server", "client"} {
		f := &tlsFlags{filepath.Join(dir, side+".crt"), filepath.Join(dir, side+".key"), made["old"].ca}
		copyFile(t, made["old"].cert, f.cert)
		copyFile(t, made["old"].key, f.key)
		sides[side] = f
	}
	serving, _, err := sides["server"].load(t.Context(), log)
	if err != nil {
		t.Fatal(err)
	}
	_, calling, err := sides["client"].load(t.Context(), log)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	url := startTLS(server, serving)
	defer server.Close()
	// seen is whom the client and the server see on a new connection.
	seen := func() (service, client string) {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: calling.Clone(), DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.TLS.PeerCertificates[0].Subject.CommonName, string(text)
	}
	if s, c := seen(); s != "old" || c != "old" {
		t.Fatalf("server %q, client %q", s, c)
	}
	time.Sleep(5 * time.Millisecond)
	for _, f := range sides {
		copyFile(t, made["new"].cert, f.cert)
		copyFile(t, made["new"].key, f.key)
	}
	end := time.Now().Add(4 * certLook)
	for {
		s, c := seen()
		if s == "new" && c == "new" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("server still %q, client %q", s, c)
		}
		time.Sleep(certLook / 20)
	}
}

// TestCertificateThatEndsIsTold: in its last month, or quarter, the log is told, once
// a day, and again as something worse when it has ended.
func TestCertificateThatEndsIsTold(t *testing.T) {
	day := 24 * time.Hour
	from := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for days, quiet := range map[int]int{1095: 1064, 90: 67, 6: 4} {
		leaf := &x509.Certificate{NotBefore: from, NotAfter: from.Add(time.Duration(days) * day)}
		if endsSoon(leaf, from.Add(time.Duration(quiet)*day)) || !endsSoon(leaf, from.Add(time.Duration(quiet+2)*day)) {
			t.Errorf("%d days: not told between day %d and %d", days, quiet, quiet+2)
		}
	}

	var text bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := tlsOf(t, t.TempDir(), "a")["a"]
	c, err := openCert(ctx, f.cert, f.key, slog.New(slog.NewTextHandler(&text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	until := c.current().Leaf.NotAfter
	for i, step := range []struct {
		at   time.Time
		want string
	}{
		{until.Add(-8 * day), ""}, {until.Add(-5 * day), "ends soon"}, {until.Add(-5*day + time.Hour), ""},
		{until.Add(-4 * day), "ends soon"}, {until.Add(day), "has ended"},
	} {
		text.Reset()
		if err := c.look(step.at); err != nil {
			t.Fatal(err)
		}
		said := text.String()
		if (step.want == "") != (said == "") || !strings.Contains(said, step.want) || said != "" && !strings.Contains(said, f.cert) {
			t.Errorf("step %d: said %q, want %q", i, said, step.want)
		}
	}
}

// TestCertificateIsRenewedInATick: files whose times say nothing new are read anew all
// the same: one that was half there when it was looked at, and one that was put in
// another's place with a time of its own.
func TestCertificateIsRenewedInATick(t *testing.T) {
	dir := t.TempDir()
	made := tlsOf(t, dir, "a", "b")
	used := httpsFlags{filepath.Join(dir, "used.crt"), filepath.Join(dir, "used.key")}
	tick := time.Now().Add(-time.Hour)
	put := func(from, to string, half bool) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if half {
			text = text[:len(text)/2]
		}
		err = os.WriteFile(to+".new", text, 0o600)
		if err == nil {
			err = os.Chtimes(to+".new", tick, tick)
		}
		if err == nil {
			err = os.Rename(to+".new", to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(made["a"].cert, used.cert, false)
	put(made["a"].key, used.key, false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, err := openCert(ctx, used.cert, used.key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	first := c.current().Leaf.SerialNumber
	put(made["b"].key, used.key, false)
	put(made["b"].cert, used.cert, true)
	if err := c.look(time.Now()); err == nil {
		t.Error("half of a certificate is taken")
	}
	put(made["b"].cert, used.cert, false)
	if err := c.look(time.Now()); err != nil || c.current().Leaf.SerialNumber.Cmp(first) == 0 {
		t.Errorf("the new certificate is not used: %v", err)
	}
}

// TestEveryCertificateThatEndsIsTold: also that of a metadata member, and what is shown
// to one.
func TestEveryCertificateThatEndsIsTold(t *testing.T) {
	dir := t.TempDir()
	made := template("m", time.Now(), 1)
	made.NotBefore, made.DNSNames = time.Now().AddDate(0, 0, -30), []string{"m"}
	for _, name := range []string{"m", "peer"} {
		if err := issue(dir, name, made, nil, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := filepath.Join(dir, "m.crt"), filepath.Join(dir, "m.key")
	peer, peerKey := filepath.Join(dir, "peer.crt"), filepath.Join(dir, "peer.key")
	ports := func() string { return kvtest.FreeAddress(t) }
	for _, c := range []struct {
		args  []string
		files []string
	}{
		{[]string{"metadata", "--data-dir", filepath.Join(dir, "data"), "--address", ports(), "--peer-address", ports(), "--ca", cert, "--cert", cert, "--key", key, "--peer-ca", peer, "--peer-cert", peer, "--peer-key", peerKey}, []string{cert, peer}},
		{[]string{"gateway", "--address", ports(), "--admin-address", ports(), "--metadata", "etcd://" + ports(), "--metadata-ca", cert, "--metadata-cert", cert, "--metadata-key", key}, []string{cert}},
	} {
		p := exec.Command(os.Args[0], c.args...)
		p.Env = append(os.Environ(), envMain+"=1", envAccessKey+"=AKIDEXAMPLE0000", envSecretKey+"=a-secret-key-of-some-length", envClusterSecret+"="+strings.Repeat("s", 32))
		said, err := p.StderrPipe()
		if err == nil {
			err = p.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		late := time.AfterFunc(20*time.Second, func() { _ = p.Process.Kill() })
		missing := slices.Clone(c.files)
		var text strings.Builder
		for lines := bufio.NewScanner(said); len(missing) > 0 && lines.Scan(); {
			fmt.Fprintln(&text, lines.Text())
			if strings.Contains(lines.Text(), "certificate ends soon") {
				missing = slices.DeleteFunc(missing, func(f string) bool { return strings.Contains(lines.Text(), f) })
			}
		}
		late.Stop()
		_ = p.Process.Kill()
		_ = p.Wait()
		if len(missing) > 0 {
			t.Errorf("kintsugi %s does not tell of %v: %s", c.args[0], missing, &text)
		}
	}
}
