package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// credentials are an access key and its secret.
type credentials struct {
	AccessKey string `json:"access_key"`
	SecretKey string `json:"secret_key"`
}

const (
	envAccessKey = "KINTSUGI_ROOT_ACCESS_KEY"
	envSecretKey = "KINTSUGI_ROOT_SECRET_KEY"
	// credentialsName is the file beside the data that the first start makes.
	credentialsName = "kintsugi-credentials.json"
)

var errNoCredentials = fmt.Errorf("no credentials: set %s and %s (or …_FILE to files that hold them)", envAccessKey, envSecretKey)

// secretFromEnv reads a variable or the file that NAME_FILE names.
func secretFromEnv(name string) (string, error) {
	value, path := os.Getenv(name), os.Getenv(name+"_FILE")
	switch {
	case value != "" && path != "":
		return "", fmt.Errorf("%s and %s_FILE are both set; set one", name, name)
	case value != strings.TrimSpace(value):
		return "", fmt.Errorf("%s begins or ends with a blank or a line's end: take it off; other processes and clients would have another one", name)
	case path == "":
		return value, nil
	}
	value, err := readSecret(path)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	return value, nil
}

// readSecret reads a secret from a file, without the blanks around it.
func readSecret(path string) (string, error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("%w: the user that runs this must be able to read it", err)
	case err != nil:
		return "", err
	case len(bytes.TrimSpace(text)) == 0:
		return "", fmt.Errorf("%s is empty", path)
	}
	warnIfOpen(logs, path)
	return string(bytes.TrimSpace(text)), nil
}

// warnIfOpen warns of a file that should be private and that everybody may read.
func warnIfOpen(w io.Writer, path string) {
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o004 != 0 {
		fmt.Fprintf(w, "kintsugi: WARNING: everybody on this machine may read %s: chmod o-rwx it\n", path)
	}
}

// credentialsFromEnv reads the root credentials; errNoCredentials where
// neither is set.
func credentialsFromEnv() (credentials, error) {
	access, err := secretFromEnv(envAccessKey)
	if err != nil {
		return credentials{}, err
	}
	secret, err := secretFromEnv(envSecretKey)
	if err != nil {
		return credentials{}, err
	}
	switch {
	case access == "" && secret == "":
		return credentials{}, errNoCredentials
	case access == "":
		return credentials{}, fmt.Errorf("%s is set, but %s is not; set both", envSecretKey, envAccessKey)
	case secret == "":
		return credentials{}, fmt.Errorf("%s is set, but %s is not; set both", envAccessKey, envSecretKey)
	}
	c := credentials{AccessKey: access, SecretKey: secret}
	return c, c.validate()
}

func (c credentials) validate() error {
	if len(c.AccessKey) < 3 || len(c.AccessKey) > 128 || strings.ContainsAny(c.AccessKey, "/,= \t\n") {
		return fmt.Errorf("%s: want 3 to 128 characters without '/', ',', '=' or blanks", envAccessKey)
	}
	if len(c.SecretKey) < 8 || len(c.SecretKey) > 128 {
		return fmt.Errorf("%s: want 8 to 128 characters", envSecretKey)
	}
	return nil
}

// loadCredentials reads the file, or makes random credentials where there is
// none; keep writes those there. made says that they are new.
func loadCredentials(path string) (c credentials, made bool, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		if err := json.Unmarshal(text, &c); err != nil {
			return c, false, fmt.Errorf("credentials file %s: %w", path, err)
		}
		if err := c.validate(); err != nil {
			return c, false, fmt.Errorf("credentials file %s: %w", path, err)
		}
		warnIfOpen(logs, path)
		return c, false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return c, false, fmt.Errorf("credentials file: %w", err)
	}
	return credentials{AccessKey: "KI" + randomText(18), SecretKey: randomText(40)}, true, nil
}

// keep writes the credentials to a new file that its owner alone can read.
func (c credentials) keep(path string) error {
	text, _ := json.MarshalIndent(c, "", "  ") // two strings: cannot fail
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = writeSecret(path, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("credentials file: %w; or set %s and %s", err, envAccessKey, envSecretKey)
	}
	return nil
}

// writeSecret writes a new file 0600 that is whole or absent.
func writeSecret(path string, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".credentials-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(text)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Link(tmp.Name(), path) // fails where another start was first
}

// randomText gives n random letters and digits.
func randomText(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails
	return base32.StdEncoding.EncodeToString(raw)[:n]
}
