package gateway

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"kintsugi/metadata"
)

// etagMatches says whether a list of entity tags holds the tag; "*" holds
// every one. Tags may come without quotes, as many clients send them. Weak
// tags compare by their value: an object's ETag is what it is.
func etagMatches(list, etag string) bool {
	for list != "" {
		var item string
		item, list, _ = strings.Cut(list, ",")
		if item = bareETag(item); item == "*" || item == etag {
			return true
		}
	}
	return false
}

// bareETag takes space, weakness and quotes off.
func bareETag(s string) string {
	s = strings.TrimPrefix(strings.TrimSpace(s), "W/")
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	return s
}

// askedETag is bareETag for a write: an empty tag, which no object has, is not the
// same as none asked for, which "" stands for.
func askedETag(s string) string {
	if tag := bareETag(s); tag != "" || s == "" {
		return tag
	}
	return `""`
}

// readConditions are those of a read or of a copy's source (RFC 9110, 13.2.2).
type readConditions struct{ match, noneMatch, modifiedSince, unmodifiedSince string }

func (x *exchange) readConditions() readConditions {
	return readConditions{x.list("If-Match"), x.list("If-None-Match"),
		x.header("If-Modified-Since"), x.header("If-Unmodified-Since")}
}

func (x *exchange) copyConditions() readConditions {
	return readConditions{x.list("X-Amz-Copy-Source-If-Match"), x.list("X-Amz-Copy-Source-If-None-Match"),
		x.header("X-Amz-Copy-Source-If-Modified-Since"), x.header("X-Amz-Copy-Source-If-Unmodified-Since")}
}

// judge gives nil, errPreconditionFailed, or errNotModified.
func (c *readConditions) judge(o *metadata.Object) error {
	if *c == (readConditions{}) {
		return nil
	}
	modified := o.Modified.Truncate(time.Second)
	if c.match != "" {
		if !etagMatches(c.match, o.ETag) {
			return errPreconditionFailed
		}
	} else if t, err := http.ParseTime(c.unmodifiedSince); err == nil && modified.After(t) {
		return errPreconditionFailed
	}
	if c.noneMatch != "" {
		if etagMatches(c.noneMatch, o.ETag) {
			return errNotModified
		}
	} else if t, err := http.ParseTime(c.modifiedSince); err == nil && !modified.After(t) {
		return errNotModified
	}
	return nil
}

// writeCondition reads If-Match and If-None-Match of a write.
func (x *exchange) writeCondition() (c metadata.Condition, err error) {
	match, none := x.header("If-Match"), x.header("If-None-Match")
	switch {
	case match != "" && none != "":
		return c, headerNotBuilt("If-Match with If-None-Match")
	case strings.Contains(match, ",") || len(x.r.Header["If-Match"]) > 1:
		return c, headerNotBuilt("If-Match with several tags")
	case strings.Contains(none, ",") || len(x.r.Header["If-None-Match"]) > 1:
		return c, headerNotBuilt("If-None-Match with several tags")
	}
	c.IfMatch, c.IfNoneMatch = askedETag(match), askedETag(none)
	return c, nil
}

// foresee fails early what the commit would refuse, before a body of
// gigabytes was sent for nothing. The commit decides.
func (x *exchange) foresee(c metadata.Condition) error {
	if c.IfMatch == "" && c.IfNoneMatch == "" {
		return nil
	}
	o, err := x.g.objects.Object(x.r.Context(), x.bucket.ID, x.key)
	if err != nil {
		if f, _ := faultOf(err); f == errNoSuchKey && c.IfMatch == "" {
			return nil
		}
		return err
	}
	if c.IfMatch != "" && !etagMatches(c.IfMatch, o.ETag) || c.IfNoneMatch != "" && etagMatches(c.IfNoneMatch, o.ETag) {
		return errPreconditionFailed
	}
	return nil
}

// deleteCondition reads what a delete may ask.
func (x *exchange) deleteCondition() (c metadata.Condition, err error) {
	if len(x.r.Header["If-Match"]) > 1 {
		return c, headerNotBuilt("If-Match with several tags")
	}
	c.IfMatch = askedETag(x.header("If-Match"))
	if v := x.header("X-Amz-If-Match-Last-Modified-Time"); v != "" {
		if c.IfModified, err = parseTime(v); err != nil {
			return c, err
		}
	}
	if v := x.header("X-Amz-If-Match-Size"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return c, errInvalidArgument
		}
		c.IfSize = &n
	}
	return c, nil
}

// parseTime reads an HTTP date or an ISO 8601 one.
func parseTime(v string) (time.Time, error) {
	if t, err := http.ParseTime(v); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, v)
	if err != nil {
		return t, errInvalidArgument.saying("Invalid date: " + v)
	}
	return t, nil
}
