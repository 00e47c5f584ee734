package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
	"kintsugi/storagenode/vfs/pebblefs"
)

// The index's keys; integers are big endian.
//
//	b pg slot blob 00          tombstone
//	b pg slot blob 01 stripe   entry of a shard
//	d pg slot seq              a slot drop
//	e pg slot                  a slot's fence
//	g time pg slot blob        a deleted blob whose grace runs from time
//	m segment                  meta of a segment
//	S                          next seq, next segment, the greatest blob id with
//	                           a tombstone, the greatest blob id
const (
	keyBlob  = 'b'
	keyDrop  = 'd'
	keyEpoch = 'e'
	keyGrace = 'g'
	keyMeta  = 'm'
	keyState = 'S'
)

const (
	slotKeySize  = 1 + 4 + 1
	blobKeySize  = slotKeySize + 16
	tombKeySize  = blobKeySize + 1
	shardKeySize = blobKeySize + 5
	graceKeySize = 1 + 8 + 4 + 1 + 16
)

func appendSlotKey(p []byte, kind byte, pg uint32, slot uint8) []byte {
	p = append(p, kind)
	p = binary.BigEndian.AppendUint32(p, pg)
	return append(p, slot)
}

func appendBlobKey(p []byte, pg uint32, slot uint8, blob storagenode.BlobID) []byte {
	return append(appendSlotKey(p, keyBlob, pg, slot), blob[:]...)
}

func appendTombKey(p []byte, pg uint32, slot uint8, blob storagenode.BlobID) []byte {
	return append(appendBlobKey(p, pg, slot, blob), 0)
}

func appendShardKey(p []byte, id storagenode.ShardID) []byte {
	p = append(appendBlobKey(p, uint32(id.PG), id.Slot, id.Blob), 1)
	return binary.BigEndian.AppendUint32(p, id.Stripe)
}

func appendDropKey(p []byte, pg uint32, slot uint8, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(appendSlotKey(p, keyDrop, pg, slot), seq)
}

func appendGraceKey(p []byte, timeMS int64, pg uint32, slot uint8, blob storagenode.BlobID) []byte {
	p = binary.BigEndian.AppendUint64(append(p, keyGrace), uint64(timeMS))
	p = append(binary.BigEndian.AppendUint32(p, pg), slot)
	return append(p, blob[:]...)
}

func appendMetaKey(p []byte, segment uint64) []byte {
	return binary.BigEndian.AppendUint64(append(p, keyMeta), segment)
}

// place is where a record lies.
type place struct {
	segment uint64
	off     int64
}

// entry is what the index knows of a shard.
type entry struct {
	place
	seq                 uint64
	attrLen, payloadLen uint32
	epoch, stripeLen    uint32
	stripeHash          uint64
	k, m, flags         uint8
}

const entrySize = 8 + 8 + 8 + 4*4 + 8 + 3

func entryOf(h *header, at place) entry {
	return entry{
		place: at, seq: h.seq, attrLen: h.attrLen, payloadLen: h.payloadLen,
		epoch: h.epoch, stripeLen: h.stripeLen, stripeHash: h.stripeHash,
		k: h.k, m: h.m, flags: h.flags,
	}
}

func (e *entry) size() int64 { return layoutOf(int(e.attrLen), int(e.payloadLen)).total }

func (e *entry) info(id storagenode.ShardID) storagenode.ShardInfo {
	return storagenode.ShardInfo{
		ID: id, K: e.k, M: e.m, SlotEpoch: e.epoch, StripeLen: e.stripeLen,
		StripeHash: e.stripeHash, Last: e.flags&flagLast != 0, Size: int64(e.payloadLen),
	}
}

func (e *entry) append(p []byte) []byte {
	le := binary.LittleEndian
	p = le.AppendUint64(p, e.segment)
	p = le.AppendUint64(p, uint64(e.off))
	p = le.AppendUint64(p, e.seq)
	p = le.AppendUint32(p, e.attrLen)
	p = le.AppendUint32(p, e.payloadLen)
	p = le.AppendUint32(p, e.epoch)
	p = le.AppendUint32(p, e.stripeLen)
	p = le.AppendUint64(p, e.stripeHash)
	return append(p, e.k, e.m, e.flags)
}

func (e *entry) decode(p []byte) error {
	if len(p) != entrySize {
		return errIndexValue
	}
	le := binary.LittleEndian
	e.segment, e.off, e.seq = le.Uint64(p), int64(le.Uint64(p[8:])), le.Uint64(p[16:])
	e.attrLen, e.payloadLen = le.Uint32(p[24:]), le.Uint32(p[28:])
	e.epoch, e.stripeLen = le.Uint32(p[32:]), le.Uint32(p[36:])
	e.stripeHash = le.Uint64(p[40:])
	e.k, e.m, e.flags = p[48], p[49], p[50]
	if e.attrLen > storagenode.MaxAttrs || e.payloadLen > storagenode.MaxPayload {
		return errIndexValue
	}
	return nil
}

// mark is a tombstone, a fence or a drop in the index. value is the
// tombstone's time, the fence's or the drop's epoch; done says that a drop's
// shards have been removed.
type mark struct {
	place
	seq, value uint64
	done       bool
}

const markSize = 8*4 + 1

func (m *mark) append(p []byte) []byte {
	le := binary.LittleEndian
	p = le.AppendUint64(p, m.segment)
	p = le.AppendUint64(p, uint64(m.off))
	p = le.AppendUint64(p, m.seq)
	p = le.AppendUint64(p, m.value)
	if m.done {
		return append(p, 1)
	}
	return append(p, 0)
}

func (m *mark) decode(p []byte) error {
	if len(p) != markSize {
		return errIndexValue
	}
	le := binary.LittleEndian
	m.segment, m.off = le.Uint64(p), int64(le.Uint64(p[8:]))
	m.seq, m.value, m.done = le.Uint64(p[16:]), le.Uint64(p[24:]), p[32] == 1
	return nil
}

// meta is what the index stores of a segment.
type meta struct {
	pos, dead int64
	minSeq    uint64
	sealed    bool
}

func (m *meta) append(p []byte) []byte {
	le := binary.LittleEndian
	p = le.AppendUint64(p, uint64(m.pos))
	p = le.AppendUint64(p, uint64(m.dead))
	p = le.AppendUint64(p, m.minSeq)
	var f byte
	if m.sealed {
		f |= 1
	}
	return append(p, f)
}

func (m *meta) decode(p []byte) error {
	if len(p) != 25 {
		return errIndexValue
	}
	le := binary.LittleEndian
	*m = meta{int64(le.Uint64(p)), int64(le.Uint64(p[8:])), le.Uint64(p[16:]), p[24]&1 != 0}
	return nil
}

var errIndexValue = errors.New("index holds a malformed value")

// index is the Pebble database of one generation.
type index struct {
	db   *pebble.DB
	fs   *pebblefs.FS
	dir  string
	gen  uint64
	refs refs
}

// reader is what both a database and a batch can do.
type reader interface {
	Get(key []byte) ([]byte, io.Closer, error)
}

// decoder is an index value that reads itself.
type decoder interface{ decode(p []byte) error }

// lookup reads one value; false where there is none.
func lookup(r reader, key []byte, v decoder) (bool, error) {
	p, c, err := r.Get(key)
	if err != nil {
		if errors.Is(err, pebble.ErrNotFound) {
			return false, nil
		}
		return false, err
	}
	err = v.decode(p)
	if cerr := c.Close(); err == nil {
		err = cerr
	}
	return err == nil, err
}

const (
	indexMemTable = 4 << 20
	indexMarker   = "COMPLETE"
)

// openIndex opens or makes the database of a generation. failed is told, once
// and on a goroutine of its own, when its files could not be written.
func openIndex(fs vfs.FS, dir string, gen uint64, cache *pebble.Cache, log *slog.Logger, failed func(uint64, error)) (*index, error) {
	x := &index{dir: filepath.Join(dir, strconv.FormatUint(gen, 10)), gen: gen}
	x.refs.init()
	x.fs = pebblefs.New(fs, func(err error) { failed(gen, err) })
	o := &pebble.Options{
		Cache:                      cache,
		MemTableSize:               indexMemTable,
		CompactionConcurrencyRange: func() (int, int) { return 1, 1 },
	}
	if cache == nil {
		o.CacheSize = 8 << 20
	}
	x.fs.Configure(o, log)
	db, err := pebblefs.Open(x.dir, o)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	x.db = db
	return x, nil
}

func (x *index) release() {
	if x.refs.release() {
		_ = x.db.Close() // a cache: its errors were told by failed
	}
}

// flush makes what was applied durable.
func (x *index) flush() error {
	if err := x.db.Flush(); err != nil {
		return fmt.Errorf("flush index: %w", err)
	}
	return x.fs.Poisoned()
}

// complete says that the generation covers all that was sealed before it.
func (x *index) complete(fs vfs.FS) error {
	f, err := fs.OpenFile(filepath.Join(x.dir, indexMarker), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return fmt.Errorf("complete index: %w", err)
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.SyncDir(x.dir)
	}
	if err == nil {
		err = fs.SyncDir(filepath.Dir(x.dir))
	}
	return err
}
