package gateway

import (
	"context"
	"net/http"

	"kintsugi/gateway/checksum"
	"kintsugi/metadata"
)

// putOrCopy tells PutObject from CopyObject. What reads in the bucket before its
// commit looks the bucket up, what only writes to it takes it from memory.
func (x *exchange) putOrCopy() error {
	if _, given := x.lookup("partNumber"); given {
		// A part that lost its upload must not become the object.
		return errInvalidArgument.saying("This operation does not accept partNumber without uploadId")
	}
	if err := x.noVersion(); err != nil {
		return err
	}
	lookup, run := x.g.buckets.RecentBucket, (*exchange).putObject
	if len(x.r.Header["X-Amz-Copy-Source"]) > 0 {
		lookup, run = x.g.buckets.Bucket, (*exchange).copyObject
	} else if x.header("If-Match") != "" || x.header("If-None-Match") != "" {
		lookup = x.g.buckets.Bucket
	}
	if err := x.findBucket(lookup); err != nil {
		return err
	}
	return run(x)
}

// bodySize checks the announced length of an upload.
func (x *exchange) bodySize() error {
	switch {
	case x.payload.Size < 0, x.r.ContentLength == 0 && len(x.r.Header["Content-Length"]) == 0:
		return errMissingContentLength
	case x.payload.Size > maxObject:
		return errEntityTooLarge
	}
	return nil
}

// putObject answers PutObject.
func (x *exchange) putObject() error {
	if err := x.bodySize(); err != nil {
		return err
	}
	want, err := x.announced()
	if err != nil {
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
	ctx := x.r.Context()
	if err := x.foresee(cond); err != nil {
		return err
	}
	var s stored
	attrs := Attrs{Bucket: x.name, Key: x.key, Version: nullVersion, Fields: fields}
	body := x.openBody()
	if err := x.g.store(ctx, body, x.payload.Size, want.sum.Algorithm, &attrs, &s); err != nil {
		return err
	}
	_, trailer := body.Trailer()
	if err := want.check(s.md5, s.sum, trailer); err != nil {
		x.g.abandon(s.blobs)
		return err
	}
	o, err := x.commit(ctx, x.bucket, x.key, fields, &s, cond)
	if err != nil {
		return err
	}
	x.showETag(o.ETag)
	x.showChecksum(o.Checksum)
	return x.empty(http.StatusOK)
}

// nullVersion is the version of objects while buckets have no versioning.
const nullVersion = "null"

// commit makes what was stored the current version of a key.
func (x *exchange) commit(ctx context.Context, b metadata.Bucket, key string, fields []metadata.Field, s *stored, cond metadata.Condition) (*metadata.Object, error) {
	o := &metadata.Object{
		Key: key, Version: nullVersion, Size: s.size, ETag: s.etag, Modified: x.g.clock.Now(),
		Fields: fields, Checksum: storedSum(s.sum),
	}
	if err := x.g.objects.PutObject(ctx, b, o, s.blobs, cond); err != nil {
		x.g.abandon(s.blobs)
		return nil, err
	}
	x.g.deleted()
	return o, nil
}

// algorithmOf reads a stored algorithm's name.
func algorithmOf(name string) checksum.Algorithm {
	a, err := checksum.ParseAlgorithm(name)
	if err != nil {
		return checksum.None
	}
	return a
}
