package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
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
	if err := c.look(); err != nil {
		return nil, fmt.Errorf("--https-cert, --https-key: %w", err)
	}
	return &tls.Config{GetCertificate: c.current, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}, nil
}

// certFiles is a certificate whose files may be replaced while it is used.
type certFiles struct {
	httpsFlags
	log    *slog.Logger
	cert   atomic.Pointer[tls.Certificate]
	looked atomic.Int64 // when the files were looked at last, ns since 1970

	looking sync.Mutex
	seen    [2]time.Time // when they had been changed; of who looks
}

// current is what tls.Config.GetCertificate wants. It does not wait for the files:
// their file system may hang, and new ones are used a moment later.
func (c *certFiles) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	now, last := time.Now().UnixNano(), c.looked.Load()
	if now-last >= int64(certLook) && c.looked.CompareAndSwap(last, now) {
		go func() {
			if !c.looking.TryLock() {
				return // another hangs
			}
			defer c.looking.Unlock()
			if err := c.look(); err != nil {
				c.log.Warn("the new certificate cannot be used; the old one stays", "err", err)
			}
		}()
	}
	return c.cert.Load(), nil
}

// look reads the files if they were changed. Where they are no certificate, perhaps
// since only one of them is new so far, the old one stays. One at a time does it.
func (c *certFiles) look() error {
	var seen [2]time.Time
	for i, path := range []string{c.httpsFlags.cert, c.key} {
		if st, err := os.Stat(path); err == nil {
			seen[i] = st.ModTime()
		}
	}
	if c.cert.Load() != nil && seen == c.seen {
		return nil
	}
	c.seen = seen
	cert, err := tls.LoadX509KeyPair(c.httpsFlags.cert, c.key)
	if err != nil {
		return err
	}
	c.cert.Store(&cert)
	c.looked.Store(time.Now().UnixNano())
	return nil
}
