package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kintsugi/metadata/kv/kvtest"
)

// TestHTTPS: S3 and the admin API are served with a certificate, and commands reach
// them.
func TestHTTPS(t *testing.T) {
	for name, value := range map[string]string{envAccessKey: "root", envSecretKey: "root-secret"} {
		t.Setenv(name, value)
		t.Setenv(name+"_FILE", "")
	}
	certs := t.TempDir()
	files := tlsOf(t, certs, "front")["front"]
	t.Setenv("SSL_CERT_FILE", files.ca)
	text, err := os.ReadFile(files.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 20 * time.Second}

	s3, admin := kvtest.FreeAddress(t), kvtest.FreeAddress(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	root := newRoot()
	var greeting strings.Builder
	root.SetOut(&greeting)
	root.SetArgs([]string{"server", "--log-level", "error", "--address", s3, "--admin-address", admin, "--https-cert", files.cert, "--https-key", files.key,
		filepath.Join(t.TempDir(), "d1"), filepath.Join(t.TempDir(), "d2")})
	go func() { done <- root.ExecuteContext(ctx) }()
	var last error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if last = askLive(t.Context(), "https://"+admin+"/ready"); last == nil {
			break
		}
	}
	if last != nil {
		t.Fatal(last)
	}
	for url, want := range map[string]string{
		"https://" + s3 + "/b/k":     "<Code>AccessDenied</Code>",
		"https://" + admin + "/live": "live",
		"http://" + s3 + "/b/k":      "HTTPS server",
	} {
		resp, err := client.Get(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		answer, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || !strings.Contains(string(answer), want) || resp.ProtoMajor != 1 {
			t.Errorf("%s: %s %q, %v", url, resp.Proto, answer, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if text := greeting.String(); !strings.Contains(text, "https://"+s3) || !strings.Contains(text, "https://"+admin) || strings.Contains(text, "http://") {
		t.Errorf("greeting: %s", text)
	}
}
