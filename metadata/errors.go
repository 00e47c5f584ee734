package metadata

import "errors"

// What the namespace answers with, wrapped with what was being done.
var (
	ErrNoSuchBucket        = errors.New("no such bucket")
	ErrBucketExists        = errors.New("bucket exists")
	ErrBucketNotEmpty      = errors.New("bucket not empty")
	ErrNoSuchKey           = errors.New("no such key")
	ErrNoSuchUpload        = errors.New("no such upload")
	ErrInvalidPart         = errors.New("invalid part")
	ErrInvalidPartOrder    = errors.New("parts not in ascending order")
	ErrPartTooSmall        = errors.New("part too small")
	ErrPreconditionFailed  = errors.New("precondition failed")
	ErrConditionalConflict = errors.New("conditional write lost a race")
	// ErrNoSuchBlob: metadata does not know the blob (any more).
	ErrNoSuchBlob = errors.New("no such blob")
	// ErrStalePlacement: slots moved since; write or remap again.
	ErrStalePlacement = errors.New("placement changed")
	// ErrNoPlacement: too few drives can be written to.
	ErrNoPlacement = errors.New("too few writable drives")
	// ErrNotLeader: another process leads.
	ErrNotLeader = errors.New("another process leads")
	// ErrStaleTerm: the term that a mutation acts under has ended.
	ErrStaleTerm = errors.New("term of leadership has ended")
	// ErrRestored: metadata was loaded from a dump; what it does not know may
	// have been written after that, and is no orphan until an operator agrees.
	ErrRestored = errors.New("metadata was restored from a dump: no orphans are collected until `kintsugi admin agree-orphans`")
	// ErrUnavailable: the metadata engine cannot answer now.
	ErrUnavailable = errors.New("metadata unavailable")
)
