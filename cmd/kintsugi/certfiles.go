package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	certLook   = 10 * time.Second // how often the files of a certificate are looked at, at most
	certWatch  = time.Hour        // and at least
	certRemind = 24 * time.Hour   // how often the log is told that one ends soon
	certSoon   = 30 * 24 * time.Hour
)

// certFiles is a certificate whose files may be replaced while it is used.
type certFiles struct {
	certFile, keyFile string
	log               *slog.Logger

	cert   atomic.Pointer[tls.Certificate]
	looked atomic.Int64 // when the files were looked at last, ns since 1970

	looking sync.Mutex
	seen    [2]os.FileInfo // nil: not there; of who looks
	told    time.Time      // when the log was told that it ends soon; of who looks
}

// openCert reads a certificate and its key, and looks after them until ctx ends.
func openCert(ctx context.Context, certFile, keyFile string, log *slog.Logger) (*certFiles, error) {
	c := &certFiles{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.look(time.Now()); err != nil {
		return nil, err
	}
	go c.watch(ctx)
	return c, nil
}

// watchCert has the log told when a certificate ends soon that others read, until ctx
// ends. Where none is named it does nothing.
func watchCert(ctx context.Context, certFile, keyFile string, log *slog.Logger) error {
	if certFile == "" || keyFile == "" {
		return nil
	}
	_, err := openCert(ctx, certFile, keyFile, log)
	return err
}

func (c *certFiles) watch(ctx context.Context) {
	t := time.NewTicker(certWatch)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			c.lookAgain()
		}
	}
}

// served is what tls.Config.GetCertificate wants.
func (c *certFiles) served(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil }

// shown is what tls.Config.GetClientCertificate wants.
func (c *certFiles) shown(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return c.current(), nil
}

// current does not wait for the files: their file system may hang, and new ones are
// used a moment later.
func (c *certFiles) current() *tls.Certificate {
	now, last := time.Now().UnixNano(), c.looked.Load()
	if now-last >= int64(certLook) && c.looked.CompareAndSwap(last, now) {
		go c.lookAgain()
	}
	return c.cert.Load()
}

// lookAgain is look, unless another hangs in it.
func (c *certFiles) lookAgain() {
	if !c.looking.TryLock() {
		return
	}
	defer c.looking.Unlock()
	if err := c.look(time.Now()); err != nil {
		c.log.Warn("the new certificate cannot be used; the old one stays", "file", c.certFile, "err", err)
	}
}

// look reads the files if they were changed. Where they are no certificate, perhaps
// since only one of them is new so far, the old one stays. One at a time does it.
func (c *certFiles) look(now time.Time) error {
	var seen [2]os.FileInfo
	for i, path := range []string{c.certFile, c.keyFile} {
		if st, err := os.Stat(path); err == nil {
			seen[i] = st
		}
	}
	used := c.cert.Load()
	if used != nil && unchanged(seen[0], c.seen[0]) && unchanged(seen[1], c.seen[1]) {
		c.remind(used.Leaf, now)
		return nil
	}
	c.seen = seen
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	if used != nil {
		c.log.Info("new certificate", "file", c.certFile, "until", cert.Leaf.NotAfter.UTC())
	}
	c.cert.Store(&cert)
	c.looked.Store(now.UnixNano())
	c.told = time.Time{}
	c.remind(cert.Leaf, now)
	return nil
}

// unchanged goes by more than the time: a file may be looked at while it is written,
// within a tick of the kernel's clock, and what is put in its place may bring its own.
func unchanged(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && os.SameFile(a, b)
}

// remind tells the log once a day of a certificate that ends soon.
func (c *certFiles) remind(leaf *x509.Certificate, now time.Time) {
	if !endsSoon(leaf, now) || now.Sub(c.told) < certRemind {
		return
	}
	c.told = now
	what := "the certificate ends soon: put a new one and its key in the place of the files, they are read anew"
	if now.After(leaf.NotAfter) {
		what = "the certificate has ended, and nobody trusts it any more: put a new one and its key in the place of the files, they are read anew"
	}
	c.log.Warn(what, "file", c.certFile, "until", leaf.NotAfter.UTC())
}

// endsSoon is in the last month of a certificate, or in the last quarter of one made
// for less than four: those are renewed later.
func endsSoon(leaf *x509.Certificate, now time.Time) bool {
	return leaf.NotAfter.Sub(now) < min(certSoon, leaf.NotAfter.Sub(leaf.NotBefore)/4)
}
