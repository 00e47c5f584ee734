package gateway

import (
	"net/http"
	"strings"

	"kintsugi/metadata"
)

// wantedAttributes are the parts of an answer to GetObjectAttributes.
type wantedAttributes struct{ etag, checksum, parts, class, size bool }

func parseAttributes(values []string) (w wantedAttributes, err error) {
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			switch strings.TrimSpace(name) {
			case "ETag":
				w.etag = true
			case "Checksum":
				w.checksum = true
			case "ObjectParts":
				w.parts = true
			case "StorageClass":
				w.class = true
			case "ObjectSize":
				w.size = true
			case "":
			default:
				return w, errInvalidArgument.saying("Invalid attribute name specified.")
			}
		}
	}
	if w == (wantedAttributes{}) {
		return w, errInvalidRequest.saying("The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty")
	}
	return w, nil
}

// getAttributes answers GetObjectAttributes.
func (x *exchange) getAttributes() error {
	want, err := parseAttributes(x.r.Header["X-Amz-Object-Attributes"])
	if err != nil {
		return err
	}
	o, err := x.current()
	if err != nil {
		return err
	}
	for again := true; ; again = false {
		if err = x.showAttributes(o, want); err == nil {
			return nil
		}
		if o, err = x.successor(o, again, err); err != nil {
			return err
		}
	}
}

func (x *exchange) showAttributes(o *metadata.Object, want wantedAttributes) error {
	c := x.readConditions()
	if err := c.judge(o); err != nil {
		x.showValidators(o)
		return err
	}
	out := x.g.takeXML()
	defer x.g.giveXML(out)
	out.root("GetObjectAttributesResponse")
	if want.etag {
		out.text("ETag", o.ETag)
	}
	if want.checksum && o.Checksum.Value != "" {
		sum := o.Checksum
		sum.Value, _, _ = strings.Cut(sum.Value, "-") // S3 leaves the number of parts out here, and here alone
		out.open("Checksum").checksum(sum).text("ChecksumType", checksumType(o.Checksum)).close("Checksum")
	}
	if want.parts && o.PartCount > 0 {
		if err := x.writeParts(out, o); err != nil {
			return err
		}
	}
	if want.class {
		out.text("StorageClass", "STANDARD")
	}
	if want.size {
		out.int("ObjectSize", o.Size)
	}
	out.close("GetObjectAttributesResponse")
	x.w.Header()["Last-Modified"] = []string{o.Modified.UTC().Format(http.TimeFormat)}
	x.sendXML(http.StatusOK, out)
	return nil
}

// writeParts writes one page of parts.
func (x *exchange) writeParts(out *output, o *metadata.Object) error {
	limit, err := headerNumber(x.header("X-Amz-Max-Parts"), maxPage)
	if err != nil {
		return err
	}
	limit = min(limit, maxPage)
	after, err := headerNumber(x.header("X-Amz-Part-Number-Marker"), 0)
	if err != nil {
		return err
	}
	list, err := x.g.objects.Parts(x.r.Context(), o, after, limit+1)
	if err != nil {
		return err
	}
	truncated := len(list) > limit
	list = list[:min(len(list), limit)]
	next := after
	if len(list) > 0 {
		next = list[len(list)-1].Number
	}
	out.open("ObjectParts").int("PartsCount", int64(o.PartCount)).int("PartNumberMarker", int64(after))
	out.int("NextPartNumberMarker", int64(next)).int("MaxParts", int64(limit)).bool("IsTruncated", truncated)
	for i := range list {
		if list[i].Checksum.Value == "" {
			continue // S3 lists the parts of objects with checksums only
		}
		out.open("Part").int("PartNumber", int64(list[i].Number)).int("Size", list[i].Size)
		out.checksum(list[i].Checksum).close("Part")
	}
	out.close("ObjectParts")
	return nil
}

func headerNumber(v string, otherwise int) (int, error) {
	if v == "" {
		return otherwise, nil
	}
	n, ok := parseOffset(v)
	if !ok || n > 1<<31-1 {
		return 0, errInvalidArgument
	}
	return int(n), nil
}
