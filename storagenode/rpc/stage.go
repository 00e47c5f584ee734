package rpc

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"kintsugi/storagenode"
	"kintsugi/storagenode/lane"
	"kintsugi/storagenode/rpc/auth"
)

// Small shards for one drive travel together: what a call costs both sides is
// more than what a small shard does, and the drive writes those of one call in
// one group.
const (
	// stageMax is the largest payload that travels so, stageAttrs the largest
	// attributes, in bytes; what is larger is worth a call of its own.
	stageMax   = 64 << 10
	stageAttrs = 16 << 10
	// groupShards and groupBytes bound the shards and the payload of a call.
	groupShards = 64
	groupBytes  = 1 << 20
	// stageBudget bounds the bytes that wait for a drive or are on their way to
	// it; beyond, Put has its own bounds.
	stageBudget = 8 << 20
)

// stage is what waits for a drive.
type stage struct {
	waiting lane.Lane[*staged]
	bytes   atomic.Int64
	apart   atomic.Bool // the node is of a version that takes one at a time
}

// staged is a shard on its way: its head as Put has it, and its payload behind
// that.
type staged struct {
	message *[]byte
	head    int // bytes of it
	done    func(error)
}

func (g *staged) payload() []byte { return (*g.message)[g.head:] }

// Stage implements storagenode.Stager.
func (d *Drive) Stage(s storagenode.Shard, done func(error)) bool {
	if len(s.Payload) > stageMax || len(s.Attrs) > stageAttrs || d.stage.apart.Load() ||
		s.Sums != nil && len(s.Sums) != storagenode.SumCount(len(s.Payload)) {
		return false
	}
	if allow := d.client.watch.allow; allow != nil && allow() != nil {
		return false
	}
	size := len(s.Payload) + len(s.Attrs) + 256 // and what else is in a head
	if d.stage.bytes.Add(int64(size)) > stageBudget {
		d.stage.bytes.Add(-int64(size))
		return false
	}
	if s.Sums == nil {
		s.Sums = storagenode.AppendSums(make([]uint64, 0, storagenode.SumCount(len(s.Payload))), s.Payload)
	}
	h := putHead{life: d.life, sync: true, shard: s, payload: uint32(len(s.Payload))}
	g := &staged{message: d.client.buffers.get(size), done: func(err error) {
		d.stage.bytes.Add(-int64(size))
		done(err)
	}}
	*g.message = appendPut((*g.message)[:0], &h)
	g.head = len(*g.message)
	*g.message = append(*g.message, s.Payload...)
	d.stage.waiting.Add(g)
	return true
}

// takeStaged takes as many as fit into one call.
func takeStaged(waiting []*staged) (group, rest []*staged) {
	n, heads, bytes := 0, 2, 0
	for ; n < len(waiting) && n < groupShards; n++ {
		heads += 4 + waiting[n].head
		bytes += len(waiting[n].payload())
		if n > 0 && (heads > auth.MaxHead || bytes > groupBytes) {
			break
		}
	}
	return slices.Clone(waiting[:n]), slices.Delete(waiting, 0, n)
}

// sendStaged makes one call for a group and tells each how it went.
func (d *Drive) sendStaged(group []*staged) {
	said, err := d.putAll(group)
	old := errors.Is(err, errNoSuchCall)
	if old {
		d.stage.apart.Store(true)
	}
	for i, g := range group {
		switch {
		case old:
			g.done(d.putApart(g))
		case err != nil:
			g.done(err)
		default:
			g.done(d.result("put", said[i]))
		}
		d.client.buffers.put(g.message)
	}
}

// putAll makes one call for a group; said is what the drive says of each.
func (d *Drive) putAll(group []*staged) (said []error, err error) {
	head, bulk, size := d.head(), group[0].payload(), 0
	*head = le.AppendUint16(*head, uint16(len(group)))
	for _, g := range group {
		*head = append(le.AppendUint32(*head, uint32(g.head)), (*g.message)[:g.head]...)
		size += len(g.payload())
	}
	if len(group) > 1 {
		all := d.client.buffers.get(size)
		defer d.client.buffers.put(all)
		bulk = (*all)[:0]
		for _, g := range group {
			bulk = append(bulk, g.payload()...)
		}
	}
	said = make([]error, len(group))
	return said, d.do(context.Background(), "puts", head, bulk, func(r *wireReader) error {
		for i := range said {
			said[i] = r.status()
		}
		return r.err
	})
}

// putApart puts one in calls of its own.
func (d *Drive) putApart(g *staged) error {
	var h putHead
	r := wireReader{b: (*g.message)[:g.head]}
	if err := r.put(&h); err != nil {
		return err
	}
	h.shard.Payload = g.payload()
	token, err := d.Put(context.Background(), h.shard)
	if err == nil {
		err = d.Sync(context.Background(), token)
	}
	return err
}
