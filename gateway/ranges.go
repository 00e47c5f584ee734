package gateway

import (
	"strconv"
	"strings"
)

// parseRange reads a Range header for an object of a size: given is false
// where there is none to follow – no header, another unit, a malformed one or
// several ranges – and the whole object is to be sent, as S3 and RFC 9110 do.
// A range that holds no byte of the object is errInvalidRange.
func parseRange(header string, size int64) (off, n int64, given bool, err error) {
	first, last, ok := splitRange(header)
	if !ok {
		return 0, size, false, nil
	}
	if first == "" { // the last bytes
		tail, ok := parseOffset(last)
		if !ok {
			return 0, size, false, nil
		}
		if tail == 0 || size == 0 {
			return 0, 0, false, errInvalidRange
		}
		tail = min(tail, size)
		return size - tail, tail, true, nil
	}
	from, ok := parseOffset(first)
	if !ok {
		return 0, size, false, nil
	}
	to := int64(1<<63 - 1)
	if last != "" {
		if to, ok = parseOffset(last); !ok || to < from {
			return 0, size, false, nil
		}
	}
	if from >= size {
		return 0, 0, false, errInvalidRange
	}
	return from, min(to, size-1) - from + 1, true, nil
}

func splitRange(header string) (first, last string, ok bool) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return "", "", false
	}
	first, last, ok = strings.Cut(spec, "-")
	first, last = strings.Trim(first, " \t"), strings.Trim(last, " \t")
	return first, last, ok && (first != "" || last != "")
}

// parseOffset reads digits; what is beyond every object counts as the largest.
func parseOffset(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 1<<63 - 1, true
	}
	return n, true
}

// parseCopyRange reads x-amz-copy-source-range, which is strict: both ends,
// within the source.
func parseCopyRange(header string, size int64) (off, n int64, err error) {
	first, last, ok := splitRange(header)
	from, okFrom := parseOffset(first)
	to, okTo := parseOffset(last)
	if !ok || !okFrom || !okTo || to < from {
		return 0, 0, errInvalidArgument.saying("The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy")
	}
	if to >= size {
		return 0, 0, errInvalidArgument.saying("Range specified is not valid for source object of size: " + strconv.FormatInt(size, 10))
	}
	return from, to - from + 1, nil
}

// contentRange is the value of Content-Range.
func contentRange(off, n, size int64) string {
	var b [80]byte
	p := append(b[:0], "bytes "...)
	p = strconv.AppendInt(p, off, 10)
	p = strconv.AppendInt(append(p, '-'), off+n-1, 10)
	p = strconv.AppendInt(append(p, '/'), size, 10)
	return string(p)
}
