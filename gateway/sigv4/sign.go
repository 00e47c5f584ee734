package sigv4

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// UnsignedPayload is the payload hash of a body that is not hashed.
const UnsignedPayload = unsignedPayload

// EmptyPayload is the payload hash of an empty body.
const EmptyPayload = emptySHA256

// Sign signs a request that is to be sent: it sets X-Amz-Date,
// X-Amz-Content-Sha256 and Authorization. Signed are the host, Content-Type,
// Content-MD5 and every x-amz-* header, so those must be set before.
// payloadSHA256 is the body's SHA-256 in hex, UnsignedPayload or EmptyPayload.
func Sign(r *http.Request, accessKey, secretKey, region, service string, now time.Time, payloadSHA256 string) {
	c := newClaim(accessKey, region, service, now)
	r.Header.Del("Authorization")
	r.Header.Set("X-Amz-Date", c.dateTime)
	r.Header.Set("X-Amz-Content-Sha256", payloadSHA256)
	c.signedHeaders = headersToSign(r.Header)
	signature := c.sign(r, secretKey, payloadSHA256)
	r.Header.Set("Authorization", algorithm+" Credential="+accessKey+"/"+c.scope+
		", SignedHeaders="+c.signedHeaders+", Signature="+signature)
}

// Presign turns a request into one that anybody can send until it expires:
// it adds the signature to the query. Expiry counts in whole seconds and is
// at most MaxExpires. The body is not signed, unless an X-Amz-Content-Sha256
// header is set, which the sender then must send too.
func Presign(r *http.Request, accessKey, secretKey, region, service string, now time.Time, expires time.Duration) {
	c := newClaim(accessKey, region, service, now)
	c.presigned = true
	c.signedHeaders = headersToSign(r.Header)
	query := r.URL.RawQuery
	if query != "" {
		query += "&"
	}
	query += "X-Amz-Algorithm=" + algorithm +
		"&X-Amz-Credential=" + url.QueryEscape(accessKey+"/"+c.scope) +
		"&X-Amz-Date=" + c.dateTime +
		"&X-Amz-Expires=" + strconv.FormatInt(int64(expires/time.Second), 10) +
		"&X-Amz-SignedHeaders=" + url.QueryEscape(c.signedHeaders)
	r.URL.RawQuery = query
	content := unsignedPayload
	if sum := r.Header.Get("X-Amz-Content-Sha256"); sum != "" {
		content = sum
	}
	r.URL.RawQuery += "&X-Amz-Signature=" + c.sign(r, secretKey, content)
}

func newClaim(accessKey, region, service string, now time.Time) claim {
	dateTime := now.UTC().Format(dateForm)
	return claim{
		accessKey: accessKey, region: region, service: service,
		dateTime: dateTime, date: dateTime[:8],
		scope: dateTime[:8] + "/" + region + "/" + service + "/" + terminal,
	}
}

// headersToSign lists, sorted and in lower case, the headers to sign.
func headersToSign(h http.Header) string {
	names := []string{"host"}
	for name := range h {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "x-amz-") || lower == "content-type" || lower == "content-md5" {
			names = append(names, lower)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ";")
}

// sign computes the signature of a request that is to be sent.
func (c *claim) sign(r *http.Request, secretKey, content string) string {
	sent := r
	if r.Host == "" {
		sent = r.Clone(r.Context())
		sent.Host = r.URL.Host
	}
	var s scratch
	key := deriveKey(secretKey, c.date, c.region, c.service)
	// A broken query cannot be signed; the server will refuse it too.
	signature, _ := s.signature(sent, c, content, sent.URL.Path, true, &key)
	return string(signature[:])
}
