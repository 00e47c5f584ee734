package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/storagenode"
)

// foundation is the cluster that metadata tells of, and whether it answers.
type foundation struct {
	calls atomic.Int32
	tells func(call int32) (storagenode.UUID, error)
}

func (f *foundation) Cluster(context.Context) (storagenode.UUID, error) {
	return f.tells(f.calls.Add(1))
}

func (f *foundation) Found(context.Context, storagenode.UUID) (storagenode.UUID, error) {
	panic("nothing is to be founded")
}

// TestMetadataThatIsLost: a process whose metadata is empty from one moment to the
// next ends; that it does not answer for a while is no reason.
func TestMetadataThatIsLost(t *testing.T) {
	ours, other := storagenode.NewUUID(), storagenode.NewUUID()
	for _, next := range []storagenode.UUID{{}, other} {
		f := &foundation{tells: func(call int32) (storagenode.UUID, error) {
			switch {
			case call == 1 || call == 7:
				return storagenode.UUID{}, errors.New("no answer")
			case call == 2:
				return storagenode.UUID{}, nil // not founded yet
			case call < 10:
				return ours, nil
			}
			return next, nil
		}}
		if err := watchCluster(t.Context(), f, time.Millisecond); !errors.Is(err, errMetadataLost) || f.calls.Load() != 10 {
			t.Errorf("%v after %d looks", err, f.calls.Load())
		}
	}
}
