package sigv4

import (
	"crypto/subtle"
	"time"
)

// Form holds the fields of a browser's POST that concern its signature.
type Form struct {
	// Policy is the policy field as it was sent, in base64.
	Policy string
	// Algorithm, Credential, Date and Signature are the x-amz-… fields.
	Algorithm, Credential, Date, Signature string
}

// VerifyForm checks the signature of a POST form's policy. Whether the form
// keeps to the policy, and whether that has expired, is for the caller.
func (v *Verifier) VerifyForm(f Form) (Identity, error) {
	c := claim{dateTime: f.Date}
	if f.Algorithm != algorithm {
		return Identity{}, ErrQueryAlgorithm
	}
	end, ok := c.parseCredential(f.Credential)
	if !ok {
		return Identity{}, ErrQueryCredential
	}
	at, ok := parseDateTime(f.Date)
	if !ok {
		return Identity{}, ErrQueryDate
	}
	if err := v.judgeQueryScope(&c, end); err != nil {
		return Identity{}, err
	}
	switch age := v.now().Sub(at); {
	case age < -MaxSkew:
		return Identity{}, ErrNotYetValid
	case age > MaxExpires+24*time.Hour: // no signing key lives longer
		return Identity{}, ErrExpired
	}
	secret, ok := v.lookup(c.accessKey)
	if !ok || secret == "" {
		return Identity{}, ErrUnknownAccessKey
	}
	key := v.keys.get(secret, c.date, c.region, c.service)
	want := macHex(&key, append([]byte(zeroBlock), f.Policy...))
	if subtle.ConstantTimeCompare(want[:], []byte(f.Signature)) != 1 {
		return Identity{}, ErrSignature
	}
	return Identity{AccessKey: c.accessKey}, nil
}
