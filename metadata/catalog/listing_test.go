package catalog

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"kintsugi/metadata"
)

// naive lists by the rules alone.
func naive(keys []string, q metadata.ListQuery) (entries []string, truncated bool) {
	sorted := slices.Clone(keys)
	sort.Strings(sorted)
	last := ""
	for _, k := range sorted {
		rest, ok := strings.CutPrefix(k, q.Prefix)
		if !ok {
			continue
		}
		entry := k
		if q.Delimiter != "" {
			if i := strings.Index(rest, q.Delimiter); i >= 0 {
				entry = "P:" + q.Prefix + rest[:i+len(q.Delimiter)]
			}
		}
		name, _ := strings.CutPrefix(entry, "P:")
		if name <= q.After || entry == last {
			continue
		}
		if len(entries) == q.Limit {
			return entries, q.Limit > 0
		}
		last = entry
		entries = append(entries, entry)
	}
	return entries, false
}

func flat(p metadata.ListPage) []string {
	var entries []string
	for i := range p.Objects {
		entries = append(entries, p.Objects[i].Key)
	}
	for _, c := range p.Prefixes {
		entries = append(entries, "P:"+c)
	}
	sort.Slice(entries, func(i, j int) bool {
		return strings.TrimPrefix(entries[i], "P:") < strings.TrimPrefix(entries[j], "P:")
	})
	return entries
}

func randomKey(rng *rand.Rand) string {
	parts := []string{"a", "b", "/", "/", "//", "ab", "ü", "\x00", "\x01", "~", "\U0010ffff"}
	var s strings.Builder
	for range 1 + rng.IntN(5) {
		s.WriteString(parts[rng.IntN(len(parts))])
	}
	return s.String()
}

func TestListAgainstModel(t *testing.T) {
	for _, seed := range seeds(t, 40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			f := newFixture(t, nil)
			b, other := f.bucket("bucket"), f.bucket("other")
			var keys []string
			for range 80 {
				k := randomKey(rng)
				if !slices.Contains(keys, k) {
					keys = append(keys, k)
					f.put(b, k, 10)
				}
			}
			f.put(other, "a", 10)
			delims := []string{"", "/", "//", "a", "ab", "ü", "\x00", "\x01"}
			for range 60 {
				q := metadata.ListQuery{Delimiter: delims[rng.IntN(len(delims))], Limit: rng.IntN(9)}
				if rng.IntN(2) == 0 {
					k := keys[rng.IntN(len(keys))]
					q.Prefix = strings.ToValidUTF8(k[:rng.IntN(len(k)+1)], "")
				}
				if rng.IntN(2) == 0 {
					q.After = randomKey(rng)
				}
				compare(t, f, b, keys, q)
			}
			for _, delim := range delims {
				compareAll(t, f, b, keys, delim)
			}
		})
	}
}

func compare(t *testing.T, f *fixture, b metadata.Bucket, keys []string, q metadata.ListQuery) metadata.ListPage {
	t.Helper()
	page, err := f.ListObjects(t.Context(), b.ID, q)
	if err != nil {
		t.Fatal(err)
	}
	want, truncated := naive(keys, q)
	if got := flat(page); !slices.Equal(got, want) || page.Truncated != truncated {
		t.Fatalf("%#v: got %q (%v), want %q (%v)", q, got, page.Truncated, want, truncated)
	}
	return page
}

// compareAll follows the pages to the end.
func compareAll(t *testing.T, f *fixture, b metadata.Bucket, keys []string, delim string) {
	t.Helper()
	var all []string
	q := metadata.ListQuery{Delimiter: delim, Limit: 3}
	for {
		page := compare(t, f, b, keys, q)
		all = append(all, flat(page)...)
		if !page.Truncated {
			break
		}
		q.After = page.Next
	}
	q.After, q.Limit = "", 1000
	if want, _ := naive(keys, q); !slices.Equal(all, want) {
		t.Fatalf("delimiter %q: pages give %q, want %q", delim, all, want)
	}
}

// TestListMarkers fixes what AWS answers to a marker within a common prefix.
func TestListMarkers(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	keys := []string{"asdf", "boo/bar", "boo/baz/xyzzy", "cquux/bla", "cquux/thud"}
	for _, k := range keys {
		f.put(b, k, 1)
	}
	for _, c := range []struct{ after, want string }{
		{"", "asdf P:boo/ P:cquux/"}, {"asdf", "P:boo/ P:cquux/"}, {"boo", "P:boo/ P:cquux/"}, {"boo/", "P:cquux/"},
		{"boo/bar", "P:cquux/"}, {"boo/zzz", "P:cquux/"}, {"cquux/bla", ""}, {"d", ""},
	} {
		page, err := f.ListObjects(t.Context(), b.ID, metadata.ListQuery{Delimiter: "/", After: c.after, Limit: 10})
		if got := strings.Join(flat(page), " "); err != nil || got != c.want {
			t.Errorf("after %q: %q, want %q (%v)", c.after, got, c.want, err)
		}
	}
}

// TestListSeeks: a common prefix over many keys costs a seek, not its keys.
func TestListSeeks(t *testing.T) {
	s := &counting{}
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	for i := range 300 {
		f.put(b, fmt.Sprintf("a/%04d", i), 1)
	}
	f.put(b, "b", 1)
	s.Store = f.e.kv
	f.e.kv = s
	page, err := f.ListObjects(t.Context(), b.ID, metadata.ListQuery{Delimiter: "/", Limit: 10})
	if err != nil || len(page.Prefixes) != 1 || len(page.Objects) != 1 {
		t.Fatalf("%+v %v", page, err)
	}
	if s.pairs > 20 {
		t.Errorf("%d pairs were read", s.pairs)
	}
}

func TestListedFields(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	for i, sum := range []metadata.Checksum{{}, {Algorithm: "SHA256", Value: "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
		{Algorithm: "CRC32", Composite: true, Value: "yZRlqg==-2"}, {Algorithm: "NEW", Value: "?"}} {
		w := f.written(int64(i))
		o := object(fmt.Sprint(i), w)
		o.Checksum = sum
		o.ETag = []string{"", "d41d8cd98f00b204e9800998ecf8427e", "d41d8cd98f00b204e9800998ecf8427e-2", "text"}[i]
		wantErr(t, f.PutObject(t.Context(), b, o, []metadata.Written{w}, metadata.Condition{}), nil)
		page, err := f.ListObjects(t.Context(), b.ID, metadata.ListQuery{Prefix: o.Key, Limit: 1})
		if err != nil || len(page.Objects) != 1 {
			t.Fatal(page, err)
		}
		got := page.Objects[0]
		if got.ETag != o.ETag || got.Size != o.Size || !got.Modified.Equal(o.Modified) || got.Version != "null" ||
			got.Checksum.Algorithm != sum.Algorithm || got.Checksum.Composite != sum.Composite {
			t.Errorf("listed %+v of %+v", got, o)
		}
		back, err := f.Object(t.Context(), b.ID, o.Key)
		if err != nil || back.Checksum != sum || back.ETag != o.ETag {
			t.Errorf("read %+v of %+v: %v", back, o, err)
		}
	}
}

func TestListUploads(t *testing.T) {
	f := newFixture(t, nil)
	b := f.bucket("bucket")
	for _, key := range []string{"a", "a/b", "a/c", "a\x00", "z"} {
		for _, id := range []string{"1", "2/x"} {
			wantErr(t, f.CreateUpload(t.Context(), b, metadata.Upload{ID: id + key, Key: key}), nil)
		}
	}
	list := func(q metadata.UploadQuery) string {
		t.Helper()
		var all []string
		for {
			page, err := f.ListUploads(t.Context(), b.ID, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range page.Uploads {
				all = append(all, u.Key+":"+u.ID[:1])
			}
			for _, p := range page.Prefixes {
				all = append(all, "P:"+p)
			}
			if !page.Truncated {
				return strings.Join(all, " ")
			}
			q.KeyAfter, q.IDAfter = page.NextKey, page.NextUpload
		}
	}
	for _, limit := range []int{1, 3, 1000} {
		for _, c := range []struct {
			q    metadata.UploadQuery
			want string
		}{
			{metadata.UploadQuery{}, "a:1 a:2 a\x00:1 a\x00:2 a/b:1 a/b:2 a/c:1 a/c:2 z:1 z:2"},
			{metadata.UploadQuery{Prefix: "a/"}, "a/b:1 a/b:2 a/c:1 a/c:2"},
			{metadata.UploadQuery{KeyAfter: "a\x00"}, "a/b:1 a/b:2 a/c:1 a/c:2 z:1 z:2"},
			{metadata.UploadQuery{KeyAfter: "a", IDAfter: "1a"}, "a:2 a\x00:1 a\x00:2 a/b:1 a/b:2 a/c:1 a/c:2 z:1 z:2"},
			{metadata.UploadQuery{Delimiter: "/", KeyAfter: "a/b"}, "z:1 z:2"},
		} {
			c.q.Limit = limit
			if got := list(c.q); got != c.want {
				t.Errorf("%#v: %q, want %q", c.q, got, c.want)
			}
		}
	}
	page, err := f.ListUploads(t.Context(), b.ID, metadata.UploadQuery{Delimiter: "/", Limit: 100})
	if err != nil || len(page.Uploads) != 6 || !slices.Equal(page.Prefixes, []string{"a/"}) {
		t.Errorf("with a delimiter: %+v %v", page, err)
	}
}
