package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kintsugi/erasure"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "4096": 4096, "4KiB": 4096, "4k": 4096, "1.5 MiB": 3 << 19, "2GiB": 2 << 30, "10MB": 10e6, "7B": 7,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "-1", "4XiB", "1e300TiB", "KiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 4096: "4 KiB", 3 << 19: "1.5 MiB", 183 << 30: "183 GiB"} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{12 * time.Second: "12s", 245 * time.Second: "4m05s", 3*time.Hour + 12*time.Minute: "3h12m"} {
		if got := formatDuration(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

func TestCredentialsFileIsMadeOnceAndPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), credentialsName)
	first, made, err := loadCredentials(path)
	if err != nil || !made {
		t.Fatalf("made %v, %v", made, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Fatal("a start that may yet be refused left a file")
	}
	if err := first.keep(path); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	if len(first.SecretKey) != 40 || first.validate() != nil {
		t.Fatalf("%+v", first)
	}
	again, made, err := loadCredentials(path)
	if err != nil || made || again != first {
		t.Fatalf("made %v, same %v, %v", made, again == first, err)
	}
	other, _, err := loadCredentials(filepath.Join(t.TempDir(), credentialsName))
	if err != nil || other == first {
		t.Fatal("two stores have the same credentials")
	}
	if err := os.WriteFile(path, []byte(`{"access_key":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := loadCredentials(path); err == nil {
		t.Fatal("credentials without a secret are taken")
	}
}

func TestCredentialsFromEnvironment(t *testing.T) {
	for _, name := range []string{envAccessKey, envSecretKey, envAccessKey + "_FILE", envSecretKey + "_FILE"} {
		t.Setenv(name, "")
	}
	if _, err := credentialsFromEnv(); err != errNoCredentials {
		t.Fatalf("nothing set: %v", err)
	}
	t.Setenv(envAccessKey, "root")
	if _, err := credentialsFromEnv(); err == nil || err == errNoCredentials {
		t.Fatalf("no secret: %v", err)
	}
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("a long secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(envSecretKey+"_FILE", file)
	if c, err := credentialsFromEnv(); err != nil || c.SecretKey != "a long secret" {
		t.Fatalf("%+v, %v", c, err)
	}
	t.Setenv(envSecretKey, "another secret")
	if _, err := credentialsFromEnv(); err == nil || !strings.Contains(err.Error(), "both") {
		t.Fatalf("both set: %v", err)
	}
}

func TestSchemeOfTheServer(t *testing.T) {
	for _, c := range []struct {
		dirs int
		text string
		want erasure.Scheme
		warn bool
	}{
		{1, "", erasure.Scheme{K: 1}, true}, {6, "", erasure.Scheme{K: 4, M: 2}, false},
		{12, "", erasure.Scheme{K: 8, M: 4}, false}, {4, "3+1", erasure.Scheme{K: 3, M: 1}, false},
	} {
		cfg := serverConfig{dirs: make([]string, c.dirs)}
		if err := cfg.chooseScheme(c.text); err != nil || cfg.scheme != c.want || len(cfg.warnings) > 0 != c.warn {
			t.Errorf("%d directories, %q: %s, %v, %v", c.dirs, c.text, cfg.scheme, cfg.warnings, err)
		}
	}
	cfg := serverConfig{dirs: make([]string, 5)}
	if err := cfg.chooseScheme("4+2"); err == nil {
		t.Error("4+2 on five directories")
	}
}

func TestFlagsFromEnvironment(t *testing.T) {
	t.Setenv("KINTSUGI_ADMIN_ADDRESS", "127.0.0.1:7")
	t.Setenv("KINTSUGI_REGION", "mars")
	c := newServer()
	if err := c.ParseFlags([]string{"--region", "moon"}); err != nil {
		t.Fatal(err)
	}
	if err := c.PreRunE(c, nil); err != nil {
		t.Fatal(err)
	}
	if v := c.Flag("admin-address").Value.String(); v != "127.0.0.1:7" {
		t.Errorf("admin-address %q", v)
	}
	if v := c.Flag("region").Value.String(); v != "moon" {
		t.Errorf("the flag does not win: region %q", v)
	}
	t.Setenv("KINTSUGI_TRANSFER_MEMORY", "much")
	if err := c.PreRunE(c, nil); err == nil || !strings.Contains(err.Error(), "KINTSUGI_TRANSFER_MEMORY") {
		t.Errorf("a bad variable: %v", err)
	}
}
