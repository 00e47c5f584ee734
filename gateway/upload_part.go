package gateway

import (
	"net/http"
	"strings"

	"kintsugi/gateway/checksum"
	"kintsugi/metadata"
)

// uploadPart answers UploadPart and UploadPartCopy.
func (x *exchange) uploadPart() error {
	text, given := x.lookup("partNumber")
	if !given {
		return errMethodNotAllowed // there is no PUT of an upload but of its parts
	}
	number, err := partNumber(text)
	if err != nil {
		return err
	}
	for name, values := range x.r.Header {
		if strings.HasPrefix(name, "X-Amz-") {
			if err := refuseHeader(name, values); err != nil {
				return err
			}
		}
	}
	isCopy := len(x.r.Header["X-Amz-Copy-Source"]) > 0
	if !isCopy {
		if err := x.bodySize(); err != nil {
			return err
		}
	}
	id := x.param("uploadId")
	u, err := x.g.uploads.Upload(x.r.Context(), x.bucket.ID, x.key, id)
	if err != nil {
		return err
	}
	if isCopy {
		return x.copyPart(&u, number)
	}
	return x.putPart(&u, number)
}

func (x *exchange) putPart(u *metadata.Upload, number int) error {
	want, err := x.announced()
	if err != nil {
		return err
	}
	a, asked := want.sum.Algorithm, algorithmOf(u.Checksum.Algorithm)
	if asked != checksum.None && a != checksum.None && a != asked {
		return errInvalidRequest.saying("Checksum Type mismatch occurred, expected checksum Type: " +
			strings.ToLower(asked.String()) + ", actual checksum Type: " + strings.ToLower(a.String()))
	}
	if a == checksum.None {
		a = asked
	}
	var s stored
	body := x.openBody()
	attrs := Attrs{Bucket: x.name, Key: x.key, Version: nullVersion, Upload: u.ID, Part: number, Fields: u.Fields}
	if err := x.g.store(x.r.Context(), body, x.payload.Size, a, &attrs, &s); err != nil {
		return err
	}
	_, trailer := body.Trailer()
	if err := want.check(s.md5, s.sum, trailer); err != nil {
		x.g.abandon(s.blobs)
		return err
	}
	p, err := x.commitPart(u, number, &s)
	if err != nil {
		return err
	}
	x.showETag(p.ETag)
	if p.Checksum.Value != "" {
		x.w.Header()[sumHeader(p.Checksum.Algorithm)] = []string{p.Checksum.Value}
	}
	return x.empty(http.StatusOK)
}

func (x *exchange) commitPart(u *metadata.Upload, number int, s *stored) (metadata.Part, error) {
	p := metadata.Part{Number: number, Size: s.size, ETag: s.etag, Modified: x.g.clock.Now(), Checksum: storedSum(s.sum)}
	err := x.g.uploads.PutPart(x.r.Context(), x.bucket, x.key, u.ID, p, s.blobs)
	if err != nil {
		x.g.abandon(s.blobs)
		return p, err
	}
	x.g.deleted()
	return p, nil
}

// copyPart makes a part of a section of an object.
func (x *exchange) copyPart(u *metadata.Upload, number int) error {
	_, src, err := x.findSource()
	if err != nil {
		return err
	}
	off, n := int64(0), src.Size
	if values := x.r.Header["X-Amz-Copy-Source-Range"]; len(values) > 0 {
		if off, n, err = parseCopyRange(values[0], src.Size); err != nil {
			return err
		}
	}
	if n > maxObject {
		return errInvalidRequest.saying("The specified copy source is larger than the maximum allowable size for a copy source: 5368709120")
	}
	var s stored
	attrs := Attrs{Bucket: x.name, Key: x.key, Version: nullVersion, Upload: u.ID, Part: number, Fields: u.Fields}
	end := x.keepWaiting()
	defer end()
	if err := x.storeCopy(src, off, n, algorithmOf(u.Checksum.Algorithm), &attrs, &s); err != nil {
		return err
	}
	p, err := x.commitPart(u, number, &s)
	end()
	if err != nil {
		return err
	}
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.root("CopyPartResult").etag(p.ETag).time("LastModified", p.Modified).checksum(p.Checksum).close("CopyPartResult")
	x.sendXML(http.StatusOK, o)
	return nil
}
