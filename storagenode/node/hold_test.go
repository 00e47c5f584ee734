package node

import (
	"errors"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

func TestHold(t *testing.T) {
	fsys := vfs.NewMem()
	identity := func(cluster, drive byte) Identity {
		return Identity{
			Magic: identityMagic, Format: formatLevel, MinReader: formatLevel, Created: time.UnixMilli(1),
			Cluster: storagenode.UUID{cluster}, Drive: storagenode.DriveID{drive},
		}
	}
	for dir, id := range map[string]Identity{"/a": identity(1, 1), "/b": identity(1, 2), "/other": identity(2, 3), "/copy": identity(1, 1)} {
		if err := fsys.MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
		id.Sum = id.sum()
		if err := writeIdentity(fsys, dir, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := fsys.MkdirAll("/empty"); err != nil {
		t.Fatal(err)
	}
	for _, dirs := range [][]string{{"/a", "/other"}, {"/a", "/copy"}, {"/a", "/empty"}, {"/a", "/absent"}} {
		if _, _, err := Hold(fsys, dirs); !errors.Is(err, ErrRefused) {
			t.Errorf("%v: %v", dirs, err)
		}
	}
	held, release, err := Hold(fsys, []string{"/a", "/b"}) // what was refused has let go
	if err != nil || len(held) != 2 || held[1].Dir != "/b" || held[1].Drive != (storagenode.DriveID{2}) {
		t.Fatalf("%+v, %v", held, err)
	}
	if _, _, err := Hold(fsys, []string{"/b"}); !errors.Is(err, ErrRefused) {
		t.Fatalf("held twice: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if _, release, err = Hold(fsys, []string{"/b"}); err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
}
