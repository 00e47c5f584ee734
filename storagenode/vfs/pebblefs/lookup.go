package pebblefs

import (
	"bytes"
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

var point = &pebble.IterOptions{UseL6Filters: true, KeyTypes: pebble.IterKeyTypePointsOnly}

// Lookup gives use the value of a key, which is valid only in it; false where there is
// none. It goes by an iterator, since Pebble's Get does not use the last level's
// filters and reads a block of it instead: with 1,000,000 keys an absent one costs an
// eighth.
func Lookup(r pebble.Reader, key []byte, use func(value []byte) error) (found bool, err error) {
	it, err := r.NewIter(point)
	if err != nil {
		return false, err
	}
	if it.SeekPrefixGE(key) && bytes.Equal(it.Key(), key) {
		var p []byte
		if p, err = it.ValueAndErr(); err == nil {
			found, err = true, use(p)
		}
	}
	err = errors.Join(err, it.Close())
	return found && err == nil, err
}
