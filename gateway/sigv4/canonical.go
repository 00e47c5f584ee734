package sigv4

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const upperHex = "0123456789ABCDEF"

// maxSigned bounds the list of signed headers, as S3 bounds all headers.
const maxSigned = 8192

// scratch holds the buffers of one verification, for reuse.
type scratch struct {
	buf   []byte
	query []byte
	pairs []pair
}

// pair is one query parameter, as a range of scratch.query.
type pair struct{ from, eq, to int }

// signature computes the signature of a request in hex. With encode, path is
// the decoded path; without, it is taken as the client escaped it.
func (s *scratch) signature(r *http.Request, c *claim, content, path string, encode bool, key *[32]byte) ([64]byte, error) {
	b := append(s.buf[:0], r.Method...)
	b = append(b, '\n')
	switch {
	case path == "":
		b = append(b, '/')
	case encode:
		b = appendPath(b, path)
	default:
		b = append(b, path...)
	}
	b = append(b, '\n')
	b, ok := s.appendQuery(b, r.URL.RawQuery, c.presigned)
	if !ok {
		return [64]byte{}, ErrInvalidURI
	}
	b = append(b, '\n')
	b = appendHeaders(b, r, c.signedHeaders)
	b = append(b, '\n')
	b = append(b, c.signedHeaders...)
	b = append(b, '\n')
	b = append(b, content...)
	sum := sha256.Sum256(b)

	b = append(b[:0], zeroBlock...)
	b = append(b, algorithm+"\n"...)
	b = append(b, c.dateTime...)
	b = append(b, '\n')
	b = append(b, c.scope...)
	b = append(b, '\n')
	b = hex.AppendEncode(b, sum[:])
	s.buf = b
	return macHex(key, b), nil
}

// unreserved says which bytes the canonical form leaves alone.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// appendPath escapes a decoded path, all but its slashes.
func appendPath(b []byte, path string) []byte {
	for i := range len(path) {
		if c := path[i]; unreserved(c) || c == '/' {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b
}

// appendEscaped takes a part of a raw query and gives its one canonical
// escape. ok is false for a broken percent escape.
func appendEscaped(b []byte, raw string) (_ []byte, ok bool) {
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 >= len(raw) {
				return b, false
			}
			high, low := unhex(raw[i+1]), unhex(raw[i+2])
			if high > 15 || low > 15 {
				return b, false
			}
			c = high<<4 | low
			i += 2
		}
		if unreserved(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b, true
}

// unhex is the value of a hexadecimal digit, 255 for anything else.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// appendQuery appends the canonical query: escaped, sorted by name, then by
// value; without X-Amz-Signature when presigned.
func (s *scratch) appendQuery(b []byte, raw string, presigned bool) (_ []byte, ok bool) {
	if raw == "" {
		return b, true
	}
	s.query, s.pairs = s.query[:0], s.pairs[:0]
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		if presigned && name == "X-Amz-Signature" {
			continue
		}
		p := pair{from: len(s.query)}
		if s.query, ok = appendEscaped(s.query, name); !ok {
			return b, false
		}
		p.eq = len(s.query)
		s.query = append(s.query, '=')
		if s.query, ok = appendEscaped(s.query, value); !ok {
			return b, false
		}
		p.to = len(s.query)
		s.pairs = append(s.pairs, p)
	}
	if len(s.pairs) > 1 {
		slices.SortFunc(s.pairs, func(x, y pair) int {
			if byName := bytes.Compare(s.query[x.from:x.eq], s.query[y.from:y.eq]); byName != 0 {
				return byName
			}
			return bytes.Compare(s.query[x.eq:x.to], s.query[y.eq:y.to])
		})
	}
	for i, p := range s.pairs {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(b, s.query[p.from:p.to]...)
	}
	return b, true
}

// appendHeaders appends "name:value\n" for each of the signed headers. One
// that is absent counts as empty: then the client signed its absence.
func appendHeaders(b []byte, r *http.Request, signed string) []byte {
	var space [64]byte
	for name := range strings.SplitSeq(signed, ";") {
		b = append(b, name...)
		b = append(b, ':')
		values := r.Header[string(canonicalName(space[:0], name))]
		switch {
		case name == "host":
			b = append(b, r.Host...)
		case len(values) > 0:
			for i, value := range values {
				if i > 0 {
					b = append(b, ',')
				}
				b = appendTrimmed(b, value)
			}
		case name == "content-length" && r.ContentLength >= 0:
			b = strconv.AppendInt(b, r.ContentLength, 10)
		case name == "transfer-encoding":
			b = append(b, strings.Join(r.TransferEncoding, ",")...)
		case name == "expect":
			b = append(b, "100-continue"...) // proxies answer and remove it
		}
		b = append(b, '\n')
	}
	return b
}

// canonicalName writes a header name as http.Header holds it, without
// allocating: a-b becomes A-B.
func canonicalName(b []byte, name string) []byte {
	start := true
	for i := range len(name) {
		c := name[i]
		if start && 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		} else if !start && 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		start = c == '-'
		b = append(b, c)
	}
	return b
}

// appendTrimmed appends a header value without space around it and with runs
// of spaces inside it as one.
func appendTrimmed(b []byte, value string) []byte {
	value = strings.Trim(value, " \t")
	if !strings.Contains(value, "  ") {
		return append(b, value...)
	}
	for i := range len(value) {
		if value[i] != ' ' || value[i-1] != ' ' {
			b = append(b, value[i])
		}
	}
	return b
}

// checkSigned demands that the host and all x-amz-* headers are signed:
// unsigned ones could be added or changed by anyone on the way.
func checkSigned(h http.Header, signed string) error {
	if len(signed) > maxSigned {
		return ErrUnsignedHeaders
	}
	for i := range len(signed) {
		// No list that a client signs holds these, and a line end would let
		// one canonical request be read in two ways.
		if c := signed[i]; c <= ' ' || c >= 0x7f || c == ':' || 'A' <= c && c <= 'Z' {
			return ErrSignature
		}
	}
	if !listed(signed, "host") {
		return ErrUnsignedHeaders
	}
	for name := range h {
		if len(name) > 6 && (name[0] == 'X' || name[0] == 'x') && strings.EqualFold(name[:6], "x-amz-") && !listed(signed, name) {
			return ErrUnsignedHeaders
		}
	}
	return nil
}

// listed says whether the list of lower-case names holds a name.
func listed(list, name string) bool {
	for len(list) > 0 {
		item := list
		if semicolon := strings.IndexByte(list, ';'); semicolon >= 0 {
			item, list = list[:semicolon], list[semicolon+1:]
		} else {
			list = ""
		}
		if len(item) == len(name) && strings.EqualFold(item, name) {
			return true
		}
	}
	return false
}
