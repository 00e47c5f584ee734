package checksum

import (
	"net/http"
	"strings"
)

// Request is what a request's headers say about the checksum of its body.
type Request struct {
	// Algorithm of the checksum; None where there is none.
	Algorithm Algorithm
	// Sum is the announced value; zero where it comes in the trailer.
	Sum Sum
	// Trailer says that the value follows the body.
	Trailer bool
}

const headerPrefix = "X-Amz-Checksum-"

// FromHeader reads x-amz-checksum-*, x-amz-trailer and
// x-amz-sdk-checksum-algorithm. At most one checksum may be announced, and
// none is ignored silently.
func FromHeader(h http.Header) (Request, error) {
	var q Request
	for name, values := range h {
		if !strings.HasPrefix(name, headerPrefix) {
			continue
		}
		switch name[len(headerPrefix):] {
		case "Algorithm", "Type", "Mode":
			continue
		}
		a, err := ParseAlgorithm(name[len(headerPrefix):])
		if err != nil {
			return Request{}, ErrUnknownHeader
		}
		if q.Algorithm != None || len(values) != 1 {
			return Request{}, ErrSeveral
		}
		if q.Sum, err = ParseSum(a, values[0]); err != nil {
			return Request{}, err
		}
		q.Algorithm = a
	}
	if err := q.readTrailer(h["X-Amz-Trailer"]); err != nil {
		return Request{}, err
	}
	if q.Sum.Parts() != 0 {
		return Request{}, q.Algorithm.invalid()
	}
	named := h["X-Amz-Sdk-Checksum-Algorithm"]
	if len(named) == 0 || named[0] == "" {
		return q, nil
	}
	a, err := ParseAlgorithm(named[0])
	switch {
	case err != nil:
		return Request{}, ErrSDKAlgorithm
	case q.Algorithm == None:
		return Request{}, ErrMissing
	case q.Algorithm != a:
		return Request{}, ErrSDKAlgorithm
	}
	return q, nil
}

// readTrailer takes the checksum that x-amz-trailer announces.
func (q *Request) readTrailer(values []string) error {
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			name = strings.TrimSpace(name)
			if name == "" {
				continue
			}
			if len(name) < len(headerPrefix) || !strings.EqualFold(name[:len(headerPrefix)], headerPrefix) {
				return ErrUnknownTrailer
			}
			a, err := ParseAlgorithm(name[len(headerPrefix):])
			if err != nil {
				return ErrUnknownTrailer
			}
			if q.Algorithm != None {
				return ErrSeveral
			}
			q.Algorithm, q.Trailer = a, true
		}
	}
	return nil
}

// Check compares the announced value with the computed one. trailer is the
// value that followed the body, where q says so.
func (q Request) Check(computed Sum, trailer string) error {
	want := q.Sum
	if q.Trailer {
		var err error
		if want, err = ParseSum(q.Algorithm, trailer); err != nil {
			return err
		}
	}
	if !want.IsZero() && want != computed {
		return Mismatch(q.Algorithm)
	}
	return nil
}
