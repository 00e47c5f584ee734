package acceptance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
)

func TestMemoryOfAnEmptyServer(t *testing.T) {
	s := serverAt(keepingSite(t), 6, "--scheme", "4+2")
	time.Sleep(3 * time.Second)
	now, peak := s.rss()
	t.Logf("resident %d MiB, at its highest %d MiB", now>>20, peak>>20)
	if now > 150<<20 {
		t.Errorf("an empty server holds %d MiB, at most 150", now>>20)
	}
}

// errEnough ends an upload that has shown what it was to show.
var errEnough = errors.New("enough")

// zeros is a body of n bytes that costs the client nothing, and breaks off
// after stop.
type zeros struct{ n, stop int64 }

func (z *zeros) Read(p []byte) (int, error) {
	switch {
	case z.n == 0:
		return 0, io.EOF
	case z.stop <= 0:
		return 0, errEnough
	}
	n := min(int64(len(p)), z.n, z.stop)
	clear(p[:n])
	z.n -= n
	z.stop -= n
	return int(n), nil
}

// Sixty-four uploads and downloads of 1 GiB at a time. Each moves a part of its
// object and is broken off, all of it with KINTSUGI_LONG=1: the uploads alone
// would take 96 GiB of disk.
func TestMemoryOfManyLargeTransfers(t *testing.T) {
	const clients, size, limit = 64, 1 << 30, 1 << 30
	down, up := int64(96<<20), int64(64<<20)
	if os.Getenv("KINTSUGI_LONG") != "" {
		down, up = size, 640<<20
	}
	s := serverAt(keepingSite(t), 6, "--scheme", "4+2")
	s.bucket("big")
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	each := func(what string, f func(c *minio.Client, i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		errs := make([]error, clients)
		for i := range clients {
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
	put := func(c *minio.Client, key string, stop int64) error {
		_, err := c.PutObject(ctx, "big", key, &zeros{size, stop}, size, minio.PutObjectOptions{DisableMultipart: true, DisableContentSha256: true})
		return err
	}
	if err := put(s.client(), "shared", size); err != nil {
		t.Fatal(err)
	}
	each("64 downloads of 1 GiB", func(c *minio.Client, _ int) error {
		o, err := c.GetObject(ctx, "big", "shared", minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer o.Close()
		n, err := io.CopyN(io.Discard, o, down)
		if err == nil && n != down {
			err = fmt.Errorf("%d bytes", n)
		}
		return err
	})
	each("64 uploads of 1 GiB", func(c *minio.Client, i int) error {
		if err := put(c, fmt.Sprint("k", i), up); !errors.Is(err, errEnough) {
			return fmt.Errorf("upload was not broken off by the client: %w", err)
		}
		return nil
	})
	for o := range s.client().ListObjects(ctx, "big", minio.ListObjectsOptions{}) {
		if o.Err != nil || o.Key != "shared" {
			t.Errorf("after broken uploads: %v, %v", o.Key, o.Err)
		}
	}
}
