package gateway

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"kintsugi/metadata"
)

const maxBuckets = 10000 // entries of one answer of ListBuckets

// listBuckets answers ListBuckets.
func (x *exchange) listBuckets() error {
	limit, err := x.pageLimit("max-buckets", maxBuckets)
	if err == nil && limit == 0 {
		err = errInvalidArgument.saying("Argument max-buckets must be an integer between 1 and 10000")
	}
	if err != nil {
		return err
	}
	prefix := x.param("prefix")
	after, err := decodeToken(x.param("continuation-token"))
	if err != nil {
		return err
	}
	list, more, err := x.g.buckets.ListBuckets(x.r.Context(), prefix, after, limit)
	if err != nil {
		return err
	}
	if region := x.param("bucket-region"); region != "" && region != x.g.region {
		list, more = nil, false // every bucket is in the one region
	}
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.root("ListAllMyBucketsResult").owner("Owner", x.identity.AccessKey).open("Buckets")
	for i := range list {
		o.open("Bucket").text("Name", list[i].Name).time("CreationDate", list[i].Created)
		o.text("BucketRegion", x.regionOf(list[i])).close("Bucket")
	}
	o.close("Buckets").some("Prefix", prefix)
	if more && len(list) > 0 {
		o.text("ContinuationToken", encodeToken(list[len(list)-1].Name))
	}
	o.close("ListAllMyBucketsResult")
	x.sendXML(http.StatusOK, o)
	return nil
}

// Continuation tokens are opaque to clients: base64 of where to go on.
func encodeToken(after string) string { return base64.URLEncoding.EncodeToString([]byte(after)) }

func decodeToken(token string) (string, error) {
	if token == "" {
		return "", nil
	}
	p, err := base64.URLEncoding.DecodeString(token)
	if err != nil || len(p) > 4*maxKey {
		return "", errInvalidArgument.saying("The continuation token provided is incorrect")
	}
	return string(p), nil
}

func (x *exchange) regionOf(b metadata.Bucket) string {
	if b.Region != "" {
		return b.Region
	}
	return x.g.region
}

// headBucket answers HeadBucket.
func (x *exchange) headBucket() error {
	h := x.w.Header()
	h["X-Amz-Bucket-Region"] = []string{x.regionOf(x.bucket)}
	h["Content-Type"] = xmlType
	x.WriteHeader(http.StatusOK)
	return nil
}

// getLocation answers GetBucketLocation; us-east-1 is the empty text.
func (x *exchange) getLocation() error {
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.root("LocationConstraint")
	if region := x.regionOf(x.bucket); region != "us-east-1" {
		o.b = appendEscaped(o.b, region)
	}
	o.close("LocationConstraint")
	x.sendXML(http.StatusOK, o)
	return nil
}

// bucketConfiguration is the body of CreateBucket.
type bucketConfiguration struct {
	XMLName  struct{} `xml:"CreateBucketConfiguration"`
	Location string   `xml:"LocationConstraint"`
	Bucket   *struct {
		Type string `xml:"Type"`
	} `xml:"Bucket"`
	Tags *struct {
		Tag []struct{} `xml:"Tag"`
	} `xml:"Tags"`
}

// createBucket answers CreateBucket.
func (x *exchange) createBucket() error {
	if err := x.bucketHeaders(); err != nil {
		return err
	}
	var c bucketConfiguration
	if err := x.readXML(&c, 64<<10); err != nil && !errors.Is(err, errNoDocument) {
		return err
	}
	switch {
	case c.Location != "" && c.Location != x.g.region:
		return errInvalidLocation
	case c.Bucket != nil && c.Bucket.Type != "":
		return operationNotBuilt("CreateBucket with a type")
	case c.Tags != nil && len(c.Tags.Tag) > 0:
		return operationNotBuilt("CreateBucket with tags")
	}
	b := metadata.Bucket{Name: x.name, Owner: x.identity.AccessKey, Region: c.Location, Created: x.g.clock.Now()}
	made, err := x.g.buckets.CreateBucket(x.r.Context(), b)
	if errors.Is(err, metadata.ErrBucketExists) {
		if made.Owner == x.identity.AccessKey || made.Owner == "" {
			return errBucketAlreadyOwnedByYou
		}
		return errBucketAlreadyExists
	}
	if err != nil {
		return err
	}
	x.w.Header()["Location"] = []string{"/" + x.name}
	return x.empty(http.StatusOK)
}

// bucketHeaders refuses what a bucket cannot be made with.
func (x *exchange) bucketHeaders() error {
	if err := checkACL(x.header("X-Amz-Acl")); err != nil {
		return err
	}
	for name, values := range x.r.Header {
		switch {
		case strings.HasPrefix(name, "X-Amz-Grant-"):
			return headerNotBuilt(name)
		case name == "X-Amz-Bucket-Object-Lock-Enabled" && len(values) > 0 && !strings.EqualFold(values[0], "false"):
			return headerNotBuilt(name)
		case name == "X-Amz-Bucket-Namespace" && len(values) > 0 && values[0] != "global":
			return headerNotBuilt(name)
		case name == "X-Amz-Object-Ownership" && len(values) > 0:
			switch values[0] {
			case "BucketOwnerEnforced":
			case "BucketOwnerPreferred", "ObjectWriter":
				return headerNotBuilt(name)
			default:
				return errInvalidArgument
			}
		}
	}
	return nil
}

// deleteBucket answers DeleteBucket.
func (x *exchange) deleteBucket() error {
	if err := x.g.buckets.DeleteBucket(x.r.Context(), x.name); err != nil {
		return err
	}
	x.g.deleted()
	return x.empty(http.StatusNoContent)
}
