// Package metadata holds the words of Kintsugi's namespace – buckets, objects,
// uploads, placement groups, drives – and the narrow interfaces through which
// the gateway and the repairer use it. Package catalog implements them over a
// key-value engine (package kv).
//
// Metadata is the only authority: a shard that it does not know is garbage, a
// blob that it knows is never given up because drives are unreachable.
package metadata

import (
	"context"
	"iter"
	"time"

	"kintsugi/erasure"
	"kintsugi/storagenode"
)

// BucketID identifies a bucket for its life; a name used again gets a new id.
type BucketID uint32

// Bucket is a named set of objects.
type Bucket struct {
	ID      BucketID
	Name    string
	Owner   string // access key of its creator's account
	Region  string // the LocationConstraint it was created with, "" when none
	Created time.Time
	// Recent: as it was a moment ago (RecentBucket). What is written to it goes
	// to the bucket that has its name at the commit.
	Recent bool
}

// Field is one attribute of an object: a lower-case header name and its value,
// e.g. {"content-type", "text/plain"} or {"x-amz-meta-colour", "gold"}.
type Field struct{ Name, Value string }

// Checksum is an S3 additional checksum. The zero value means none.
type Checksum struct {
	Algorithm string // "CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"
	Composite bool   // over the parts' checksums, Value ends in "-N"
	Value     string // base64 as S3 shows it
}

// Located is a blob with the PG it lies in.
type Located struct {
	PG   storagenode.PG
	Blob erasure.Blob
}

// Written is a blob as the data path wrote it: the group it was written by,
// slots and epochs as they were then. Committing it asserts that the slots
// have not moved since; those that did count as missing.
type Written struct {
	Group erasure.Group
	Blob  erasure.Blob
}

// Object is the current version of a key.
type Object struct {
	Key      string
	Version  string // "null" while a bucket has no versioning
	Size     int64
	ETag     string // without quotes
	Modified time.Time
	Fields   []Field
	Checksum Checksum
	// PartCount is the number of parts it was uploaded in, 0 for a single PUT.
	PartCount int
	// Blobs is where the bytes are, in order, where the object has at most a
	// few blobs; otherwise Objects.Layout knows.
	Blobs []Located
	// Manifest is catalog's own reference to stored part lists; opaque.
	Manifest []byte
}

// Extent is a run of an object's bytes within one blob.
type Extent struct {
	Located
	Offset, Length int64 // within the blob
}

// ObjectPart describes one part of a completed multipart object.
type ObjectPart struct {
	Number   int
	Offset   int64 // where it starts within the object
	Size     int64
	Checksum Checksum
}

// Condition is what a write or a delete asks of the current version.
type Condition struct {
	IfMatch     string // an ETag without quotes, or "*"; "" for none
	IfNoneMatch string // "*" or an ETag; "" for none
	// IfModified and IfSize are for deletes (x-amz-if-match-last-modified-time,
	// x-amz-if-match-size); zero and nil for none. They hold of nothing, too.
	IfModified time.Time
	IfSize     *int64
}

// ListQuery asks for one page of keys in order of their UTF-8 bytes.
type ListQuery struct {
	Prefix, Delimiter string
	// After: only keys (and common prefixes) greater than it.
	After string
	Limit int // 0 gives an empty page
}

// ListPage is one page. Objects come without Blobs and Manifest; entries and
// prefixes together are at most Limit. Next, where Truncated, is the After of
// the following page.
type ListPage struct {
	Objects   []Object
	Prefixes  []string
	Truncated bool
	Next      string
}

// Buckets keeps the buckets.
type Buckets interface {
	// CreateBucket makes a bucket; ErrBucketExists (the existing one is
	// returned) where the name is taken.
	CreateBucket(ctx context.Context, b Bucket) (Bucket, error)
	// Bucket looks one up: ErrNoSuchBucket.
	Bucket(ctx context.Context, name string) (Bucket, error)
	// RecentBucket gives one as it was a moment ago, of bounded length, to begin
	// a PutObject with, whose commit decides. What was not there then is looked
	// up anew: ErrNoSuchBucket.
	RecentBucket(ctx context.Context, name string) (Bucket, error)
	// DeleteBucket: ErrNoSuchBucket, ErrBucketNotEmpty. Open uploads do not
	// keep a bucket; they are aborted with it.
	DeleteBucket(ctx context.Context, name string) error
	// ListBuckets gives up to limit buckets with the prefix, names > after,
	// and whether there are more.
	ListBuckets(ctx context.Context, prefix, after string, limit int) ([]Bucket, bool, error)
}

// Objects keeps the objects of buckets.
type Objects interface {
	// Object gives the current version: ErrNoSuchKey.
	Object(ctx context.Context, b BucketID, key string) (*Object, error)
	// Find looks a bucket and an object in it up, at the cost of one look-up
	// where that matters: ErrNoSuchBucket; ErrNoSuchKey with the bucket.
	Find(ctx context.Context, bucket, key string) (Bucket, *Object, error)
	// PutObject commits o, whose bytes were written and synced as blobs, as
	// the current version; what it replaces is owed a delete. b is asserted
	// to exist still. ErrNoSuchBucket, ErrNoSuchKey (IfMatch on nothing),
	// ErrPreconditionFailed, ErrConditionalConflict, ErrStalePlacement (too
	// few of the written slots are still valid; write again). An outcome
	// unknown to the engine is resolved before PutObject returns, where it can
	// be. After any error the caller abandons the blobs.
	PutObject(ctx context.Context, b Bucket, o *Object, blobs []Written, c Condition) error
	// Abandon owes blobs a delete that were written, in part perhaps, also where ctx
	// is over. No commit of them may be under way or be tried again. One that was
	// tried, with whatever outcome, may have taken place: then they stay, and else it
	// never will. ErrUnavailable: try again, or they will be found as orphans.
	Abandon(ctx context.Context, blobs []Written) error
	// DeleteObject removes the current version; deleting nothing is no error
	// and gives false, but ErrNoSuchKey under IfMatch. ErrPreconditionFailed.
	DeleteObject(ctx context.Context, b Bucket, key string, c Condition) (bool, error)
	// ListObjects gives one page.
	ListObjects(ctx context.Context, b BucketID, q ListQuery) (ListPage, error)
	// Layout gives where the bytes [off, off+n) of o are, in order.
	Layout(ctx context.Context, o *Object, off, n int64) ([]Extent, error)
	// Parts gives up to limit parts with Number > after of an object uploaded
	// in parts.
	Parts(ctx context.Context, o *Object, after, limit int) ([]ObjectPart, error)
}

// Upload is a multipart upload under way.
type Upload struct {
	// ID is unique for ever. Ids sort by their birth, as those of
	// storagenode.BlobID.String do: uploads of a key are listed by id.
	ID        string
	Key       string
	Initiated time.Time
	Owner     string
	Fields    []Field
	// Checksum: Algorithm and Composite as asked for at creation, no Value.
	Checksum Checksum
}

// Part is an uploaded part.
type Part struct {
	Number   int // 1 to 10,000
	Size     int64
	ETag     string
	Modified time.Time
	Checksum Checksum
}

// CompletedPart is a part as CompleteMultipartUpload names it.
type CompletedPart struct {
	Number   int
	ETag     string
	Checksum Checksum // zero where the client named none
}

// UploadQuery asks for one page of uploads, ordered by key, then by time of
// initiation.
type UploadQuery struct {
	Prefix, Delimiter string
	KeyAfter, IDAfter string
	Limit             int
}

// UploadPage is one page of uploads.
type UploadPage struct {
	Uploads             []Upload
	Prefixes            []string
	Truncated           bool
	NextKey, NextUpload string
}

// Completion is what CompleteUpload needs beside the parts.
type Completion struct {
	Parts     []CompletedPart
	Condition Condition
	// Seal computes the finished object's ETag and checksum from the stored
	// parts, after they were checked against Parts; its error ends the
	// completion, with the upload open again.
	Seal func(parts []Part) (etag string, sum Checksum, err error)
	// MinPart is the smallest size of a part that is not the last.
	MinPart  int64
	Modified time.Time
}

// Uploads keeps multipart uploads. Each method answers ErrNoSuchUpload where
// the id is not one of the bucket and key.
type Uploads interface {
	CreateUpload(ctx context.Context, b Bucket, u Upload) error
	Upload(ctx context.Context, b BucketID, key, id string) (Upload, error)
	// PutPart commits a part, replacing one of the same number. After any error the
	// caller abandons the blobs.
	PutPart(ctx context.Context, b Bucket, key, id string, p Part, blobs []Written) error
	// ListParts gives up to limit parts with Number > after, and whether
	// there are more.
	ListParts(ctx context.Context, b BucketID, key, id string, after, limit int) ([]Part, bool, error)
	ListUploads(ctx context.Context, b BucketID, q UploadQuery) (UploadPage, error)
	// CompleteUpload makes the parts one object. ErrInvalidPart (also a wrong
	// ETag), ErrInvalidPartOrder, ErrPartTooSmall, those of PutObject. Parts
	// that were not named are owed a delete. A repeated completion of the
	// same upload answers with the object it made, while that is current.
	CompleteUpload(ctx context.Context, b Bucket, key, id string, c Completion) (*Object, error)
	AbortUpload(ctx context.Context, b Bucket, key, id string) error
}

// Placement gives the data path the groups.
type Placement interface {
	// OpenGroup picks a group for a new blob of about size bytes, 0 where that
	// is not known: one whose drives can all be written to; else a narrower one with the full tolerance, made if need
	// be; else the best there is. ErrNoPlacement where fewer than the least
	// quorum of drives can be written to.
	OpenGroup(ctx context.Context, size int64) (erasure.Group, error)
	// Group gives a group as it is now.
	Group(ctx context.Context, pg storagenode.PG) (erasure.Group, error)
	// RecentGroup gives a group as it was a moment ago, of bounded length, for
	// readers: where shards cannot be had by it, slots may have moved, and they
	// ask Group.
	RecentGroup(ctx context.Context, pg storagenode.PG) (erasure.Group, error)
}

// OwnerKind says what a blob belongs to.
type OwnerKind uint8

// What a blob may belong to.
const (
	OwnedByObject OwnerKind = iota
	OwnedByUpload           // a part, of an upload or of the object it became
)

// BlobRecord is what metadata knows of a blob, for the repairer.
type BlobRecord struct {
	Located
	Owner  OwnerKind
	Bucket BucketID
	Key    string
	Upload string // where OwnedByUpload
	Part   int
}

// Margin is how many more losses the blob survives by what is marked missing.
func (r BlobRecord) Margin(s erasure.Scheme) int {
	live := 0
	for i := range s.N() {
		if r.Blob.Slots.Has(i) && !r.Blob.Missing.Has(i) {
			live++
		}
	}
	if r.Blob.Mode == erasure.Replicated {
		return live - 1
	}
	return live - int(s.K)
}

// Owed is a delete owed to drives: a layout no object holds any more.
type Owed struct {
	Located
	Since time.Time
	// Pending are the slots that have not acknowledged yet.
	Pending erasure.SlotMask
}

// Blobs is the repairer's view of what every slot should hold.
type Blobs interface {
	// Blob gives one record, nil where metadata does not know the blob.
	Blob(ctx context.Context, pg storagenode.PG, id storagenode.BlobID) (*BlobRecord, error)
	// ScanBlobs yields the records of a PG with ids > after in order.
	ScanBlobs(ctx context.Context, pg storagenode.PG, after storagenode.BlobID) iter.Seq2[BlobRecord, error]
	// MarkMissing adds slots to what is known missing of a blob; nothing
	// happens where the blob is not known any more.
	MarkMissing(ctx context.Context, pg storagenode.PG, id storagenode.BlobID, slots erasure.SlotMask) error
	// MarkPresent takes slots off again after a verified repair, asserting
	// that the slots still have the given epochs (index = slot):
	// ErrStalePlacement. ErrNoSuchBlob where the blob is not known any more:
	// what was written back must be deleted again.
	MarkPresent(ctx context.Context, g erasure.Group, id storagenode.BlobID, slots erasure.SlotMask) error
	// ScanDamaged yields blobs with missing slots, least margin first.
	ScanDamaged(ctx context.Context) iter.Seq2[BlobRecord, error]
	// ScanOwed yields deletes owed, the oldest blobs first.
	ScanOwed(ctx context.Context) iter.Seq2[Owed, error]
	// Discharge records that slots[i] have acknowledged the tombstone of owed[i];
	// a row goes with its last slot. After an error some may be recorded.
	Discharge(ctx context.Context, owed []Owed, slots []erasure.SlotMask) error
	// IsOwed says whether a blob is owed a delete.
	IsOwed(ctx context.Context, pg storagenode.PG, id storagenode.BlobID) (bool, error)
}

// GroupRecord is a PG as the repairer sees it.
type GroupRecord struct {
	erasure.Group
	// Sealed groups take no new blobs.
	Sealed bool
	// Blobs and Bytes count what was committed to it, roughly.
	Blobs, Bytes int64
}

// Groups keeps the PGs. Remap and MarkClean are done under a leader's term
// (UnderTerm) where there are several repairers.
type Groups interface {
	ListGroups(ctx context.Context) ([]GroupRecord, error)
	// Remap maps a slot to another drive under the next epoch, state
	// rebuilding; the new drive's fence must have been set before. It asserts
	// the slot's current epoch: ErrStalePlacement. It marks nothing: until
	// the slot is clean, readers treat what is not there as missing.
	Remap(ctx context.Context, pg storagenode.PG, slot int, epoch uint32, to storagenode.DriveID) (erasure.Group, error)
	// MarkClean ends a rebuild, asserting the epoch.
	MarkClean(ctx context.Context, pg storagenode.PG, slot int, epoch uint32) error
	// Seal closes a group to new blobs.
	Seal(ctx context.Context, pg storagenode.PG) error
}

// DriveRecord is a drive as metadata remembers it.
type DriveRecord struct {
	ID      storagenode.DriveID
	Node    string
	Zone    string
	Address string // of its node; the directory where the node is this process
	State   storagenode.DriveState
	// Replaces is the drive whose place this one took, zero for none.
	Replaces storagenode.DriveID
	Added    time.Time
}

// DriveRecords keeps the drives.
type DriveRecords interface {
	ListDrives(ctx context.Context) ([]DriveRecord, error)
	// EditDrive changes one record in a transaction: edit gets it as it is now
	// (only ID set where there is none) and says whether to store what it made
	// of it. It may run several times.
	EditDrive(ctx context.Context, id storagenode.DriveID, edit func(d *DriveRecord) bool) error
	// DeleteDrives forgets drives; there need not be such. No slot may be mapped
	// to one.
	DeleteDrives(ctx context.Context, ids []storagenode.DriveID) error
}

// Horizon guards the orphan pass.
type Horizon interface {
	// RaiseHorizon makes every later commit of a blob with an id below h
	// fail; lowering it does nothing.
	RaiseHorizon(ctx context.Context, h storagenode.BlobID) error
	Horizon(ctx context.Context) (storagenode.BlobID, error)
}
