package rpc

import (
	"context"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"kintsugi/storagenode"
	"kintsugi/storagenode/rpc/auth"
	"kintsugi/storagenode/storetest"
)

// lost is a connection whose other end may be gone without a word.
type lost struct {
	net.Conn
	gone  *atomic.Bool
	tried *atomic.Int32 // how often it was written to since
}

func (c *lost) Write(p []byte) (int, error) {
	if !c.gone.Load() {
		return c.Conn.Write(p)
	}
	c.tried.Add(1)
	return len(p), nil
}

// TestNodeBehindTheSameNameMoves: a node is at another address of the same name, and
// the former says nothing any more, nor that it is gone. Of the many connections that
// were left idle there no more are tried than it takes to find that out.
func TestNodeBehindTheSameNameMoves(t *testing.T) {
	id := storagenode.DriveID{1}
	p := newProcess(t, map[storagenode.DriveID]storagenode.ShardStore{id: storetest.NewMemory()})
	pool := NewTransport(nil)
	defer pool.CloseIdleConnections()
	gone, tried := &atomic.Bool{}, &atomic.Int32{}
	back := make(chan struct{})
	pool.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		moved := gone.Load()
		if moved {
			select {
			case <-back:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, p.address)
		if err == nil && !moved {
			c = &lost{c, gone, tried}
		}
		return c, err
	}
	at, _ := url.Parse("http://node.test:9100")
	f, err := OpenFleet(t.Context(), FleetConfig{
		Nodes:     func(context.Context) ([]string, error) { return []string{at.String()}, nil },
		Transport: auth.NewTransport(testKey(t), pool, nil), Poll: 50 * time.Millisecond, PollTime: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	eventually(t, "the node is found", func() bool { return p.state(f, 1) == storagenode.DriveActive })
	const many = 20
	for range many {
		c, err := pool.dial(t.Context(), at.String(), at)
		if err != nil {
			t.Fatal(err)
		}
		pool.give(c)
	}
	gone.Store(true)
	eventually(t, "the node is missed", func() bool { return p.state(f, 1) == storagenode.DriveDown })
	close(back)
	eventually(t, "the node is found again", func() bool { return p.state(f, 1) == storagenode.DriveActive })
	if n := tried.Load(); n > many/4 {
		t.Errorf("%d of %d connections that lead nowhere were tried", n, many)
	}
}
