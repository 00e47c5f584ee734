package dump

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"golang.org/x/sync/errgroup"

	"kintsugi/metadata/kv"
)

// What Dump and Load answer with.
var (
	// ErrNotEmpty: the store holds something; nothing was written.
	ErrNotEmpty = errors.New("the store is not empty")
	// ErrDiffers: after the load the store does not hold what the dump holds.
	// It stays marked as being loaded, so that nobody uses it.
	ErrDiffers = errors.New("the store does not hold what the dump holds")
)

const (
	batchPairs = kv.MaxTxnOps
	batchBytes = kv.MaxTxnBytes / 2
	inFlight   = 8
	// maxTries bounds how often a batch is put: to put it again does no harm.
	maxTries = 20
)

// Dump writes the newest state of a store. A store that a load has not
// finished is refused.
func Dump(ctx context.Context, s kv.Store, w io.Writer, now time.Time) (Summary, error) {
	snap, err := s.Snapshot(ctx)
	if err != nil {
		return Summary{}, err
	}
	defer snap.Close()
	if v, err := snap.Get(ctx, kv.LoadMark); err != nil || v != nil {
		return Summary{}, errors.Join(err, marked(v))
	}
	var id ID
	_, _ = rand.Read(id[:]) // never fails
	return Write(w, id, now, snap.Scan(ctx, nil, nil))
}

func marked(v []byte) error {
	if v == nil {
		return nil
	}
	return errors.New("a load of this store was not finished")
}

// Load fills an empty store with a dump and proves that it holds the same: it
// verifies the whole dump, marks the store, puts all pairs, reads everything
// back, compares, and takes the mark away, together with putting also. open
// gives the dump from its start. A load of the same dump that was cut off is
// resumed; anything else in the store: ErrNotEmpty. progress may be nil.
func Load(ctx context.Context, s kv.Store, open func() (io.ReadCloser, error), also []kv.Pair, progress func(done, of uint64)) (Summary, error) {
	if progress == nil {
		progress = func(uint64, uint64) {}
	}
	var head Head
	var want Summary
	err := each(open, func(r io.Reader) (err error) {
		head, want, err = Read(r, func(p kv.Pair) error {
			if bytes.Equal(p.Key, kv.LoadMark) {
				return fmt.Errorf("%w: it holds the mark of a load", ErrDamaged)
			}
			return nil
		})
		return err
	})
	if err != nil {
		return Summary{}, err
	}
	if err := begin(ctx, s, head.ID); err != nil {
		return Summary{}, err
	}
	err = each(open, func(r io.Reader) error { return fill(ctx, s, r, want, progress) })
	if err != nil {
		return Summary{}, err
	}
	got, err := summarize(ctx, s)
	if err != nil {
		return Summary{}, fmt.Errorf("read back: %w", err)
	}
	if !got.Equal(want) {
		return got, fmt.Errorf("%w: %d pairs, %d bytes instead of %d pairs, %d bytes", ErrDiffers, got.Pairs(), got.Bytes(), want.Pairs(), want.Bytes())
	}
	return got, again(ctx, func() error {
		return kv.Update(ctx, s, maxTries, func(t kv.Txn) error {
			v, err := t.Get(ctx, kv.LoadMark)
			if err != nil || v == nil { // an earlier try of unknown outcome was done
				return err
			}
			if !bytes.Equal(v, head.ID[:]) {
				return fmt.Errorf("%w: another load goes on in it", ErrNotEmpty)
			}
			t.Delete(kv.LoadMark)
			for _, p := range also {
				t.Put(p.Key, p.Value)
			}
			return nil
		})
	})
}

func each(open func() (io.ReadCloser, error), f func(io.Reader) error) error {
	r, err := open()
	if err != nil {
		return err
	}
	return errors.Join(f(r), r.Close())
}

// begin marks the store as being loaded from a dump.
func begin(ctx context.Context, s kv.Store, id ID) error {
	return again(ctx, func() error {
		return kv.Update(ctx, s, maxTries, func(t kv.Txn) error {
			v, err := t.Get(ctx, kv.LoadMark)
			switch {
			case err != nil:
				return err
			case bytes.Equal(v, id[:]):
				return nil // this load, cut off before
			case v != nil:
				return fmt.Errorf("%w: a load of another dump was begun in it", ErrNotEmpty)
			}
			for p, err := range s.Scan(ctx, nil, nil) {
				if err != nil {
					return err
				}
				return fmt.Errorf("%w: it holds the key %q and perhaps more", ErrNotEmpty, p.Key)
			}
			t.Put(kv.LoadMark, id[:])
			return nil
		})
	})
}

// fill puts all pairs, several transactions at a time.
func fill(ctx context.Context, s kv.Store, r io.Reader, want Summary, progress func(done, of uint64)) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(inFlight)
	var batch []kv.Pair
	var size int
	var done uint64
	send := func() {
		b := batch
		batch, size = nil, 0
		done += uint64(len(b))
		g.Go(func() error { return putAll(gctx, s, b) })
		progress(done, want.Pairs())
	}
	_, got, err := Read(r, func(p kv.Pair) error {
		if n := len(p.Key) + len(p.Value); len(batch) == batchPairs || size+n > batchBytes && len(batch) > 0 {
			send()
		}
		batch = append(batch, kv.Pair{Key: bytes.Clone(p.Key), Value: bytes.Clone(p.Value)})
		size += len(p.Key) + len(p.Value)
		return gctx.Err()
	})
	if err == nil && len(batch) > 0 {
		send()
	}
	if werr := g.Wait(); werr != nil {
		return werr // the first cause
	}
	if err == nil && !got.Equal(want) {
		err = fmt.Errorf("%w: it changed while it was read", ErrDamaged)
	}
	return err
}

func putAll(ctx context.Context, s kv.Store, batch []kv.Pair) error {
	return again(ctx, func() error {
		t, err := s.Begin(ctx)
		if err != nil {
			return err
		}
		for _, p := range batch {
			t.Put(p.Key, p.Value)
		}
		return t.Commit(ctx)
	})
}

// again repeats what may be done several times while the store is not
// available or an outcome is unknown.
func again(ctx context.Context, f func() error) (err error) {
	for n := range maxTries {
		if err = f(); !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrUnknown) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(time.Second, time.Duration(n*n)*20*time.Millisecond)):
		}
	}
	return err
}

// summarize reads everything but the mark of a load.
func summarize(ctx context.Context, s kv.Store) (Summary, error) {
	snap, err := s.Snapshot(ctx)
	if err != nil {
		return Summary{}, err
	}
	defer snap.Close()
	sum := newSummer()
	for p, err := range unmarked(snap.Scan(ctx, nil, nil)) {
		if err != nil {
			return Summary{}, err
		}
		if _, err := sum.add(p); err != nil {
			return Summary{}, fmt.Errorf("key %q: %w", p.Key, err)
		}
	}
	return sum.summary(), nil
}

func unmarked(pairs iter.Seq2[kv.Pair, error]) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) {
		for p, err := range pairs {
			if bytes.Equal(p.Key, kv.LoadMark) {
				continue
			}
			if !yield(p, err) {
				return
			}
		}
	}
}
