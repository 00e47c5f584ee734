package etcd

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
)

// Scheme is what URLs of this engine start with.
const Scheme = "etcd"

// RootUser is the user of members that Kintsugi runs.
const RootUser = "root"

// RootPassword is that user's password, which follows from the cluster's
// secret: members set it, and clients that know the secret know it, too. It
// tells nothing of the secret.
func RootPassword(clusterSecret string) (string, error) {
	if clusterSecret == "" {
		return "", errors.New("etcd: no cluster secret")
	}
	key, err := hkdf.Key(sha256.New, []byte(clusterSecret), nil, "kintsugi metadata: etcd root", 32)
	return hex.EncodeToString(key), err
}

// Files names the certificates of a connection, PEM. Empty names: none.
type Files struct{ CA, Cert, Key string }

// TLS reads the files; nil where none is named. The own certificate is read
// anew at each handshake, so that it can be renewed.
func (f Files) TLS() (*tls.Config, error) {
	if f == (Files{}) {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		text, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("certificate authority: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("certificate authority %s: no certificate in it", f.CA)
		}
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, errors.New("a certificate and its key: name both or none")
	}
	if f.Cert == "" {
		return c, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		return &pair, err
	}
	if _, err := load(); err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return c, nil
}

// ParseURL reads etcd://host:port,host:port,…/prefix?ca=FILE&cert=FILE&key=FILE.
// A host without a port gets 2379, no prefix means DefaultPrefix, and files
// named there go before those of def. Credentials are refused in it: a URL ends
// up in process lists and logs.
func ParseURL(text string, def Files) (cfg Config, err error) {
	fail := func(why string) (Config, error) {
		return Config{}, fmt.Errorf("metadata URL: %s; want etcd://host1:2379,host2:2379,host3:2379/prefix", why)
	}
	rest, ok := strings.CutPrefix(text, Scheme+"://")
	if !ok {
		return fail("it does not start with " + Scheme + "://")
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, prefix, _ := strings.Cut(rest, "/")
	if strings.Contains(hosts, "@") {
		return fail("it holds credentials, which belong into KINTSUGI_METADATA_USER and KINTSUGI_METADATA_PASSWORD")
	}
	for host := range strings.SplitSeq(hosts, ",") {
		if host == "" {
			return fail("a host is empty")
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), "2379")
		}
		if name, port, err := net.SplitHostPort(host); err != nil || name == "" || port == "" {
			return fail(fmt.Sprintf("host %q", host))
		}
		cfg.Endpoints = append(cfg.Endpoints, host)
	}
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		cfg.Prefix = "/" + prefix + "/"
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return fail("its query cannot be read")
	}
	files := def
	for name, v := range values {
		switch name {
		case "ca":
			files.CA = v[0]
		case "cert":
			files.Cert = v[0]
		case "key":
			files.Key = v[0]
		default:
			return fail(fmt.Sprintf("it knows ca, cert and key, not %q", name))
		}
	}
	cfg.TLS, err = files.TLS()
	return cfg, err
}
