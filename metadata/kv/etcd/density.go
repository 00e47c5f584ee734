package etcd

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"math"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// thick is from how many keys in a range on windows are worth it.
	thick = 4096
	// maxShort is how many windows in a row may hold too few.
	maxShort = 3
	// familyLen is the length of what keys of one kind begin with, about.
	familyLen = 5
)

// density remembers, for places where many keys lie, how far apart they are:
// hints of what a good range for a page would be, nothing more.
type density struct {
	places [64]atomic.Pointer[place]
}

// place says that keys with one beginning differ at byte pos by about gap, as
// a number of 8 bytes.
type place struct {
	pos int
	gap float64
}

var densitySeed = maphash.MakeSeed()

func (d *density) slot(at []byte, base int) *atomic.Pointer[place] {
	return &d.places[maphash.Bytes(densitySeed, at[:min(len(at), base+familyLen)])%uint64(len(d.places))]
}

// window gives the end of a range from at on that may hold about n keys; nil
// where nothing is known.
func (d *density) window(at []byte, base, n int) []byte {
	p := d.slot(at, base).Load()
	if p == nil || len(at) < p.pos {
		return nil
	}
	end := append(make([]byte, 0, p.pos+8), at[:p.pos]...)
	next := float64(number(at, p.pos)) + max(1, p.gap*float64(n))
	if next < math.MaxUint64 {
		return binary.BigEndian.AppendUint64(end, max(uint64(next), number(at, p.pos)+1))
	}
	for i := len(end) - 1; i >= base; i-- { // the least key above all that begin so
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// learn takes in what a page of the range from at to stop showed.
func (d *density) learn(at []byte, base int, stop, end []byte, resp *pb.RangeResponse) {
	slot, n := d.slot(at, base), len(resp.Kvs)
	whole := bytes.Equal(stop, end)
	switch {
	case whole && resp.Count <= thick:
		slot.Store(nil)
	case n >= firstPage:
		first, last := resp.Kvs[0].Key, resp.Kvs[n-1].Key
		pos := 0
		for pos < len(first) && first[pos] == last[pos] {
			pos++
		}
		slot.Store(&place{pos, float64(number(last, pos)-number(first, pos)) / float64(n)})
	case !whole && !resp.More:
		p := slot.Load()
		if p == nil {
			return
		}
		wider := &place{p.pos, max(1, p.gap) * 8}
		if wider.gap > 1<<56 && wider.pos > base {
			wider.pos, wider.gap = wider.pos-1, wider.gap/256
		}
		slot.Store(wider)
	}
}

// number reads 8 bytes from pos on; what is missing is zero.
func number(key []byte, pos int) uint64 {
	var b [8]byte
	if pos < len(key) {
		copy(b[:], key[pos:])
	}
	return binary.BigEndian.Uint64(b[:])
}
