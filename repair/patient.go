package repair

import (
	"context"
	"fmt"
	"iter"

	"kintsugi/storagenode"
)

// A drive of this process works on its caller's goroutine, and one that hangs
// keeps it, whatever the context says: here it keeps a goroutine of its own, so
// that what waits for it ends with its context and other drives have their turn.

// patiently makes a call that may hang. What it was given may still be used by it
// after an error.
func patiently[T any](ctx context.Context, call func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := call()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, gaveUp(ctx)
	}
}

func gaveUp(ctx context.Context) error {
	return fmt.Errorf("%w: %w", storagenode.ErrUnavailable, context.Cause(ctx))
}

// listPage is how many shards are listed ahead.
const listPage = 256

type listedShard struct {
	info storagenode.ShardInfo
	err  error
}

// listPatiently gives what list gives. It ends with an error where ctx ends.
func listPatiently(ctx context.Context, list iter.Seq2[storagenode.ShardInfo, error]) iter.Seq2[storagenode.ShardInfo, error] {
	return func(yield func(storagenode.ShardInfo, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		pages := make(chan []listedShard)
		go func() {
			defer close(pages)
			var page []listedShard
			send := func() bool {
				select {
				case pages <- page:
					page = nil
					return true
				case <-ctx.Done():
					return false
				}
			}
			for info, err := range list {
				page = append(page, listedShard{info, err})
				if (err != nil || len(page) == listPage) && !send() {
					return
				}
			}
			send()
		}()
		for {
			var page []listedShard
			ok := false
			select {
			case page, ok = <-pages:
			case <-ctx.Done():
			}
			if !ok {
				if ctx.Err() != nil { // it broke off
					yield(storagenode.ShardInfo{}, gaveUp(ctx))
				}
				return
			}
			for _, l := range page {
				if !yield(l.info, l.err) {
					return
				}
			}
		}
	}
}
