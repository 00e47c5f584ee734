package vfs_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"kintsugi/storagenode/vfs"
)

// seeds runs a property for many seeds: KINTSUGI_SEEDS says how many,
// KINTSUGI_SEED which one alone.
func seeds(t *testing.T, n int, run func(t *testing.T, rng *rand.Rand)) {
	first := 0
	if v, err := strconv.Atoi(os.Getenv("KINTSUGI_SEEDS")); err == nil {
		n = v
	}
	if v, err := strconv.Atoi(os.Getenv("KINTSUGI_SEED")); err == nil {
		first, n = v, 1
	}
	for seed := first; seed < first+n; seed++ {
		run(t, rand.New(rand.NewPCG(uint64(seed), 7)))
		if t.Failed() {
			t.Fatalf("replay with KINTSUGI_SEED=%d", seed)
		}
	}
}

const sector = 512

// fileModel is a file of a few sectors, and every state each sector and the
// size had since the last sync.
type fileModel struct {
	data  []byte
	size  int
	past  []map[string]bool // by sector
	sizes map[int]bool
}

func newFileModel(sectors int) *fileModel {
	f := &fileModel{data: make([]byte, sectors*sector), past: make([]map[string]bool, sectors)}
	f.sync()
	return f
}

func (f *fileModel) note() {
	for i := range f.past {
		f.past[i][string(f.data[i*sector:(i+1)*sector])] = true
	}
	f.sizes[f.size] = true
}

func (f *fileModel) sync() {
	for i := range f.past {
		f.past[i] = map[string]bool{}
	}
	f.sizes = map[int]bool{}
	f.note()
}

func (f *fileModel) write(p []byte, off int) {
	copy(f.data[off:], p)
	f.size = max(f.size, off+len(p))
	f.note()
}

func (f *fileModel) truncate(n int) {
	if n < f.size {
		clear(f.data[n:f.size])
	}
	f.size = n
	f.note()
}

// check wants each sector to show one of its states, cut off at a size the
// file had.
func (f *fileModel) check(t *testing.T, got []byte) {
	t.Helper()
	if !f.sizes[len(got)] {
		t.Errorf("size %d, want one of %v", len(got), slices.Sorted(maps.Keys(f.sizes)))
		return
	}
	for i, states := range f.past {
		from, to := min(i*sector, len(got)), min((i+1)*sector, len(got))
		found := from == to
		for s := range states {
			found = found || s[:to-from] == string(got[from:to])
		}
		if !found {
			t.Errorf("sector %d of a file of %d bytes shows what was never written", i, len(got))
		}
	}
}

// TestCrashContents: whatever was done to a file, after a crash it shows what
// was synced, or sector by sector something written since; and what one crash
// left is what the next one starts from.
func TestCrashContents(t *testing.T) {
	lost, kept := 0, 0
	seeds(t, 1000, func(t *testing.T, rng *rand.Rand) {
		const sectors = 300 // more than two pages
		m, model := vfs.NewMem(), newFileModel(sectors)
		create(t, m, "/f", nil)
		must(t, m.SyncDir("/"))
		for range 3 {
			file, err := m.OpenFile("/f", os.O_RDWR)
			must(t, err)
			for range rng.IntN(12) {
				switch rng.IntN(8) {
				case 0:
					must(t, file.Sync())
					model.sync()
				case 1:
					n := rng.IntN(sectors * sector)
					must(t, file.Truncate(int64(n)))
					model.truncate(n)
				default:
					p := bytes.Repeat([]byte{byte(rng.IntN(4))}, 1+rng.IntN(5000))
					off := rng.IntN(sectors*sector - len(p))
					if rng.IntN(2) == 0 {
						off = min(model.size, sectors*sector-len(p))
					}
					_, err := file.WriteAt(p, int64(off))
					must(t, err)
					model.write(p, off)
				}
			}
			before := content(t, m, "/f")
			m = m.Crash(rng)
			_, err = file.Stat()
			wantErr(t, err, vfs.ErrCrashed)
			wantErr(t, file.Sync(), fs.ErrClosed)
			must(t, file.Close())
			got := content(t, m, "/f")
			model.check(t, got)
			if t.Failed() {
				return
			}
			if bytes.Equal(got, before) {
				kept++
			} else {
				lost++
			}
			clear(model.data)
			model.size = copy(model.data, got)
			model.sync()
			// What is there is durable: another crash changes nothing.
			m = m.Crash(rng)
			if !bytes.Equal(content(t, m, "/f"), got) {
				t.Error("a second crash changed the file")
			}
		}
	})
	if os.Getenv("KINTSUGI_SEED") == "" && (lost < kept/10 || kept < lost/10) {
		t.Fatalf("%d crashes lost something, %d did not", lost, kept)
	}
}

// TestCrashTears wants the telling outcomes to occur: a write wholly lost,
// wholly kept, torn in order, torn out of order, its size kept but not it.
func TestCrashTears(t *testing.T) {
	seen := map[string]int{}
	seeds(t, 2000, func(t *testing.T, rng *rand.Rand) {
		m := vfs.NewMem()
		file := create(t, m, "/f", bytes.Repeat([]byte{'a'}, 2*sector))
		must(t, file.Sync())
		must(t, m.SyncDir("/"))
		_, err := file.WriteAt(bytes.Repeat([]byte{'b'}, 4*sector), 2*sector)
		must(t, err)
		got := content(t, m.Crash(rng), "/f")
		shape := ""
		for i := 0; i < len(got); i += sector {
			s := got[i : i+sector]
			if !bytes.Equal(s, bytes.Repeat(s[:1], sector)) {
				t.Error("a sector is torn")
			}
			shape += string("ab0"[bytes.IndexByte([]byte{'a', 'b', 0}, s[0])])
		}
		if len(shape) < 2 || shape[:2] != "aa" {
			t.Errorf("what was synced is gone: %s", shape)
		}
		seen[shape]++
	})
	tried := 0
	for _, n := range seen {
		tried += n
	}
	if tried < 1000 {
		return // too few for every shape to come up
	}
	for _, shape := range []string{"aa", "aabbbb", "aabb00", "aa00bb", "aa0000"} {
		if seen[shape] == 0 {
			t.Errorf("%s never happened: %v", shape, seen)
		}
	}
}

// TestCrashNames runs random changes of names, and wants the names after a
// crash to be what was synced, or what some of the changes since, each name's
// in order, make of it.
func TestCrashNames(t *testing.T) {
	seeds(t, 2000, func(t *testing.T, rng *rand.Rand) {
		m := vfs.NewMem()
		dirs := []string{"/d0", "/d1"}
		for _, d := range dirs {
			must(t, m.Mkdir(d))
		}
		must(t, m.SyncDir("/"))
		// now is what each name holds; past every value since it was synced.
		now, past := map[string]string{}, map[string]map[string]bool{}
		name := func() string { return fmt.Sprintf("%s/n%d", dirs[rng.IntN(2)], rng.IntN(3)) }
		set := func(n, v string) {
			if past[n] == nil {
				past[n] = map[string]bool{now[n]: true}
			}
			now[n] = v
			past[n][v] = true
		}
		for i := range rng.IntN(15) {
			a, b := name(), name()
			switch rng.IntN(5) {
			case 0, 1:
				if now[a] == "" {
					v := strconv.Itoa(i + 1)
					must(t, create(t, m, a, []byte(v)).Sync())
					set(a, v)
				}
			case 2:
				err := m.Remove(a)
				if now[a] == "" {
					wantErr(t, err, fs.ErrNotExist)
				} else {
					must(t, err)
					set(a, "")
				}
			case 3:
				if now[a] != "" && a != b {
					must(t, m.Rename(a, b))
					set(b, now[a])
					set(a, "")
				}
			case 4:
				d := dirs[rng.IntN(2)]
				must(t, m.SyncDir(d))
				for n := range past {
					if n[:3] == d {
						past[n] = map[string]bool{now[n]: true}
					}
				}
			}
		}
		m = m.Crash(rng)
		where := map[string][]string{}
		for _, d := range dirs {
			names, err := m.List(d)
			must(t, err)
			for _, n := range names {
				v := string(content(t, m, d+"/"+n))
				where[v] = append(where[v], d+"/"+n)
				if v == "" || past[d+"/"+n] == nil || !past[d+"/"+n][v] {
					t.Errorf("%s/%s holds %q, want one of %v", d, n, v, past[d+"/"+n])
				}
			}
		}
		for n, states := range past {
			if _, err := m.Stat(n); err != nil && !states[""] {
				t.Errorf("%s is gone, want one of %v", n, states)
			}
		}
		for v, names := range where {
			if len(names) > 1 {
				t.Errorf("%s is at %v: a rename was halved", v, names)
			}
		}
	})
}

// TestCrashReplace is how a small file is replaced safely: write, sync, rename,
// sync the directory. After each step the old or the new one is there, whole.
func TestCrashReplace(t *testing.T) {
	seen := map[string]int{}
	seeds(t, 1000, func(t *testing.T, rng *rand.Rand) {
		m := vfs.NewMem()
		must(t, create(t, m, "/cur", []byte("old")).Sync())
		must(t, m.SyncDir("/"))
		steps := rng.IntN(4)
		tmp := create(t, m, "/tmp", []byte("new"))
		if steps > 0 {
			must(t, tmp.Sync())
		}
		if steps > 1 {
			must(t, m.Rename("/tmp", "/cur"))
		}
		if steps > 2 {
			must(t, m.SyncDir("/"))
		}
		got := string(content(t, m.Crash(rng), "/cur"))
		if got != "old" && (got != "new" || steps < 2) || steps == 3 && got != "new" {
			t.Errorf("after %d steps: %q", steps, got)
		}
		seen[fmt.Sprint(steps, got)]++
	})
	if os.Getenv("KINTSUGI_SEED") == "" && (seen["2old"] == 0 || seen["2new"] == 0) {
		t.Fatalf("a rename always or never survives: %v", seen)
	}
}

// TestCrashRename: a file that was synced is at one end of an unsynced rename,
// never at both and never at neither, also across directories.
func TestCrashRename(t *testing.T) {
	seen := map[string]int{}
	seeds(t, 500, func(t *testing.T, rng *rand.Rand) {
		m := vfs.NewMem()
		must(t, m.Mkdir("/d"))
		must(t, create(t, m, "/a", []byte("data")).Sync())
		must(t, create(t, m, "/d/b", []byte("other")).Sync())
		must(t, m.SyncDir("/"))
		must(t, m.SyncDir("/d"))
		must(t, m.Rename("/a", "/d/b"))
		if rng.IntN(3) == 0 {
			must(t, m.SyncDir([]string{"/", "/d"}[rng.IntN(2)])) // either side will do
			m = m.Crash(rng)
			if got := string(content(t, m, "/d/b")); got != "data" {
				t.Errorf("a synced rename was undone: %q", got)
			}
			return
		}
		m = m.Crash(rng)
		_, err := m.Stat("/a")
		b := string(content(t, m, "/d/b"))
		if (err == nil) != (b == "other") {
			t.Errorf("a rename was halved: /a: %v, /d/b: %q", err, b)
		}
		seen[b]++
	})
	if os.Getenv("KINTSUGI_SEED") == "" && len(seen) != 2 {
		t.Fatalf("a rename always or never survives: %v", seen)
	}
}

func TestCrashSubtree(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	m := vfs.NewMem()
	must(t, m.MkdirAll("/a/b"))
	must(t, m.SyncDir("/"))
	must(t, m.SyncDir("/a"))
	must(t, create(t, m, "/a/b/f", []byte("data")).Sync())
	must(t, m.SyncDir("/a/b"))
	must(t, m.Link("/a/b/f", "/a/b/g"))
	must(t, m.SyncDir("/a/b"))
	before, err := m.Stat("/a/b/f")
	must(t, err)
	l, err := m.Lock("/a/LOCK")
	must(t, err)
	m.SetCapacity(1 << 20)
	n := m.Crash(rng)
	must(t, l.Close())
	_, err = m.Stat("/a")
	wantErr(t, err, vfs.ErrCrashed)
	st, err := n.Stat("/a/b/g")
	must(t, err)
	if st != before || st.Links != 2 {
		t.Fatalf("after the crash %+v, before %+v", st, before)
	}
	l, err = n.Lock("/a/LOCK") // locks end with the power
	must(t, err)
	must(t, l.Close())
	u, err := n.Usage("/")
	must(t, err)
	if u != (vfs.Usage{Total: 1 << 20, Free: 1<<20 - 4096}) {
		t.Fatalf("usage %+v", u)
	}
}

func TestCapacity(t *testing.T) {
	m := vfs.NewMem()
	m.SetCapacity(100 << 10)
	free := func(want int64) {
		t.Helper()
		u, err := m.Usage("/")
		must(t, err)
		if u.Total != 100<<10 || u.Free != want {
			t.Fatalf("usage %+v, want %d free", u, want)
		}
	}
	file := create(t, m, "/f", make([]byte, 10_000)) // zeros take space, too
	free(88 << 10)
	must(t, file.Allocate(0, 50<<10))
	free(48 << 10)
	n, err := file.WriteAt(pattern(200<<10, 1), 0)
	wantErr(t, err, syscall.ENOSPC)
	st, serr := file.Stat()
	must(t, serr)
	if n != 100<<10 || st.Size != 100<<10 {
		t.Fatalf("wrote %d, size %d", n, st.Size)
	}
	free(0)
	_, err = file.WriteAt([]byte("again"), 5000) // what is there can be written over
	must(t, err)
	g := create(t, m, "/g", nil)
	_, err = g.WriteAt([]byte{1}, 0)
	wantErr(t, err, syscall.ENOSPC)
	wantErr(t, g.Allocate(0, 1), syscall.ENOSPC)
	must(t, file.Truncate(10_000))
	free(88 << 10)
	must(t, m.Remove("/f"))
	free(88 << 10) // still open
	must(t, file.Close())
	free(100 << 10)
	m.SetCapacity(0)
	_, err = g.WriteAt(make([]byte, 1<<20), 0)
	must(t, err)
	m.SetCapacity(1)
	u, err := m.Usage("/")
	must(t, err)
	if u.Free != 0 {
		t.Fatalf("usage %+v", u)
	}
}

func BenchmarkCrashWorkload(b *testing.B) {
	p := pattern(4096, 1)
	for i := range b.N {
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		m := vfs.NewMem()
		for f := range 5 {
			file := create(b, m, fmt.Sprint("/", f), nil)
			for w := range 40 {
				_, _ = file.WriteAt(p, int64(w*4096))
				if w%4 == 3 {
					_ = file.Sync()
				}
			}
		}
		_ = m.SyncDir("/")
		m.Crash(rng)
	}
}
