package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSecretsAreMadeOnceAndPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	if err := makeSecrets(dir, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{dir, filepath.Join(dir, "cluster"), filepath.Join(dir, "root")} {
		if st, err := os.Stat(folder); err != nil || st.Mode().Perm() != 0o700 {
			t.Fatalf("%s: %v, %v", folder, st, err)
		}
	}
	first := map[string]string{}
	for _, s := range secretFiles {
		path := filepath.Join(dir, s.name)
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("%s: %v, %v", s.name, st, err)
		}
		text, err := os.ReadFile(path)
		if err != nil || len(text) != len(s.prefix)+s.random+1 || !strings.HasPrefix(string(text), s.prefix) {
			t.Fatalf("%s holds %d bytes, %v", s.name, len(text), err)
		}
		first[s.name] = string(text)
	}
	if err := os.Remove(filepath.Join(dir, "root/secret-key")); err != nil {
		t.Fatal(err)
	}
	if err := makeSecrets(dir, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, s := range secretFiles {
		text, err := os.ReadFile(filepath.Join(dir, s.name))
		if err != nil || (string(text) == first[s.name]) == (s.name == "root/secret-key") {
			t.Fatalf("%s after the second run: %q, was %q, %v", s.name, text, first[s.name], err)
		}
	}
	t.Setenv(envAccessKey, "")
	t.Setenv(envSecretKey, "")
	t.Setenv(envAccessKey+"_FILE", filepath.Join(dir, "root/access-key"))
	t.Setenv(envSecretKey+"_FILE", filepath.Join(dir, "root/secret-key"))
	if _, err := credentialsFromEnv(); err != nil {
		t.Fatalf("a gateway refuses them: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cluster/secret"), []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := makeSecrets(dir, io.Discard); err == nil {
		t.Fatal("an empty secret is taken for one")
	}
}

// TestSecretsThatAreNone: a file that is named and empty is no wish for random
// credentials, and what a line's end has got into fits nowhere else.
func TestSecretsThatAreNone(t *testing.T) {
	dir := t.TempDir()
	empty, good := filepath.Join(dir, "empty"), filepath.Join(dir, "good")
	for path, text := range map[string]string{empty: " \n", good: " twelve letters \n"} {
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	const name = "KINTSUGI_TEST_SECRET"
	for _, c := range []struct{ value, file, want, trouble string }{
		{"", "", "", ""}, {"x y", "", "x y", ""}, {"", good, "twelve letters", ""},
		{"", empty, "", "is empty"}, {"x\n", "", "", "ends with a blank"}, {"x", good, "", "both set"}, {"", dir + "/none", "", "no such file"},
	} {
		t.Setenv(name, c.value)
		t.Setenv(name+"_FILE", c.file)
		got, err := secretFromEnv(name)
		if got != c.want || (err == nil) != (c.trouble == "") || err != nil && !strings.Contains(err.Error(), c.trouble) {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
	var said strings.Builder
	if warnIfOpen(&said, good); said.Len() > 0 {
		t.Errorf("of a private file: %s", said.String())
	}
	if err := os.Chmod(good, 0o644); err != nil {
		t.Fatal(err)
	}
	if warnIfOpen(&said, good); !strings.Contains(said.String(), "everybody on this machine may read "+good) {
		t.Errorf("of an open file: %q", said.String())
	}
}

func TestAskLive(t *testing.T) {
	lives := true
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !lives {
			http.Error(w, "not live", http.StatusServiceUnavailable)
		}
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := askLive(ctx, s.URL+"/live"); err != nil {
		t.Error(err)
	}
	lives = false
	if err := askLive(ctx, s.URL+"/live"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a process that says it does not live: %v", err)
	}
	s.Close()
	if err := askLive(ctx, s.URL+"/live"); err == nil {
		t.Error("nobody is there")
	}
}

func TestLiveURL(t *testing.T) {
	for given, want := range map[string]string{
		"127.0.0.1:9101": "http://127.0.0.1:9101/live", "http://h:1": "http://h:1/live", "https://h:1/": "https://h:1/live",
		"http://h:1/live": "http://h:1/live", "http://h:1/proxied/live": "http://h:1/proxied/live",
	} {
		if got := liveURL(given); got != want {
			t.Errorf("%s: %s, want %s", given, got, want)
		}
	}
}
