package checksum

import (
	"crypto/md5"
	"hash"
	"sync"

	"kintsugi/gateway/checksum/lanes"
)

// Hashers makes Hashers and reuses what they need. The zero value is ready.
//
// MD5s of larger bodies that are under way at the same time are computed side
// by side: see package lanes.
//
// Safe for concurrent use.
type Hashers struct {
	idle    [SHA256 + 1]sync.Pool // *Hasher, by algorithm
	streams lanes.Group
}

// Hasher computes the MD5 of a stream, which is its ETag, and one additional
// checksum. For one goroutine at a time.
type Hasher struct {
	algorithm Algorithm
	md5       *lanes.Stream
	sum       hash.Hash // nil: none
	size      int64
	home      *Hashers
	running   chan struct{} // nil: nothing was started
}

// New gives a Hasher for MD5 and, unless it is None, the algorithm. Give it
// back with Close.
func (hs *Hashers) New(a Algorithm) *Hasher {
	if a.Size() == 0 {
		a = None
	}
	if h, ok := hs.idle[a].Get().(*Hasher); ok {
		return h
	}
	return &Hasher{algorithm: a, md5: hs.streams.New(), sum: a.New(), home: hs}
}

// Announce says that much is to come, until MD5 is asked for: so that other
// streams wait a little to be hashed with it.
func (h *Hasher) Announce() { h.md5.Announce() }

// Close gives the Hasher back; it waits for what Start began. The Hasher must
// not be used after it.
func (h *Hasher) Close() {
	h.Wait()
	h.md5.Reset()
	if h.sum != nil {
		h.sum.Reset()
	}
	h.size = 0
	h.home.idle[h.algorithm].Put(h)
}

// Write adds to the stream. It never fails.
func (h *Hasher) Write(p []byte) (int, error) {
	h.Wait()
	h.write(p)
	return len(p), nil
}

func (h *Hasher) write(p []byte) {
	h.md5.Write(p)
	if h.sum != nil {
		h.sum.Write(p)
	}
	h.size += int64(len(p))
}

// Start adds to the stream beside the caller, who must not change p until
// Wait, Write, the next Start or a result has returned.
func (h *Hasher) Start(p []byte) {
	h.Wait()
	done := make(chan struct{})
	h.running = done
	go func() {
		defer close(done)
		h.write(p)
	}()
}

// Wait returns when what Start began is done.
func (h *Hasher) Wait() {
	if h.running != nil {
		<-h.running
		h.running = nil
	}
}

// Size is the number of bytes of the stream.
func (h *Hasher) Size() int64 {
	h.Wait()
	return h.size
}

// MD5 of the stream so far.
func (h *Hasher) MD5() (sum [md5.Size]byte) {
	h.Wait()
	h.md5.Sum(sum[:0])
	return sum
}

// Sum is the additional checksum of the stream so far; zero for None.
func (h *Hasher) Sum() Sum {
	h.Wait()
	if h.sum == nil {
		return Sum{}
	}
	s := Sum{algorithm: h.algorithm}
	h.sum.Sum(s.raw[:0])
	return s
}
