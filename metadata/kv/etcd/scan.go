package etcd

import (
	"bytes"
	"context"
	"iter"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kintsugi/metadata/kv"
)

const (
	// firstPage is that of a scan which says nothing of its length, small: most
	// want a few pairs. Pages grow from there.
	firstPage  = 16
	pageGrowth = 8
	maxPage    = 1024
	// pageBytes is how large pages should be; one may be up to maxAnswer.
	pageBytes = 1 << 20
)

// Scan implements kv.Reader. All of it is read at the revision of its first
// page; where the members compact that away before the end, it ends with
// kv.ErrUnavailable.
func (s *Store) Scan(ctx context.Context, from, to []byte) iter.Seq2[kv.Pair, error] {
	return s.Page(ctx, from, to, firstPage)
}

// Page implements kv.Pager: what is wanted is one request, if it is not too much
// for one.
func (s *Store) Page(ctx context.Context, from, to []byte, n int) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) { s.scan(ctx, from, to, 0, n, yield) }
}

// Scan implements kv.Reader.
func (v *snapshot) Scan(ctx context.Context, from, to []byte) iter.Seq2[kv.Pair, error] {
	return v.Page(ctx, from, to, firstPage)
}

// Page implements kv.Pager.
func (v *snapshot) Page(ctx context.Context, from, to []byte, n int) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) { v.s.scan(ctx, from, to, v.rev, n, yield) }
}

// scan reads page by page, n pairs at first; rev 0 means the newest.
func (s *Store) scan(ctx context.Context, from, to []byte, rev int64, n int, yield func(kv.Pair, error) bool) {
	w := walk{s: s, at: s.key(from), end: s.end, limit: max(1, min(n, maxPage))}
	if to != nil {
		w.end = s.key(to)
	}
	if err := s.usable(ctx); err != nil {
		yield(kv.Pair{}, err)
		return
	}
	for bytes.Compare(w.at, w.end) < 0 {
		stop := w.stop()
		resp, err := s.ask(ctx, 4*s.cfg.Timeout, &pb.RangeRequest{
			Key: w.at, RangeEnd: stop, Limit: int64(w.limit), Revision: rev, Serializable: rev != 0,
		})
		if err == errTooBig && w.limit > 1 {
			w.limit = max(1, w.limit/pageGrowth)
			continue
		}
		if err != nil {
			yield(kv.Pair{}, ended(err))
			return
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		for _, p := range resp.Kvs {
			if err := s.usable(ctx); err != nil {
				yield(kv.Pair{}, err)
				return
			}
			if !yield(kv.Pair{Key: p.Key[len(s.data):], Value: p.Value}, nil) {
				return
			}
		}
		w.step(stop, resp)
	}
}

// walk is where a scan is.
type walk struct {
	s       *Store
	at, end []byte
	limit   int // pairs of the next page
	short   int // windows in a row that held too few
}

// stop chooses the end of the next page's range. A member counts all keys of a
// range even when it is asked for a few of them, so that a page of a large
// bucket would cost as much as the bucket is large; where keys are known to
// lie thick, the range ends nearer. It changes what a page costs, never what a
// scan sees.
func (w *walk) stop() []byte {
	if w.short >= maxShort {
		return w.end // a gap: look all the way
	}
	if near := w.s.density.window(w.at, len(w.s.data), 2*w.limit+firstPage); near != nil && bytes.Compare(near, w.end) < 0 {
		return near
	}
	return w.end
}

// step moves on after a page.
func (w *walk) step(stop []byte, resp *pb.RangeResponse) {
	n, size := len(resp.Kvs), 0
	for _, p := range resp.Kvs {
		size += len(p.Key) + len(p.Value)
	}
	w.s.density.learn(w.at, len(w.s.data), stop, w.end, resp)
	if n*2 < w.limit && !resp.More {
		w.short++
	} else {
		w.short = 0
	}
	if resp.More && n > 0 {
		last := resp.Kvs[n-1].Key
		w.at = append(append(make([]byte, 0, len(last)+1), last...), 0)
	} else {
		w.at = stop
	}
	w.limit = min(w.limit*pageGrowth, maxPage)
	if n > 0 {
		w.limit = max(1, min(w.limit, pageBytes*n/max(size, 1)))
	}
}
