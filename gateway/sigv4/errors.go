package sigv4

// Error is one way in which a request fails verification. The set is closed:
// every error that this package returns is one of the sentinels below, wraps
// one (see Error.Unwrap), or is the body's own read error. Match with
// errors.Is; take code and text with errors.As.
type Error struct {
	code    string
	message string
	parent  *Error
}

// Error gives the text that S3 gives for this failure. It never holds a
// secret, and holds nothing of the request but names of headers, regions and
// dates.
func (e *Error) Error() string { return e.message }

// Code is the S3 error code, for example "SignatureDoesNotMatch".
func (e *Error) Code() string { return e.code }

// Unwrap gives the sentinel of an error that carries a more exact text.
func (e *Error) Unwrap() error {
	if e.parent == nil {
		return nil
	}
	return e.parent
}

// saying is the sentinel with a text that names what was found.
func (e *Error) saying(message string) *Error {
	return &Error{code: e.code, message: message, parent: e}
}

// Who asks: credentials and signature.
var (
	// ErrAnonymous: the request carries no authentication at all. The Payload
	// returned with it is valid, for resources that are public.
	ErrAnonymous = &Error{code: "AccessDenied", message: "Access Denied"}
	// ErrUnknownAccessKey: nobody has this access key.
	ErrUnknownAccessKey = &Error{code: "InvalidAccessKeyId", message: "The AWS Access Key Id you provided does not exist in our records."}
	// ErrSignature: the signature of the request, of a chunk or of the
	// trailers is not the one that the secret gives.
	ErrSignature = &Error{code: "SignatureDoesNotMatch", message: "The request signature we calculated does not match the signature you provided. Check your key and signing method."}
	// ErrSecurityToken: a session token came with credentials that have none.
	ErrSecurityToken = &Error{code: "InvalidToken", message: "The provided token is malformed or otherwise invalid."}
	// ErrSeveralMechanisms: both an Authorization header and a presigned query.
	ErrSeveralMechanisms = &Error{code: "InvalidArgument", message: "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified"}
	// ErrUnsupportedMechanism: Signature V2, V4A, or a V4 of another hash.
	ErrUnsupportedMechanism = &Error{code: "InvalidRequest", message: "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."}
	// ErrAuthorizationType: an Authorization header that is no signature.
	ErrAuthorizationType = &Error{code: "InvalidArgument", message: "Unsupported Authorization Type"}
	// ErrUnsignedHeaders: the host or an x-amz-* header is not signed.
	ErrUnsignedHeaders = &Error{code: "AccessDenied", message: "There were headers present in the request which were not signed"}
	// ErrInvalidURI: the path or the query has a broken percent escape.
	ErrInvalidURI = &Error{code: "InvalidURI", message: "Couldn't parse the specified URI."}
)

// Header authentication.
var (
	// ErrAuthorizationMalformed: the Authorization header does not have its
	// three components.
	ErrAuthorizationMalformed = &Error{code: "AuthorizationHeaderMalformed", message: "The authorization header is malformed; the authorization header requires three components: Credential, SignedHeaders, and Signature."}
	// ErrCredentialMalformed: Credential does not have its five fields.
	ErrCredentialMalformed = &Error{code: "AuthorizationHeaderMalformed", message: `The authorization header is malformed; the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".`}
	// ErrCredentialDate: the date in the credential is not the request's.
	ErrCredentialDate = &Error{code: "AuthorizationHeaderMalformed", message: "The authorization header is malformed; Invalid credential date. This date is not the same as X-Amz-Date."}
	// ErrRegion: the scope names another region. Clients take the right one
	// from the Region element of the answer.
	ErrRegion = &Error{code: "AuthorizationHeaderMalformed", message: "The authorization header is malformed; the region is wrong"}
	// ErrService: the scope names another service.
	ErrService = &Error{code: "AuthorizationHeaderMalformed", message: "The authorization header is malformed; incorrect service."}
	// ErrTerminal: the scope does not end in aws4_request.
	ErrTerminal = &Error{code: "AuthorizationHeaderMalformed", message: `The authorization header is malformed; incorrect terminal. This endpoint uses "aws4_request".`}
	// ErrDate: there is no valid X-Amz-Date nor Date header.
	ErrDate = &Error{code: "AccessDenied", message: "AWS authentication requires a valid Date or x-amz-date header"}
	// ErrSkewed: the request's time is more than 15 minutes from ours.
	ErrSkewed = &Error{code: "RequestTimeTooSkewed", message: "The difference between the request time and the current time is too large."}
)

// Presigned requests.
var (
	// ErrQueryIncomplete: one of the six parameters is missing.
	ErrQueryIncomplete = &Error{code: "AuthorizationQueryParametersError", message: "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."}
	// ErrQueryAlgorithm: X-Amz-Algorithm is not AWS4-HMAC-SHA256.
	ErrQueryAlgorithm = &Error{code: "AuthorizationQueryParametersError", message: `X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"`}
	// ErrQueryCredential: X-Amz-Credential does not have its five fields, or
	// its date, region, service or terminal is wrong.
	ErrQueryCredential = &Error{code: "AuthorizationQueryParametersError", message: `Error parsing the X-Amz-Credential parameter; the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".`}
	// ErrQueryDate: X-Amz-Date is not a date.
	ErrQueryDate = &Error{code: "AuthorizationQueryParametersError", message: `X-Amz-Date must be in the ISO8601 Long Format "yyyyMMdd'T'HHmmss'Z'"`}
	// ErrExpiresNumber: X-Amz-Expires is not a number.
	ErrExpiresNumber = &Error{code: "AuthorizationQueryParametersError", message: "X-Amz-Expires should be a number"}
	// ErrExpiresNegative: X-Amz-Expires is negative.
	ErrExpiresNegative = &Error{code: "AuthorizationQueryParametersError", message: "X-Amz-Expires must be non-negative"}
	// ErrExpiresTooLong: X-Amz-Expires is more than seven days.
	ErrExpiresTooLong = &Error{code: "AuthorizationQueryParametersError", message: "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than 604800 seconds"}
	// ErrExpired: the presigned request's time is over.
	ErrExpired = &Error{code: "AccessDenied", message: "Request has expired"}
	// ErrNotYetValid: the presigned request's time has not come.
	ErrNotYetValid = &Error{code: "AccessDenied", message: "Request is not valid yet"}
)

// The payload.
var (
	// ErrContentSHA256Missing: no x-amz-content-sha256 header.
	ErrContentSHA256Missing = &Error{code: "InvalidRequest", message: "Missing required header for this request: x-amz-content-sha256"}
	// ErrContentSHA256Invalid: x-amz-content-sha256 is none of what it may be.
	ErrContentSHA256Invalid = &Error{code: "InvalidArgument", message: "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value."}
	// ErrContentSHA256Mismatch: the body's SHA-256 is not the announced one.
	ErrContentSHA256Mismatch = &Error{code: "XAmzContentSHA256Mismatch", message: "The provided 'x-amz-content-sha256' header does not match what was computed."}
	// ErrDecodedLengthMissing: a chunked body without
	// x-amz-decoded-content-length.
	ErrDecodedLengthMissing = &Error{code: "MissingContentLength", message: "You must provide the Content-Length HTTP header."}
	// ErrDecodedLengthInvalid: x-amz-decoded-content-length is not a length.
	ErrDecodedLengthInvalid = &Error{code: "InvalidArgument", message: "x-amz-decoded-content-length must be a non-negative number of bytes"}
	// ErrIncompleteBody: the body is not as long as it was announced.
	ErrIncompleteBody = &Error{code: "IncompleteBody", message: "You did not provide the number of bytes specified by the Content-Length HTTP header"}
	// ErrMalformedChunk: a chunk's head or end is not what it must be.
	ErrMalformedChunk = &Error{code: "IncompleteBody", message: "The request body terminated unexpectedly"}
	// ErrChunkSize: a chunk below 8192 bytes that is not the last.
	ErrChunkSize = &Error{code: "InvalidChunkSizeError", message: "Only the last chunk is allowed to have a size less than 8192 bytes"}
	// ErrMalformedTrailer: the trailer is broken, a second one, one that was
	// not announced, or the announced one is missing.
	ErrMalformedTrailer = &Error{code: "MalformedTrailerError", message: "The request contained trailing data that was not well-formed or did not conform to our published schema."}
	// ErrUnsupportedTrailer: x-amz-trailer names no checksum.
	ErrUnsupportedTrailer = &Error{code: "InvalidRequest", message: "The value specified in the x-amz-trailer header is not supported"}
	// ErrSeveralTrailers: x-amz-trailer names more than one checksum.
	ErrSeveralTrailers = &Error{code: "InvalidRequest", message: "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."}
)

// Errors lists every sentinel, for tables that must be complete.
func Errors() []*Error {
	return []*Error{
		ErrAnonymous, ErrUnknownAccessKey, ErrSignature, ErrSecurityToken,
		ErrSeveralMechanisms, ErrUnsupportedMechanism, ErrAuthorizationType,
		ErrUnsignedHeaders, ErrInvalidURI,
		ErrAuthorizationMalformed, ErrCredentialMalformed, ErrCredentialDate,
		ErrRegion, ErrService, ErrTerminal, ErrDate, ErrSkewed,
		ErrQueryIncomplete, ErrQueryAlgorithm, ErrQueryCredential, ErrQueryDate,
		ErrExpiresNumber, ErrExpiresNegative, ErrExpiresTooLong, ErrExpired,
		ErrNotYetValid,
		ErrContentSHA256Missing, ErrContentSHA256Invalid,
		ErrContentSHA256Mismatch, ErrDecodedLengthMissing,
		ErrDecodedLengthInvalid, ErrIncompleteBody, ErrMalformedChunk,
		ErrChunkSize, ErrMalformedTrailer, ErrUnsupportedTrailer,
		ErrSeveralTrailers,
	}
}
