package sigv4

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"
)

func TestVerifyForm(t *testing.T) {
	good := Form{
		Policy: "eyJleHBpcmF0aW9uIjoiIn0=", Algorithm: algorithm, Credential: exampleScope, Date: "20130524T000000Z",
		Signature: signer.PostPresignSignatureV4("eyJleHBpcmF0aW9uIjoiIn0=", exampleTime(), exampleSecret, "us-east-1"),
	}
	for _, c := range []struct {
		name   string
		change func(*Form)
		now    time.Duration
		want   error
	}{
		{"good", func(*Form) {}, time.Hour, nil},
		{"policy changed", func(f *Form) { f.Policy += "=" }, 0, ErrSignature},
		{"signature changed", func(f *Form) { f.Signature = strings.Repeat("0", 64) }, 0, ErrSignature},
		{"no signature", func(f *Form) { f.Signature = "" }, 0, ErrSignature},
		{"algorithm", func(f *Form) { f.Algorithm = "" }, 0, ErrQueryAlgorithm},
		{"credential", func(f *Form) { f.Credential = "a/b" }, 0, ErrQueryCredential},
		{"region", func(f *Form) { f.Credential = strings.Replace(exampleScope, "east", "west", 1) }, 0, ErrQueryCredential},
		{"key", func(f *Form) { f.Credential = "x" + exampleScope }, 0, ErrUnknownAccessKey},
		{"date", func(f *Form) { f.Date = "today" }, 0, ErrQueryDate},
		{"other day", func(f *Form) { f.Date = "20130525T000000Z" }, 0, ErrQueryCredential},
		{"early", func(*Form) {}, -time.Hour, ErrNotYetValid},
		{"old", func(*Form) {}, 9 * 24 * time.Hour, ErrExpired},
	} {
		f := good
		c.change(&f)
		id, err := exampleVerifier(exampleTime().Add(c.now)).VerifyForm(f)
		if !errors.Is(err, c.want) || (err == nil) != (id.AccessKey == exampleKey) {
			t.Errorf("%s: %v, %v, want %v", c.name, id, err, c.want)
		}
	}
}
