package gateway

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"
)

type row struct {
	name   string
	call   call
	status int
	code   string
}

func md5Header(body string) string {
	sum := md5.Sum([]byte(body))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func sha256Hex(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

func headers(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

// TestBadInput sends the table of what must be refused. None of it may leave
// a trace.
func TestBadInput(t *testing.T) {
	s := newSite(t)
	s.bucket("bkt")
	s.bucket("full")
	s.put("/full/there", "0123456789")
	s.put("/full/empty", "")
	etag := `"` + fmt.Sprintf("%x", md5.Sum([]byte("0123456789"))) + `"`
	upload := between(s.must(call{method: "POST", target: "/full/up?uploads"}).body, "<UploadId>", "</UploadId>")
	part := s.put("/full/up?partNumber=1&uploadId="+upload, "small").header.Get("Etag")
	s.put("/full/up?partNumber=2&uploadId="+upload, "small2")
	partETag2 := fmt.Sprintf(`"%x"`, md5.Sum([]byte("small2")))
	complete := func(parts ...string) string {
		var b strings.Builder
		b.WriteString("<CompleteMultipartUpload>")
		for i := 0; i < len(parts); i += 2 {
			fmt.Fprintf(&b, "<Part><PartNumber>%s</PartNumber><ETag>%s</ETag></Part>", parts[i], parts[i+1])
		}
		return b.String() + "</CompleteMultipartUpload>"
	}
	many := "<Delete>" + strings.Repeat("<Object><Key>k</Key></Object>", 1001) + "</Delete>"

	put, get := "PUT", "GET"
	rows := []row{
		// Who asks.
		{"anonymous get", call{method: get, target: "/full/there", anonymous: true}, 403, "AccessDenied"},
		{"anonymous put", call{method: put, target: "/bkt/k", body: "x", anonymous: true}, 403, "AccessDenied"},
		{"anonymous list of buckets", call{method: get, target: "/", anonymous: true}, 403, "AccessDenied"},
		{"unknown access key", call{method: get, target: "/full/there", key: "nobody"}, 403, "InvalidAccessKeyId"},
		{"tampered path", call{method: get, target: "/full/there", mangle: func(r string) string { return strings.Replace(r, "/full/there", "/full/empty", 1) }}, 403, "SignatureDoesNotMatch"},
		{"skewed", call{method: get, target: "/full/there", at: -time.Hour}, 403, "RequestTimeTooSkewed"},
		{"presigned expired", call{method: get, target: "/full/there", presign: time.Second, at: -time.Minute}, 403, "AccessDenied"},
		{"presigned too long", call{method: get, target: "/full/there", presign: 8 * 24 * time.Hour}, 400, "AuthorizationQueryParametersError"},
		{"presigned with a header added", call{method: get, target: "/full/there", presign: time.Minute, mangle: func(r string) string { return strings.Replace(r, "\r\n\r\n", "\r\nx-amz-acl: private\r\n\r\n", 1) }}, 403, "AccessDenied"},
		{"wrong owner", call{method: get, target: "/full/there", header: headers("x-amz-expected-bucket-owner", "123456789012")}, 403, "AccessDenied"},
		{"preflight", call{method: "OPTIONS", target: "/full/there", anonymous: true, header: headers("Origin", "http://x", "Access-Control-Request-Method", "PUT")}, 403, "AccessForbidden"},
		{"preflight of nobody", call{method: "OPTIONS", target: "/full/there", anonymous: true}, 400, "BadRequest"},
		{"preflight for nothing", call{method: "OPTIONS", target: "/full/there", anonymous: true, header: headers("Origin", "http://x")}, 400, "BadRequest"},

		// The body.
		{"hash does not match", call{method: put, target: "/bkt/k", body: "x", payload: sha256Hex("y")}, 400, "XAmzContentSHA256Mismatch"},
		{"hash is none", call{method: put, target: "/bkt/k", body: "x", payload: "nonsense"}, 400, "InvalidArgument"},
		{"body shorter than announced", call{method: put, target: "/bkt/k", body: "short", length: 100}, 400, "IncompleteBody"},
		{"large body shorter than announced", call{method: put, target: "/bkt/k", body: strings.Repeat("x", 100<<10), length: 5 << 20}, 400, "IncompleteBody"},
		{"no length", call{method: put, target: "/bkt/k", noLength: true}, 411, "MissingContentLength"},
		{"chunked without a length", call{method: put, target: "/bkt/k", body: "x", chunked: true}, 411, "MissingContentLength"},
		{"md5 malformed", call{method: put, target: "/bkt/k", body: "x", header: headers("Content-MD5", "nonsense")}, 400, "InvalidDigest"},
		{"md5 empty", call{method: put, target: "/bkt/k", body: "x", header: headers("Content-MD5", "")}, 400, "InvalidDigest"},
		{"md5 does not match", call{method: put, target: "/bkt/k", body: "x", header: headers("Content-MD5", md5Header("y"))}, 400, "BadDigest"},
		{"checksum does not match", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-checksum-crc32", "AAAAAA==")}, 400, "BadDigest"},
		{"checksum malformed", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-checksum-crc32", "AAAA")}, 400, "InvalidRequest"},
		{"two checksums", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-checksum-crc32", "AAAAAA==", "x-amz-checksum-crc32c", "AAAAAA==")}, 400, "InvalidRequest"},
		{"too large", call{method: put, target: "/bkt/k", body: "", length: 5<<30 + 1}, 400, "EntityTooLarge"},
		{"part too large", call{method: put, target: "/full/up?partNumber=1&uploadId=" + upload, length: 5<<30 + 1}, 400, "EntityTooLarge"},
		{"part hash does not match", call{method: put, target: "/full/up?partNumber=3&uploadId=" + upload, body: "x", payload: sha256Hex("y")}, 400, "XAmzContentSHA256Mismatch"},

		// Names.
		{"bucket name in capitals", call{method: put, target: "/Bucket"}, 400, "InvalidBucketName"},
		{"bucket name too short", call{method: put, target: "/ab"}, 400, "InvalidBucketName"},
		{"bucket name too long", call{method: put, target: "/" + strings.Repeat("a", 64)}, 400, "InvalidBucketName"},
		{"bucket name is an address", call{method: put, target: "/192.168.5.4"}, 400, "InvalidBucketName"},
		{"bucket name with dots in a row", call{method: put, target: "/a..b"}, 400, "InvalidBucketName"},
		{"bucket name of dots", call{method: put, target: "/.."}, 400, "InvalidBucketName"},
		{"bucket name with a slash", call{method: put, target: "/a%2Fb"}, 400, "InvalidBucketName"},
		{"object in a bucket with a slash", call{method: get, target: "/full%2Fx/there"}, 400, "InvalidBucketName"},
		{"create one's own bucket", call{method: put, target: "/bkt"}, 409, "BucketAlreadyOwnedByYou"},
		{"bad location", call{method: put, target: "/new", body: "<CreateBucketConfiguration><LocationConstraint>moon</LocationConstraint></CreateBucketConfiguration>"}, 400, "InvalidLocationConstraint"},
		{"create with broken XML", call{method: put, target: "/new", body: "<Create"}, 400, "MalformedXML"},
		{"create with another document", call{method: put, target: "/new", body: "<Delete></Delete>"}, 400, "MalformedXML"},
		{"key too long", call{method: put, target: "/bkt/" + strings.Repeat("k", 1025), body: "x"}, 400, "KeyTooLongError"},
		{"key not UTF-8", call{method: put, target: "/bkt/%ff%fe", body: "x"}, 400, "InvalidURI"},
		{"path that cannot be parsed", call{method: get, target: "/bkt/%zz"}, 400, "InvalidURI"},
		{"headers too large", call{method: get, target: "/bkt/k", header: headers("x-amz-meta-a", strings.Repeat("v", 64<<10))}, 400, "RequestHeaderSectionTooLarge"},
		{"query not UTF-8", call{method: get, target: "/bkt?prefix=%ff"}, 400, "InvalidURI"},

		// What is not there.
		{"get in no bucket", call{method: get, target: "/nowhere/k"}, 404, "NoSuchBucket"},
		{"put in no bucket", call{method: put, target: "/nowhere/k", body: "x"}, 404, "NoSuchBucket"},
		{"list no bucket", call{method: get, target: "/nowhere"}, 404, "NoSuchBucket"},
		{"delete no bucket", call{method: "DELETE", target: "/nowhere"}, 404, "NoSuchBucket"},
		{"get no key", call{method: get, target: "/bkt/k"}, 404, "NoSuchKey"},
		{"head no key", call{method: "HEAD", target: "/bkt/k"}, 404, ""},
		{"head no bucket", call{method: "HEAD", target: "/nowhere"}, 404, ""},
		{"version that is not there", call{method: get, target: "/full/there?versionId=abc"}, 404, "NoSuchVersion"},
		{"delete of a version that is not there", call{method: "DELETE", target: "/full/there?versionId=abc"}, 404, "NoSuchVersion"},
		{"empty version", call{method: get, target: "/full/there?versionId="}, 400, "InvalidArgument"},
		{"part of no upload", call{method: put, target: "/full/up?partNumber=1&uploadId=nope", body: "x"}, 404, "NoSuchUpload"},
		{"parts of no upload", call{method: get, target: "/full/up?uploadId=nope"}, 404, "NoSuchUpload"},
		{"abort of no upload", call{method: "DELETE", target: "/full/up?uploadId=nope"}, 404, "NoSuchUpload"},
		{"complete no upload", call{method: "POST", target: "/full/up?uploadId=nope", body: complete("1", part)}, 404, "NoSuchUpload"},
		{"upload of another key", call{method: get, target: "/full/other?uploadId=" + upload}, 404, "NoSuchUpload"},
		{"delete a bucket that is not empty", call{method: "DELETE", target: "/full"}, 409, "BucketNotEmpty"},

		// Parameters.
		{"max-keys no number", call{method: get, target: "/bkt?max-keys=x"}, 400, "InvalidArgument"},
		{"max-keys negative", call{method: get, target: "/bkt?max-keys=-1"}, 400, "InvalidArgument"},
		{"max-keys too high", call{method: get, target: "/bkt?max-keys=2147483648"}, 400, "InvalidArgument"},
		{"bad token", call{method: get, target: "/bkt?list-type=2&continuation-token=%21"}, 400, "InvalidArgument"},
		{"empty token", call{method: get, target: "/bkt?list-type=2&continuation-token="}, 400, "InvalidArgument"},
		{"bad encoding type", call{method: get, target: "/bkt?encoding-type=base64"}, 400, "InvalidArgument"},
		{"bad list type", call{method: get, target: "/bkt?list-type=3"}, 400, "InvalidArgument"},
		{"part number 0", call{method: put, target: "/full/up?partNumber=0&uploadId=" + upload, body: "x"}, 400, "InvalidArgument"},
		{"part number 10001", call{method: put, target: "/full/up?partNumber=10001&uploadId=" + upload, body: "x"}, 400, "InvalidArgument"},
		{"part number no number", call{method: put, target: "/full/up?partNumber=x&uploadId=" + upload, body: "x"}, 400, "InvalidArgument"},
		{"part without an upload", call{method: put, target: "/full/there?partNumber=1", body: "x"}, 400, "InvalidArgument"},
		{"copy of a part without an upload", call{method: put, target: "/full/there?partNumber=1", header: headers("x-amz-copy-source", "/full/empty")}, 400, "InvalidArgument"},
		{"put to an upload", call{method: put, target: "/full/up?uploadId=" + upload, body: "x"}, 405, "MethodNotAllowed"},
		{"max-parts negative", call{method: get, target: "/full/up?max-parts=-1&uploadId=" + upload}, 400, "InvalidArgument"},
		{"max-uploads no number", call{method: get, target: "/full?uploads&max-uploads=x"}, 400, "InvalidArgument"},
		{"get part number 0", call{method: get, target: "/full/there?partNumber=0"}, 400, "InvalidArgument"},
		{"get a part that is not there", call{method: get, target: "/full/there?partNumber=2"}, 416, "InvalidPartNumber"},
		{"attributes without a header", call{method: get, target: "/full/there?attributes"}, 400, "InvalidRequest"},
		{"attributes unknown", call{method: get, target: "/full/there?attributes", header: headers("x-amz-object-attributes", "Colour")}, 400, "InvalidArgument"},

		// Metadata and headers.
		{"user metadata too large", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-meta-a", strings.Repeat("v", 2048))}, 400, "MetadataTooLarge"},
		{"acl not built", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-acl", "public-read")}, 501, "NotImplemented"},
		{"acl unknown", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-acl", "nonsense")}, 400, "InvalidArgument"},
		{"grant", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-grant-read", "id=x")}, 501, "NotImplemented"},
		{"tags", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-tagging", "a=b")}, 501, "NotImplemented"},
		{"encryption", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-server-side-encryption", "AES256")}, 501, "NotImplemented"},
		{"customer key", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-server-side-encryption-customer-algorithm", "AES256")}, 501, "NotImplemented"},
		{"get with a customer key", call{method: get, target: "/full/there", header: headers("x-amz-server-side-encryption-customer-algorithm", "AES256")}, 400, "InvalidRequest"},
		{"get with encryption", call{method: get, target: "/full/there", header: headers("x-amz-server-side-encryption", "aws:kms")}, 400, "InvalidArgument"},
		{"object lock", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-object-lock-mode", "GOVERNANCE")}, 501, "NotImplemented"},
		{"storage class unknown", call{method: put, target: "/bkt/k", body: "x", header: headers("x-amz-storage-class", "GOLD")}, 400, "InvalidStorageClass"},
		{"encryption of an upload", call{method: "POST", target: "/bkt/k?uploads", header: headers("x-amz-server-side-encryption", "AES256")}, 501, "NotImplemented"},
		{"bucket with lock", call{method: put, target: "/new", header: headers("x-amz-bucket-object-lock-enabled", "true")}, 501, "NotImplemented"},
		{"bucket for all", call{method: put, target: "/new", header: headers("x-amz-acl", "public-read")}, 501, "NotImplemented"},
		{"bucket in a namespace", call{method: put, target: "/new-123456789012-us-east-1-an", header: headers("x-amz-bucket-namespace", "account-regional")}, 501, "NotImplemented"},
		{"upload with an unknown checksum", call{method: "POST", target: "/bkt/k?uploads", header: headers("x-amz-checksum-algorithm", "CRC7")}, 400, "InvalidRequest"},
		{"upload with a checksum of the wrong type", call{method: "POST", target: "/bkt/k?uploads", header: headers("x-amz-checksum-algorithm", "SHA256", "x-amz-checksum-type", "FULL_OBJECT")}, 400, "InvalidRequest"},

		// Ranges and conditions.
		{"range beyond", call{method: get, target: "/full/there", header: headers("Range", "bytes=10-")}, 416, "InvalidRange"},
		{"range of nothing", call{method: get, target: "/full/there", header: headers("Range", "bytes=-0")}, 416, "InvalidRange"},
		{"range of an empty object", call{method: get, target: "/full/empty", header: headers("Range", "bytes=0-")}, 416, "InvalidRange"},
		{"suffix of an empty object", call{method: get, target: "/full/empty", header: headers("Range", "bytes=-5")}, 416, "InvalidRange"},
		{"range and part", call{method: get, target: "/full/there?partNumber=1", header: headers("Range", "bytes=0-1")}, 400, "InvalidRequest"},
		{"get if-match fails", call{method: get, target: "/full/there", header: headers("If-Match", `"x"`)}, 412, "PreconditionFailed"},
		{"get if-none-match", call{method: get, target: "/full/there", header: headers("If-None-Match", etag)}, 304, ""},
		{"get unmodified since", call{method: get, target: "/full/there", header: headers("If-Unmodified-Since", "Mon, 02 Jan 2006 15:04:05 GMT")}, 412, "PreconditionFailed"},
		{"put if-none-match", call{method: put, target: "/full/there", body: "x", header: headers("If-None-Match", "*")}, 412, "PreconditionFailed"},
		{"put if-match fails", call{method: put, target: "/full/there", body: "x", header: headers("If-Match", `"x"`)}, 412, "PreconditionFailed"},
		{"put with two if-none-match", call{method: put, target: "/full/there", body: "x", header: headers("If-None-Match", "\"x\"\r\nIf-None-Match: *")}, 501, "NotImplemented"},
		{"delete with two if-match", call{method: "DELETE", target: "/full/there", header: headers("If-Match", "*\r\nIf-Match: \"x\"")}, 501, "NotImplemented"},
		{"put if-match on nothing", call{method: put, target: "/bkt/k", body: "x", header: headers("If-Match", etag)}, 404, "NoSuchKey"},
		{"delete if-match fails", call{method: "DELETE", target: "/full/there", header: headers("If-Match", `"x"`)}, 412, "PreconditionFailed"},
		{"delete by size fails", call{method: "DELETE", target: "/full/there", header: headers("x-amz-if-match-size", "3")}, 412, "PreconditionFailed"},
		{"delete if-match on nothing", call{method: "DELETE", target: "/bkt/k", header: headers("If-Match", "*")}, 404, "NoSuchKey"},
		{"delete by size and if-match on nothing", call{method: "DELETE", target: "/bkt/k", header: headers("If-Match", etag, "x-amz-if-match-size", "10")}, 404, "NoSuchKey"},
		{"abort by time fails", call{method: "DELETE", target: "/full/up?uploadId=" + upload, header: headers("x-amz-if-match-initiated-time", "Mon, 02 Jan 2006 15:04:05 GMT")}, 412, "PreconditionFailed"},
		{"abort by a bad time", call{method: "DELETE", target: "/full/up?uploadId=" + upload, header: headers("x-amz-if-match-initiated-time", "today")}, 400, "InvalidArgument"},
		{"delete by a bad size", call{method: "DELETE", target: "/full/there", header: headers("x-amz-if-match-size", "x")}, 400, "InvalidArgument"},

		// Copies.
		{"copy onto itself", call{method: put, target: "/full/there", header: headers("x-amz-copy-source", "/full/there")}, 400, "InvalidRequest"},
		{"copy source without a key", call{method: put, target: "/bkt/k", header: headers("x-amz-copy-source", "full")}, 400, "InvalidArgument"},
		{"copy source badly escaped", call{method: put, target: "/bkt/k", header: headers("x-amz-copy-source", "/full/%zz")}, 400, "InvalidArgument"},
		{"copy source not there", call{method: put, target: "/bkt/k", header: headers("x-amz-copy-source", "/full/nope")}, 404, "NoSuchKey"},
		{"copy source in no bucket", call{method: put, target: "/bkt/k", header: headers("x-amz-copy-source", "/nowhere/nope")}, 404, "NoSuchBucket"},
		{"copy if-match fails", call{method: put, target: "/bkt/k", header: headers("x-amz-copy-source", "/full/there", "x-amz-copy-source-if-match", "x")}, 412, "PreconditionFailed"},
		{"copy if-none-match fails", call{method: put, target: "/bkt/k", header: headers("x-amz-copy-source", "/full/there", "x-amz-copy-source-if-none-match", etag)}, 412, "PreconditionFailed"},
		{"copy with a bad directive", call{method: put, target: "/bkt/k", header: headers("x-amz-copy-source", "/full/there", "x-amz-metadata-directive", "MERGE")}, 400, "InvalidArgument"},
		{"part copy range malformed", call{method: put, target: "/full/up?partNumber=3&uploadId=" + upload, header: headers("x-amz-copy-source", "/full/there", "x-amz-copy-source-range", "bytes=1-")}, 400, "InvalidArgument"},
		{"part copy range empty", call{method: put, target: "/full/up?partNumber=3&uploadId=" + upload, header: headers("x-amz-copy-source", "/full/there", "x-amz-copy-source-range", "")}, 400, "InvalidArgument"},
		{"part copy range beyond", call{method: put, target: "/full/up?partNumber=3&uploadId=" + upload, header: headers("x-amz-copy-source", "/full/there", "x-amz-copy-source-range", "bytes=5-10")}, 400, "InvalidArgument"},

		// XML bodies.
		{"delete more than 1000", call{method: "POST", target: "/full?delete", body: many}, 400, "MalformedXML"},
		{"delete nothing", call{method: "POST", target: "/full?delete", body: "<Delete></Delete>"}, 400, "MalformedXML"},
		{"delete without a body", call{method: "POST", target: "/full?delete"}, 400, "MalformedXML"},
		{"delete with broken XML", call{method: "POST", target: "/full?delete", body: "<Delete><Object><Key>there"}, 400, "MalformedXML"},
		{"delete with more after the document", call{method: "POST", target: "/full?delete", body: "<Delete><Object><Key>there</Key></Object></Delete><x/>"}, 400, "MalformedXML"},
		{"delete with a bad digest", call{method: "POST", target: "/full?delete", body: "<Delete><Object><Key>there</Key></Object></Delete>", header: headers("Content-MD5", md5Header("x"))}, 400, "BadDigest"},
		{"delete that nothing vouches for", call{method: "POST", target: "/full?delete", body: "<Delete><Object><Key>there</Key></Object></Delete>"}, 400, "InvalidRequest"},
		{"delete in chunks that nothing vouches for", call{method: "POST", target: "/full?delete", payload: "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
			body: "32\r\n<Delete><Object><Key>there</Key></Object></Delete>\r\n0\r\n\r\n", header: headers("x-amz-decoded-content-length", "50")}, 400, "InvalidRequest"},
		{"delete too large", call{method: "POST", target: "/full?delete", length: 3 << 20}, 400, "MaxMessageLengthExceeded"},
		{"delete too large in chunks", call{method: "POST", target: "/full?delete", body: strings.Repeat(" ", 3<<20), chunked: true}, 400, "MaxMessageLengthExceeded"},
		{"complete nothing", call{method: "POST", target: "/full/up?uploadId=" + upload, body: complete()}, 400, "MalformedXML"},
		{"complete without a body", call{method: "POST", target: "/full/up?uploadId=" + upload}, 400, "MalformedXML"},
		{"complete with broken XML", call{method: "POST", target: "/full/up?uploadId=" + upload, body: "<Complete"}, 400, "MalformedXML"},
		{"complete without an ETag", call{method: "POST", target: "/full/up?uploadId=" + upload, body: "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>"}, 400, "MalformedXML"},
		{"complete without a number", call{method: "POST", target: "/full/up?uploadId=" + upload, body: "<CompleteMultipartUpload><Part><ETag>" + part + "</ETag></Part></CompleteMultipartUpload>"}, 400, "MalformedXML"},
		{"complete out of order", call{method: "POST", target: "/full/up?uploadId=" + upload, body: complete("2", partETag2, "1", part)}, 400, "InvalidPartOrder"},
		{"complete one twice", call{method: "POST", target: "/full/up?uploadId=" + upload, body: complete("1", part, "1", part)}, 400, "InvalidPartOrder"},
		{"complete with a wrong ETag", call{method: "POST", target: "/full/up?uploadId=" + upload, body: complete("1", partETag2)}, 400, "InvalidPart"},
		{"complete with a part that is not there", call{method: "POST", target: "/full/up?uploadId=" + upload, body: complete("7", part)}, 400, "InvalidPart"},
		{"complete with part 0", call{method: "POST", target: "/full/up?uploadId=" + upload, body: complete("0", part)}, 400, "InvalidArgument"},
		{"complete with a small part", call{method: "POST", target: "/full/up?uploadId=" + upload, body: complete("1", part, "2", partETag2)}, 400, "EntityTooSmall"},
		{"complete with a wrong size", call{method: "POST", target: "/full/up?uploadId=" + upload, body: complete("1", part), header: headers("x-amz-mp-object-size", "3")}, 400, "InvalidRequest"},
		{"complete with a size that is none", call{method: "POST", target: "/full/up?uploadId=" + upload, body: complete("1", part), header: headers("x-amz-mp-object-size", "large")}, 400, "InvalidRequest"},
		{"complete with a checksum mode that the upload has not", call{method: "POST", target: "/full/up?uploadId=" + upload, body: complete("1", part), header: headers("x-amz-checksum-type", "FULL_OBJECT")}, 400, "InvalidRequest"},
		{"complete where there is one", call{method: "POST", target: "/full/there?uploadId=" + upload, body: complete("1", part)}, 404, "NoSuchUpload"},

		// What is not built, and what a bucket has not.
		{"put acl", call{method: put, target: "/full?acl"}, 501, "NotImplemented"},
		{"put policy", call{method: put, target: "/full?policy", body: "{}"}, 501, "NotImplemented"},
		{"put versioning", call{method: put, target: "/full?versioning"}, 501, "NotImplemented"},
		{"put object tags", call{method: put, target: "/full/there?tagging"}, 501, "NotImplemented"},
		{"put annotation", call{method: put, target: "/full/there?annotation&annotationName=a", body: "x"}, 501, "NotImplemented"},
		{"put annotation with an empty value", call{method: put, target: "/full/there?annotation=&annotationName=a", body: "x"}, 501, "NotImplemented"},
		{"delete annotation", call{method: "DELETE", target: "/full/there?annotation&annotationName=a"}, 501, "NotImplemented"},
		{"get annotation", call{method: get, target: "/full/there?annotation&annotationName=a"}, 501, "NotImplemented"},
		{"restore", call{method: "POST", target: "/full/there?restore"}, 501, "NotImplemented"},
		{"select", call{method: "POST", target: "/full/there?select&select-type=2"}, 501, "NotImplemented"},
		{"torrent", call{method: get, target: "/full/there?torrent"}, 501, "NotImplemented"},
		{"escaped sub-resource", call{method: put, target: "/full?%61cl"}, 501, "NotImplemented"},
		{"form upload", call{method: "POST", target: "/full", body: "x"}, 501, "NotImplemented"},
		{"form upload, signed inside", call{method: "POST", target: "/full", body: "x", anonymous: true}, 501, "NotImplemented"},
		{"anonymous post with a sub-resource", call{method: "POST", target: "/full?delete", body: "x", anonymous: true}, 403, "AccessDenied"},
		{"unknown method", call{method: "PATCH", target: "/full/there"}, 405, "MethodNotAllowed"},
		{"post to an object", call{method: "POST", target: "/full/there"}, 405, "MethodNotAllowed"},
		{"tags of a bucket", call{method: get, target: "/full?tagging"}, 404, "NoSuchTagSet"},
		{"lifecycle", call{method: get, target: "/full?lifecycle"}, 404, "NoSuchLifecycleConfiguration"},
		{"policy", call{method: get, target: "/full?policy"}, 404, "NoSuchBucketPolicy"},
		{"cors", call{method: get, target: "/full?cors"}, 404, "NoSuchCORSConfiguration"},
		{"encryption of a bucket", call{method: get, target: "/full?encryption"}, 404, "ServerSideEncryptionConfigurationNotFoundError"},
		{"object lock of a bucket", call{method: get, target: "/full?object-lock"}, 404, "ObjectLockConfigurationNotFoundError"},
		{"tags of no bucket", call{method: get, target: "/nowhere?tagging"}, 404, "NoSuchBucket"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			s := &site{t: t, address: s.address}
			a := s.do(r.call)
			if a.status != r.status || a.code() != r.code {
				t.Errorf("got %d %s, want %d %s: %s", a.status, a.code(), r.status, r.code, a.body)
			}
			if a.header.Get("X-Amz-Request-Id") == "" || a.header.Get("Server") != "Kintsugi" {
				t.Errorf("headers: %v", a.header)
			}
			if r.code != "" && (!strings.Contains(a.body, "<RequestId>"+a.header.Get("X-Amz-Request-Id")+"<") || a.header.Get("Content-Type") != "application/xml") {
				t.Errorf("document: %v %s", a.header, a.body)
			}
		})
	}
	if got := s.keys("bkt"); len(got) != 0 {
		t.Errorf("bad input left keys: %q", got)
	}
	if got := strings.Join(s.keys("full"), " "); got != "empty there" {
		t.Errorf("bad input changed keys: %q", got)
	}
	if a := s.must(call{method: get, target: "/full/there"}); a.body != "0123456789" {
		t.Errorf("bad input changed an object: %q", a.body)
	}
	if a := s.must(call{method: get, target: "/"}); strings.Contains(a.body, "new") {
		t.Errorf("bad input made a bucket: %s", a.body)
	}
	if a := s.must(call{method: get, target: "/bkt?uploads"}); strings.Contains(a.body, "<Upload>") {
		t.Errorf("bad input began an upload: %s", a.body)
	}
	s.clean()
	if strings.Contains(s.logs.String(), "panic") {
		t.Errorf("log: %s", s.logs)
	}
}

func between(text, from, to string) string {
	_, text, _ = strings.Cut(text, from)
	text, _, _ = strings.Cut(text, to)
	return text
}
