package cluster

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"

	"kintsugi/cmd/internal/cluster/network"
	"kintsugi/storagenode/clock"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/rpc/auth"
)

// life is one run of a process: its place on the network, its line to the
// metadata, its clock. A killed one can do nothing any more, whatever its
// goroutines still try.
type life struct {
	name      string // of the host
	id        string // of this life
	many      *Many
	host      *network.Host
	line      *line
	clock     clock.Clock
	logger    *slog.Logger
	base      *rpc.Connections
	transport *auth.Transport // proves who we are, over base
	ctx       context.Context // until it is killed
	cancel    context.CancelFunc
	server    *http.Server // nil: serves nobody
	work      sync.WaitGroup

	mu     sync.Mutex
	frozen chan struct{} // closed when it goes on; nil: it does; guarded by mu, as all below
	over   bool
}

// run does f as a part of the process; false where it is dead.
func (l *life) run(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.work.Go(f)
	}
	return !l.over
}

func (c *Many) newLife(name string) *life {
	c.mu.Lock()
	c.lives++
	n := c.lives
	c.mu.Unlock()
	l := &life{name: name, id: lifeID(name, n), many: c, host: c.net.Host(name)}
	l.clock = watch{c.machine(name), l}
	l.line = c.engine.line(l.id, c.seed<<16+uint64(n))
	l.logger = slog.New(c.cfg.Logger.Handler()).With("at", l.id)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.base = rpc.NewTransport(nil)
	l.base.Dial = l.host.DialContext
	l.transport = auth.NewTransport(c.key, l.base, l.clock)
	return l
}

// serve takes requests of other processes, authenticated.
func (l *life) serve(guarded http.Handler) {
	l.server = &http.Server{Handler: guarded, ErrorLog: slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelError)}
	rpc.Configure(l.server)
	listener := l.host.Listen()
	l.run(func() { _ = l.server.Serve(listener) })
}

func (l *life) newGuard() *auth.Guard {
	return auth.NewGuard(auth.GuardConfig{Key: l.many.key, Clock: l.clock})
}

// kill ends the life at once. What is left of it is cleared away by end, in
// the background.
func (l *life) kill(end func()) {
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.host.Die()
	l.line.die()
	l.thaw()
	l.cancel()
	l.many.gone.Go(func() {
		if l.server != nil {
			_ = l.server.Close()
		}
		end()
		l.work.Wait()
		l.base.CloseIdleConnections()
	})
}

// freeze has the process stand still, as SIGSTOP does: its peers' connections
// stay, and are silent. What it had begun it finishes after thaw.
func (l *life) freeze() {
	l.mu.Lock()
	if l.frozen == nil {
		l.frozen = make(chan struct{})
	}
	l.mu.Unlock()
	l.line.set(lineFrozen)
	l.many.alone(l.name, network.Silent)
}

func (l *life) thaw() {
	l.mu.Lock()
	if l.frozen != nil {
		close(l.frozen)
		l.frozen = nil
	}
	l.mu.Unlock()
	l.many.alone(l.name, network.Pass)
	l.line.set(linePasses)
}

func (l *life) frozenNow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frozen != nil
}

// runs waits while the process is frozen; false where ctx ends.
func (l *life) runs(ctx context.Context) bool {
	for {
		l.mu.Lock()
		c := l.frozen
		l.mu.Unlock()
		if c == nil {
			return true
		}
		select {
		case <-c:
		case <-ctx.Done():
			return false
		}
	}
}
