package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"kintsugi/metadata/kv"
	"kintsugi/storagenode/vfs/pebblefs"
)

// The key of a single zero byte is ours: it holds the commit the state covers
// and its chain, and is written with every batch. To make room for it, the
// contract's keys that begin with a zero byte get another one in front, which
// keeps the order.
var (
	appliedKey = []byte{0}
	firstKey   = []byte{0, 0} // the smallest of the contract's
)

// stored is a key as Pebble has it, plain the way back.
func stored(key []byte) []byte {
	if len(key) == 0 || key[0] != 0 {
		return key
	}
	return append([]byte{0}, key...)
}

func plain(key []byte) []byte {
	if key[0] != 0 {
		return key
	}
	return key[1:]
}

// state is the Pebble database on one drive. Whatever goes wrong with it ends
// in fail, upon which the committer builds another one.
type state struct {
	drive *drive
	name  string // of its directory
	db    *pebble.DB
	guard *guard
	fs    *pebblefs.FS

	values *values
	refs   atomic.Int64 // users; at 0 db is closed
	failed chan struct{}
	once   sync.Once
	cause  error // set before failed is closed
	onFail func()
	// behind is set when a durable commit is missing in it.
	behind atomic.Bool

	applies chan *pebble.Batch
	applied chan error
	ended   chan struct{} // closed when db was closed
}

const (
	stateMemTable = 16 << 20
	// Pebble takes its memtables off the cache.
	stateCache = 64<<20 + 4*stateMemTable
)

// openState opens the database in a subdirectory of the drive's state
// directory, or makes it. Every new one gets another name, so that nothing a
// former one left behind can write into it.
func openState(cfg Config, d *drive, name string, onFail func()) (*state, error) {
	st := &state{drive: d, name: name, values: new(values),
		failed: make(chan struct{}), onFail: onFail,
		applies: make(chan *pebble.Batch), applied: make(chan error, 1), ended: make(chan struct{})}
	st.guard = newGuard(cfg.FS, cfg.Clock, cfg.StateTimeout, 5*cfg.StateTimeout, st.fail)
	d.state = st.guard
	st.fs = pebblefs.New(st.guard, st.fail)
	cache := cfg.Cache
	if cache == nil {
		cache = pebble.NewCache(stateCache)
		defer cache.Unref()
	}
	o := &pebble.Options{Cache: cache, MemTableSize: stateMemTable}
	st.fs.Configure(o, cfg.Logger)
	dir := filepath.Join(d.stateDir(), name)
	err := st.guard.MkdirAll(dir)
	for _, parent := range []string{d.stateDir(), d.dir} { // damage of the log may need it after a power cut
		if err == nil {
			err = st.guard.SyncDir(parent)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("state on drive %s: %w", d.id, err)
	}
	if err := st.open(dir, o); err != nil {
		st.guard.abandon()
		return nil, fmt.Errorf("open state on drive %s: %w", d.id, err)
	}
	st.refs.Store(2) // the committer's and the applier's
	go st.applier()
	return st, nil
}

// open waits for Pebble, but not where it has given up. What is left to itself then
// may come to its cache when nobody else holds that any more.
func (st *state) open(dir string, o *pebble.Options) error {
	opened := make(chan error, 1)
	o.Cache.Ref()
	go func() {
		defer o.Cache.Unref()
		db, err := pebblefs.Open(dir, o)
		select {
		case <-st.failed:
			if err == nil {
				_ = db.Close()
			}
		default:
			st.db = db
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		if err == nil && st.db == nil {
			err = st.cause
		}
		return err
	case <-st.failed:
		return st.cause
	}
}

// fail gives the state up, once.
func (st *state) fail(err error) {
	st.once.Do(func() {
		st.cause = err
		close(st.failed)
		st.onFail()
	})
}

func (st *state) hasFailed() bool { return ended(st.failed) }

// readable says whether the state may be read: it has not failed, or only for
// want of space, which leaves all that was applied in place. So reads go on
// where every drive is full and no other state can be built.
func (st *state) readable() bool {
	return !st.hasFailed() || errors.Is(st.cause, syscall.ENOSPC) && !st.behind.Load()
}

// acquire keeps db open until release; false when it is being closed.
func (st *state) acquire() bool {
	for {
		n := st.refs.Load()
		if n <= 0 {
			return false
		}
		if st.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release ends a use. The last one closes the database, on a goroutine of its
// own where it has failed, since Close may then never return.
func (st *state) release() {
	if st.refs.Add(-1) != 0 {
		return
	}
	end := func() {
		_ = st.db.Close()
		close(st.ended)
	}
	if st.hasFailed() {
		st.guard.abandon()
		go end()
		return
	}
	end()
}

// drop ends the committer's own use; it will not apply any more.
func (st *state) drop() {
	if st.hasFailed() {
		st.guard.abandon()
	}
	close(st.applies)
	st.release()
}

// leave drops a state with which nothing is wrong, and waits until it is closed: what
// Pebble has under way there would else be taken for a call that hangs, and its drive
// for one that can have no other state.
func (st *state) leave() {
	st.drop()
	select {
	case <-st.ended:
	case <-st.failed:
	}
}

// applier applies batches, so that the committer can leave one behind that
// does not return.
func (st *state) applier() {
	for b := range st.applies {
		err := st.db.Apply(b, pebble.NoSync)
		if err == nil {
			err = b.Close()
		}
		st.applied <- err
	}
	st.release()
}

// apply makes a batch readable. The batch is the state's from then on.
func (st *state) apply(b *pebble.Batch) error {
	select {
	case st.applies <- b:
	case <-st.failed:
		return st.cause
	}
	select {
	case err := <-st.applied:
		return err
	case <-st.failed:
		return st.cause
	}
}

// batch makes a group's payload a batch that ends with the commit it covers.
func (st *state) batch(payload []byte, commit, chain uint64) (*pebble.Batch, error) {
	b := st.db.NewBatchWithSize(len(payload) + 128)
	err := eachOp(payload, func(k, v []byte) error {
		if v == nil {
			return b.Delete(stored(k), nil)
		}
		return b.Set(stored(k), v, nil)
	})
	if err == nil {
		err = b.Set(appliedKey, position(commit, chain), nil)
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func position(commit, chain uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, commit), chain)
}

// covered reads the commit r covers and its chain; zeros for an empty state.
func covered(r pebble.Reader) (commit, chain uint64, err error) {
	v, closer, err := r.Get(appliedKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = closer.Close() }()
	if len(v) != 16 {
		return 0, 0, fmt.Errorf("position of the state has %d bytes", len(v))
	}
	return binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[8:]), nil
}

// checkpoint makes what is applied durable, so that less is replayed.
func (st *state) checkpoint(limit <-chan time.Time) {
	flushed, err := st.db.AsyncFlush()
	if err != nil {
		st.fail(fmt.Errorf("flush of the state: %w", err))
		return
	}
	select {
	case <-flushed:
	case <-st.failed:
	case <-limit:
	}
}

// snapshot pins the newest state. The caller, who holds st, closes it first.
func (st *state) snapshot() (*pebble.Snapshot, error) {
	made := make(chan *pebble.Snapshot)
	failed := st.failed
	if st.readable() && st.hasFailed() {
		failed = nil
	}
	st.refs.Add(1)
	go func() {
		defer st.release()
		v := st.db.NewSnapshot()
		select {
		case made <- v:
		case <-failed:
			_ = v.Close()
		}
	}()
	select {
	case v := <-made:
		return v, nil
	case <-failed:
		return nil, st.cause
	}
}

// read gets a value as the caller's own from the state's db or a snapshot of it.
func (st *state) read(r pebble.Reader, key []byte) (v []byte, err error) {
	_, err = pebblefs.Lookup(r, stored(key), func(p []byte) error {
		v = bytes.Clone(p)
		return nil
	})
	return v, err
}

// scan yields the pairs of r and returns the error it met, if any.
func scan(ctx context.Context, r pebble.Reader, from, to []byte, yield func(kv.Pair, error) bool) (more bool, err error) {
	if from, to = stored(from), stored(to); len(from) == 0 {
		from = firstKey
	}
	if to != nil && bytes.Compare(from, to) >= 0 {
		return true, nil
	}
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return true, err
	}
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n&255 == 0 && ctx.Err() != nil {
			yield(kv.Pair{}, ctx.Err())
			return false, it.Close()
		}
		v, err := it.ValueAndErr()
		if err != nil {
			break // Close says it again
		}
		if !yield(kv.Pair{Key: plain(it.Key()), Value: v}, nil) {
			return false, it.Close()
		}
	}
	return true, it.Close()
}

// view implements kv.Snapshot.
type view struct {
	st   *state
	snap *pebble.Snapshot
	once sync.Once
}

// Get implements kv.Reader.
func (v *view) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil || len(key) == 0 {
		return nil, err
	}
	val, err := v.st.read(v.snap, key)
	if err != nil {
		return nil, v.lost(err)
	}
	return val, nil
}

// Scan implements kv.Reader.
func (v *view) Scan(ctx context.Context, from, to []byte) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) {
		if ctx.Err() != nil {
			yield(kv.Pair{}, ctx.Err())
			return
		}
		if more, err := scan(ctx, v.snap, from, to, yield); err != nil {
			if err = v.lost(err); more {
				yield(kv.Pair{}, err)
			}
		}
	}
}

// lost: the snapshot's state cannot be read any more; a new snapshot will be
// of another one.
func (v *view) lost(err error) error {
	v.st.fail(err)
	return fmt.Errorf("%w: snapshot lost: %w", kv.ErrUnavailable, err)
}

// Close implements kv.Snapshot.
func (v *view) Close() {
	v.once.Do(func() {
		_ = v.snap.Close()
		v.st.release()
	})
}
