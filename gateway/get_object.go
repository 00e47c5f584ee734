package gateway

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"kintsugi/metadata"
)

// getObject answers GetObject.
func (x *exchange) getObject() error {
	o, err := x.current()
	if err != nil {
		return err
	}
	for again := true; ; again = false {
		part, err := x.describe(o)
		if err == nil {
			err = x.send(o, part.off, part.n, part.status)
		}
		if err == nil || x.begun {
			return err
		}
		if o, err = x.successor(o, again, err); err != nil {
			return err
		}
	}
}

// headObject answers HeadObject.
func (x *exchange) headObject() error {
	o, err := x.current()
	if err != nil {
		return err
	}
	for again := true; ; again = false {
		part, err := x.describe(o)
		if err == nil {
			x.WriteHeader(part.status)
			return nil
		}
		if o, err = x.successor(o, again, err); err != nil {
			return err
		}
	}
}

// successor gives what took an object's place where that may be why reading it
// failed, before anything was sent: its bytes, or its part lists, may be gone
// because somebody replaced it just now. Otherwise, and where not again, it gives
// the error.
func (x *exchange) successor(o *metadata.Object, again bool, err error) (*metadata.Object, error) {
	if !gone(err) {
		return nil, err
	}
	if !again {
		return nil, present(err)
	}
	next, lookup := x.g.objects.Object(x.r.Context(), x.bucket.ID, x.key)
	if lookup != nil {
		return nil, lookup
	}
	if !replaced(o, next) {
		return nil, present(err)
	}
	h := x.w.Header()
	clear(h)
	x.identify(h)
	return next, nil
}

// current looks the object up that a read names, together with its bucket where
// that was not done before.
func (x *exchange) current() (*metadata.Object, error) {
	if !x.op.inBucket {
		return x.find()
	}
	if len(x.query) > 0 {
		if err := checkVersion(x.lookup("versionId")); err != nil {
			return nil, err
		}
	}
	return x.g.objects.Object(x.r.Context(), x.bucket.ID, x.key)
}

// find looks bucket and object up. What is wrong with the bucket is said before
// anything else.
func (x *exchange) find() (o *metadata.Object, err error) {
	x.bucket, o, err = x.g.objects.Find(x.r.Context(), x.name, x.key)
	if err != nil && !errors.Is(err, metadata.ErrNoSuchKey) {
		return nil, err
	}
	if err := checkOwner(x.bucket, x.header("X-Amz-Expected-Bucket-Owner")); err != nil {
		return nil, err
	}
	if len(x.query) > 0 {
		if err := checkVersion(x.lookup("versionId")); err != nil {
			return nil, err
		}
	}
	return o, err
}

// unencrypted refuses a read that names the encryption of its object: there is
// none.
func (x *exchange) unencrypted() error {
	switch {
	case x.header("X-Amz-Server-Side-Encryption-Customer-Algorithm") != "":
		return errInvalidRequest.saying("The encryption parameters are not applicable to this object.")
	case x.header("X-Amz-Server-Side-Encryption") != "":
		return errInvalidArgument.saying("x-amz-server-side-encryption header is not supported for this operation.")
	}
	return nil
}

// section is the part of an object that is to be sent.
type section struct {
	off, n int64
	status int
}

// describe judges the conditions, finds the section, and sets every header.
func (x *exchange) describe(o *metadata.Object) (section, error) {
	if err := x.unencrypted(); err != nil {
		return section{}, err
	}
	c := x.readConditions()
	if c != (readConditions{}) {
		if err := c.judge(o); err != nil {
			x.showValidators(o)
			return section{}, err
		}
	}
	s := section{n: o.Size, status: http.StatusOK}
	sum := o.Checksum
	var number string
	var given bool
	if len(x.query) > 0 {
		number, given = x.lookup("partNumber")
	}
	header := x.header("Range")
	var err error
	switch {
	case given && header != "":
		return s, errInvalidRequest.saying("Cannot specify both Range header and partNumber query parameter")
	case given:
		if s, sum, err = x.partSection(o, number); err != nil {
			return s, err
		}
	case header != "" && x.rangeHolds(o):
		off, n, follow, err := parseRange(header, o.Size)
		if err != nil {
			x.unsatisfied = "bytes */" + strconv.FormatInt(o.Size, 10)
			return s, err
		}
		if follow {
			s = section{off, n, http.StatusPartialContent}
			if n < o.Size {
				sum = metadata.Checksum{} // it is of the whole
			}
		}
	}
	x.showObject(o)
	h := x.w.Header()
	h["Content-Length"] = []string{strconv.FormatInt(s.n, 10)}
	if s.status == http.StatusPartialContent {
		h["Content-Range"] = []string{contentRange(s.off, s.n, o.Size)}
	}
	if sum.Value != "" && x.header("X-Amz-Checksum-Mode") == "ENABLED" {
		x.showChecksum(sum)
	}
	return s, nil
}

// rangeHolds judges If-Range: where the object is another one by now, the
// range is not followed.
func (x *exchange) rangeHolds(o *metadata.Object) bool {
	v := x.header("If-Range")
	if v == "" {
		return true
	}
	if t, err := http.ParseTime(v); err == nil {
		return o.Modified.Truncate(time.Second).Equal(t)
	}
	return bareETag(v) == o.ETag
}

// partSection finds a part. An object that was not uploaded in parts is its
// own part 1.
func (x *exchange) partSection(o *metadata.Object, text string) (section, metadata.Checksum, error) {
	none := metadata.Checksum{}
	number, err := partNumber(text)
	if err != nil {
		return section{}, none, err
	}
	s := section{n: o.Size, status: http.StatusPartialContent}
	sum := o.Checksum
	if o.PartCount == 0 {
		if number != 1 {
			return s, none, errInvalidPartNumber
		}
	} else {
		parts, err := x.g.objects.Parts(x.r.Context(), o, number-1, 1)
		if err != nil {
			return s, none, err
		}
		if len(parts) == 0 || parts[0].Number != number {
			return s, none, errInvalidPartNumber
		}
		s.off, s.n, sum = parts[0].Offset, parts[0].Size, parts[0].Checksum
		sum.Composite = o.Checksum.Composite // the type is the object's
		x.w.Header()["X-Amz-Mp-Parts-Count"] = []string{strconv.Itoa(o.PartCount)}
	}
	if s.n == 0 {
		s.status = http.StatusOK
	}
	return s, sum, nil
}
