package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"kintsugi/cmd/internal/roles"
	"kintsugi/repair"
	"kintsugi/storagenode"
	"kintsugi/storagenode/node"
	"kintsugi/storagenode/rpc"
	"kintsugi/storagenode/vfs"
)

// repairerProcess is a repairer in whatever life.
type repairerProcess struct {
	many *Many
	name string

	mu    sync.Mutex
	life  *life           // guarded by mu, as all below; nil: it is dead
	role  *roles.Repairer // nil: not open
	fleet *rpc.Fleet
}

func (p *repairerProcess) now() *roles.Repairer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.role
}

func (p *repairerProcess) current() *life {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.life
}

func (p *repairerProcess) start(ctx context.Context) error {
	l := p.many.newLife(p.name)
	fleet, _, err := l.openFleet(ctx)
	if err != nil {
		l.kill(func() {})
		return fmt.Errorf("%s: %w", p.name, err)
	}
	role, err := roles.OpenRepairer(ctx, roles.RepairerConfig{
		KV: l.line, Drives: fleet, Scheme: manyScheme, Address: "http://" + l.id,
		Clock: l.clock, Logger: l.logger, TransferMemory: transferMemory,
		Repair: repair.Config{
			Tick: pollEvery, Lease: leaseTime, OutAfter: outAfter, OpTimeout: operateTime, NodeTimeout: namedFor, OrphanInterval: time.Hour,
		},
	})
	if err != nil {
		l.kill(func() { _ = fleet.Close() })
		return fmt.Errorf("%s: %w", p.name, err)
	}
	mux := http.NewServeMux()
	mux.Handle(rpc.AnnouncePath, rpc.NewMembershipHandler(role))
	mux.Handle(roles.NoticesPath, roles.TakeNotices(role.Repairer))
	l.serve(l.newGuard().Wrap(mux))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life, p.role, p.fleet = l, role, fleet
	return nil
}

func (p *repairerProcess) kill() {
	p.mu.Lock()
	l, role, fleet := p.life, p.role, p.fleet
	p.life, p.role, p.fleet = nil, nil, nil
	p.mu.Unlock()
	if l != nil {
		l.kill(func() { role.Close(); _ = fleet.Close() })
	}
}

// storageNode is a storage node in whatever life; its disks outlive it.
type storageNode struct {
	many       *Many
	name, zone string
	dirs       []string

	mu    sync.Mutex
	mem   *vfs.Mem // guarded by mu, as all below
	fault *vfs.Fault
	life  *life // nil: it is dead
	role  *roles.StorageNode
}

func newStorageNode(c *Many, name, zone string, drives int) *storageNode {
	n := &storageNode{many: c, name: name, zone: zone, mem: vfs.NewMem()}
	n.insert()
	for i := range drives {
		n.dirs = append(n.dirs, fmt.Sprintf("/%s/d%d", name, i+1))
	}
	return n
}

// insert puts the disks behind a new fault. Below it they take their time to
// sync.
func (n *storageNode) insert() {
	disks := vfs.NewFault(n.mem)
	disks.Inject(vfs.Rule{Ops: vfs.OpSync, Delay: latency})
	n.fault = vfs.NewFault(disks)
}

// disks are the node's as they are now; rules of the fault end with its life.
func (n *storageNode) disks() (*vfs.Mem, *vfs.Fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mem, n.fault
}

// now gives the node's drives, nil where it is dead.
func (n *storageNode) now() *node.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.role == nil {
		return nil
	}
	return n.role.Node
}

func (n *storageNode) current() *life {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.life
}

func (n *storageNode) start(ctx context.Context) error {
	l := n.many.newLife(n.name)
	_, fault := n.disks()
	var repairers []storagenode.Membership
	for _, r := range n.many.repairers {
		c, err := rpc.NewClient(rpc.Config{Address: "http://" + r.name, Transport: l.transport, Clock: l.clock, OpTime: callTime})
		if err != nil {
			return err
		}
		repairers = append(repairers, c.Membership())
	}
	role, err := roles.OpenStorageNode(ctx, roles.StorageNodeConfig{
		FS: fault, Dirs: n.dirs, Name: n.name, Zone: n.zone, Address: "http://" + n.name, Version: "test", Key: n.many.key,
		Repairers: repairers, Clock: l.clock, Logger: l.logger, SegmentSize: 1 << 20, Grace: graceTime,
		Poll: pollEvery, Announce: pollEvery, Memory: 64 << 20,
	})
	if err != nil {
		l.kill(func() {})
		return fmt.Errorf("%s: %w", n.name, err)
	}
	l.serve(role.Handler())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.life, n.role = l, role
	return nil
}

// kill ends the node and leaves on its disks what was synced.
func (n *storageNode) kill(rng *rand.Rand) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life != nil {
		mem := n.mem.Crash(rng)
		n.drop()
		n.mem = mem
		n.insert()
	}
}

// stop ends the node for good.
func (n *storageNode) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life != nil {
		n.drop()
	}
}

// drop lets go of a life. mu is held.
func (n *storageNode) drop() {
	role, fault := n.role, n.fault
	n.life.kill(func() {
		fault.Clear()
		_ = role.Close()
	})
	n.life, n.role = nil, nil
}

// gatewayProcess is a gateway in whatever life.
type gatewayProcess struct {
	many *Many
	name string
	kept int64 // bytes of memory for what was read or written

	mu    sync.Mutex
	life  *life // guarded by mu, as all below; nil: it is dead
	role  *roles.Gateway
	fleet *rpc.Fleet
}

func (p *gatewayProcess) start(ctx context.Context) error {
	l := p.many.newLife(p.name)
	fleet, cat, err := l.openFleet(ctx)
	if err != nil {
		l.kill(func() {})
		return fmt.Errorf("%s: %w", p.name, err)
	}
	notices := roles.NewNotices(&roles.Leader{Leaders: cat, Clock: l.clock}, l.transport, l.logger)
	role, err := roles.OpenGateway(ctx, roles.GatewayConfig{
		KV: l.line, Drives: fleet, Scheme: manyScheme, AccessKey: accessKey, SecretKey: secretKey, Region: region,
		Damaged: notices.Damaged, Deleted: notices.Deleted, Clock: l.clock, Logger: l.logger,
		TransferMemory: transferMemory, KeptMemory: p.kept,
	})
	if err != nil {
		l.kill(func() { _ = fleet.Close() })
		return fmt.Errorf("%s: %w", p.name, err)
	}
	l.run(func() { notices.Run(l.ctx) })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life, p.role, p.fleet = l, role, fleet
	return nil
}

func (p *gatewayProcess) kill() {
	p.mu.Lock()
	l, fleet := p.life, p.fleet
	p.life, p.role, p.fleet = nil, nil, nil
	p.mu.Unlock()
	if l != nil {
		l.kill(func() { _ = fleet.Close() })
	}
}

func (p *gatewayProcess) now() (*life, http.Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life == nil {
		return nil, nil
	}
	return p.life, p.role.Handler
}
