package gateway

import (
	"context"
	"fmt"
	"testing"

	"kintsugi/metadata"
)

// overtaken are objects of which one is replaced, and all that is owed for it
// worked off, after a request has looked it up and before it reads part lists.
type overtaken struct {
	metadata.Objects
	between func() // nil: nothing happens
}

func (o *overtaken) happen() {
	if f := o.between; f != nil {
		o.between = nil
		f()
	}
}

func (o *overtaken) Layout(ctx context.Context, obj *metadata.Object, off, n int64) ([]metadata.Extent, error) {
	o.happen()
	return o.Objects.Layout(ctx, obj, off, n)
}

func (o *overtaken) Parts(ctx context.Context, obj *metadata.Object, after, limit int) ([]metadata.ObjectPart, error) {
	o.happen()
	return o.Objects.Parts(ctx, obj, after, limit)
}

// TestReplacedMultipart: a key that is there the whole time is never answered by
// 404, also where the part lists of the version that was looked up are gone.
func TestReplacedMultipart(t *testing.T) {
	var o overtaken
	s := newSite(t, func(cfg *Config) {
		o.Objects = cfg.Objects
		cfg.Objects = &o
	})
	s.bucket("bkt")
	for _, c := range []struct {
		name   string
		call   call
		status int
		body   string
	}{
		{"get", call{method: "GET", target: "/bkt/k"}, 200, "new"},
		{"get of a range", call{method: "GET", target: "/bkt/k", header: headers("Range", "bytes=1-1")}, 206, "e"},
		{"get of a part", call{method: "GET", target: "/bkt/k?partNumber=1"}, 206, "new"},
		{"head of a part", call{method: "HEAD", target: "/bkt/k?partNumber=1"}, 206, ""},
		{"attributes", call{method: "GET", target: "/bkt/k?attributes", header: headers("x-amz-object-attributes", "ObjectParts,ObjectSize")}, 200, ""},
		{"copy", call{method: "PUT", target: "/bkt/copy", header: headers("x-amz-copy-source", "/bkt/k")}, 409, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := s.beginUpload("/bkt/k", nil)
			etag := s.put(fmt.Sprintf("/bkt/k?partNumber=1&uploadId=%s", id), "old one").header.Get("Etag")
			s.must(call{method: "POST", target: "/bkt/k?uploadId=" + id, body: listOf(nothing, etag)})
			o.between = func() {
				s.put("/bkt/k", "new")
				for _, err := range s.catalog.ScanOwed(context.Background()) {
					if err != nil {
						t.Error(err)
					}
				}
			}
			a := s.do(c.call)
			if a.status != c.status || c.body != "" && a.body != c.body {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
}
