package gateway

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"net/http"
	"strconv"

	"kintsugi/gateway/checksum"
	"kintsugi/metadata"
)

// completionList is the body of CompleteMultipartUpload.
type completionList struct {
	XMLName struct{}     `xml:"CompleteMultipartUpload"`
	Parts   completedSet `xml:"Part"`
}

type completedPart struct {
	Number    *int    `xml:"PartNumber"`
	ETag      *string `xml:"ETag"`
	CRC32     string  `xml:"ChecksumCRC32"`
	CRC32C    string  `xml:"ChecksumCRC32C"`
	CRC64NVME string  `xml:"ChecksumCRC64NVME"`
	SHA1      string  `xml:"ChecksumSHA1"`
	SHA256    string  `xml:"ChecksumSHA256"`
}

type completedSet []completedPart

// UnmarshalXML implements xml.Unmarshaler.
func (s *completedSet) UnmarshalXML(d *xml.Decoder, start xml.StartElement) error {
	return readEntry(d, &start, (*[]completedPart)(s), maxPart)
}

// maxCompletion is room for 10,000 parts, each with a SHA-256.
const maxCompletion = 4 << 20

// parts gives the list the form of metadata, in ascending order.
func (l *completionList) parts() ([]metadata.CompletedPart, error) {
	if len(l.Parts) == 0 || len(l.Parts) > maxPart {
		return nil, errMalformedXML
	}
	parts := make([]metadata.CompletedPart, len(l.Parts))
	for i := range l.Parts {
		p := &l.Parts[i]
		if p.Number == nil || p.ETag == nil {
			return nil, errMalformedXML
		}
		if *p.Number < 1 || *p.Number > maxPart {
			return nil, errInvalidArgument.saying("PartNumber must be >= 1 and <= 10000")
		}
		if i > 0 && *p.Number <= parts[i-1].Number {
			return nil, errInvalidPartOrder
		}
		parts[i] = metadata.CompletedPart{Number: *p.Number, ETag: bareETag(*p.ETag)}
		for _, c := range [...]metadata.Checksum{
			{Algorithm: "CRC32", Value: p.CRC32}, {Algorithm: "CRC32C", Value: p.CRC32C},
			{Algorithm: "CRC64NVME", Value: p.CRC64NVME}, {Algorithm: "SHA1", Value: p.SHA1},
			{Algorithm: "SHA256", Value: p.SHA256},
		} {
			if c.Value != "" {
				parts[i].Checksum = c
			}
		}
	}
	return parts, nil
}

// completeUpload answers CompleteMultipartUpload.
func (x *exchange) completeUpload() error {
	ctx, id := x.r.Context(), x.param("uploadId")
	if err := x.noVersion(); err != nil {
		return err
	}
	cond, err := x.writeCondition()
	if err != nil {
		return err
	}
	want, err := x.wantedWhole()
	if err != nil {
		return err
	}
	var list completionList
	if err := x.readCompletion(&list); err != nil {
		return err
	}
	parts, err := list.parts()
	if err != nil {
		return err
	}
	if want.upload, err = x.g.uploads.Upload(ctx, x.bucket.ID, x.key, id); err != nil && !errors.Is(err, metadata.ErrNoSuchUpload) {
		return err
	}
	etag := wholeETag(parts)
	// An upload that is gone may have been completed by this request's first
	// attempt: CompleteUpload knows.
	o, err := x.g.uploads.CompleteUpload(ctx, x.bucket, x.key, id, metadata.Completion{
		Parts: parts, Condition: cond, MinPart: minPart, Modified: x.g.clock.Now(), Seal: want.seal(parts, etag),
	})
	if err != nil {
		return err
	}
	if o.ETag != etag {
		return errInvalidPart // it was completed with other parts than these
	}
	x.g.deleted()
	out := x.g.takeXML()
	defer x.g.giveXML(out)
	out.root("CompleteMultipartUploadResult").text("Location", x.location()).text("Bucket", x.name).text("Key", x.key)
	out.etag(o.ETag).checksum(o.Checksum).some("ChecksumType", checksumType(o.Checksum))
	out.close("CompleteMultipartUploadResult")
	x.sendXML(http.StatusOK, out)
	return nil
}

// readCompletion reads the list. The checksum headers of this request are
// about the object, not about the body.
func (x *exchange) readCompletion(list *completionList) error {
	for _, a := range checksum.Algorithms() {
		delete(x.r.Header, sumHeader(a.String()))
	}
	err := x.readXML(list, maxCompletion)
	if errors.Is(err, errNoDocument) {
		return errMalformedXML
	}
	return err
}

func (x *exchange) location() string {
	scheme := "http://"
	if x.r.TLS != nil {
		scheme = "https://"
	}
	b := append([]byte(scheme), x.r.Host...)
	if bucketOfHost(x.r.Host, x.g.domains) == "" {
		b = append(append(b, '/'), x.name...)
	}
	return string(appendPercent(append(b, '/'), x.key))
}

// wholeObject is what the client says of the object it completes.
type wholeObject struct {
	upload metadata.Upload
	sum    checksum.Request
	kind   checksum.Type
	size   int64 // -1: not said
}

func (x *exchange) wantedWhole() (w *wholeObject, err error) {
	w = &wholeObject{size: -1}
	if v := x.header("X-Amz-Mp-Object-Size"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return nil, errInvalidRequest.saying("Value for x-amz-mp-object-size header is invalid: '" + v + "'")
		}
		w.size = n
	}
	if w.kind, err = checksum.ParseType(x.header("X-Amz-Checksum-Type")); err != nil {
		return nil, err
	}
	for _, a := range checksum.Algorithms() {
		v := x.header(sumHeader(a.String()))
		if v == "" {
			continue
		}
		if !w.sum.Sum.IsZero() {
			return nil, checksum.ErrSeveral
		}
		if w.sum.Sum, err = checksum.ParseSum(a, v); err != nil {
			return nil, err
		}
		w.sum.Algorithm = a
	}
	return w, nil
}

// wholeETag is the ETag of an object of these parts; none has it where one of theirs
// is no MD5.
func wholeETag(parts []metadata.CompletedPart) string {
	digests := md5.New()
	for i := range parts {
		raw, err := hex.DecodeString(parts[i].ETag)
		if err != nil || len(raw) != md5.Size {
			return ""
		}
		digests.Write(raw)
	}
	return hex.EncodeToString(digests.Sum(nil)) + "-" + strconv.Itoa(len(parts))
}

// seal gives the function that checks the parts, whose ETags are the named ones,
// and computes the checksum of the object; etag is its ETag.
func (w *wholeObject) seal(named []metadata.CompletedPart, etag string) func([]metadata.Part) (string, metadata.Checksum, error) {
	return func(parts []metadata.Part) (string, metadata.Checksum, error) {
		none := metadata.Checksum{}
		if len(parts) != len(named) {
			return "", none, errInvalidPart
		}
		var size int64
		for i := range parts {
			size += parts[i].Size
			if c := named[i].Checksum; c.Value != "" && (c.Algorithm != parts[i].Checksum.Algorithm || c.Value != parts[i].Checksum.Value) {
				return "", none, errInvalidPart
			}
		}
		if w.size >= 0 && w.size != size {
			return "", none, errInvalidRequest.saying("The provided 'x-amz-mp-object-size' header value " +
				strconv.FormatInt(w.size, 10) + " does not match what was computed: " + strconv.FormatInt(size, 10))
		}
		sum, err := w.combine(parts)
		if err != nil {
			return "", none, err
		}
		return etag, storedSum(sum), nil
	}
}

// combine computes the object's checksum from the parts', and compares it
// with what the client said.
func (w *wholeObject) combine(parts []metadata.Part) (sum checksum.Sum, err error) {
	asked := w.upload.Checksum
	a := algorithmOf(asked.Algorithm)
	if w.kind != checksum.Unspecified && (a == checksum.None || (w.kind == checksum.Composite) != asked.Composite) {
		mode := checksumType(asked)
		if mode == "" {
			mode = "null" // as S3 puts it
		}
		return sum, errInvalidRequest.saying("The upload was created using the " + mode +
			" checksum mode. The complete request must use the same checksum mode.")
	}
	if a == checksum.None {
		if !w.sum.Sum.IsZero() {
			return sum, errInvalidRequest.saying("The upload was created without a checksum algorithm, so a checksum of the object cannot be checked.")
		}
		return sum, nil
	}
	list := make([]checksum.Part, len(parts))
	for i := range parts {
		s, err := checksum.ParseSum(a, parts[i].Checksum.Value)
		if err != nil || parts[i].Checksum.Algorithm != a.String() {
			return sum, errInvalidPart
		}
		list[i] = checksum.Part{Sum: s, Size: parts[i].Size}
	}
	if asked.Composite {
		sum, err = checksum.Compose(a, list)
	} else {
		sum, err = checksum.Combine(a, list)
	}
	if err != nil {
		return sum, err
	}
	if want := w.sum.Sum; !want.IsZero() {
		// A composite value may come with or without its number of parts.
		if want.Algorithm() != a || string(want.Append(nil)) != string(sum.Append(nil)) || want.Parts() != 0 && want.Parts() != sum.Parts() {
			return sum, checksum.Mismatch(a)
		}
	}
	return sum, nil
}
