package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	caName = "ca"
	caDays = 3650
	// certLead is how long before now certificates begin, for clocks that are
	// behind.
	certLead = 24 * time.Hour
)

func newCerts() *cobra.Command {
	var dir string
	var days int
	c := &cobra.Command{
		Use:   "certs [flags] NAME[=HOST,...]...",
		Short: "Make certificates for TLS between the processes of a cluster",
		Long: `Makes the files of mutual TLS between the processes of a cluster: an authority
(ca.crt, ca.key) at the first run, and for each NAME a certificate and a key
(NAME.crt, NAME.key) that it signed. All can be read by their owner alone, and
none is ever overwritten.

A certificate is good for its NAME and for the HOSTs behind it, host names and
IP addresses: everything that other processes use to reach this one. An authority
is good for ten years, and no certificate for longer than its authority.

Give each process ca.crt, its own certificate and its own key:

  --tls-ca ca.crt --tls-cert n1.crt --tls-key n1.key

Processes then speak TLS to each other and take no connection without a
certificate of this authority; addresses begin with https://. They still need
the cluster's secret, which signs every request.

Keep ca.key away from the machines: it is needed to make further certificates,
here, in the same directory, and for nothing else. To renew a certificate,
remove its two files, run this again and put the new ones where the process has
the old: connections made from then on use them, without a restart. In the
last month of a certificate its process says so in its log, once a day.

To change the authority, make certificates in another directory; give each process,
one after the other, a --tls-ca file with both ca.crt, one behind the other, and
restart it; then put the new certificates in place; then take the old ca.crt out in
the same way.`,
		Example: `  kintsugi certs --dir certs n1=10.0.0.1,n1.example.com n2=10.0.0.2
  kintsugi certs --dir certs gateway1=10.0.1.1`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return makeCerts(dir, args, days, c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&dir, "dir", ".", "directory of the files")
	c.Flags().IntVar(&days, "days", 1095, "for how long the certificates are good")
	fromEnvironment(c)
	return c
}

// subject is what a certificate is made for.
type subject struct {
	name  string
	hosts []string
}

func parseSubject(text string) (subject, error) {
	name, hosts, _ := strings.Cut(text, "=")
	s := subject{name: name}
	if name == "" || name == caName || strings.ContainsAny(name, "/\\ \t\n*") || strings.HasPrefix(name, ".") {
		return s, fmt.Errorf("%q: want NAME or NAME=HOST,HOST; a name is that of its files, and not %q", text, caName)
	}
	for h := range strings.SplitSeq(hosts, ",") {
		if strings.ContainsAny(h, "/ \t\n") || strings.Contains(h, ":") && net.ParseIP(h) == nil {
			return s, fmt.Errorf("%q: %q is no host name and no IP address", text, h)
		}
		if h != "" {
			s.hosts = append(s.hosts, h)
		}
	}
	return s, nil
}

// makeCerts makes what args name, or nothing.
func makeCerts(dir string, args []string, days int, out io.Writer) error {
	if days < 1 || days > caDays {
		return fmt.Errorf("--days %d: want 1 to %d", days, caDays)
	}
	var all []subject
	for _, a := range args {
		s, err := parseSubject(a)
		if err != nil {
			return err
		}
		for _, suffix := range []string{".crt", ".key"} {
			if _, err := os.Lstat(filepath.Join(dir, s.name+suffix)); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s is there already; it is not overwritten", filepath.Join(dir, s.name+suffix))
			}
		}
		all = append(all, s)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	now := time.Now()
	ca, err := authority(dir, now, out)
	if err != nil {
		return err
	}
	for _, s := range all {
		t := template(s.name, now, days)
		if t.NotAfter.After(ca.Leaf.NotAfter) { // nobody would trust it any longer, whatever it says
			t.NotAfter = ca.Leaf.NotAfter
		}
		t.KeyUsage = x509.KeyUsageDigitalSignature
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		for _, h := range append([]string{s.name}, s.hosts...) {
			if ip := net.ParseIP(h); ip != nil {
				t.IPAddresses = append(t.IPAddresses, ip)
			} else {
				t.DNSNames = append(t.DNSNames, h)
			}
		}
		if err := issue(dir, s.name, t, ca, out); err != nil {
			return err
		}
	}
	return nil
}

// authority loads the authority of a directory, or makes it.
func authority(dir string, now time.Time, out io.Writer) (*tls.Certificate, error) {
	crt, key := filepath.Join(dir, caName+".crt"), filepath.Join(dir, caName+".key")
	_, crtErr := os.Lstat(crt)
	_, keyErr := os.Lstat(key)
	if errors.Is(crtErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		t := template("Kintsugi cluster authority", now, caDays)
		t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		if err := issue(dir, caName, t, nil, out); err != nil {
			return nil, err
		}
	}
	ca, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		return nil, fmt.Errorf("the authority: %w", err)
	}
	if !ca.Leaf.IsCA {
		return nil, fmt.Errorf("%s is not an authority's certificate", crt)
	}
	if now.After(ca.Leaf.NotAfter) {
		return nil, fmt.Errorf("the authority of %s has ended (%s); another directory gets another, which all processes need then", crt, ca.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &ca, nil
}

func template(name string, now time.Time, days int) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // never fails
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-certLead), NotAfter: now.AddDate(0, 0, days),
	}
}

// issue makes a key and a certificate that ca signs (nil: itself), and writes
// both.
func issue(dir, name string, t *x509.Certificate, ca *tls.Certificate, out io.Writer) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	parent, signer := t, any(key)
	if ca != nil {
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	crt, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for suffix, block := range map[string]*pem.Block{
		".key": {Type: "PRIVATE KEY", Bytes: der}, ".crt": {Type: "CERTIFICATE", Bytes: crt},
	} {
		if err := writeSecret(filepath.Join(dir, name+suffix), pem.EncodeToMemory(block)); err != nil {
			return fmt.Errorf("write %s: %w", name+suffix, err)
		}
	}
	until := t.NotAfter.UTC().Format(time.DateOnly)
	if ca != nil && t.NotAfter.Equal(ca.Leaf.NotAfter) {
		until += ", when their authority ends"
	}
	fmt.Fprintf(out, "%s and %s made, good until %s\n", filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"), until)
	return nil
}
