package vfs

import (
	"fmt"
	"io"
	"math/bits"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Op is a kind of call, or a set of kinds.
type Op uint32

// The kinds of call a Rule can match.
const (
	OpOpen     Op = 1 << iota // OpenFile without O_CREATE
	OpCreate                  // OpenFile with O_CREATE
	OpRead                    // ReadAt
	OpWrite                   // WriteAt
	OpSync                    // Sync, SyncData
	OpTruncate                // Truncate
	OpAllocate                // Allocate
	OpHint                    // Writeback, DontNeed
	OpStat                    // Stat of a file or a path
	OpClose                   // Close of a file
	OpMkdir                   // Mkdir, MkdirAll
	OpRename                  // Rename; matched by the new path as well
	OpLink                    // Link; matched by the new path as well
	OpRemove                  // Remove, RemoveAll
	OpList                    // List
	OpSyncDir                 // SyncDir
	OpUsage                   // Usage
	OpLock                    // Lock

	opEnd
	// OpAny is every kind.
	OpAny = opEnd - 1
	// OpChange is every kind that changes what is stored.
	OpChange = OpCreate | OpWrite | OpSync | OpTruncate | OpAllocate |
		OpMkdir | OpRename | OpLink | OpRemove | OpSyncDir
)

const opKinds = 18

// Rule says which calls go wrong, and how. The first rule that matches a call
// decides.
type Rule struct {
	Ops  Op     // the kinds; 0 means OpAny
	Path string // a part of the path; "" matches all
	// Skip lets so many matching calls pass first; Times then ends the rule
	// after so many faults (0: it goes on).
	Skip, Times int

	// Delay waits before anything else; Hang waits until Injected.Release.
	Delay time.Duration
	Hang  bool
	// Err is returned instead of making the call; nil makes it.
	Err error
	// Short, on a write or a read, makes the first half of it and returns Err, or
	// io.ErrShortWrite or io.EOF where that is nil.
	Short bool
	// Lie reports success without making the call: a write or a sync that never
	// reached the medium. Only for OpWrite, OpSync, OpSyncDir.
	Lie bool
}

// Injected is a rule at work.
type Injected struct {
	rule    Rule
	f       *Fault
	matched atomic.Int64
	hits    atomic.Int64
	waiting atomic.Int64
	release chan struct{}
	once    sync.Once
}

// Hits is the number of calls the rule was applied to.
func (i *Injected) Hits() int { return int(i.hits.Load()) }

// Waiting is the number of calls that hang now.
func (i *Injected) Waiting() int { return int(i.waiting.Load()) }

// Release lets hanging calls go on and takes the rule away. It may be called
// more than once.
func (i *Injected) Release() {
	i.f.drop(i)
	i.once.Do(func() { close(i.release) })
}

// Fault wraps a file system and makes chosen calls fail, hang, wait or lie.
// Rules may be added and taken away while calls run. It also counts calls.
type Fault struct {
	fs    FS
	of    *Fault // a pinned one: whose rules hold and who counts
	calls [opKinds]atomic.Int64
	mu    sync.Mutex // guards changes of rules
	rules atomic.Pointer[[]*Injected]
}

// NewFault wraps fs; without rules it changes nothing.
func NewFault(fs FS) *Fault { return &Fault{fs: fs} }

// Inject adds a rule behind those already there.
func (f *Fault) Inject(r Rule) *Injected {
	if r.Ops == 0 {
		r.Ops = OpAny
	}
	i := &Injected{rule: r, f: f, release: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	rules := []*Injected{}
	if old := f.rules.Load(); old != nil {
		rules = append(rules, *old...)
	}
	rules = append(rules, i)
	f.rules.Store(&rules)
	return i
}

func (f *Fault) drop(i *Injected) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.rules.Load()
	if old == nil {
		return
	}
	rules := make([]*Injected, 0, len(*old))
	for _, r := range *old {
		if r != i {
			rules = append(rules, r)
		}
	}
	f.rules.Store(&rules)
}

// Clear takes all rules away and lets hanging calls go on.
func (f *Fault) Clear() {
	if rules := f.rules.Load(); rules != nil {
		for _, i := range *rules {
			i.Release()
		}
	}
}

// Calls counts the calls of these kinds so far, also those that failed.
func (f *Fault) Calls(ops Op) int64 {
	var n int64
	for k := range opKinds {
		if ops&(1<<k) != 0 {
			n += f.calls[k].Load()
		}
	}
	return n
}

// FlipBit inverts one bit (0..7) of the byte at off in a file, durably.
func (f *Fault) FlipBit(path string, off int64, bit int) error {
	return FlipBit(f.fs, path, off, bit)
}

// FlipBit inverts one bit (0..7) of the byte at off in a file, durably.
func FlipBit(fs FS, path string, off int64, bit int) error {
	file, err := fs.OpenFile(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	var b [1]byte
	if _, err := file.ReadAt(b[:], off); err != nil {
		return fmt.Errorf("flip a bit of %s at %d: %w", path, off, err)
	}
	b[0] ^= 1 << (bit & 7)
	if _, err := file.WriteAt(b[:], off); err != nil {
		return err
	}
	return file.Sync()
}

// apply counts a call and finds what shall go wrong with it: (nil, nil) where
// nothing does.
func (f *Fault) apply(op Op, path, other string) (*Rule, error) {
	if f.of != nil {
		f = f.of
	}
	f.calls[bits.TrailingZeros32(uint32(op))].Add(1)
	rules := f.rules.Load()
	if rules == nil {
		return nil, nil
	}
	for _, i := range *rules {
		r := &i.rule
		if r.Ops&op == 0 || r.Path != "" && !strings.Contains(path, r.Path) &&
			(other == "" || !strings.Contains(other, r.Path)) {
			continue
		}
		n := i.matched.Add(1)
		if n <= int64(r.Skip) || r.Times > 0 && n > int64(r.Skip+r.Times) {
			continue
		}
		i.hits.Add(1)
		if r.Delay > 0 {
			time.Sleep(r.Delay)
		}
		if r.Hang {
			i.waiting.Add(1)
			<-i.release
			i.waiting.Add(-1)
		}
		if r.Err != nil {
			return r, fmt.Errorf("%s: injected: %w", path, r.Err)
		}
		return r, nil
	}
	return nil, nil
}

// OpenFile implements FS.
func (f *Fault) OpenFile(path string, flag int) (File, error) {
	op := OpOpen
	if flag&os.O_CREATE != 0 {
		op = OpCreate
	}
	if _, err := f.apply(op, path, ""); err != nil {
		return nil, err
	}
	file, err := f.fs.OpenFile(path, flag)
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, f: f, path: path, direct: flag&Direct != 0}, nil
}

// Mkdir implements FS.
func (f *Fault) Mkdir(path string) error {
	if _, err := f.apply(OpMkdir, path, ""); err != nil {
		return err
	}
	return f.fs.Mkdir(path)
}

// MkdirAll implements FS.
func (f *Fault) MkdirAll(path string) error {
	if _, err := f.apply(OpMkdir, path, ""); err != nil {
		return err
	}
	return f.fs.MkdirAll(path)
}

// Rename implements FS.
func (f *Fault) Rename(from, to string) error {
	if _, err := f.apply(OpRename, from, to); err != nil {
		return err
	}
	return f.fs.Rename(from, to)
}

// Link implements FS.
func (f *Fault) Link(from, to string) error {
	if _, err := f.apply(OpLink, from, to); err != nil {
		return err
	}
	return f.fs.Link(from, to)
}

// Remove implements FS.
func (f *Fault) Remove(path string) error {
	if _, err := f.apply(OpRemove, path, ""); err != nil {
		return err
	}
	return f.fs.Remove(path)
}

// RemoveAll implements FS.
func (f *Fault) RemoveAll(path string) error {
	if _, err := f.apply(OpRemove, path, ""); err != nil {
		return err
	}
	return f.fs.RemoveAll(path)
}

// List implements FS.
func (f *Fault) List(path string) ([]string, error) {
	if _, err := f.apply(OpList, path, ""); err != nil {
		return nil, err
	}
	return f.fs.List(path)
}

// Stat implements FS.
func (f *Fault) Stat(path string) (Stat, error) {
	if _, err := f.apply(OpStat, path, ""); err != nil {
		return Stat{}, err
	}
	return f.fs.Stat(path)
}

// SyncDir implements FS.
func (f *Fault) SyncDir(path string) error {
	if r, err := f.apply(OpSyncDir, path, ""); err != nil || r != nil && r.Lie {
		return err
	}
	return f.fs.SyncDir(path)
}

// Usage implements FS.
func (f *Fault) Usage(path string) (Usage, error) {
	if _, err := f.apply(OpUsage, path, ""); err != nil {
		return Usage{}, err
	}
	return f.fs.Usage(path)
}

// Lock implements FS.
func (f *Fault) Lock(path string) (io.Closer, error) {
	if _, err := f.apply(OpLock, path, ""); err != nil {
		return nil, err
	}
	return f.fs.Lock(path)
}

// Pin implements FS: the rules hold for what is pinned as well, by the paths that it was
// pinned by.
func (f *Fault) Pin(dir string) (Pinned, error) {
	if _, err := f.apply(OpOpen, dir, ""); err != nil {
		return nil, err
	}
	p, err := f.fs.Pin(dir)
	if err != nil {
		return nil, err
	}
	of := f
	if f.of != nil {
		of = f.of
	}
	return &faultPinned{Fault: &Fault{fs: p, of: of}, Closer: p}, nil
}

type faultPinned struct {
	*Fault
	io.Closer
}
