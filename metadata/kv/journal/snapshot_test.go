package journal

import (
	"fmt"
	"os"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	pebblevfs "github.com/cockroachdb/pebble/v2/vfs"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// syncCounter notes how much is written to a file at most between two syncs.
type syncCounter struct {
	vfs.File
	unsynced, most int
}

func (f *syncCounter) WriteAt(p []byte, off int64) (int, error) {
	f.unsynced += len(p)
	f.most = max(f.most, f.unsynced)
	return f.File.WriteAt(p, off)
}

func (f *syncCounter) SyncData() error {
	f.unsynced = 0
	return f.File.SyncData()
}

// TestSnapshotIsSyncedInSteps: of a large state no sync takes so long that the drive is
// taken for one that hangs, or that what the log writes beside it waits as long.
func TestSnapshotIsSyncedInSteps(t *testing.T) {
	db, err := pebble.Open("", &pebble.Options{FS: pebblevfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	value := make([]byte, 64<<10)
	for i := range 2 * snapSync / len(value) {
		if err := db.Set(fmt.Appendf(nil, "k%06d", i), value, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	fs := vfs.NewMem()
	f, err := fs.OpenFile("/snap", os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	count := &syncCounter{File: f}
	w := &snapWriter{f: count, buf: make([]byte, 0, snapBlock+blockHead)}
	if err := w.all(storagenode.UUID{1}, 7, 8, db); err != nil {
		t.Fatal(err)
	}
	if count.most > snapSync+2*snapBlock {
		t.Fatalf("%d bytes of %d are made durable at once", count.most, w.off)
	}
}
