package gateway

import (
	"encoding/hex"
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"time"
	"unicode/utf8"
)

// output is an XML document being written into a pooled buffer.
type output struct {
	b       []byte
	escapes bool // write keys percent-encoded (encoding-type=url)
}

const (
	xmlHead   = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"
	namespace = ` xmlns="http://s3.amazonaws.com/doc/2006-03-01/"`
	keptBytes = 1 << 20 // larger buffers are not kept
)

func (g *gateway) takeXML() *output {
	o, ok := g.outputs.Get().(*output)
	if !ok {
		o = &output{b: make([]byte, 0, 1024)}
	}
	o.b, o.escapes = append(o.b[:0], xmlHead...), false
	return o
}

func (g *gateway) giveXML(o *output) {
	if cap(o.b) <= keptBytes {
		g.outputs.Put(o)
	}
}

// root opens the outermost element in S3's namespace.
func (o *output) root(name string) *output {
	o.b = append(append(append(append(o.b, '<'), name...), namespace...), '>')
	return o
}

func (o *output) open(name string) *output {
	o.b = append(append(append(o.b, '<'), name...), '>')
	return o
}

func (o *output) close(name string) *output {
	o.b = append(append(append(o.b, '<', '/'), name...), '>')
	return o
}

// text writes an element with escaped text.
func (o *output) text(name, value string) *output {
	o.open(name)
	o.b = appendEscaped(o.b, value)
	return o.close(name)
}

// some is text, but nothing where the value is empty.
func (o *output) some(name, value string) *output {
	if value == "" {
		return o
	}
	return o.text(name, value)
}

// keyText writes an element that holds a key, a prefix or a delimiter.
func (o *output) keyText(name, value string) *output {
	o.open(name)
	if o.escapes {
		o.b = appendPercent(o.b, value)
	} else {
		o.b = appendEscaped(o.b, value)
	}
	return o.close(name)
}

func (o *output) int(name string, n int64) *output {
	o.open(name)
	o.b = strconv.AppendInt(o.b, n, 10)
	return o.close(name)
}

func (o *output) bool(name string, v bool) *output {
	o.open(name)
	o.b = strconv.AppendBool(o.b, v)
	return o.close(name)
}

// time writes YYYY-MM-DDTHH:MM:SS.000Z: whole seconds, as S3 does and as
// Last-Modified has them. Clients compare the two, and with times of files.
func (o *output) time(name string, t time.Time) *output {
	o.open(name)
	o.b = appendTime(o.b, t)
	return o.close(name)
}

// etag writes an ETag element with its quotes.
func (o *output) etag(v string) *output {
	o.b = append(o.b, "<ETag>&quot;"...)
	o.b = append(o.b, v...)
	o.b = append(o.b, "&quot;</ETag>"...)
	return o
}

// owner writes an account: id and name.
func (o *output) owner(element, account string) *output {
	return o.open(element).text("ID", ownerID(account)).text("DisplayName", "kintsugi").close(element)
}

func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = append(b, byte('0'+year/1000%10), byte('0'+year/100%10), digit10(year), digit1(year), '-',
		digit10(int(month)), digit1(int(month)), '-', digit10(day), digit1(day), 'T',
		digit10(hour), digit1(hour), ':', digit10(minute), digit1(minute), ':', digit10(second), digit1(second))
	return append(b, ".000Z"...)
}

func digit10(n int) byte { return byte('0' + n/10%10) }
func digit1(n int) byte  { return byte('0' + n%10) }

// appendEscaped writes character data. Characters that XML 1.0 cannot hold are
// written as references, as S3 does; clients that want such keys back ask for
// encoding-type=url. Text is valid UTF-8 by construction.
func appendEscaped(b []byte, s string) []byte {
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		size, ref := 1, ""
		switch {
		case c == '&':
			ref = "&amp;"
		case c == '<':
			ref = "&lt;"
		case c == '>':
			ref = "&gt;"
		case c == '"':
			ref = "&quot;"
		case c < 0x20 || c == 0x7f:
			b = append(append(b, s[from:i]...), '&', '#', 'x')
			b = append(strconv.AppendUint(b, uint64(c), 16), ';')
			from = i + 1
		case c >= utf8.RuneSelf:
			var r rune
			r, size = utf8.DecodeRuneInString(s[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				ref = "\uFFFD"
			case r == 0xFFFE || r == 0xFFFF:
				b = append(append(b, s[from:i]...), '&', '#', 'x')
				b = append(strconv.AppendUint(b, uint64(r), 16), ';')
				from = i + size
			}
		}
		if ref != "" {
			b = append(append(b, s[from:i]...), ref...)
			from = i + size
		}
		i += size
	}
	return append(b, s[from:]...)
}

// appendPercent writes percent-encoded text; slashes stay. A space is %20, so
// that clients which take + for a space and those which do not agree.
func appendPercent(b []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '-' || c == '.' || c == '_' || c == '/' || c == '*' {
			b = append(b, c)
		} else {
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return b
}

// errNoDocument: the body was empty.
var errNoDocument = errors.New("no document")

// largeDocument is the size from which a body needs a place in largeXML.
const largeDocument = 64 << 10

// readXML reads the body, at most limit bytes, checks what the request says
// about it, and decodes it into v.
func (x *exchange) readXML(v any, limit int64) error {
	text, err := x.readBody(limit)
	if err != nil {
		return err
	}
	if len(text) == 0 {
		return errNoDocument
	}
	return decodeXML(text, v)
}

// decodeXML reads one document and demands that nothing follows it.
func decodeXML(text []byte, v any) error {
	d := xml.NewDecoder(&sliceReader{text})
	if err := d.Decode(v); err != nil {
		return errMalformedXML
	}
	for {
		switch t, err := d.Token(); {
		case err == io.EOF:
			return nil
		case err != nil:
			return errMalformedXML
		default:
			switch t := t.(type) {
			case xml.CharData:
				for _, c := range t {
					if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
						return errMalformedXML
					}
				}
			case xml.Comment, xml.ProcInst:
			default:
				return errMalformedXML
			}
		}
	}
}

// readEntry reads one more element of a list. A list that grows longer than most
// is refused there, not when all of it is in memory: an empty entry takes many
// times the room of its text.
func readEntry[T any](d *xml.Decoder, start *xml.StartElement, list *[]T, most int) error {
	if len(*list) >= most {
		return errMalformedXML
	}
	*list = append(*list, *new(T))
	return d.DecodeElement(&(*list)[len(*list)-1], start)
}

// sliceReader reads from memory; it is a ByteReader, so that the decoder does
// not add a buffer of its own.
type sliceReader struct{ p []byte }

func (r *sliceReader) Read(p []byte) (int, error) {
	if len(r.p) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.p)
	r.p = r.p[n:]
	return n, nil
}

func (r *sliceReader) ReadByte() (byte, error) {
	if len(r.p) == 0 {
		return 0, io.EOF
	}
	c := r.p[0]
	r.p = r.p[1:]
	return c, nil
}

// readBody reads a small body into memory and verifies its digests.
func (x *exchange) readBody(limit int64) ([]byte, error) {
	if x.payload.Size > limit {
		return nil, errMessageTooLong
	}
	if x.payload.Size < 0 || x.payload.Size > largeDocument {
		wait := time.NewTimer(5 * time.Second)
		defer wait.Stop()
		select {
		case x.g.largeXML <- struct{}{}:
			defer func() { <-x.g.largeXML }()
		case <-wait.C:
			return nil, errSlowDown
		case <-x.r.Context().Done():
			return nil, x.r.Context().Err()
		}
	}
	want, err := x.announced()
	if err != nil {
		return nil, err
	}
	body := x.openBody()
	text, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, errMessageTooLong
	}
	h := x.g.hashers.New(want.sum.Algorithm)
	defer h.Close()
	_, _ = h.Write(text)
	_, trailer := body.Trailer()
	return text, want.check(h.MD5(), h.Sum(), trailer)
}

// hexMD5 is a plain ETag.
func hexMD5(sum [16]byte) string {
	var b [32]byte
	hex.Encode(b[:], sum[:])
	return string(b[:])
}
