package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"kintsugi/gateway/checksum"
	"kintsugi/metadata"
)

// copySource is what x-amz-copy-source names.
type copySource struct{ bucket, key string }

// parseCopySource reads "[/]bucket/key[?versionId=id]", percent-encoded. A + is a
// space, as S3 takes it: some clients encode the source like a form's field, and
// all others write %2B for a +.
func parseCopySource(header string) (copySource, error) {
	bad := errInvalidArgument.saying("Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
	path := header
	if at := strings.LastIndex(path, "?versionId="); at >= 0 {
		if err := checkVersion(path[at+len("?versionId="):], true); err != nil {
			return copySource{}, err
		}
		path = path[:at]
	}
	path, err := url.QueryUnescape(path)
	if err != nil || !utf8.ValidString(path) {
		return copySource{}, bad
	}
	bucket, key, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || bucket == "" || key == "" {
		return copySource{}, bad
	}
	if !validBucketName(bucket) {
		return copySource{}, errInvalidBucketName
	}
	if len(key) > maxKey {
		return copySource{}, errKeyTooLong
	}
	return copySource{bucket, key}, nil
}

// findSource looks the source of a copy up, with its conditions.
func (x *exchange) findSource() (metadata.Bucket, *metadata.Object, error) {
	ctx := x.r.Context()
	src, err := parseCopySource(x.header("X-Amz-Copy-Source"))
	if err != nil {
		return metadata.Bucket{}, nil, err
	}
	b := x.bucket
	if src.bucket != x.name {
		if b, err = x.g.buckets.Bucket(ctx, src.bucket); err != nil {
			return b, nil, err
		}
	}
	if err := checkOwner(b, x.header("X-Amz-Source-Expected-Bucket-Owner")); err != nil {
		return b, nil, err
	}
	o, err := x.g.objects.Object(ctx, b.ID, src.key)
	if err != nil {
		return b, nil, err
	}
	c := x.copyConditions()
	if err := c.judge(o); err != nil {
		return b, nil, errPreconditionFailed // of a copy, also where a read would say NotModified
	}
	return b, o, nil
}

// directive reads COPY or REPLACE.
func (x *exchange) directive(header string) (replace bool, err error) {
	switch x.header(header) {
	case "", "COPY":
		return false, nil
	case "REPLACE":
		return true, nil
	}
	return false, errInvalidArgument.saying("Unknown metadata directive.")
}

// copyObject answers CopyObject: the bytes are read, verified and written
// anew.
func (x *exchange) copyObject() error {
	replace, err := x.directive("X-Amz-Metadata-Directive")
	if err != nil {
		return err
	}
	if _, err := x.directive("X-Amz-Tagging-Directive"); err != nil {
		return err
	}
	fields, err := x.fields()
	if err != nil {
		return err
	}
	cond, err := x.writeCondition()
	if err != nil {
		return err
	}
	asked, err := x.copyAlgorithm()
	if err != nil {
		return err
	}
	from, src, err := x.findSource()
	switch {
	case err != nil:
		return err
	case src.Size > maxObject:
		return errInvalidRequest.saying("The specified copy source is larger than the maximum allowable size for a copy source: 5368709120")
	case from.ID == x.bucket.ID && src.Key == x.key && !replace && x.header("X-Amz-Storage-Class") == "":
		// A storage class that is named counts as a change, also to the same.
		return errInvalidRequest.saying("This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.")
	}
	if err := x.foresee(cond); err != nil {
		return err
	}
	if !replace {
		fields = src.Fields
	}
	if asked == checksum.None {
		asked = algorithmOf(src.Checksum.Algorithm)
	}
	var s stored
	attrs := Attrs{Bucket: x.name, Key: x.key, Version: nullVersion, Fields: fields}
	end := x.keepWaiting()
	defer end()
	if err := x.storeCopy(src, 0, src.Size, asked, &attrs, &s); err != nil {
		return err
	}
	o, err := x.commit(x.r.Context(), x.bucket, x.key, fields, &s, cond)
	end()
	if err != nil {
		return err
	}
	out := x.g.takeXML()
	defer x.g.giveXML(out)
	out.root("CopyObjectResult").etag(o.ETag).time("LastModified", o.Modified)
	out.checksum(o.Checksum).some("ChecksumType", checksumType(o.Checksum)).close("CopyObjectResult")
	x.sendXML(http.StatusOK, out)
	return nil
}

// copyAlgorithm reads the checksum that a copy is to get.
func (x *exchange) copyAlgorithm() (checksum.Algorithm, error) {
	v := x.header("X-Amz-Checksum-Algorithm")
	if v == "" {
		return checksum.None, nil
	}
	return checksum.ParseAlgorithm(v)
}

// storeCopy writes a section of an object as new blobs, and compares what it
// read with what is known of the source.
func (x *exchange) storeCopy(src *metadata.Object, off, n int64, a checksum.Algorithm, attrs *Attrs, s *stored) error {
	ctx, cancel := context.WithCancel(x.r.Context())
	defer cancel()
	r := x.g.pipe(ctx, src, off, n)
	defer r.close()
	if err := x.g.store(ctx, r, n, a, attrs, s); err != nil {
		if gone(err) && x.sourceGone(src) {
			return errConditionalConflict.saying("The copy source was changed while it was being copied.")
		}
		return present(err)
	}
	if off != 0 || n != src.Size {
		return nil
	}
	sum := storedSum(s.sum)
	if len(src.ETag) == len(s.etag) && src.ETag != s.etag ||
		sum.Algorithm == src.Checksum.Algorithm && !src.Checksum.Composite && sum.Value != src.Checksum.Value {
		x.g.abandon(s.blobs)
		return errors.New("copy: the source's bytes do not have its digest")
	}
	return nil
}

// sourceGone says whether the source has been replaced or deleted meanwhile.
func (x *exchange) sourceGone(src *metadata.Object) bool {
	b := x.bucket.ID
	if c, err := parseCopySource(x.header("X-Amz-Copy-Source")); err == nil && c.bucket != x.name {
		other, err := x.g.buckets.Bucket(x.r.Context(), c.bucket)
		if err != nil {
			return errors.Is(err, metadata.ErrNoSuchBucket)
		}
		b = other.ID
	}
	now, err := x.g.objects.Object(x.r.Context(), b, src.Key)
	if err != nil {
		return errors.Is(err, metadata.ErrNoSuchKey)
	}
	return replaced(src, now)
}
