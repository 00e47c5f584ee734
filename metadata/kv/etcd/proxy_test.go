package etcd_test

import (
	"net"
	"sync"
	"testing"
	"time"
)

// proxy stands between a store and a member. Per direction it passes bytes on,
// holds them back, or cuts.
type proxy struct {
	t      testing.TB
	l      net.Listener
	target string

	mu          sync.Mutex
	holdUp      bool // to the member
	holdDown    bool // to the store
	cutOnAnswer bool // the first answer cuts instead of being passed on
	links       []*link
}

// link is one connection.
type link struct {
	store, member net.Conn
	held          []byte // to the member
	answered      int    // bytes that came from the member
}

func newProxy(t testing.TB, target string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, l: l, target: target}
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m, err := net.Dial("tcp", target)
			if err != nil {
				_ = c.Close()
				continue
			}
			k := &link{store: c, member: m}
			p.mu.Lock()
			p.links = append(p.links, k)
			p.mu.Unlock()
			go p.up(k)
			go p.down(k)
		}
	}()
	return p
}

func (p *proxy) address() string { return p.l.Addr().String() }

func (p *proxy) up(k *link) {
	buf := make([]byte, 64<<10)
	for {
		n, err := k.store.Read(buf)
		p.mu.Lock()
		if n > 0 {
			if p.holdUp || len(k.held) > 0 {
				k.held = append(k.held, buf[:n]...)
			} else {
				_, _ = k.member.Write(buf[:n])
			}
		}
		held := p.holdUp || len(k.held) > 0
		p.mu.Unlock()
		if err != nil {
			if !held { // what is held back is on the wire: the member learns nothing
				_ = k.member.Close()
			}
			return
		}
	}
}

func (p *proxy) down(k *link) {
	buf := make([]byte, 64<<10)
	for {
		n, err := k.member.Read(buf)
		p.mu.Lock()
		k.answered += n
		switch {
		case n > 0 && p.cutOnAnswer:
			_ = k.store.Close()
			_ = k.member.Close()
		case n > 0 && !p.holdDown:
			_, _ = k.store.Write(buf[:n])
		}
		p.mu.Unlock()
		if err != nil {
			_ = k.store.Close()
			return
		}
	}
}

func (p *proxy) set(f func(*proxy)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.links {
		_ = k.store.Close()
		_ = k.member.Close()
	}
	p.links = nil
}

// heldBack waits until a request is held back and nothing more comes.
func (p *proxy) heldBack() (k *link, n int) {
	p.t.Helper()
	for range 1000 {
		before := n
		p.mu.Lock()
		for _, c := range p.links {
			if len(c.held) > 0 {
				k, n = c, len(c.held)
			}
		}
		p.mu.Unlock()
		if n > 0 && n == before {
			return k, n
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.t.Fatal("no request was held back")
	return nil, 0
}

// release passes the first n bytes held back on to the member and waits for
// its answer.
func (p *proxy) release(k *link, n int) {
	p.t.Helper()
	p.mu.Lock()
	before := k.answered
	_, err := k.member.Write(k.held[:n])
	p.mu.Unlock()
	if err != nil {
		p.t.Fatalf("the late request cannot be delivered: %v", err)
	}
	for range 1000 {
		p.mu.Lock()
		now := k.answered
		p.mu.Unlock()
		if now > before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.t.Fatal("the late request was not answered")
}
