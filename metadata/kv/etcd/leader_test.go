package etcd_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"kintsugi/metadata/kv"
	"kintsugi/metadata/kv/etcd"
)

func (p *proxy) answered() (n int) {
	p.set(func(p *proxy) {
		for _, k := range p.links {
			n += k.answered
		}
	})
	return n
}

// The member that leads gets commits and small reads, once it is known; where it
// says nothing, the others get them.
func TestLeaderIsAsked(t *testing.T) {
	s := start(t, 3)
	var proxies []*proxy
	st := s.open("/x/", func(c *etcd.Config) {
		c.Timeout = 20 * time.Second
		c.Endpoints = nil
		for i := range s.clients {
			proxies = append(proxies, newProxy(t, s.clients[i]))
			c.Endpoints = append(c.Endpoints, proxies[i].address())
		}
	})
	leader := s.leader()
	others := func() (n int) {
		for i, p := range proxies {
			if i != leader {
				n += p.answered()
			}
		}
		return n
	}
	work := func() {
		for i := range 50 {
			mustPut(t, st, fmt.Sprint("k", i), "1")
			wantGet(t, st, fmt.Sprint("k", i), "1")
		}
	}
	// A ping or a look for the leader may come in between.
	const little = 1000
	for end, alone := time.Now().Add(time.Minute), false; !alone; {
		elsewhere, there := others(), proxies[leader].answered()
		work()
		alone = others()-elsewhere < little && proxies[leader].answered()-there > 100*20
		if !alone && time.Now().After(end) {
			t.Fatalf("others than the leader answer %d bytes", others()-elsewhere)
		}
	}
	proxies[leader].set(func(p *proxy) { p.holdUp, p.holdDown = true, true })
	begun := time.Now()
	stuck := make(chan error, 1)
	go func() { stuck <- put(t, st, "stuck", "1") }()
	for time.Since(begun) < 2*time.Second { // what comes later notices that it is
		retried(t, time.Minute, st, "k0", "2")
		time.Sleep(50 * time.Millisecond)
	}
	if err := <-stuck; err != nil && !errors.Is(err, kv.ErrUnknown) {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 15*time.Second {
		t.Fatalf("a commit waited %v for a silent leader", took)
	}
	slow := 0
	for i := range 60 {
		begun := time.Now()
		wantGet(t, st, fmt.Sprint("k", 1+i%40), "1")
		if time.Since(begun) > 900*time.Millisecond {
			slow++
		}
	}
	if slow > 20 {
		t.Fatalf("%d of 60 reads waited for a silent leader", slow)
	}
	proxies[leader].set(func(p *proxy) { p.holdUp, p.holdDown = false, false })
	proxies[leader].cut()
	retried(t, time.Minute, st, "k0", "3")
	wantGet(t, st, "k0", "3")
}
