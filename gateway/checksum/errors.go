package checksum

import "strings"

// Error is one way in which a request's checksum is wrong. The set is closed:
// every error of this package is, or wraps, one of the sentinels below.
type Error struct {
	code    string
	message string
	parent  *Error
}

// Error gives the text that S3 gives for this failure.
func (e *Error) Error() string { return e.message }

// Code is the S3 error code.
func (e *Error) Code() string { return e.code }

// Unwrap gives the sentinel of an error that carries a more exact text.
func (e *Error) Unwrap() error {
	if e.parent == nil {
		return nil
	}
	return e.parent
}

func (e *Error) saying(message string) *Error {
	return &Error{code: e.code, message: message, parent: e}
}

// The sentinels; match with errors.Is.
var (
	// ErrUnknownAlgorithm: a name that is no algorithm.
	ErrUnknownAlgorithm = &Error{code: "InvalidRequest", message: "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"}
	// ErrUnknownHeader: an x-amz-checksum- header of no algorithm.
	ErrUnknownHeader = &Error{code: "InvalidRequest", message: "The algorithm type you specified in x-amz-checksum- header is invalid."}
	// ErrUnknownTrailer: x-amz-trailer names no checksum.
	ErrUnknownTrailer = &Error{code: "InvalidRequest", message: "The value specified in the x-amz-trailer header is not supported"}
	// ErrUnknownType: an x-amz-checksum-type that there is not.
	ErrUnknownType = &Error{code: "InvalidRequest", message: "Value for x-amz-checksum-type header is invalid."}
	// ErrTypeNotAllowed: the algorithm does not go with the type.
	ErrTypeNotAllowed = &Error{code: "InvalidRequest", message: "The checksum type cannot be used with the checksum algorithm."}
	// ErrInvalidValue: not base64, or not of the algorithm's length.
	ErrInvalidValue = &Error{code: "InvalidRequest", message: "Value for x-amz-checksum- header is invalid."}
	// ErrSeveral: more than one checksum.
	ErrSeveral = &Error{code: "InvalidRequest", message: "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."}
	// ErrSDKAlgorithm: x-amz-sdk-checksum-algorithm is not the algorithm of
	// the value.
	ErrSDKAlgorithm = &Error{code: "InvalidRequest", message: "Value for x-amz-sdk-checksum-algorithm header is invalid."}
	// ErrMissing: x-amz-sdk-checksum-algorithm without a value.
	ErrMissing = &Error{code: "InvalidRequest", message: "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found."}
	// ErrMismatch: the content has another checksum; see Mismatch.
	ErrMismatch = &Error{code: "BadDigest", message: "The checksum you specified did not match the calculated checksum."}
	// ErrParts: parts that cannot be put together: none, too many, of another
	// algorithm, or composite themselves.
	ErrParts = &Error{code: "InvalidPart", message: "The checksums of the parts do not fit together."}
)

// Errors lists every sentinel, for tables that must be complete.
func Errors() []*Error {
	return []*Error{
		ErrUnknownAlgorithm, ErrUnknownHeader, ErrUnknownTrailer,
		ErrUnknownType, ErrTypeNotAllowed, ErrInvalidValue, ErrSeveral,
		ErrSDKAlgorithm, ErrMissing, ErrMismatch, ErrParts,
	}
}

// Mismatch is ErrMismatch with the algorithm's name.
func Mismatch(a Algorithm) error {
	return ErrMismatch.saying("The " + a.String() + " you specified did not match the calculated checksum.")
}

func (a Algorithm) invalid() error {
	return ErrInvalidValue.saying("Value for x-amz-checksum-" + strings.ToLower(a.String()) + " header is invalid.")
}
