package vfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"kintsugi/storagenode/vfs"
)

func pin(t testing.TB, f vfs.FS, dir string) vfs.Pinned {
	t.Helper()
	p, err := f.Pin(dir)
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// TestPinned: a pinned directory is reached by the paths in it wherever it was moved, and
// what has taken its name is left alone.
func TestPinned(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (vfs.FS, string){
		"OS":    func(t *testing.T) (vfs.FS, string) { return vfs.OS(), t.TempDir() },
		"Mem":   func(*testing.T) (vfs.FS, string) { return vfs.NewMem(), "/" },
		"Fault": func(*testing.T) (vfs.FS, string) { return vfs.NewFault(vfs.NewMem()), "/" },
	} {
		t.Run(name, func(t *testing.T) {
			f, root := open(t)
			a, b := filepath.Join(root, "a"), filepath.Join(root, "b")
			for _, dir := range []string{a, b} {
				must(t, f.MkdirAll(dir+"/sub"))
				create(t, f, dir+"/sub/x", []byte(dir))
			}
			p := pin(t, f, a)
			was, err := p.Stat(a)
			must(t, err)
			must(t, f.Rename(a, a+"side"))
			must(t, f.Rename(b, a))
			testMoved(t, f, p, a)
			if now, err := p.Stat(a); err != nil || now.Inode != was.Inode || now.Dev != was.Dev {
				t.Errorf("%+v is not %+v, %v", now, was, err)
			}
			if _, err := p.Stat(a + "side"); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("a path outside: %v", err)
			}
			must(t, f.RemoveAll(a+"side"))
			_, err = p.OpenFile(a+"/y", os.O_RDWR|os.O_CREATE)
			wantErr(t, err, fs.ErrNotExist)
			wantErr(t, p.Mkdir(a+"/z"), fs.ErrNotExist)
			must(t, p.Close())
			_, err = p.List(a)
			wantErr(t, err, fs.ErrClosed)
		})
	}
}

// testMoved: p is pinned to what was a and is aside, a is what was b.
func testMoved(t *testing.T, f vfs.FS, p vfs.Pinned, a string) {
	t.Helper()
	if got := content(t, p, a+"/sub/x"); string(got) != a {
		t.Errorf("reads %q", got)
	}
	file := create(t, p, a+"/sub/y", []byte("new"))
	if file.Name() != a+"/sub/y" {
		t.Errorf("its name is %s", file.Name())
	}
	must(t, p.SyncDir(a+"/sub"))
	must(t, p.MkdirAll(a+"/more/and/more"))
	must(t, p.MkdirAll(a))
	must(t, p.Link(a+"/sub/y", a+"/sub/z"))
	must(t, p.Rename(a+"/sub/y", a+"/more/y"))
	must(t, p.Remove(a+"/sub/x"))
	l, err := p.Lock(a + "/lock")
	must(t, err)
	_, err = f.Lock(a + "side/lock")
	wantErr(t, err, vfs.ErrLocked)
	must(t, l.Close())
	if u, err := p.Usage(a); err != nil || u.Total == 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
	for dir, want := range map[string]string{
		a: "[sub]", a + "/sub": "[x]", a + "side": "[lock more sub]", a + "side/sub": "[z]", a + "side/more": "[and y]",
	} {
		if names, err := f.List(dir); err != nil || fmt.Sprint(names) != want {
			t.Errorf("%s holds %v, want %s: %v", dir, names, want, err)
		}
	}
	must(t, p.RemoveAll(a+"/more"))
	must(t, p.RemoveAll(a+"/more"))
	wantErr(t, p.Remove(a+"/sub"), syscall.ENOTEMPTY)
	if names, err := p.List(a); err != nil || fmt.Sprint(names) != "[lock sub]" {
		t.Errorf("left are %v, %v", names, err)
	}
}

// TestPinnedFollowsLinks: a link in a pinned directory leads out of it.
func TestPinnedFollowsLinks(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	must(t, os.Symlink(other, dir+"/link"))
	p := pin(t, vfs.OS(), dir)
	must(t, p.MkdirAll(dir+"/link"))
	create(t, p, dir+"/link/x", []byte("x"))
	if names, err := p.List(dir + "/link"); err != nil || fmt.Sprint(names) != "[x]" {
		t.Errorf("%v, %v", names, err)
	}
	must(t, p.RemoveAll(dir+"/link"))
	if _, err := os.Stat(other + "/x"); err != nil {
		t.Error(err)
	}
}
