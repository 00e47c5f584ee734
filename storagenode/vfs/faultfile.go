package vfs

import "io"

// faultFile asks the rules before each call; path is the one it was opened by.
type faultFile struct {
	File
	f      *Fault
	path   string
	direct bool
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	r, err := f.f.apply(OpRead, f.path, "")
	switch {
	case r != nil && r.Short:
		n, rerr := f.File.ReadAt(p[:len(p)/2], off)
		if rerr != nil {
			err = rerr
		} else if err == nil {
			err = io.EOF
		}
		return n, err
	case err != nil:
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	r, err := f.f.apply(OpWrite, f.path, "")
	switch {
	case r != nil && r.Short:
		return f.short(p, off, err)
	case err != nil:
		return 0, err
	case r != nil && r.Lie:
		return len(p), nil
	}
	return f.File.WriteAt(p, off)
}

// short writes the first half, whole blocks of it where that is the rule.
func (f *faultFile) short(p []byte, off int64, err error) (int, error) {
	if err == nil {
		err = io.ErrShortWrite
	}
	half := len(p) / 2
	if f.direct {
		half &^= BlockSize - 1
	}
	n, werr := f.File.WriteAt(p[:half], off)
	if werr != nil {
		err = werr
	}
	return n, err
}

func (f *faultFile) Sync() error {
	if r, err := f.f.apply(OpSync, f.path, ""); err != nil || r != nil && r.Lie {
		return err
	}
	return f.File.Sync()
}

func (f *faultFile) SyncData() error {
	if r, err := f.f.apply(OpSync, f.path, ""); err != nil || r != nil && r.Lie {
		return err
	}
	return f.File.SyncData()
}

func (f *faultFile) Truncate(size int64) error {
	if _, err := f.f.apply(OpTruncate, f.path, ""); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultFile) Allocate(off, n int64) error {
	if _, err := f.f.apply(OpAllocate, f.path, ""); err != nil {
		return err
	}
	return f.File.Allocate(off, n)
}

func (f *faultFile) Writeback(off, n int64) error {
	if _, err := f.f.apply(OpHint, f.path, ""); err != nil {
		return err
	}
	return f.File.Writeback(off, n)
}

func (f *faultFile) DontNeed(off, n int64) error {
	if _, err := f.f.apply(OpHint, f.path, ""); err != nil {
		return err
	}
	return f.File.DontNeed(off, n)
}

func (f *faultFile) Stat() (Stat, error) {
	if _, err := f.f.apply(OpStat, f.path, ""); err != nil {
		return Stat{}, err
	}
	return f.File.Stat()
}

func (f *faultFile) Close() error {
	_, err := f.f.apply(OpClose, f.path, "")
	if cerr := f.File.Close(); err == nil {
		err = cerr
	}
	return err
}
