package gateway

import (
	"net"
	"net/url"
	"strings"
	"unicode/utf8"
)

// parseTarget finds bucket and key.
func (x *exchange) parseTarget() error {
	path := x.r.URL.Path
	if path == "" || path[0] != '/' || x.r.URL.Opaque != "" {
		return errInvalidURI
	}
	bucket := bucketOfHost(x.r.Host, x.g.domains)
	var err error
	x.name, x.key, err = splitTarget(bucket, path, x.r.URL.RawPath)
	return err
}

// splitTarget takes a decoded path apart. raw is the path as it was sent where
// that is not the usual escape of the decoded one, else "". bucket is the one
// that the host names, "" for path style. A slash that was sent escaped never
// ends the bucket's name.
func splitTarget(bucket, path, raw string) (name, key string, err error) {
	if !utf8.ValidString(path) {
		return "", "", errInvalidURI
	}
	if bucket != "" {
		return bucket, path[1:], nil
	}
	end := strings.IndexByte(path[1:], '/')
	if raw != "" {
		first, _, _ := strings.Cut(strings.TrimPrefix(raw, "/"), "/")
		decoded, err := url.PathUnescape(first)
		if err != nil || !strings.HasPrefix(path[1:], decoded) {
			return "", "", errInvalidURI
		}
		if len(decoded) < len(path)-1 {
			end = len(decoded)
		} else {
			end = -1
		}
	}
	if end < 0 {
		return path[1:], "", nil
	}
	return path[1 : 1+end], path[end+2:], nil
}

// bucketOfHost gives the bucket where the host is a bucket's name under one
// of the domains. Of domains within each other the longest counts, and a host
// that is a domain itself names no bucket of another.
func bucketOfHost(host string, domains []string) string {
	if len(domains) == 0 {
		return ""
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	bucket := ""
	for _, d := range domains {
		at := len(host) - len(d)
		switch {
		case strings.EqualFold(host, d[1:]):
			return ""
		case at > 0 && strings.EqualFold(host[at:], d) && (bucket == "" || at < len(bucket)):
			bucket = host[:at]
		}
	}
	return strings.ToLower(bucket)
}

// validBucketName follows the rules for general purpose buckets: 3 to 63
// lower-case letters, digits, dots and hyphens, beginning and ending with a
// letter or digit, no two dots in a row, no IPv4 address.
func validBucketName(name string) bool {
	if len(name) < 3 || len(name) > 63 {
		return false
	}
	numeric, dots := true, 0
	for i := range len(name) {
		c := name[i]
		switch {
		case '0' <= c && c <= '9':
		case 'a' <= c && c <= 'z':
			numeric = false
		case c == '-' && i > 0 && i < len(name)-1:
			numeric = false
		case c == '.' && i > 0 && i < len(name)-1 && name[i-1] != '.':
			dots++
		default:
			return false
		}
	}
	return !(numeric && dots == 3)
}
