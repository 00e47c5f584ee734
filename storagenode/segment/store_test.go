package segment_test

import (
	"testing"

	"kintsugi/storagenode"
	"kintsugi/storagenode/segment"
	"kintsugi/storagenode/storetest"
	"kintsugi/storagenode/vfs"
)

func open(t testing.TB, cfg segment.Config) *segment.Store {
	t.Helper()
	if cfg.Cluster.IsZero() {
		cfg.Cluster, cfg.Drive = storagenode.UUID{1}, storagenode.DriveID{2}
	}
	s, err := segment.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	t.Run("os", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storagenode.ShardStore {
			return open(t, segment.Config{FS: vfs.OS(), Dir: t.TempDir()})
		})
	})
	t.Run("mem", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storagenode.ShardStore {
			fs := vfs.NewMem()
			if err := fs.MkdirAll("/d"); err != nil {
				t.Fatal(err)
			}
			return open(t, segment.Config{FS: fs, Dir: "/d", SegmentSize: 64 << 10})
		})
	})
}
