package node

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// TestDirectoriesThatWereMadeSurviveAPowerCut: also those above the drive's.
func TestDirectoriesThatWereMadeSurviveAPowerCut(t *testing.T) {
	for name, join := range map[string]func(context.Context) (storagenode.UUID, []storagenode.KnownDrive, error){
		"founding": nil,
		"joining": func(context.Context) (storagenode.UUID, []storagenode.KnownDrive, error) {
			return storagenode.UUID{1}, nil, nil
		},
	} {
		mem := vfs.NewMem()
		open := func() storagenode.DriveID {
			n, err := Open(t.Context(), Config{
				FS: mem, Dirs: []string{"/srv/kintsugi/d1"}, Join: join, Poll: time.Hour,
				Open: func(context.Context, vfs.FS, string, Identity) (storagenode.Drive, error) { return &drive{}, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			return n.Reports()[0].ID
		}
		first := open()
		for seed := range uint64(20) {
			mem = mem.Crash(rand.New(rand.NewPCG(seed, 1)))
			if again := open(); again != first {
				t.Fatalf("%s, seed %d: drive %s was formatted anew as %s", name, seed, first, again)
			}
		}
	}
}
