package lane

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// travel has clients ask again and again through a lane, each a while after its
// answer, and returns the sizes of the groups and how long all that took.
func travel(clients, times int, request, think time.Duration) (groups []int, took time.Duration) {
	l := Lane[chan struct{}]{
		Gather: true,
		Take:   func(waiting []chan struct{}) (group, rest []chan struct{}) { return waiting, nil },
		Send: func(group []chan struct{}) {
			groups = append(groups, len(group))
			time.Sleep(request)
			for _, answered := range group {
				close(answered)
			}
		},
	}
	begun := time.Now()
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			time.Sleep(time.Duration(i) * request / 4) // they begin apart
			for range times {
				answered := make(chan struct{})
				l.Add(answered)
				<-answered
				time.Sleep(think)
			}
		})
	}
	all.Wait()
	return groups, time.Since(begun)
}

// Clients that ask again at once travel together, not in two halves.
func TestCompanyIsGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		groups, _ := travel(8, 100, time.Millisecond, 300*time.Microsecond)
		full := 0
		for _, n := range groups {
			if n == 8 {
				full++
			}
		}
		if full < 90 {
			t.Fatalf("of %d groups %d had everybody in them: %v", len(groups), full, groups)
		}
	})
}

// Who is alone waits for nobody.
func TestAloneWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, took := travel(1, 100, time.Millisecond, 300*time.Microsecond)
		if want := 100 * 1300 * time.Microsecond; took != want {
			t.Fatalf("took %v, want %v", took, want)
		}
	})
}

// Where those expected do not come in time, hardly any group waits for them.
func TestWaitsThatDoNotPayEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const request, think, times = time.Millisecond, 1100 * time.Microsecond, 200
		_, took := travel(4, times, request, think)
		if most := times * (request + think) * 115 / 100; took > most {
			t.Fatalf("took %v, want %v at most", took, most)
		}
	})
}

// Where more wait than a group may have, nobody waits for those who cannot be in
// it.
func TestFullGroupsWaitForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const request = time.Millisecond
		l := Lane[chan struct{}]{
			Gather: true,
			Take: func(waiting []chan struct{}) (group, rest []chan struct{}) {
				n := min(len(waiting), 4)
				return append([]chan struct{}{}, waiting[:n]...), append([]chan struct{}{}, waiting[n:]...)
			},
			Send: func(group []chan struct{}) {
				time.Sleep(request)
				for _, answered := range group {
					close(answered)
				}
			},
		}
		begun := time.Now()
		var all sync.WaitGroup
		for range 12 {
			all.Go(func() {
				for range 50 {
					answered := make(chan struct{})
					l.Add(answered)
					<-answered
					time.Sleep(request / 3)
				}
			})
		}
		all.Wait()
		if took, most := time.Since(begun), 12*50/4*request*105/100; took > most {
			t.Fatalf("took %v, want %v at most", took, most)
		}
	})
}
