package etcd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/etcd"
)

func TestParseURL(t *testing.T) {
	for _, c := range []struct {
		text, prefix string
		endpoints    []string
		wrong        string
	}{
		{text: "etcd://a:1,b:2,c:3/some/where/", prefix: "/some/where/", endpoints: []string{"a:1", "b:2", "c:3"}},
		{text: "etcd://a", endpoints: []string{"a:2379"}},
		{text: "etcd://a/", endpoints: []string{"a:2379"}},
		{text: "etcd://[::1]:9,[::2]", endpoints: []string{"[::1]:9", "[::2]:2379"}},
		{text: "http://a:1", wrong: "does not start with etcd://"},
		{text: "etcd://", wrong: "empty"},
		{text: "etcd://a:1,,b:2", wrong: "empty"},
		{text: "etcd://user:hidden@a:1", wrong: "credentials"},
		{text: "etcd://a:1?password=hidden", wrong: "knows ca, cert and key"},
		{text: "etcd://a:1?ca=/does/not/exist", wrong: "certificate authority"},
		{text: "etcd://a:1?cert=x", wrong: "both or none"},
		{text: "etcd://:1", wrong: "host"},
	} {
		cfg, err := etcd.ParseURL(c.text, etcd.Files{})
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) || strings.Contains(err.Error(), "hidden") {
				t.Errorf("%s: %v", c.text, err)
			}
			continue
		}
		if err != nil || cfg.Prefix != c.prefix || !reflect.DeepEqual(cfg.Endpoints, c.endpoints) || cfg.TLS != nil {
			t.Errorf("%s: %+v, %v", c.text, cfg, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("etcd://a:1,b/prefix?ca=")
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := etcd.ParseURL(text, etcd.Files{})
		if err == nil && (len(cfg.Endpoints) == 0 || strings.Contains(text, "@") && !strings.Contains(text, "/")) {
			t.Fatalf("%q: %+v", text, cfg)
		}
		for _, e := range cfg.Endpoints {
			if _, _, err := net.SplitHostPort(e); err != nil {
				t.Fatalf("%q: endpoint %q", text, e)
			}
		}
	})
}

// certificates makes an authority and a certificate for 127.0.0.1 in dir.
func certificates(t *testing.T, dir string) etcd.Files {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		must(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	must(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	return etcd.Files{CA: write("ca.pem", "CERTIFICATE", caDER), Cert: write("cert.pem", "CERTIFICATE", der), Key: write("key.pem", "PRIVATE KEY", pkcs8)}
}

// An etcd with mutual TLS, reached by a URL; without a certificate, or with
// one of another authority, nobody gets in.
func TestTLS(t *testing.T) {
	ours, theirs := certificates(t, t.TempDir()), certificates(t, t.TempDir())
	s := start(t, 1, func(c *embed.Config) {
		c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = ours.Cert, ours.Key
		c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = ours.CA, true
		c.ListenClientUrls[0].Scheme, c.AdvertiseClientUrls[0].Scheme = "https", "https"
	})
	values := url.Values{"ca": {ours.CA}, "cert": {ours.Cert}, "key": {ours.Key}}
	cfg, err := etcd.ParseURL("etcd://"+s.clients[0]+"/p?"+values.Encode(), etcd.Files{})
	if err != nil {
		t.Fatal(err)
	}
	st, err := etcd.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	mustPut(t, st, "a", "1")
	wantGet(t, st, "a", "1")
	for name, files := range map[string]etcd.Files{
		"plain": {}, "without a certificate": {CA: ours.CA}, "another authority": theirs,
		"another's certificate": {CA: ours.CA, Cert: theirs.Cert, Key: theirs.Key},
	} {
		cfg, err := etcd.ParseURL("etcd://"+s.clients[0]+"/p", files)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Timeout = time.Second
		if st, err := etcd.Open(t.Context(), cfg); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
}
