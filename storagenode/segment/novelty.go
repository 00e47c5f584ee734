package segment

import "kintsugi/storagenode"

// noveltySize is how many blobs novelty remembers one by one.
const noveltySize = 4096

// novelty knows of most new blobs that the index cannot have them, which saves
// a look-up. Blob ids grow with time, but arrive a little out of order: it
// remembers the last ones, and the greatest of those that it forgot.
type novelty struct {
	floor  storagenode.BlobID // no blob above it was forgotten
	newest storagenode.BlobID // no blob above it was ever added
	seen   map[storagenode.BlobID]struct{}
	ring   []storagenode.BlobID
	next   int
}

func newNovelty() *novelty {
	return &novelty{seen: make(map[storagenode.BlobID]struct{}, noveltySize)}
}

// forgetTo starts anew where every blob up to b may be known.
func (n *novelty) forgetTo(b storagenode.BlobID) {
	clear(n.seen)
	n.ring, n.next, n.floor, n.newest = n.ring[:0], 0, later(n.floor, b), later(n.newest, b)
}

// add says that the index has a record of b.
func (n *novelty) add(b storagenode.BlobID) {
	if _, ok := n.seen[b]; ok {
		return
	}
	if len(n.ring) < noveltySize {
		n.ring = append(n.ring, b)
	} else {
		old := n.ring[n.next]
		delete(n.seen, old)
		n.floor = later(n.floor, old)
		n.ring[n.next] = b
		n.next = (n.next + 1) % noveltySize
	}
	n.seen[b] = struct{}{}
	n.newest = later(n.newest, b)
}

// isNew is true only where the index has no record of b.
func (n *novelty) isNew(b storagenode.BlobID) bool {
	if b.Compare(n.floor) <= 0 {
		return false
	}
	_, ok := n.seen[b]
	return !ok
}

func later(a, b storagenode.BlobID) storagenode.BlobID {
	if a.Compare(b) < 0 {
		return b
	}
	return a
}
