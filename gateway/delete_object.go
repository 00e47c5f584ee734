package gateway

import (
	"encoding/xml"
	"errors"
	"net/http"
	"sync"

	"kintsugi/metadata"
)

// deleteObject answers DeleteObject.
func (x *exchange) deleteObject() error {
	if err := checkVersion(x.lookup("versionId")); err != nil {
		return err
	}
	cond, err := x.deleteCondition()
	if err != nil {
		return err
	}
	done, err := x.g.objects.DeleteObject(x.r.Context(), x.bucket, x.key, cond)
	if err != nil {
		return err
	}
	if done {
		x.g.deleted()
	}
	return x.empty(http.StatusNoContent)
}

// deletion is the body of DeleteObjects.
type deletion struct {
	XMLName struct{}    `xml:"Delete"`
	Quiet   bool        `xml:"Quiet"`
	Objects deletionSet `xml:"Object"`
}

type deletionEntry struct {
	Key              string  `xml:"Key"`
	VersionID        *string `xml:"VersionId"`
	ETag             string  `xml:"ETag"`
	LastModifiedTime string  `xml:"LastModifiedTime"`
	Size             *int64  `xml:"Size"`
}

type deletionSet []deletionEntry

// UnmarshalXML implements xml.Unmarshaler.
func (s *deletionSet) UnmarshalXML(d *xml.Decoder, start xml.StartElement) error {
	return readEntry(d, &start, (*[]deletionEntry)(s), maxPage)
}

const (
	maxDeletion     = 2 << 20 // bytes of the body
	deletionWorkers = 16      // deletes of one request at a time
)

// deleteObjects answers DeleteObjects: every key for itself.
func (x *exchange) deleteObjects() error {
	var d deletion
	if err := x.readXML(&d, maxDeletion); errors.Is(err, errNoDocument) {
		return errMalformedXML
	} else if err != nil {
		return err
	}
	if len(d.Objects) == 0 || len(d.Objects) > maxPage {
		return errMalformedXML
	}
	if !x.vouched() {
		return errInvalidRequest.saying("Missing required header for this request: Content-MD5 OR x-amz-checksum-*")
	}
	faults := make([]*fault, len(d.Objects))
	var next sync.Mutex
	at := 0
	take := func() int {
		next.Lock()
		defer next.Unlock()
		at++
		return at - 1
	}
	var workers sync.WaitGroup
	for range min(deletionWorkers, len(d.Objects)) {
		workers.Go(func() {
			for i := take(); i < len(d.Objects); i = take() {
				if err := x.deleteSafely(&d, i); err != nil {
					f, known := faultOf(err)
					if !known && x.r.Context().Err() == nil {
						x.g.log.Error("delete failed", "req", x.id, "bucket", x.name, "key", d.Objects[i].Key, "err", err)
					}
					faults[i] = f
				}
			}
		})
	}
	workers.Wait()
	x.g.deleted()
	o := x.g.takeXML()
	defer x.g.giveXML(o)
	o.root("DeleteResult")
	for i := range d.Objects {
		switch f := faults[i]; {
		case f != nil:
			o.open("Error").text("Key", d.Objects[i].Key)
			if v := d.Objects[i].VersionID; v != nil {
				o.some("VersionId", *v)
			}
			o.text("Code", f.code).text("Message", f.message).close("Error")
		case !d.Quiet:
			o.open("Deleted").text("Key", d.Objects[i].Key)
			if v := d.Objects[i].VersionID; v != nil {
				o.some("VersionId", *v)
			}
			o.close("Deleted")
		}
	}
	o.close("DeleteResult")
	x.sendXML(http.StatusOK, o)
	return nil
}

// deleteSafely is deleteOne off the request's goroutine: nobody else would
// catch a panic there.
func (x *exchange) deleteSafely(d *deletion, i int) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	return x.deleteOne(d, i)
}

// deleteOne deletes one of the keys.
func (x *exchange) deleteOne(d *deletion, i int) error {
	entry := &d.Objects[i]
	switch {
	case entry.Key == "":
		return errUserKeyMustBeSpecified.saying("You must specify a key.")
	case len(entry.Key) > maxKey:
		return errKeyTooLong
	}
	if v := entry.VersionID; v != nil && *v != "" {
		if err := checkVersion(*v, true); err != nil {
			return err
		}
	}
	cond := metadata.Condition{IfMatch: askedETag(entry.ETag), IfSize: entry.Size}
	if entry.LastModifiedTime != "" {
		t, err := parseTime(entry.LastModifiedTime)
		if err != nil {
			return err
		}
		cond.IfModified = t
	}
	_, err := x.g.objects.DeleteObject(x.r.Context(), x.bucket, entry.Key, cond)
	return err
}
