package member

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/etcd"
)

// SnapshotFile is a snapshot that a member wrote, or any of etcd's, opened to be
// read: a kv.Store that takes no transactions.
type SnapshotFile struct {
	dir         string // of a copy: opening a database changes it
	data        backend.Backend
	kv          mvcc.WatchableKV
	rev         int64
	start, stop []byte
}

var _ kv.Store = (*SnapshotFile)(nil)

// errSnapshotFile refuses what a file cannot do.
var errSnapshotFile = fmt.Errorf("a snapshot can only be read: %w", kv.ErrUnavailable)

// snapshotPage is how many pairs are read at a time.
const snapshotPage = 1024

// OpenSnapshot verifies a snapshot and opens a copy of it, which takes as much
// space in the folder for temporary files until Close. prefix is that of the
// metadata URL; none means etcd.DefaultPrefix.
func OpenSnapshot(path, prefix string) (_ *SnapshotFile, err error) {
	if err := VerifyBackup(path); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", path, err)
	}
	f := &SnapshotFile{}
	f.start, f.stop = etcd.DataRange(prefix)
	if f.dir, err = os.MkdirTemp("", "kintsugi-snapshot-*"); err != nil {
		return nil, err
	}
	db := filepath.Join(f.dir, "db")
	if err := copyDatabase(db, path); err != nil {
		return nil, errors.Join(err, os.RemoveAll(f.dir))
	}
	log := zap.NewNop()
	cfg := backend.DefaultBackendConfig(log)
	cfg.Path, cfg.UnsafeNoFsync = db, true
	f.data = backend.New(cfg)
	f.kv = mvcc.New(log, f.data, &lease.FakeLessor{}, mvcc.StoreConfig{})
	f.rev = f.kv.Rev()
	return f, nil
}

// copyDatabase copies a snapshot without the sum at its end.
func copyDatabase(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(out, in, st.Size()-sha256.Size)
	return errors.Join(err, out.Close())
}

// Close implements kv.Store; the copy is deleted.
func (f *SnapshotFile) Close() error {
	f.kv.Close()
	return errors.Join(f.data.Close(), os.RemoveAll(f.dir))
}

// Get implements kv.Reader.
func (f *SnapshotFile) Get(ctx context.Context, key []byte) ([]byte, error) {
	r, err := f.kv.Range(ctx, bytes.Join([][]byte{f.start, key}, nil), nil, mvcc.RangeOptions{Rev: f.rev})
	if err != nil || len(r.KVs) == 0 {
		return nil, err
	}
	return r.KVs[0].Value, nil
}

// Scan implements kv.Reader.
func (f *SnapshotFile) Scan(ctx context.Context, from, to []byte) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) {
		at, end := bytes.Join([][]byte{f.start, from}, nil), f.stop
		if to != nil {
			end = bytes.Join([][]byte{f.start, to}, nil)
		}
		for bytes.Compare(at, end) < 0 {
			r, err := f.kv.Range(ctx, at, end, mvcc.RangeOptions{Limit: snapshotPage, Rev: f.rev})
			if err != nil {
				yield(kv.Pair{}, err)
				return
			}
			for _, p := range r.KVs {
				if !yield(kv.Pair{Key: p.Key[len(f.start):], Value: p.Value}, nil) {
					return
				}
			}
			if len(r.KVs) < snapshotPage {
				return
			}
			at = append(r.KVs[len(r.KVs)-1].Key, 0)
		}
	}
}

// Snapshot implements kv.Store.
func (f *SnapshotFile) Snapshot(context.Context) (kv.Snapshot, error) { return frozen{f}, nil }

// frozen is the one state of a snapshot.
type frozen struct{ *SnapshotFile }

// Close implements kv.Snapshot.
func (frozen) Close() {}

// Begin implements kv.Store: there are no transactions.
func (f *SnapshotFile) Begin(context.Context) (kv.Txn, error) { return nil, errSnapshotFile }
