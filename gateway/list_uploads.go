package gateway

import (
	"errors"
	"net/http"
	"time"

	"kintsugi/metadata"
)

// abortUpload answers AbortMultipartUpload.
func (x *exchange) abortUpload() error {
	ctx, id := x.r.Context(), x.param("uploadId")
	if v := x.header("X-Amz-If-Match-Initiated-Time"); v != "" {
		t, err := parseTime(v)
		if err != nil {
			return err
		}
		switch u, err := x.g.uploads.Upload(ctx, x.bucket.ID, x.key, id); {
		case errors.Is(err, metadata.ErrNoSuchUpload):
			return x.empty(http.StatusNoContent) // the condition holds of nothing
		case err != nil:
			return err
		case !u.Initiated.Truncate(time.Second).Equal(t.Truncate(time.Second)):
			return errPreconditionFailed
		}
	}
	if err := x.g.uploads.AbortUpload(ctx, x.bucket, x.key, id); err != nil {
		return err
	}
	x.g.deleted()
	return x.empty(http.StatusNoContent)
}

// listParts answers ListParts.
func (x *exchange) listParts() error {
	limit, err := x.pageLimit("max-parts", maxPage)
	if err != nil {
		return err
	}
	after, err := x.markerParam("part-number-marker")
	if err != nil {
		return err
	}
	escapes, err := x.encodingType()
	if err != nil {
		return err
	}
	ctx, id := x.r.Context(), x.param("uploadId")
	u, err := x.g.uploads.Upload(ctx, x.bucket.ID, x.key, id)
	if err != nil {
		return err
	}
	list, more, err := x.g.uploads.ListParts(ctx, x.bucket.ID, x.key, id, after, limit)
	if err != nil {
		return err
	}
	next := after
	if len(list) > 0 {
		next = list[len(list)-1].Number
	}
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.escapes = escapes
	o.root("ListPartsResult").text("Bucket", x.name).keyText("Key", x.key).text("UploadId", id)
	o.owner("Initiator", u.Owner).owner("Owner", x.bucket.Owner).text("StorageClass", "STANDARD")
	o.int("PartNumberMarker", int64(after)).int("NextPartNumberMarker", int64(next))
	o.int("MaxParts", int64(limit)).bool("IsTruncated", more)
	if u.Checksum.Algorithm != "" {
		o.text("ChecksumAlgorithm", u.Checksum.Algorithm).text("ChecksumType", checksumType(u.Checksum))
	}
	for i := range list {
		p := &list[i]
		o.open("Part").int("PartNumber", int64(p.Number)).time("LastModified", p.Modified).etag(p.ETag)
		o.int("Size", p.Size).checksum(p.Checksum).close("Part")
	}
	o.close("ListPartsResult")
	x.sendXML(http.StatusOK, o)
	return nil
}

// listUploads answers ListMultipartUploads.
func (x *exchange) listUploads() error {
	limit, err := x.pageLimit("max-uploads", maxPage)
	if err != nil {
		return err
	}
	escapes, err := x.encodingType()
	if err != nil {
		return err
	}
	q := metadata.UploadQuery{
		Prefix: x.param("prefix"), Delimiter: x.param("delimiter"),
		KeyAfter: x.param("key-marker"), IDAfter: x.param("upload-id-marker"), Limit: limit,
	}
	if q.KeyAfter == "" {
		q.IDAfter = "" // S3 ignores it then
	}
	page, err := x.g.uploads.ListUploads(x.r.Context(), x.bucket.ID, q)
	if err != nil {
		return err
	}
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.escapes = escapes
	o.root("ListMultipartUploadsResult").text("Bucket", x.name)
	o.keyText("KeyMarker", q.KeyAfter).text("UploadIdMarker", q.IDAfter)
	if page.Truncated {
		o.keyText("NextKeyMarker", page.NextKey).text("NextUploadIdMarker", page.NextUpload)
	}
	o.keyText("Prefix", q.Prefix)
	if q.Delimiter != "" {
		o.keyText("Delimiter", q.Delimiter)
	}
	if escapes {
		o.text("EncodingType", "url")
	}
	o.int("MaxUploads", int64(limit)).bool("IsTruncated", page.Truncated)
	for i := range page.Uploads {
		u := &page.Uploads[i]
		o.open("Upload").keyText("Key", u.Key).text("UploadId", u.ID)
		o.owner("Initiator", u.Owner).owner("Owner", x.bucket.Owner).text("StorageClass", "STANDARD")
		o.time("Initiated", u.Initiated)
		if u.Checksum.Algorithm != "" {
			o.text("ChecksumAlgorithm", u.Checksum.Algorithm).text("ChecksumType", checksumType(u.Checksum))
		}
		o.close("Upload")
	}
	o.prefixes(page.Prefixes)
	o.close("ListMultipartUploadsResult")
	x.sendXML(http.StatusOK, o)
	return nil
}
