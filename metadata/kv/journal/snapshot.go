package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// A snapshot file, little endian:
//
//	 0 magic, 8 bytes    8 version u16, 6 bytes of zero
//	16 commit u64       24 its chain u64
//	32 16 bytes of zero 48 xxh64 bound to the cluster of bytes 0 to 47
//	56 blocks: length u32, pairs u32, xxh64 of the contents u64, contents:
//	   pairs in order, each key and value preceded by their length (uvarint)
//	   end: a block of length 0 whose pairs field is 0xffffffff and whose sum
//	   is the number of pairs in all
//
// A file gets its name, snap-<commit>, after it was synced and read back.
const (
	snapMagic  = "KJSNAP1\n"
	snapHeader = 56
	snapBlock  = 256 << 10
	// snapSync is how much of a snapshot is made durable at a time. A sync of all of a
	// large one would take longer than a drive may, and the log would wait for it.
	snapSync   = 8 << 20
	blockHead  = 16
	snapPrefix = "snap-"
	snapEnd    = 0xffffffff
)

var errSnapshot = errors.New("damaged snapshot")

// numbered gives the commit in a file's name.
func numbered(name, prefix string) (uint64, bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok || len(rest) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(rest, 16, 64)
	return n, err == nil
}

func numberedName(prefix string, commit uint64) string {
	return fmt.Sprintf("%s%016x", prefix, commit)
}

// writeSnapshot writes what r holds into the drive's journal directory, reads it back, and
// returns the commit it covers and its size.
func writeSnapshot(d *drive, cluster storagenode.UUID, r pebble.Reader) (commit uint64, size int64, err error) {
	commit, chain, err := covered(r)
	if err != nil {
		return 0, 0, err
	}
	if err := d.there(); err != nil {
		return 0, 0, err
	}
	tmp := d.path("snap.new")
	// One that was given up, as its disk was moved, may still be written to.
	if err := d.fs.Remove(tmp); err != nil && !errors.Is(err, vfs.ErrNotExist) {
		return 0, 0, err
	}
	f, err := d.fs.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return 0, 0, err
	}
	w := &snapWriter{f: f, buf: make([]byte, 0, snapBlock+blockHead)}
	if err = w.all(cluster, commit, chain, r); err == nil {
		if err = f.Sync(); err != nil {
			err = fmt.Errorf("%w: %w", errSync, err)
		}
	}
	if err = errors.Join(err, f.Close()); err == nil {
		ref := snapRef{commit: commit, chain: chain, size: w.off} // another of that commit may be there
		err = readPairs(d, tmp, cluster, ref, func(_, _ []byte) error { return nil })
	}
	if err != nil {
		return 0, 0, errors.Join(err, d.fs.Remove(tmp))
	}
	if err = d.fs.Rename(tmp, d.path(numberedName(snapPrefix, commit))); err != nil {
		return 0, 0, err
	}
	return commit, w.off, d.fs.SyncDir(d.journalDir())
}

type snapWriter struct {
	f     vfs.File
	off   int64
	buf   []byte
	pairs uint32 // in buf
	total uint64

	unsynced int // bytes
}

func (w *snapWriter) all(cluster storagenode.UUID, commit, chain uint64, r pebble.Reader) error {
	h := make([]byte, snapHeader)
	copy(h, snapMagic)
	le := binary.LittleEndian
	le.PutUint16(h[8:], 1)
	le.PutUint64(h[16:], commit)
	le.PutUint64(h[24:], chain)
	le.PutUint64(h[48:], boundSum(cluster, h[:48]))
	if err := w.write(h); err != nil {
		return err
	}
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: firstKey})
	if err != nil {
		return err
	}
	w.buf = w.buf[:blockHead]
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var v []byte
		if v, err = it.ValueAndErr(); err != nil {
			break
		}
		w.buf = appendBytes(appendBytes(w.buf, plain(it.Key())), v)
		w.pairs++
		if len(w.buf) >= snapBlock {
			err = w.block()
		}
	}
	if err = errors.Join(err, it.Close()); err != nil {
		return err
	}
	if w.pairs > 0 {
		if err := w.block(); err != nil {
			return err
		}
	}
	end := make([]byte, blockHead)
	le.PutUint32(end[4:], snapEnd)
	le.PutUint64(end[8:], w.total)
	return w.write(end)
}

func (w *snapWriter) block() error {
	le := binary.LittleEndian
	le.PutUint32(w.buf, uint32(len(w.buf)-blockHead))
	le.PutUint32(w.buf[4:], w.pairs)
	le.PutUint64(w.buf[8:], xxhash.Sum64(w.buf[blockHead:]))
	w.total += uint64(w.pairs)
	err := w.write(w.buf)
	w.buf, w.pairs = w.buf[:blockHead], 0
	return err
}

func (w *snapWriter) write(b []byte) error {
	_, err := w.f.WriteAt(b, w.off)
	w.off += int64(len(b))
	if w.unsynced += len(b); err != nil || w.unsynced < snapSync {
		return err
	}
	w.unsynced = 0
	if err := w.f.SyncData(); err != nil {
		return fmt.Errorf("%w: %w", errSync, err)
	}
	return nil
}

// snapRef names a snapshot on a drive; the zero value is the empty state.
type snapRef struct {
	commit, chain uint64
	size          int64
}

func parseSnapHeader(h []byte, cluster storagenode.UUID) (snapRef, error) {
	le := binary.LittleEndian
	if len(h) < snapHeader || string(h[:8]) != snapMagic || le.Uint16(h[8:]) != 1 ||
		le.Uint64(h[48:]) != boundSum(cluster, h[:48]) {
		return snapRef{}, fmt.Errorf("%w: header", errSnapshot)
	}
	return snapRef{commit: le.Uint64(h[16:]), chain: le.Uint64(h[24:])}, nil
}

// openSnapshot reads a snapshot's header and checks that its end is there.
func openSnapshot(d *drive, cluster storagenode.UUID, commit uint64) (ref snapRef, err error) {
	f, err := openMedium(d.fs, d.path(numberedName(snapPrefix, commit)))
	if err != nil {
		return ref, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return ref, err
	}
	if st.Size < snapHeader+blockHead {
		return ref, fmt.Errorf("%w: %d bytes", errSnapshot, st.Size)
	}
	h, err := readRange(f, 0, snapHeader)
	if err != nil {
		return ref, err
	}
	end, err := readRange(f, st.Size-blockHead, blockHead)
	if err != nil {
		return ref, err
	}
	if ref, err = parseSnapHeader(h, cluster); err != nil {
		return ref, err
	}
	if ref.commit != commit || binary.LittleEndian.Uint64(end) != snapEnd<<32 {
		return ref, fmt.Errorf("%w: commit or end", errSnapshot)
	}
	ref.size = st.Size
	return ref, nil
}

// readSnapshot calls f for every pair, in order. The slices are valid for the
// call.
func readSnapshot(d *drive, cluster storagenode.UUID, ref snapRef, f func(k, v []byte) error) error {
	return readPairs(d, d.path(numberedName(snapPrefix, ref.commit)), cluster, ref, f)
}

func readPairs(d *drive, path string, cluster storagenode.UUID, ref snapRef, f func(k, v []byte) error) (err error) {
	file, err := openMedium(d.fs, path)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnread, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return parseSnapshot(&wholeReader{f: file, size: ref.size}, cluster, ref, f)
}

// wholeReader reads the bytes that a file is known to have. That it cannot is no word
// on what they are: errUnread.
type wholeReader struct {
	f         vfs.File
	off, size int64
}

func (r *wholeReader) Read(p []byte) (int, error) {
	if r.off >= r.size {
		return 0, io.EOF
	}
	n, err := r.f.ReadAt(p[:min(int64(len(p)), r.size-r.off)], r.off)
	if r.off += int64(n); n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, fmt.Errorf("%w: at %d of %d bytes: %w", errUnread, r.off, r.size, err)
}

// parseSnapshot reads a snapshot of which ref was read before.
func parseSnapshot(src io.Reader, cluster storagenode.UUID, ref snapRef, f func(k, v []byte) error) error {
	r := bufio.NewReaderSize(src, 1<<20)
	read := func(p []byte) error {
		_, err := io.ReadFull(r, p)
		if err != nil && !errors.Is(err, errUnread) {
			err = fmt.Errorf("%w: %w", errSnapshot, err)
		}
		return err
	}
	h := make([]byte, snapHeader)
	if err := read(h); err != nil {
		return err
	}
	got, err := parseSnapHeader(h, cluster)
	if err != nil || got.commit != ref.commit || got.chain != ref.chain {
		return fmt.Errorf("%w: header of another", errSnapshot)
	}
	var total uint64
	var body []byte
	for {
		if err := read(h[:blockHead]); err != nil {
			return err
		}
		size, pairs := binary.LittleEndian.Uint32(h), binary.LittleEndian.Uint32(h[4:])
		sum := binary.LittleEndian.Uint64(h[8:])
		if size == 0 && pairs == snapEnd {
			if sum != total {
				return fmt.Errorf("%w: %d pairs of %d", errSnapshot, total, sum)
			}
			return nil
		}
		if size > 2*snapBlock+maxPayload {
			return fmt.Errorf("%w: block of %d bytes", errSnapshot, size)
		}
		if cap(body) < int(size) {
			body = make([]byte, size)
		}
		body = body[:size]
		if err := read(body); err != nil {
			return err
		}
		if xxhash.Sum64(body) != sum {
			return fmt.Errorf("%w: block sum", errSnapshot)
		}
		if err := eachPair(body, pairs, f); err != nil {
			return err
		}
		total += uint64(pairs)
	}
}

func eachPair(body []byte, pairs uint32, f func(k, v []byte) error) error {
	for range pairs {
		k, rest, ok := cutBytes(body)
		var v []byte
		if ok {
			v, rest, ok = cutBytes(rest)
		}
		if !ok || len(k) == 0 {
			return fmt.Errorf("%w: pair", errSnapshot)
		}
		if err := f(k, v); err != nil {
			return err
		}
		body = rest
	}
	if len(body) != 0 {
		return fmt.Errorf("%w: %d bytes left over", errSnapshot, len(body))
	}
	return nil
}
