package gateway

import (
	"bytes"
	"encoding/xml"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"kintsugi/metadata"
)

func TestSplitTarget(t *testing.T) {
	for _, c := range []struct{ host, path, raw, name, key string }{
		{"", "/", "", "", ""}, {"", "/b", "", "b", ""}, {"", "/b/", "", "b", ""}, {"", "/b//", "", "b", "/"},
		{"", "/b/k/l", "", "b", "k/l"}, {"", "/b/../c", "", "b", "../c"}, {"", "//b/k", "", "", "b/k"},
		{"", "/a/b/c", "/a%2Fb/c", "a/b", "c"}, {"", "/a/b", "/a%2Fb", "a/b", ""}, {"", "/a/b/c", "/a/b%2Fc", "a", "b/c"},
		{"h", "/", "", "h", ""}, {"h", "/b/k", "", "h", "b/k"}, {"h", "//k", "", "h", "/k"},
	} {
		name, key, err := splitTarget(c.host, c.path, c.raw)
		if err != nil || name != c.name || key != c.key {
			t.Errorf("%+v: %q %q %v", c, name, key, err)
		}
	}
}

func TestBucketOfHost(t *testing.T) {
	outer, inner := ".example.com", ".s3.example.com"
	for _, domains := range [][]string{{outer, inner}, {inner, outer}} {
		for host, want := range map[string]string{
			"b.example.com": "b", "b.s3.example.com": "b", "B.C.S3.Example.com:9000": "b.c",
			"example.com": "", "s3.example.com": "", "S3.example.com:9000": "", "s3.example.org": "", "": "",
		} {
			if got := bucketOfHost(host, domains); got != want {
				t.Errorf("%s under %v: %q, want %q", host, domains, got, want)
			}
		}
	}
}

func TestBucketNames(t *testing.T) {
	for _, n := range []string{"abc", "a-b", "a.b.c", "1.2.3", "1.2.3.x", "0ab", strings.Repeat("a", 63)} {
		if !validBucketName(n) {
			t.Errorf("%q is valid", n)
		}
	}
	for _, n := range []string{"", "a", "ab", "-ab", "ab-", ".ab", "ab.", "a..b", "Abc", "a_b", "a/b", "1.2.3.4", "a b", "äbc", strings.Repeat("a", 64)} {
		if validBucketName(n) {
			t.Errorf("%q is not valid", n)
		}
	}
}

func TestAttrsRoundTrip(t *testing.T) {
	for _, a := range []Attrs{
		{}, {Bucket: "b", Key: "k", Version: "null", Size: 5, ETag: "e", Fields: []metadata.Field{{Name: "content-type", Value: "x"}, {Name: "x-amz-meta-a", Value: ""}}},
		{Bucket: "b", Key: strings.Repeat("k", 1024), Upload: "u", Part: 10000, Offset: 1 << 40, Size: 1 << 30},
	} {
		p := a.Append(nil)
		if len(p) > a.length() {
			t.Errorf("%d bytes, foreseen %d", len(p), a.length())
		}
		got, err := DecodeAttrs(p)
		if err != nil || !reflect.DeepEqual(got, a) {
			t.Errorf("%+v: %+v %v", a, got, err)
		}
		for i := range p {
			if _, err := DecodeAttrs(p[:i]); err == nil {
				t.Errorf("%d of %d bytes were read", i, len(p))
			}
		}
	}
	golden := (&Attrs{Bucket: "bkt", Key: "k", Version: "null", Size: 300, ETag: "e", Fields: []metadata.Field{{Name: "n", Value: "v"}}}).Append(nil)
	if want := "\x01\x03bkt\x01k\x04null\x00\x00\x00\xac\x02\x01e\x01\x01n\x01v"; string(golden) != want {
		t.Errorf("stored form changed: %q, want %q", golden, want)
	}
}

func TestAppendTime(t *testing.T) {
	for _, at := range []time.Time{time.Unix(0, 0), time.Date(2024, 2, 29, 23, 59, 59, 999_999_999, time.UTC), time.Now()} {
		if got, want := string(appendTime(nil, at)), at.UTC().Truncate(time.Second).Format("2006-01-02T15:04:05.000Z"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func FuzzTarget(f *testing.F) {
	for _, s := range []string{"/", "/b/k", "//b", "/a%2Fb/c", "/b/%2e%2e/x", "/%ff", "*", "/b/k?x", "/b%00/k"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, target string, virtual bool) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Path == "" || u.Path[0] != '/' || u.Opaque != "" {
			return
		}
		host := ""
		if virtual {
			host = "bkt"
		}
		name, key, err := splitTarget(host, u.Path, u.RawPath)
		if err != nil {
			return
		}
		if !utf8.ValidString(name) || !utf8.ValidString(key) {
			t.Fatalf("%q: %q %q", target, name, key)
		}
		path := "/" + key
		if !virtual {
			if path = "/" + name; len(path) < len(u.Path) {
				path += "/" + key
			}
			// An escaped slash belongs to what it stands in.
			if strings.Contains(name, "/") && !strings.Contains(strings.ToLower(u.RawPath), "%2f") {
				t.Fatalf("%q: bucket %q", target, name)
			}
		}
		if path != u.Path {
			t.Fatalf("%q: %q %q is not %q", target, name, key, u.Path)
		}
	})
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-1", "bytes=-5", "bytes=5-", "bytes=-", "bytes=9-2", "bytes=0-1,2-3", "x=1-2", "bytes=99999999999999999999-"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		off, n, given, err := parseRange(header, size)
		if err != nil {
			return
		}
		if off < 0 || n < 0 || off > size || n > size-off || given && n == 0 || !given && (off != 0 || n != size) {
			t.Fatalf("%q of %d: %d+%d %v", header, size, off, n, given)
		}
		if off, n, err = parseCopyRange(header, size); err == nil && (off < 0 || n < 0 || off > size || n > size-off) {
			t.Fatalf("copy %q of %d: %d+%d", header, size, off, n)
		}
	})
}

func FuzzCopySource(f *testing.F) {
	for _, s := range []string{"/b/k", "bkt/k?versionId=null", "bkt/a%2Fb", "bkt/%zz", "/bkt//", "bkt/..?versionId="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		c, err := parseCopySource(header)
		if err == nil && (!validBucketName(c.bucket) || c.key == "" || len(c.key) > maxKey || !utf8.ValidString(c.key)) {
			t.Fatalf("%q: %+v", header, c)
		}
	})
}

func FuzzXML(f *testing.F) {
	f.Add([]byte("<Delete><Object><Key>k</Key></Object></Delete>"))
	f.Add([]byte(listOf(nothing, `"abc"`, "def")))
	f.Add([]byte("<CreateBucketConfiguration><LocationConstraint>x</LocationConstraint></CreateBucketConfiguration>"))
	f.Add([]byte("<!DOCTYPE x [<!ENTITY a 'b'>]><Delete>&a;</Delete>"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var d deletion
		_ = decodeXML(text, &d)
		var c bucketConfiguration
		_ = decodeXML(text, &c)
		var l completionList
		if decodeXML(text, &l) == nil {
			parts, err := l.parts()
			for i := range parts {
				if err == nil && (parts[i].Number < 1 || parts[i].Number > maxPart) {
					t.Fatalf("%+v", parts)
				}
			}
		}
	})
}

// FuzzEscaped: what is written as text is read back the same, where XML can
// hold it at all.
func FuzzEscaped(f *testing.F) {
	f.Add("a<b>&\"'\u00e9\u2028")
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return
		}
		if got, err := url.PathUnescape(string(appendPercent(nil, s))); err != nil || got != s {
			t.Fatalf("%q: %q %v", s, got, err)
		}
		for _, r := range s {
			if r < 0x20 || r == 0xFFFE || r == 0xFFFF || r == 0x7f || r == utf8.RuneError {
				return
			}
		}
		var v struct {
			Text string `xml:",chardata"`
		}
		doc := append(appendEscaped([]byte("<x>"), s), "</x>"...)
		if err := xml.NewDecoder(bytes.NewReader(doc)).Decode(&v); err != nil || v.Text != s {
			t.Fatalf("%q: %q %v in %s", s, v.Text, err, doc)
		}
	})
}

func FuzzAttrs(f *testing.F) {
	f.Add((&Attrs{Bucket: "b", Key: "k", Fields: []metadata.Field{{Name: "n", Value: "v"}}}).Append(nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		a, err := DecodeAttrs(p)
		if err != nil {
			return
		}
		again, err := DecodeAttrs(a.Append(nil))
		if err != nil || !reflect.DeepEqual(a, again) {
			t.Fatalf("%+v: %+v %v", a, again, err)
		}
	})
}
