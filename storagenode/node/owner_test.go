package node

import (
	"io/fs"
	"strings"
	"testing"

	"kintsugi/storagenode/vfs"
)

// TestDirectoriesOfAnotherUser: whoever reads of it learns whose they must be.
func TestDirectoriesOfAnotherUser(t *testing.T) {
	fault := vfs.NewFault(vfs.NewMem())
	fault.Inject(vfs.Rule{Ops: vfs.OpOpen, Path: IdentityName, Err: fs.ErrPermission})
	if _, err := readIdentity(fault, "/d1"); err == nil || !strings.Contains(err.Error(), "must belong to the user") || !strings.Contains(err.Error(), "/d1/"+IdentityName) {
		t.Errorf("%v", err)
	}
}
