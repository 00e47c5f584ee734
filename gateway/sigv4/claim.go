package sigv4

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// claim is what a request says about who signed it, when and how.
type claim struct {
	accessKey     string
	scope         string // date/region/service/aws4_request
	date          string // YYYYMMDD
	region        string
	service       string
	dateTime      string // YYYYMMDDTHHMMSSZ
	signedHeaders string // a;b;c
	signature     string // hex
	contentSHA256 string // from the query, "" when not there
	presigned     bool
	securityToken bool
}

// parseCredential reads key/date/region/service/terminal. Access keys may
// hold slashes, so it reads from the end. It does not judge the values.
func (c *claim) parseCredential(credential string) (end string, ok bool) {
	rest := credential
	var fields [4]string
	for i := 3; i >= 0; i-- {
		slash := strings.LastIndexByte(rest, '/')
		if slash < 0 {
			return "", false
		}
		fields[i], rest = rest[slash+1:], rest[:slash]
	}
	if rest == "" || !isDate(fields[0]) {
		return "", false
	}
	c.accessKey, c.scope = rest, credential[len(rest)+1:]
	c.date, c.region, c.service = fields[0], fields[1], fields[2]
	return fields[3], true
}

func isDate(s string) bool {
	if len(s) != 8 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// claimFromHeader reads "AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…,
// Signature=…" and the request's time, and judges scope and time.
func (v *Verifier) claimFromHeader(r *http.Request, auth string) (claim, error) {
	var c claim
	kind, rest, _ := strings.Cut(auth, " ")
	if kind != algorithm {
		if kind == "AWS" || strings.HasPrefix(kind, "AWS4-") {
			return c, ErrUnsupportedMechanism
		}
		return c, ErrAuthorizationType
	}
	var credential string
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		switch {
		case !ok:
			return c, ErrAuthorizationMalformed
		case name == "Credential" && credential == "":
			credential = value
		case name == "SignedHeaders" && c.signedHeaders == "":
			c.signedHeaders = value
		case name == "Signature" && c.signature == "":
			c.signature = value
		default:
			return c, ErrAuthorizationMalformed
		}
	}
	if credential == "" || c.signedHeaders == "" || c.signature == "" {
		return c, ErrAuthorizationMalformed
	}
	end, ok := c.parseCredential(credential)
	if !ok {
		return c, ErrCredentialMalformed
	}
	if err := v.judgeScope(&c, end); err != nil {
		return c, err
	}
	at, err := headerTime(r.Header, &c)
	if err != nil {
		return c, err
	}
	if skew := v.now().Sub(at); skew > MaxSkew || skew < -MaxSkew {
		return c, ErrSkewed
	}
	if c.dateTime[:8] != c.date {
		return c, ErrCredentialDate.saying("The authorization header is malformed; Invalid credential date " +
			strconv.Quote(c.date) + ". This date is not the same as X-Amz-Date: " + strconv.Quote(c.dateTime[:8]) + ".")
	}
	return c, nil
}

// judgeScope checks region, service and terminal of a header's credential.
func (v *Verifier) judgeScope(c *claim, end string) error {
	const prefix = "The authorization header is malformed; "
	switch {
	case end != terminal:
		return ErrTerminal.saying(prefix + "incorrect terminal " + strconv.Quote(end) + `. This endpoint uses "aws4_request".`)
	case c.service != v.service:
		return ErrService.saying(prefix + "incorrect service " + strconv.Quote(c.service) + ". This endpoint belongs to " + strconv.Quote(v.service) + ".")
	case c.region != v.region:
		return ErrRegion.saying(prefix + "the region '" + c.region + "' is wrong; expecting '" + v.region + "'")
	}
	return nil
}

// headerTime takes the request's time from X-Amz-Date or Date, and sets the
// claim's dateTime.
func headerTime(h http.Header, c *claim) (time.Time, error) {
	if text := firstHeader(h, "X-Amz-Date"); text != "" {
		at, ok := parseDateTime(text)
		if !ok {
			return at, ErrDate
		}
		c.dateTime = text
		return at, nil
	}
	at, ok := parseDate(firstHeader(h, "Date"))
	if !ok {
		return time.Time{}, ErrDate
	}
	c.dateTime = at.Format(dateForm)
	return at, nil
}

// parseDate reads a Date header: an HTTP date, one with a numeric zone, as
// libraries for mail write it, or the form of X-Amz-Date.
func parseDate(text string) (time.Time, bool) {
	if at, ok := parseDateTime(text); ok {
		return at, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		at, err = time.Parse(time.RFC1123Z, text)
	}
	at = at.UTC()
	return at, err == nil && at.Year() >= 1970 && at.Year() <= 9999
}

// parseDateTime reads YYYYMMDDTHHMMSSZ of a time since 1970.
func parseDateTime(s string) (time.Time, bool) {
	if len(s) != len(dateForm) || s[8] != 'T' || s[15] != 'Z' {
		return time.Time{}, false
	}
	var f [6]int
	at := 0
	for i, width := range [6]int{4, 2, 2, 2, 2, 2} {
		if i == 3 {
			at++
		}
		for range width {
			d := s[at] - '0'
			if d > 9 {
				return time.Time{}, false
			}
			f[i] = f[i]*10 + int(d)
			at++
		}
	}
	if f[0] < 1970 || f[1] < 1 || f[1] > 12 || f[2] < 1 || f[3] > 23 || f[4] > 59 || f[5] > 59 {
		return time.Time{}, false
	}
	t := time.Date(f[0], time.Month(f[1]), f[2], f[3], f[4], f[5], 0, time.UTC)
	return t, t.Day() == f[2]
}

// claimFromQuery reads the parameters of a presigned request and judges
// scope and time.
func (v *Verifier) claimFromQuery(raw string) (claim, error) {
	c := claim{presigned: true}
	var algo, credential, expires string
	var have int
	for part := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(part, "=")
		if !strings.HasPrefix(name, "X-Amz-") {
			continue
		}
		value, err := url.QueryUnescape(value)
		if err != nil {
			return c, ErrInvalidURI
		}
		target := c.parameter(name, &algo, &credential, &expires)
		if target != nil && *target == "" && value != "" {
			*target = value
			if target != &c.contentSHA256 {
				have++
			}
		}
	}
	if have != 6 {
		return c, ErrQueryIncomplete
	}
	if algo != algorithm {
		return c, ErrQueryAlgorithm
	}
	end, ok := c.parseCredential(credential)
	if !ok {
		return c, ErrQueryCredential
	}
	at, ok := parseDateTime(c.dateTime)
	if !ok {
		return c, ErrQueryDate
	}
	life, err := parseExpires(expires)
	if err != nil {
		return c, err
	}
	if err := v.judgeQueryScope(&c, end); err != nil {
		return c, err
	}
	now := v.now()
	if at.Sub(now) > MaxSkew {
		return c, ErrNotYetValid
	}
	if now.Sub(at) > life {
		return c, ErrExpired
	}
	return c, nil
}

// parameter says where a presigned request's parameter belongs; nil where it
// means nothing to us.
func (c *claim) parameter(name string, algo, credential, expires *string) *string {
	switch name {
	case "X-Amz-Algorithm":
		return algo
	case "X-Amz-Credential":
		return credential
	case "X-Amz-Date":
		return &c.dateTime
	case "X-Amz-Expires":
		return expires
	case "X-Amz-SignedHeaders":
		return &c.signedHeaders
	case "X-Amz-Signature":
		return &c.signature
	case "X-Amz-Content-Sha256":
		return &c.contentSHA256
	case "X-Amz-Security-Token":
		c.securityToken = true
	}
	return nil
}

func parseExpires(text string) (time.Duration, error) {
	digits := strings.TrimPrefix(text, "-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, ErrExpiresNumber
	}
	if len(digits) != len(text) {
		return 0, ErrExpiresNegative
	}
	seconds, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || seconds > int64(MaxExpires/time.Second) {
		return 0, ErrExpiresTooLong
	}
	return time.Duration(seconds) * time.Second, nil
}

// judgeQueryScope checks the scope of a presigned request.
func (v *Verifier) judgeQueryScope(c *claim, end string) error {
	const prefix = "Error parsing the X-Amz-Credential parameter; "
	switch {
	case end != terminal:
		return ErrQueryCredential.saying(prefix + "incorrect terminal " + strconv.Quote(end) + `. This endpoint uses "aws4_request".`)
	case c.service != v.service:
		return ErrQueryCredential.saying(prefix + "incorrect service " + strconv.Quote(c.service) + ". This endpoint belongs to " + strconv.Quote(v.service) + ".")
	case c.region != v.region:
		return ErrQueryCredential.saying(prefix + "the region '" + c.region + "' is wrong; expecting '" + v.region + "'")
	case c.dateTime[:8] != c.date:
		return ErrQueryCredential.saying("Invalid credential date " + strconv.Quote(c.date) +
			". This date is not the same as X-Amz-Date: " + strconv.Quote(c.dateTime[:8]) + ".")
	}
	return nil
}
