// Package cluster runs a whole store in one process under faults. Cluster is
// that of one process: drives, journal, catalog, stripes and repairer, as
// package embedded puts them together, on file systems that forget, fail and
// hang. Many is one of many processes, put together by package roles, on a
// network that fails too. They are the harnesses, the tests are what they are
// for.
//
// A test that fails prints its seed; KINTSUGI_SEED=n replays that one,
// KINTSUGI_SEEDS=n tries so many.
package cluster

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"kintsugi/cmd/internal/embedded"
	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/repair"
	"kintsugi/storagenode"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/vfs"
)

// Cluster is a running store with one bucket. Its Put, Get and Delete do what
// the S3 front does, without HTTP: it is a load.Target.
type Cluster struct {
	*embedded.Store
	bucket metadata.Bucket
	ids    *storagenode.BlobIDs
}

const (
	bucketName     = "cluster" // the one bucket of a Cluster
	transferMemory = 64 << 20  // bytes, of each process
)

// Six are the directories of six drives below root.
func Six(root string) []string {
	dirs := make([]string, 6)
	for i := range dirs {
		dirs[i] = fmt.Sprintf("%s/d%d", root, i+1)
	}
	return dirs
}

// Small is a store of six drives, 4+2, with segments and logs so small that
// a short test fills many, and with a repairer in a hurry.
func Small(fsys vfs.FS, dirs []string) embedded.Config {
	return embedded.Config{
		FS: fsys, Dirs: dirs, Name: "test", Scheme: erasure.Scheme{K: 4, M: 2},
		AccessKey: "access", SecretKey: "secret-of-the-test", TransferMemory: transferMemory,
		SegmentSize: 256 << 10, LogSize: 64 << 10, SnapshotAfter: 256 << 10,
		Grace: time.Second, Poll: 100 * time.Millisecond,
		Repair: repair.Config{Tick: 100 * time.Millisecond, OrphanInterval: time.Hour},
	}
}

// Open opens the store and its bucket, which is made where there is none.
func Open(ctx context.Context, cfg embedded.Config) (*Cluster, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	s, err := embedded.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Store: s, ids: storagenode.NewBlobIDs(cfg.Clock.Now)}
	c.bucket, err = s.Catalog.CreateBucket(ctx, metadata.Bucket{Name: bucketName, Owner: cfg.AccessKey, Created: cfg.Clock.Now()})
	if err != nil && !errors.Is(err, metadata.ErrBucketExists) {
		return nil, errors.Join(fmt.Errorf("create bucket: %w", err), s.Close())
	}
	return c, nil
}

// attempts is how often an operation is begun anew because blobs moved.
const attempts = 5

// attrs stand for what the S3 front keeps with a blob's last stripe.
func attrs(size int64) []byte { return fmt.Appendf(nil, "a blob of %d bytes", size) }

// write stores p as one blob; thin says that it has fewer shards than it
// should have.
func (c *Cluster) write(ctx context.Context, p []byte) (w metadata.Written, thin bool, err error) {
	g, err := c.Catalog.OpenGroup(ctx, int64(len(p)))
	if err != nil {
		return w, false, err
	}
	res, err := c.Stripes.Put(ctx, g, c.ids.Next(), bytes.NewReader(p), int64(len(p)), stripe.PutOptions{Attrs: attrs})
	if err != nil {
		return w, false, err
	}
	return metadata.Written{Group: g, Blob: res.Blob}, res.Blob.Missing != 0, nil
}

// Put implements load.Target.
func (c *Cluster) Put(ctx context.Context, key string, p []byte) error {
	_, err := c.PutThin(ctx, key, p)
	return err
}

// PutThin is Put that also says whether the object was acknowledged with fewer
// shards than it should have.
func (c *Cluster) PutThin(ctx context.Context, key string, p []byte) (thin bool, err error) {
	sum := md5.Sum(p)
	for range attempts {
		var w metadata.Written
		if w, thin, err = c.write(ctx, p); err != nil {
			return false, err
		}
		o := &metadata.Object{Key: key, Version: "null", Size: int64(len(p)), ETag: hex.EncodeToString(sum[:]), Modified: time.Now()}
		if err = c.Catalog.PutObject(ctx, c.bucket, o, []metadata.Written{w}, metadata.Condition{}); err != nil {
			_ = c.Catalog.Abandon(ctx, []metadata.Written{w})
		}
		if !errors.Is(err, metadata.ErrStalePlacement) {
			break
		}
	}
	if err == nil {
		c.Repairer.Kick()
	}
	return thin, err
}

// PutParts uploads the parts, each of which may have any size, and completes
// them to one object.
func (c *Cluster) PutParts(ctx context.Context, key string, parts ...[]byte) (thin bool, err error) {
	id := c.ids.Next().String()
	if err := c.Catalog.CreateUpload(ctx, c.bucket, metadata.Upload{ID: id, Key: key, Initiated: time.Now()}); err != nil {
		return false, err
	}
	done := metadata.Completion{
		Modified: time.Now(),
		Seal: func(stored []metadata.Part) (string, metadata.Checksum, error) {
			return fmt.Sprintf("%s-%d", id, len(stored)), metadata.Checksum{}, nil
		},
	}
	for i, p := range parts {
		w, thinPart, err := c.write(ctx, p)
		if err != nil {
			return false, err
		}
		thin = thin || thinPart
		sum := md5.Sum(p)
		part := metadata.Part{Number: i + 1, Size: int64(len(p)), ETag: hex.EncodeToString(sum[:]), Modified: time.Now()}
		if err := c.Catalog.PutPart(ctx, c.bucket, key, id, part, []metadata.Written{w}); err != nil {
			_ = c.Catalog.Abandon(ctx, []metadata.Written{w})
			return false, err
		}
		done.Parts = append(done.Parts, metadata.CompletedPart{Number: part.Number, ETag: part.ETag})
	}
	_, err = c.Catalog.CompleteUpload(ctx, c.bucket, key, id, done)
	if err == nil {
		c.Repairer.Kick()
	}
	return thin, err
}

// Delete implements load.Target.
func (c *Cluster) Delete(ctx context.Context, key string) error {
	_, err := c.Catalog.DeleteObject(ctx, c.bucket, key, metadata.Condition{})
	if err == nil {
		c.Repairer.Kick()
	}
	return err
}

// Get implements load.Target. As the S3 front does, it looks the key up once
// more where the object's blobs were gone because it was replaced meanwhile.
func (c *Cluster) Get(ctx context.Context, key string) (p []byte, found bool, err error) {
	var before *metadata.Object
	for range attempts {
		o, err := c.Catalog.Object(ctx, c.bucket.ID, key)
		if errors.Is(err, metadata.ErrNoSuchKey) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		p, readErr := c.read(ctx, o)
		if readErr == nil {
			return p, true, nil
		}
		if before != nil && same(before, o) {
			return nil, false, readErr
		}
		before = o
	}
	return nil, false, fmt.Errorf("%s is replaced faster than it is read", key)
}

func same(a, b *metadata.Object) bool {
	return a.ETag == b.ETag && a.Modified.Equal(b.Modified) && len(a.Blobs) == len(b.Blobs) &&
		(len(a.Blobs) == 0 || a.Blobs[0].Blob.ID == b.Blobs[0].Blob.ID)
}

func (c *Cluster) read(ctx context.Context, o *metadata.Object) ([]byte, error) {
	extents, err := c.Catalog.Layout(ctx, o, 0, o.Size)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, e := range extents {
		g, err := c.Catalog.Group(ctx, e.PG)
		if err != nil {
			return nil, err
		}
		if err := c.Stripes.Read(ctx, g, e.Blob, e.Offset, e.Length, &out); err != nil {
			return nil, err
		}
	}
	if int64(out.Len()) != o.Size {
		return nil, fmt.Errorf("%s: %d bytes of %d without an error", o.Key, out.Len(), o.Size)
	}
	return out.Bytes(), nil
}

// Whole repairs until an independent recount says that every blob has all its
// shards, and the journal all its members, for as long as ctx lets it.
func (c *Cluster) Whole(ctx context.Context) error {
	why := ""
	for {
		rep, err := c.Repairer.RepairNow(ctx, func(p repair.Progress) { why = p.Why })
		lacks := c.Journal.Status().Degraded
		if err == nil && rep.Whole && lacks == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not whole: %d of %d blobs full, %d unreached, %d unreadable; journal: %q; %s: %w", rep.Full, rep.Blobs, rep.Unreached, rep.Unreadable, lacks, why, errors.Join(err, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Sound proves the metadata consistent and every shard good byte by byte.
func (c *Cluster) Sound(ctx context.Context) error {
	if err := c.Consistent(ctx); err != nil {
		return err
	}
	v, err := c.Repairer.VerifyAll(ctx, repair.Filter{}, nil)
	if err != nil {
		return err
	}
	if v.Good != v.Shards {
		return fmt.Errorf("verified every shard: %+v", v)
	}
	return nil
}

// Consistent proves that the families of metadata agree with each other.
func (c *Cluster) Consistent(ctx context.Context) error {
	bad, err := c.Catalog.Check(ctx)
	if err != nil {
		return err
	}
	if len(bad) > 0 {
		return fmt.Errorf("metadata has %d inconsistencies, the first: %s", len(bad), bad[0])
	}
	return nil
}
