package gateway

import (
	"net/http"

	"kintsugi/gateway/checksum"
	"kintsugi/metadata"
)

// createUpload answers CreateMultipartUpload.
func (x *exchange) createUpload() error {
	fields, err := x.fields()
	if err != nil {
		return err
	}
	sum, err := x.uploadChecksum()
	if err != nil {
		return err
	}
	u := metadata.Upload{
		ID: x.g.ids.Next().String(), Key: x.key, Initiated: x.g.clock.Now(), Owner: x.identity.AccessKey,
		Fields: fields, Checksum: sum,
	}
	if err := x.g.uploads.CreateUpload(x.r.Context(), x.bucket, u); err != nil {
		return err
	}
	h := x.w.Header()
	if sum.Algorithm != "" {
		h["X-Amz-Checksum-Algorithm"] = []string{sum.Algorithm}
		h["X-Amz-Checksum-Type"] = []string{checksumType(sum)}
	}
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.root("InitiateMultipartUploadResult").text("Bucket", x.name).text("Key", x.key).text("UploadId", u.ID)
	o.close("InitiateMultipartUploadResult")
	x.sendXML(http.StatusOK, o)
	return nil
}

// uploadChecksum reads what checksum the object is to get.
func (x *exchange) uploadChecksum() (c metadata.Checksum, err error) {
	kind, err := checksum.ParseType(x.header("X-Amz-Checksum-Type"))
	if err != nil {
		return c, err
	}
	name := x.header("X-Amz-Checksum-Algorithm")
	if name == "" {
		if kind != checksum.Unspecified {
			return c, errInvalidRequest.saying("The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.")
		}
		return c, nil
	}
	a, err := checksum.ParseAlgorithm(name)
	if err != nil {
		return c, err
	}
	if kind, err = checksum.MultipartType(a, kind); err != nil {
		return c, err
	}
	return metadata.Checksum{Algorithm: a.String(), Composite: kind == checksum.Composite}, nil
}
