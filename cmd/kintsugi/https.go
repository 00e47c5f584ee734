package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/spf13/pflag"
)

// certLook is how often the files of a certificate are looked at, at most.
const certLook = 10 * time.Second

// httpsFlags name the certificate that S3 and the admin API are served with: both
// files, or none for plain HTTP.
type httpsFlags struct{ cert, key string }

func (h *httpsFlags) add(f *pflag.FlagSet) {
	f.StringVar(&h.cert, "https-cert", "", "certificate, with its chain, PEM: S3 and the admin API are HTTPS then; files that are renewed are read anew")
	f.StringVar(&h.key, "https-key", "", "its key, PEM")
}

// scheme is that of the URLs.
func (h *httpsFlags) scheme() string {
	if h.cert == "" {
		return "http"
	}
	return "https"
}

// load gives the configuration; nil for plain HTTP.
func (h *httpsFlags) load(log *slog.Logger) (*tls.Config, error) {
	switch {
	case *h == httpsFlags{}:
		return nil, nil
	case h.cert == "", h.key == "":
		return nil, errors.New("--https-cert and --https-key: name both, or none")
	}
	c := &certFiles{httpsFlags: *h, log: log}
	if _, err := c.current(nil); err != nil {
		return nil, fmt.Errorf("--https-cert, --https-key: %w", err)
	}
	return &tls.Config{GetCertificate: c.current, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}, nil
}

// certFiles is a certificate whose files may be replaced while it is used.
type certFiles struct {
	httpsFlags
	log *slog.Logger

	mu     sync.Mutex
	cert   *tls.Certificate
	looked time.Time    // when the files were looked at last
	seen   [2]time.Time // when they had been changed
}

// current is what tls.Config.GetCertificate wants. Where new files are no
// certificate, perhaps since only one is there so far, the old one stays.
func (c *certFiles) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cert != nil && time.Since(c.looked) < certLook {
		return c.cert, nil
	}
	c.looked = time.Now()
	var seen [2]time.Time
	for i, path := range []string{c.httpsFlags.cert, c.key} {
		if st, err := os.Stat(path); err == nil {
			seen[i] = st.ModTime()
		}
	}
	if c.cert != nil && seen == c.seen {
		return c.cert, nil
	}
	cert, err := tls.LoadX509KeyPair(c.httpsFlags.cert, c.key)
	if err != nil {
		if c.cert == nil {
			return nil, err
		}
		c.log.Warn("the new certificate cannot be used; the old one stays", "err", err)
		c.seen = seen
		return c.cert, nil
	}
	c.cert, c.seen = &cert, seen
	return c.cert, nil
}
