package lanes

import (
	"crypto/md5"
	"fmt"
	"hash"
	"math/rand/v2"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

func noise(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// TestBlocks compares all lanes with crypto/md5, whatever company they have.
func TestBlocks(t *testing.T) {
	if !available() {
		t.Skip("no lanes on this processor")
	}
	for streams := 2; streams <= width; streams++ {
		for _, n := range []int{64, 128, 4096, round, 3*round + 64} {
			g := new(Group)
			var now []*Stream
			var data [][]byte
			for i := range streams {
				s := g.New()
				p := noise(n+1+64*i, uint64(streams*1000+i))
				s.add(p[n : n+64*i : n+64*i]) // states differ, blocks do not begin at 0
				data = append(data, append([]byte(nil), p[n:n+64*i]...))
				s.left = p[1 : n+1] // not aligned
				data[i] = append(data[i], s.left...)
				now = append(now, s)
			}
			for len(now[0].left) > 0 {
				advance(now)
			}
			for i, s := range now {
				if got, want := s.Sum(nil), md5.Sum(data[i]); string(got) != string(want[:]) {
					t.Fatalf("%d streams of %d bytes: lane %d: %x, want %x", streams, n, i, got, want)
				}
			}
		}
	}
}

// TestConcurrentStreams has many streams with pieces of all sizes meet.
func TestConcurrentStreams(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := new(Group)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			s := g.New()
			for range 3 {
				s.Reset()
				p := noise(r.IntN(700_000), seed+uint64(i))
				for rest := p; len(rest) > 0; {
					n := min(len(rest), 1+r.IntN(1<<r.IntN(19)))
					if w, err := s.Write(rest[:n]); w != n || err != nil {
						t.Errorf("wrote %d of %d: %v", w, n, err)
					}
					rest = rest[n:]
					if r.IntN(3) == 0 {
						runtime.Gosched()
					}
				}
				if got, want := s.Sum(nil), md5.Sum(p); string(got) != string(want[:]) {
					t.Errorf("stream %d of %d bytes: %x, want %x", i, len(p), got, want)
				}
			}
		})
	}
	wg.Wait()
	if len(g.waiting) != 0 || g.led {
		t.Fatalf("%d wait, led %v", len(g.waiting), g.led)
	}
}

// BenchmarkStreams compares a Group with crypto/md5 for concurrent streams; see
// cpu-ns/MiB, since the wall clock does not show what a stream costs others.
func BenchmarkStreams(b *testing.B) {
	makers := []struct {
		name string
		make func() hash.Hash
	}{{"crypto", md5.New}, {"lanes", nil}}
	for _, m := range makers {
		for _, streams := range []int{1, 2, 4, 8, 16} {
			b.Run(fmt.Sprintf("%s/%d", m.name, streams), func(b *testing.B) {
				if m.make == nil {
					g := new(Group)
					m.make = func() hash.Hash { return g.New() }
				}
				piece := noise(256<<10, 1)
				b.SetBytes(int64(streams) << 20)
				var before, after syscall.Rusage
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
				for b.Loop() {
					var wg sync.WaitGroup
					for range streams {
						wg.Go(func() {
							h := m.make()
							for range 4 {
								h.Write(piece)
							}
						})
					}
					wg.Wait()
				}
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
				spent := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
				b.ReportMetric(float64(spent)/float64(b.N*streams), "cpu-ns/MiB")
			})
		}
	}
}
