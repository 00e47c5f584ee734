package catalog

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"kintsugi/metadata"
	"kintsugi/metadata/kv"
)

// Listings with a delimiter. A key that has the delimiter after the prefix is
// folded into its common prefix, which counts as one entry. Everything that is
// returned is greater than After, keys and common prefixes alike: so a common
// prefix is left out where After equals it or lies within it – that is what
// AWS answers, whether After is the marker of an earlier page or a key.

// stepsBeforeSeek is how many keys under a common prefix a listing reads
// before it seeks past them: a seek costs as much as some steps.
const stepsBeforeSeek = 8

// listing walks the keys of one family in a bucket. The keys are as they are
// stored (escaped or not), and so are its prefix, delimiter and after.
type listing struct {
	base             []byte // what stands before every key
	escaped          bool   // the key is escaped, ended, and followed by more
	prefix, delim    []byte
	after            []byte
	visit            func(key, value []byte) error
	common           func(prefix []byte) error
	limit            int
	entries          int
	truncated        bool
	lastCommon       []byte
	stepsUnderCommon int
}

// run lists on one snapshot.
func (l *listing) run(ctx context.Context, r kv.Reader) error {
	if l.limit <= 0 {
		return nil
	}
	to := prefixEnd(append(bytes.Clone(l.base), l.prefix...))
	from := append(bytes.Clone(l.base), l.prefix...)
	if bytes.Compare(l.after, l.prefix) >= 0 {
		from = append(append(bytes.Clone(l.base), l.after...), 0)
		if p := l.commonPrefix(l.after); p != nil {
			from = l.past(p)
		}
	}
	for from != nil {
		next, err := l.stretch(ctx, r, from, to)
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// past is the first stored key above a common prefix.
func (l *listing) past(prefix []byte) []byte {
	return prefixEnd(append(bytes.Clone(l.base), prefix...))
}

// commonPrefix is what the key is folded into, nil for none.
func (l *listing) commonPrefix(key []byte) []byte {
	if len(l.delim) == 0 || !bytes.HasPrefix(key, l.prefix) {
		return nil
	}
	if l.escaped {
		if end := bytes.Index(key, []byte{escByte, escEnd}); end >= len(l.prefix) {
			key = key[:end]
		}
	}
	i := bytes.Index(key[len(l.prefix):], l.delim)
	if i < 0 {
		return nil
	}
	return key[:len(l.prefix)+i+len(l.delim)]
}

// stretch reads on from a key until the end, the limit, or a common prefix
// that is better sought past: then it returns where to go on.
func (l *listing) stretch(ctx context.Context, r kv.Reader, from, to []byte) (next []byte, err error) {
	if to != nil && bytes.Compare(from, to) >= 0 {
		return nil, nil
	}
	scan := r.Scan(ctx, from, to)
	if len(l.delim) == 0 { // then every pair is an entry, and one more says whether there are more
		scan = kv.Page(ctx, r, from, to, l.limit+1)
	}
	for p, err := range scan {
		if err != nil {
			return nil, unavailable("list", err)
		}
		key := p.Key[len(l.base):]
		if l.lastCommon != nil && bytes.HasPrefix(key, l.lastCommon) {
			if l.stepsUnderCommon++; l.stepsUnderCommon > stepsBeforeSeek {
				return l.past(l.lastCommon), nil
			}
			continue
		}
		if l.entries == l.limit {
			l.truncated = true
			return nil, nil
		}
		l.entries++
		if common := l.commonPrefix(key); common != nil {
			l.lastCommon, l.stepsUnderCommon = bytes.Clone(common), 0
			err = l.common(common)
		} else {
			l.lastCommon = nil
			err = l.visit(key, p.Value)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// listed is an entry before its strings are cut out of one allocation.
type listed struct {
	keyEnd, etagEnd int // in text; the key starts where the last etag ended
	size            int64
	modified        time.Time
	checksum        metadata.Checksum
	partCount       int
}

// listBuffer is the memory of one listing, used again.
type listBuffer struct {
	text    []byte
	entries []listed
}

// listBuffers pools them for one Objects; larger ones are left to the
// collector.
type listBuffers struct{ pool sync.Pool }

const maxListText = 4 << 20

func (p *listBuffers) get() *listBuffer {
	if b, ok := p.pool.Get().(*listBuffer); ok {
		return b
	}
	return new(listBuffer)
}

func (p *listBuffers) put(b *listBuffer) {
	if cap(b.text) <= maxListText {
		b.text, b.entries = b.text[:0], b.entries[:0]
		p.pool.Put(b)
	}
}

// ListObjects implements metadata.Objects, on one snapshot. A common prefix
// that contains or equals After is not returned again.
func (s *Objects) ListObjects(ctx context.Context, b metadata.BucketID, q metadata.ListQuery) (metadata.ListPage, error) {
	var page metadata.ListPage
	if q.Limit <= 0 {
		return page, nil
	}
	state := kv.Reader(s.e.kv)
	if q.Delimiter != "" { // without one a single scan does, which is of one state
		snap, err := s.e.kv.Snapshot(ctx)
		if err != nil {
			return page, unavailable("list objects", err)
		}
		defer snap.Close()
		state = snap
	}
	buf := s.lists.get()
	defer s.lists.put(buf)
	var last string
	l := listing{
		base:   appendObjectPrefix(nil, b),
		prefix: []byte(q.Prefix), delim: []byte(q.Delimiter), after: []byte(q.After), limit: q.Limit,
		visit: func(key, value []byte) error {
			last = ""
			return buf.add(key, value)
		},
		common: func(prefix []byte) error {
			last = string(prefix)
			page.Prefixes = append(page.Prefixes, last)
			return nil
		},
	}
	if err := l.run(ctx, state); err != nil {
		return metadata.ListPage{}, err
	}
	page.Objects = buf.objects()
	if page.Truncated = l.truncated; page.Truncated {
		if page.Next = last; last == "" {
			page.Next = page.Objects[len(page.Objects)-1].Key
		}
	}
	return page, nil
}

func (b *listBuffer) add(key, value []byte) error {
	d := newDecoder(value)
	b.text = append(b.text, key...)
	n := listed{keyEnd: len(b.text), size: d.int(maxSize), modified: d.time()}
	b.text = d.appendETag(b.text)
	n.etagEnd = len(b.text)
	n.checksum = d.checksumKind()
	n.partCount = int(d.int(1 << 16))
	if d.bad {
		return fmt.Errorf("object %q: %w", key, errRecord)
	}
	b.entries = append(b.entries, n)
	return nil
}

// objects cuts the entries' strings out of one.
func (b *listBuffer) objects() []metadata.Object {
	if len(b.entries) == 0 {
		return nil
	}
	text := string(b.text)
	list := make([]metadata.Object, len(b.entries))
	at := 0
	for i := range list {
		n, o := &b.entries[i], &list[i]
		o.Key, o.ETag = text[at:n.keyEnd], text[n.keyEnd:n.etagEnd]
		o.Version, o.Size, o.Modified, o.Checksum, o.PartCount = nullVersion, n.size, n.modified, n.checksum, n.partCount
		at = n.etagEnd
	}
	return list
}

// checksumKind reads a checksum without its value.
func (d *decoder) checksumKind() (c metadata.Checksum) {
	code := d.byte()
	if code == 0 {
		return c
	}
	c.Composite = code&checksumComposite != 0
	if code&0x0f == checksumOther {
		c.Algorithm = d.string()
	} else {
		var ok bool
		if c.Algorithm, ok = checksumName(code & 0x0f); !ok {
			d.fail()
		}
	}
	d.bytes()
	if code&checksumRaw != 0 {
		d.uvarint()
	}
	return c
}

// ListUploads implements metadata.Uploads: by key, then by id. Ids that sort
// by their birth, as storagenode.BlobID.String gives them, make that the
// order of initiation.
func (s *Uploads) ListUploads(ctx context.Context, b metadata.BucketID, q metadata.UploadQuery) (metadata.UploadPage, error) {
	var page metadata.UploadPage
	snap, err := s.e.kv.Snapshot(ctx)
	if err != nil {
		return page, unavailable("list uploads", err)
	}
	defer snap.Close()
	lastCommon := ""
	l := listing{
		base: appendUploadPrefix(nil, b), escaped: true,
		prefix: appendEscaped(nil, q.Prefix), delim: appendEscaped(nil, q.Delimiter), limit: q.Limit,
		visit: func(stored, value []byte) error {
			key, id, ok := splitEscapedID(stored)
			if !ok {
				return fmt.Errorf("upload %x: %w", stored, errRecord)
			}
			u, err := decodeUpload(key, id, value)
			if err != nil {
				return fmt.Errorf("upload %s: %w", id, err)
			}
			lastCommon = ""
			page.Uploads = append(page.Uploads, u.Upload)
			return nil
		},
		common: func(stored []byte) error {
			// A stored common prefix is whole: the delimiter's escape with it.
			lastCommon = strings.ReplaceAll(string(stored), "\x00\xff", "\x00")
			page.Prefixes = append(page.Prefixes, lastCommon)
			return nil
		},
	}
	l.after = uploadAfter(q)
	if err := l.run(ctx, snap); err != nil {
		return metadata.UploadPage{}, err
	}
	if page.Truncated = l.truncated; page.Truncated {
		if page.NextKey = lastCommon; lastCommon == "" {
			u := &page.Uploads[len(page.Uploads)-1]
			page.NextKey, page.NextUpload = u.Key, u.ID
		}
	}
	return page, nil
}

// uploadAfter is the greatest stored key that is not to be listed.
func uploadAfter(q metadata.UploadQuery) []byte {
	if q.KeyAfter == "" {
		return nil
	}
	after := append(appendEscaped(nil, q.KeyAfter), escByte, escEnd)
	if q.IDAfter != "" {
		return append(after, q.IDAfter...)
	}
	// Above every upload of that key, below every longer key: ids are text.
	return append(after, 0xff)
}

func splitEscapedID(stored []byte) (key, id string, ok bool) {
	k, rest, ok := unescape(stored)
	return string(k), string(rest), ok
}

// splitUploadKey reads the key and the id off a whole upload key.
func splitUploadKey(full []byte) (key, id string, ok bool) {
	if len(full) < 5 {
		return "", "", false
	}
	return splitEscapedID(full[5:])
}
