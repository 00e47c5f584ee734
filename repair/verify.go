package repair

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"kintsugi/erasure/stripe"
	"kintsugi/metadata"
	"kintsugi/storagenode"
)

// Filter chooses blobs; the zero value all of them.
type Filter struct {
	Bucket metadata.BucketID // 0: every bucket
	Key    string            // "": every key
}

func (f Filter) matches(r metadata.BlobRecord) bool {
	return (f.Bucket == 0 || r.Bucket == f.Bucket) && (f.Key == "" || r.Key == f.Key)
}

// VerifyReport is what reading every shard found.
type VerifyReport struct {
	Blobs      int64 `json:"blobs"`
	Shards     int64 `json:"shards"` // a blob's part at one slot counts as one
	Bytes      int64 `json:"bytes"`
	Good       int64 `json:"good"`
	Missing    int64 `json:"missing"`
	Corrupt    int64 `json:"corrupt"`
	Unreached  int64 `json:"unreached"`  // on drives that cannot be asked
	Unreadable int64 `json:"unreadable"` // blobs with fewer than k good shards
	Marked     int64 `json:"marked"`     // shards that were not known to be bad
	// Named are the first of the unreadable blobs.
	Named []UnreadableBlob `json:"unreadableBlobs,omitempty"`
}

// unreadableNamed bounds the blobs that are named for being unreadable.
const unreadableNamed = 16

// UnreadableBlob says whose bytes a blob has that cannot be read.
type UnreadableBlob struct {
	BucketID metadata.BucketID `json:"bucketID"`
	Bucket   string            `json:"bucket,omitempty"` // its name, where whoever passes it on knows it
	Key      string            `json:"key"`
	PG       storagenode.PG    `json:"pg"`
	Blob     string            `json:"blob"`
}

// VerifyAll reads every shard of the blobs that the filter chooses and
// verifies every byte. What is bad is marked for repair. seen, which may be
// nil, gets the counts so far after every blob; calls do not overlap. ErrNotLeader.
func (r *Repairer) VerifyAll(ctx context.Context, f Filter, seen func(VerifyReport)) (VerifyReport, error) {
	ctx, done, err := r.leader.enter(ctx)
	if err != nil {
		return VerifyReport{}, err
	}
	defer done()
	groups, err := r.cfg.Groups.ListGroups(ctx)
	if err != nil {
		return VerifyReport{}, err
	}
	var (
		mu  sync.Mutex
		sum VerifyReport
	)
	jobs, jobCtx := errgroup.WithContext(ctx)
	jobs.SetLimit(r.cfg.Concurrency)
	for _, g := range groups {
		for rec, err := range r.cfg.Blobs.ScanBlobs(jobCtx, g.PG, storagenode.BlobID{}) {
			if err != nil {
				_ = jobs.Wait()
				return sum, fmt.Errorf("scan blobs of pg %d: %w", g.PG, err)
			}
			if !f.matches(rec) {
				continue
			}
			jobs.Go(func() error {
				one, err := r.verifyBlob(jobCtx, rec)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				sum.add(one)
				if seen != nil {
					seen(sum)
				}
				return nil
			})
		}
	}
	err = jobs.Wait()
	if sum.Marked > 0 {
		r.kick(Damage)
	}
	return sum, err
}

func (v *VerifyReport) add(o VerifyReport) {
	v.Blobs += o.Blobs
	v.Shards += o.Shards
	v.Bytes += o.Bytes
	v.Good += o.Good
	v.Missing += o.Missing
	v.Corrupt += o.Corrupt
	v.Unreached += o.Unreached
	v.Unreadable += o.Unreadable
	v.Marked += o.Marked
	v.Named = append(v.Named, o.Named[:min(len(o.Named), unreadableNamed-len(v.Named))]...)
}

func (r *Repairer) verifyBlob(ctx context.Context, rec metadata.BlobRecord) (VerifyReport, error) {
	g, err := r.cfg.Lookup.Group(ctx, rec.PG)
	if err != nil {
		return VerifyReport{}, err
	}
	found, err := r.cfg.Stripes.Verify(ctx, g, rec.Blob)
	if err != nil {
		return VerifyReport{}, fmt.Errorf("verify blob %s: %w", rec.Blob.ID, err)
	}
	v := VerifyReport{Blobs: 1, Bytes: rec.Blob.Size}
	bad := false
	for i := range g.Slots {
		if !rec.Blob.Slots.Has(i) {
			continue
		}
		v.Shards++
		switch found.Slots[i].Finding {
		case stripe.Good:
			v.Good++
			continue
		case stripe.Missing:
			v.Missing++
		case stripe.Corrupt:
			v.Corrupt++
		default:
			v.Unreached++
		}
		bad = true
		if r.reader.verify(ctx, claim{rec.PG, i, rec.Blob.ID}) {
			v.Marked++
		}
	}
	if bad {
		now, err := r.cfg.Blobs.Blob(ctx, rec.PG, rec.Blob.ID)
		if err != nil {
			return VerifyReport{}, err
		}
		if now == nil { // deleted while it was read: nothing to say about it
			return VerifyReport{}, nil
		}
	}
	if found.Margin < 0 {
		v.Unreadable++
		v.Named = []UnreadableBlob{{BucketID: rec.Bucket, Key: rec.Key, PG: rec.PG, Blob: rec.Blob.ID.String()}}
	}
	return v, ctx.Err()
}
