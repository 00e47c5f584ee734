package acceptance

import (
	"testing"
	"time"

	"kintsugi/cmd/internal/load"
)

// What one operation may take, with all its tries, while something is broken that
// the store must survive. A slow machine takes longer: see judgeWaits.
const (
	longestRead  = 5 * time.Second
	longestWrite = 10 * time.Second
	// calmTime is what the slowest operation takes on a quiet machine while nothing
	// is broken.
	calmTime = time.Second
)

// span is a time in which something was broken.
type span struct {
	what     string
	from, to time.Time
	patient  bool // clients may have waited for longer: their own gateway was cut off
}

// while notes the time that f takes as one in which something was broken.
func (s *site) while(what string, patient bool, f func()) {
	from := time.Now()
	f()
	s.broken = append(s.broken, span{what, from, time.Now(), patient})
}

// judgeWaits fails where an operation took too long that was under way while
// something was broken. Those that were not tell how slow the machine is.
func judgeWaits(t *testing.T, s *site, all []load.Slow) {
	t.Helper()
	in := func(o load.Slow) *span {
		for i, b := range s.broken {
			if o.Began.Before(b.to) && o.Began.Add(o.Took).After(b.from) {
				return &s.broken[i]
			}
		}
		return nil
	}
	calm := calmTime
	for _, o := range all {
		if in(o) == nil {
			calm = max(calm, o.Took)
		}
	}
	t.Logf("while nothing was broken the slowest operation took %s", calm)
	for _, o := range all {
		most := longestWrite
		if o.Kind == "get" {
			most = longestRead
		}
		most = time.Duration(float64(most) * float64(calm) / float64(calmTime))
		if b := in(o); b != nil && !b.patient && o.Took > most {
			t.Errorf("%s: a %s of %s took %s, at most %s", b.what, o.Kind, o.Key, o.Took, most)
		}
	}
}
