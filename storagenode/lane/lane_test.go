package lane

import (
	"testing"
	"testing/synctest"
	"time"
)

// What comes while a slow request is the only one left under way does not wait
// for somebody else to come: one that began later and has ended relieves nobody.
func TestLaneLeavesNobodyBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, sent := make(chan struct{}), make(chan int, 3)
		var l Lane[int]
		l.Take = func(waiting []int) (group, rest []int) { return waiting, nil }
		l.Send = func(group []int) {
			if group[0] == 1 {
				<-slow
			}
			for _, v := range group {
				sent <- v
			}
		}
		l.Add(1)
		time.Sleep(2 * slowFlight)
		l.Add(2) // goes in a further request, which ends at once
		synctest.Wait()
		if v := <-sent; v != 2 {
			t.Fatalf("%d was sent first", v)
		}
		time.Sleep(slowFlight / 4)
		l.Add(3)
		synctest.Wait()
		close(slow)
		synctest.Wait()
		if len(sent) != 2 {
			t.Fatal("one that waited was left behind when the slow request ended")
		}
	})
}
