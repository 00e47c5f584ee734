package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"kintsugi/erasure/stripe"
	"kintsugi/gateway/checksum"
	"kintsugi/gateway/sigv4"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// fault is an answer of S3 other than success: one row of the table below, or
// one with a text of its own (see saying).
type fault struct {
	code    string
	status  int
	message string
}

// Error implements error.
func (f *fault) Error() string { return f.code + ": " + f.message }

// saying is the fault with another text.
func (f *fault) saying(message string) *fault {
	return &fault{code: f.code, status: f.status, message: message}
}

// headerNotBuilt is the refusal of a header that asks for what is not built. It names
// the header, for many programs show nothing but the text, and somebody has to
// find the setting that sends it. The value stays out: it may be a key.
func headerNotBuilt(name string) *fault {
	return errNotImplemented.saying(errNotImplemented.message + ": " + strings.ToLower(name))
}

// operationNotBuilt is the refusal of an operation, which it names for the same reason.
func operationNotBuilt(name string) *fault {
	return errOperationNotBuilt.saying(errOperationNotBuilt.message + ": " + name)
}

// Every code that the gateway answers with, its status and its text, which is
// AWS's where that is known. sigv4 and checksum bring their own texts and take
// only the status from here.
var (
	errAccessDenied            = &fault{"AccessDenied", 403, "Access Denied"}
	errAccessForbidden         = &fault{"AccessForbidden", 403, "CORSResponse: CORS is not enabled for this bucket."}
	errAuthHeaderMalformed     = &fault{"AuthorizationHeaderMalformed", 400, "The authorization header you provided is invalid."}
	errAuthQueryParameters     = &fault{"AuthorizationQueryParametersError", 400, "The query string authentication parameters you provided are invalid."}
	errBadDigest               = &fault{"BadDigest", 400, "The Content-MD5 you specified did not match what we received."}
	errBadRequest              = &fault{"BadRequest", 400, "Bad Request"}
	errBucketAlreadyExists     = &fault{"BucketAlreadyExists", 409, "The requested bucket name is not available. The bucket namespace is shared by all users of the system. Please select a different name and try again."}
	errBucketAlreadyOwnedByYou = &fault{"BucketAlreadyOwnedByYou", 409, "Your previous request to create the named bucket succeeded and you already own it."}
	errBucketNotEmpty          = &fault{"BucketNotEmpty", 409, "The bucket you tried to delete is not empty"}
	errConditionalConflict     = &fault{"ConditionalRequestConflict", 409, "The conditional request cannot succeed due to a conflicting operation against this resource."}
	errEntityTooLarge          = &fault{"EntityTooLarge", 400, "Your proposed upload exceeds the maximum allowed size"}
	errEntityTooSmall          = &fault{"EntityTooSmall", 400, "Your proposed upload is smaller than the minimum allowed size"}
	errIncompleteBody          = &fault{"IncompleteBody", 400, "You did not provide the number of bytes specified by the Content-Length HTTP header"}
	errInternal                = &fault{"InternalError", 500, "We encountered an internal error. Please try again."}
	errInvalidAccessKeyID      = &fault{"InvalidAccessKeyId", 403, "The AWS Access Key Id you provided does not exist in our records."}
	errInvalidArgument         = &fault{"InvalidArgument", 400, "Invalid Argument"}
	errInvalidBucketName       = &fault{"InvalidBucketName", 400, "The specified bucket is not valid."}
	errInvalidChunkSize        = &fault{"InvalidChunkSizeError", 400, "Only the last chunk is allowed to have a size less than 8192 bytes"}
	errInvalidDigest           = &fault{"InvalidDigest", 400, "The Content-MD5 you specified was invalid."}
	errInvalidLocation         = &fault{"InvalidLocationConstraint", 400, "The specified location-constraint is not valid"}
	errInvalidPart             = &fault{"InvalidPart", 400, "One or more of the specified parts could not be found.  The part may not have been uploaded, or the specified entity tag may not match the part's entity tag."}
	errInvalidPartNumber       = &fault{"InvalidPartNumber", 416, "The requested partnumber is not satisfiable"}
	errInvalidPartOrder        = &fault{"InvalidPartOrder", 400, "The list of parts was not in ascending order. Parts must be ordered by part number."}
	errInvalidRange            = &fault{"InvalidRange", 416, "The requested range is not satisfiable"}
	errInvalidRequest          = &fault{"InvalidRequest", 400, "Invalid Request"}
	errInvalidStorageClass     = &fault{"InvalidStorageClass", 400, "The storage class you specified is not valid"}
	errInvalidToken            = &fault{"InvalidToken", 400, "The provided token is malformed or otherwise invalid."}
	errInvalidURI              = &fault{"InvalidURI", 400, "Couldn't parse the specified URI."}
	errKeyTooLong              = &fault{"KeyTooLongError", 400, "Your key is too long"}
	errMalformedTrailer        = &fault{"MalformedTrailerError", 400, "The request contained trailing data that was not well-formed or did not conform to our published schema."}
	errMalformedXML            = &fault{"MalformedXML", 400, "The XML you provided was not well-formed or did not validate against our published schema"}
	errMessageTooLong          = &fault{"MaxMessageLengthExceeded", 400, "Your request was too big."}
	errMetadataTooLarge        = &fault{"MetadataTooLarge", 400, "Your metadata headers exceed the maximum allowed metadata size"}
	errMethodNotAllowed        = &fault{"MethodNotAllowed", 405, "The specified method is not allowed against this resource."}
	errMissingContentLength    = &fault{"MissingContentLength", 411, "You must provide the Content-Length HTTP header."}
	errNoSuchBucket            = &fault{"NoSuchBucket", 404, "The specified bucket does not exist"}
	errNoSuchBucketPolicy      = &fault{"NoSuchBucketPolicy", 404, "The bucket policy does not exist"}
	errNoSuchCORS              = &fault{"NoSuchCORSConfiguration", 404, "The CORS configuration does not exist"}
	errNoSuchKey               = &fault{"NoSuchKey", 404, "The specified key does not exist."}
	errNoSuchLifecycle         = &fault{"NoSuchLifecycleConfiguration", 404, "The lifecycle configuration does not exist"}
	errNoSuchPublicAccessBlock = &fault{"NoSuchPublicAccessBlockConfiguration", 404, "The public access block configuration was not found"}
	errNoSuchTagSet            = &fault{"NoSuchTagSet", 404, "The TagSet does not exist"}
	errNoSuchUpload            = &fault{"NoSuchUpload", 404, "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."}
	errNoSuchVersion           = &fault{"NoSuchVersion", 404, "The specified version does not exist."}
	errNoSuchWebsite           = &fault{"NoSuchWebsiteConfiguration", 404, "The specified bucket does not have a website configuration"}
	errNotImplemented          = &fault{"NotImplemented", 501, "A header you provided implies functionality that is not implemented"}
	errOperationNotBuilt       = &fault{"NotImplemented", 501, "This operation is not implemented"}
	errNotModified             = &fault{"NotModified", 304, "Not Modified"}
	errObjectLockNotFound      = &fault{"ObjectLockConfigurationNotFoundError", 404, "Object Lock configuration does not exist for this bucket"}
	errPreconditionFailed      = &fault{"PreconditionFailed", 412, "At least one of the pre-conditions you specified did not hold"}
	errReplicationNotFound     = &fault{"ReplicationConfigurationNotFoundError", 404, "The replication configuration was not found"}
	errRequestTimeout          = &fault{"RequestTimeout", 400, "Your socket connection to the server was not read from or written to within the timeout period. Idle connections will be closed."}
	errRequestTimeTooSkewed    = &fault{"RequestTimeTooSkewed", 403, "The difference between the request time and the current time is too large."}
	errSSENotFound             = &fault{"ServerSideEncryptionConfigurationNotFoundError", 404, "The server side encryption configuration was not found"}
	errServiceUnavailable      = &fault{"ServiceUnavailable", 503, "Service is unable to handle request."}
	errSHA256Mismatch          = &fault{"XAmzContentSHA256Mismatch", 400, "The provided 'x-amz-content-sha256' header does not match what was computed."}
	errSignatureDoesNotMatch   = &fault{"SignatureDoesNotMatch", 403, "The request signature we calculated does not match the signature you provided. Check your key and signing method."}
	errSlowDown                = &fault{"SlowDown", 503, "Please reduce your request rate."}
	errTooFewDrives            = errServiceUnavailable.saying("Too few drives can be written to: they are full or away.")
	errUserKeyMustBeSpecified  = &fault{"UserKeyMustBeSpecified", 400, "The bucket POST must contain the specified field name. If it is specified, please check the order of the fields."}
)

// foreign maps the sentinels of other packages.
var foreign = []struct {
	err   error
	fault *fault
}{
	{metadata.ErrNoSuchKey, errNoSuchKey},
	{metadata.ErrNoSuchBucket, errNoSuchBucket},
	{metadata.ErrPreconditionFailed, errPreconditionFailed},
	{metadata.ErrConditionalConflict, errConditionalConflict},
	{metadata.ErrBucketExists, errBucketAlreadyExists},
	{metadata.ErrBucketNotEmpty, errBucketNotEmpty},
	{metadata.ErrNoSuchUpload, errNoSuchUpload},
	{metadata.ErrInvalidPart, errInvalidPart},
	{metadata.ErrInvalidPartOrder, errInvalidPartOrder},
	{metadata.ErrPartTooSmall, errEntityTooSmall},
	{metadata.ErrStalePlacement, errServiceUnavailable},
	{metadata.ErrNoPlacement, errTooFewDrives},
	{metadata.ErrUnavailable, errServiceUnavailable},
	{stripe.ErrOverload, errSlowDown},
	{stripe.ErrUnreadable, errServiceUnavailable},
	{storagenode.ErrReadOnly, errTooFewDrives}, // also the reason of a quorum that was not reached
	{stripe.ErrQuorum, errServiceUnavailable},
	{storagenode.ErrUnavailable, errServiceUnavailable},
	{storagenode.ErrSuspect, errServiceUnavailable},
	{storagenode.ErrBroken, errServiceUnavailable},
	{context.DeadlineExceeded, errServiceUnavailable},
}

// borrowed gives a code of sigv4 or checksum its status.
var borrowed = []*fault{
	errAccessDenied, errAuthHeaderMalformed, errAuthQueryParameters, errBadDigest, errIncompleteBody,
	errInvalidAccessKeyID, errInvalidArgument, errInvalidChunkSize, errInvalidPart, errInvalidRequest,
	errInvalidToken, errInvalidURI, errMalformedTrailer, errMissingContentLength, errRequestTimeTooSkewed,
	errSHA256Mismatch, errSignatureDoesNotMatch,
}

// faultOf gives any error its answer. What it does not know becomes
// InternalError, known false, and nothing of its text leaves the process.
func faultOf(err error) (f *fault, known bool) {
	if errors.As(err, &f) {
		return f, true
	}
	var sig *sigv4.Error
	if errors.As(err, &sig) {
		return ofCode(sig.Code(), sig.Error())
	}
	var sum *checksum.Error
	if errors.As(err, &sum) {
		return ofCode(sum.Code(), sum.Error())
	}
	for _, row := range foreign {
		if errors.Is(err, row.err) {
			return row.fault, true
		}
	}
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return errRequestTimeout, true
	}
	return errInternal, false
}

func ofCode(code, message string) (*fault, bool) {
	for _, f := range borrowed {
		if f.code == code {
			return f.saying(message), true
		}
	}
	return errInternal, false
}

// troubleEvery is the least time between two lines of the log about what is
// unavailable: an outage is told, not each request that meets it.
const troubleEvery = time.Second

// report tells the log of what an operator should know.
func (x *exchange) report(f *fault, known bool, err error) {
	level, text := slog.LevelError, "request failed"
	if known {
		now, last := x.g.count.Now(), x.g.troubled.Load()
		if f.code != errServiceUnavailable.code || last != 0 && now-last < int64(troubleEvery) || !x.g.troubled.CompareAndSwap(last, now) {
			return
		}
		level, text = slog.LevelWarn, "request answered with 503"
	}
	x.g.log.Log(x.r.Context(), level, text, "req", x.id, "op", x.operationName(), "bucket", x.bucket.Name, "key", x.key, "err", err)
}

// regionIsWrong says whether a client may have signed for another region. It is
// told the right one, and clients try again with that: by the document, or by a
// header where there is none, as with HEAD. They ask for a bucket's region by a
// HeadBucket without a signature, too, and read the header of the refusal.
func regionIsWrong(f *fault) bool {
	return f.code == errAuthHeaderMalformed.code || f.code == errAuthQueryParameters.code
}

// fail sends the answer to err. Where the answer's head is out already, only
// cutting the connection tells the client.
func (x *exchange) fail(err error) {
	f, known := faultOf(err)
	clientGone := x.r.Context().Err() != nil
	if !clientGone {
		x.report(f, known, err)
	}
	if x.begun || !known && clientGone {
		panic(http.ErrAbortHandler)
	}
	if x.body == nil { // what is long net/http sends at once, and waits for the body before
		x.forsakeBody()
	}
	h := x.w.Header()
	clear(h)
	x.identify(h)
	if f.status == http.StatusServiceUnavailable {
		h["Retry-After"] = retryAfter
	}
	if f == errNotModified || f.status == http.StatusPreconditionFailed {
		for i, v := range x.validators {
			if v != "" {
				h[validatorNames[i]] = []string{v}
			}
		}
	}
	if x.name != "" && (regionIsWrong(f) || x.op != nil && x.op.name == "HeadBucket" && f.code == errAccessDenied.code) {
		h["X-Amz-Bucket-Region"] = []string{x.g.region}
	}
	if f == errInvalidRange && x.unsatisfied != "" {
		h["Content-Range"] = []string{x.unsatisfied}
	}
	if x.r.Method == http.MethodHead || f.status == http.StatusNotModified {
		if f.status != http.StatusNotModified {
			h["Content-Length"] = zero
		}
		x.WriteHeader(f.status)
		return
	}
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.open("Error").text("Code", f.code).text("Message", f.message)
	if regionIsWrong(f) {
		o.text("Region", x.g.region)
	}
	if x.name != "" {
		o.text("BucketName", x.name)
	}
	if x.key != "" {
		o.text("Key", x.key)
	}
	o.text("Resource", x.resource()).text("RequestId", x.id).text("HostId", x.g.hostID).close("Error")
	x.sendXML(f.status, o)
}
