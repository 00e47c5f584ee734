package rpc

import (
	"context"
	"errors"
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/storetest"
)

// TestNodeOfAnotherCluster: whoever answers at a known address with the right
// secret, but is of another cluster, brings no drives along. Who was opened
// before the cluster was known asks which it is before it believes anybody.
func TestNodeOfAnotherCluster(t *testing.T) {
	p := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{{1}: storetest.NewMemory()})
	var is storagenode.UUID
	err := errors.New("the metadata is away")
	f := openFleet(t, FleetConfig{Refresh: 1 << 40, Founded: func(context.Context) (storagenode.UUID, error) { return is, err }}, p.url())
	if len(f.Reports()) != 0 {
		t.Errorf("before the cluster is known: %+v", f.Reports())
	}
	is, err = storagenode.UUID{99}, nil
	f.refresh(t.Context())
	if len(f.Reports()) != 0 {
		t.Errorf("of another cluster: %+v", f.Reports())
	}
	ours := openFleet(t, FleetConfig{Founded: func(context.Context) (storagenode.UUID, error) { return testCluster, nil }}, p.url())
	if len(ours.Reports()) != 1 {
		t.Errorf("of the same: %+v", ours.Reports())
	}
}
