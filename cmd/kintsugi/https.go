package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/pflag"
)

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

// load gives the configuration; nil for plain HTTP. The files are looked after until
// ctx ends.
func (h *httpsFlags) load(ctx context.Context, log *slog.Logger) (*tls.Config, error) {
	switch {
	case *h == httpsFlags{}:
		return nil, nil
	case h.cert == "", h.key == "":
		return nil, errors.New("--https-cert and --https-key: name both, or none")
	}
	c, err := openCert(ctx, h.cert, h.key, log)
	if err != nil {
		return nil, fmt.Errorf("--https-cert, --https-key: %w", err)
	}
	return &tls.Config{GetCertificate: c.served, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}, nil
}
