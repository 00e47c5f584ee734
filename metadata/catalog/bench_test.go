package catalog

import (
	"context"
	"fmt"
	"testing"

	"kintsugi/erasure"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

func BenchmarkPutObject(b *testing.B) {
	f := newFixture(b, nil)
	bucket := f.bucket("bucket")
	keys := make([]string, 1<<16)
	for i := range keys {
		keys[i] = fmt.Sprintf("directory/%08d", i)
	}
	g, _ := f.OpenGroup(context.Background(), stickBytes)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		w := f.writtenIn(g, 4096)
		o := metadata.Object{Key: keys[i&(1<<16-1)], Size: 4096, ETag: "d41d8cd98f00b204e9800998ecf8427e", Modified: w.Blob.ID.Time()}
		if err := f.PutObject(context.Background(), bucket, &o, []metadata.Written{w}, metadata.Condition{}); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkObject(b *testing.B) {
	f := newFixture(b, nil)
	bucket := f.bucket("bucket")
	f.put(bucket, "key", 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Object(context.Background(), bucket.ID, "key"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenGroup(b *testing.B) {
	f := newFixture(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.OpenGroup(context.Background(), stickBytes); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkListObjects(b *testing.B) {
	f := newFixture(b, nil)
	bucket := f.bucket("bucket")
	for i := range 10_000 {
		f.put(bucket, fmt.Sprintf("directory/%08d", i), 4096)
	}
	b.ReportAllocs()
	for b.Loop() {
		page, err := f.ListObjects(context.Background(), bucket.ID, metadata.ListQuery{After: "directory/00004", Limit: 1000})
		if err != nil || len(page.Objects) != 1000 {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/key")
}

// BenchmarkEncode is what of a PUT is spent on records alone.
func BenchmarkEncode(b *testing.B) {
	o := metadata.Object{Key: "directory/00000001", Size: 4096, ETag: "d41d8cd98f00b204e9800998ecf8427e",
		Fields: []metadata.Field{{Name: "content-type", Value: "application/octet-stream"}}}
	l := []metadata.Located{{PG: 3, Blob: erasure.Blob{ID: storagenode.BlobID{1}, Size: 4096, Mode: erasure.Replicated, Slots: 7}}}
	own := &owner{bucket: 3, key: o.Key}
	b.ReportAllocs()
	for b.Loop() {
		a := arena{}
		v := encodeObject(a.room(objectRecordSize(&o, 1)), &o, l)
		_ = encodeBlob(a.room(blobRecordSize(own)), l[0].Blob, own)
		if _, err := decodeCurrent(v); err != nil {
			b.Fatal(err)
		}
	}
}
