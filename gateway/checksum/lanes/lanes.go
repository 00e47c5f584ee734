// Package lanes computes the MD5 of several streams side by side.
//
// Each step of MD5 waits for the one before, so that a lone stream leaves most
// of a processor idle while it keeps it busy. A Group takes what several
// goroutines have ready at the same time and hashes up to eight streams with
// the instructions of one (blocks_amd64.s, which needs AVX-512 or AVX2), in the
// time that two would take one after another. So it pays to wait a little for streams that
// are announced. Where there are none, or the processor cannot do it, crypto/md5
// does the work on the caller's goroutine.
package lanes

import (
	"crypto/md5"
	"encoding"
	"encoding/binary"
	"hash"
	"runtime"
	"sync"
	"time"
)

const (
	width = 8
	// least is how many bytes are worth meeting others for.
	least = 16 << 10
	// round is how many bytes of each stream are hashed before others may join.
	round = 32 << 10
	// yields is how often a goroutine that is about to hash lets those that
	// are ready go first; what they bring comes along.
	yields = 2
	// patience is how long it waits for streams that are announced: on a busy
	// machine others use the processor meanwhile, on an idle one it is what a
	// few hundred KiB cost alone.
	patience = 500 * time.Microsecond
)

// Group is where streams meet. The zero value is ready; it is safe for
// concurrent use.
type Group struct {
	mu        sync.Mutex
	waiting   []*Stream // first come, first served
	led       bool      // one of the writers hashes for all
	announced int       // streams that will bring more
	came      chan struct{}
}

// Stream is the MD5 of one stream, a hash.Hash. It is for one goroutine at a
// time.
type Stream struct {
	group *Group
	md5   hash.Hash
	size  uint64

	// Of a Write that is under way, guarded by who holds the stream: the
	// group's leader, or the writer.
	left      []byte
	announced bool
	turn      chan bool // true: all is hashed; false: lead
	state     [stateSize]byte
}

// What crypto/md5 marshals: its name, four words, an unfinished block, the
// size, all big endian.
const (
	stateWords = 4
	stateTotal = stateWords + 16 + md5.BlockSize
	stateSize  = stateTotal + 8
)

// New starts a stream.
func (g *Group) New() *Stream {
	return &Stream{group: g, md5: md5.New(), turn: make(chan bool, 1)}
}

// Size implements hash.Hash.
func (s *Stream) Size() int { return md5.Size }

// BlockSize implements hash.Hash.
func (s *Stream) BlockSize() int { return md5.BlockSize }

// Announce says that the stream will bring much, until Sum or Reset.
func (s *Stream) Announce() { s.announce(true) }

func (s *Stream) announce(on bool) {
	if s.announced == on {
		return
	}
	s.announced = on
	s.group.mu.Lock()
	if on {
		s.group.announced++
	} else {
		s.group.announced--
	}
	s.group.mu.Unlock()
}

// Sum implements hash.Hash.
func (s *Stream) Sum(b []byte) []byte {
	s.announce(false)
	return s.md5.Sum(b)
}

// Reset implements hash.Hash.
func (s *Stream) Reset() {
	s.announce(false)
	s.md5.Reset()
	s.size = 0
}

// Write implements hash.Hash. It returns when all of p is hashed, perhaps by
// another goroutine, and perhaps after having hashed what others brought.
func (s *Stream) Write(p []byte) (int, error) {
	n := len(p)
	if n >= least && available() {
		if odd := int(s.size % md5.BlockSize); odd > 0 {
			s.add(p[:md5.BlockSize-odd])
			p = p[md5.BlockSize-odd:]
		}
		whole := len(p) &^ (md5.BlockSize - 1)
		s.left = p[:whole]
		s.group.hash(s)
		p = p[whole:]
	}
	s.add(p)
	return n, nil
}

func (s *Stream) add(p []byte) {
	s.md5.Write(p)
	s.size += uint64(len(p))
}

// hash has all that is left of s hashed.
func (g *Group) hash(s *Stream) {
	g.mu.Lock()
	g.waiting = append(g.waiting, s)
	wait := g.led
	g.led = true
	if g.came == nil {
		g.came = make(chan struct{}, 1)
	}
	g.mu.Unlock()
	if wait {
		select {
		case g.came <- struct{}{}:
		default:
		}
		if <-s.turn {
			return
		}
	}
	g.gather()
	g.lead(s)
}

// gather waits for streams that are announced, for a while.
func (g *Group) gather() {
	var timer *time.Timer
	for {
		g.mu.Lock()
		missing := min(width, g.announced) - len(g.waiting)
		g.mu.Unlock()
		switch {
		case missing <= 0:
			return
		case timer == nil:
			timer = time.NewTimer(patience)
			defer timer.Stop()
		}
		select {
		case <-g.came:
		case <-timer.C:
			return
		}
	}
}

// lead hashes what waits until s is done, and leaves the rest to another.
func (g *Group) lead(s *Stream) {
	var hold [width]*Stream
	for {
		for range yields {
			runtime.Gosched()
		}
		g.mu.Lock()
		now := hold[:copy(hold[:], g.waiting)]
		g.waiting = g.waiting[:copy(g.waiting, g.waiting[len(now):])]
		g.mu.Unlock()
		advance(now)
		done := len(s.left) == 0
		g.mu.Lock()
		for _, o := range now {
			switch {
			case len(o.left) > 0:
				g.waiting = append(g.waiting, o)
			case o != s:
				o.turn <- true
			}
		}
		if done {
			if g.led = len(g.waiting) > 0; g.led {
				g.waiting[0].turn <- false
			}
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
	}
}

// advance hashes a round of streams: as much as each of them has.
func advance(now []*Stream) {
	n := round
	for _, s := range now {
		n = min(n, len(s.left))
	}
	if len(now) == 1 {
		now[0].add(now[0].left[:n])
		now[0].left = now[0].left[n:]
		return
	}
	var words [4][width]uint32
	var data [width]*byte
	for lane := range data {
		s := now[lane%len(now)] // lanes without a stream repeat one
		data[lane] = &s.left[0]
		if lane < len(now) {
			s.load(&words, lane)
		}
	}
	blocks8(&words, &data, n/md5.BlockSize)
	for lane, s := range now {
		s.left = s.left[n:]
		s.size += uint64(n)
		s.store(&words, lane)
	}
}

// load takes the state out of crypto/md5. It is at the end of a block.
func (s *Stream) load(words *[4][width]uint32, lane int) {
	b, err := s.md5.(encoding.BinaryAppender).AppendBinary(s.state[:0])
	if err != nil || len(b) != stateSize {
		panic("lanes: crypto/md5 has another state")
	}
	for i := range words {
		words[i][lane] = binary.BigEndian.Uint32(b[stateWords+4*i:])
	}
}

// store puts the state back.
func (s *Stream) store(words *[4][width]uint32, lane int) {
	b := s.state[:]
	for i := range words {
		binary.BigEndian.PutUint32(b[stateWords+4*i:], words[i][lane])
	}
	binary.BigEndian.PutUint64(b[stateTotal:], s.size)
	if err := s.md5.(encoding.BinaryUnmarshaler).UnmarshalBinary(b); err != nil {
		panic("lanes: crypto/md5 refuses its state")
	}
}
