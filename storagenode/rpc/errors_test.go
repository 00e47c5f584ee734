package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"testing"

	"kintsugi/storagenode"
)

// failing answers every call with one error.
type failing struct{ err error }

func (f failing) Put(context.Context, storagenode.Shard) (storagenode.Token, error) { return 0, f.err }
func (f failing) Sync(context.Context, storagenode.Token) error                     { return f.err }
func (f failing) ReadAt(context.Context, storagenode.ShardID, int64, []byte) (int, error) {
	return 0, f.err
}
func (f failing) Stat(context.Context, storagenode.ShardID) (storagenode.ShardInfo, error) {
	return storagenode.ShardInfo{}, f.err
}
func (f failing) List(context.Context, storagenode.PG, int, storagenode.BlobID) iter.Seq2[storagenode.ShardInfo, error] {
	return func(yield func(storagenode.ShardInfo, error) bool) { yield(storagenode.ShardInfo{}, f.err) }
}
func (f failing) Delete(context.Context, storagenode.PG, int, storagenode.BlobID) error { return f.err }
func (f failing) SetSlotEpoch(context.Context, storagenode.PG, int, uint32) error       { return f.err }
func (f failing) DropSlot(context.Context, storagenode.PG, int, uint32) error           { return f.err }
func (f failing) Scrub(context.Context, int64, func(storagenode.ShardID, error)) (storagenode.ScrubReport, error) {
	return storagenode.ScrubReport{}, f.err
}

// calls makes each call once and gives its error by name.
func calls(ctx context.Context, d *Drive) map[string]error {
	errs := map[string]error{}
	_, errs["put"] = d.Put(ctx, storagenode.Shard{ID: shardID(1, 0), Payload: []byte("x")})
	_, errs["last put"] = d.Put(ctx, storagenode.Shard{ID: shardID(1, 0), Payload: []byte("x"), Last: true})
	errs["sync"] = d.Sync(ctx, 7)
	_, errs["read"] = d.ReadAt(ctx, shardID(1, 0), 0, make([]byte, 10))
	_, errs["stat"] = d.Stat(ctx, shardID(1, 0))
	for _, err := range d.List(ctx, 1, 0, storagenode.BlobID{}) {
		errs["list"] = err
	}
	errs["delete"] = d.Delete(ctx, 1, 0, storagenode.BlobID{1})
	errs["epoch"] = d.SetSlotEpoch(ctx, 1, 0, 1)
	errs["drop"] = d.DropSlot(ctx, 1, 0, 1)
	_, errs["scrub"] = d.Scrub(ctx, 0, nil)
	return errs
}

// TestErrorsKeepTheirIdentity: what the store's error is, and nothing else, is
// what the client's error is, through every call.
func TestErrorsKeepTheirIdentity(t *testing.T) {
	all := slices.DeleteFunc(slices.Clone(sentinels[:]), func(err error) bool { return err == errOtherLife }) // not a store's
	cases := map[string]error{
		"two":  fmt.Errorf("read: %w: %w", storagenode.ErrCorrupt, fmt.Errorf("in: %w", storagenode.ErrBroken)),
		"none": errors.New("something else"),
	}
	for _, s := range all {
		cases[s.Error()] = s
		cases["wrapped "+s.Error()] = fmt.Errorf("doing this: %w", s)
	}
	for name, want := range cases {
		r := newRig(t, failing{want})
		for call, got := range calls(t.Context(), r.drive(r.client)) {
			if got == nil {
				t.Errorf("%s, %s: no error", name, call)
			}
			for _, s := range all {
				if errors.Is(got, s) != errors.Is(want, s) {
					t.Errorf("%s, %s: %q is %q: %v", name, call, got, s, errors.Is(got, s))
				}
			}
			if want == io.EOF && call == "read" && got != io.EOF {
				t.Errorf("%s: readers compare with io.EOF, got %#v", call, got)
			}
		}
	}
	for _, s := range []error{
		storagenode.ErrNotFound, storagenode.ErrCorrupt, storagenode.ErrStaleEpoch, storagenode.ErrReadOnly, storagenode.ErrTooLarge,
		storagenode.ErrDeleted, storagenode.ErrBroken, storagenode.ErrSuspect, storagenode.ErrUnavailable, io.EOF,
		context.Canceled, context.DeadlineExceeded, storagenode.ErrOtherCluster, storagenode.ErrNameTaken,
	} {
		if _, known := cases[s.Error()]; !known {
			t.Errorf("%v is not on the wire", s)
		}
	}
}

// TestWhatIsNotThere: a drive that a node does not serve is unavailable, not
// empty.
func TestWhatIsNotThere(t *testing.T) {
	r := newRig(t, failing{nil})
	other := r.client.Drive(storagenode.DriveID{99}, 1)
	d := r.drive(r.client)
	r.drives.set(testDrive, nil)
	for _, d := range []*Drive{other, d} {
		for call, err := range calls(t.Context(), d) {
			if !errors.Is(err, storagenode.ErrUnavailable) || errors.Is(err, storagenode.ErrNotFound) {
				t.Errorf("%s: %v", call, err)
			}
		}
	}
}
