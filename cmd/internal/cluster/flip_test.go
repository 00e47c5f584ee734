package cluster

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"kintsugi/repair"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// field is a run of bytes within a record, by the format of package segment.
type field struct {
	name   string
	off, n int64
}

const (
	segmentSuper  = 4096
	recordHeader  = 96
	recordAlign   = 64
	recordMagic   = 0x4e49_544b
	recordIsShard = 1
)

var headerFields = []field{
	{"magic", 0, 4}, {"level", 4, 1}, {"type", 5, 1}, {"flags", 6, 1}, {"k", 7, 1}, {"m", 8, 1}, {"slot", 9, 1},
	{"block shift", 10, 1}, {"zero", 11, 1}, {"pg", 12, 4}, {"seq", 16, 8}, {"blob", 24, 16}, {"stripe", 40, 4},
	{"slot epoch", 44, 4}, {"attr_len", 48, 4}, {"payload_len", 52, 4}, {"stripe_len", 56, 4}, {"synced", 60, 4},
	{"stripe_hash", 64, 8}, {"time", 72, 8}, {"body hash", 80, 8}, {"header hash", 88, 8},
}

// record is a shard's record on a drive.
type record struct {
	path    string
	off     int64
	attrs   int64
	payload int64
	blob    storagenode.BlobID
}

// fields are all parts of a record.
func (r record) fields() []field {
	sums := 8 * ((r.payload + storagenode.SumBlock - 1) / storagenode.SumBlock)
	all := append([]field(nil), headerFields...)
	return append(all, field{"attributes", recordHeader, r.attrs}, field{"sums", recordHeader + r.attrs, sums},
		field{"payload", recordHeader + r.attrs + sums, r.payload})
}

// records finds the shards of live blobs in a drive's segments, one per blob.
func (r *rig) records(dir string) []record {
	r.t.Helper()
	known := map[storagenode.BlobID]bool{}
	for _, b := range r.blobs() {
		known[b.Blob.ID] = true
	}
	names, err := r.cfg.FS.List(dir + "/segments")
	if err != nil {
		r.t.Fatal(err)
	}
	var all []record
	for _, name := range names {
		path := filepath.Join(dir, "segments", name)
		text := r.read(path)
		for off := int64(segmentSuper); off+recordHeader <= int64(len(text)); off += recordAlign {
			h := text[off:]
			if binary.LittleEndian.Uint32(h) != recordMagic || h[5] != recordIsShard {
				continue
			}
			rec := record{
				path: path, off: off, blob: storagenode.BlobID(h[24:40]),
				attrs: int64(binary.LittleEndian.Uint32(h[48:])), payload: int64(binary.LittleEndian.Uint32(h[52:])),
			}
			if known[rec.blob] && rec.payload > 0 && rec.attrs > 0 {
				delete(known, rec.blob)
				all = append(all, rec)
			}
		}
	}
	return all
}

func (r *rig) read(path string) []byte {
	r.t.Helper()
	f, err := r.cfg.FS.OpenFile(path, os.O_RDONLY)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		r.t.Fatal(err)
	}
	text := make([]byte, st.Size)
	n, err := f.ReadAt(text, 0)
	if err != nil && err != io.EOF { // a segment is cut to its end when it is full
		r.t.Fatal(err)
	}
	return text[:n]
}

// flipFields flips one bit in each field, each in a record of another blob, so
// that no blob loses more than one shard. It gives the number of records hurt.
func (r *rig) flipFields(dir string, rng *rand.Rand) int {
	r.t.Helper()
	recs := r.records(dir)
	n := len(headerFields) + 3
	if len(recs) < n {
		r.t.Fatalf("%d records on %s, want %d", len(recs), dir, n)
	}
	rng.Shuffle(len(recs), func(i, j int) { recs[i], recs[j] = recs[j], recs[i] })
	for i := range n {
		f := recs[i].fields()[i]
		at := recs[i].off + f.off + rng.Int64N(f.n)
		if err := r.fault.FlipBit(recs[i].path, at, rng.IntN(8)); err != nil {
			r.t.Fatalf("%s: %v", f.name, err)
		}
	}
	return n
}

// damage counts the shards that are not good, reading every byte of all.
func (r *rig) damage() int64 {
	r.t.Helper()
	v, err := r.Repairer.VerifyAll(r.t.Context(), repair.Filter{}, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return v.Shards - v.Good
}

// healed waits until reading every byte of all shards finds none damaged.
func (r *rig) healed() {
	r.t.Helper()
	r.until(20*time.Second, func() error {
		if n := r.damage(); n > 0 {
			return fmt.Errorf("%d shards are damaged", n)
		}
		return nil
	})
}

// TestFlippedBits flips one bit in each field of a record, on drives of a
// running store and of a stopped one.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"found by reading", "found by scrub", "found by verify", "while stopped", "while stopped, index lost"} {
		t.Run(kind, func(t *testing.T) {
			seed := rand.Uint64()
			rng := rand.New(rand.NewPCG(seed, 3))
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			r := newRig(t, vfs.NewMem(), "/data", nil)
			r.fill("object", 80, 5*time.Second)
			dir := Six("/data")[rng.IntN(6)]
			stopped := strings.HasPrefix(kind, "while")
			records := []string{dir}
			if stopped {
				// Its metadata must be read before it is stopped.
				n := r.flipFieldsStopped(dir, rng, kind)
				t.Logf("%d records hurt on %s", n, dir)
				r.readAll(5 * time.Second)
				r.healed()
				r.whole()
				return
			}
			for _, dir := range records {
				n := r.flipFields(dir, rng)
				t.Logf("%d records hurt on %s", n, dir)
			}
			switch kind {
			case "found by reading":
				r.readAll(5 * time.Second)
			case "found by scrub":
				before := r.Repairer.Status().Queue.Repaired
				if !r.Repairer.Start(repair.Scrub) {
					t.Fatal("scrub cannot be started")
				}
				r.until(20*time.Second, func() error {
					if n := r.Repairer.Status().Queue.Repaired - before; n < int64(len(headerFields)+3) {
						return fmt.Errorf("%d shards repaired", n)
					}
					return nil
				})
				if n := r.damage(); n > 0 {
					t.Errorf("scrub missed %d shards", n)
				}
			case "found by verify":
				if n := r.damage(); n == 0 {
					t.Error("nothing was found")
				}
			}
			r.readAll(5 * time.Second)
			r.healed()
			r.whole()
			r.close()
			r.open()
			r.whole()
		})
	}
}

// flipFieldsStopped flips the bits between two runs.
func (r *rig) flipFieldsStopped(dir string, rng *rand.Rand, kind string) int {
	r.t.Helper()
	recs := r.records(dir)
	r.close()
	n := min(len(headerFields)+3, len(recs))
	for i := range n {
		f := recs[i].fields()[i]
		if err := r.fault.FlipBit(recs[i].path, recs[i].off+f.off+rng.Int64N(f.n), rng.IntN(8)); err != nil {
			r.t.Fatalf("%s: %v", f.name, err)
		}
	}
	if strings.HasSuffix(kind, "index lost") {
		if err := r.cfg.FS.RemoveAll(dir + "/index"); err != nil {
			r.t.Fatal(err)
		}
	}
	r.open()
	return n
}

// files gives all files below a directory.
func (r *rig) files(dir string) []string {
	r.t.Helper()
	names, err := r.cfg.FS.List(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	var all []string
	for _, name := range names {
		path := filepath.Join(dir, name)
		st, err := r.cfg.FS.Stat(path)
		switch {
		case err != nil:
			r.t.Fatal(err)
		case st.IsDir:
			all = append(all, r.files(path)...)
		case st.Size > 0:
			all = append(all, path)
		}
	}
	sort.Strings(all)
	return all
}

// TestFlippedFiles flips bits in every file below a folder of one drive, of a
// running store and of a stopped one: index, journal, the metadata's state,
// identity, segments at large.
func TestFlippedFiles(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"index", "state", "journal", "segments", "."} {
		for _, stopped := range []bool{false, true} {
			if folder == "." && !stopped || folder != "." && stopped && testing.Short() {
				continue
			}
			t.Run(fmt.Sprintf("%s, stopped %v", folder, stopped), func(t *testing.T) {
				seed := rand.Uint64()
				rng := rand.New(rand.NewPCG(seed, 4))
				r := newRig(t, vfs.NewMem(), "/data", nil)
				r.fill("object", 48, 5*time.Second)
				dir := r.victims().state
				if stopped {
					r.close()
				}
				for _, path := range r.files(filepath.Join(dir, folder)) {
					if strings.HasSuffix(path, "drive.json") && !stopped {
						continue
					}
					st, err := r.cfg.FS.Stat(path)
					if err != nil {
						t.Fatal(err)
					}
					for range 1 + rng.IntN(3) {
						if err := r.fault.FlipBit(path, rng.Int64N(st.Size), rng.IntN(8)); err != nil {
							t.Fatal(err)
						}
					}
				}
				t.Logf("seed %d, drive %s", seed, dir)
				if stopped {
					r.open()
				}
				r.readAll(5 * time.Second)
				r.fill("after", 8, 8*time.Second)
				if folder == "." && r.drive(dir).State != storagenode.DriveActive {
					r.wipe(dir) // its identity is damaged: the operator empties it
					r.becomes(dir, storagenode.DriveActive, 20*time.Second)
				}
				r.Repairer.Start(repair.Scrub)
				r.healed()
				r.whole()
				r.close()
				r.open()
				r.whole()
			})
		}
	}
}
