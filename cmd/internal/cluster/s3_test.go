package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"kintsugi/cmd/internal/embedded"
)

// front is the S3 front of a store that may be down, restarted and crashed
// while clients use it. It is the clients' transport: no socket is between.
type front struct {
	mu       sync.Mutex
	handler  http.Handler // nil: nobody listens
	inFlight sync.WaitGroup
}

// serve puts a handler behind the front; nil takes it away and waits until
// nothing is in flight in it.
func (f *front) serve(h http.Handler) {
	f.mu.Lock()
	f.handler = h
	f.mu.Unlock()
	if h == nil {
		f.inFlight.Wait()
	}
}

var errRefused = errors.New("connection refused")

// RoundTrip implements http.RoundTripper.
func (f *front) RoundTrip(req *http.Request) (*http.Response, error) {
	f.mu.Lock()
	h := f.handler
	if h != nil {
		f.inFlight.Add(1)
	}
	f.mu.Unlock()
	if req.Body == nil {
		req.Body = http.NoBody
	}
	if h == nil {
		return nil, errors.Join(errRefused, req.Body.Close())
	}
	defer f.inFlight.Done()
	in := req.Clone(req.Context())
	in.RequestURI, in.RemoteAddr = req.URL.RequestURI(), "127.0.0.1:1"
	if in.Host == "" {
		in.Host = req.URL.Host
	}
	a := &answer{header: http.Header{}}
	cutOff := a.serve(h, in)
	if err := req.Body.Close(); err != nil {
		return nil, err
	}
	if cutOff != nil {
		return nil, cutOff
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return &http.Response{
		Status: http.StatusText(a.status), StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.header, Body: io.NopCloser(&a.body), ContentLength: int64(a.body.Len()), Request: req,
	}, nil
}

// s3 is a load.Target through minio-go and the S3 front.
type s3 struct{ c *minio.Client }

func newS3(cfg embedded.Config, f *front) (*s3, error) {
	c, err := minio.New("127.0.0.1:9000", &minio.Options{
		Creds: credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""), Transport: f, MaxRetries: 1,
	})
	return &s3{c}, err
}

// Put implements load.Target.
func (s *s3) Put(ctx context.Context, key string, p []byte) error {
	_, err := s.c.PutObject(ctx, bucketName, key, bytes.NewReader(p), int64(len(p)), minio.PutObjectOptions{DisableMultipart: true})
	return err
}

// Get implements load.Target.
func (s *s3) Get(ctx context.Context, key string) ([]byte, bool, error) {
	o, err := s.c.GetObject(ctx, bucketName, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, false, err
	}
	p, err := io.ReadAll(o)
	if cerr := o.Close(); err == nil {
		err = cerr
	}
	if e := minio.ToErrorResponse(err); err != nil && e.Code == minio.NoSuchKey {
		return nil, false, nil
	} else if err != nil && e.StatusCode >= 500 && e.StatusCode != http.StatusServiceUnavailable {
		return nil, false, fmt.Errorf("answered %d, want 503: %w", e.StatusCode, err)
	}
	return p, err == nil, err
}

// Delete implements load.Target.
func (s *s3) Delete(ctx context.Context, key string) error {
	return s.c.RemoveObject(ctx, bucketName, key, minio.RemoveObjectOptions{})
}
