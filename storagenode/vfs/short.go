package vfs

import (
	"errors"
	"syscall"
)

// Short says whether a call failed since the process, or the system, is short of
// files or memory: the medium has nothing to do with it, and the same call may do
// better later. What a failed sync was to make durable may be lost all the same,
// whatever the reason was: do not ask about that.
func Short(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// NoSpace says whether a call failed since the file system, or what a quota leaves
// of it, is full. Of a failed sync, do not ask about that either.
func NoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
