package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"kintsugi/storagenode/vfs"
)

// TestConformance holds every FS to the same promises.
func TestConformance(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (vfs.FS, string){
		"OS": func(t *testing.T) (vfs.FS, string) { return vfs.OS(), t.TempDir() },
		"Mem": func(t *testing.T) (vfs.FS, string) {
			m := vfs.NewMem()
			must(t, m.MkdirAll("/some/dir"))
			return m, "/some/dir"
		},
		"Fault": func(t *testing.T) (vfs.FS, string) { return vfs.NewFault(vfs.NewMem()), "/" },
		"pinned OS": func(t *testing.T) (vfs.FS, string) {
			dir := t.TempDir()
			return pin(t, vfs.OS(), dir), dir
		},
		"pinned Mem": func(t *testing.T) (vfs.FS, string) {
			m := vfs.NewMem()
			must(t, m.MkdirAll("/some/dir"))
			return pin(t, pin(t, m, "/some"), "/some/dir"), "/some/dir"
		},
		"pinned Fault": func(t *testing.T) (vfs.FS, string) { return pin(t, vfs.NewFault(vfs.NewMem()), "/"), "/" },
	} {
		t.Run(name, func(t *testing.T) {
			for name, test := range map[string]func(*testing.T, vfs.FS, string){
				"contents": testContents, "direct": testDirect, "flags": testFlags,
				"names": testNames, "rename": testRename, "links": testLinks,
				"lock": testLock, "closed": testClosed, "truncate": testTruncate,
			} {
				t.Run(name, func(t *testing.T) {
					f, dir := open(t)
					test(t, f, dir)
				})
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func create(t testing.TB, f vfs.FS, path string, data []byte) vfs.File {
	t.Helper()
	file, err := f.OpenFile(path, os.O_RDWR|os.O_CREATE)
	must(t, err)
	t.Cleanup(func() { _ = file.Close() })
	if len(data) > 0 {
		n, err := file.WriteAt(data, 0)
		must(t, err)
		if n != len(data) {
			t.Fatalf("wrote %d of %d bytes", n, len(data))
		}
	}
	return file
}

func content(t testing.TB, f vfs.FS, path string) []byte {
	t.Helper()
	file, err := f.OpenFile(path, os.O_RDONLY)
	must(t, err)
	defer file.Close()
	st, err := file.Stat()
	must(t, err)
	p := make([]byte, st.Size)
	n, err := file.ReadAt(p, 0)
	if err != nil && err != io.EOF || n != len(p) {
		t.Fatalf("read %d of %d bytes: %v", n, len(p), err)
	}
	return p
}

func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7+i>>8) ^ seed | 1
	}
	return p
}

func testContents(t *testing.T, f vfs.FS, dir string) {
	path := filepath.Join(dir, "a")
	file := create(t, f, path, nil)
	if n, err := file.ReadAt(make([]byte, 1), 0); n != 0 || err != io.EOF {
		t.Fatalf("read of an empty file: %d, %v", n, err)
	}
	want := make([]byte, 300_000)
	for i, off := range []int{5, 65530, 131072, 200_000, 100, 65536} {
		p := pattern(4096+i*1000, byte(i))
		copy(want[off:], p)
		_, err := file.WriteAt(p, int64(off))
		must(t, err)
	}
	want = want[:200_000+4096+3000]
	must(t, file.SyncData())
	must(t, file.Sync())
	must(t, file.Writeback(0, 4096))
	must(t, file.DontNeed(0, 4096))
	if got := content(t, f, path); !bytes.Equal(got, want) {
		t.Fatal("contents differ")
	}
	p := make([]byte, 100)
	n, err := file.ReadAt(p, int64(len(want)-40))
	if n != 40 || err != io.EOF || !bytes.Equal(p[:n], want[len(want)-40:]) {
		t.Fatalf("read over the end: %d, %v", n, err)
	}
	if n, err := file.ReadAt(p, int64(len(want)-100)); n != 100 || err != nil {
		t.Fatalf("read up to the end: %d, %v", n, err)
	}
	st, err := f.Stat(path)
	must(t, err)
	fst, err := file.Stat()
	must(t, err)
	if st != fst || st.Size != int64(len(want)) || st.Links != 1 || st.IsDir || st.Inode == 0 {
		t.Fatalf("stat of the path %+v, of the file %+v", st, fst)
	}
	if file.Name() != path {
		t.Fatalf("name %q, want %q", file.Name(), path)
	}
	u, err := f.Usage(dir)
	must(t, err)
	if u.Total <= 0 || u.Free <= 0 || u.Reserved < 0 || u.Free+u.Reserved > u.Total {
		t.Fatalf("usage %+v", u)
	}
}

// testDirect checks the rules of writes past the page cache, and that reads see
// them whatever a cache held.
func testDirect(t *testing.T, f vfs.FS, dir string) {
	path := filepath.Join(dir, "a")
	file, err := f.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|vfs.Direct)
	must(t, err)
	defer file.Close()
	must(t, file.Allocate(0, 64<<10))
	must(t, file.Truncate(64<<10))
	want := make([]byte, 64<<10)
	for i, off := range []int64{8192, 0, 4096, 8192, 49152} {
		if !bytes.Equal(content(t, f, path), want) {
			t.Fatalf("contents differ before write %d", i)
		}
		p := vfs.AlignedBuffer((1 + i%3) * vfs.BlockSize)
		copy(p, pattern(len(p), byte(i)))
		n, err := file.WriteAt(p, off)
		must(t, err)
		if n != len(p) {
			t.Fatalf("wrote %d of %d bytes", n, len(p))
		}
		copy(want[off:], p)
	}
	must(t, file.SyncData())
	if got := make([]byte, 100); true {
		_, err := file.ReadAt(got, 8191)
		must(t, err)
		if !bytes.Equal(got, want[8191:8291]) {
			t.Fatal("an odd read differs")
		}
	}
	p := vfs.AlignedBuffer(2 * vfs.BlockSize)
	for _, bad := range []struct {
		p   []byte
		off int64
	}{{p, 512}, {p[:100], 0}, {p[8 : 8+vfs.BlockSize], 0}} {
		_, err := file.WriteAt(bad.p, bad.off)
		wantErr(t, err, syscall.EINVAL)
	}
	if !bytes.Equal(content(t, f, path), want) {
		t.Fatal("a refused write changed the file")
	}
}

func testFlags(t *testing.T, f vfs.FS, dir string) {
	path := filepath.Join(dir, "a")
	_, err := f.OpenFile(path, os.O_RDWR)
	wantErr(t, err, fs.ErrNotExist)
	_, err = f.OpenFile(filepath.Join(dir, "no", "a"), os.O_RDWR|os.O_CREATE)
	wantErr(t, err, fs.ErrNotExist)
	create(t, f, path, pattern(10, 0))
	_, err = f.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	wantErr(t, err, fs.ErrExist)
	create(t, f, path, nil)
	if got := len(content(t, f, path)); got != 10 {
		t.Fatalf("opened with O_CREATE: %d bytes left", got)
	}
	ro, err := f.OpenFile(path, os.O_RDONLY)
	must(t, err)
	defer ro.Close()
	if _, err := ro.WriteAt([]byte{1}, 0); err == nil {
		t.Fatal("wrote to a file opened for reading")
	}
	tr, err := f.OpenFile(path, os.O_RDWR|os.O_TRUNC)
	must(t, err)
	defer tr.Close()
	if got := len(content(t, f, path)); got != 0 {
		t.Fatalf("opened with O_TRUNC: %d bytes left", got)
	}
	if _, err = f.OpenFile(dir, os.O_RDWR); err == nil {
		t.Fatal("opened a directory for writing")
	}
}

func testNames(t *testing.T, f vfs.FS, dir string) {
	d := filepath.Join(dir, "x", "y", "z")
	wantErr(t, f.Mkdir(d), fs.ErrNotExist)
	must(t, f.MkdirAll(d))
	must(t, f.MkdirAll(d))
	wantErr(t, f.Mkdir(d), fs.ErrExist)
	for _, name := range []string{"c", "a", "b"} {
		create(t, f, filepath.Join(d, name), []byte(name))
	}
	must(t, f.Mkdir(filepath.Join(d, "dir")))
	names, err := f.List(d)
	must(t, err)
	if !slices.Equal(names, []string{"a", "b", "c", "dir"}) {
		t.Fatalf("list: %q", names)
	}
	_, err = f.List(filepath.Join(dir, "none"))
	wantErr(t, err, fs.ErrNotExist)
	_, err = f.Stat(filepath.Join(dir, "none"))
	wantErr(t, err, fs.ErrNotExist)
	st, err := f.Stat(d)
	must(t, err)
	if !st.IsDir {
		t.Fatal("a directory is none")
	}
	must(t, f.SyncDir(d))
	wantErr(t, f.SyncDir(filepath.Join(dir, "none")), fs.ErrNotExist)
	wantErr(t, f.MkdirAll(filepath.Join(d, "a", "b")), syscall.ENOTDIR)
	wantErr(t, f.Remove(d), syscall.ENOTEMPTY)
	must(t, f.Remove(filepath.Join(d, "dir")))
	wantErr(t, f.Remove(filepath.Join(d, "dir")), fs.ErrNotExist)
	must(t, f.RemoveAll(filepath.Join(dir, "x")))
	must(t, f.RemoveAll(filepath.Join(dir, "x")))
	_, err = f.Stat(d)
	wantErr(t, err, fs.ErrNotExist)
}

func testRename(t *testing.T, f vfs.FS, dir string) {
	a, b, d := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "d")
	wantErr(t, f.Rename(a, b), fs.ErrNotExist)
	must(t, f.Mkdir(d))
	create(t, f, a, []byte("from a"))
	old := create(t, f, b, []byte("was b"))
	must(t, f.Rename(a, b))
	if got := content(t, f, b); string(got) != "from a" {
		t.Fatalf("after rename: %q", got)
	}
	_, err := f.Stat(a)
	wantErr(t, err, fs.ErrNotExist)
	st, err := old.Stat()
	must(t, err)
	if st.Links != 0 {
		t.Fatalf("a replaced file has %d links", st.Links)
	}
	if err := f.Rename(b, d); err == nil {
		t.Fatal("renamed a file over a directory")
	}
	must(t, f.Rename(b, filepath.Join(d, "c")))
	must(t, f.Rename(d, filepath.Join(dir, "e")))
	if got := content(t, f, filepath.Join(dir, "e", "c")); string(got) != "from a" {
		t.Fatalf("after rename of the directory: %q", got)
	}
}

func testLinks(t *testing.T, f vfs.FS, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	file := create(t, f, a, []byte("data"))
	links := func(want int) {
		t.Helper()
		st, err := file.Stat()
		must(t, err)
		if st.Links != want {
			t.Fatalf("%d links, want %d", st.Links, want)
		}
	}
	links(1)
	must(t, f.Link(a, b))
	links(2)
	wantErr(t, f.Link(a, b), fs.ErrExist)
	wantErr(t, f.Link(filepath.Join(dir, "c"), b), fs.ErrNotExist)
	must(t, f.Remove(a))
	links(1)
	must(t, f.Remove(b))
	links(0)
	p := make([]byte, 4)
	if _, err := file.ReadAt(p, 0); err != nil || string(p) != "data" {
		t.Fatalf("an open file without a name: %q, %v", p, err)
	}
	_, err := file.WriteAt([]byte("more"), 4)
	must(t, err)
	must(t, file.Sync())
	create(t, f, a, nil)
	now, err := f.Stat(a)
	must(t, err)
	was, err := file.Stat()
	must(t, err)
	if now.Inode == was.Inode {
		t.Fatal("two files, one inode")
	}
}

func testLock(t *testing.T, f vfs.FS, dir string) {
	path := filepath.Join(dir, "LOCK")
	l, err := f.Lock(path)
	must(t, err)
	_, err = f.Lock(path)
	wantErr(t, err, vfs.ErrLocked)
	// Closing another handle must not drop the lock.
	file, err := f.OpenFile(path, os.O_RDWR)
	must(t, err)
	must(t, file.Close())
	_, err = f.Lock(path)
	wantErr(t, err, vfs.ErrLocked)
	must(t, l.Close())
	l, err = f.Lock(path)
	must(t, err)
	must(t, l.Close())
}

func testClosed(t *testing.T, f vfs.FS, dir string) {
	file := create(t, f, filepath.Join(dir, "a"), []byte("abc"))
	must(t, file.Close())
	_, err := file.ReadAt(make([]byte, 1), 0)
	wantErr(t, err, fs.ErrClosed)
	_, err = file.WriteAt([]byte{1}, 0)
	wantErr(t, err, fs.ErrClosed)
	_, err = file.Stat()
	wantErr(t, err, fs.ErrClosed)
	for _, err := range []error{
		file.Sync(), file.SyncData(), file.Truncate(1), file.Allocate(0, 1),
		file.Writeback(0, 1), file.DontNeed(0, 1), file.Close(),
	} {
		wantErr(t, err, fs.ErrClosed)
	}
}

func testTruncate(t *testing.T, f vfs.FS, dir string) {
	data := pattern(150_000, 3)
	file := create(t, f, filepath.Join(dir, "a"), data)
	must(t, file.Truncate(70_001))
	must(t, file.Truncate(200_000))
	want := make([]byte, 200_000)
	copy(want, data[:70_001])
	if !bytes.Equal(content(t, f, file.Name()), want) {
		t.Fatal("what was cut off is back")
	}
	must(t, file.Allocate(200_000, 1<<20))
	st, err := file.Stat()
	must(t, err)
	if st.Size != 200_000 {
		t.Fatalf("allocation changed the size to %d", st.Size)
	}
	if err := file.Truncate(-1); err == nil {
		t.Fatal("negative size accepted")
	}
}
