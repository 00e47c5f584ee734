package gateway

import (
	"net/http"

	"kintsugi/metadata"
)

// listRequest is what all listings of keys have in common.
type listRequest struct {
	metadata.ListQuery
	urlEncoded bool
}

// listParams reads prefix, delimiter, limit and encoding.
func (x *exchange) listParams() (q listRequest, err error) {
	q.Prefix, q.Delimiter = x.param("prefix"), x.param("delimiter")
	if q.urlEncoded, err = x.encodingType(); err != nil {
		return q, err
	}
	q.Limit, err = x.pageLimit("max-keys", maxPage)
	return q, err
}

func (x *exchange) encodingType() (bool, error) {
	switch v, given := x.lookup("encoding-type"); {
	case !given:
		return false, nil
	case v == "url":
		return true, nil
	}
	return false, errInvalidArgument.saying("Invalid Encoding Method specified in Request")
}

// listObjects answers ListObjects and ListObjectsV2.
func (x *exchange) listObjects() error {
	v, given := x.lookup("list-type")
	switch {
	case !given:
		return x.listV1()
	case v == "2":
		return x.listV2()
	}
	return errInvalidArgument.saying("Invalid list-type")
}

func (x *exchange) listV1() error {
	q, err := x.listParams()
	if err != nil {
		return err
	}
	q.After = x.param("marker")
	page, err := x.g.objects.ListObjects(x.r.Context(), x.bucket.ID, q.ListQuery)
	if err != nil {
		return err
	}
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.escapes = q.urlEncoded
	o.root("ListBucketResult").text("Name", x.name).keyText("Prefix", q.Prefix).keyText("Marker", q.After)
	if page.Truncated && q.Delimiter != "" {
		o.keyText("NextMarker", page.Next)
	}
	x.writePage(o, &q, &page, true)
	x.sendXML(http.StatusOK, o)
	return nil
}

func (x *exchange) listV2() error {
	q, err := x.listParams()
	if err != nil {
		return err
	}
	startAfter := x.param("start-after")
	token, given := x.lookup("continuation-token")
	if given && token == "" {
		return errInvalidArgument.saying("The continuation token provided is incorrect")
	}
	if q.After, err = decodeToken(token); err != nil {
		return err
	}
	if q.After == "" {
		q.After = startAfter
	}
	page, err := x.g.objects.ListObjects(x.r.Context(), x.bucket.ID, q.ListQuery)
	if err != nil {
		return err
	}
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.escapes = q.urlEncoded
	o.root("ListBucketResult").text("Name", x.name).keyText("Prefix", q.Prefix)
	o.int("KeyCount", int64(len(page.Objects)+len(page.Prefixes)))
	if given {
		o.text("ContinuationToken", token)
	}
	if page.Truncated {
		o.text("NextContinuationToken", encodeToken(page.Next))
	}
	if startAfter != "" {
		o.keyText("StartAfter", startAfter)
	}
	x.writePage(o, &q, &page, x.param("fetch-owner") == "true")
	x.sendXML(http.StatusOK, o)
	return nil
}

// writePage writes what both versions of the listing end with.
func (x *exchange) writePage(o *output, q *listRequest, page *metadata.ListPage, owner bool) {
	o.int("MaxKeys", int64(q.Limit))
	if q.Delimiter != "" {
		o.keyText("Delimiter", q.Delimiter)
	}
	if q.urlEncoded {
		o.text("EncodingType", "url")
	}
	o.bool("IsTruncated", page.Truncated)
	var who []byte
	if owner {
		who = x.ownerElement()
	}
	for i := range page.Objects {
		o.b = append(o.b, "<Contents>"...)
		o.entry(&page.Objects[i])
		o.b = append(o.b, who...)
		o.b = append(o.b, "</Contents>"...)
	}
	o.prefixes(page.Prefixes)
	o.close("ListBucketResult")
}

// ownerElement is the bucket's owner, written once a page.
func (x *exchange) ownerElement() []byte {
	o := output{}
	return o.owner("Owner", x.bucket.Owner).b
}

// entry writes what a listing says of an object.
func (o *output) entry(e *metadata.Object) {
	o.keyText("Key", e.Key).time("LastModified", e.Modified).etag(e.ETag).int("Size", e.Size)
	o.b = append(o.b, "<StorageClass>STANDARD</StorageClass>"...)
	if e.Checksum.Algorithm != "" {
		o.text("ChecksumAlgorithm", e.Checksum.Algorithm).text("ChecksumType", checksumType(e.Checksum))
	}
}

func (o *output) prefixes(list []string) {
	for _, p := range list {
		o.open("CommonPrefixes").keyText("Prefix", p).close("CommonPrefixes")
	}
}

// listVersions answers ListObjectVersions of a bucket without versioning:
// every object has the one version "null".
func (x *exchange) listVersions() error {
	q, err := x.listParams()
	if err != nil {
		return err
	}
	q.After = x.param("key-marker")
	marker := x.param("version-id-marker")
	if marker != "" && q.After == "" {
		return errInvalidArgument.saying("A version-id marker cannot be specified without a key marker.")
	}
	page, err := x.g.objects.ListObjects(x.r.Context(), x.bucket.ID, q.ListQuery)
	if err != nil {
		return err
	}
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.escapes = q.urlEncoded
	o.root("ListVersionsResult").text("Name", x.name).keyText("Prefix", q.Prefix)
	o.keyText("KeyMarker", q.After).text("VersionIdMarker", marker)
	if page.Truncated {
		o.keyText("NextKeyMarker", page.Next).text("NextVersionIdMarker", nullVersion)
	}
	o.int("MaxKeys", int64(q.Limit))
	if q.Delimiter != "" {
		o.keyText("Delimiter", q.Delimiter)
	}
	if q.urlEncoded {
		o.text("EncodingType", "url")
	}
	o.bool("IsTruncated", page.Truncated)
	who := x.ownerElement()
	for i := range page.Objects {
		o.open("Version")
		o.entry(&page.Objects[i])
		o.text("VersionId", nullVersion).bool("IsLatest", true)
		o.b = append(o.b, who...)
		o.close("Version")
	}
	o.prefixes(page.Prefixes)
	o.close("ListVersionsResult")
	x.sendXML(http.StatusOK, o)
	return nil
}
