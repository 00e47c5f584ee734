package cluster

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"kintsugi/cmd/internal/embedded"
	"kintsugi/cmd/internal/load"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// rig is a store under test with objects in it.
type rig struct {
	*Cluster
	t       *testing.T
	cfg     embedded.Config
	fault   *vfs.Fault
	objects map[string][]byte
	serial  uint64
}

// newRig opens a store of six drives on fsys below root.
func newRig(t *testing.T, fsys vfs.FS, root string, change func(*embedded.Config)) *rig {
	t.Helper()
	told := &story{}
	r := &rig{t: t, fault: vfs.NewFault(fsys), objects: map[string][]byte{}}
	r.cfg = Small(r.fault, Six(root))
	r.cfg.Logger = told.logger()
	if change != nil {
		change(&r.cfg)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(told.last(6000))
		}
	})
	t.Cleanup(func() { // runs first
		r.fault.Clear()
		if r.Cluster != nil {
			_ = within(30*time.Second, "close", r.Close)
		}
	})
	r.open()
	return r
}

func (r *rig) open() {
	r.t.Helper()
	c, err := Open(r.t.Context(), r.cfg)
	if err != nil {
		r.t.Fatalf("open: %v", err)
	}
	r.Cluster = c
}

// close stops the store for good reasons: it must not fail.
func (r *rig) close() {
	r.t.Helper()
	if err := within(30*time.Second, "close", r.Close); err != nil {
		r.t.Fatalf("close: %v", err)
	}
	r.Cluster = nil
}

// sizes of the objects of a rig: empty, replicated, encoded, of two stripes.
var sizes = []int{0, 100, 4 << 10, 50 << 10, 64<<10 + 1, 200 << 10, 1 << 20, 4<<20 + 4096}

func (r *rig) payload(i int) []byte {
	size := sizes[i%len(sizes)]
	if i >= len(sizes) {
		size = brief(min(size, 200<<10), size)
	}
	if size == 0 {
		return []byte{}
	}
	r.serial++
	return load.Payload(r.serial, size)
}

// Limits of time are for a quiet machine, times slack: what hangs, hangs until
// the test ends it, so a generous limit tells it apart as well as a tight one.

// fill puts n objects; each must be acknowledged within limit.
func (r *rig) fill(prefix string, n int, limit time.Duration) {
	r.t.Helper()
	for i := range n {
		key, p := fmt.Sprintf("%s%03d", prefix, i), r.payload(i)
		began := time.Now()
		if err := r.Put(r.t.Context(), key, p); err != nil {
			r.t.Fatalf("put %s: %v", key, err)
		}
		if took := time.Since(began); took > slack*limit {
			r.t.Errorf("put %s took %s, at most %s", key, took, slack*limit)
		}
		r.objects[key] = p
	}
}

// readAll reads every object; each must come within limit.
func (r *rig) readAll(limit time.Duration) {
	r.t.Helper()
	for key, p := range r.objects {
		began := time.Now()
		got, found, err := r.Get(r.t.Context(), key)
		if err != nil || !found || !bytes.Equal(got, p) {
			r.t.Fatalf("get %s (%d bytes): found %v, %d bytes, right %v: %v", key, len(p), found, len(got), bytes.Equal(got, p), err)
		}
		if took := time.Since(began); took > slack*limit {
			r.t.Errorf("get %s took %s, at most %s", key, took, slack*limit)
		}
	}
}

// whole waits for the repairer to be done, and proves it.
func (r *rig) whole() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), slack*time.Minute)
	defer cancel()
	if err := r.Whole(ctx); err != nil {
		r.t.Fatal(err)
	}
	if err := r.Sound(ctx); err != nil {
		r.t.Fatal(err)
	}
	r.readAll(5 * time.Second)
}

// drive is the report of the drive in a directory.
func (r *rig) drive(dir string) storagenode.DriveReport {
	for _, d := range r.Node.Reports() {
		if d.Dir == dir {
			return d
		}
	}
	return storagenode.DriveReport{State: storagenode.DriveDown, Reason: "not reported"}
}

// becomes waits until the drive in a directory has a state.
func (r *rig) becomes(dir string, state storagenode.DriveState, limit time.Duration) {
	r.t.Helper()
	r.until(limit, func() error {
		if d := r.drive(dir); d.State != state {
			return fmt.Errorf("%s is %s (%s), want %s", dir, d.State, d.Reason, state)
		}
		return nil
	})
}

// until waits for f to succeed.
func (r *rig) until(limit time.Duration, f func() error) {
	r.t.Helper()
	for end := time.Now().Add(slack * limit); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("after %s: %v", slack*limit, err)
		}
	}
}

// wipe empties a drive's directory.
func (r *rig) wipe(dir string) {
	r.t.Helper()
	if err := wipe(r.cfg.FS, dir); err != nil {
		r.t.Fatal(err)
	}
}

// wipe empties a directory as rm -rf does.
func wipe(fsys vfs.FS, dir string) error {
	names, err := fsys.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := fsys.RemoveAll(dir + "/" + name); err != nil {
			return err
		}
	}
	return fsys.SyncDir(dir)
}

// victims are directories of drives by their part in the metadata.
type victims struct {
	state  string // holds the journal's state
	member string // holds the journal, and not the state
	plain  string // holds neither
}

func (r *rig) victims() victims {
	r.t.Helper()
	var v victims
	st := r.Journal.Status()
	for _, d := range r.Node.Reports() {
		member := false
		for _, m := range st.Members {
			member = member || m == d.ID
		}
		switch {
		case d.ID == st.StateDrive:
			v.state = d.Dir
		case member:
			v.member = d.Dir
		default:
			v.plain = d.Dir
		}
	}
	if v.state == "" || v.member == "" || v.plain == "" {
		r.t.Fatalf("no drive of each kind: %+v of %+v", v, st)
	}
	return v
}

// shuffled gives the directories in random order.
func shuffled(rng *rand.Rand, dirs []string) []string {
	out := append([]string(nil), dirs...)
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}
