package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// TestTornFileAfterSnapshot: a file that was begun after a snapshot of all that
// was committed, when the power went before its header was written.
func TestTornFileAfterSnapshot(t *testing.T) {
	fs := vfs.NewMem()
	cfg := Config{FS: fs, Cluster: storagenode.UUID{1}, Format: true, SnapshotAfter: 1, Tick: time.Millisecond}
	if err := fs.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	cfg.Drives = []Member{{ID: storagenode.DriveID{1}, Dir: "/d"}}
	for round, junk := range []string{"", "torn", string(make([]byte, 3*groupAlign))} {
		s, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for i := range round {
			if v, err := s.Get(t.Context(), fmt.Append(nil, i)); err != nil || string(v) != "v" {
				t.Fatalf("round %d: %d is %q, %v", round, i, v, err)
			}
		}
		x, _ := s.Begin(t.Context())
		x.Put(fmt.Append(nil, round), []byte("v"))
		if err := x.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		last := uint64(round + 1)
		snap := filepath.Join("/d/journal", numberedName(snapPrefix, last))
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if _, err := fs.Stat(snap); err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatal("no snapshot")
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		f, err := fs.OpenFile(filepath.Join("/d/journal", numberedName(logPrefix, last+1)), os.O_RDWR|os.O_CREATE|os.O_TRUNC)
		if err == nil {
			_, err = f.WriteAt([]byte(junk), 0)
		}
		if err != nil || f.Close() != nil {
			t.Fatal(err)
		}
	}
	if s, err := Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	} else if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAnothersLogIsNotTrimmed: what a snapshot makes superfluous is removed only where
// the drive is that has the snapshot.
func TestAnothersLogIsNotTrimmed(t *testing.T) {
	fs := vfs.NewMem()
	is := storagenode.DriveID{1}
	d := newCommitter(&Store{cfg: Config{FS: fs, Whose: func(vfs.FS, string) (storagenode.DriveID, error) { return is, nil }}.withDefaults()}).
		newDrive(Member{ID: is, Dir: "/d"})
	if err := fs.MkdirAll(d.journalDir()); err != nil {
		t.Fatal(err)
	}
	for _, first := range []uint64{1, 5} {
		if err := writeWhole(fs, d.path(numberedName(logPrefix, first)), nil); err != nil {
			t.Fatal(err)
		}
	}
	logs := func() int {
		names, err := fs.List(d.journalDir())
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	is = storagenode.DriveID{2}
	if err := d.trim(7); !errors.Is(err, errOther) || logs() != 2 {
		t.Errorf("another's: %v, %d logs", err, logs())
	}
	is = d.id
	if err := d.trim(7); err != nil || logs() != 1 {
		t.Errorf("its own: %v, %d logs", err, logs())
	}
}
