package member

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"kintsugi/metadata/kv/etcd"
)

// authority makes the key and the certificate of the members' authority: the
// same for all that know the secret.
func authority(secret string) (ed25519.PrivateKey, *x509.Certificate, error) {
	seed, err := hkdf.Key(sha256.New, []byte(secret), nil, "kintsugi metadata: authority of members", ed25519.SeedSize)
	if err != nil {
		return nil, nil, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Kintsugi metadata members"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return key, cert, err
}

// makePeerFiles writes a certificate for this member, made anew at each start,
// into dir. Its validity is that of the authority: clocks that jump must not
// stop the metadata.
func makePeerFiles(secret, dir, address string) (etcd.Files, error) {
	caKey, ca, err := authority(secret)
	if err != nil {
		return etcd.Files{}, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return etcd.Files{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return etcd.Files{}, err
	}
	t := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(2)), Subject: pkix.Name{CommonName: "Kintsugi metadata member"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return etcd.Files{}, err
	}
	if ip := net.ParseIP(host); ip != nil {
		t.IPAddresses = []net.IP{ip}
	} else {
		t.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca, public, caKey)
	if err != nil {
		return etcd.Files{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return etcd.Files{}, err
	}
	f := etcd.Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return f, err
	}
	for _, file := range []struct {
		name, kind string
		der        []byte
	}{{f.CA, "CERTIFICATE", ca.Raw}, {f.Cert, "CERTIFICATE", der}, {f.Key, "PRIVATE KEY", pkcs8}} {
		text := pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.der})
		if err := os.WriteFile(file.name+".new", text, 0o600); err != nil {
			return f, err
		}
		if err := os.Rename(file.name+".new", file.name); err != nil {
			return f, fmt.Errorf("%s: %w", file.name, err)
		}
	}
	return f, nil
}
