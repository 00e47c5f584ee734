package acceptance

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
)

func TestMemoryOfAnEmptyServer(t *testing.T) {
	s := newServer(t, 6, "--scheme", "4+2")
	time.Sleep(3 * time.Second)
	now, peak := s.rss()
	t.Logf("resident %d MiB, at its highest %d MiB", now>>20, peak>>20)
	if now > 150<<20 {
		t.Errorf("an empty server holds %d MiB, at most 150", now>>20)
	}
}

// zeros is a body of n bytes that costs the client nothing.
type zeros struct{ n int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.n)
	clear(p[:n])
	z.n -= n
	return int(n), nil
}

func TestMemoryOfManyLargeTransfers(t *testing.T) {
	const clients, size, limit = 64, 1 << 30, 1 << 30
	s := newServer(t, 6, "--scheme", "4+2")
	s.bucket("big")
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	// Disk is dear where this runs: the objects are uploaded concurrently,
	// but each is removed before the same client begins its next.
	each := func(what string, n int, f func(c *minio.Client, i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, n)
		for i := range n {
			wg.Go(func() { errs[i] = f(s.client(), i) })
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		now, peak := s.rss()
		t.Logf("%s: resident %d MiB, at its highest %d MiB", what, now>>20, peak>>20)
		if peak > limit {
			t.Errorf("%s: %d MiB resident, at most %d", what, peak>>20, limit>>20)
		}
	}
	put := func(c *minio.Client, key string, n int64) error {
		_, err := c.PutObject(ctx, "big", key, &zeros{n}, n, minio.PutObjectOptions{DisableMultipart: true, DisableContentSha256: true})
		return err
	}
	if err := put(s.client(), "shared", size); err != nil {
		t.Fatal(err)
	}
	each("64 downloads of 1 GiB", clients, func(c *minio.Client, _ int) error {
		o, err := c.GetObject(ctx, "big", "shared", minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer o.Close()
		n, err := io.Copy(io.Discard, o)
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes", n)
		}
		return err
	})
	each("64 uploads of 1 GiB", clients, func(c *minio.Client, i int) error {
		return put(c, fmt.Sprint("k", i), size)
	})
}
