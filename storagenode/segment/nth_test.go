package segment

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"kintsugi/storagenode/vfs"
)

// TestNthCallFails: whichever call on a drive fails, once or for a while, for want of
// space or files or since the file system became read-only: what was acknowledged is
// there, what was deleted stays so, also for an index made anew, and where the drive was
// not given up it goes on when it is over. KINTSUGI_SEEDS is how many calls are tried.
func TestNthCallFails(t *testing.T) {
	const calls = 300 // most are among the first
	tries := 3
	if testing.Short() {
		tries = 1
	}
	if n, err := strconv.Atoi(os.Getenv("KINTSUGI_SEEDS")); err == nil {
		tries = n
	}
	room := vfs.OpCreate | vfs.OpWrite | vfs.OpMkdir | vfs.OpRename | vfs.OpLink | vfs.OpAllocate // a sync that fails is the end of the drive
	for cause, ops := range map[syscall.Errno]vfs.Op{
		syscall.ENOSPC: room, syscall.EDQUOT: room, syscall.EROFS: vfs.OpChange,
		syscall.EMFILE: vfs.OpOpen | vfs.OpCreate | vfs.OpList | vfs.OpSyncDir | vfs.OpLock,
	} {
		for _, path := range []string{"/segments", "/index", "/d"} {
			for _, once := range []bool{true, false} {
				t.Run(fmt.Sprint(cause.Error(), " ", path, " once ", once), func(t *testing.T) {
					t.Parallel()
					for i := range tries {
						rule := vfs.Rule{Ops: ops, Path: path, Skip: calls * i * (i + 1) / (tries + 2) / (tries + 2), Err: cause}
						if once {
							rule.Times = 1
						}
						nthFails(t, rule)
					}
				})
			}
		}
	}
}

// nthFails puts, deletes and compacts while a rule holds, and afterwards.
func nthFails(t *testing.T, rule vfs.Rule) {
	t.Helper()
	const size = 6 << 10
	r := newRig(t, func(c *Config) { c.Grace = time.Minute })
	injected := r.fault.Inject(rule)
	state := map[int]string{} // "there", "deleted"; else nobody knows
	check := func(when string) {
		t.Helper()
		for n, want := range state {
			p, err := r.read(n)
			switch {
			case want == "there" && (err != nil || len(p) != size):
				t.Fatalf("%s, skip %d, %d failed: shard %d: %d bytes, %v", when, rule.Skip, injected.Hits(), n, len(p), err)
			case want == "deleted" && err == nil:
				t.Fatalf("%s, skip %d, %d failed: shard %d is back", when, rule.Skip, injected.Hits(), n)
			}
		}
	}
	do := func(n int) {
		if r.tryPut(n, size) == nil {
			state[n] = "there"
		}
		if n%3 > 0 && n >= 8 { // two of three go again
			old := n - 8
			delete(state, old)
			if r.Delete(r.Context(), 1, 2, testBlob(uint64(old))) == nil {
				state[old] = "deleted"
			}
		}
		r.clock.advance(7 * time.Second)
		_ = r.keep(r.Context())
		r.checkDir()
		r.checkSpace()
	}
	for n := range 60 {
		do(n)
	}
	injected.Release()
	r.clock.advance(10 * time.Second)
	_ = r.keep(r.Context())
	r.checkSpace()
	if r.Health() == nil {
		if err := r.tryPut(1000, size); err != nil {
			r.clock.advance(10 * time.Second)
			_ = r.keep(r.Context())
			r.checkSpace()
			if err = r.tryPut(1000, size); err != nil {
				t.Errorf("skip %d, %d failed: it does not go on: %v", rule.Skip, injected.Hits(), err)
			}
		}
	} else if rule.Err != syscall.EROFS {
		t.Errorf("skip %d, %d failed: given up: %v", rule.Skip, injected.Hits(), r.Health())
	}
	r.clock.advance(time.Hour) // what is deleted stays readable for a while
	_ = r.keep(r.Context())
	if r.Health() == nil {
		check("while it is open")
	}
	broken := r.Health() != nil
	if err := r.Close(); err != nil && !broken {
		t.Fatal(err)
	}
	r.open()
	r.must(r.keep(r.Context()))
	check("opened anew")
	for n := 61; n < 70; n++ {
		do(n)
	}
	r.clock.advance(time.Hour)
	r.must(r.keep(r.Context()))
	r.reopen(func() { r.must(r.fs.RemoveAll("/d/index")) })
	r.must(r.keep(r.Context()))
	check("with a new index")
}
