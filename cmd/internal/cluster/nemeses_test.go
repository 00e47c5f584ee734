package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"kintsugi/cmd/internal/cluster/network"
	"kintsugi/cmd/internal/load"
	"kintsugi/storagenode"
	"kintsugi/storagenode/vfs"
)

// nemesis is something that goes wrong for a while; do returns when it is over
// and what it did is undone, as far as somebody has to undo it.
type nemesis struct {
	name  string
	nodes int  // how many nodes it takes away
	loses bool // a drive may lose what it held
	do    func(a *attack) error
}

// attack is a nemesis at work.
type attack struct {
	*ordeal
	rng   *rand.Rand
	nodes []*storageNode
}

// last waits for as long as this nemesis shall last: most often less than it
// takes until drives are OUT, at times longer.
func (a *attack) last() {
	switch a.rng.IntN(4) {
	case 0:
		a.pause(100)
	case 1:
		a.lastLong()
	default:
		a.pause(600)
	}
}

// lastLong is for so long that drives are OUT.
func (a *attack) lastLong() {
	time.Sleep(outAfter + 4*pollTime + time.Duration(a.rng.IntN(500))*time.Millisecond)
}

// pause lasts a quarter of ms at least, and five quarters at most.
func (a *attack) pause(ms int) { pause(a.rng, ms) }

func (a *attack) gateway() *gatewayProcess   { return a.many.gateways[a.rng.IntN(2)] }
func (a *attack) repairer() *repairerProcess { return a.many.repairers[a.rng.IntN(2)] }

// leading is the repairer that leads, or one of them.
func (a *attack) leading() *repairerProcess {
	if r := a.many.leader(); r != nil {
		return r
	}
	return a.repairer()
}

var (
	oneNode = []nemesis{
		{"kill", 1, false, killNodes},
		{"kills, back at once", 1, false, func(a *attack) error {
			for range 1 + a.rng.IntN(4) {
				a.pause(60)
				a.nodes[0].kill(a.rng)
				if err := a.back(a.nodes[0].start); err != nil {
					return err
				}
			}
			return nil
		}},
		{"killed in the midst of a write", 1, false, killMidway},
		{"pause", 1, false, pauseNodes},
		{"partition", 1, false, partitionNodes(network.Lose, true, true)},
		{"nothing reaches it", 1, false, partitionNodes(network.Lose, true, false)},
		{"nothing is heard of it", 1, false, partitionNodes(network.Lose, false, true)},
		{"accepts and is silent", 1, false, partitionNodes(network.Silent, true, true)},
		{"refuses connections", 1, false, partitionNodes(network.Refuse, true, false)},
		{"cut off from a gateway", 1, false, func(a *attack) error { return a.between(a.nodes[0].name, a.gateway().name) }},
		{"cut off from a repairer", 1, false, func(a *attack) error { return a.between(a.nodes[0].name, a.repairer().name) }},
		{"slow network", 1, false, func(a *attack) error {
			d := time.Duration(2+a.rng.IntN(60)) * time.Millisecond
			a.links(a.nodes[0].name, func(from, to string) { a.many.net.Delay(from, to, d) })
			a.last()
			a.links(a.nodes[0].name, func(from, to string) { a.many.net.Delay(from, to, 0) })
			return nil
		}},
		{"resets", 1, false, func(a *attack) error {
			for range 10 {
				for _, other := range a.many.hosts() {
					a.many.net.Cut(a.nodes[0].name, other)
				}
				a.pause(40)
			}
			return nil
		}},
		driveFails("hanging reads", vfs.Rule{Ops: vfs.OpOpen | vfs.OpRead | vfs.OpStat | vfs.OpList, Hang: true}),
		driveFails("hanging changes", vfs.Rule{Ops: vfs.OpChange, Hang: true}),
		driveFails("hanging drive", vfs.Rule{Hang: true}),
		driveFails("slow drive", vfs.Rule{Delay: 20 * time.Millisecond}),
		driveFails("no space", vfs.Rule{Ops: spaceOps, Err: syscall.ENOSPC}),
	}
	twoNodes = []nemesis{
		{"two killed", 2, false, killNodes},
		{"two paused", 2, false, pauseNodes},
		{"two cut off", 2, false, partitionNodes(network.Lose, true, true)},
	}
	losing = []nemesis{
		{"emptied drive", 1, true, func(a *attack) error {
			mem, _ := a.nodes[0].disks()
			err := wipe(mem, a.drive())
			a.last()
			return err
		}},
		{"bit rot", 1, true, rot},
		driveLoses("EIO on reads", vfs.Rule{Ops: vfs.OpRead, Err: syscall.EIO}),
		driveLoses("EIO now and then", vfs.Rule{Ops: vfs.OpRead | vfs.OpWrite, Err: syscall.EIO, Times: 1}),
		driveLoses("EIO on sync", vfs.Rule{Ops: vfs.OpSync, Err: syscall.EIO, Times: 1}),
	}
	noNodes = []nemesis{
		{"gateway killed", 0, false, func(a *attack) error {
			g := a.gateway()
			g.kill()
			a.pause(200)
			return a.back(g.start)
		}},
		{"gateway paused", 0, false, func(a *attack) error { l, _ := a.gateway().now(); return a.freeze(a.last, l) }},
		{"gateway without metadata", 0, false, func(a *attack) error {
			l, _ := a.gateway().now()
			if l == nil {
				return nil
			}
			l.line.set([]lineMode{lineDown, lineHangs}[a.rng.IntN(2)])
			a.many.ledger.isolate(l, true)
			a.last()
			a.many.ledger.isolate(l, false)
			l.line.set(linePasses)
			return nil
		}},
		{"gateway without nodes", 0, false, func(a *attack) error {
			name := a.gateway().name
			for _, n := range a.many.nodes {
				a.many.net.Set(name, n.name, network.Lose)
			}
			a.last()
			for _, n := range a.many.nodes {
				a.many.net.Set(name, n.name, network.Pass)
			}
			return nil
		}},
		{"gateway on a slow network", 0, false, func(a *attack) error {
			name, d := a.gateway().name, time.Duration(5+a.rng.IntN(60))*time.Millisecond
			a.links(name, func(from, to string) { a.many.net.Delay(from, to, d) })
			a.last()
			a.links(name, func(from, to string) { a.many.net.Delay(from, to, 0) })
			return nil
		}},
		{"commits of unknown outcome", 0, false, func(a *attack) error {
			lines := a.lines()
			for _, l := range lines {
				l.set(lineFlaky)
			}
			a.last()
			for _, l := range lines {
				l.set(linePasses)
			}
			return nil
		}},
		{"leader killed", 0, false, func(a *attack) error {
			r := a.leading()
			r.kill()
			a.pause(600)
			return a.back(r.start)
		}},
		{"leader paused", 0, false, func(a *attack) error { return a.freeze(a.last, a.leading().current()) }},
		{"leader paused until another leads", 0, false, func(a *attack) error { return a.freeze(a.lastLong, a.leading().current()) }},
		{"leader without metadata", 0, false, func(a *attack) error {
			l := a.leading().current()
			if l == nil {
				return nil
			}
			l.line.set([]lineMode{lineDown, lineHangs}[a.rng.IntN(2)])
			a.last()
			l.line.set(linePasses)
			return nil
		}},
		{"leader cut off", 0, false, func(a *attack) error {
			name := a.leading().name
			a.links(name, func(from, to string) { a.many.net.Set(from, to, network.Lose) })
			a.last()
			a.links(name, func(from, to string) { a.many.net.Set(from, to, network.Pass) })
			return nil
		}},
		{"clocks jump", 0, false, clocksJump},
	}
	// unseen are those that gateways and repairers see in different ways.
	unseen = []nemesis{
		{"lost to the repairers", 1, false, lostToRepairers},
	}
	// beyond is more than the cluster is made to bear: what cannot be read must
	// not be lied about, and all is back when they are.
	beyond = []nemesis{
		{"three killed", 3, false, killNodes},
		{"three paused", 3, false, pauseNodes},
		{"three cut off", 3, false, partitionNodes(network.Lose, true, true)},
	}
)

// clocksJump moves the clocks of some machines, forwards or back, again and
// again; where they are in the end they stay.
func clocksJump(a *attack) error {
	for range 1 + a.rng.IntN(4) {
		for _, host := range a.many.hosts() {
			if a.rng.IntN(3) == 0 {
				a.many.machine(host).Jump(wrongBy(a.rng))
			}
		}
		a.last()
	}
	return nil
}

// wrongBy is how wrong a clock is: no two so much that signatures are refused.
func wrongBy(rng *rand.Rand) time.Duration {
	return time.Duration(rng.Int64N(int64(80*time.Minute))) - 40*time.Minute
}

// back starts a process again, for as long as that may take in the midst of
// other faults.
func (o *ordeal) back(start func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return until(ctx, func() error { return start(ctx) })
}

func killNodes(a *attack) error {
	for _, n := range a.nodes {
		n.kill(a.rng)
	}
	a.last()
	for _, n := range a.nodes {
		if err := a.back(n.start); err != nil {
			return err
		}
	}
	return nil
}

// killMidway has a node die and come back between two stripes of a write. What
// it had of the first and had not synced is gone.
func killMidway(a *attack) (err error) {
	var killed sync.WaitGroup
	killed.Add(1)
	midway := sync.OnceFunc(func() {
		defer killed.Done()
		a.pause(8) // what was sent arrives
		a.nodes[0].kill(a.rng)
		err = a.back(a.nodes[0].start)
		a.pause(200) // and is known to be back
	})
	a.client.midway.Store(&midway)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	id := a.rng.Uint64()
	key, p := fmt.Sprintf("midway/%d", id), load.Payload(id, 9<<20) // nobody overwrites it
	if a.client.Put(ctx, key, p) == nil {
		a.races.won(key, p)
	}
	a.client.midway.Store(nil)
	midway() // where the write never came so far
	killed.Wait()
	return err
}

func (a *attack) freeze(wait func(), lives ...*life) error {
	for _, l := range lives {
		if l != nil {
			l.freeze()
		}
	}
	wait()
	for _, l := range lives {
		if l != nil {
			l.thaw()
		}
	}
	return nil
}

func pauseNodes(a *attack) error {
	var lives []*life
	for _, n := range a.nodes {
		lives = append(lives, n.current())
	}
	return a.freeze(a.last, lives...)
}

// links calls f for each link from and to a host.
func (o *ordeal) links(name string, f func(from, to string)) {
	for _, other := range o.many.hosts() {
		if other != name {
			f(name, other)
			f(other, name)
		}
	}
}

// partitionNodes cuts nodes off from all others, in one direction or both.
func partitionNodes(m network.Mode, in, out bool) func(a *attack) error {
	return func(a *attack) error {
		set := func(m network.Mode) {
			for _, n := range a.nodes {
				a.links(n.name, func(from, to string) {
					if in && to == n.name || out && from == n.name {
						a.many.net.Set(from, to, m)
					}
				})
			}
		}
		set(m)
		a.last()
		set(network.Pass)
		return nil
	}
}

// lostToRepairers has the repairers give up a node that the gateways go on to
// write to: its slots move under their hands.
func lostToRepairers(a *attack) error {
	set := func(m network.Mode) {
		for _, r := range a.many.repairers {
			a.many.net.Set(r.name, a.nodes[0].name, m)
			a.many.net.Set(a.nodes[0].name, r.name, m)
		}
	}
	set(network.Lose)
	a.lastLong()
	set(network.Pass)
	return nil
}

// between cuts two hosts off from each other in some way.
func (a *attack) between(x, y string) error {
	m := []network.Mode{network.Lose, network.Silent, network.Refuse}[a.rng.IntN(3)]
	a.many.net.Set(x, y, m)
	if a.rng.IntN(2) == 0 {
		a.many.net.Set(y, x, m)
	}
	a.last()
	a.many.net.Set(x, y, network.Pass)
	a.many.net.Set(y, x, network.Pass)
	return nil
}

// lines are those of some processes to the metadata.
func (a *attack) lines() []*line {
	var all []*line
	for _, g := range a.many.gateways {
		if l, _ := g.now(); l != nil {
			all = append(all, l.line)
		}
	}
	for _, r := range a.many.repairers {
		if l := r.current(); l != nil {
			all = append(all, l.line)
		}
	}
	a.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:1+a.rng.IntN(len(all))]
}

// drive is one directory of the attacked node.
func (a *attack) drive() string { return a.nodes[0].dirs[a.rng.IntN(len(a.nodes[0].dirs))] }

func driveFails(name string, rule vfs.Rule) nemesis {
	return nemesis{name, 1, false, func(a *attack) error {
		_, fault := a.nodes[0].disks()
		rule := rule // two may suffer the same at once
		rule.Path = a.drive() + "/"
		if rule.Times > 0 {
			rule.Skip = a.rng.IntN(20)
		}
		i := fault.Inject(rule)
		a.last()
		i.Release()
		return nil
	}}
}

// driveLoses is driveFails for faults that may break a drive for good; it is
// emptied then, as an operator would do.
func driveLoses(name string, rule vfs.Rule) nemesis {
	fails := driveFails(name, rule)
	fails.loses = true
	do := fails.do
	fails.do = func(a *attack) error {
		if err := do(a); err != nil {
			return err
		}
		return a.renew(a.nodes[0])
	}
	return fails
}

// renew has all drives of a node in service again, emptying those that are
// broken.
func (o *ordeal) renew(n *storageNode) error {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	return until(ctx, func() error {
		nd := n.now()
		if nd == nil {
			return fmt.Errorf("%s is dead", n.name)
		}
		mem, _ := n.disks()
		for _, d := range nd.Reports() {
			switch d.State {
			case storagenode.DriveActive:
			case storagenode.DriveBroken:
				o.logger().Info("broken drive is emptied", "dir", d.Dir, "reason", d.Reason)
				if err := wipe(mem, d.Dir); err != nil {
					return err
				}
				fallthrough
			default:
				return fmt.Errorf("%s is %s: %s", d.Dir, d.State, d.Reason)
			}
		}
		return nil
	})
}

// rot flips bits in the records of a drive.
func rot(a *attack) error {
	mem, _ := a.nodes[0].disks()
	dir := a.drive() + "/segments"
	names, err := mem.List(dir)
	if err != nil || len(names) == 0 {
		return nil // just being formatted
	}
	for range 8 {
		path := dir + "/" + names[a.rng.IntN(len(names))]
		st, err := mem.Stat(path)
		if err != nil || st.Size <= 4096 || strings.HasSuffix(path, ".tmp") {
			continue
		}
		for range 40 {
			err := vfs.FlipBit(mem, path, 4096+a.rng.Int64N(st.Size-4096), a.rng.IntN(8))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil // compacted away, or the power was cut
			}
		}
	}
	a.last()
	return nil
}
