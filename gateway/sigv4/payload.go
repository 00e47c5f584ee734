package sigv4

import (
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
)

// Kind is how a body is protected.
type Kind uint8

// The kinds of protection, with the x-amz-content-sha256 that asks for each.
const (
	// Unsigned: the body as it is, unverified (UNSIGNED-PAYLOAD, and
	// presigned or anonymous requests that say nothing).
	Unsigned Kind = iota
	// Hashed: the body as it is; the header holds its SHA-256 in hex.
	Hashed
	// SignedChunks: aws-chunked, each chunk signed
	// (STREAMING-AWS4-HMAC-SHA256-PAYLOAD).
	SignedChunks
	// SignedChunksTrailer: as SignedChunks, with a signed trailer
	// (STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER).
	SignedChunksTrailer
	// UnsignedChunksTrailer: aws-chunked, no signatures, a trailer
	// (STREAMING-UNSIGNED-PAYLOAD-TRAILER).
	UnsignedChunksTrailer
)

const (
	unsignedPayload       = "UNSIGNED-PAYLOAD"
	signedChunks          = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	signedChunksTrailer   = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	unsignedChunksTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

	emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// Payload says how the body of a verified request is to be read.
type Payload struct {
	// Kind of protection.
	Kind Kind
	// Size of the decoded body in bytes; -1 when it was not announced (then
	// S3 answers MissingContentLength where a length is required).
	Size int64
	// Trailer is the trailer that follows the body, such as
	// "x-amz-checksum-crc32", in lower case; "" when there is none.
	Trailer string

	content string // x-amz-content-sha256, as it is signed
	sum     [32]byte
	chain   chain
}

// chain is what chunk signatures start from.
type chain struct {
	key      [32]byte
	seed     [64]byte
	scope    string
	dateTime string
}

// Chunked says whether the body is aws-chunked.
func (p Payload) Chunked() bool { return p.Kind >= SignedChunks }

// ContentEncoding is a Content-Encoding header without the aws-chunked that
// only described the transfer: what is to be stored with the object.
func ContentEncoding(header string) string {
	if !strings.Contains(header, "aws-chunked") {
		return header
	}
	kept := make([]string, 0, 4)
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimSpace(part); part != "" && part != "aws-chunked" {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, ",")
}

// payloadOf reads what x-amz-content-sha256 asks for; optional says that it
// may be missing.
func payloadOf(r *http.Request, content string, optional bool) (Payload, error) {
	p := Payload{Size: r.ContentLength, content: content}
	switch content {
	case "":
		if !optional {
			return p, ErrContentSHA256Missing
		}
		p.content = unsignedPayload
	case unsignedPayload:
	case signedChunks:
		p.Kind = SignedChunks
	case signedChunksTrailer:
		p.Kind = SignedChunksTrailer
	case unsignedChunksTrailer:
		p.Kind = UnsignedChunksTrailer
	default:
		p.Kind = Hashed
		if len(content) != 64 || !unhexSum(&p.sum, content) {
			return p, ErrContentSHA256Invalid
		}
	}
	if err := p.readTrailer(r.Header["X-Amz-Trailer"]); err != nil {
		return p, err
	}
	if !p.Chunked() {
		return p, nil
	}
	text := strings.TrimSpace(firstHeader(r.Header, "X-Amz-Decoded-Content-Length"))
	if text == "" {
		return p, ErrDecodedLengthMissing
	}
	size, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return p, ErrDecodedLengthInvalid
	}
	p.Size = int64(size)
	return p, nil
}

func unhexSum(sum *[32]byte, text string) bool {
	_, err := hex.Decode(sum[:], []byte(text))
	return err == nil
}

// readTrailer takes the one trailer that x-amz-trailer may announce.
func (p *Payload) readTrailer(values []string) error {
	if len(values) == 0 {
		return nil
	}
	if p.Kind != SignedChunksTrailer && p.Kind != UnsignedChunksTrailer {
		return ErrMalformedTrailer
	}
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			name = strings.ToLower(strings.TrimSpace(name))
			switch {
			case name == "":
			case p.Trailer != "":
				return ErrSeveralTrailers
			case len(name) > 64 || !strings.HasPrefix(name, "x-amz-checksum-"):
				return ErrUnsupportedTrailer
			default:
				p.Trailer = name
			}
		}
	}
	return nil
}
