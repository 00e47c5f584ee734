package gateway

import (
	"context"
	"io"

	"kintsugi/erasure"
	"kintsugi/erasure/stripe"
	"kintsugi/storagenode"
)

// Blobs writes and reads blobs; a stripe.Set does.
type Blobs interface {
	// Put writes src, to its end or erasure.BlobMax bytes, as one durable
	// blob. The observer has seen all of it when Put returns.
	Put(ctx context.Context, g erasure.Group, id storagenode.BlobID, src io.Reader, sizeHint int64, opt stripe.PutOptions) (stripe.PutResult, error)
	// Read writes the verified bytes [off, off+n) to w. Where it fails before
	// the first byte, w was not called; where later, what w got is right but
	// not all.
	Read(ctx context.Context, g erasure.Group, b erasure.Blob, off, n int64, w io.Writer) error
	// Crowded says that a Put or a Read waits for memory that others hold.
	Crowded() bool
}

var _ Blobs = (*stripe.Set)(nil)
