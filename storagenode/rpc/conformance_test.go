package rpc

import (
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/segment"
	"kintsugi/storagenode/storetest"
	"kintsugi/storagenode/vfs"
)

func openSegment(t testing.TB, fsys vfs.FS, dir string) *segment.Store {
	t.Helper()
	s, err := segment.Open(t.Context(), segment.Config{
		FS: fsys, Dir: dir, Cluster: testCluster, Drive: testDrive, SegmentSize: 64 << 10, TrustSums: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) storagenode.ShardStore{
		"memory": func(*testing.T) storagenode.ShardStore { return storetest.NewMemory() },
		"segment in memory": func(t *testing.T) storagenode.ShardStore {
			fsys := vfs.NewMem()
			if err := fsys.MkdirAll("/d"); err != nil {
				t.Fatal(err)
			}
			return openSegment(t, fsys, "/d")
		},
		"segment": func(t *testing.T) storagenode.ShardStore { return openSegment(t, vfs.OS(), t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storagenode.ShardStore {
				store := open(t)
				r := newRig(t, store)
				t.Cleanup(func() {
					if d, ok := store.(storagenode.Drive); ok {
						_ = d.Close()
					}
				})
				return r.drive(r.client)
			})
		})
	}
}
