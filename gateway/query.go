package gateway

import (
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// parameter is one of the query's, decoded.
type parameter struct{ name, value string }

// parseQuery decodes the query once.
func (x *exchange) parseQuery() error {
	rest := x.r.URL.RawQuery
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, "&")
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		var err error
		if name, err = unescape(name); err != nil {
			return err
		}
		if value, err = unescape(value); err != nil {
			return err
		}
		x.query = append(x.query, parameter{name, value})
	}
	return nil
}

func unescape(s string) (string, error) {
	if !strings.ContainsAny(s, "%+") {
		if !utf8.ValidString(s) {
			return "", errInvalidURI
		}
		return s, nil
	}
	s, err := url.QueryUnescape(s)
	if err != nil || !utf8.ValidString(s) {
		return "", errInvalidURI
	}
	return s, nil
}

// lookup gives a parameter's value and whether it is there.
func (x *exchange) lookup(name string) (string, bool) {
	for i := range x.query {
		if x.query[i].name == name {
			return x.query[i].value, true
		}
	}
	return "", false
}

// param gives a parameter's value, "" where it is not there.
func (x *exchange) param(name string) string {
	v, _ := x.lookup(name)
	return v
}

// pageLimit reads max-keys and the like: 0 to most, more counts as most.
func (x *exchange) pageLimit(name string, most int) (int, error) {
	v, ok := x.lookup(name)
	if !ok || v == "" {
		return most, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return 0, errInvalidArgument.saying("Provided " + name + " not an integer or within integer range")
	}
	if n < 0 || n > 1<<31-1 {
		return 0, errInvalidArgument.saying("Argument " + name + " must be an integer between 0 and 2147483647")
	}
	return int(min(n, int64(most))), nil
}

// markerParam reads part-number-marker and the like.
func (x *exchange) markerParam(name string) (int, error) {
	v := x.param(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return 0, errInvalidArgument.saying("Argument " + name + " must be an integer between 0 and 2147483647")
	}
	return int(n), nil
}

// partNumber reads a partNumber that must be 1 to 10,000.
func partNumber(v string) (int, error) {
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil || n < 1 || n > maxPart {
		return 0, errInvalidArgument.saying("Part number must be an integer between 1 and 10000, inclusive")
	}
	return int(n), nil
}

// noVersion refuses a write to a version: a version never changes, and who names
// one does not want the current one replaced.
func (x *exchange) noVersion() error {
	if _, given := x.lookup("versionId"); given {
		return errInvalidArgument.saying("This operation does not accept a version-id.")
	}
	return nil
}

// checkVersion judges a versionId: buckets have no versioning, so there is
// only the version "null".
func checkVersion(v string, given bool) error {
	if !given || v == "null" {
		return nil
	}
	if v == "" {
		return errInvalidArgument.saying("Version id cannot be the empty string")
	}
	return errNoSuchVersion
}
