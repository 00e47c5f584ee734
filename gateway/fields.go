package gateway

import (
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"kintsugi/gateway/sigv4"
	"kintsugi/metadata"
)

const userPrefix = "x-amz-meta-"

// storedHeader gives the field name of a header that is kept with an object
// and given back with it, "" for others.
func storedHeader(canonical string) string {
	switch canonical {
	case "Content-Type":
		return "content-type"
	case "Content-Encoding":
		return "content-encoding"
	case "Content-Language":
		return "content-language"
	case "Content-Disposition":
		return "content-disposition"
	case "Cache-Control":
		return "cache-control"
	case "Expires":
		return "expires"
	}
	return ""
}

// shownHeader is the reverse; user metadata is shown in lower case.
func shownHeader(field string) string {
	switch field {
	case "content-type":
		return "Content-Type"
	case "content-encoding":
		return "Content-Encoding"
	case "content-language":
		return "Content-Language"
	case "content-disposition":
		return "Content-Disposition"
	case "cache-control":
		return "Cache-Control"
	case "expires":
		return "Expires"
	}
	return field
}

// fields collects what a write keeps with the object, and refuses headers
// that ask for what is not built: nobody may rely on what is not done.
func (x *exchange) fields() ([]metadata.Field, error) {
	fields := make([]metadata.Field, 0, 4)
	user := 0
	for name, values := range x.r.Header {
		if len(name) > len(userPrefix) && name[0] == 'X' && strings.EqualFold(name[:len(userPrefix)], userPrefix) {
			f := metadata.Field{Name: strings.ToLower(name), Value: strings.Join(values, ",")}
			user += len(f.Name) - len(userPrefix) + len(f.Value)
			fields = append(fields, f)
			continue
		}
		field := storedHeader(name)
		if field == "" {
			if strings.HasPrefix(name, "X-Amz-") {
				if err := refuseHeader(name, values); err != nil {
					return nil, err
				}
			}
			continue
		}
		value := values[0]
		switch field { // lists, which may be split over several lines
		case "content-encoding":
			value = sigv4.ContentEncoding(strings.Join(values, ","))
		case "cache-control", "content-language":
			value = strings.Join(values, ",")
		}
		if value != "" {
			fields = append(fields, metadata.Field{Name: field, Value: value})
		}
	}
	if user > maxUserMeta {
		return nil, errMetadataTooLarge
	}
	return fields, nil
}

// refuseHeader judges an x-amz-* header of a write.
func refuseHeader(name string, values []string) error {
	value := ""
	if len(values) > 0 {
		value = values[0]
	}
	switch {
	case name == "X-Amz-Acl":
		return checkACL(value)
	case name == "X-Amz-Storage-Class":
		return checkStorageClass(value)
	case name == "X-Amz-Tagging" && value == "":
		return nil // no tags, as clients write an empty list of them
	case name == "X-Amz-Tagging", name == "X-Amz-Website-Redirect-Location", name == "X-Amz-Write-Offset-Bytes",
		strings.HasPrefix(name, "X-Amz-Grant-"),
		strings.HasPrefix(name, "X-Amz-Server-Side-Encryption"),
		strings.HasPrefix(name, "X-Amz-Copy-Source-Server-Side-Encryption"),
		strings.HasPrefix(name, "X-Amz-Object-Lock-"):
		return headerNotBuilt(name)
	}
	return nil
}

func checkACL(value string) error {
	switch value {
	case "", "private", "bucket-owner-full-control", "bucket-owner-read":
		return nil
	case "public-read", "public-read-write", "authenticated-read", "aws-exec-read", "log-delivery-write":
		return headerNotBuilt("X-Amz-Acl")
	}
	return errInvalidArgument
}

func checkStorageClass(value string) error {
	switch value {
	case "", "STANDARD":
		return nil
	case "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER", "DEEP_ARCHIVE",
		"OUTPOSTS", "GLACIER_IR", "SNOW", "EXPRESS_ONEZONE", "FSX_OPENZFS":
		return headerNotBuilt("X-Amz-Storage-Class")
	}
	return errInvalidStorageClass
}

// overrides are the parameters of a read that replace headers of its answer.
func overrideHeader(param string) string {
	switch param {
	case "response-content-type":
		return "Content-Type"
	case "response-content-language":
		return "Content-Language"
	case "response-expires":
		return "Expires"
	case "response-cache-control":
		return "Cache-Control"
	case "response-content-disposition":
		return "Content-Disposition"
	case "response-content-encoding":
		return "Content-Encoding"
	}
	return ""
}

// showObject sets the headers that describe an object.
func (x *exchange) showObject(o *metadata.Object) {
	h := x.w.Header()
	x.showValidators(o)
	h["Accept-Ranges"] = acceptBytes
	for i := range o.Fields {
		name, value := o.Fields[i].Name, o.Fields[i].Value
		if strings.HasPrefix(name, userPrefix) {
			value = mailSafe(value)
		}
		h[shownHeader(name)] = []string{value}
	}
	for _, p := range slices.Backward(x.query) { // of several the first with a value counts
		if name := overrideHeader(p.name); name != "" && p.value != "" {
			h[name] = []string{headerSafe(p.value)}
		}
	}
	if len(h["Content-Type"]) == 0 {
		h["Content-Type"] = defaultType
	}
}

var defaultType = []string{"binary/octet-stream"}

// mailSafe gives a value of user metadata as S3 returns it: encoded words (RFC
// 2047) where it is not all ASCII. Many clients drop other headers or garble
// them. What is not UTF-8 is taken for ISO 8859-1.
func mailSafe(v string) string {
	ascii := true
	for i := 0; i < len(v) && ascii; i++ {
		ascii = v[i] < utf8.RuneSelf
	}
	if ascii {
		return v
	}
	if !utf8.ValidString(v) {
		letters := make([]rune, len(v))
		for i := range letters {
			letters[i] = rune(v[i])
		}
		v = string(letters)
	}
	// S3 writes a large B, which some clients look for.
	return strings.ReplaceAll(mime.BEncoding.Encode("UTF-8", v), "=?UTF-8?b?", "=?UTF-8?B?")
}

// headerSafe keeps a parameter's value from ending its header, or the answer from being
// one that clients cannot read.
func headerSafe(v string) string {
	if !strings.ContainsFunc(v, unprintable) {
		return v
	}
	return strings.Map(func(r rune) rune {
		if unprintable(r) {
			return ' '
		}
		return r
	}, v)
}

// unprintable says that a header's value cannot hold a character (RFC 9110, 5.5).
func unprintable(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// headerName says whether a header can have a name (RFC 9110, 5.1).
func headerName(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
	})
}

// showValidators sets ETag and Last-Modified, and keeps them for answers to
// conditions.
func (x *exchange) showValidators(o *metadata.Object) {
	x.validators[0] = `"` + o.ETag + `"`
	x.validators[1] = o.Modified.UTC().Format(http.TimeFormat)
	h := x.w.Header()
	for i, name := range validatorNames {
		h[name] = []string{x.validators[i]}
	}
}

// showETag sets the ETag alone.
func (x *exchange) showETag(etag string) {
	x.w.Header()[validatorNames[0]] = []string{`"` + etag + `"`}
}
