package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Floor is an S3 endpoint that checks nothing and stores nothing.
type Floor struct {
	server  *http.Server
	address string
}

// StartFloor serves on a free port of the loopback interface. Objects read
// from it are size bytes of zeros.
func StartFloor(size int64) (*Floor, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := &Floor{address: l.Addr().String(), server: &http.Server{Handler: floorHandler(size), ReadHeaderTimeout: time.Minute}}
	go func() {
		if err := f.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(err) // the listener is ours: nothing else closes it
		}
	}()
	return f, nil
}

// Address is host:port.
func (f *Floor) Address() string { return f.address }

// Close ends it at once.
func (f *Floor) Close() error { return f.server.Close() }

func floorHandler(size int64) http.Handler {
	zeros := make([]byte, size)
	page := floorPage()
	modified := time.Now().UTC().Format(http.TimeFormat)
	etag := []string{`"d41d8cd98f00b204e9800998ecf8427e"`}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Etag"] = etag
		switch r.Method {
		case http.MethodPut, http.MethodPost:
			_, _ = io.Copy(io.Discard, r.Body)
		case http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		default:
			h["Last-Modified"] = []string{modified}
			if strings.Contains(r.URL.RawQuery, "list-type") {
				h["Content-Type"] = []string{"application/xml"}
				h["Content-Length"] = []string{strconv.Itoa(len(page))}
				_, _ = w.Write(page)
				return
			}
			body, status := zeros, http.StatusOK
			if from, to, ok := floorRange(r.Header.Get("Range")); ok && to < size {
				body, status = zeros[from:to+1], http.StatusPartialContent
			}
			h["Content-Length"] = []string{strconv.Itoa(len(body))}
			h["Content-Type"] = []string{"application/octet-stream"}
			w.WriteHeader(status)
			if r.Method == http.MethodGet {
				_, _ = w.Write(body)
			}
		}
	})
}

func floorRange(text string) (from, to int64, ok bool) {
	a, b, ok := strings.Cut(strings.TrimPrefix(text, "bytes="), "-")
	from, errFrom := strconv.ParseInt(a, 10, 64)
	to, errTo := strconv.ParseInt(b, 10, 64)
	return from, to, ok && errFrom == nil && errTo == nil && from >= 0 && from <= to
}

// floorPage is a full page of a listing.
func floorPage() []byte {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bench</Name><KeyCount>1000</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>`)
	for i := range 1000 {
		fmt.Fprintf(&b, `<Contents><Key>bench/00000000/%08d</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&#34;d41d8cd98f00b204e9800998ecf8427e&#34;</ETag><Size>4096</Size><StorageClass>STANDARD</StorageClass></Contents>`, i)
	}
	b.WriteString(`</ListBucketResult>`)
	return []byte(b.String())
}
